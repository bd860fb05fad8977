"""Backends on the fake."""

import os
import uuid
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from csyncfs.backends.gcs import GcsBackend, GcsOptions
from tests.support.gcs.server import FakeGcs
from tests.support.uploads import connected_to

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


def connected(options: GcsOptions) -> AbstractAsyncContextManager[GcsBackend]:
    return connected_to(GcsBackend(options))


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
