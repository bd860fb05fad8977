"""What csyncfs-semantics(7) promises and no other test shows: what others see, and when."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.calls import refuses
from tests.support.mounts import Mount, mounting, wait_until
from tests.support.s3 import objects
from tests.support.servers import S3Server

_FICLONE = 0x40049409


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    home = tmp_path_factory.mktemp("promises")
    (home / "store").mkdir()
    with mounting(home / "m", f"file://{home}/store", "upload_delay=60", "refresh=1") as made:
        yield made


def _elsewhere(program: str, *arguments: "str | Path") -> str:
    """What another process on this machine says."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_written_bytes_are_seen_by_other_processes_before_close(mount: Mount) -> None:
    path = mount.path / "seen"
    with path.open("wb", buffering=0) as file:
        file.write(b"written")
        look = "import sys; print(open(sys.argv[1]).read())"
        assert _elsewhere(look, path) == "written"
        file.seek(0)
        file.write(b"W")
        assert _elsewhere(look, path) == "Written"


def test_a_name_that_is_renamed_over_is_never_missing_nor_half(mount: Mount) -> None:
    path, stop = mount.path / "atomic", threading.Event()
    path.write_bytes(b"0" * 10_000)
    seen: set[bytes] = set()
    errors: list[OSError] = []

    def look() -> None:
        while not stop.is_set():
            try:
                seen.add(path.read_bytes())
            except OSError as exc:
                errors.append(exc)

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(100):
        new = mount.path / "atomic.new"
        new.write_bytes(b"%d" % (turn % 10) * 10_000)
        new.rename(path)
    stop.set()
    reader.join()
    assert errors == []
    assert {len(content) for content in seen} == {10_000}
    assert {len(set(content)) for content in seen} == {1}


def test_what_was_synced_survives_a_kill_while_the_file_is_open(mount: Mount) -> None:
    (mount.path / "dir").mkdir()
    file = (mount.path / "dir" / "synced").open("wb", buffering=0)
    file.write(b"synced")
    os.fsync(file.fileno())
    mount.kill()
    with pytest.raises(OSError, match="not connected"):
        file.write(b"more")
    mount.start()
    assert (mount.path / "dir" / "synced").read_bytes() == b"synced"


def test_names_and_attributes_survive_a_kill(mount: Mount) -> None:
    top = mount.path / "killed"
    top.mkdir()
    (top / "f").write_bytes(b"x" * 10)
    (top / "f").chmod(0o4711)
    os.chown(top / "f", 12, 34)
    (top / "f").chmod(0o4711)
    os.utime(top / "f", ns=(1, 2_000_000_000_123_456_789))
    os.setxattr(top / "f", "user.name", b"value")
    os.truncate(top / "f", 4)
    os.utime(top / "f", ns=(1, 2_000_000_000_123_456_789))
    os.link(top / "f", top / "link")
    (top / "symlink").symlink_to("f")
    os.mkfifo(top / "fifo", 0o600)
    (top / "gone").touch()
    (top / "gone").unlink()
    (top / "sub").mkdir()
    (top / "sub").rename(top / "renamed")
    (top / "sub").mkdir()
    (top / "sub").rmdir()
    mount.kill()
    mount.start()
    assert sorted(os.listdir(top)) == ["f", "fifo", "link", "renamed", "symlink"]
    found = (top / "link").stat()
    assert (found.st_mode, found.st_uid, found.st_gid) == (stat.S_IFREG | 0o4711, 12, 34)
    assert (found.st_size, found.st_nlink, found.st_mtime_ns) == (4, 2, 2_000_000_000_123_456_789)
    assert os.getxattr(top / "f", "user.name") == b"value"
    assert os.readlink(top / "symlink") == "f"
    assert stat.S_ISFIFO((top / "fifo").stat().st_mode)


def test_calls_that_are_refused_say_so(mount: Mount) -> None:
    path = mount.path / "refused"
    path.write_bytes(b"x" * 8192)
    with path.open("r+b") as file, (mount.path / "clone").open("wb") as clone:
        refuses(errno.EOPNOTSUPP, fcntl.ioctl, clone.fileno(), _FICLONE, file.fileno())
        keep = ["fallocate", "--punch-hole", "--offset", "0", "--length", "4096", path]
        assert subprocess.run(keep, check=False, capture_output=True).returncode != 0
    assert path.read_bytes() == b"x" * 8192
    refuses(errno.EOPNOTSUPP, os.open, mount.path, os.O_TMPFILE | os.O_RDWR)


def test_fsync_remote_waits_for_the_cloud(seaweedfs: S3Server, tmp_path: Path) -> None:
    bucket = seaweedfs.make_bucket()
    options = (f"endpoint={seaweedfs.endpoint_url}", "fsync=remote", "upload_delay=60")
    env = dict(seaweedfs.environment())
    with mounting(tmp_path / "m", f"s3://{bucket}", *options, env=env) as mount:
        (mount.path / "later").write_bytes(b"later")
        with (mount.path / "f").open("wb", buffering=0) as file:
            file.write(b"synced")
            os.fsync(file.fileno())
            assert objects(seaweedfs, bucket).get("f") == 6
        assert "later" not in objects(seaweedfs, bucket)


def test_closed_files_are_in_the_cloud_soon_and_seen_by_another_mount(tmp_path: Path) -> None:
    """And an open one is not; a lock there and one here know nothing of each other."""
    (tmp_path / "store").mkdir()
    spec, options = f"file://{tmp_path}/store", ("upload_delay=0.5", "refresh=1")
    with (
        mounting(tmp_path / "a", spec, *options) as a,
        mounting(tmp_path / "b", spec, *options) as b,
    ):
        began = time.monotonic()
        (a.path / "f").write_bytes(b"closed")
        stays_open = (a.path / "open").open("wb", buffering=0)
        stays_open.write(b"written")
        wait_until((tmp_path / "store" / "f").exists, "uploaded")
        assert 0.4 < time.monotonic() - began < 10
        wait_until(lambda: "f" in os.listdir(b.path), "seen by the other")
        assert (b.path / "f").read_bytes() == b"closed"
        with (a.path / "f").open("r+b") as here, (b.path / "f").open("r+b") as there:
            fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not (tmp_path / "store" / "open").exists()
        stays_open.close()
        wait_until(lambda: "open" in os.listdir(b.path), "seen when it was closed")
