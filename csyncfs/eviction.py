"""Eviction: clean bytes make room, least recently used first.

Owns the choice of what goes. Never dirty bytes, never of an inode that is being fetched or
uploaded, never what could not be fetched again; open files are no exception. Reports what was
freed; taking it off the sum is for ``Space``, which asks.
"""

import os

import trio

from csyncfs.cache.files import ContentFiles, ContentMissing
from csyncfs.cache.holes import Holes
from csyncfs.clock import Clock
from csyncfs.extents import Extents
from csyncfs.inode import InodeTable, LiveInode
from csyncfs.store import contents, inodes
from csyncfs.store.db import Store
from csyncfs.types import InodeId

_BATCH = 64
_START = (-(1 << 63), 0)
# What a reader of a file larger than the cache may look back at, and has not read yet of what
# was fetched ahead.
_KEEP_BEHIND = 16 << 20


class Evictor:
    """Drops clean content."""

    def __init__(
        self,
        store: Store,
        table: InodeTable,
        files: ContentFiles,
        clock: Clock,
        *,
        limit_bytes: int,
        holes: Holes | None = None,
    ) -> None:
        self._holes = Holes() if holes is None else holes
        self._store = store
        self._table = table
        self._files = files
        self._clock = clock
        self._keep_behind = min(_KEEP_BEHIND, limit_bytes // 8)

    async def evict(self, n_bytes: int) -> int:
        """Free about that many bytes; how many it were."""
        self._save_extents()
        freed, after = 0, _START
        while victims := contents.victims(self._store, _BATCH, after):
            for victim in victims:
                freed += self.evict_inode(victim.inode)
                if freed >= n_bytes:
                    return freed
            after = (victims[-1].used_ns, victims[-1].inode)
            await trio.lowlevel.checkpoint()
        freed += self._evict_around_readers(n_bytes - freed, self._keep_behind)
        # Many readers have more in hand than there is room for. Each waits for the others' then,
        # unless they fetch again what they lose.
        return freed or self._evict_around_readers(n_bytes, 0)

    def _save_extents(self) -> None:
        """What was fetched into open files a moment ago is as good to evict as the rest."""
        with self._store.transaction():
            for live in self._table:
                # With a size that is not saved either it has to wait for its flush.
                if live.are_extents_unsaved and not live.is_unsaved:
                    self._save(live, live.present)

    def evict_inode(self, ino: InodeId) -> int:
        """Free the clean bytes of one inode; 0 if it is in transit or has none."""
        live = self._table.get(ino)
        if live is not None:
            if live.fetches:
                return 0
            return self._punch(live, live.present.subtract(live.dirty))
        known = contents.get(self._store, ino)
        row = inodes.get(self._store, ino)
        if known is None or row is None:
            return 0
        present, dirty = known
        if dirty or row.dirty:
            if row.base is None:
                return 0
            return self._punch_closed(ino, present.subtract(dirty), dirty)
        with self._store.transaction():
            contents.forget(self._store, ino)
        self._files.remove(ino)
        self._holes.at_most(ino, 0)
        return present.total_bytes

    def _evict_around_readers(self, n_bytes: int, keep_behind: int) -> int:
        """Files larger than the cache stream through it: only what their readers have in hand
        stays."""
        freed = 0
        for live in self._table:
            if freed >= n_bytes:
                break
            if not live.fetches:
                continue
            spans = live.present.subtract(live.dirty)
            for fetch in live.fetches:
                spans.remove(max(0, fetch.span.start - keep_behind), fetch.span.end)
            freed += self._punch(live, spans)
        return freed

    def _punch(self, live: LiveInode, spans: Extents) -> int:
        # Without a base there is nowhere to fetch them from again, and what an unlinked file
        # descends from may be gone.
        if not spans or live.base is None or live.is_unlinked or live.pins:
            return 0
        left = live.present.subtract(spans)
        with self._store.transaction():
            self._save(live, left)
        live.present = left
        self._holes.at_most(live.ino, left.total_bytes)
        if live.fd >= 0:
            self._free(live.fd, spans)
        return spans.total_bytes

    def _save(self, live: LiveInode, present: Extents) -> None:
        contents.save(self._store, live.ino, present, live.dirty, live.used_ns)
        live.are_extents_unsaved = False

    def _punch_closed(self, ino: InodeId, spans: Extents, dirty: Extents) -> int:
        try:
            fd = self._files.open(ino, dirty=True)
        except ContentMissing:
            return 0
        try:
            with self._store.transaction():
                contents.save(self._store, ino, dirty, dirty, self._clock.now_ns())
            self._free(fd, spans)
            self._holes.at_most(ino, dirty.total_bytes)
        finally:
            os.close(fd)
        return spans.total_bytes

    def _free(self, fd: int, spans: Extents) -> None:
        for span in spans:
            self._files.punch(fd, span.start, span.end)
