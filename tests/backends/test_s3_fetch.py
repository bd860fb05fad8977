"""Ranged downloads: what is written, and what no longer is."""

import itertools
import os
from pathlib import Path

import pytest
import trio

from csyncfs.backends.landing import Gate
from csyncfs.backends.s3 import S3Backend, fetching
from csyncfs.errors import FsError, NotFound, Offline, VersionMismatch
from csyncfs.types import Location, RemoteVersion, Span
from tests.backends.conftest import SERVERS
from tests.support.proxy import Fault, Proxy, What
from tests.support.s3 import connected, options_for
from tests.support.servers import S3Server
from tests.support.uploads import Content, put
from tests.support.verdicts import VERDICTS

KEY = "mounted/here/file"
MIB = 1 << 20
DATA = os.urandom(6 * MIB + 77)


def _upload(server: S3Server, bucket: str, data: bytes = DATA) -> RemoteVersion:
    tag = server.client().put_object(Bucket=bucket, Key=KEY, Body=data)["ETag"]
    return RemoteVersion(tag.strip('"'), len(data), 0)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT)


@pytest.mark.parametrize("s3_server", SERVERS, indirect=True)
async def test_exactly_the_span_is_written_and_announced_in_order(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    version = _upload(s3_server, bucket)
    fd = _open(tmp_path / "content")
    landed: list[Span] = []
    span = Span(1000, 5 * MIB + 3)
    async with connected(options_for(s3_server, bucket)) as backend:
        item = await backend.fetch(Location("file"), span, fd, version, landed.append)

    assert item.version is not None
    assert item.version.tag == version.tag
    assert item.version.size == len(DATA)
    assert landed[0].start == span.start
    assert landed[-1].end == span.end
    assert all(a.end == b.start for a, b in itertools.pairwise(landed))
    assert max(one.size_bytes for one in landed) <= MIB
    assert os.pread(fd, 1000, 0) == bytes(1000)
    assert os.pread(fd, 6 * MIB, 1000) == DATA[1000 : span.end]


@pytest.mark.parametrize("s3_server", SERVERS, indirect=True)
async def test_another_version_is_refused_and_writes_nothing(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    version = _upload(s3_server, bucket)
    _upload(s3_server, bucket, DATA[::-1])
    fd = _open(tmp_path / "content")
    landed: list[Span] = []
    async with connected(options_for(s3_server, bucket)) as backend:
        with pytest.raises(VersionMismatch):
            await backend.fetch(Location("file"), Span(0, 10), fd, version, landed.append)

    assert landed == []
    assert os.fstat(fd).st_size == 0


@pytest.mark.parametrize("s3_server", SERVERS, indirect=True)
async def test_a_version_that_became_shorter_is_another_version(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    version = _upload(s3_server, bucket)
    _upload(s3_server, bucket, b"short")
    fd = _open(tmp_path / "content")
    async with connected(options_for(s3_server, bucket)) as backend:
        with pytest.raises(VersionMismatch):
            await backend.fetch(Location("file"), Span(MIB, 2 * MIB), fd, version, _ignore)


def _ignore(_: Span) -> None:
    pass


async def test_what_is_gone_is_not_found(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    version = RemoteVersion("0" * 32, 10, 0)
    fd = _open(tmp_path / "content")
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as backend:
        with pytest.raises(NotFound):
            await backend.fetch(Location("file"), Span(0, 10), fd, version, _ignore)


async def test_an_empty_span_still_checks_the_version(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    version = _upload(s3_server, bucket, b"")
    fd = _open(tmp_path / "content")
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as backend:
        item = await backend.fetch(Location("file"), Span(0, 0), fd, version, _ignore)
        _upload(s3_server, bucket, b"more")
        with pytest.raises(VersionMismatch):
            await backend.fetch(Location("file"), Span(0, 0), fd, version, _ignore)

    assert item.version is not None
    assert item.version.tag == version.tag


class _Stalled:
    """A fetch of the whole object that stops in the middle."""

    def __init__(self, server: S3Server, bucket: str, proxy: Proxy, after_bytes: int) -> None:
        self.version = _upload(server, bucket)
        self.landed: list[Span] = []
        self.has_landed = trio.Event()
        self.options = options_for(server, bucket, endpoint_url=proxy.endpoint_url)
        proxy.set_fault(Fault(What.STALL_REPLY, "GET", "here/file", after_bytes=after_bytes))

    def note(self, span: Span) -> None:
        self.landed.append(span)
        self.has_landed.set()


async def test_after_cancellation_nothing_is_written_any_more(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    fd = _open(tmp_path / "content")
    with Proxy(s3_server.port) as proxy:
        stalled = _Stalled(s3_server, bucket, proxy, 3 * MIB + 500)
        backend = S3Backend(stalled.options, VERDICTS["seaweedfs"])
        await backend.connect()

        async with trio.open_nursery() as nursery:

            async def fetch() -> None:
                span = Span(0, len(DATA))
                await backend.fetch(Location("file"), span, fd, stalled.version, stalled.note)

            nursery.start_soon(fetch)
            with trio.fail_after(20):
                await stalled.has_landed.wait()
                await trio.to_thread.run_sync(proxy.stalled.wait)
            begun = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - begun < 1

        announced = len(stalled.landed)
        os.ftruncate(fd, 0)
        proxy.release()
        # The lane's slots are free again only when the thread left behind has ended.
        await _wait_for_idle_lane(backend)
        assert os.fstat(fd).st_size == 0
        assert len(stalled.landed) == announced


async def _wait_for_idle_lane(backend: S3Backend) -> None:
    wire = backend._wire  # pyright: ignore[reportPrivateUsage]
    assert wire is not None
    with trio.fail_after(10):
        await wire.fetches.wait_idle()


async def test_hanging_up_after_the_last_byte_is_nothing(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    version = _upload(s3_server, bucket, b"nine byte")
    fd = _open(tmp_path / "content")
    body = s3_server.client().get_object(Bucket=bucket, Key=KEY)["Body"]
    gate = Gate(fd, _ignore)
    gate.receive_from(fetching.hanging_up(body))
    gate.write(body.read(version.size + 1), 0)  # the connection went back to the pool
    gate.shut()

    assert os.pread(fd, 100, 0) == b"nine byte"


async def test_a_stalled_download_ends_by_itself(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    fd = _open(tmp_path / "content")
    version = _upload(s3_server, bucket)
    with Proxy(s3_server.port) as proxy:
        url = proxy.endpoint_url
        options = options_for(s3_server, bucket, endpoint_url=url, read_timeout_s=0.5)
        backend = S3Backend(options, VERDICTS["seaweedfs"])
        await backend.connect()
        proxy.set_fault(Fault(What.STALL_REPLY, "GET", "here/file", after_bytes=2 * MIB))
        landed: list[Span] = []
        span = Span(0, len(DATA))

        with trio.fail_after(20), pytest.raises(Offline):
            await backend.fetch(Location("file"), span, fd, version, landed.append)

    assert all(os.pread(fd, s.size_bytes, s.start) == DATA[s.start : s.end] for s in landed)


async def test_a_connection_reset_in_the_middle_keeps_what_has_landed(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    fd = _open(tmp_path / "content")
    version = _upload(s3_server, bucket)
    with Proxy(s3_server.port) as proxy:
        options = options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url)
        backend = S3Backend(options, VERDICTS["seaweedfs"])
        await backend.connect()
        proxy.set_fault(Fault(What.CUT_REPLY, "GET", "here/file", after_bytes=3 * MIB + 5))
        landed: list[Span] = []
        span = Span(0, len(DATA))

        with pytest.raises(Offline):
            await backend.fetch(Location("file"), span, fd, version, landed.append)

    assert all(os.pread(fd, s.size_bytes, s.start) == DATA[s.start : s.end] for s in landed)


async def test_a_local_disk_error_is_told_as_such(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    version = _upload(s3_server, bucket)
    (tmp_path / "content").touch()
    fd = os.open(tmp_path / "content", os.O_RDONLY)
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as backend:
        with pytest.raises(FsError):
            await backend.fetch(Location("file"), Span(0, 10), fd, version, _ignore)


async def test_a_stalled_reader_does_not_stop_uploads(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    fd = _open(tmp_path / "content")
    with Proxy(s3_server.port) as proxy:
        stalled = _Stalled(s3_server, bucket, proxy, 0)
        for _ in range(7):
            proxy.set_fault(Fault(What.STALL_REPLY, "GET", "here/file"))
        backend = S3Backend(stalled.options, VERDICTS["seaweedfs"])
        await backend.connect()
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(
                    backend.fetch, Location("file"), Span(0, 9), fd, stalled.version, _ignore
                )
            with trio.fail_after(20):
                await trio.to_thread.run_sync(proxy.stalled.wait)
                await put(backend, "other", Content(tmp_path / "c", b"x"))
            nursery.cancel_scope.cancel()
