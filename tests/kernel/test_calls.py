"""The calls ordinary programs make, on real mounts, and what they leave in the store."""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.kernel.conftest import Place
from tests.support.mounts import wait_until

_NOREPLACE, _EXCHANGE = 1, 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def _renameat2(source: Path, target: Path, flags: int) -> None:
    at = -100
    if _LIBC.renameat2(at, bytes(source), at, bytes(target), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _refuses(code: int, call: object, *args: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.errno == code


def test_written_bytes_are_read_back_and_reach_the_store(place: Place) -> None:
    (place.path / "a").write_bytes(b"one")
    with (place.path / "a").open("r+b") as file:
        file.seek(1)
        file.write(b"XY")
        file.seek(10)
        file.write(b"end")
    with (place.path / "a").open("ab") as file:
        file.write(b"+more")
    expected = b"oXY" + bytes(7) + b"end+more"
    assert (place.path / "a").read_bytes() == expected
    assert place.stored() == {"a": expected}


def test_two_appenders_do_not_overwrite_each_other(place: Place) -> None:
    first, second = (
        os.open(place.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in "ab"
    )
    for i in range(50):
        os.write(first, b"a%03d" % i)
        os.write(second, b"b%03d" % i)
    os.close(first)
    os.close(second)
    expected = b"".join(b"a%03db%03d" % (i, i) for i in range(50))
    assert (place.path / "log").read_bytes() == expected


def test_truncate_cuts_and_extends_with_zeros(place: Place) -> None:
    file = place.path / "t"
    file.write_bytes(b"0123456789")
    os.truncate(file, 4)
    assert file.read_bytes() == b"0123"
    os.truncate(file, 8)
    assert file.read_bytes() == b"0123\0\0\0\0"
    with file.open("r+b") as open_file:
        open_file.truncate(2)
        open_file.seek(0, os.SEEK_END)
        open_file.write(b"x")
    assert place.stored() == {"t": b"01x"}


def test_rename_of_files(place: Place) -> None:
    a, b, c = (place.path / name for name in "abc")
    a.write_text("a")
    b.write_text("b")
    a.rename(b)
    assert b.read_text() == "a"
    assert not a.exists()
    c.write_text("c")
    _refuses(errno.EEXIST, _renameat2, b, c, _NOREPLACE)
    _renameat2(b, c, _EXCHANGE)
    assert (b.read_text(), c.read_text()) == ("c", "a")
    assert place.stored() == {"b": b"c", "c": b"a"}
    # The same once more with what is in the cloud by now.
    _renameat2(b, c, _EXCHANGE)
    assert place.stored() == {"b": b"a", "c": b"c"}


def test_rename_of_directories(place: Place) -> None:
    (place.path / "d" / "e").mkdir(parents=True)
    for i in range(20):
        (place.path / "d" / "e" / f"f{i}").write_text(str(i))
    place.mount.flush()
    (place.path / "d").rename(place.path / "n")
    assert (place.path / "n" / "e" / "f7").read_text() == "7"
    (place.path / "n" / "e" / "f7").write_text("seven")
    (place.path / "empty").mkdir()
    (place.path / "n").rename(place.path / "empty")
    (place.path / "full").mkdir()
    (place.path / "full" / "x").write_text("x")
    _refuses(errno.ENOTEMPTY, os.rename, place.path / "empty", place.path / "full")
    _refuses(errno.EINVAL, os.rename, place.path / "empty", place.path / "empty" / "e" / "z")
    _renameat2(place.path / "empty", place.path / "full", _EXCHANGE)
    assert (place.path / "empty" / "x").read_text() == "x"
    stored = place.stored()
    expected = {f"full/e/f{i}": str(i).encode() for i in range(20)}
    assert stored == {**expected, "full/e/f7": b"seven", "empty/x": b"x"}


def test_unlinked_file_lives_while_it_is_open(place: Place) -> None:
    content = os.urandom(300_000)
    for name in ("cached", "remote", "covered"):
        (place.path / name).write_bytes(content)
    place.mount.flush()
    place.mount.admin("cache", "evict", str(place.path / "remote"))
    place.mount.admin("cache", "evict", str(place.path / "covered"))
    descriptors = [os.open(place.path / n, os.O_RDWR) for n in ("cached", "remote", "covered")]
    (place.path / "cached").unlink()
    (place.path / "remote").unlink()
    (place.path / "new").write_bytes(b"new")
    (place.path / "new").rename(place.path / "covered")
    for fd in descriptors:
        assert os.pread(fd, len(content), 0) == content
        os.pwrite(fd, b"still writable", 10)
        assert os.pread(fd, 14, 10) == b"still writable"
        assert os.fstat(fd).st_nlink == 0
        os.close(fd)
    assert place.stored() == {"covered": b"new"}


def test_directories_and_their_errors(place: Place) -> None:
    directory = place.path / "d"
    directory.mkdir()
    _refuses(errno.EEXIST, os.mkdir, directory)
    (directory / "f").touch()
    _refuses(errno.ENOTEMPTY, os.rmdir, directory)
    _refuses(errno.ENOTDIR, os.rmdir, directory / "f")
    _refuses(errno.EISDIR, os.unlink, directory)
    _refuses(errno.ENOENT, os.unlink, place.path / "none")
    _refuses(errno.EPERM, os.link, directory, place.path / "hard")
    (directory / "f").unlink()
    place.mount.flush()
    assert directory.is_dir()
    directory.rmdir()
    assert not directory.exists()
    assert os.stat(place.path).st_nlink == 2


def test_symlinks(place: Place) -> None:
    (place.path / "target").write_text("t")
    (place.path / "link").symlink_to("target")
    (place.path / "dangling").symlink_to("x" * 500)
    assert (place.path / "link").read_text() == "t"
    assert os.readlink(place.path / "dangling") == "x" * 500
    assert os.lstat(place.path / "link").st_size == len("target")


def test_large_directory_is_read_whole(place: Place) -> None:
    count = 20_000
    made_there = {f"there-{i:05}" for i in range(count)} if place.is_directory else set[str]()
    place.add_to_store(f"large/{name}" for name in made_there)
    directory = place.path / "large"
    if place.is_directory:
        wait_until(directory.is_dir, "the directory made in the store shows")
    else:
        directory.mkdir()
    for i in range(2000):
        os.close(os.open(directory / f"file-{i:05}", os.O_CREAT | os.O_WRONLY))
        if i % 2:
            os.unlink(directory / f"file-{i:05}")
    found: list[str] = []
    with os.scandir(directory) as entries:
        for number, entry in enumerate(entries):
            found.append(entry.name)
            if number == 100:
                # What changes meanwhile may show or not; the others show once each.
                (directory / "file-00002").unlink()
                (directory / "later").touch()
    expected = {f"file-{i:05}" for i in range(0, 2000, 2)} - {"file-00002"} | made_there
    assert len(found) == len(set(found))
    assert expected <= set(found) <= expected | {"file-00002", "later"}


def test_attributes(place: Place) -> None:
    file = place.path / "f"
    file.touch()
    file.chmod(0o640)
    os.chown(file, 1234, 2345)
    os.utime(file, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    found = file.stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert (found.st_uid, found.st_gid) == (1234, 2345)
    assert found.st_mtime_ns == 1_500_000_000_987_654_321
    assert found.st_atime_ns == 1_600_000_000_123_456_789
    before = found.st_ctime_ns
    file.chmod(0o600)
    assert file.stat().st_ctime_ns > before
    place.mount.flush()
    assert file.stat().st_mtime_ns == 1_500_000_000_987_654_321


def test_user_xattrs(place: Place) -> None:
    file = place.path / "f"
    file.touch()
    os.setxattr(file, "user.colour", b"blue")
    os.setxattr(file, "user.empty", b"")
    assert os.getxattr(file, "user.colour") == b"blue"
    assert sorted(os.listxattr(file)) == ["user.colour", "user.empty"]
    os.removexattr(file, "user.empty")
    assert os.listxattr(file) == ["user.colour"]
    _refuses(errno.ENODATA, os.getxattr, file, "user.empty")
    _refuses(errno.ENODATA, os.removexattr, file, "user.empty")


def test_statfs_and_fsync(place: Place) -> None:
    assert os.statvfs(place.path).f_namemax == 255
    fd = os.open(place.path / "f", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"x")
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    directory = os.open(place.path, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def test_shared_mapping_is_written_back(place: Place) -> None:
    file = place.path / "m"
    file.write_bytes(bytes(100_000))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        mapped[70_000:70_005] = b"hello"
        mapped.flush()
        assert file.read_bytes()[70_000:70_005] == b"hello"
        mapped[1:3] = b"ab"
    expected = bytearray(100_000)
    expected[70_000:70_005], expected[1:3] = b"hello", b"ab"
    assert place.stored() == {"m": bytes(expected)}


def test_open_flags(place: Place) -> None:
    file = place.path / "f"
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    _refuses(errno.EEXIST, os.open, file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    file.write_bytes(b"content")
    os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
    assert file.read_bytes() == b""
    fd = os.open(file, os.O_RDONLY)
    _refuses(errno.EBADF, os.write, fd, b"x")
    os.close(fd)


def test_locks_hold_between_processes(place: Place) -> None:
    file = place.path / "lock"
    file.touch()
    check = (
        "import fcntl,sys\nf=open(sys.argv[1],'r+')\n"
        "try: getattr(fcntl,sys.argv[2])(f,fcntl.LOCK_EX|fcntl.LOCK_NB)\n"
        "except OSError: sys.exit(3)"
    )
    for lock in ("flock", "lockf"):
        with file.open("r+") as held:
            getattr(fcntl, lock)(held, fcntl.LOCK_EX)
            command = [sys.executable, "-c", check, str(file), lock]
            assert subprocess.run(command, check=False).returncode == 3
        assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "größe.txt".encode(),
        "e\u0301".encode(),
        b"with space + % & ? #",
        b"new\nline",
        b"n" * 255,
        b"\xff\xfe not utf-8",
        "\uff0541".encode(),
        b"trailing.",
    ],
)
def test_names(place: Place, name: bytes) -> None:
    path = os.path.join(bytes(place.path), name)
    with open(path, "wb") as file:
        file.write(b"x")
    assert os.listdir(bytes(place.path)) == [name]
    assert len(place.stored()) == 1
    os.rename(path, os.path.join(bytes(place.path), b"plain"))
    assert place.stored() == {"plain": b"x"}


def test_a_size_nobody_can_upload(place: Place) -> None:
    """More than the store takes (S3), or than any file can be here."""
    (place.path / "f").write_bytes(b"x")
    with pytest.raises(OSError) as caught:
        os.truncate(place.path / "f", 1 << 62)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    if not place.is_directory:
        _refuses(errno.EFBIG, os.truncate, place.path / "f", (5 << 40) + 1)
    assert (place.path / "f").read_bytes() == b"x"
    assert place.stored() == {"f": b"x"}


def test_names_nobody_can_have(place: Place) -> None:
    for call in (os.mkdir, os.stat, os.unlink, os.rmdir):
        _refuses(errno.ENAMETOOLONG, call, place.path / ("n" * 256))
    _refuses(errno.EPERM, os.mkdir, place.mount.path / ".csyncfs")


def test_many_files_open_at_once(place: Place) -> None:
    descriptors = [os.open(place.path / str(i), os.O_CREAT | os.O_RDWR) for i in range(300)]
    for i, fd in enumerate(descriptors):
        os.write(fd, str(i).encode())
    for i, fd in enumerate(descriptors):
        assert os.pread(fd, 10, 0) == str(i).encode()
        os.close(fd)


def test_parallel_writers(place: Place) -> None:
    (place.path / "shared").write_bytes(bytes(8 * 65_536))

    def write(part: int) -> None:
        (place.path / f"own-{part}").write_bytes(bytes([part]) * 100_000)
        with (place.path / "shared").open("r+b") as file:
            for piece in range(16):
                file.seek(part * 65_536 + piece * 4096)
                file.write(bytes([part]) * 4096)

    threads = [threading.Thread(target=write, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = place.stored()
    assert stored["shared"] == b"".join(bytes([part]) * 65_536 for part in range(8))
    assert all(stored[f"own-{part}"] == bytes([part]) * 100_000 for part in range(8))


def test_all_survives_a_wiped_cache(place: Place) -> None:
    (place.path / "d").mkdir()
    (place.path / "d" / "f").write_bytes(b"f" * 10_000)
    (place.path / "d" / "f").chmod(0o751)
    (place.path / "link").symlink_to("d/f")
    os.setxattr(place.path / "d" / "f", "user.k", b"v")
    os.utime(place.path / "d" / "f", ns=(5, 1_234_567_890_123_456_789))
    place.mount.flush()
    assert place.mount.unmount() == 0
    place.mount.wipe_cache()
    place.mount.start()
    found = (place.path / "d" / "f").stat()
    assert (place.path / "link").read_bytes() == b"f" * 10_000
    assert stat.S_IMODE(found.st_mode) == 0o751
    assert found.st_mtime_ns == 1_234_567_890_123_456_789
    assert os.getxattr(place.path / "d" / "f", "user.k") == b"v"
