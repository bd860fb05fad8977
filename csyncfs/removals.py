"""The big-delete guard: what the cloud says is gone does not all go at once without being told.

Owns table ``held``. Somebody who empties a folder by mistake, or a store that answers nonsense,
must not empty this machine too. So of more than ``limit`` removals within a minute nothing is
removed: the names stay, the log has one loud line, and the user decides (``csyncfs-admin held``).
What shows up again is not held any more.
"""

import logging
from collections import deque
from collections.abc import Iterable
from typing import Final

import trio

from csyncfs.adopt import Adopter
from csyncfs.clock import Clock
from csyncfs.store import held, inodes, journal
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.types import ROOT, InodeId

log = logging.getLogger(__name__)

_WINDOW_S: Final = 60.0
_BATCH: Final = 100


class Removals:
    """Lets few at once pass, and holds more."""

    def __init__(self, store: Store, adopter: Adopter, clock: Clock, limit: int = 0) -> None:
        """``limit`` 0: everything passes."""
        self._store = store
        self._adopter = adopter
        self._clock = clock
        self.limit = limit
        self._lately: deque[tuple[float, int]] = deque()

    @property
    def count(self) -> int:
        """Items that are held."""
        return held.count(self._store)

    def is_held(self, ino: InodeId) -> bool:
        """Also as part of a directory."""
        if not self.count:
            return False
        while not held.has(self._store, ino):
            found = inodes.names_of(self._store, ino)
            if not found or found[0].parent == ROOT:
                return False
            ino = found[0].parent
        return True

    def shown(self, ino: InodeId) -> None:
        """The item is there after all; inside a transaction."""
        held.remove(self._store, ino)

    def admit(self, gone: Iterable[InodeId]) -> bool:
        """Whether these may be removed, with all below them; else they are held."""
        everything = [ino for ino in gone if not self.is_held(ino)]
        if not self.limit or not everything:
            return not self.limit
        self._forget_old()
        tops = self._tops(everything)
        left = self.limit - sum(count for _, count in self._lately)
        counts: list[int] = []
        for ino in tops:
            counts.append(held.items_below(self._store, ino, self.limit + 1))
            if sum(counts) > left:
                self._hold(tops)
                return False
        self._lately.append((trio.current_time(), sum(counts)))
        return True

    def _forget_old(self) -> None:
        while self._lately and self._lately[0][0] < trio.current_time() - _WINDOW_S:
            self._lately.popleft()

    def _tops(self, everything: list[InodeId]) -> list[InodeId]:
        """Without what is in a directory that goes as well."""
        known = set(everything)
        return [
            ino
            for ino in everything
            if not any(name.parent in known for name in inodes.names_of(self._store, ino))
        ]

    def _hold(self, tops: list[InodeId]) -> None:
        now = self._clock.now_ns()
        with self._store.transaction():
            for ino in tops:
                items = held.items_below(self._store, ino, 1 << 30)
                held.add(self._store, ino, items, now)
        log.error(
            "held: items=%d are gone in the store, more than delete_guard=%d at once; they stay"
            " here until you say: csyncfs-admin held ls, accept or reject",
            self.count,
            self.limit,
        )

    # -- the user's word -----------------------------------------------------------------

    def pop(self) -> tuple[InodeRow, int] | None:
        """The next one that is held and still has a name, and of how many items it is; it is not
        held any more."""
        while found := held.some(self._store, InodeId(0), 1):
            with self._store.transaction():
                held.remove(self._store, found[0].inode)
            row = inodes.get(self._store, found[0].inode)
            if row is not None and row.nlink and row.in_cloud:
                return row, found[0].items
        return None

    async def keep(self, top: InodeRow) -> int:
        """Send to the cloud again what is wholly here; the names of the rest go. Returns how many
        files are sent."""
        kept = 0
        under_way = [top.id]
        # Not by recursion: directories may be nested thousands deep.
        while under_way:
            row = inodes.get(self._store, under_way.pop())
            if row is None or row.nlink == 0 or not row.in_cloud:
                continue
            if row.is_dir:
                self._adopter.make_anew(row.id)
                position = 0
                while entries := inodes.read_dir(self._store, row.id, position, _BATCH):
                    position = entries[-1][0]
                    under_way += [child.id for _, _, child in entries]
            elif self._adopter.can_recreate(row):
                self._adopter.recreate(row)
                kept += 1
            elif not journal.has_any(self._store, row.id):
                name = inodes.names_of(self._store, row.id)[0]
                self._adopter.remove_gone(name.parent, name.name, row)
            await trio.lowlevel.checkpoint()
        return kept
