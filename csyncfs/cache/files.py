"""Content files: one sparse file per inode, and where it lies.

Owns the directories ``content`` (below the cache directory: bytes the cloud has too),
``dirty`` and ``lost+found`` (below the state directory: bytes that may exist nowhere else).
Wiping the cache directory, also under a running mount, loses nothing. The inode id is the
only key; ids are never reused.

    cache/content/2a/554        XX/ID: the id's last two hex digits, and the id
    state/dirty/2a/554
    state/lost+found/554        with 554.reason beside it
    */partial/554               a copy between file systems under way; worthless after a crash

Everything here is plain system calls: short, but for copies between file systems (then
``is_one_file_system`` is False, and moves belong in a thread). The caller sees to it that
nobody writes to a file while it is moved.
"""

import contextlib
import errno
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from csyncfs.cache import sparse
from csyncfs.errors import FsError
from csyncfs.types import InodeId

_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_PARTIAL: Final = "partial"


class ContentMissing(FsError):
    """The content file is not there. A clean one may be made anew: its bytes are in the cloud."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EIO, f"content file {path} is gone")


class ContentFiles:
    """The content files of one mount. Errors are FsError; no space is always ENOSPC."""

    def __init__(self, cache_dir: Path, state_dir: Path, *, only_look: bool = False) -> None:
        """``only_look``: leave also what a crash left."""
        self._clean_root = cache_dir / "content"
        self._dirty_root = state_dir / "dirty"
        self._lost_root = state_dir / "lost+found"
        self._durable_dirs: set[Path] = set()
        for root in () if only_look else (self._clean_root, self._dirty_root):
            self._drop_partial_copies(root)

    punch = staticmethod(sparse.punch)

    @property
    def is_one_file_system(self) -> bool:
        """Whether make_dirty and make_clean are renames, not copies."""
        with _fs_errors():
            self._make_dirs(self._clean_root)
            self._make_dirs(self._dirty_root)
            return os.stat(self._clean_root).st_dev == os.stat(self._dirty_root).st_dev

    def create_dirty(self, ino: InodeId) -> int:
        """A descriptor of a new empty file. One that lies there already goes to lost+found."""
        path = self._path(ino, dirty=True)
        with _fs_errors():
            try:
                return self._create(path, os.O_EXCL)
            except FileExistsError:
                self.lost_found(ino, "found in the place of a new file")
                return self._create(path, os.O_EXCL)

    def create_clean(self, ino: InodeId) -> int:
        """A descriptor of a new empty file. One that lies there already is dropped."""
        path = self._path(ino, dirty=False)
        with _fs_errors():
            try:
                return self._create(path, os.O_EXCL)
            except FileExistsError:
                # Not truncated: somebody may still read from the old file.
                os.unlink(path)
                return self._create(path, os.O_EXCL)

    def open(self, ino: InodeId, *, dirty: bool) -> int:
        """A descriptor for reading and writing. Raises ContentMissing."""
        path = self._path(ino, dirty=dirty)
        with _fs_errors():
            try:
                return os.open(path, _FLAGS)
            except FileNotFoundError:
                raise ContentMissing(path) from None

    def make_dirty(self, ino: InodeId, fd: int | None = None) -> bool:
        """Move the file to the state directory, before its first dirty byte is written.

        True: it was copied, descriptors still lead to the old file; open it again. ``fd``:
        a descriptor of it, from which it is restored if somebody wiped the cache directory
        meanwhile. Raises ContentMissing. A dirty file that lies there already, unexplained,
        goes to lost+found.
        """
        source, target = self._path(ino, dirty=False), self._path(ino, dirty=True)
        with _fs_errors():
            if target.exists():
                self.lost_found(ino, "found in the place of a file that became dirty")
            try:
                return self._move(source, target)
            except FileNotFoundError:
                if fd is None:
                    raise ContentMissing(source) from None
                self._copy(fd, target)
                return True

    def make_clean(self, ino: InodeId) -> bool:
        """Move the file to the cache directory, after its bytes are in the cloud.

        True: it was copied; open it again. Raises ContentMissing.
        """
        source, target = self._path(ino, dirty=True), self._path(ino, dirty=False)
        with _fs_errors():
            try:
                return self._move(source, target)
            except FileNotFoundError:
                raise ContentMissing(source) from None

    def remove(self, ino: InodeId) -> None:
        """Drop the content, clean or dirty. Open descriptors stay good."""
        with _fs_errors():
            for dirty in (False, True):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(ino, dirty=dirty))

    def ids(self, *, dirty: bool) -> Iterator[InodeId]:
        """The inodes that have a file there, in no order. Walks the directories: for recovery."""
        root = self._dirty_root if dirty else self._clean_root
        for spread in range(256):
            with _fs_errors():
                try:
                    found = os.listdir(root / f"{spread:02x}")
                except FileNotFoundError:
                    continue
            for name in found:
                if name.isascii() and name.isdigit() and _spread(int(name)) == spread:
                    yield InodeId(int(name))

    def lengths(self, *, dirty: bool) -> dict[InodeId, int]:
        """Length in bytes of every content file there. As ``ids``, for fsck."""
        found: dict[InodeId, int] = {}
        for ino in self.ids(dirty=dirty):
            with contextlib.suppress(FileNotFoundError):
                found[ino] = self._path(ino, dirty=dirty).stat().st_size
        return found

    def strangers(self, *, dirty: bool) -> list[Path]:
        """What lies there and is no content file."""
        root = self._dirty_root if dirty else self._clean_root
        ours = {f"{spread:02x}" for spread in range(256)}
        found: list[Path] = []
        for directory in sorted(root.iterdir()) if root.is_dir() else ():
            if directory.name == _PARTIAL:
                continue
            if directory.name not in ours or not directory.is_dir():
                found.append(directory)
                continue
            for path in directory.iterdir():
                is_id = path.name.isascii() and path.name.isdigit()
                if not is_id or f"{_spread(int(path.name)):02x}" != directory.name:
                    found.append(path)
        return found

    def sync_dir(self, ino: InodeId, *, dirty: bool = True) -> None:
        """Make the file's name survive power loss; its bytes are the caller's to sync."""
        directory = self._path(ino, dirty=dirty).parent
        with _fs_errors():
            _sync_directory(directory)
            if directory not in self._durable_dirs:
                _sync_directory(directory.parent)
                _sync_directory(directory.parent.parent)
                self._durable_dirs.add(directory)

    def lost_found(self, ino: InodeId, reason: str, *, dirty: bool = True) -> Path | None:
        """Put a file nobody can explain out of the way, durably, with the reason beside it.

        Returns where it is now; None if there was none.
        """
        return self.put_aside(self._path(ino, dirty=dirty), str(ino), reason)

    def put_aside(self, source: Path, name: str, reason: str) -> Path | None:
        """As ``lost_found``, for any file below the state or cache directory."""
        with _fs_errors():
            if not source.exists():
                return None
            target = self._free_lost_path(name)
            note = self._create(target.with_name(f"{target.name}.reason"), os.O_EXCL)
            try:
                os.write(note, f"{reason}\n".encode())
            finally:
                os.close(note)
            self._move(source, target)
            _sync_directory(self._lost_root)
            return target

    def _path(self, ino: InodeId, *, dirty: bool) -> Path:
        root = self._dirty_root if dirty else self._clean_root
        return root / f"{_spread(ino):02x}" / str(ino)

    def _free_lost_path(self, name: str) -> Path:
        path = self._lost_root / name
        count = 0
        while path.exists() or path.with_name(f"{path.name}.reason").exists():
            count += 1
            path = self._lost_root / f"{name}.{count}"
        return path

    def _create(self, path: Path, flag: int) -> int:
        flags = _FLAGS | os.O_CREAT | flag
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._make_dirs(path.parent)
            return os.open(path, flags, 0o600)

    def _move(self, source: Path, target: Path) -> bool:
        """Rename, or copy between file systems: then True."""
        try:
            self._rename(source, target)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
        else:
            return False
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._copy(fd, target)
        finally:
            os.close(fd)
        os.unlink(source)
        return True

    def _rename(self, source: Path, target: Path) -> None:
        try:
            os.rename(source, target)
        except FileNotFoundError:
            if not source.exists():
                raise
            self._make_dirs(target.parent)
            os.rename(source, target)

    def _copy(self, source_fd: int, target: Path) -> None:
        """Copy to ``target``, which appears complete and durable or not at all."""
        root = self._clean_root if self._clean_root in target.parents else self._dirty_root
        partial = root / _PARTIAL / target.name
        fd = self._create(partial, os.O_TRUNC)
        try:
            sparse.copy_with_holes(source_fd, fd)
            os.fsync(fd)
            self._rename(partial, target)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            raise
        finally:
            os.close(fd)
        # The source is unlinked next: the new name must not be lost after that.
        _sync_directory(target.parent)

    def _make_dirs(self, directory: Path) -> None:
        if not directory.is_dir():
            self._durable_dirs.clear()
            # One by one: makedirs would give the parents the usual, readable mode.
            for path in reversed((directory, *directory.parents)):
                if not path.exists():
                    with contextlib.suppress(FileExistsError):
                        path.mkdir(mode=0o700)

    def _drop_partial_copies(self, root: Path) -> None:
        """Their sources are still whole: the source goes only when the copy has its name."""
        with _fs_errors(), contextlib.suppress(FileNotFoundError):
            for name in os.listdir(root / _PARTIAL):
                os.unlink(root / _PARTIAL / name)


@contextlib.contextmanager
def _fs_errors() -> Generator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in _NO_SPACE:
            raise FsError(errno.ENOSPC, str(exc)) from exc
        # ENOENT of ours must not look like the absence of the user's file.
        code = exc.errno if exc.errno not in (None, errno.ENOENT) else errno.EIO
        raise FsError(code, str(exc)) from exc


def _spread(ino: int) -> int:
    """Which of the 256 directories. Inodes made one after the other share one: ext4 keeps each
    directory's inodes together, and taking turns costs 200 us a new file instead of 25."""
    return ino >> 8 & 0xFF


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
