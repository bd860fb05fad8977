"""Bytes of files: reads, writes, truncation, saving, eviction.

Owns ``LiveInode`` objects and their content files. The foreground never waits for an upload;
it waits for a fetch only where a program reads bytes that are not here.
"""

import errno
import functools
import logging
import os
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from csyncfs import atime, names, opening
from csyncfs.cache.files import ContentFiles
from csyncfs.cache.space import Space
from csyncfs.clock import Clock
from csyncfs.errors import FsError, StoreError
from csyncfs.eviction import Evictor
from csyncfs.extents import Extents
from csyncfs.fetcher import Fetcher
from csyncfs.inode import InodeTable, LiveInode, LostName, growth
from csyncfs.readahead import MAX_WINDOW, ReadPlan
from csyncfs.store import contents, inodes, journal
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import IntentKind
from csyncfs.types import ROOT, InodeId, Span

log = logging.getLogger(__name__)

SAVE_EVERY_S = 5.0
# The last use is written at most this often: it only orders eviction.
USED_GRAIN_NS = 60_000_000_000


class Content:
    """The bytes engine."""

    def __init__(
        self,
        store: Store,
        table: InodeTable,
        files: ContentFiles,
        space: Space,
        evictor: Evictor,
        fetcher: Fetcher,
        clock: Clock,
        *,
        upload_delay_ns: int,
        journal_grew: Callable[[], None],
    ) -> None:
        self._store = store
        self._table = table
        self._files = files
        self._space = space
        self._evictor = evictor
        self._fetcher = fetcher
        self._clock = clock
        self._upload_delay_ns = upload_delay_ns
        self._journal_grew = journal_grew

    # -- coming and going ----------------------------------------------------------------

    def open(self, row: InodeRow, *, for_writing: bool) -> LiveInode:
        """One more handle on the inode."""
        live = self._table.get(row.id) or self._load(row)
        live.handles += 1
        live.writers += for_writing
        live.used_ns = self._clock.now_ns()
        return live

    def open_new(self, row: InodeRow) -> LiveInode:
        """The first, writing handle on a file that was created just now."""
        live = LiveInode(
            ino=row.id,
            size=0,
            mtime_ns=row.mtime_ns,
            ctime_ns=row.ctime_ns,
            generation=row.generation,
            base=None,
            is_dirty=True,
            present=Extents(),
            dirty=Extents(),
            fd=self._files.create_dirty(row.id),
            is_dirty_file=True,
            handles=1,
            writers=1,
            is_unsaved=True,
            is_held=True,
            used_ns=row.mtime_ns,
        )
        self._table.add(live)
        return live

    def pin(self, row: InodeRow) -> LiveInode:
        """The inode for a background engine, until ``unpin``."""
        live = self._table.get(row.id) or self._load(row)
        live.pins += 1
        return live

    def unpin(self, live: LiveInode) -> None:
        live.pins -= 1
        self.drop_if_idle(live)

    def _load(self, row: InodeRow) -> LiveInode:
        known = contents.get(self._store, row.id)
        present, dirty = known or (Extents(), Extents())
        live = LiveInode(
            ino=row.id,
            size=row.size,
            mtime_ns=row.mtime_ns,
            ctime_ns=row.ctime_ns,
            generation=row.generation,
            base=row.base,
            is_dirty=bool(row.dirty),
            present=present,
            dirty=dirty,
            is_dirty_file=bool(row.dirty),
            is_unlinked=row.nlink == 0,
        )
        if known is not None:
            opening.open_file(self._store, self._files, self._space, live)
        self._table.add(live)
        return live

    def need_file(self, live: LiveInode) -> None:
        """Make sure the inode has a content file open."""
        if live.fd >= 0:
            return
        live.fd = (
            self._files.create_dirty(live.ino)
            if live.is_dirty_file
            else self._files.create_clean(live.ino)
        )

    async def close(self, live: LiveInode, *, for_writing: bool) -> None:
        """One handle less."""
        live.handles -= 1
        live.writers -= for_writing
        if live.handles == 0:
            live.was_read = False
            if live.is_unsaved and not live.is_unlinked:
                self.flush(live)
        self.drop_if_idle(live)

    def drop_if_idle(self, live: LiveInode) -> None:
        """Let go of an inode that nobody uses any more."""
        if not live.is_idle or self._table.get(live.ino) is not live:
            return
        if live.is_unlinked and not journal.find(self._store, live.ino, IntentKind.PUT):
            self.forget(live)
        elif not self._save_last(live):
            return
        opening.close(live)
        self._table.drop(live.ino)
        if live.is_unlinked:
            self.reap(live.ino)

    def _save_last(self, live: LiveInode) -> bool:
        """Save before letting go. False: the store cannot now, the saver tries again."""
        try:
            if live.is_unsaved or live.are_extents_unsaved:
                self.save(live)
            elif live.fd >= 0:
                contents.note_use(self._store, live.ino, live.used_ns, USED_GRAIN_NS)
        except StoreError as exc:
            log.warning("not saved yet ino=%d error=%s", live.ino, exc)
            return False
        return True

    def forget(self, live: LiveInode) -> None:
        """The bytes are nobody's any more."""
        with self._store.transaction():
            contents.forget(self._store, live.ino)
        self._removed(live.ino, live.present, live.dirty)
        live.present.clear()
        live.dirty.clear()
        live.is_unsaved = live.are_extents_unsaved = False

    def _removed(self, ino: InodeId, present: Extents, dirty: Extents) -> None:
        self._space.release(present.total_bytes, dirty.total_bytes)
        self._space.holes.at_most(ino, 0)
        self._files.remove(ino)

    def discard(self, row: InodeRow) -> None:
        """Drop the content of an inode that lost its last name and is not open."""
        known = contents.get(self._store, row.id)
        if known is not None:
            with self._store.transaction():
                contents.forget(self._store, row.id)
            self._removed(row.id, *known)
        self.reap(row.id)

    def reap(self, ino: InodeId) -> None:
        """Remove an inode that has no name, no handle, no promise and no kernel reference."""
        if self._table.get(ino) or ino in self._table.lookups:
            return
        row = inodes.get(self._store, ino)
        if row is None or row.nlink > 0 or journal.has_any(self._store, ino):
            return
        known = contents.get(self._store, ino)
        with self._store.transaction():
            contents.forget(self._store, ino)
            inodes.delete(self._store, ino)
        if known is not None:
            self._removed(ino, *known)

    # -- reading -------------------------------------------------------------------------

    async def read(self, live: LiveInode, start: int, length: int, plan: ReadPlan) -> bytes:
        """Bytes at an offset; fewer at the end of the file."""
        end = min(start + length, live.size)
        if start >= end:
            return b""
        if live.base is not None and not live.present.covers(start, end):
            self.need_file(live)
            window = plan.next(start, end, live.size)
            try:
                await self._fetcher.ensure(live, start, end, window)
            except FsError as exc:
                log.warning("read failed ino=%d start=%d error=%s", live.ino, start, exc)
                if exc.code != errno.ENOSPC:
                    raise
                return await self._fetcher.read_through(live, start, end)
            end = max(start, min(start + length, live.size))
        if live.base is not None and not live.is_whole():
            ahead = plan.ahead(start, end, live.size)
            if ahead is not None:
                self.need_file(live)
                self._fetcher.start(live, ahead)
        live.was_read = True
        return await self._pread(live, start, end)

    async def _pread(self, live: LiveInode, start: int, end: int) -> bytes:
        if live.fd < 0:
            return bytes(end - start)
        buffer = bytearray(end - start)
        try:
            got = os.preadv(live.fd, [buffer], start, os.RWF_NOWAIT)
        except OSError as exc:
            # tmpfs and some others cannot tell without waiting.
            if exc.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
            got = 0
        if got < len(buffer):
            # Not in the page cache: the disk must not stall everybody. Nor may eviction punch
            # out what the thread is about to read.
            live.pins += 1
            try:
                data = await trio.to_thread.run_sync(os.pread, live.fd, end - start, start)
            finally:
                self.unpin(live)
            # A sparse tail is not in the file at all; it reads as zeros.
            return data + bytes(end - start - len(data))
        return buffer  # type: ignore[return-value]

    @property
    def window_bytes(self) -> int:
        """How far one reader may fetch ahead: both its windows and what it has read just now
        have to fit into the cache, with other readers beside it."""
        return min(MAX_WINDOW, self._space.limit_bytes // 8)

    def keep_for_readers(self, live: LiveInode) -> None:
        """The inode lost its name. Its item stays until nobody needs it to read on, and who
        wants the name in the cloud waits for that: fetch the rest now, where it fits."""
        if live.handles and not live.is_whole() and live.size <= self._space.limit_bytes // 4:
            self.need_file(live)
            self._fetcher.keep(live)

    async def fill(self, live: LiveInode) -> None:
        """Fetch whatever is absent, so that the content stands on its own."""
        if live.is_whole():
            return
        self.need_file(live)
        everything = Span(0, live.size)
        await self._fetcher.ensure(live, 0, live.size, everything, is_for_upload=True)

    @asynccontextmanager
    async def whole(self, live: LiveInode, row: InodeRow) -> AsyncGenerator[tuple[int, int]]:
        """Descriptor and size of what is to be uploaded: the content, fetched where it is absent,
        of a symlink its target."""
        if stat.S_ISREG(row.mode):
            await self.fill(live)
            self.need_file(live)
            yield live.fd, live.size
            return
        fd = os.memfd_create("csyncfs-target")
        try:
            target = row.target or b""
            os.write(fd, target)
            yield fd, len(target)
        finally:
            os.close(fd)

    # -- writing -------------------------------------------------------------------------

    async def write(self, live: LiveInode, start: int, data: bytes) -> int:
        """Take the bytes. They survive a crash of csyncfs once the file is closed."""
        end = start + len(data)
        new, newly_dirty = growth(live, start, end)
        # Written into a hole, bytes are as new on the disk: there has to be room for them.
        filling = min(self._space.holes.of(live.ino), end - start - new)
        await self._space.reserve(new + filling, newly_dirty)
        if filling:
            self._space.release(filling)
        hole = max(0, start - live.size)
        self._space.book_hole(hole)
        new, newly_dirty = new + hole, newly_dirty + hole
        try:
            if live.fetches:
                await self._stop_fetches(live, start, end)
            self._begin_write(live)
            # atomic: no await until the end of the block
            written = os.pwrite(live.fd, data, start)
        except BaseException:
            self._space.release(new, newly_dirty)
            raise
        self._wrote(live, start, start + written, new, newly_dirty)
        self._measure(live, hole)
        return written

    def _measure(self, live: LiveInode, hole: int) -> None:
        if hole or live.ino in self._space.holes:
            self._space.holes.measure(live.ino, live.fd, live.present.total_bytes)

    async def _stop_fetches(self, live: LiveInode, start: int, end: int) -> None:
        """Nobody else may write where a program writes, nor into a file that will be copied."""
        if not live.is_dirty_file and not self._files.is_one_file_system:
            start, end = 0, max(end, live.size)
        await self._fetcher.stop(live, start, end)

    def _wrote(self, live: LiveInode, start: int, end: int, booked: int, booked_dirty: int) -> None:
        before, dirty_before = live.present.total_bytes, live.dirty.total_bytes
        if start > live.size:
            # The hole a program seeks over reads as zeros, and is uploaded as such.
            live.present.add(live.size, start)
            live.dirty.add(live.size, start)
        live.present.add(start, end)
        live.dirty.add(start, end)
        live.size = max(live.size, end)
        now = self._clock.now_ns()
        live.mtime_ns = live.ctime_ns = now
        live.generation += 1
        booked -= live.present.total_bytes - before
        booked_dirty -= live.dirty.total_bytes - dirty_before
        if booked or booked_dirty:
            self._space.release(booked, booked_dirty)

    def _begin_write(self, live: LiveInode) -> None:
        """Open a dirty epoch, or hold the running one back until the next flush."""
        if live.is_held and live.fd >= 0:
            live.is_unsaved = True
            return
        if live.lost is not None:
            self._take_name_back(live, live.lost)
        now = self._clock.now_ns()
        if not live.is_unlinked:
            with self._store.transaction(grows=True):
                if not live.is_dirty:
                    inodes.set_dirty(self._store, live.ino)
                journal.add(
                    self._store,
                    IntentKind.PUT,
                    live.ino,
                    is_dir=False,
                    not_before_ns=None,
                    now_ns=now,
                )
                # The PUT will carry the attributes.
                journal.remove_kind(self._store, live.ino, IntentKind.ATTRS)
        if not live.is_dirty_file:
            if live.fd >= 0 and self._files.make_dirty(live.ino, live.fd):
                opening.reopen(self._files, live, dirty=True)
            live.is_dirty_file = True
        live.is_dirty = True
        self.need_file(live)
        live.is_held = True
        live.is_unsaved = True

    def _take_name_back(self, live: LiveInode, lost: LostName) -> None:
        """A program writes on in a file whose name the cloud took meanwhile. The edit gets its
        old name if that is free, else one that tells of the conflict."""
        now = self._clock.now_ns()
        name, n = lost.name, 0
        with self._store.transaction():
            directory = inodes.get(self._store, lost.parent)
            parent = lost.parent if directory is not None and directory.nlink else ROOT
            while inodes.lookup(self._store, parent, name) is not None:
                name = names.conflict_name(lost.name, lost.device, now, n)
                n += 1
            inodes.link(self._store, parent, name, live.ino)
            inodes.set_nlink(self._store, live.ino, 1, now)
            # What is not here follows the version that took the name.
            key = None if live.is_whole() else lost.key
            inodes.set_base(
                self._store, live.ino, live.base, in_cloud=False, item_id=None, remote_key=key
            )
            inodes.touch_dir(self._store, parent, now)
        live.lost, live.is_unlinked = None, False
        log.warning("written after the cloud took its name ino=%d name=%r", live.ino, name)

    def keep_all(self, live: LiveInode) -> None:
        """What is here can be fetched from nowhere any more: all of it waits for upload."""
        was_held = live.is_held
        self._begin_write(live)
        self._space.release(0, live.dirty.total_bytes - live.present.total_bytes)
        live.dirty = live.present.copy()
        live.generation += 1
        if not was_held:
            self.flush(live)

    async def truncate(self, live: LiveInode, size: int) -> None:
        """Cut or extend; an extension reads as zeros. Saved at once."""
        if size == live.size and live.is_dirty:
            return
        grown = max(0, size - live.size)
        self._space.book_hole(grown)
        try:
            if live.fetches:
                await self._stop_fetches(live, min(size, live.size), max(size, live.size) + 1)
            self._begin_write(live)
            # Before anything says so: a file shorter than the store says is taken for damaged.
            if grown:
                os.ftruncate(live.fd, size)
        except BaseException:
            self._space.release(grown, grown)
            raise
        self._set_size(live, size, grown)
        self._measure(live, grown)

    def _set_size(self, live: LiveInode, size: int, booked: int) -> None:
        before, dirty_before = live.present.total_bytes, live.dirty.total_bytes
        old_size = live.size
        live.present.truncate(size)
        live.dirty.truncate(size)
        if size > old_size:
            live.present.add(old_size, size)
            live.dirty.add(old_size, size)
        live.size = size
        live.mtime_ns = live.ctime_ns = self._clock.now_ns()
        live.generation += 1
        self._space.release(
            booked + before - live.present.total_bytes,
            booked + dirty_before - live.dirty.total_bytes,
        )
        # The store first: a crash between the two leaves a longer file, which is harmless.
        try:
            if not live.is_unlinked:
                self.save(live)
                live.is_unsaved = True
        finally:
            if size <= old_size:
                os.ftruncate(live.fd, size)

    # -- saving --------------------------------------------------------------------------

    def save(self, live: LiveInode) -> None:
        """Write down what is only in memory."""
        with self._store.transaction():
            if live.is_unsaved:
                inodes.set_content_shape(
                    self._store,
                    live.ino,
                    size=live.size,
                    mtime_ns=live.mtime_ns,
                    ctime_ns=live.ctime_ns,
                    generation=live.generation,
                )
            if live.fd >= 0 or live.present:
                contents.save(self._store, live.ino, live.present, live.dirty, live.used_ns)

            def saved() -> None:
                live.is_unsaved = live.are_extents_unsaved = False

            self._store.after_commit(saved)

    def flush(self, live: LiveInode) -> None:
        """What close(2) promises: journaled before it returns, due after the upload delay."""
        if live.is_unlinked or not live.is_dirty or not (live.is_held or live.is_unsaved):
            return
        now = self._clock.now_ns()
        with self._store.transaction():
            live.is_unsaved = True
            self.save(live)
            journal.add(
                self._store,
                IntentKind.PUT,
                live.ino,
                is_dir=False,
                not_before_ns=now + self._upload_delay_ns,
                now_ns=now,
            )
        live.is_held = False
        self._journal_grew()

    async def fsync(self, live: LiveInode) -> None:
        """Make every byte written so far survive power loss. Does not wait for the upload."""
        self.flush(live)
        if live.fd >= 0:
            await trio.to_thread.run_sync(os.fdatasync, live.fd)
            if live.is_dirty_file:
                await trio.to_thread.run_sync(self._files.sync_dir, live.ino)
        await trio.to_thread.run_sync(self._store.make_durable)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Save now and then what programs keep open, so that a crash loses little of it."""
        task_status.started()
        while True:
            await trio.sleep(SAVE_EVERY_S)
            try:
                await self._space.shrink()
                self.save_all()
            except StoreError as exc:
                log.error("not saved, tried again in %g s error=%s", SAVE_EVERY_S, exc)

    def save_all(self) -> None:
        """Promise everything that is only in memory."""
        for live in self._table:
            if live.is_unlinked:
                pass  # let go of below, where a full disk did not allow it before
            elif live.is_dirty and live.is_unsaved:
                self.flush(live)
            elif live.are_extents_unsaved:
                self.save(live)
            self.drop_if_idle(live)
        atime.save(self._store, self._table)

    # -- clean and dirty -----------------------------------------------------------------

    def became_clean(self, live: LiveInode) -> None:
        """The cloud has these bytes (the caller's transaction says so): they may be evicted."""
        contents.save(self._store, live.ino, live.present, Extents(), self._clock.now_ns())

        def became() -> None:
            self._space.cleaned(live.dirty.total_bytes)
            live.dirty.clear()
            live.is_dirty = live.is_held = False
            live.is_unsaved = live.are_extents_unsaved = False

        self._store.after_commit(became)

    def settle_file(self, live: LiveInode) -> None:
        """After the commit of ``became_clean``: move the content file to the cache side."""
        if live.fd < 0 or not live.is_dirty_file or live.is_dirty:
            return
        try:
            if self._files.make_clean(live.ino):
                opening.reopen(self._files, live, dirty=False)
        except FsError as exc:
            # No room on the cache's disk: it is fetched again by who needs it.
            log.warning("not kept in the cache ino=%d error=%s", live.ino, exc)
            with self._store.transaction():
                contents.forget(self._store, live.ino)
            self._removed(live.ino, live.present, live.dirty)
            live.present.clear()
            live.are_extents_unsaved = False
        live.is_dirty_file = False

    def drop_clean(self, live: LiveInode) -> None:
        """The base changed below the inode: only what is dirty is still good.

        The content file is emptied after the commit: a crash in between must not leave holes
        in what the store still takes for good.
        """
        clean = live.present.subtract(live.dirty)
        self._space.release(clean.total_bytes)
        live.present = live.dirty.copy()
        self._space.holes.at_most(live.ino, live.present.total_bytes)
        live.are_extents_unsaved = False
        if live.dirty:
            self._end_base(live)
            contents.save(self._store, live.ino, live.present, live.dirty, live.used_ns)
        else:
            contents.forget(self._store, live.ino)
        self._store.after_commit(functools.partial(opening.empty_file, self._files, live, clean))

    def _end_base(self, live: LiveInode) -> None:
        """What an edited file has behind the end of its new base can come from nowhere: zeros."""
        base_size = 0 if live.base is None else live.base.size
        if base_size >= live.size:
            return
        before, dirty_before = live.present.total_bytes, live.dirty.total_bytes
        live.present.add(base_size, live.size)
        live.dirty.add(base_size, live.size)
        self._space.release(
            before - live.present.total_bytes, dirty_before - live.dirty.total_bytes
        )

    # -- eviction ------------------------------------------------------------------------

    def evict_now(self, ino: InodeId) -> int:
        """Free the clean bytes of one inode, and the space they took; 0 if it is in use."""
        freed = self._evictor.evict_inode(ino)
        self._space.release(freed)
        return freed
