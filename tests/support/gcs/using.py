"""Backends on the fake."""

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from csyncfs.backends.base import Writing
from csyncfs.backends.gcs import GcsBackend, GcsOptions
from csyncfs.types import ABSENT, Attributes, Expect, Item, Location
from tests.support.gcs.server import FakeGcs
from tests.support.s3 import Content


def options_for(fake: FakeGcs, bucket: str, **changed: Any) -> GcsOptions:
    values: dict[str, Any] = {
        "bucket": bucket,
        "prefix": "mounted/here",
        "endpoint": fake.endpoint,
        "connect_timeout_s": 2.0,
        **changed,
    }
    return GcsOptions(**values)


@asynccontextmanager
async def connected(options: GcsOptions) -> AsyncGenerator[GcsBackend]:
    backend = GcsBackend(options)
    await backend.connect()
    try:
        yield backend
    finally:
        await backend.aclose()


def writing(attributes: Attributes | None = None, put_id: str | None = None) -> Writing:
    return Writing(attributes or Attributes(), put_id or uuid.uuid4().hex, "testdevice")


async def put(
    backend: GcsBackend,
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
