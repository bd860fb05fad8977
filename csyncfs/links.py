"""Files with several names (hard links).

Each name is an item of its own in the cloud, a full copy of the file, so that every other tool
can read it. One of the names is the file's own; the others are *aliases*: inodes that have a
name, a place and promises like any file's, but no content and no attributes. What changes in
the file reaches its own item first; then the aliases' items follow as server-side copies.

An item says of which file it is a name, and with which content (``link``: GROUP.STAMP). So other
mounts know them for one file again.
"""

import errno
import secrets
from typing import Final

from csyncfs.errors import FsError
from csyncfs.places import Places
from csyncfs.store import aliases, inodes, journal
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import IntentKind
from csyncfs.types import InodeId, Location, RemoteVersion

# As ext4 has it.
MAX_LINKS: Final = 65_000


def new_link(old: str | None, stamp: str | None = None) -> str:
    """What items say of a file with new content; the group stays the file's."""
    group = group_of(old) if old else secrets.token_hex(8)
    return f"{group}.{stamp or secrets.token_hex(8)}"


def group_of(link: str) -> str:
    """The part that says which file it is."""
    return link.partition(".")[0]


class Links(Places):
    """Names of files beside their own. Every method is synchronous and atomic."""

    def file_of(self, row: InodeRow) -> InodeRow:
        """What programs see behind a name: the file itself."""
        return row if row.alias_of is None else self.row(row.alias_of)

    def link(self, ino: InodeId, parent: InodeId, name: bytes) -> None:
        """One more name for a file. Its item will be a copy of the file's."""
        now = self._clock.now_ns()
        with self._store.transaction(grows=True):
            row = self.row(ino)
            if row.is_dir:
                raise FsError(errno.EPERM)
            if row.nlink == 0:
                raise FsError(errno.ENOENT)
            if row.nlink >= MAX_LINKS:
                raise FsError(errno.EMLINK)
            self.check_new(parent, name, row.gid, is_dir=False)
            alias = inodes.insert(
                self._store,
                mode=row.mode,
                uid=row.uid,
                gid=row.gid,
                now_ns=now,
                dirty=True,
                alias_of=ino,
            )
            inodes.link(self._store, parent, name, alias)
            inodes.touch_dir(self._store, parent, now)
            inodes.set_nlink(self._store, ino, row.nlink + 1, now)
            self.promise(IntentKind.PUT, alias, now, is_dir=False)
            if row.link is None:
                aliases.set_link(self._store, ino, new_link(None))
                self.promise_attributes(row, now)
        self._journal_grew()

    def follow(self, ino: InodeId, now: int, delay_ns: int = 0) -> None:
        """The file's item is another one now: those of its further names have to follow."""
        for alias in aliases.of(self._store, ino):
            inodes.set_dirty(self._store, alias.id)
            journal.add(
                self._store,
                IntentKind.PUT,
                alias.id,
                is_dir=False,
                not_before_ns=now + delay_ns,
                now_ns=now,
            )

    # -- fewer names ---------------------------------------------------------------------

    def drop_alias(self, row: InodeRow, now: int) -> None:
        """A further name goes, and its item with it."""
        place = self.location(row) if row.in_cloud else None
        self.take_alias_away(row, now)
        if place is not None:
            self.delete_item(row.id, place, row.base, now)
        self.forget_alias(row, now)

    def take_alias_away(self, row: InodeRow, now: int) -> None:
        """The file has one name less; what becomes of the item is the caller's matter."""
        dentry = self._dentry(row.id)
        inodes.unlink(self._store, dentry.parent, dentry.name)
        file = self.file_of(row)
        inodes.set_nlink(self._store, file.id, file.nlink - 1, now)

    def inherit_name(self, row: InodeRow, heir: InodeRow, now: int) -> None:
        """The file's own name goes: a further one becomes its own."""
        has_item = self._has_its_item(row, heir)
        place = self.location(row) if row.in_cloud else None
        heirs_place = self.location(heir) if heir.in_cloud else None
        self.pin_place(row)
        self.take_name_of(row, heir, now)
        if has_item and place is not None:
            self.delete_item(row.id, place, row.base, now)
            self.take_item_of(row, heir, now)
        else:
            # As if it were renamed over the further name.
            if heirs_place is not None:
                self.delete_item(heir.id, heirs_place, heir.base, now)
            self.settle_place(row.id, now)
        self.forget_alias(heir, now)

    def take_name_of(self, row: InodeRow, heir: InodeRow, now: int) -> None:
        """Of two names of a file its own goes."""
        own, name = self._dentry(row.id), self._dentry(heir.id)
        inodes.unlink(self._store, own.parent, own.name)
        inodes.unlink(self._store, name.parent, name.name)
        inodes.link(self._store, name.parent, name.name, row.id, name.id)
        inodes.set_nlink(self._store, row.id, row.nlink - 1, now)

    def take_item_of(self, row: InodeRow, heir: InodeRow, now: int) -> None:
        """The item of a name that the file took becomes its own. Same bytes, another version."""
        inodes.set_base(
            self._store,
            row.id,
            heir.base,
            in_cloud=True,
            item_id=heir.item_id,
            remote_key=heir.remote_key,
        )
        inodes.set_no_item(self._store, heir.id)
        aliases.set_link(self._store, row.id, heir.link)
        self._table.rebase(self._store, row.id, heir.base)
        journal.remove_kind(self._store, row.id, IntentKind.MOVE)
        if journal.find(self._store, heir.id, IntentKind.MOVE):
            self.settle_place(row.id, now)

    def _has_its_item(self, row: InodeRow, heir: InodeRow) -> bool:
        """Whether the item of the further name is the file as it is now, and at rest."""
        live = self._table.get(row.id)
        is_at_work = not self._table.running.isdisjoint((row.id, heir.id))
        return (
            self.is_copy(row, heir)
            and not is_at_work
            and not (live is not None and live.fetches)
            and not journal.find(self._store, row.id, IntentKind.ATTRS)
        )

    @staticmethod
    def is_copy(row: InodeRow, heir: InodeRow) -> bool:
        """Whether the item of a further name has the content that the file's own has."""
        is_there = heir.in_cloud and heir.base_tag is not None
        return bool(is_there) and heir.link == row.link and not (row.dirty or heir.dirty)

    def forget_alias(self, row: InodeRow, now: int) -> None:
        """Nothing of a further name is left but what the journal says."""
        inodes.set_nlink(self._store, row.id, 0, now)
        journal.remove_all(self._store, row.id)
        # Else it goes when that is carried out.
        if row.id not in self._table.running and not journal.has_any(self._store, row.id):
            inodes.delete(self._store, row.id)

    def delete_item(
        self, ino: InodeId, place: Location, version: RemoteVersion | None, now: int
    ) -> None:
        """Promise that a file's item goes, unless somebody changes it."""
        due = now + self.policy.upload_delay_ns
        journal.add_delete(
            self._store, ino, place, version, is_dir=False, not_before_ns=due, now_ns=now
        )

    # -- equal names ---------------------------------------------------------------------

    def swap_with_alias(self, row: InodeRow, alias: InodeRow) -> None:
        """A further name becomes the file's own, and that a further one; items stay with names.

        Only while nothing is promised about either.
        """
        aliases.swap_names(self._store, self._dentry(row.id), self._dentry(alias.id))
        for ino, other in ((row.id, alias), (alias.id, row)):
            inodes.set_base(
                self._store,
                ino,
                other.base,
                in_cloud=bool(other.in_cloud),
                item_id=other.item_id,
                remote_key=other.remote_key,
            )
            self._table.rebase(self._store, ino, other.base)
            aliases.set_link(self._store, ino, other.link)
