"""PUT of a file's further names: their items become copies of the file's own."""

import logging
from dataclasses import replace

from csyncfs.adopt import Adopter
from csyncfs.backends.base import Source, Writing
from csyncfs.content import Content
from csyncfs.errors import NotFound, Retry, VersionMismatch
from csyncfs.ordering import Capable
from csyncfs.promise import NotYet, Promise, is_as_expected
from csyncfs.store import inodes, journal
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import Intent
from csyncfs.types import Expect, Item, Kind, Location, RemoteVersion

log = logging.getLogger(__name__)


class Copies:
    """Carries out the PUT intents of aliases."""

    def __init__(
        self, promise: Promise, content: Content, adopter: Adopter, capable: Capable
    ) -> None:
        self._promise = promise
        self._store = promise.store
        self._tree = promise.tree
        self._content = content
        self._adopter = adopter
        self._capable = capable

    async def put(self, intent: Intent, row: InodeRow) -> None:
        """Copy the file's item to the name; a change meanwhile leaves the intent in place."""
        file = self._tree.file_of(row)
        base = file.base
        if base is None or not file.in_cloud or file.dirty:
            raise NotYet("the file has to come first")
        expect, absorbed, target = self._promise.goal(row)
        with self._store.transaction():
            put_id, _ = self._promise.start_put(intent, file.ctime_ns)
            self._promise.sends(row, target.key, put_id=put_id)
        writing = self._promise.writing(row, put_id)
        writing = replace(writing, attributes=replace(writing.attributes, link=file.link))
        try:
            item = await self._copy(row, file, base, target, writing, expect)
        except NotFound:
            self._promise.look_at_parent(file.id)
            raise Retry("somebody else removed the file under another of its names") from None
        except VersionMismatch as exc:
            await self._refused(row, file, target, expect, absorbed, exc)
            return
        self._done(intent, row, file, target, writing, item)

    async def _copy(
        self,
        row: InodeRow,
        file: InodeRow,
        base: RemoteVersion,
        target: Location,
        writing: Writing,
        expect: Expect,
    ) -> Item:
        source = self._tree.location(file)
        self._promise.works_on(row.id, target.key, source.key)
        if self._capable.server_copy:
            return await self._promise.backend.copy(source, target, writing, base, expect)
        live = self._content.pin(file)
        try:
            async with self._content.whole(live, file) as (fd, size):
                generation = live.generation

                async def confirm() -> bool:
                    return live.generation == generation and not live.is_unlinked

                return await self._promise.backend.put(
                    target,
                    Source(fd, size, confirm),
                    writing,
                    expect,
                    resume=None,
                    save_resume=lambda _: None,
                )
        finally:
            self._content.unpin(live)

    def _done(
        self,
        intent: Intent,
        before: InodeRow,
        file: InodeRow,
        target: Location,
        writing: Writing,
        item: Item,
    ) -> None:
        with self._store.transaction():
            row = self._promise.settle_put(before, target, writing, item)
            if row is None:
                journal.remove(self._store, intent.seq)
                return
            current = self._tree.file_of(self._tree.row(row.id))
            now_it_is = self._promise.writing(self._tree.row(row.id), writing.put_id)
            is_same = (current.id, current.base_tag, current.link) == (
                *(file.id, file.base_tag),
                file.link,
            )
            if is_same and not current.dirty and now_it_is.attributes == writing.attributes:
                journal.remove(self._store, intent.seq)
                inodes.set_clean(self._store, row.id)

    async def _refused(
        self,
        row: InodeRow,
        file: InodeRow,
        target: Location,
        expect: Expect,
        absorbed: Intent | None,
        exc: VersionMismatch,
    ) -> None:
        """Somebody else changed the name's item, or the file's under its own name."""
        item = exc.current or await self._promise.head(target, Kind.FILE)
        if is_as_expected(item, expect):
            # Not this name's item, then, but the one that was to be copied.
            self._promise.look_at_parent(file.id)
            raise Retry("somebody else changed the file under another of its names")
        self._promise.refused(row, target, expect, absorbed, item)
        await self._adopter.resolve(row.id, item)
