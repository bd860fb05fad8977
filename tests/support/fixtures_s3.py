"""Session fixtures: each server starts once, when the first test asks for it."""

import os
from collections.abc import Iterator
from typing import TypeVar

import pytest

from tests.support.azurite import Azurite
from tests.support.gcs import FakeGcs
from tests.support.servers import (
    Ceph,
    Moto,
    NotInstalled,
    Rclone,
    S3Server,
    SeaweedFS,
    Server,
    Swift,
)

S = TypeVar("S", bound=Server)


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _running(SeaweedFS, tmp_path_factory)


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _running(Rclone, tmp_path_factory)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _running(Moto, tmp_path_factory)


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A cluster of system packages, and the slowest of all: ``make ceph`` has the tests on it."""
    if os.environ.get("CSYNCFS_TEST_CEPH") != "1":
        pytest.skip("make ceph runs this")
    yield from _running(Ceph, tmp_path_factory)


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Slow, and asked for its verdict only."""
    if os.environ.get("CSYNCFS_TEST_SWIFT") != "1":
        pytest.skip("make dialects runs this")
    yield from _running(Swift, tmp_path_factory)


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    yield from _running(Azurite, tmp_path_factory)


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[FakeGcs]:
    fake = FakeGcs().start()
    yield fake
    fake.stop()


def _running(kind: type[S], places: pytest.TempPathFactory) -> Iterator[S]:
    server = kind(places.mktemp(kind.name) / "data")
    try:
        server.start()
    except NotInstalled as exc:
        if kind is Azurite:
            # Not every machine gets packages of npm: the Makefile has said so.
            pytest.skip(str(exc))
        pytest.fail(str(exc), pytrace=False)
    try:
        yield server
    finally:
        server.stop()
