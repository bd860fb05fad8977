"""What may grow without end and does not: memory, descriptors, the store, the cache on disk.

The short run is a tenth or less of the numbers; CSYNCFS_LONG=1 makes a directory of 100,000
names, a store that knows 1,000,000 files, and objects past 5 GiB.
"""

import hashlib
import multiprocessing
import os
import random
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from tests.support import s3
from tests.support.calls import DirStream
from tests.support.length import IS_LONG
from tests.support.mounts import Mount, mounting
from tests.support.servers import S3Server

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

ENTRIES = 100_000 if IS_LONG else 2_000
KNOWN = 1_000_000 if IS_LONG else 10_000
PER_DIRECTORY = 1000
OPEN = 200 if IS_LONG else 40
READERS = 16 if IS_LONG else 4
CACHE = (64 if IS_LONG else 8) * MIB
# Larger than the cache, each of them.
LARGE = CACHE * 3 // 2

MOST_RSS = 200 * MIB
MOST_STORE_PER_FILE = 512
# Descriptors beside those of programs' files: store, sockets, pipes, content being fetched.
MORE_DESCRIPTORS = 150


# -- a directory that changes while it is listed ---------------------------------------------------


def test_names_that_stay_are_listed_once_whatever_happens_beside_them(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "d").mkdir(parents=True)
    stays = {f"stay-{n:06}" for n in range(ENTRIES)}
    for name in stays:
        (store / "d" / name).touch()
    with mounting(tmp_path / "m", f"file://{store}", "refresh=1", "upload_delay=60") as mount:
        directory = mount.path / "d"
        assert set(os.listdir(directory)) == stays
        stop = multiprocessing.Event()
        churning = multiprocessing.Process(target=_churn, args=(directory, stop))
        churning.start()
        try:
            until = time.monotonic() + (60 if IS_LONG else 1.5)
            while time.monotonic() < until:
                with DirStream(directory) as stream:
                    found = Counter(os.fsdecode(name) for name in stream.rest())
                assert [name for name, times in found.items() if times > 1] == []
                assert stays - found.keys() == set()
        finally:
            stop.set()
            churning.join(30)
        assert churning.exitcode == 0


def test_a_name_that_comes_back_and_names_that_change_end_in_one_listing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "d").mkdir(parents=True)
    many = 2_000
    for n in range(many):
        (store / "d" / f"first-{n:06}").touch()
    with mounting(tmp_path / "m", f"file://{store}", "refresh=1h") as mount:
        directory = mount.path / "d"
        with DirStream(directory) as stream:
            first = os.fsdecode(stream.read() or b"")
            (directory / first).unlink()
            (directory / "other").touch()
            (directory / "other").rename(directory / first)
            assert first not in [os.fsdecode(name) for name in stream.rest()]
            stream.rewind()
            assert [os.fsdecode(name) for name in stream.rest()].count(first) == 1
        with DirStream(directory) as stream:
            seen = 0
            while (name := stream.read()) is not None:
                seen += 1
                assert seen <= many, "what gets another name is told again, without end"
                (directory / os.fsdecode(name)).rename(directory / f"turn-{seen:06}")
            assert seen == many
        assert len(os.listdir(directory)) == many


def _churn(directory: Path, stop: Event) -> None:
    """Another process: make, rename (over others, too) and remove what need not stay."""
    rng = random.Random(1)
    turn = 0
    while not stop.is_set():
        turn += 1
        new = directory / f"brief-{turn}"
        new.touch()
        match rng.randrange(3):
            case 0:
                new.unlink()
            case 1:
                new.rename(directory / f"brief-{rng.randrange(turn + 1)}")
            case _:
                new.rename(directory / f"moved-{turn}")


# -- a store that knows many files -----------------------------------------------------------------


def test_memory_descriptors_store_and_cache_keep_within_bounds(
    seaweedfs: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = seaweedfs.make_bucket()
    large = _fill_bucket(seaweedfs, bucket)
    options = (
        *(f"endpoint={seaweedfs.endpoint_url}", "refresh=1h", "min_free=0"),
        f"cache_size={CACHE}",
    )
    env = dict(seaweedfs.environment())
    with mounting(tmp_path / "m", f"s3://{bucket}", *options, env=env) as mount:
        assert mount.unmount() == 0
        per_file = _fill_store(mount)
        mount.start()
        with _watched(mount) as most:
            # Walked by the kernel's own means: each name is asked for, and all are remembered.
            assert _walk(mount.path / "known") == KNOWN
            files = [(mount.path / "small" / f"{n}").open("rb") for n in range(OPEN)]
            first = [file.read(1) for file in files]
            with ThreadPoolExecutor(READERS) as readers:
                found = [
                    *readers.map(_sum, [mount.path / "large" / f"{n}" for n in range(READERS)])
                ]
            assert found == [large] * READERS
            for n, file in enumerate(files):
                assert first[n] + file.read() == b"%d" % n
                file.close()
        peaks = most()
        assert "read failed" not in mount.log.read_text()
    with capsys.disabled():
        print(f"\n{KNOWN} files: {per_file:.0f} bytes of store a file, {peaks}")
    assert per_file <= MOST_STORE_PER_FILE
    assert peaks["mount RSS"] <= MOST_RSS
    assert peaks["transfer RSS"] <= MOST_RSS
    assert OPEN <= peaks["mount descriptors"] <= OPEN + READERS + MORE_DESCRIPTORS
    assert peaks["transfer descriptors"] <= MORE_DESCRIPTORS
    assert peaks["cache on disk"] <= CACHE + 4 * MIB


def _fill_bucket(server: S3Server, bucket: str) -> str:
    """Small and large objects; the hash of the large ones."""
    client = server.client()
    body = random.Random(1).randbytes(LARGE)
    with ThreadPoolExecutor(4) as senders:
        for n in range(OPEN):
            senders.submit(client.put_object, Bucket=bucket, Key=f"small/{n}", Body=b"%d" % n)
    client.put_object(Bucket=bucket, Key="large/0", Body=body)
    # Else the directory would be gone in the cloud, with all that is in it.
    client.put_object(Bucket=bucket, Key="known/", Body=b"")
    for n in range(1, READERS):
        source = {"Bucket": bucket, "Key": "large/0"}
        client.copy_object(Bucket=bucket, Key=f"large/{n}", CopySource=source)
    return hashlib.sha256(body).hexdigest()


def _fill_store(mount: Mount) -> float:
    """As if ``known`` had been listed, with many files; bytes of the store for each."""
    (database,) = (mount.home / "state").rglob("*.db")
    before = database.stat().st_size
    db = sqlite3.connect(database)
    first = db.execute("SELECT max(id) FROM inode").fetchone()[0] + 1
    now = time.time_ns()

    def directories() -> Iterator[tuple[int, int, bytes]]:
        yield first, 1, b"known"
        for n in range(KNOWN // PER_DIRECTORY):
            yield first + 1 + n, first, b"directory-%06d" % n

    behind = first + 1 + KNOWN // PER_DIRECTORY
    db.executemany(
        "INSERT INTO inode (id, mode, nlink, uid, gid, mtime_ns, ctime_ns, atime_ns, in_cloud, "
        "base_tag, listed_ns) VALUES (?, 16877, 2, 0, 0, ?, ?, ?, 1, ?, ?)",
        ((ino, now, now, now, f"{ino:032x}", now) for ino, _, _ in directories()),
    )
    db.executemany(
        "INSERT INTO dentry (parent, name, inode) VALUES (?, ?, ?)",
        ((parent, name, ino) for ino, parent, name in directories()),
    )
    db.executemany(
        "INSERT INTO inode (id, mode, nlink, uid, gid, size, mtime_ns, ctime_ns, atime_ns, "
        "in_cloud, base_tag, base_size, base_mtime_ns, base_md5) "
        "VALUES (?, 33188, 1, 0, 0, 12345, ?, ?, ?, 1, ?, 12345, ?, ?)",
        ((behind + n, now, now, now, f"{n:032x}", now, f"{n:032x}") for n in range(KNOWN)),
    )
    db.executemany(
        "INSERT INTO dentry (parent, name, inode) VALUES (?, ?, ?)",
        (
            (first + 1 + n // PER_DIRECTORY, b"a file of some name %08d.jpeg" % n, behind + n)
            for n in range(KNOWN)
        ),
    )
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return (database.stat().st_size - before) / KNOWN


def _walk(top: Path) -> int:
    count = 0
    for directory, _, names in os.walk(top):
        for name in names:
            os.lstat(os.path.join(directory, name))
        count += len(names)
    return count


def _sum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _watched(mount: Mount) -> Generator[Callable[[], dict[str, int]]]:
    """What the two processes and the cache had at most, looked at 20 times a second."""
    most: Counter[str] = Counter()
    stop = threading.Event()

    def look() -> None:
        child = _child(mount.pid)
        while not stop.wait(0.05):
            for who, pid in (("mount", mount.pid), ("transfer", child)):
                most[f"{who} RSS"] = max(most[f"{who} RSS"], _peak_rss(pid))
                count = len(os.listdir(f"/proc/{pid}/fd"))
                most[f"{who} descriptors"] = max(most[f"{who} descriptors"], count)
            most["cache on disk"] = max(most["cache on disk"], _on_disk(mount.home / "cache"))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield lambda: dict(most)
    finally:
        stop.set()
        watcher.join()


def _child(pid: int) -> int:
    """The transfer process; any thread may have started it."""
    lists = [task.joinpath("children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return int("".join(lists).split()[0])


def _peak_rss(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmHWM")) * KIB


def _on_disk(top: Path) -> int:
    total = 0
    for directory, _, names in os.walk(top):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


# -- large files -----------------------------------------------------------------------------------


@pytest.mark.skipif(not IS_LONG, reason="uploads 5 GiB: CSYNCFS_LONG=1")
def test_files_past_four_and_five_gib(seaweedfs: S3Server, tmp_path: Path) -> None:
    """Written sparse, sent in parts, renamed and linked by copies in parts, and read back."""
    if shutil.disk_usage(tmp_path).free < 40 * GIB:
        pytest.skip("needs 40 GiB of disk")
    bucket = seaweedfs.make_bucket()
    spots = {0: b"begin", 4 * GIB + 1: b"past four", 5 * GIB + 1: b"past five"}
    options = (f"endpoint={seaweedfs.endpoint_url}", "upload_delay=0.2", "cache_size=12G")
    env = dict(seaweedfs.environment())
    with mounting(tmp_path / "m", f"s3://{bucket}", *options, "min_free=0", env=env) as mount:
        path, renamed, link = (mount.path / name for name in ("large", "renamed", "link"))
        with path.open("w+b", buffering=0) as file:
            for offset, data in spots.items():
                file.seek(offset)
                file.write(data)
            for offset, data in spots.items():
                file.seek(offset)
                assert file.read(len(data)) == data
            assert os.pread(file.fileno(), 8, 4 * GIB - 3) == bytes(4) + b"past"
        expected = _expected(spots)
        assert path.stat().st_size == 5 * GIB + 10
        mount.flush(900)
        assert _object_sum(seaweedfs, bucket, "large") == expected
        path.rename(renamed)
        mount.flush(900)
        os.link(renamed, link)
        mount.flush(900)
        assert s3.objects(seaweedfs, bucket).keys() >= {"renamed", "link"}
        assert "large" not in s3.objects(seaweedfs, bucket)
        for key in ("renamed", "link"):
            assert _object_sum(seaweedfs, bucket, key) == expected
        assert mount.unmount() == 0
        mount.wipe_cache()
        mount.start()
        for offset, data in spots.items():
            with link.open("rb") as file:
                file.seek(offset)
                assert file.read(len(data)) == data
        assert _sum(link) == expected


def _expected(spots: dict[int, bytes]) -> str:
    digest, position = hashlib.sha256(), 0
    for offset, data in spots.items():
        while position < offset:
            zeros = bytes(min(MIB, offset - position))
            digest.update(zeros)
            position += len(zeros)
        digest.update(data)
        position += len(data)
    return digest.hexdigest()


def _object_sum(server: S3Server, bucket: str, key: str) -> str:
    digest = hashlib.sha256()
    body = server.client().get_object(Bucket=bucket, Key=key)["Body"]
    for block in body.iter_chunks(MIB):
        digest.update(block)
    return digest.hexdigest()
