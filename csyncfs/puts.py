"""PUT: a file's content reaches the cloud, or both sides are kept."""

import logging
import stat
from dataclasses import replace

from csyncfs.adopt import Adopter
from csyncfs.backends.base import Source, Writing
from csyncfs.content import Content
from csyncfs.errors import VersionMismatch
from csyncfs.inode import LiveInode
from csyncfs.links import new_link
from csyncfs.promise import NotYet, Promise
from csyncfs.store import inodes, journal
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import Intent
from csyncfs.types import Attributes, Expect, Item, Kind, Location

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
            async with self._content.whole(live, row) as (fd, size):
                if live.is_unsaved:
                    self._content.save(live)
                await self._put_content(intent, live, fd, size)
        finally:
            self._content.unpin(live)

    async def _put_content(self, intent: Intent, live: LiveInode, fd: int, size: int) -> None:
        if self._promise.ordering.blocker(intent) is not None:
            # Renamed, or a directory above, while the content was made whole.
            raise NotYet("its place has to be ready first")
        row = self._tree.row(live.ino)
        generation = live.generation
        expect, absorbed, target = self._promise.goal(row)
        self._promise.works_on(row.id, target.key)
        with self._store.transaction():
            put_id, resume = self._promise.start_put(intent, generation)
            self._promise.sends(row, target.key, put_id=put_id)
        writing = self._promise.writing(row, put_id)
        if row.link is not None:
            # Content that its other names have not yet.
            link = new_link(row.link, put_id[:16])
            writing = replace(writing, attributes=replace(writing.attributes, link=link))

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
        self._done(intent, row, live, generation, target, writing, item)

    def _done(
        self,
        intent: Intent,
        before: InodeRow,
        live: LiveInode,
        generation: int,
        target: Location,
        writing: Writing,
        item: Item,
    ) -> None:
        now = self._promise.clock.now_ns()
        with self._store.transaction():
            row = self._promise.settle_put(before, target, writing, item)
            if row is None:
                journal.remove(self._store, intent.seq)
            else:
                if live.generation == generation:
                    self._became_clean(intent, row, live)
                    if row.is_linked:
                        self._tree.follow(row.id, now)
                self._promise.recheck_attributes(row.id, writing, now)
        live.base = item.version
        self._content.settle_file(live)
        log.debug(
            "uploaded ino=%d size=%d key=%r",
            before.id,
            item.version.size if item.version else 0,
            item.location.key,
        )

    def found(self, intent: Intent, row: InodeRow, target: Location, item: Item) -> None:
        """An earlier try with the content as it still is took effect, without a reply."""
        live = self._content.pin(row)
        try:
            writing = Writing(
                item.attributes or Attributes(), intent.put_id or "", self._promise.device
            )
            self._done(intent, row, live, live.generation, target, writing, item)
        finally:
            self._content.unpin(live)

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
        self._promise.refused(row, target, expect, absorbed, item)
        await self._adopter.resolve(row.id, item)
