"""S3 backends on test servers, and the other program that works on the same bucket."""

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from csyncfs.backends.s3 import S3Backend, S3Options, Verdict
from tests.support.servers import S3Server
from tests.support.uploads import connected_to


def use_credentials(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process in, through the AWS chain's environment and nothing else of it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


def options_for(server: S3Server, bucket: str, **changed: Any) -> S3Options:
    values: dict[str, Any] = {
        "bucket": bucket,
        "prefix": "mounted/here",
        "endpoint_url": server.endpoint_url,
        "region": server.region,
        **changed,
    }
    return S3Options(**values)


def connected(
    options: S3Options, verdict: Verdict | None = None
) -> AbstractAsyncContextManager[S3Backend]:
    return connected_to(S3Backend(options, verdict))


def objects(server: S3Server, bucket: str) -> Mapping[str, int]:
    """Every key of the bucket with its size, as another program lists it."""
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", ())}


def body(server: S3Server, bucket: str, key: str) -> bytes:
    return server.client().get_object(Bucket=bucket, Key=key)["Body"].read()
