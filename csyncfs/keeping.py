"""What becomes of an inode whose item is another one now, or gone: each step one transaction.

Bytes of programs are kept in any case: uploaded anew, or set aside under a ``.conflict`` name.
"""

import logging
import stat
from dataclasses import replace

import trio

from csyncfs import names
from csyncfs.arrivals import FOLLOW_NS, Arrivals
from csyncfs.inode import LiveInode, attributes_of
from csyncfs.links import new_link
from csyncfs.store import aliases, conflicts, contents, inodes, journal
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import IntentKind
from csyncfs.types import ROOT, InodeId, Item, Kind, RemoteVersion

log = logging.getLogger(__name__)

# Entries of a removed directory that go in one transaction: about 2 ms of the loop.
_GONE_BATCH = 25


class Keeping(Arrivals):
    """Takes the cloud's side over, or keeps both."""

    def shown(self, item: Item) -> names.ShownName:
        """What an item is called here, if nothing else has the name."""
        _, segment = names.split_key(item.location.key, item.kind)
        return names.to_name(segment, utf8_only=not self._tree.policy.raw_names)

    def _show_as(self, row: InodeRow, parent: InodeId, shown: names.ShownName) -> None:
        """What had to have another name beside it is gone: the item's own name is free."""
        self._rename_shown(row, parent, shown.name)
        if shown.is_exact:
            inodes.set_remote_key(self._store, row.id, None)

    def _rename_shown(self, row: InodeRow, parent: InodeId, name: bytes) -> None:
        for dentry in inodes.names_of(self._store, row.id):
            inodes.unlink(self._store, dentry.parent, dentry.name)
            self._entries.append((dentry.parent, dentry.name))
        inodes.link(self._store, parent, name, row.id)
        self._entries.append((parent, name))

    def renamed(self, row: InodeRow, parent: InodeId, item: Item) -> bool:
        """Somebody else gave the item another name or directory: a clean inode follows it, inside
        ``changes``. False: it cannot, the name is taken."""
        shown = self.shown(item)
        is_free = self._tree.lookup(parent, shown.name) is None
        if not is_free or row.is_linked or row.remote_key is not None:
            return False
        if row.is_dir and self._is_inside(parent, row.id):
            return False
        old, above = self._tree.location(row), inodes.names_of(self._store, row.id)[0].parent
        self._rename_shown(row, parent, shown.name)
        if not shown.is_exact:
            inodes.set_remote_key(self._store, row.id, item.location.key)
        if row.is_dir:
            inodes.add_nlink(self._store, above, -1)
            inodes.add_nlink(self._store, parent, 1)
            inodes.rebase_keys(self._store, old.key, item.location.key)
            journal.rebase_keys(self._store, old.key, item.location.key)
            self._tree.forget_dir_keys()
        log.debug("renamed in the cloud ino=%d key=%r", row.id, item.location.key)
        return True

    def _is_inside(self, ino: InodeId, top: InodeId) -> bool:
        while ino not in (top, ROOT):
            found = inodes.names_of(self._store, ino)
            if not found:
                return False
            ino = found[0].parent
        return ino == top

    def take_over(self, row: InodeRow, item: Item) -> None:
        """A clean inode gets the item's version, inside ``changes``: in place if nobody has
        seen bytes of the old one through an open handle, else as a new inode."""
        live = self._table.get(row.id)
        if live is not None and (live.was_read or live.pins or live.dirty or live.fetches):
            self._replace(row, item)
            return
        version = item.version
        assert version is not None
        inodes.set_item(self._store, row.id, item, row.remote_key)
        inodes.set_size(self._store, row.id, version.size, version.mtime_ns)
        inodes.set_told(self._store, row.id, False)
        self._forget_content(row, live)
        if live is not None:
            live.base, live.size, live.mtime_ns = version, version.size, version.mtime_ns
        self._stale_pages.add(row.id)
        self._notify_names(row.id)
        self._take_link(row, item)
        self._learn_attributes(row._replace(told=0), item)
        log.debug("refreshed ino=%d size=%d", row.id, version.size)

    def _take_link(self, row: InodeRow, item: Item) -> None:
        """The new version is of the same file, or of another one. What is not known is not kept:
        a wrong answer would make one file of two."""
        if row.is_linked and item.attributes is not None:
            aliases.set_link(self._store, row.id, item.attributes.link)
            self._tree.follow(row.id, self._clock.now_ns(), FOLLOW_NS)
        elif row.link is not None and item.attributes is None:
            aliases.set_link(self._store, row.id, None)

    def _forget_content(self, row: InodeRow, live: LiveInode | None) -> None:
        if live is not None:
            self._content.drop_clean(live)
        else:
            self._content.evict_now(row.id)

    # -- gone --------------------------------------------------------------------------

    def remove_gone(self, parent: InodeId, name: bytes, row: InodeRow) -> None:
        """A clean file is no longer in the cloud: the name goes, open handles stay."""
        with self.changes():
            left = self._take_away(row, parent, name)
        self._forget_orphan(row.id)
        self._keep_rest(left)

    def _take_away(self, row: InodeRow, parent: InodeId, name: bytes) -> InodeId | None:
        """A name goes because its item is gone. Returns the file if it has other names but now
        no item of its own."""
        if not row.is_linked:
            self._orphan(row, parent, name)
            return None
        now = self._clock.now_ns()
        self._entries.append((parent, name))
        self._attributes.append(self._tree.file_of(row).id)
        if row.alias_of is not None:
            self._tree.take_alias_away(row, now)
            self._drop_lineage(row.id)
            self._tree.forget_alias(row, now)
            return None
        return self._inherit_gone(row, parent, name, now)

    def _inherit_gone(
        self, row: InodeRow, parent: InodeId, name: bytes, now: int
    ) -> InodeId | None:
        """As ``_take_away``, of the file's own name: one of the others becomes its own."""
        heirs = aliases.of(self._store, row.id)
        heir = min(heirs, key=lambda heir: (not self._tree.is_copy(row, heir), not heir.in_cloud))
        place = self._tree.location(heir) if heir.in_cloud else None
        is_copy = self._tree.is_copy(row, heir)
        if place is None and not self.can_recreate(row):
            # Nobody has the content any more.
            for other in heirs:
                self._notify_names(other.id)
                self._tree.take_alias_away(other, now)
                self._tree.forget_alias(other, now)
            self._orphan(row, parent, name)
            return None
        self._tree.take_name_of(row, heir, now)
        if is_copy or (place is not None and not self.can_recreate(row)):
            self._tree.take_item_of(row, heir, now)
            if not is_copy and heir.base is not None:
                # Newer content was in the item that is gone, and nowhere else.
                inodes.set_size(self._store, row.id, heir.base.size, heir.base.mtime_ns)
                self._forget_content(row, self._table.get(row.id))
                self._stale_pages.add(row.id)
            self._tree.forget_alias(heir, now)
            return None
        if place is not None:
            journal.add_delete(
                self._store, heir.id, place, heir.base, is_dir=False, not_before_ns=now, now_ns=now
            )
        self._tree.forget_alias(heir, now)
        return row.id

    def _keep_rest(self, ino: InodeId | None) -> None:
        row = inodes.get(self._store, ino) if ino is not None else None
        if row is not None and row.nlink:
            self.recreate(row)

    def _drop_lineage(self, ino: InodeId) -> None:
        inodes.set_no_item(self._store, ino)

    def _forget_orphan(self, ino: InodeId) -> None:
        row = inodes.get(self._store, ino)
        if row is not None and row.nlink:
            return
        if self._table.get(ino) is None:
            self._content.evict_now(ino)
            self._content.reap(ino)
        log.debug("removed ino=%d: gone in the cloud", ino)

    async def remove_gone_dir(self, top: InodeId) -> None:
        """A directory is no longer in the cloud; what was changed here below it stays."""
        # Not by recursion: directories may be nested thousands deep.
        under_way = [(top, 0)]
        while under_way:
            ino, position = under_way.pop()
            entries = inodes.read_dir(self._store, ino, position, _GONE_BATCH)
            if not entries:
                self._remove_gone_rest(ino)
                continue
            under_way.append((ino, entries[-1][0]))
            await self._remove_gone_files(ino, entries)
            for _, _, row in entries:
                if row.is_dir and self._went_with_its_directory(row):
                    under_way.append((row.id, 0))

    def _remove_gone_rest(self, ino: InodeId) -> None:
        """The directory itself, if nothing is left in it."""
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
            inodes.set_no_item(self._store, ino)
            journal.remove_kind(self._store, ino, IntentKind.MOVE)
            journal.add_now(self._store, IntentKind.MKDIR, ino, now, is_dir=True)
            self._tree.forget_dir_keys()

    async def _remove_gone_files(
        self, parent: InodeId, entries: list[tuple[int, bytes, InodeRow]]
    ) -> None:
        gone = [
            (name, row)
            for _, name, row in entries
            if not row.is_dir
            and not row.dirty
            and not self._tree.file_of(row).dirty
            and self._went_with_its_directory(row)
        ]
        left: list[InodeId | None] = []
        with self.changes():
            for name, _ in gone:
                # The name before may have been another one of the same file.
                current = self._tree.lookup(parent, name)
                if current is not None:
                    left.append(self._take_away(current, parent, name))
        for _, row in gone:
            self._forget_orphan(row.id)
        for ino in left:
            self._keep_rest(ino)
        await trio.lowlevel.checkpoint()

    def _went_with_its_directory(self, row: InodeRow) -> bool:
        """Whether the item was where its name says, and nothing is promised about it."""
        return bool(row.in_cloud) and row.remote_key is None and not self._is_promised(row)

    # -- both sides changed ------------------------------------------------------------

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
        log.debug("made anew ino=%d: gone in the cloud", row.id)
        row = self._lean_on_another_name(row)
        if row.alias_of is not None:
            with self.changes():
                self._drop_lineage(row.id)
                inodes.set_dirty(self._store, row.id)
                journal.remove_kind(self._store, row.id, IntentKind.MOVE)
                journal.add_now(self._store, IntentKind.PUT, row.id, now, is_dir=False)
            return
        live = self._content.pin(row)
        try:
            with self.changes():
                inodes.set_no_item(self._store, row.id, row.base)
                inodes.set_dirty(self._store, row.id)
                for kind in (IntentKind.MOVE, IntentKind.ATTRS):
                    journal.remove_kind(self._store, row.id, kind)
                journal.add_now(self._store, IntentKind.PUT, row.id, now, is_dir=False)
            live.is_dirty = True
            if stat.S_ISREG(row.mode):
                self._content.keep_all(live)
        finally:
            self._content.unpin(live)

    def _lean_on_another_name(self, row: InodeRow) -> InodeRow:
        """The item below a file's edits is gone, and parts of it were never fetched. If another of
        its names has them still, that becomes the file's own. Returns whose item is gone."""
        if row.alias_of is not None or not self._has_holes(row):
            return row
        for alias in aliases.of(self._store, row.id):
            is_good = alias.in_cloud and alias.base is not None and not alias.dirty
            if is_good and alias.link == row.link and not self._is_promised(alias):
                with self.changes():
                    self._tree.swap_with_alias(row, alias)
                return self._tree.row(alias.id)
        return row

    def part(self, row: InodeRow, item: Item) -> None:
        """Renamed and edited here, edited there under the old name: each side keeps its name,
        and ours is a new file."""
        now = self._clock.now_ns()
        with self.changes():
            journal.remove_kind(self._store, row.id, IntentKind.MOVE)
            self._cut_lineage(row, item, now)

    def _adopt_version(self, row: InodeRow, live: LiveInode, item: Item) -> None:
        now = self._clock.now_ns()
        with self.changes():
            inodes.set_clean(self._store, row.id)
            journal.remove_kind(self._store, row.id, IntentKind.PUT)
            if self._tree.is_elsewhere(row, item.location.key):
                # Renamed here: what is under the old name has to go.
                self._tree.delete_item(row.id, self._tree.location(row), row.base, now)
            self._tree.stand_on(row, item, item.location.key, now)
            if row.link is not None:
                self._stamp_anew(row, item)
            if stat.S_ISREG(row.mode):
                self._content.became_clean(live)
            else:
                live.is_dirty = False
            if not self._says(item, row):
                # Ours are newer: the PUT that goes would have carried them.
                journal.add_now(self._store, IntentKind.ATTRS, row.id, now, is_dir=False)
        self._content.settle_file(live)
        log.info("adopted ino=%d: the cloud has the same bytes", row.id)

    def _says(self, item: Item, row: InodeRow) -> bool:
        """Whether the item is known to carry the attributes the file has here."""
        if not self._tree.policy.keeps_attributes:
            return True
        own = attributes_of(self._store, self._table.overlay(row))
        return item.attributes is not None and replace(item.attributes, link=None) == own

    def _stamp_anew(self, row: InodeRow, item: Item) -> None:
        """The item is the file's now, with content that its other names have not yet."""
        told = item.attributes.link if item.attributes is not None else None
        now = self._clock.now_ns()
        aliases.set_link(self._store, row.id, told or new_link(row.link))
        if told is None:
            self._tree.promise_attributes(self._tree.row(row.id), now)
        self._tree.follow(row.id, now)

    def set_aside(self, row: InodeRow, item: Item) -> None:
        """Keep both: the cloud's version keeps the name, the local side becomes a
        ``.conflict`` sibling and is uploaded itself. No bytes move."""
        if not self._is_about(row, item):
            return
        removed = journal.delete_at(self._store, item.location.key)
        if removed is not None and tag_of(item) == removed.expect_tag:
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
                size=self._table.overlay(self._tree.file_of(row)).size,
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
        shown = self.shown(item)
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
        if row.alias_of is not None:
            inodes.set_dirty(self._store, row.id)
        elif row.link is not None:
            aliases.set_link(self._store, row.id, new_link(None))
        if self._has_holes(row):
            # Parts no program here has written follow the version that won.
            base, remote_key = item.version, item.location.key
        self._rebase(row, base, remote_key)
        kind = IntentKind.MKDIR if row.is_dir else IntentKind.PUT
        journal.add_now(self._store, kind, row.id, now, is_dir=row.is_dir)

    def _has_holes(self, row: InodeRow) -> bool:
        """Whether part of the content is only in the version the inode descends from."""
        is_file = stat.S_ISREG(row.mode) and row.alias_of is None
        return is_file and row.base is not None and not self.can_recreate(row)

    def _rebase(self, row: InodeRow, base: RemoteVersion | None, remote_key: str | None) -> None:
        """Another version, or none, is below the edits of an inode that is not in the cloud."""
        inodes.set_base(
            self._store, row.id, base, in_cloud=False, item_id=None, remote_key=remote_key
        )
        if not stat.S_ISREG(row.mode) or row.alias_of is not None:
            return
        live = self._content.pin(row)
        # At once: what is dropped, and where zeros end it, follows from it.
        live.base = base
        if base is not None:
            self._content.drop_clean(live)
        self._content.unpin(live)

    async def _end_fetches(self, ino: InodeId) -> None:
        """Let nothing of an older version land any more."""
        live = self._table.get(ino)
        fetches = list(live.fetches) if live is not None else []
        for fetch in fetches:
            fetch.scope.cancel()
        for fetch in fetches:
            await fetch.done.wait()


def tag_of(item: Item) -> str | None:
    """The version's tag, if the item has a version."""
    return item.version.tag if item.version else None
