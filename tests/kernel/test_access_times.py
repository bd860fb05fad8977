"""Times of last access on a real mount: relatime's rules, on this machine only."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import Mount, mounting

_DAY_S = 24 * 3600


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    home = tmp_path_factory.mktemp("atime")
    (home / "store").mkdir()
    # The kernel keeps attributes as long as `refresh`: what is seen here is not timed out.
    with mounting(home / "m", f"file://{home}/store", "refresh=60") as made:
        yield made


def _old(path: Path, atime: float, mtime: float) -> None:
    """Set the times; reading is asked of csyncfs, not answered from the kernel's pages."""
    os.utime(path, (atime, mtime))
    if path.is_file():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _now(path: Path) -> bool:
    return abs(path.stat().st_atime - time.time()) < 60


def test_reading_moves_an_access_time_older_than_the_change(mount: Mount) -> None:
    file, directory = mount.path / "f", mount.path / "d"
    file.write_bytes(b"x")
    directory.mkdir()
    for path in (file, directory):
        _old(path, 1000, 2000)
        assert path.stat().st_atime == 1000
    file.read_bytes()
    os.listdir(directory)
    assert _now(file)
    assert _now(directory)
    assert (file.stat().st_mtime, directory.stat().st_mtime) == (2000, 2000)


def test_reading_leaves_a_newer_access_time_for_a_day(mount: Mount) -> None:
    path = mount.path / "f"
    path.write_bytes(b"x")
    soon = time.time() + 1000
    _old(path, soon, 1000)
    path.read_bytes()
    assert abs(path.stat().st_atime - soon) < 1e-3
    # An hour from now is later than the change time, which nobody can set.
    _old(path, time.time() - _DAY_S - 1, 1000)
    path.read_bytes()
    assert _now(path)


def test_access_times_survive_a_remount_and_are_not_uploaded(mount: Mount) -> None:
    path = mount.path / "f"
    path.write_bytes(b"x")
    _old(path, 1000, 2000)
    mount.flush()
    item = mount.home.parent / "store" / "f"
    stored = item.stat()
    path.read_bytes()
    moved = path.stat().st_atime_ns
    assert _now(path)
    mount.flush()
    assert mount.unmount() == 0
    mount.start()
    assert path.stat().st_atime_ns == moved
    left = item.stat()
    assert (left.st_ino, left.st_ctime_ns) == (stored.st_ino, stored.st_ctime_ns)


def test_a_time_that_was_set_beats_one_noted_before(mount: Mount) -> None:
    path = mount.path / "f"
    path.write_bytes(b"x")
    _old(path, 1000, 2000)
    path.read_bytes()
    os.utime(path, (3000, 4000))
    assert path.stat().st_atime == 3000
    assert mount.unmount() == 0
    mount.start()
    assert path.stat().st_atime == 3000


def test_programs_can_read_without_leaving_a_trace(mount: Mount) -> None:
    path = mount.path / "f"
    path.write_bytes(b"x")
    _old(path, 1000, 2000)
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    assert os.read(fd, 1) == b"x"
    os.close(fd)
    assert path.stat().st_atime == 1000


@pytest.mark.parametrize(("option", "moves"), [("noatime", (0, 0)), ("nodiratime", (1, 0))])
def test_options_leave_access_times(tmp_path: Path, option: str, moves: tuple[int, int]) -> None:
    (tmp_path / "store").mkdir()
    with mounting(tmp_path / "m", f"file://{tmp_path}/store", option) as mount:
        file, directory = mount.path / "f", mount.path / "d"
        file.write_bytes(b"x")
        directory.mkdir()
        for path in (file, directory):
            _old(path, 1000, 2000)
        file.read_bytes()
        os.listdir(directory)
        assert (_now(file), _now(directory)) == moves
