"""S3 backends on test servers, and the other program that works on the same bucket."""

import os
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from csyncfs.backends.base import Source, Writing
from csyncfs.backends.s3 import S3Backend, S3Options, Verdict
from csyncfs.types import ABSENT, Attributes, Expect, Item, Location
from tests.support.servers import S3Server


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


@asynccontextmanager
async def connected(
    options: S3Options, verdict: Verdict | None = None
) -> AsyncGenerator[S3Backend]:
    backend = S3Backend(options, verdict)
    await backend.connect()
    try:
        yield backend
    finally:
        await backend.aclose()


def writing(attributes: Attributes | None = None, put_id: str | None = None) -> Writing:
    return Writing(attributes or Attributes(), put_id or uuid.uuid4().hex, "testdevice")


class Content:
    """A file to upload, and what happened to the upload of it."""

    def __init__(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        self.fd = os.open(path, os.O_RDWR)
        self.is_confirmed = True
        self.confirmed = 0
        self.saved: list[str] = []
        self._size = len(data)

    @property
    def source(self) -> Source:
        return Source(self.fd, self._size, self._confirm)

    async def _confirm(self) -> bool:
        self.confirmed += 1
        return self.is_confirmed

    def close(self) -> None:
        os.close(self.fd)


async def put(
    backend: S3Backend,
    key: str,
    content: Content,
    expect: Expect = ABSENT,
    *,
    stamp: Writing | None = None,
    resume: str | None = None,
) -> Item:
    return await backend.put(
        Location(key),
        content.source,
        stamp or writing(),
        expect,
        resume=resume,
        save_resume=content.saved.append,
    )


def objects(server: S3Server, bucket: str) -> Mapping[str, int]:
    """Every key of the bucket with its size, as another program lists it."""
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", ())}


def body(server: S3Server, bucket: str, key: str) -> bytes:
    return server.client().get_object(Bucket=bucket, Key=key)["Body"].read()
