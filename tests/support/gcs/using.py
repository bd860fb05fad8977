"""Backends on the fake."""

import os
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from csyncfs.backends.base import Writing
from csyncfs.backends.gcs import GcsBackend, GcsOptions
from csyncfs.types import ABSENT, Attributes, Expect, Item, Location
from tests.support.gcs.server import FakeGcs
from tests.support.s3 import Content

LIVE_BUCKET: Final = "CSYNCFS_TEST_GCS_BUCKET"
"""Names a bucket of Google's that tests may write to, with the machine's credentials."""


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


def live_options() -> GcsOptions:
    """A prefix of its own in the bucket that the environment names."""
    return GcsOptions(os.environ[LIVE_BUCKET], prefix=f"csyncfs-test/{uuid.uuid4().hex}")


def clear(options: GcsOptions) -> None:
    """Remove everything below the prefix."""
    from csyncfs.backends.gcs.client import build, object_path

    client = build(options)
    try:
        while found := client.ask("GET", "/o", {"prefix": options.base}).get("items"):
            for one in found:
                client.ask("DELETE", object_path(one["name"]), {})
    finally:
        client.close()


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
