"""Bytes of files on real mounts: what POSIX promises about offsets, sizes, handles and maps.

Whatever a test leaves behind is compared with the store by an independent client, and once
more after the cache was wiped and the file system mounted again (fixture ``settled``).
"""

import errno
import fcntl
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.kernel.conftest import Place
from tests.support.calls import refuses
from tests.support.mounts import wait_until

pytestmark = pytest.mark.usefixtures("settled")

MIB = 1 << 20


def _bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def _cold(place: Place, name: str, content: bytes) -> Path:
    """A file whose bytes are only in the store."""
    path = place.path / name
    path.write_bytes(content)
    place.mount.flush()
    place.mount.admin("cache", "evict", str(path))
    return path


# -- offsets and sizes -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_changes_does_what_a_local_file_does(place: Place, seed: int) -> None:
    rng = random.Random(seed)
    start = rng.randbytes(700_000)
    path = _cold(place, "f", start)
    with tempfile.TemporaryFile() as twin:
        twin.write(start)
        twin.flush()
        descriptors = [os.open(path, os.O_RDWR) for _ in range(2)]
        for _ in range(150):
            _change_both(rng, path, descriptors, twin.fileno())
        size = os.fstat(twin.fileno()).st_size
        assert path.stat().st_size == size
        for fd in descriptors:
            assert os.pread(fd, size + 10, 0) == os.pread(twin.fileno(), size + 10, 0)
            os.close(fd)
        assert place.stored() == {"f": os.pread(twin.fileno(), size, 0)}


def _change_both(rng: random.Random, path: Path, mounted: list[int], twin: int) -> None:
    """One random call, on the mount and on the local twin."""
    fd = rng.choice(mounted)
    offset, length = rng.randrange(900_000), rng.randrange(1, 50_000)
    match rng.choice(("write", "write", "read", "read", "read", "cut", "append")):
        case "write":
            data = rng.randbytes(length)
            assert os.pwrite(fd, data, offset) == os.pwrite(twin, data, offset)
        case "read":
            assert os.pread(fd, length, offset) == os.pread(twin, length, offset)
        case "append":
            data = rng.randbytes(length // 10 + 1)
            appender = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.write(appender, data)
            os.close(appender)
            os.pwrite(twin, data, os.fstat(twin).st_size)
        case _:
            if rng.random() < 0.5:
                os.ftruncate(fd, offset)
            else:
                os.truncate(path, offset)
            os.ftruncate(twin, offset)


def test_bytes_cut_off_do_not_come_back(place: Place) -> None:
    content = _bytes(200_000)
    for name in ("warm", "cold"):
        path = _cold(place, name, content)
        if name == "warm":
            assert path.read_bytes() == content
        os.truncate(path, 1000)
        os.truncate(path, 150_000)
        assert path.read_bytes() == content[:1000] + bytes(149_000)
    expected = content[:1000] + bytes(149_000)
    assert place.stored() == {"warm": expected, "cold": expected}


def test_bytes_never_written_read_as_zeros(place: Place) -> None:
    path = place.path / "sparse"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"far", 3 * MIB)
    assert os.pread(fd, 5, MIB) == bytes(5)
    os.pwrite(fd, b"near", 10)
    os.ftruncate(fd, 4 * MIB)
    os.close(fd)
    expected = bytearray(4 * MIB)
    expected[10:14], expected[3 * MIB : 3 * MIB + 3] = b"near", b"far"
    assert path.read_bytes() == expected
    assert place.stored() == {"sparse": bytes(expected)}


def test_a_partial_write_to_a_cold_file_keeps_the_rest(place: Place) -> None:
    content = _bytes(3 * MIB)
    path = _cold(place, "f", content)
    with path.open("r+b") as file:
        file.seek(MIB + 7)
        file.write(b"edited")
    expected = content[: MIB + 7] + b"edited" + content[MIB + 13 :]
    assert place.stored() == {"f": expected}
    assert path.read_bytes() == expected


def test_reads_at_and_behind_the_end_are_short(place: Place) -> None:
    path = _cold(place, "f", b"0123456789")
    fd = os.open(path, os.O_RDONLY)
    assert os.pread(fd, 100, 8) == b"89"
    assert os.pread(fd, 100, 10) == b""
    assert os.pread(fd, 100, 1 << 40) == b""
    os.close(fd)


def test_appending_processes_interleave_whole_records(place: Place) -> None:
    path = place.path / "log"
    path.touch()
    program = (
        "import os,sys\nfd=os.open(sys.argv[1],os.O_WRONLY|os.O_APPEND)\n"
        "for i in range(100): os.write(fd,(sys.argv[2]*99+'\\n').encode())"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), letter]) for letter in "abc"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(letter * 99 for letter in "abc" for _ in range(100))


def test_open_flags_are_kept(place: Place) -> None:
    path = place.path / "f"
    path.write_bytes(b"content")
    reader, writer = os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY)
    refuses(errno.EBADF, os.write, reader, b"x")
    refuses(errno.EINVAL, os.ftruncate, reader, 0)
    refuses(errno.EBADF, os.read, writer, 1)
    with path.open("rb") as before:
        os.close(os.open(path, os.O_RDWR | os.O_TRUNC))
        assert before.read() == b""
    refuses(errno.EEXIST, os.open, path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    refuses(errno.ENOTDIR, os.open, path, os.O_RDONLY | os.O_DIRECTORY)
    refuses(errno.EISDIR, os.open, place.path, os.O_WRONLY)
    refuses(errno.ENOENT, os.open, place.path / "none", os.O_RDONLY)
    os.close(reader)
    os.close(writer)


def test_files_may_be_as_large_as_the_store_allows_without_hurting_others(place: Place) -> None:
    """A sparse giant that can never fit is refused, and nobody else has to wait for it."""
    path = place.path / "giant"
    path.write_bytes(b"small")
    for call in (os.truncate, _write_at):
        with pytest.raises(OSError, match=r"No space|too large"):
            call(path, 1 << 50)
    (place.path / "other").write_bytes(_bytes(MIB))
    assert path.read_bytes() == b"small"


def _write_at(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"x", offset)


# -- handles that outlive their names ------------------------------------------------------


def test_uncached_file_is_read_whole_after_it_lost_its_name(place: Place) -> None:
    content = _bytes(5 * MIB)
    descriptors: list[int] = []
    for name in ("unlinked", "covered"):
        descriptors.append(os.open(_cold(place, name, content), os.O_RDONLY))
    (place.path / "unlinked").unlink()
    (place.path / "new").write_bytes(b"new")
    (place.path / "new").rename(place.path / "covered")
    # The cloud follows while the old version is open and not read yet: nothing waits for us.
    assert place.stored() == {"covered": b"new"}
    for fd in descriptors:
        assert os.pread(fd, 10 * MIB, 0) == content
        os.close(fd)


def test_a_file_without_name_can_be_changed(place: Place) -> None:
    content = _bytes(300_000)
    path = _cold(place, "f", content)
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    os.pwrite(fd, b"edited", 100_000)
    os.ftruncate(fd, 400_000)
    os.fsync(fd)
    expected = content[:100_000] + b"edited" + content[100_006:] + bytes(100_000)
    assert os.pread(fd, MIB, 0) == expected
    path.write_bytes(b"another")
    assert os.fstat(fd).st_ino != path.stat().st_ino
    assert os.pread(fd, MIB, 0) == expected
    os.close(fd)
    assert place.stored() == {"f": b"another"}


def test_writes_through_a_handle_follow_a_rename(place: Place) -> None:
    fd = os.open(place.path / "before", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"one ")
    (place.path / "before").rename(place.path / "after")
    os.write(fd, b"two ")
    place.mount.flush()
    (place.path / "after").rename(place.path / "at last")
    os.write(fd, b"three")
    os.close(fd)
    assert place.stored() == {"at last": b"one two three"}


def test_temporary_files_leave_nothing(place: Place) -> None:
    with tempfile.TemporaryFile(dir=place.path) as file:
        file.write(_bytes(MIB))
        file.seek(0)
        assert file.read() == _bytes(MIB)
    with tempfile.NamedTemporaryFile(dir=place.path) as file:
        file.write(b"x")
        file.flush()
        place.mount.flush()
    assert place.stored() == {}


# -- maps ----------------------------------------------------------------------------------


def test_maps_of_cold_files(place: Place) -> None:
    content = _bytes(3 * MIB)
    path = _cold(place, "f", content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[2 * MIB : 2 * MIB + 100] == content[2 * MIB : 2 * MIB + 100]
        assert mapped[:] == content


def test_shared_maps_write_back_and_private_ones_do_not(place: Place) -> None:
    content = _bytes(MIB)
    path = _cold(place, "f", content)
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as private:
            private[0:4] = b"mine"
        shared = mmap.mmap(file.fileno(), 0)
    shared[500_000:500_006] = b"shared"
    shared.flush()
    assert path.read_bytes()[500_000:500_006] == b"shared"
    shared[10:14] = b"late"
    # Unmapping is the last use: what it wrote is on its way from then on.
    shared.close()
    expected = bytearray(content)
    expected[500_000:500_006], expected[10:14] = b"shared", b"late"
    assert path.read_bytes() == expected
    wait_until(lambda: place.stored() == {"f": bytes(expected)}, "the map's bytes in the store")


def test_a_map_of_a_file_without_name(place: Place) -> None:
    content = _bytes(MIB)
    path = _cold(place, "f", content)
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 0) as mapped:
        os.close(fd)
        path.unlink()
        place.mount.flush()
        mapped[100:104] = b"here"
        assert mapped[:] == content[:100] + b"here" + content[104:]
    assert place.stored() == {}


# -- many at once ----------------------------------------------------------------------------


def test_hundreds_of_open_files(place: Place) -> None:
    descriptors = [os.open(place.path / str(i), os.O_RDWR | os.O_CREAT) for i in range(1200)]
    for i, fd in enumerate(descriptors):
        os.write(fd, b"%d" % i)
    for i, fd in enumerate(descriptors):
        assert os.pread(fd, 10, 0) == b"%d" % i
        if i >= 300:
            os.unlink(place.path / str(i))
        os.close(fd)
    assert place.stored() == {str(i): b"%d" % i for i in range(300)}


def test_threads_write_and_read_the_same_and_other_files(place: Place) -> None:
    parts, piece = 6, 200_000
    shared = _cold(place, "shared", bytes(parts * piece))
    wrong: list[str] = []

    def work(part: int) -> None:
        own = place.path / f"own-{part}"
        for turn in range(10):
            mark = bytes([part * 10 + turn]) * piece
            with shared.open("r+b") as file:
                file.seek(part * piece)
                file.write(mark)
            own.write_bytes(mark)
            with shared.open("rb") as file:
                file.seek(part * piece)
                if file.read(piece) != mark or own.read_bytes() != mark:
                    wrong.append(f"part {part} turn {turn}")

    threads = [threading.Thread(target=work, args=(part,)) for part in range(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    stored = place.stored()
    assert stored["shared"] == b"".join(bytes([p * 10 + 9]) * piece for p in range(parts))
    assert all(stored[f"own-{p}"] == bytes([p * 10 + 9]) * piece for p in range(parts))


def test_files_are_changed_while_they_are_uploaded(place: Place) -> None:
    path = place.path / "busy"
    for turn in range(30):
        with path.open("ab") as file:
            file.write(_bytes(50_000, turn))
    assert place.stored() == {"busy": b"".join(_bytes(50_000, turn) for turn in range(30))}


# -- locks -----------------------------------------------------------------------------------

_LOCKER = (
    "import fcntl,sys,os\nf=open(sys.argv[1],'r+')\n"
    "getattr(fcntl,sys.argv[2])(f,fcntl.LOCK_EX)\nprint('held',flush=True)\nsys.stdin.read()"
)


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_a_lock_is_waited_for_and_ends_with_its_process(place: Place, kind: str) -> None:
    path = place.path / "lock"
    path.touch()
    command = [sys.executable, "-c", _LOCKER, str(path), kind]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    first = subprocess.Popen(command, **pipes)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType]
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    with path.open("r+") as file, pytest.raises(BlockingIOError):
        getattr(fcntl, kind)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    second = subprocess.Popen(command, **pipes)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType]
    assert second.stdin is not None
    assert second.stdout is not None
    first.kill()
    assert second.stdout.readline() == b"held\n"
    second.stdin.close()
    assert second.wait(30) == 0
    first.wait(30)


def test_parts_of_a_file_are_locked_apart(place: Place) -> None:
    path = place.path / "lock"
    path.write_bytes(bytes(100))
    check = (
        "import fcntl,sys\nf=open(sys.argv[1],'r+')\nfcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,"
        "10,50)\ntry: fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,10,5)\nexcept OSError: sys.exit(3)"
    )
    with path.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
        done = subprocess.run([sys.executable, "-c", check, str(path)], check=False)
    assert done.returncode == 3


# -- calls that programs fall back from --------------------------------------------------------


def test_ways_to_copy(place: Place) -> None:
    content = _bytes(2 * MIB)
    source = _cold(place, "source", content)
    shutil.copyfile(source, place.path / "copied")
    subprocess.run(["cp", "--sparse=always", source, place.path / "cp"], check=True)
    with source.open("rb") as a, (place.path / "range").open("wb") as b:
        while os.copy_file_range(a.fileno(), b.fileno(), MIB):
            pass
    with source.open("rb") as a, (place.path / "sent").open("wb") as b:
        while os.sendfile(b.fileno(), a.fileno(), None, MIB):  # pyright: ignore[reportArgumentType]
            pass
    names = ("source", "copied", "cp", "range", "sent")
    assert place.stored() == dict.fromkeys(names, content)


def test_space_is_allocated_before_it_is_written(place: Place) -> None:
    path = place.path / "f"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 500_000)
        file.write(b"start")
    assert path.stat().st_size == 500_000
    assert place.stored() == {"f": b"start" + bytes(499_995)}


def test_data_and_holes_are_found(place: Place) -> None:
    path = place.path / "f"
    path.write_bytes(_bytes(100_000))
    with path.open("rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 100_000
        refuses(errno.ENXIO, os.lseek, file.fileno(), 100_001, os.SEEK_DATA)


def test_syncing(place: Place) -> None:
    path = place.path / "f"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_SYNC)
    os.write(fd, b"synced")
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    for name in (path, place.path):
        read_only = os.open(name, os.O_RDONLY)
        os.fsync(read_only)
        os.close(read_only)
    os.sync()
    assert path.read_bytes() == b"synced"
