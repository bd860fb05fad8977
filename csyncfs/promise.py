"""What all kinds of intents need when they run: where to, over what, with which attributes,
and what success makes true."""

import uuid
from dataclasses import replace
from typing import Protocol

from csyncfs.backends.base import Backend, Writing
from csyncfs.clock import Clock
from csyncfs.cutoff import CutOff
from csyncfs.errors import CsyncError, Hold, NotFound, Retry
from csyncfs.inode import InodeTable, attributes_of
from csyncfs.ordering import Ordering, other_kind
from csyncfs.store import aliases, attempts, inodes, journal
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import Intent, IntentKind
from csyncfs.tree import Tree
from csyncfs.types import (
    ABSENT,
    Expect,
    InodeId,
    Item,
    Kind,
    Location,
    RemoteVersion,
)


class NotYet(CsyncError):
    """Something else has to happen first; try again soon."""


class Watcher(Protocol):
    """Told of every key this mount changed, so that a listing under way does not take an
    older answer for news; and of directories worth looking at again."""

    def touched(self, key: str) -> None: ...

    def look_soon(self, directory: InodeId) -> None: ...

    async def learn_names(self, directory: InodeId) -> None: ...


class Promise:
    """The common part of carrying out an intent."""

    def __init__(
        self,
        store: Store,
        table: InodeTable,
        tree: Tree,
        backend: Backend,
        watcher: Watcher,
        ordering: Ordering,
        clock: Clock,
        *,
        device: str,
    ) -> None:
        self.store = store
        self.table = table
        self.tree = tree
        self.backend = backend
        self.watcher = watcher
        self.ordering = ordering
        self.clock = clock
        self.device = device
        self.cut_off = CutOff(store)

    def claim(self, ino: InodeId, target: Location) -> tuple[Expect, Intent | None, Location]:
        """What a new version at this key has to replace: nothing, or what a pending DELETE
        would remove (one conditional overwrite does both, and keeps the item's history)."""
        self.must_be_free(ino, target.key)
        self.must_be_idle(ino, target.key)
        absorbed = journal.delete_at(self.store, target.key)
        if absorbed is None:
            return ABSENT, None, target
        is_other_running = absorbed.inode != ino and absorbed.inode in self.table.running
        if is_other_running or self.ordering.is_needed_by_reader(target.key):
            raise NotYet("the replaced file is still in use")
        if absorbed.expect is None:
            raise NotYet("a directory has to go first")
        self.must_stay(target.key)
        return absorbed.expect, absorbed, absorbed.location

    def must_be_free(self, ino: InodeId, key: str) -> None:
        """Raise NotYet while another inode's item, or a directory or file of the same name
        that was removed here, is or may be at the key in the cloud."""
        owner = self.ordering.owner(key)
        if owner is not None and owner.id != ino:
            raise NotYet("the name still belongs to another item in the cloud")
        if before := journal.delete_at(self.store, other_kind(key)):
            if before.hold is not None:
                raise Hold(f"what had the name before has to go first: {before.hold}")
            raise NotYet("what had the name before has to go first")
        # What was there before a removed one has a DELETE too, which is for the caller to look at.
        excused = {ino, *journal.deleters_at(self.store, key, is_known=True)}
        excused -= {attempt.inode for attempt in attempts.tree_moves(self.store)} - {ino}
        for taken in (key, other_kind(key)):
            if not excused.issuperset(attempts.makers_at(self.store, taken)):
                raise NotYet("it has to be known first what another request for it has done")

    def must_stay(self, key: str) -> None:
        """Raise NotYet while a request to remove what is at the key may still have an effect."""
        if self.cut_off.may_remove(key):
            raise NotYet("a removal without reply may still be carried out")

    def must_be_idle(self, ino: InodeId, key: str) -> None:
        """Raise NotYet while another inode's request puts something there: what is to be removed
        may be what that one replaces, and where the store compares and removes in two steps,
        the new item would go."""
        if self.ordering.is_worked_on(key, ino):
            raise NotYet("a request to this name is on its way")

    def works_on(self, ino: InodeId, *keys: str) -> None:
        """Note what is being changed, for the order of others and for running listings.

        Right before the request. Raises NotYet below a directory that is moving just now.
        """
        if self.ordering.is_below_moving(keys, ino):
            raise NotYet("the directory is on its way to another place")
        self.ordering.running_keys[ino] = keys

    def sends(
        self, row: InodeRow, key: str, *, put_id: str | None = None, tag: str | None = None
    ) -> None:
        """Write down what the request is about to make, or move, in case no reply comes."""
        with self.store.transaction():
            attempts.note(self.store, row.id, key, is_dir=bool(row.is_dir), put_id=put_id, tag=tag)

    def writing(self, row: InodeRow, put_id: str) -> Writing:
        """The attributes as they are now of the inode, or of the file that it is a name of."""
        file = self.table.overlay(self.tree.file_of(row))
        attributes = replace(attributes_of(self.store, file), link=row.link)
        return Writing(attributes, put_id, self.device)

    def settle(self, row: InodeRow, target: Location, item: Item, now: int) -> None:
        """The item is there now, and it is known what became of the request that made it."""
        # First: a MOVE stays as long as it is not known what an attempt did.
        attempts.forget(self.store, row.id)
        self.tree.stand_on(row, item, target.key, now)

    def delete_later(
        self, ino: InodeId, place: Location, version: RemoteVersion | None, *, is_dir: bool
    ) -> None:
        """Promise that this version goes, now that another one stands for the inode."""
        now = self.clock.now_ns()
        pending = journal.delete_at(self.store, place.key)
        # One of a lost attempt takes only what that made: this version needs its own.
        if pending is not None and pending.inode == ino and pending.put_id is None:
            journal.set_expect(self.store, pending.seq, version)
            return
        journal.add_delete(
            self.store, ino, place, version, is_dir=is_dir, not_before_ns=now, now_ns=now
        )

    def recheck_attributes(self, ino: InodeId, sent: Writing, now: int) -> None:
        """chmod and friends during the request were not carried by it."""
        row = self.tree.row(ino)
        policy, current = self.tree.policy, self.writing(row, sent.put_id).attributes
        if self.ordering.is_pending(ino, IntentKind.PUT):
            return
        if not policy.keeps_attributes:
            is_time = policy.keeps_mtime and not row.is_dir and row.alias_of is None
            if not is_time or current.mtime_ns == sent.attributes.mtime_ns:
                return
        elif current == sent.attributes:
            return
        if row.alias_of is not None:
            self.tree.follow(row.alias_of, now)
        else:
            journal.add_now(self.store, IntentKind.ATTRS, ino, now, is_dir=row.is_dir)

    def goal(self, row: InodeRow) -> tuple[Expect, Intent | None, Location]:
        """Where a file's content goes, which version there has to be there, and the DELETE that
        the new one makes void."""
        target = self.tree.target(row)
        # Renamed and back, or with a directory, it may be there with a MOVE that is to find out.
        moves = self.tree.is_elsewhere(row, target.key) and (
            self.ordering.is_pending(row.id, IntentKind.MOVE)
        )
        if row.in_cloud and row.base is not None and not moves:
            return row.base, None, self.tree.location(row)
        return self.claim(row.id, target)

    def start_put(self, intent: Intent, generation: int) -> tuple[str, str | None]:
        """Put id and resume state: the same for every try with the same content, so that a
        lost reply is recognised."""
        if intent.put_id is not None and intent.put_generation == generation:
            return intent.put_id, intent.resume
        put_id = uuid.uuid4().hex
        with self.store.transaction():
            journal.start_put(self.store, intent.seq, put_id, generation)
        return put_id, None

    def settle_put(
        self,
        before: InodeRow,
        target: Location,
        writing: Writing,
        item: Item,
    ) -> InodeRow | None:
        """What is true of every PUT that succeeded, inside its transaction. None: the inode was
        unlinked meanwhile, and what was made has to go again."""
        journal.remove_void_deletes(self.store, target.key)
        row = inodes.get(self.store, before.id)
        if row is None or row.nlink == 0:
            self.delete_later(before.id, target, item.version, is_dir=False)
            return None
        if self.tree.is_elsewhere(before, target.key):
            old = self.tree.location(before)
            self.delete_later(row.id, old, before.base, is_dir=False)
        self.settle(row, target, item, self.clock.now_ns())
        sent = writing.attributes.link
        # One that it got meanwhile, with a further name, the item has to be told of yet.
        if sent is not None and row.link != sent:
            aliases.set_link(self.store, row.id, sent)
        return row

    def refused(
        self,
        row: InodeRow,
        target: Location,
        expect: Expect,
        absorbed: Intent | None,
        item: Item | None,
    ) -> None:
        """Somebody else changed what was about to be overwritten; or has the store no reason?"""
        if item is not None and is_as_expected(item, expect):
            raise Retry("the store refused a version that it still has")
        if absorbed is not None:
            # The DELETE has nothing to delete any more: gone, or edited, which beats it.
            journal.remove(self.store, absorbed.seq)
        self.watcher.touched(target.key)
        if item is None and self.tree.is_elsewhere(row, target.key):
            # What it was to take the place of is gone; nothing of its own is.
            raise NotYet("what was to be overwritten is gone")

    def look_at_parent(self, ino: InodeId) -> None:
        """List the directory soon that the inode is in."""
        for dentry in inodes.names_of(self.store, ino):
            self.watcher.look_soon(dentry.parent)

    async def head(self, location: Location, kind: Kind, resume: str | None = None) -> Item | None:
        try:
            return await self.backend.head(location, kind, resume)
        except NotFound:
            return None


def is_as_expected(item: Item | None, expect: Expect) -> bool:
    """Whether a request on this condition cannot have been refused because of this item."""
    if isinstance(expect, RemoteVersion):
        return item is not None and item.version is not None and item.version.tag == expect.tag
    return item is None
