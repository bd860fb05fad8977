"""Zeros that nobody wrote: parts of content files that take no disk.

Owns how many bytes they are, inode by inode. They are content like any other, uploaded and
counted as such, but ``cache_size`` is about the disk: a file of 100 GiB with nothing in it may
not keep everybody else from writing.
"""

import os
from typing import Final

from csyncfs.types import InodeId

_BLOCK: Final = 512
"""What ``st_blocks`` counts in, on every file system."""
WORTH_BYTES: Final = 1 << 20
"""Smaller ones are taken to be on the disk."""


class Holes:
    """The holes of one mount's content files, as far as they are worth knowing."""

    def __init__(self) -> None:
        self._bytes: dict[InodeId, int] = {}
        self.total_bytes = 0

    def __contains__(self, ino: InodeId) -> bool:
        return ino in self._bytes

    def of(self, ino: InodeId) -> int:
        """Bytes."""
        return self._bytes.get(ino, 0)

    def measure(self, ino: InodeId, fd: int, content_bytes: int) -> None:
        """See how much of this content is not on the disk."""
        self._set(ino, content_bytes - os.fstat(fd).st_blocks * _BLOCK)

    def at_most(self, ino: InodeId, content_bytes: int) -> None:
        """Less content is left, or none."""
        if ino in self._bytes:
            self._set(ino, min(self._bytes[ino], content_bytes))

    def _set(self, ino: InodeId, n: int) -> None:
        self.total_bytes -= self._bytes.pop(ino, 0)
        if n >= WORTH_BYTES:
            self._bytes[ino] = n
            self.total_bytes += n
