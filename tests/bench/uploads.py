"""The independent load: another program uploads small files to the same server.

``python -m tests.bench.uploads ENDPOINT BUCKET COUNT``, credentials as the AWS chain finds
them. Says ``ready``, waits for a line, uploads, says how many seconds it took.
"""

import os
import sys
import time
from typing import Any, cast

import boto3
from botocore.config import Config

from tests.bench.cloud import Cloud


def main() -> None:
    endpoint, bucket, count = sys.argv[1:]
    client = cast("Any", boto3).client(
        "s3",
        endpoint_url=endpoint,
        config=Config(
            s3={"addressing_style": "path"},
            max_pool_connections=16,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    content = os.urandom(4096)
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.monotonic()
    Cloud(client, bucket).put_all((f"load/{i:05}", content) for i in range(int(count)))
    print(time.monotonic() - begin, flush=True)


if __name__ == "__main__":
    main()
