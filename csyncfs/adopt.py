"""What the cloud says becomes local truth: insert, refresh, replace, remove, set aside.

Owns the answer to "somebody else changed it". Each action is one transaction; the kernel is
told after the commit. A foreign overwrite of an open file is a rename-over: the name gets a
new inode, open handles keep theirs.
"""

import logging
import stat

import trio

from csyncfs import names
from csyncfs.arrivals import Arrivals
from csyncfs.errors import NotFound
from csyncfs.inode import LiveInode
from csyncfs.reconcile import Action, LocalState, RemoteState, decide
from csyncfs.same_bytes import are_equal
from csyncfs.store import conflicts, contents, inodes, journal
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import IntentKind
from csyncfs.types import ROOT, InodeId, Item, Kind, RemoteVersion

log = logging.getLogger(__name__)

_ZEROS_BYTES = 1 << 20
# Entries of a removed directory that go in one transaction: about 2 ms of the loop.
_GONE_BATCH = 25


class Adopter(Arrivals):
    """Applies remote truth to the tree."""

    # -- a listed item -------------------------------------------------------------------

    def apply(self, parent: InodeId, item: Item) -> InodeRow | None:
        """Bring one name of a directory up to date with its listed item, inside ``changes``.

        Returns the inode if both sides changed: the caller has to ``resolve`` it.
        """
        key = item.location.key
        is_dir = item.kind is Kind.DIR
        shown = self._shown(item)
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
            is_news = item.version is not None and _tag(item) != row.base_tag
            if is_news and not self._is_promised(row) and self.rebase_dir(row.id, item):
                row = row._replace(told=0)
            self._learn_attributes(row, item)
            return None
        return self._apply_known(row, item)

    def _is_promised(self, row: InodeRow) -> bool:
        return row.id in self._table.running or journal.has_any(self._store, row.id)

    def rebase_dir(self, ino: InodeId, item: Item) -> bool:
        """Directories have no content to lose: the version that is there now becomes the base.
        False: it was already."""
        row = inodes.get(self._store, ino)
        if row is None or row.nlink == 0 or not row.in_cloud or _tag(item) == row.base_tag:
            return False
        inodes.set_base(
            self._store,
            ino,
            item.version,
            in_cloud=True,
            item_id=item.location.item_id,
            remote_key=row.remote_key,
        )
        inodes.set_told(self._store, ino, False)
        return True

    def _shown(self, item: Item) -> names.ShownName:
        _, segment = names.split_key(item.location.key, item.kind)
        return names.to_name(segment, utf8_only=not self._tree.policy.raw_names)

    def learn(self, parent: InodeId, item: Item) -> None:
        """Add an item whose name is not known here, inside ``changes``; leave all others."""
        key = item.location.key
        shown = self._shown(item)
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
            if is_dir or removed.attempts or _tag(item) == removed.expect_tag:
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
            self._insert(parent, shown.name, item, explicit)
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

    def _show_as(self, row: InodeRow, parent: InodeId, shown: names.ShownName) -> None:
        """What had to have another name beside it is gone: the item's own name is free."""
        self._rename_shown(row, parent, shown.name)
        if shown.is_exact:
            inodes.set_remote_key(self._store, row.id, None)

    def _show_beside(self, row: InodeRow, parent: InodeId, item: Item) -> None:
        """A file beside a directory of its name may be called as usual again."""
        _, segment = names.split_key(item.location.key, item.kind)
        usual = self._beside_name(segment, is_free=True)
        if self._tree.lookup(parent, usual) is None:
            self._rename_shown(row, parent, usual)

    def _rename_shown(self, row: InodeRow, parent: InodeId, name: bytes) -> None:
        for dentry in inodes.names_of(self._store, row.id):
            inodes.unlink(self._store, dentry.parent, dentry.name)
            self._entries.append((dentry.parent, dentry.name))
        inodes.link(self._store, parent, name, row.id)
        self._entries.append((parent, name))

    def _apply_known(
        self, row: InodeRow, item: Item, *, is_filling: bool = False
    ) -> InodeRow | None:
        remote = RemoteState.SAME if _tag(item) == row.base_tag else RemoteState.CHANGED
        action = decide(self._local_state(row, is_filling=is_filling), remote)
        if action in (Action.REFRESH, Action.REPLACE):
            self.take_over(row, item)
        elif action is Action.COMPARE:
            return row
        elif action is Action.NOTHING:
            self._learn_attributes(row, item)
        return None

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

    def take_over(self, row: InodeRow, item: Item) -> None:
        """A clean inode gets the item's version, inside ``changes``: in place if nobody has
        seen bytes of the old one through an open handle, else as a new inode."""
        live = self._table.get(row.id)
        if live is not None and (live.was_read or live.pins or live.dirty or live.fetches):
            self._replace(row, item)
            return
        version = item.version
        assert version is not None
        inodes.set_base(
            self._store,
            row.id,
            version,
            in_cloud=True,
            item_id=item.location.item_id,
            remote_key=row.remote_key,
        )
        inodes.set_size(self._store, row.id, version.size, version.mtime_ns)
        inodes.set_told(self._store, row.id, False)
        self._forget_content(row, live)
        if live is not None:
            live.base, live.size, live.mtime_ns = version, version.size, version.mtime_ns
        self._stale_pages.add(row.id)
        self._notify_names(row.id)
        self._learn_attributes(row._replace(told=0), item)
        log.debug("refreshed ino=%d size=%d", row.id, version.size)

    def _forget_content(self, row: InodeRow, live: LiveInode | None) -> None:
        if live is not None:
            self._content.drop_clean(live)
        else:
            self._content.evict_now(row.id)

    # -- gone ----------------------------------------------------------------------------

    def remove_gone(self, parent: InodeId, name: bytes, row: InodeRow) -> None:
        """A clean file is no longer in the cloud: the name goes, open handles stay."""
        with self.changes():
            self._orphan(row, parent, name)
        self._forget_orphan(row.id)

    def _forget_orphan(self, ino: InodeId) -> None:
        if self._table.get(ino) is None:
            self._content.evict_now(ino)
            self._content.reap(ino)
        log.debug("removed ino=%d: gone in the cloud", ino)

    async def remove_gone_dir(self, ino: InodeId) -> None:
        """A directory is no longer in the cloud; what was changed here below it stays."""
        position = 0
        while entries := inodes.read_dir(self._store, ino, position, _GONE_BATCH):
            position = entries[-1][0]
            await self._remove_gone_entries(ino, entries)
        row = inodes.get(self._store, ino)
        if row is None or row.nlink == 0 or not self._went_with_its_directory(row):
            return
        if inodes.has_children(self._store, ino):
            self.make_anew(ino)
            return
        dentry = inodes.names_of(self._store, ino)[0]
        with self.changes():
            inodes.add_nlink(self._store, dentry.parent, -1)
            self._tree.forget_dir_keys()
            self._orphan(row, dentry.parent, dentry.name)
        self._forget_orphan(ino)

    def make_anew(self, ino: InodeId) -> None:
        """A removed directory in which something was changed here, or which was renamed."""
        now = self._clock.now_ns()
        with self.changes():
            inodes.set_base(self._store, ino, None, in_cloud=False, item_id=None, remote_key=None)
            journal.remove_kind(self._store, ino, IntentKind.MOVE)
            journal.add_now(self._store, IntentKind.MKDIR, ino, now, is_dir=True)
            self._tree.forget_dir_keys()

    async def _remove_gone_entries(
        self, parent: InodeId, entries: list[tuple[int, bytes, InodeRow]]
    ) -> None:
        gone = [
            (name, row)
            for _, name, row in entries
            if not row.is_dir and not row.dirty and self._went_with_its_directory(row)
        ]
        with self.changes():
            for name, row in gone:
                self._orphan(row, parent, name)
        for _, row in gone:
            self._forget_orphan(row.id)
        await trio.lowlevel.checkpoint()
        for _, _, row in entries:
            if row.is_dir and self._went_with_its_directory(row):
                await self.remove_gone_dir(row.id)

    def _went_with_its_directory(self, row: InodeRow) -> bool:
        """Whether the item was where its name says, and nothing is promised about it."""
        return bool(row.in_cloud) and row.remote_key is None and not self._is_promised(row)

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
        if item.kind is Kind.FILE and not row.is_dir and item.version is not None:
            live = self._content.pin(row)
            try:
                generation = live.generation
                if await are_equal(self._backend, live, row, item):
                    row = inodes.get(self._store, ino)
                    if row is not None and row.nlink and live.generation == generation:
                        self._adopt_version(row, live, item)
                    return
            finally:
                self._content.unpin(live)
            row = inodes.get(self._store, ino)
            if row is None or row.nlink == 0:
                return
        self.set_aside(row, item)

    def can_recreate(self, row: InodeRow) -> bool:
        """Whether the content is wholly here, so that it can be uploaded as a new item."""
        live = self._table.get(row.id)
        if live is not None:
            return live.present.covers(0, live.size)
        known = contents.get(self._store, row.id)
        return row.size == 0 or (known is not None and known[0].covers(0, row.size))

    def recreate(self, row: InodeRow) -> None:
        """The item is gone, the local side stays: a new item will be made of it."""
        now = self._clock.now_ns()
        live = self._content.pin(row)
        try:
            with self.changes():
                inodes.set_base(
                    self._store, row.id, row.base, in_cloud=False, item_id=None, remote_key=None
                )
                inodes.set_dirty(self._store, row.id)
                for kind in (IntentKind.MOVE, IntentKind.ATTRS):
                    journal.remove_kind(self._store, row.id, kind)
                journal.add_now(self._store, IntentKind.PUT, row.id, now, is_dir=False)
            live.is_dirty = True
            if stat.S_ISREG(row.mode):
                self._content.keep_all(live)
        finally:
            self._content.unpin(live)

    def part(self, row: InodeRow, item: Item) -> None:
        """Renamed and edited here, edited there under the old name: each side keeps its name,
        and ours is a new file."""
        now = self._clock.now_ns()
        with self.changes():
            journal.remove_kind(self._store, row.id, IntentKind.MOVE)
            self._cut_lineage(row, item, now)

    def _adopt_version(self, row: InodeRow, live: LiveInode, item: Item) -> None:
        with self.changes():
            inodes.set_base(
                self._store,
                row.id,
                item.version,
                in_cloud=True,
                item_id=item.location.item_id,
                remote_key=item.location.key,
            )
            inodes.set_clean(self._store, row.id)
            journal.remove_kind(self._store, row.id, IntentKind.PUT)
            if row.remote_key != item.location.key or self._is_moving(row):
                self._tree.settle_place(row.id, self._clock.now_ns())
            if stat.S_ISREG(row.mode):
                self._content.became_clean(live)
            live.base = item.version
        self._content.settle_file(live)
        log.info("adopted ino=%d: the cloud has the same bytes", row.id)

    def set_aside(self, row: InodeRow, item: Item) -> None:
        """Keep both: the cloud's version keeps the name, the local side becomes a
        ``.conflict`` sibling and is uploaded itself. No bytes move."""
        if not self._is_about(row, item):
            return
        removed = journal.delete_at(self._store, item.location.key)
        if removed is not None and _tag(item) == removed.expect_tag:
            # Removed here while somebody was asked what it is: ours will take its place.
            return
        now = self._clock.now_ns()
        dentry = inodes.names_of(self._store, row.id)[0]
        parent, name = dentry.parent, dentry.name
        path = inodes.path_of(self._store, row.id) or name
        with self.changes():
            aside = self._free_conflict_name(parent, name, now)
            inodes.unlink(self._store, parent, name)
            inodes.link(self._store, parent, aside, row.id)
            self._cut_lineage(row, item, now)
            if removed is not None:
                # An edit beats a delete.
                journal.remove(self._store, removed.seq)
            original = self._take_name(parent, name, item)
            self._entries.append((parent, aside))
            if row.is_dir:
                self._tree.forget_dir_keys()
            conflicts.add(
                self._store,
                inode=row.id,
                original=original,
                path=path,
                conflict_name=aside,
                device=self._device,
                other_device=item.device,
                size=self._table.overlay(row).size,
                ancestor_tag=row.base_tag,
                remote=item.version,
                now_ns=now,
            )
        log.warning(
            "conflict: kept both versions path=%s aside=%s",
            path.decode(errors="replace"),
            aside.decode(errors="replace"),
        )

    def _is_about(self, row: InodeRow, item: Item) -> bool:
        """Whether the inode still wants the item's name: it may be called otherwise by now."""
        wanted = (self._tree.target(row).key, self._tree.location(row).key)
        return item.location.key.rstrip("/") in (key.rstrip("/") for key in wanted)

    def _take_name(self, parent: InodeId, name: bytes, item: Item) -> InodeId:
        """The cloud's version gets the name that was ours."""
        key = item.location.key
        shown = self._shown(item)
        known = self._tree.lookup(parent, shown.name)
        if item.kind is Kind.DIR and known is not None and known.is_dir:
            # Ours was shown beside it already.
            return known.id
        is_exact = self._tree.child_key(parent, name, is_dir=item.kind is Kind.DIR) == key
        owner = inodes.by_remote_key(self._store, key)
        if owner is None or owner.nlink == 0 or self._is_moving(owner):
            return self._insert(parent, name, item, None if is_exact else key)
        self._show_as(owner, parent, names.ShownName(name, is_exact))
        return owner.id

    def _cut_lineage(self, row: InodeRow, item: Item, now: int) -> None:
        """The set-aside side is a new file to the cloud, under its new name."""
        if row.in_cloud and self._is_moving(row):
            # It was renamed here and is still elsewhere in the cloud: its MOVE goes on.
            self._tree.settle_place(row.id, now)
            return
        base, remote_key = None, None
        if stat.S_ISREG(row.mode) and row.base is not None and not self.can_recreate(row):
            # Parts no program here has written follow the version that won.
            base, remote_key = item.version, item.location.key
        self._rebase(row, base, remote_key)
        kind = IntentKind.MKDIR if row.is_dir else IntentKind.PUT
        journal.add_now(self._store, kind, row.id, now, is_dir=row.is_dir)

    def _rebase(self, row: InodeRow, base: RemoteVersion | None, remote_key: str | None) -> None:
        """Another version, or none, is below the edits of an inode that is not in the cloud."""
        inodes.set_base(
            self._store, row.id, base, in_cloud=False, item_id=None, remote_key=remote_key
        )
        if not stat.S_ISREG(row.mode):
            return
        live = self._content.pin(row)
        live.base = base
        if base is not None:
            self._content.drop_clean(live)
        self._content.unpin(live)

    # -- one name ------------------------------------------------------------------------

    async def look_again(self, ino: InodeId) -> None:
        """Bring one inode's name up to date: its item is not what the store believes."""
        row = inodes.get(self._store, ino)
        if row is None or row.nlink == 0 or row.id == ROOT or not (row.in_cloud or row.base):
            return
        location = self._tree.location(row)
        try:
            item = await self._backend.head(location, Kind.DIR if row.is_dir else Kind.FILE)
        except NotFound:
            item = None
        await self._end_fetches(ino)
        row = inodes.get(self._store, ino)
        if row is None or row.nlink == 0 or self._tree.location(row).key != location.key:
            return
        if not row.in_cloud:
            await self._look_for_holes(row, item)
        elif item is not None and row.dirty and self._is_moving(row):
            if _tag(item) != row.base_tag:
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

    async def _end_fetches(self, ino: InodeId) -> None:
        """Let nothing of an older version land any more."""
        live = self._table.get(ino)
        fetches = list(live.fetches) if live is not None else []
        for fetch in fetches:
            fetch.scope.cancel()
        for fetch in fetches:
            await fetch.done.wait()

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
            inodes.set_base(
                self._store, row.id, None, in_cloud=False, item_id=None, remote_key=None
            )
            dentry = inodes.names_of(self._store, row.id)[0]
            if not names.is_conflict_name(dentry.name):
                aside = self._free_conflict_name(dentry.parent, dentry.name, self._clock.now_ns())
                inodes.unlink(self._store, dentry.parent, dentry.name)
                inodes.link(self._store, dentry.parent, aside, row.id)
                self._entries += [(dentry.parent, dentry.name), (dentry.parent, aside)]
        live.base = None
        self._content.flush(live)
        log.error(
            "edit of a removed file kept without the bytes that were never fetched ino=%d bytes=%d",
            row.id,
            sum(span.size_bytes for span in missing),
        )


def _tag(item: Item) -> str | None:
    return item.version.tag if item.version else None
