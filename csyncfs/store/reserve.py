"""A piece of disk kept for the time when the disk is full.

SQLite has to write even to remove rows, and an upload has to be noted before its bytes can
go. A file beside the store takes the space while there is some; it is given back when nothing
else is left, and then only what frees space may use it.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

# An upload writes about 20 KiB of log, and every few seconds the log starts over.
_MOST_BYTES: Final = 8 << 20
_LEAST_BYTES: Final = 256 << 10
_SHARE: Final = 16
"""Of a small disk it takes one part in so many."""


class Reserve:
    """The file ``reserve`` of a state directory. No method raises: it is a precaution."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "reserve"
        disk = os.statvfs(state_dir)
        total = disk.f_blocks * disk.f_frsize
        self.size_bytes = max(_LEAST_BYTES, min(_MOST_BYTES, total // _SHARE))
        self._has_given = False

    @property
    def is_held(self) -> bool:
        """False between giving it back and taking it again."""
        return not self._has_given

    def take(self) -> bool:
        """Fill the file, if the disk keeps as much free beside it."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            self._has_given = True
            return False
        try:
            missing = self.size_bytes - os.fstat(fd).st_size
            if missing > 0:
                if self._free_bytes() < missing + self.size_bytes:
                    self._has_given = True
                    return False
                os.posix_fallocate(fd, 0, self.size_bytes)
            self._has_given = False
            return True
        except OSError:
            # Filled by somebody else meanwhile, or a file system that cannot do it.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
            self._has_given = True
            return False
        finally:
            os.close(fd)

    def give_back(self) -> bool:
        """Free the space. False: that was done before."""
        if self._has_given:
            return False
        self._has_given = True
        try:
            os.truncate(self._path, 0)
        except OSError:
            return False
        return True

    def give_back_if_full(self) -> None:
        """At a start on a full disk."""
        if self._free_bytes() < _LEAST_BYTES:
            self.give_back()

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize
