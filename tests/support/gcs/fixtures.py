"""Fixtures of the tests on the fake: a bucket, a backend that is let in, content to upload."""

from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import pytest

from csyncfs.backends.gcs import GcsBackend
from tests.support.gcs.server import FakeGcs
from tests.support.gcs.store import Bucket
from tests.support.gcs.using import connected, options_for
from tests.support.uploads import Content


@pytest.fixture
def gcs_bucket(gcs: FakeGcs) -> Bucket:
    return gcs.make_bucket()


@pytest.fixture
def gcs(fake_gcs: FakeGcs) -> Iterator[FakeGcs]:
    """The fake; every fault a test asks for has to strike."""
    fake_gcs.seen.clear()
    yield fake_gcs
    left = [fault for fault in fake_gcs.faults if fault.times]
    fake_gcs.faults.clear()
    assert left == [], "a fault that was asked for never struck"


@pytest.fixture
async def gcs_backend(
    gcs: FakeGcs, gcs_bucket: Bucket, tmp_path: Path
) -> AsyncGenerator[GcsBackend, None]:
    key = gcs.write_key(tmp_path / "key.json")
    options = options_for(gcs, gcs_bucket.name, credentials_file=str(key), prefix="")
    async with connected(options) as backend:
        yield backend


@pytest.fixture
def make_content(tmp_path: Path) -> Iterator[Callable[[bytes], Content]]:
    made: list[Content] = []

    def make(data: bytes) -> Content:
        made.append(Content(tmp_path / f"content-{len(made)}", data))
        return made[-1]

    yield make
    for one in made:
        one.close()
