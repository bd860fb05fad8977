"""Content files: where they lie, what a move keeps, what a wiped cache costs."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from csyncfs.cache import sparse
from csyncfs.cache.files import ContentFiles, ContentMissing
from csyncfs.errors import FsError
from csyncfs.types import InodeId

INO = InodeId(0x22A)
MIB = 1 << 20
SHM = Path("/dev/shm")


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def files(cache_dir: Path, state_dir: Path) -> ContentFiles:
    return ContentFiles(cache_dir, state_dir)


@pytest.fixture
def other_cache_dir(state_dir: Path) -> Iterator[Path]:
    """A cache directory on another file system than the state directory."""
    if not SHM.is_dir() or SHM.stat().st_dev == state_dir.parent.stat().st_dev:
        pytest.skip("only one file system here")
    with tempfile.TemporaryDirectory(dir=SHM) as name:
        yield Path(name) / "cache"


@pytest.fixture
def split(other_cache_dir: Path, state_dir: Path) -> ContentFiles:
    return ContentFiles(other_cache_dir, state_dir)


def content(files: ContentFiles, *, dirty: bool, ino: InodeId = INO) -> bytes:
    fd = files.open(ino, dirty=dirty)
    try:
        return os.pread(fd, MIB * 64, 0)
    finally:
        os.close(fd)


def fill(fd: int, data: bytes, offset: int = 0) -> None:
    assert os.pwrite(fd, data, offset) == len(data)
    os.close(fd)


def allocated(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def test_inodes_made_one_after_the_other_share_a_directory(
    files: ContentFiles, cache_dir: Path, state_dir: Path
) -> None:
    os.close(files.create_clean(INO))
    os.close(files.create_dirty(InodeId(7)))
    assert (cache_dir / "content/02/554").is_file()
    assert (state_dir / "dirty/00/7").is_file()


def test_nobody_else_can_read_them(files: ContentFiles, tmp_path: Path) -> None:
    os.close(files.create_clean(INO))
    os.close(files.create_dirty(INO))
    for path in tmp_path.rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_move_to_dirty_and_back_keeps_descriptor_and_bytes(files: ContentFiles) -> None:
    fd = files.create_clean(INO)
    os.pwrite(fd, b"abc", 0)
    assert files.make_dirty(INO) is False
    os.pwrite(fd, b"X", 1)
    assert content(files, dirty=True) == b"aXc"
    assert files.make_clean(INO) is False
    assert content(files, dirty=False) == b"aXc"
    assert list(files.ids(dirty=True)) == []
    os.close(fd)


def test_move_between_file_systems_copies_bytes_and_holes(split: ContentFiles) -> None:
    assert not split.is_one_file_system
    fd = split.create_clean(INO)
    os.pwrite(fd, b"front", 0)
    os.pwrite(fd, b"middle", 8 * MIB)
    os.ftruncate(fd, 32 * MIB)
    expected = os.pread(fd, 64 * MIB, 0)
    os.close(fd)
    assert split.make_dirty(INO) is True
    assert list(split.ids(dirty=False)) == []
    copy = split.open(INO, dirty=True)
    assert os.fstat(copy).st_size == 32 * MIB
    assert allocated(copy) < MIB
    os.close(copy)
    assert content(split, dirty=True) == expected
    assert split.make_clean(INO) is True
    assert content(split, dirty=False) == expected
    assert list(split.ids(dirty=True)) == []


def test_disk_full_in_a_copy_leaves_the_source_and_nothing_else(
    split: ContentFiles, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(split.create_clean(INO), b"abc")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(FsError) as caught:
            split.make_dirty(INO)
    assert caught.value.code == errno.ENOSPC
    assert content(split, dirty=False) == b"abc"
    assert [path for path in state_dir.rglob("*") if path.is_file()] == []


def test_copy_that_a_crash_cut_short_is_dropped_at_the_next_start(
    other_cache_dir: Path, state_dir: Path, split: ContentFiles
) -> None:
    fill(split.create_clean(INO), b"abc")
    partial = state_dir / "dirty/partial"
    partial.mkdir(parents=True)
    (partial / str(INO)).write_bytes(b"a")
    again = ContentFiles(other_cache_dir, state_dir)
    assert list(partial.iterdir()) == []
    assert list(again.ids(dirty=True)) == []
    assert content(again, dirty=False) == b"abc"


def test_one_file_system_is_recognised(files: ContentFiles) -> None:
    assert files.is_one_file_system


def test_wiped_cache_directory_is_made_anew(files: ContentFiles, cache_dir: Path) -> None:
    fill(files.create_clean(INO), b"abc")
    fill(files.create_dirty(InodeId(5)), b"precious")
    shutil.rmtree(cache_dir)
    with pytest.raises(ContentMissing):
        files.open(INO, dirty=False)
    fill(files.create_clean(INO), b"again")
    assert content(files, dirty=False) == b"again"
    shutil.rmtree(cache_dir)
    files.make_clean(InodeId(5))
    assert content(files, dirty=False, ino=InodeId(5)) == b"precious"


def test_missing_content_is_an_io_error_and_never_enoent(files: ContentFiles) -> None:
    for action in (
        lambda: files.open(INO, dirty=True),
        lambda: files.make_clean(INO),
        lambda: files.make_dirty(INO),
    ):
        with pytest.raises(ContentMissing) as caught:
            action()
        assert caught.value.code == errno.EIO


def test_wiped_file_becomes_dirty_from_its_open_descriptor(
    files: ContentFiles, cache_dir: Path
) -> None:
    fd = files.create_clean(INO)
    os.pwrite(fd, b"still here", MIB)
    shutil.rmtree(cache_dir)
    assert files.make_dirty(INO, fd) is True
    assert content(files, dirty=True) == bytes(MIB) + b"still here"
    os.close(fd)


def test_new_dirty_file_does_not_swallow_an_unexplained_one(
    files: ContentFiles, state_dir: Path
) -> None:
    fill(files.create_dirty(INO), b"whose?")
    fill(files.create_dirty(INO), b"new")
    assert content(files, dirty=True) == b"new"
    assert (state_dir / "lost+found/554").read_bytes() == b"whose?"


def test_file_that_becomes_dirty_does_not_swallow_an_unexplained_one(
    files: ContentFiles, state_dir: Path
) -> None:
    fill(files.create_dirty(INO), b"whose?")
    fill(files.create_clean(INO), b"clean")
    files.make_dirty(INO)
    assert content(files, dirty=True) == b"clean"
    assert (state_dir / "lost+found/554").read_bytes() == b"whose?"


def test_new_clean_file_leaves_readers_of_the_old_one_alone(files: ContentFiles) -> None:
    old = files.create_clean(INO)
    os.pwrite(old, b"old", 0)
    os.close(files.create_clean(INO))
    assert os.pread(old, 10, 0) == b"old"
    assert content(files, dirty=False) == b""
    os.close(old)


def test_remove_drops_both_and_is_repeatable(files: ContentFiles) -> None:
    os.close(files.create_clean(INO))
    os.close(files.create_dirty(INO))
    files.remove(INO)
    files.remove(INO)
    assert [*files.ids(dirty=False), *files.ids(dirty=True)] == []


def test_ids_lists_what_is_there_and_nothing_foreign(files: ContentFiles, state_dir: Path) -> None:
    expected = {InodeId(number) for number in (1, 255, 256, 554, 10**12)}
    for ino in expected:
        os.close(files.create_dirty(ino))
    (state_dir / "dirty/02/notes.txt").write_text("not ours")
    (state_dir / "dirty/02/9").write_text("in the wrong place")
    assert set(files.ids(dirty=True)) == expected
    assert list(files.ids(dirty=False)) == []


def test_lost_and_found_keeps_every_file_with_its_reason(
    files: ContentFiles, state_dir: Path
) -> None:
    for data in (b"one", b"two"):
        fill(files.create_dirty(INO), data)
        assert files.lost_found(INO, f"no row for it, {data.decode()}") is not None
    lost = state_dir / "lost+found"
    assert {path.name: path.read_bytes() for path in lost.iterdir()} == {
        "554": b"one",
        "554.reason": b"no row for it, one\n",
        "554.1": b"two",
        "554.1.reason": b"no row for it, two\n",
    }
    assert list(files.ids(dirty=True)) == []


def test_lost_and_found_takes_clean_files_from_another_file_system(
    split: ContentFiles, state_dir: Path
) -> None:
    fill(split.create_clean(INO), b"abc")
    split.lost_found(INO, "why not", dirty=False)
    assert (state_dir / "lost+found/554").read_bytes() == b"abc"
    assert list(split.ids(dirty=False)) == []


def test_nothing_to_put_into_lost_and_found_is_no_error(
    files: ContentFiles, state_dir: Path
) -> None:
    assert files.lost_found(INO, "nothing") is None
    assert not (state_dir / "lost+found").exists()


def test_sync_dir_syncs_the_name_and_new_directories_once(
    files: ContentFiles, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    os.close(files.create_dirty(INO))
    files.sync_dir(INO)
    parts = ["dirty/02", "dirty", ""]
    assert synced == [str((state_dir / part).resolve()) for part in parts]
    synced.clear()
    files.sync_dir(INO)
    assert synced == [str((state_dir / "dirty/02").resolve())]


def test_sync_dir_syncs_all_again_when_directories_were_made_anew(
    files: ContentFiles, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.close(files.create_dirty(INO))
    files.sync_dir(INO)
    shutil.rmtree(state_dir)
    os.close(files.create_dirty(INO))
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    files.sync_dir(INO)
    assert len(calls) == 3


def test_disk_full_is_enospc_also_for_a_quota(
    files: ContentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EDQUOT, "quota")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        with pytest.raises(FsError) as caught:
            files.create_dirty(INO)
    assert caught.value.code == errno.ENOSPC


def test_symlink_in_the_place_of_a_file_is_not_followed(
    files: ContentFiles, cache_dir: Path, tmp_path: Path
) -> None:
    os.close(files.create_clean(INO))
    victim = tmp_path / "victim"
    victim.write_text("keep")
    path = cache_dir / "content/02/554"
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(FsError):
        files.open(INO, dirty=False)
    assert victim.read_text() == "keep"


def test_punch_gives_space_back_and_keeps_the_rest(files: ContentFiles) -> None:
    fd = files.create_clean(INO)
    os.pwrite(fd, b"x" * (4 * MIB), 0)
    os.fsync(fd)
    before = allocated(fd)
    if not ContentFiles.punch(fd, MIB, 3 * MIB):
        pytest.skip("no holes on this file system")
    assert allocated(fd) <= before - 2 * MIB + 65536
    assert os.fstat(fd).st_size == 4 * MIB
    assert os.pread(fd, 5 * MIB, 0) == b"x" * MIB + bytes(2 * MIB) + b"x" * MIB
    os.close(fd)


def test_punch_reaches_beyond_four_gibibytes(files: ContentFiles) -> None:
    fd = files.create_clean(INO)
    os.pwrite(fd, b"abc", 0)
    os.pwrite(fd, b"x" * 8192, 5 << 30)
    if not sparse.punch(fd, 5 << 30, (5 << 30) + 4096):
        pytest.skip("no holes on this file system")
    assert os.pread(fd, 8192, 5 << 30) == bytes(4096) + b"x" * 4096
    assert os.pread(fd, 3, 0) == b"abc"
    os.close(fd)


def test_punch_says_no_where_the_system_cannot(
    files: ContentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = files.create_clean(INO)
    monkeypatch.setattr(sparse, "_fallocate", None)
    assert sparse.punch(fd, 0, 10) is False
    assert sparse.punch(fd, 10, 10) is True
    os.close(fd)


def test_punch_reports_a_real_failure(files: ContentFiles) -> None:
    fd = files.create_clean(INO)
    os.close(fd)
    with pytest.raises(FsError) as caught:
        sparse.punch(fd, 0, 4096)
    assert caught.value.code == errno.EBADF


def test_copy_of_a_file_that_is_all_hole(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.touch()
    os.truncate(source, 3 * MIB)
    with source.open("rb") as reader, target.open("w+b") as writer:
        sparse.copy_with_holes(reader.fileno(), writer.fileno())
    assert target.stat().st_size == 3 * MIB
    assert target.read_bytes() == bytes(3 * MIB)
