"""renameat2(2), which the standard library does not offer."""

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

_NOREPLACE: Final = 1
_EXCHANGE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2: Callable[[int, bytes, int, bytes, int], int] | None = getattr(_libc, "renameat2", None)


def rename_noreplace(source_dir: int, source: str, target_dir: int, target: str) -> None:
    """Rename unless the target exists: then FileExistsError."""
    _rename(source_dir, source, target_dir, target, _NOREPLACE)


def rename_exchange(source_dir: int, source: str, target_dir: int, target: str) -> None:
    """Swap two names atomically; both must exist."""
    _rename(source_dir, source, target_dir, target, _EXCHANGE)


def _rename(source_dir: int, source: str, target_dir: int, target: str, flags: int) -> None:
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _renameat2(source_dir, os.fsencode(source), target_dir, os.fsencode(target), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
