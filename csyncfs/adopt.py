"""What the cloud says becomes local truth: insert, refresh, replace, remove, set aside.

Owns the answer to "somebody else changed it". Each action is one transaction; the kernel is
told after the commit. A foreign overwrite of an open file is a rename-over: the name gets a
new inode, open handles keep theirs.
"""

import dataclasses
import logging

import trio

from csyncfs import names
from csyncfs.errors import NotFound, Retry
from csyncfs.inode import LiveInode
from csyncfs.keeping import Keeping, tag_of
from csyncfs.links import group_of
from csyncfs.reconcile import Action, LocalState, RemoteState, decide
from csyncfs.same_bytes import are_equal
from csyncfs.store import aliases, inodes, journal
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import IntentKind
from csyncfs.types import ROOT, InodeId, Item, Kind, Location

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.2
_ZEROS_BYTES = 1 << 20
_SECOND_NS = 1_000_000_000


class Adopter(Keeping):
    """Applies remote truth to the tree."""

    # -- a listed item -------------------------------------------------------------------

    def apply(self, parent: InodeId, item: Item) -> InodeRow | None:
        """Bring one name of a directory up to date with its listed item, inside ``changes``.

        Returns the inode if both sides changed: the caller has to ``resolve`` it.
        """
        key = item.location.key
        is_dir = item.kind is Kind.DIR
        shown = self.shown(item)
        row = self._tree.lookup(parent, shown.name)
        if row is None or row.is_dir != is_dir or not row.in_cloud or row.remote_key is not None:
            owner = inodes.by_remote_key(self._store, key)
            if owner is not None and owner.nlink == 0 and is_dir:
                # Removed here: its DELETE comes after that of all that is in it.
                return None
            if owner is None or owner.nlink == 0:
                return self._apply_unknown(parent, shown, row, item)
            if not self._is_moving(owner):
                if row is None:
                    self._show_as(owner, parent, shown)
                elif row.is_dir and not is_dir:
                    self._show_beside(owner, parent, item)
            row = owner
        if row.is_dir:
            # Where a listing tells of a directory no more than its name, nothing has changed.
            is_news = item.version is not None and tag_of(item) != row.base_tag
            if is_news and not self._is_promised(row) and self.rebase_dir(row.id, item):
                row = row._replace(told=0)
            self._learn_attributes(row, item)
            return None
        return self._apply_known(row, item)

    def rebase_dir(self, ino: InodeId, item: Item) -> bool:
        """Directories have no content to lose: the version that is there now becomes the base.
        False: it was already."""
        row = inodes.get(self._store, ino)
        if row is None or row.nlink == 0 or not row.in_cloud or tag_of(item) == row.base_tag:
            return False
        inodes.set_item(self._store, ino, item, row.remote_key)
        inodes.set_told(self._store, ino, False)
        return True

    def learn(self, parent: InodeId, item: Item) -> None:
        """Add an item whose name is not known here, inside ``changes``; leave all others."""
        key = item.location.key
        shown = self.shown(item)
        is_known = self._tree.lookup(parent, shown.name) or inodes.by_remote_key(self._store, key)
        if not is_known:
            self._apply_unknown(parent, shown, None, item)

    def _apply_unknown(
        self, parent: InodeId, shown: names.ShownName, row: InodeRow | None, item: Item
    ) -> InodeRow | None:
        """An item no inode descends from; ``row`` is what has its name here."""
        key = item.location.key
        is_dir = item.kind is Kind.DIR
        removed = journal.delete_at(self._store, key)
        if removed is not None:
            is_own = removed.put_id is not None or tag_of(item) == removed.expect_tag
            if is_dir or removed.attempts or is_own:
                return None
            # Somebody edited what we were about to delete: an edit beats a delete.
            journal.remove(self._store, removed.seq)
        elif is_dir and (
            inodes.owner_below(self._store, key) or journal.delete_below(self._store, key)
        ):
            # Only leftovers of our own moves and deletes are below it.
            return None
        explicit = None if shown.is_exact else key
        if row is None:
            self._join(self._insert(parent, shown.name, item, explicit))
        elif row.is_dir and is_dir:
            self._adopt_dir(row, item)
        elif row.is_dir:
            self._insert_beside(parent, shown, item)
        elif is_dir:
            self._make_way(parent, shown, row)
            self._insert(parent, shown.name, item, explicit)
        elif not row.in_cloud:
            return row
        elif shown.is_exact and row.remote_key is not None and not self._is_moving(row):
            # Whose name it really is gets it.
            _, segment = names.split_key(self._tree.location(row).key, Kind.FILE)
            self._rename_shown(row, parent, self._beside_name(segment, is_free=False))
            self._insert(parent, shown.name, item, None)
        return None

    def _show_beside(self, row: InodeRow, parent: InodeId, item: Item) -> None:
        """A file beside a directory of its name may be called as usual again."""
        _, segment = names.split_key(item.location.key, item.kind)
        usual = self._beside_name(segment, is_free=True)
        if self._tree.lookup(parent, usual) is None:
            self._rename_shown(row, parent, usual)

    def _apply_known(
        self, row: InodeRow, item: Item, *, is_filling: bool = False
    ) -> InodeRow | None:
        remote = RemoteState.SAME if tag_of(item) == row.base_tag else RemoteState.CHANGED
        if remote is RemoteState.SAME:
            self._look_for_attributes(row, item)
        if row.is_linked:
            return self._apply_linked(row, item, remote, is_filling=is_filling)
        action = decide(self._local_state(row, is_filling=is_filling), remote)
        if action in (Action.REFRESH, Action.REPLACE):
            self.take_over(row, item)
        elif action is Action.COMPARE:
            return row
        elif action is Action.NOTHING:
            self._learn_attributes(row, item)
            self._join_again(row)
        return None

    def _look_for_attributes(self, row: InodeRow, item: Item) -> None:
        """A tag made of the content stays when somebody writes new attributes only; the time of
        that tells. Asked for like those of a new item."""
        version = item.version
        if item.attributes is not None or version is None or row.base_mtime_ns is None:
            return
        if _is_same_time(version.mtime_ns, row.base_mtime_ns) or self._is_promised(row):
            return
        inodes.set_base_mtime(self._store, row.id, version.mtime_ns)
        inodes.set_told(self._store, row.id, False)

    def _join_again(self, row: InodeRow) -> None:
        """It could not become a further name while somebody used it."""
        if row.link is not None:
            self._join(row.id)

    def _apply_linked(
        self, row: InodeRow, item: Item, remote: RemoteState, *, is_filling: bool
    ) -> InodeRow | None:
        """As ``_apply_known``, of one of several names: what its item is has to be asked."""
        if remote is RemoteState.SAME:
            self._learn_attributes(row, item)
            return None
        if self._is_promised(row) and not is_filling:
            # That finds out by itself.
            return None
        return row

    def _local_state(self, row: InodeRow, *, is_filling: bool) -> LocalState:
        """How the inode stands; RUNNING for all that must be looked at later.

        ``is_filling``: a fetch found it out. Then an upload that runs is the one that waits
        for these bytes, and no echo of it is possible.
        """
        if row.nlink == 0 or (row.id in self._table.running and not is_filling):
            return LocalState.RUNNING
        if row.dirty and self._is_moving(row):
            return LocalState.RUNNING
        if row.dirty and self._has_attributes_to_send(row) and not is_filling:
            return LocalState.RUNNING
        if row.dirty:
            return LocalState.DIRTY if row.in_cloud else LocalState.CREATED
        if journal.has_any(self._store, row.id):
            return LocalState.RUNNING
        live = self._table.get(row.id)
        if live is not None and live.fetches and not live.was_read:
            # Bytes of the old version still land: the fetch itself finds out, or a later listing.
            return LocalState.RUNNING
        return LocalState.CLEAN_OPEN if live is not None and live.handles else LocalState.CLEAN

    # -- both sides changed --------------------------------------------------------------

    async def resolve(self, ino: InodeId, item: Item | None) -> None:
        """Both sides changed: adopt equal bytes, else keep both versions.

        ``item`` None: the cloud's side is gone; an edit beats a delete.
        """
        row = inodes.get(self._store, ino)
        if row is None or row.nlink == 0:
            return
        if item is None:
            self.recreate(row)
            return
        if row.is_linked and item.kind is Kind.FILE:
            await self._resolve_linked(row, item)
            return
        if row.in_cloud and not row.dirty and not row.is_dir:
            # It had several names a moment ago. The next listing sees a file like any other.
            return
        if self._is_there_after_all(row, item):
            with self.changes():
                self._tree.stand_on(row, item, item.location.key, self._clock.now_ns())
            return
        await self._resolve_bytes(row, item)

    def _is_there_after_all(self, row: InodeRow, item: Item) -> bool:
        """Whether the item is the very version that the edits here began with, although it was
        believed to be gone: the store, or the way to it, has said so once."""
        version, base_ns = item.version, row.base_mtime_ns
        if row.in_cloud or version is None or base_ns is None or tag_of(item) != row.base_tag:
            return False
        # What waits beside the version that won follows that, and is not to replace it.
        follows = row.remote_key is not None
        return not follows and row.alias_of is None and _is_same_time(version.mtime_ns, base_ns)

    async def _resolve_bytes(self, row: InodeRow, item: Item) -> None:
        if item.kind is Kind.FILE and not row.is_dir and item.version is not None:
            is_equal = await self._has_bytes_of(row, item)
            if is_equal is None:
                return
            found = inodes.get(self._store, row.id)
            if found is None or found.nlink == 0:
                return
            row = found
        self.set_aside(row, item)

    async def _has_bytes_of(self, row: InodeRow, item: Item) -> bool | None:
        """Whether item and file have the same content; None: then that was adopted."""
        file = self._tree.file_of(row)
        live = self._content.pin(file)
        try:
            generation = live.generation
            if not await are_equal(self._backend, live, file, item):
                return False
            found = inodes.get(self._store, row.id)
            if found is not None and found.nlink and live.generation == generation:
                if found.alias_of is None:
                    self._adopt_version(found, live, item)
                else:
                    self._same_again(found, item)
            return None
        finally:
            self._content.unpin(live)

    # -- one of several names --------------------------------------------------------------

    async def _resolve_linked(self, row: InodeRow, item: Item) -> None:
        """The item of one of a file's names is another one: still a name of it, or not."""
        told = await self._ask(item)
        found = inodes.get(self._store, row.id)
        if told is None or found is None or not found.is_linked or found.nlink == 0:
            return
        row, file = found, self._tree.file_of(found)
        link = told.attributes.link if told.attributes is not None else None
        if link is not None and link == file.link:
            self._same_again(row, told)
        elif not file.dirty and link is not None and _is_group(link, file.link):
            await self._group_changed(row, file, told)
        elif file.dirty or row.dirty:
            await self._resolve_bytes(self._lean_on_another_name(row), told)
        else:
            self._split(row, told)

    async def _ask(self, item: Item) -> Item | None:
        """The item with all it says. None: it is gone again."""
        if item.attributes is not None:
            return item
        return await self._head(item.location, item.kind)

    def _same_again(self, row: InodeRow, item: Item) -> None:
        """A name's item has the content of the file: another mount brought it up to date."""
        file = self._tree.file_of(row)
        with self.changes():
            self._tree.stand_on(row, item, item.location.key, self._clock.now_ns())
            if row.alias_of is not None:
                aliases.set_link(self._store, row.id, file.link)
                if row.dirty and self._says(item, file):
                    inodes.set_clean(self._store, row.id)
                    journal.remove_kind(self._store, row.id, IntentKind.PUT)
            if not row.dirty:
                self._learn_attributes(row, item)

    async def _group_changed(self, row: InodeRow, file: InodeRow, item: Item) -> None:
        """Another mount wrote the file, through this name or another."""
        if row.alias_of is None:
            if not journal.has_any(self._store, row.id):
                await self._take_group(row.id, item)
            return
        place = self._tree.location(file)
        own = await self._ask(dataclasses.replace(item, location=place, attributes=None))
        found, current = inodes.get(self._store, row.id), inodes.get(self._store, file.id)
        if found is None or current is None or found.alias_of != file.id or found.nlink == 0:
            return
        link = own.attributes.link if own is not None and own.attributes is not None else None
        told = item.attributes.link if item.attributes is not None else None
        if own is not None and link == told and not current.dirty:
            await self._take_group(file.id, own)
            found = inodes.get(self._store, row.id)
            if found is not None and found.alias_of == file.id:
                self._same_again(found, item)
        elif found.dirty or current.dirty:
            self.set_aside(found, item)
        elif not self._is_promised(current):
            # Who wrote it does not know the other names.
            with self.changes():
                self._tree.swap_with_alias(current, found)
            await self._take_group(file.id, item)

    async def _take_group(self, ino: InodeId, item: Item) -> None:
        """The file gets the content its own item has now; its other names follow."""
        await self._end_fetches(ino)
        row = inodes.get(self._store, ino)
        if row is None or row.nlink == 0 or row.dirty:
            return
        if self._tree.location(row).key == item.location.key and tag_of(item) != row.base_tag:
            with self.changes():
                self.take_over(row, item)

    def _split(self, row: InodeRow, item: Item) -> None:
        """Somebody put another file in the place of one name."""
        dentry = inodes.names_of(self._store, row.id)[0]
        with self.changes():
            left = self._take_away(row, dentry.parent, dentry.name)
            self._insert(dentry.parent, dentry.name, item, row.remote_key)
        self._keep_rest(left)

    # -- one name ------------------------------------------------------------------------

    async def look_again(self, ino: InodeId) -> None:
        """Bring one inode's name up to date: its item is not what the store believes."""
        row = inodes.get(self._store, ino)
        if row is None or row.nlink == 0 or row.id == ROOT or not (row.in_cloud or row.base):
            return
        location = self._tree.location(row)
        log.debug("looked at again ino=%d key=%r", ino, location.key)
        item = await self._ask_twice(row, location)
        await self._end_fetches(ino)
        row = inodes.get(self._store, ino)
        if row is None or row.nlink == 0 or self._tree.location(row).key != location.key:
            return
        if not row.in_cloud:
            await self._look_for_holes(row, item)
        elif item is not None and row.dirty and self._is_moving(row):
            if tag_of(item) != row.base_tag:
                self.part(row, item)
        elif item is not None:
            with self.changes():
                both = self._apply_known(row, item, is_filling=bool(row.dirty))
            if both is not None:
                await self.resolve(ino, item)
        elif row.dirty:
            self.recreate(row)
        elif not journal.has_any(self._store, ino):
            dentry = inodes.names_of(self._store, ino)[0]
            self.remove_gone(dentry.parent, dentry.name, row)

    async def _ask_twice(self, row: InodeRow, location: Location) -> Item | None:
        """The item, None if it is gone. Another version than we believe in, or none, counts only
        if it is told twice: on one garbled tag an edit would be set aside, and a server that puts
        one version in the place of another may have neither for a moment. Raises Retry."""
        kind = Kind.DIR if row.is_dir else Kind.FILE
        item = await self._head(location, kind)
        if item is None:
            await trio.sleep(_LOOK_AGAIN_S)
            item = await self._head(location, kind)
        if item is None or tag_of(item) == row.base_tag:
            return item
        again = await self._head(location, kind)
        if again is not None and tag_of(again) != tag_of(item):
            raise Retry("the store tells two versions of one item")
        return again

    async def _head(self, location: Location, kind: Kind) -> Item | None:
        """None: it is gone."""
        try:
            return await self._backend.head(location, kind)
        except NotFound:
            return None

    async def _look_for_holes(self, row: InodeRow, item: Item | None) -> None:
        """The edits stand on a version that is not there any more: on the next one, or alone."""
        if item is not None and item.version is not None:
            if item.version.tag != row.base_tag:
                with self.changes():
                    self._rebase(row, item.version, row.remote_key)
            return
        live = self._content.pin(row)
        try:
            await self._leave_holes(row, live)
        finally:
            self._content.unpin(live)

    async def _leave_holes(self, row: InodeRow, live: LiveInode) -> None:
        """What was never fetched of a removed version is nowhere: zeros stand for it, and
        the name says that this is not the file it was."""
        missing = live.present.missing(0, live.size)
        for span in missing:
            for start in range(span.start, span.end, _ZEROS_BYTES):
                await self._content.write(live, start, bytes(min(_ZEROS_BYTES, span.end - start)))
        row = self._tree.row(row.id)
        with self.changes():
            inodes.set_no_item(self._store, row.id)
            self._table.rebase(self._store, row.id, None)
            dentry = inodes.names_of(self._store, row.id)[0]
            if not names.is_conflict_name(dentry.name):
                aside = self._free_conflict_name(dentry.parent, dentry.name, self._clock.now_ns())
                inodes.unlink(self._store, dentry.parent, dentry.name)
                inodes.link(self._store, dentry.parent, aside, row.id)
                self._entries += [(dentry.parent, dentry.name), (dentry.parent, aside)]
        self._content.flush(live)
        log.error(
            "edit of a removed file kept without the bytes that were never fetched ino=%d bytes=%d",
            row.id,
            sum(span.size_bytes for span in missing),
        )


def _is_group(link: str, other: str | None) -> bool:
    return other is not None and group_of(link) == group_of(other)


def _is_same_time(a_ns: int, b_ns: int) -> bool:
    """Replies tell whole seconds, listings of some servers more."""
    is_whole = a_ns % _SECOND_NS == 0 or b_ns % _SECOND_NS == 0
    return a_ns == b_ns or (is_whole and a_ns // _SECOND_NS == b_ns // _SECOND_NS)
