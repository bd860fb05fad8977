"""Full disks below the state and the cache directory: ENOSPC for what would grow, nothing that
was closed is lost, what frees space works, and all drains once there is room."""

import errno
import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.length import IS_LONG
from tests.support.mounts import Mount, mounting, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes small disks, as only root can")

_MIB = 1 << 20


def tmpfs(place: Path, size: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", place], check=True)


def ext4(place: Path, size: str) -> None:
    image = place.with_suffix(".img")
    subprocess.run(["truncate", "-s", size, image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)


@contextmanager
def small_disk(
    place: Path, make: Callable[[Path, str], None], size: str
) -> Generator[Path, None, None]:
    place.mkdir(parents=True)
    make(place, size)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> Path:
    """Somebody else takes every last byte."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (_MIB, 4096, 1):
            while not raises_no_space(lambda size=size: file.write(bytes(size))):
                pass
    return filler


def raises_no_space(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        return True
    return False


_KINDS = [pytest.param(tmpfs, id="tmpfs")]
if IS_LONG:
    _KINDS.append(pytest.param(ext4, id="ext4"))


@pytest.fixture(params=_KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", request.param, "24m") as place:
        yield place


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    (store / "old").write_bytes(b"o" * 100_000)
    for number in range(20):
        (store / f"there{number}").write_bytes(b"%d" % number)
    return store


@pytest.fixture
def mount(tmp_path: Path, disk: Path, store: Path) -> Iterator[Mount]:
    """Its state directory is on the small disk."""
    options = (f"state_dir={disk}/state", "cache_size=1G", "min_free=0", "drain=0")
    with mounting(tmp_path / "home", f"file://{store}", *options, start=False) as mount:
        yield mount


def test_when_others_fill_the_disk_nothing_closed_is_lost_and_all_drains(
    mount: Mount, disk: Path, store: Path
) -> None:
    mount.start("upload_delay=3600")
    os.listdir(mount.path)
    kept = {f"kept{number}": os.urandom(50_000) for number in range(20)}
    for name, content in kept.items():
        (mount.path / name).write_bytes(content)
    filler = fill(disk)
    closed: dict[str, bytes] = {}

    def create(number: int) -> None:
        content = os.urandom(30_000)
        (mount.path / f"more{number}").write_bytes(content)
        closed[f"more{number}"] = content

    assert any(raises_no_space(lambda n=n: create(n)) for n in range(20))
    for name, content in {**kept, **closed}.items():
        assert (mount.path / name).read_bytes() == content
    assert (mount.path / "old").read_bytes() == b"o" * 100_000
    filler.unlink()
    wait_until(lambda: not raises_no_space(lambda: create(100)), "there is room again")
    mount.flush(60)
    for name, content in {**kept, **closed}.items():
        assert (store / name).read_bytes() == content


def test_on_a_full_disk_unlink_and_uploads_go_on(mount: Mount, disk: Path, store: Path) -> None:
    mount.start("upload_delay=3600")
    os.listdir(mount.path)
    for number in range(30):
        (mount.path / f"new{number}").write_bytes(b"n" * 20_000)
    (mount.path / "d").mkdir()
    fill(disk)
    # Until even the last page is taken.
    for number in range(300):
        if raises_no_space(lambda n=number: os.mkdir(mount.path / f"dir{n}")):
            break
    for number in range(0, 30, 2):
        (mount.path / f"new{number}").unlink()
    for number in range(10):
        (mount.path / f"there{number}").unlink()
    (mount.path / "d").rmdir()
    os.rename(mount.path / "new1", mount.path / "new3")
    mount.flush(60)
    names = {path.name for path in store.iterdir() if path.name.startswith(("new", "there", "d/"))}
    assert {f"new{n}" for n in range(3, 30, 2)} <= names
    assert not names & {"new1", *(f"new{n}" for n in range(0, 30, 2))}
    assert not names & {f"there{n}" for n in range(10)}
    assert "d" not in names


def test_a_full_disk_is_told_by_the_status(mount: Mount, disk: Path) -> None:
    mount.start()
    os.listdir(mount.path)
    filler = fill(disk)
    for number in range(300):
        if raises_no_space(lambda n=number: os.mkdir(mount.path / f"dir{n}")):
            break
    (mount.path / "there0").unlink()
    assert any("is full" in str(line) for line in [mount.status()["warnings"]])
    filler.unlink()
    wait_until(lambda: mount.status()["warnings"] == [], "the reserve is taken again")
    (mount.path / "fits").write_bytes(b"fits")
    mount.flush(30)


def test_a_mount_starts_on_a_full_disk_and_sends_what_waits(
    mount: Mount, disk: Path, store: Path
) -> None:
    mount.start("upload_delay=3600")
    os.listdir(mount.path)
    for number in range(20):
        (mount.path / f"new{number}").write_bytes(b"%d" % number * 1000)
    fill(disk)
    mount.kill()
    fill(disk)
    mount.start("upload_delay=3600")
    assert (mount.path / "new3").read_bytes() == b"3" * 1000
    mount.flush(60)
    assert all((store / f"new{n}").read_bytes() == b"%d" % n * 1000 for n in range(20))


def test_a_writer_that_keeps_its_file_open_loses_nothing_it_was_told_is_safe(
    mount: Mount, disk: Path, store: Path
) -> None:
    mount.start("upload_delay=3600")
    os.listdir(mount.path)
    with (mount.path / "log").open("wb", buffering=0) as log:
        log.write(b"first " * 1000)
        os.fsync(log.fileno())
        filler = fill(disk)
        written = 6000

        def more() -> None:
            nonlocal written
            written += log.write(b"x" * 65536)
            os.fsync(log.fileno())

        while not raises_no_space(more):
            pass
        filler.unlink()
        wait_until(lambda: not raises_no_space(lambda: log.write(b"last")), "there is room again")
        written += 4
    mount.flush(60)
    content = (store / "log").read_bytes()
    assert content.startswith(b"first " * 1000)
    assert content.endswith(b"xlast" if written > 6004 else b"last")
    assert len(content) == written


@pytest.mark.parametrize("make", _KINDS)
def test_a_full_cache_disk_only_costs_the_cache(
    tmp_path: Path, store: Path, make: Callable[[Path, str], None]
) -> None:
    big = os.urandom(20 * _MIB)
    (store / "big").write_bytes(big)
    with small_disk(tmp_path / "disk", make, "24m") as disk:
        places = f"cache_dir={disk}/cache"
        options = (places, "cache_size=16M", "min_free=1M", "upload_delay=3600")
        with mounting(tmp_path / "home", f"file://{store}", *options) as mount:
            assert (mount.path / "old").read_bytes() == b"o" * 100_000
            assert (mount.path / "big").read_bytes() == big
            contents = {f"new{number}": b"%d" % number * 100_000 for number in range(10)}
            for name, content in contents.items():
                (mount.path / name).write_bytes(content)
            fill(disk)
            mount.flush(60)
            for name, content in contents.items():
                assert (store / name).read_bytes() == content
                assert (mount.path / name).read_bytes() == content
            assert (mount.path / "there5").read_bytes() == b"5"
            assert mount.unmount() == 0
            assert list((mount.home / "state").glob("*/dirty/*/*")) == []
