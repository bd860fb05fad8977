"""Bytes come when they are read, once, and make room for others; what is here works offline."""

import errno
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.support import s3
from tests.support.calls import refuses
from tests.support.mounts import Mount, mounting, wait_until
from tests.support.proxy import Fault, Proxy, What
from tests.support.servers import S3Server

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CEILING = 64 * MIB
# Whole blocks of the file system, directories, and what is booked before it is written.
SLACK = 4 * MIB


class Cloud:
    """A bucket behind a proxy that counts, and mounts of it."""

    def __init__(self, server: S3Server, proxy: Proxy, home: Path) -> None:
        self.server = server
        self.proxy = proxy
        self.bucket = server.make_bucket()
        self._client = server.client()
        self._home = home

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def body(self, key: str) -> bytes:
        return s3.body(self.server, self.bucket, key)

    def names(self) -> set[str]:
        return {key for key in s3.objects(self.server, self.bucket) if not key.endswith("/")}

    def mounting(self, *options: str) -> AbstractContextManager[Mount]:
        return mounting(
            self._home / "m",
            f"s3://{self.bucket}",
            f"endpoint={self.proxy.endpoint_url}",
            *options,
            env=self.server.environment(),
        )

    def fetched(self, key: str) -> int:
        """Bytes of this object that came through the proxy."""
        return self.proxy.counters.reply_bytes("GET", f"/{self.bucket}/{key}")

    def gets(self, key: str) -> int:
        return self.proxy.counters.count("GET", f"/{self.bucket}/{key}")


@pytest.fixture
def cloud(seaweedfs: S3Server, tmp_path: Path) -> Iterator[Cloud]:
    with Proxy(seaweedfs.port) as proxy:
        yield Cloud(seaweedfs, proxy, tmp_path)


def _bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def _put_gigabyte(cloud: Cloud, key: str, part: bytes) -> None:
    client, bucket = cloud.server.client(), cloud.bucket
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    parts: list[dict[str, object]] = []
    for number in range(1, GIB // len(part) + 1):
        done = client.upload_part(
            Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=part
        )
        parts.append({"PartNumber": number, "ETag": done["ETag"]})
    client.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
    )


# -- fetching ----------------------------------------------------------------------------------


def test_a_little_of_a_large_object_moves_little(cloud: Cloud) -> None:
    part = _bytes(64 * MIB)
    _put_gigabyte(cloud, "large", part)
    with cloud.mounting() as mount:
        path = mount.path / "large"
        assert path.stat().st_size == GIB
        cloud.proxy.reset_counters()
        with path.open("rb", buffering=0) as file:
            assert os.pread(file.fileno(), MIB, GIB // 2 + 12_345) == part[12_345 : 12_345 + MIB]
        # What was still under way when the reader had enough counts as well.
        assert mount.unmount() == 0
    assert cloud.fetched("large") >= MIB
    assert cloud.proxy.counters.bytes_down < 8 * MIB


_READER = (
    "import mmap,os,sys\nfd=os.open(sys.argv[1],os.O_RDONLY|os.O_DIRECT)\n"
    "page=mmap.mmap(-1,262144)\nprint('ready',flush=True)\n"
    "got=os.preadv(fd,[page],int(sys.argv[2]))\nsys.stdout.buffer.write(page[:got])"
)


def test_two_readers_of_one_cold_range_cause_one_request(cloud: Cloud) -> None:
    content = _bytes(512 * KIB)
    cloud.put("cold", content)
    with cloud.mounting() as mount:
        assert (mount.path / "cold").stat().st_size == len(content)
        cloud.proxy.reset_counters()
        cloud.proxy.set_fault(Fault(What.STALL_REPLY, "GET", "cold", after_bytes=4096))
        # Past the page cache: every read reaches csyncfs.
        starts = (0, 0, 128 * KIB)
        readers = [_start_reader(mount.path / "cold", starts[0])]
        assert cloud.proxy.stalled.wait(30)
        readers += [_start_reader(mount.path / "cold", start) for start in starts[1:]]
        cloud.proxy.release()
        for reader, start in zip(readers, starts, strict=True):
            assert reader.communicate(timeout=30)[0] == content[start : start + 256 * KIB]
    assert cloud.gets("cold") == 1
    assert cloud.fetched("cold") == len(content)


def _start_reader(path: Path, start: int) -> "subprocess.Popen[bytes]":
    """A process that reads 256 KiB and waits for them."""
    reader = subprocess.Popen(
        [sys.executable, "-c", _READER, str(path), str(start)], stdout=subprocess.PIPE
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"ready\n"
    wait_until(lambda: _sleeps(reader.pid), "the reader waits for its bytes")
    return reader


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "SD"


def test_every_byte_of_a_sequential_read_moves_once(cloud: Cloud) -> None:
    content = _bytes(64 * MIB)
    cloud.put("film", content)
    with cloud.mounting() as mount:
        with (mount.path / "film").open("rb") as file:
            assert all(
                file.read(MIB) == content[start : start + MIB]
                for start in range(0, len(content), MIB)
            )
            assert file.read(1) == b""
        assert cloud.fetched("film") == len(content)
        assert (mount.path / "film").read_bytes() == content
        assert mount.unmount() == 0
        mount.start()
        assert (mount.path / "film").read_bytes() == content
    assert cloud.fetched("film") == len(content)


def test_a_reply_that_breaks_off_is_gone_on_with(cloud: Cloud) -> None:
    content = _bytes(3 * MIB)
    cloud.put("f", content)
    with cloud.mounting() as mount:
        cloud.proxy.set_fault(Fault(What.CUT_REPLY, "GET", "/f", times=2, after_bytes=300_000))
        assert (mount.path / "f").read_bytes() == content


# -- the ceiling --------------------------------------------------------------------------------


@contextmanager
def _watched(mount: Mount) -> Generator[Callable[[], int]]:
    """Look at the disk all the time; the most that content took so far."""
    most = 0
    stop = threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.is_set():
            most = max(most, _disk_bytes(mount))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: most
    finally:
        stop.set()
        thread.join()


def _disk_bytes(mount: Mount) -> int:
    # By inode: a file that settles goes from one place to the other meanwhile.
    sizes: dict[int, int] = {}
    for place in (mount.home / "cache", mount.home / "state"):
        for directory, _, names in os.walk(place):
            if not {"content", "dirty"} & set(Path(directory).parts):
                continue
            for name in names:
                try:
                    found = os.lstat(os.path.join(directory, name))
                except FileNotFoundError:
                    continue
                sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def _cached(mount: Mount) -> dict[str, int]:
    """Bytes of each file that are here, as csyncfs-admin tells."""
    rows = msgspec.json.decode(mount.admin("--json", "cache", "ls"))
    return {row["path"]: row["present_bytes"] for row in rows if row["present_bytes"]}


def test_the_cache_keeps_to_its_ceiling(cloud: Cloud) -> None:
    contents = {f"f{i}": _bytes(25 * MIB, i) for i in range(8)}
    for name, content in contents.items():
        cloud.put(name, content)
    with (
        cloud.mounting(f"cache_size={CEILING}", "min_free=0") as mount,
        _watched(mount) as most,
    ):
        kept_open = [(mount.path / name).open("rb") for name in contents]
        for name, content in contents.items():
            assert (mount.path / name).read_bytes() == content
        for file in kept_open:
            file.close()
        assert sum(_cached(mount).values()) <= CEILING
    assert CEILING // 2 < most() <= CEILING + SLACK


def test_one_file_may_be_larger_than_the_cache(cloud: Cloud) -> None:
    content = _bytes(160 * MIB)
    cloud.put("large", content)
    with (
        cloud.mounting(f"cache_size={CEILING}", "min_free=0") as mount,
        _watched(mount) as most,
        (mount.path / "large").open("rb", buffering=0) as file,
    ):
        fd = file.fileno()
        forwards = range(0, len(content), MIB)
        rng = random.Random(1)
        anywhere = [rng.randrange(len(content) - MIB) for _ in range(60)]
        for starts in (forwards, reversed(forwards), anywhere):
            for start in starts:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(fd, MIB, start) == content[start : start + MIB]
        assert cloud.fetched("large") < 5 * len(content)
    assert most() <= CEILING + SLACK


def test_what_was_not_uploaded_is_never_evicted(cloud: Cloud) -> None:
    cold = {f"cold{i}": _bytes(20 * MIB, i) for i in range(6)}
    for name, content in cold.items():
        cloud.put(name, content)
    options = (f"cache_size={CEILING}", "min_free=0", "upload_delay=1h", "drain=0")
    with cloud.mounting(*options) as mount, _watched(mount) as most:
        dirty = {f"dirty{i}": _bytes(5 * MIB, 100 + i) for i in range(6)}
        for name, content in dirty.items():
            (mount.path / name).write_bytes(content)
        edited = mount.path / "cold0"
        with edited.open("r+b") as file:
            file.write(b"edited here")
        for name, content in list(cold.items())[1:]:
            assert (mount.path / name).read_bytes() == content
        for name, content in dirty.items():
            assert (mount.path / name).read_bytes() == content
        assert edited.read_bytes() == b"edited here" + cold["cold0"][11:]
        assert cloud.names() == set(cold)
        assert mount.unmount() == 0
        mount.wipe_cache()
        mount.start()
        for name, content in dirty.items():
            assert (mount.path / name).read_bytes() == content
        mount.flush()
        for name, content in dirty.items():
            assert cloud.body(name) == content
        assert cloud.body("cold0") == b"edited here" + cold["cold0"][11:]
    assert most() <= CEILING + SLACK


def test_unlinked_open_files_are_never_evicted(cloud: Cloud) -> None:
    for i in range(8):
        cloud.put(f"f{i}", _bytes(15 * MIB, i))
    with (
        cloud.mounting(f"cache_size={CEILING}", "min_free=0", "upload_delay=0") as mount,
        (mount.path / "f0").open("rb", buffering=0) as file,
    ):
        assert file.read(MIB) == _bytes(15 * MIB, 0)[:MIB]
        (mount.path / "f0").unlink()
        mount.flush()
        assert "f0" not in cloud.names()
        for i in range(1, 8):
            assert (mount.path / f"f{i}").read_bytes() == _bytes(15 * MIB, i)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        assert file.readall() == _bytes(15 * MIB, 0)


def test_writers_are_slowed_down_not_refused(cloud: Cloud) -> None:
    contents = {f"f{i:02}": _bytes(8 * MIB, i) for i in range(24)}
    options = (f"cache_size={CEILING}", "min_free=0", "upload_delay=0", "uploads=2")
    with cloud.mounting(*options) as mount, _watched(mount) as most:
        cloud.proxy.latency_s = 0.2
        for name, content in contents.items():
            (mount.path / name).write_bytes(content)
        cloud.proxy.latency_s = 0.0
        mount.flush()
    assert most() <= CEILING + SLACK
    for name, content in contents.items():
        assert cloud.body(name) == content


def test_the_order_of_eviction_survives_a_remount(cloud: Cloud) -> None:
    for name in "abcd":
        cloud.put(name, _bytes(15 * MIB, ord(name)))
    with cloud.mounting(f"cache_size={CEILING}", "min_free=0") as mount:
        for name in "badc":
            assert (mount.path / name).read_bytes() == _bytes(15 * MIB, ord(name))
        assert mount.unmount() == 0
        cloud.put("e", _bytes(10 * MIB, 1))
        mount.start("refresh=0")
        assert set(_cached(mount)) == set("abcd")
        cloud.proxy.reset_counters()
        mount.refresh_wait((mount.path / "e").exists, "the new object shows")
        assert (mount.path / "e").read_bytes() == _bytes(10 * MIB, 1)
        assert set(_cached(mount)) == set("acde")
        for name in "acd":
            assert (mount.path / name).read_bytes() == _bytes(15 * MIB, ord(name))
            assert cloud.gets(name) == 0


# -- offline ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stopped", "silent"])
def test_without_the_server_all_goes_on_that_can(cloud: Cloud, way: str) -> None:
    server = cloud.server
    with cloud.mounting("timeout=5", "upload_delay=0", "drain=0", "refresh=1") as mount:
        _make_tree(mount)
        listing = _ls(mount.path)
        mount.admin("cache", "evict", str(mount.path / "d1" / "f1"))
        assert mount.unmount() == 0
        server.stop() if way == "stopped" else server.pause()
        try:
            began = time.monotonic()
            mount.start()
            assert time.monotonic() - began < 20
            assert _ls(mount.path) == listing
            _work_offline(mount.path)
            _reads_fail_in_time(mount.path / "d1" / "f1")
            told = mount.admin("flush", "--timeout", "1", check=False)
            assert re.search(r"still to send: .*(cannot be reached|broke|not answer)", told), told
        finally:
            server.start() if way == "stopped" else server.resume()
        # By itself, within the pauses between its tries.
        wait_until(lambda: "new/file" in cloud.names(), "the new file is uploaded", 60)
        wait_until(lambda: "renamed" in cloud.names(), "the rename follows", 60)
        mount.flush()
        assert cloud.body("new/file") == b"made offline"
        assert cloud.body("d0/f0") == b"edited offline"
        assert (mount.path / "d1" / "f1").read_bytes() == b"d1/f1" * 1000
        assert {"d2/f0", "d2/f2"}.isdisjoint(cloud.names())


def _make_tree(mount: Mount) -> None:
    for i in range(3):
        (mount.path / f"d{i}").mkdir()
        for j in range(3):
            (mount.path / f"d{i}" / f"f{j}").write_bytes(f"d{i}/f{j}".encode() * 1000)
    (mount.path / "link").symlink_to("d0/f0")
    mount.flush()


def _ls(path: Path) -> str:
    command = ["ls", "-lR", "--time-style=full-iso"]
    return subprocess.run(
        command, cwd=path, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def _work_offline(root: Path) -> None:
    assert os.statvfs(root).f_namemax == 255
    assert (root / "d0" / "f1").read_bytes() == b"d0/f1" * 1000
    (root / "new").mkdir()
    (root / "new" / "file").write_bytes(b"made offline")
    (root / "d0" / "f0").write_bytes(b"edited offline")
    (root / "d2" / "f0").unlink()
    (root / "d2" / "f2").rename(root / "renamed")
    assert (root / "renamed").read_bytes() == b"d2/f2" * 1000


def _reads_fail_in_time(path: Path) -> None:
    began = time.monotonic()
    with path.open("rb", buffering=0) as file:
        refuses(errno.ETIMEDOUT, file.read, 100)
    # The deadline is 5 s; the rest is for a busy machine.
    assert time.monotonic() - began < 20
