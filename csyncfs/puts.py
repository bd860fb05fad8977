"""PUT: a file's content reaches the cloud, or both sides are kept."""

import logging
import os
import stat
import uuid

from csyncfs.adopt import Adopter
from csyncfs.backends.base import Source, Writing
from csyncfs.content import Content
from csyncfs.errors import Retry, VersionMismatch
from csyncfs.inode import LiveInode
from csyncfs.promise import NotYet, Promise
from csyncfs.store import inodes, journal
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import Intent, IntentKind
from csyncfs.types import Expect, Item, Kind, Location, RemoteVersion

log = logging.getLogger(__name__)


class Puts:
    """Carries out PUT intents."""

    def __init__(self, promise: Promise, content: Content, adopter: Adopter) -> None:
        self._promise = promise
        self._store = promise.store
        self._tree = promise.tree
        self._content = content
        self._adopter = adopter

    async def put(self, intent: Intent, row: InodeRow) -> None:
        """Upload the content as it is now; a change meanwhile leaves the intent in place."""
        live = self._content.pin(row)
        try:
            if not stat.S_ISREG(row.mode):
                await self._put_target(intent, row, live)
                return
            await self._content.fill(live)
            self._content.need_file(live)
            if live.is_unsaved:
                self._content.save(live)
            await self._put_content(intent, live, live.fd, live.size)
        finally:
            self._content.unpin(live)

    async def _put_target(self, intent: Intent, row: InodeRow, live: LiveInode) -> None:
        """Symlinks carry their target as content, special files nothing."""
        fd = os.memfd_create("csyncfs-target")
        try:
            target = row.target or b""
            os.write(fd, target)
            await self._put_content(intent, live, fd, len(target))
        finally:
            os.close(fd)

    async def _put_content(self, intent: Intent, live: LiveInode, fd: int, size: int) -> None:
        if self._promise.ordering.blocker(intent) is not None:
            # Renamed, or a directory above, while the content was made whole.
            raise NotYet("its place has to be ready first")
        row = self._tree.row(live.ino)
        generation = live.generation
        expect, absorbed, target = self._goal(row)
        put_id, resume = self._start(intent, generation)
        writing = self._promise.writing(row, put_id)
        self._promise.works_on(row.id, target.key)

        async def confirm() -> bool:
            return live.generation == generation and not live.is_unlinked

        def save_resume(state: str) -> None:
            journal.save_resume(self._store, intent.seq, state)

        try:
            item = await self._promise.backend.put(
                target,
                Source(fd, size, confirm),
                writing,
                expect,
                resume=resume,
                save_resume=save_resume,
            )
        except VersionMismatch as exc:
            await self._refused(row, target, expect, absorbed, exc)
            return
        self._done(intent, row, live, generation, target, writing, absorbed, item)

    def _goal(self, row: InodeRow) -> tuple[Expect, Intent | None, Location]:
        """Where to, and which version there has to be."""
        moves = row.remote_key is not None and self._promise.ordering.is_pending(
            row.id, IntentKind.MOVE
        )
        if row.in_cloud and row.base is not None and not moves:
            return row.base, None, self._tree.location(row)
        return self._promise.claim(row.id, self._tree.target(row))

    def _start(self, intent: Intent, generation: int) -> tuple[str, str | None]:
        """Put id and resume state: the same for every try with the same content, so that a
        lost reply is recognised."""
        if intent.put_id is not None and intent.put_generation == generation:
            return intent.put_id, intent.resume
        put_id = uuid.uuid4().hex
        with self._store.transaction():
            journal.start_put(self._store, intent.seq, put_id, generation)
        return put_id, None

    def _done(
        self,
        intent: Intent,
        before: InodeRow,
        live: LiveInode,
        generation: int,
        target: Location,
        writing: Writing,
        absorbed: Intent | None,
        item: Item,
    ) -> None:
        now = self._promise.clock.now_ns()
        with self._store.transaction():
            if absorbed is not None:
                journal.remove(self._store, absorbed.seq)
            row = inodes.get(self._store, before.id)
            if row is None or row.nlink == 0:
                # Unlinked while it was uploaded: what was made has to go again.
                journal.remove(self._store, intent.seq)
                self._promise.delete_later(before.id, target, item.version, is_dir=False)
            else:
                if before.in_cloud and before.remote_key not in (None, target.key):
                    old = self._tree.location(before)
                    self._promise.delete_later(row.id, old, before.base, is_dir=False)
                self._promise.settle(row, target, item, now)
                if live.generation == generation:
                    self._became_clean(intent, row, live)
                self._promise.recheck_attributes(row.id, writing, now)
        live.base = item.version
        self._content.settle_file(live)
        log.debug("uploaded ino=%d size=%d", before.id, item.version.size if item.version else 0)

    def _became_clean(self, intent: Intent, row: InodeRow, live: LiveInode) -> None:
        journal.remove(self._store, intent.seq)
        inodes.set_clean(self._store, row.id)
        if stat.S_ISREG(row.mode):
            self._content.became_clean(live)
        else:
            live.is_dirty = False

    async def _refused(
        self,
        row: InodeRow,
        target: Location,
        expect: Expect,
        absorbed: Intent | None,
        exc: VersionMismatch,
    ) -> None:
        """Somebody else changed what we were about to overwrite."""
        item = exc.current or await self._promise.head(target, Kind.FILE)
        if (
            item is not None
            and item.version is not None
            and isinstance(expect, RemoteVersion)
            and item.version.tag == expect.tag
        ):
            raise Retry("the store refused a version that it still has")
        if absorbed is not None:
            # The DELETE has nothing to delete any more: gone, or edited, which beats it.
            journal.remove(self._store, absorbed.seq)
        self._promise.watcher.touched(target.key)
        if item is None or not self._is_own(row, item):
            await self._adopter.resolve(row.id, item)

    def _is_own(self, row: InodeRow, item: Item) -> bool:
        """Whether another inode of ours put this there and never heard of it: a crash or a
        lost reply, and then a rename. It is noted; its MOVE has to come first."""
        other = journal.by_put_id(self._store, item.put_id) if item.put_id else None
        if other is None or other.inode in (row.id, *self._promise.table.running):
            return False
        with self._store.transaction():
            owner = inodes.get(self._store, other.inode)
            if owner is None or owner.nlink == 0 or owner.in_cloud:
                return False
            self._promise.settle(owner, item.location, item, self._promise.clock.now_ns())
        live = self._promise.table.get(other.inode)
        if live is not None:
            live.base = item.version
        return True
