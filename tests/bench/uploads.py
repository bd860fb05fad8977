"""The independent load: another program uploads small files to the same server.

``python -m tests.bench.uploads ENDPOINT BUCKET COUNT RATE``, credentials as the AWS chain
finds them. Says ``ready``, waits for a line, uploads at most RATE files a second, says how
many seconds it took.
"""

import os
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

import boto3
from botocore.config import Config

from tests.bench.cloud import Cloud


def main() -> None:
    endpoint, bucket, count, rate = sys.argv[1:]
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
    files = ((f"load/{i:05}", content) for i in range(int(count)))
    Cloud(client, bucket).put_all(_paced(files, float(rate)))
    print(time.monotonic() - begin, flush=True)


def _paced(files: Iterator[tuple[str, bytes]], rate: float) -> Iterator[tuple[str, bytes]]:
    begin = time.monotonic()
    for i, file in enumerate(files):
        time.sleep(max(0.0, begin + i / rate - time.monotonic()))
        yield file


if __name__ == "__main__":
    main()
