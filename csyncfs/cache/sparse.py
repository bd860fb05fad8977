"""Holes in files: punching them, and copying around them. Linux only, like the rest."""

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

from csyncfs.errors import FsError

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})
_COPY_BYTES: Final = 1 << 20

_Fallocate = Callable[[int, int, int, int], int]


def _load_fallocate() -> _Fallocate | None:
    """fallocate(2) with 64-bit offsets; Python has posix_fallocate only."""
    libc = ctypes.CDLL(None, use_errno=True)
    # musl has no name with 64: its off_t is always that long.
    function = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int
    return function


_fallocate = _load_fallocate()


def punch(fd: int, start: int, end: int) -> bool:
    """Give the disk space of the range back; it reads as zeros, the size stays.

    False, and nothing changed, where the file system cannot do that.
    """
    if start >= end:
        return True
    if _fallocate is None:
        return False
    while _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, start, end - start) != 0:
        code = ctypes.get_errno()
        if code in _UNSUPPORTED:
            return False
        if code != errno.EINTR:
            raise FsError(code, "punching a hole")
    return True


def copy_with_holes(source_fd: int, target_fd: int) -> None:
    """Make the empty target file equal to the source, holes too. Moves the source's offset."""
    size = os.fstat(source_fd).st_size
    os.ftruncate(target_fd, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(source_fd, position, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        position = os.lseek(source_fd, start, os.SEEK_HOLE)
        _copy_range(source_fd, target_fd, start, position)


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    while start < end:
        data = os.pread(source_fd, min(_COPY_BYTES, end - start), start)
        if not data:
            raise OSError(errno.EIO, "file became shorter while it was copied")
        start += os.pwrite(target_fd, data, start)
