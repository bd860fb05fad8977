"""Times of last access, by the rules of the kernel's relatime.

Reading only notes the time in memory (``InodeTable.accessed``); ``save`` writes what was noted
in one transaction, with whatever else is saved now and then. It is no change of the file: nothing
is uploaded, and a crash loses the last seconds of it.
"""

from dataclasses import dataclass
from typing import Final

from csyncfs.clock import Clock
from csyncfs.inode import InodeTable
from csyncfs.store import inodes
from csyncfs.store.db import Store
from csyncfs.types import InodeId

_DAY_NS: Final = 24 * 3600 * 1_000_000_000
# Between two saves; a walk over more files leaves the rest of them as they were.
_MOST: Final = 50_000


@dataclass(frozen=True, slots=True)
class Access:
    """Which inodes have their time of access moved by reading."""

    files: bool = True
    dirs: bool = True


class AccessTimes:
    """Notes reads."""

    def __init__(self, store: Store, table: InodeTable, clock: Clock, access: Access) -> None:
        self._store = store
        self._table = table
        self._clock = clock
        self._access = access

    def read(self, ino: InodeId) -> None:
        """A program reads the inode."""
        row = inodes.get(self._store, ino)
        if row is None or not (self._access.dirs if row.is_dir else self._access.files):
            return
        row, now = self._table.overlay(row), self._clock.now_ns()
        is_old = row.atime_ns <= max(row.mtime_ns, row.ctime_ns) or now - row.atime_ns >= _DAY_NS
        if is_old and len(self._table.accessed) < _MOST:
            self._table.accessed[row.id] = now


def save(store: Store, table: InodeTable) -> None:
    """Write down what was noted. Raises StoreError and keeps it."""
    if not table.accessed:
        return
    with store.transaction():
        for ino, when_ns in table.accessed.items():
            inodes.set_atime(store, ino, when_ns)
    table.accessed.clear()
