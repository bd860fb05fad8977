"""MOVE, MKDIR, ATTRS and DELETE: everything that changes names and attributes in the cloud."""

import logging
import stat
import uuid

import trio

from csyncfs.adopt import Adopter
from csyncfs.backends.base import Writing
from csyncfs.errors import NotFound, Retry, VersionMismatch
from csyncfs.ordering import ASIDE, Capable
from csyncfs.promise import NotYet, Promise, is_as_expected
from csyncfs.store import inodes, journal
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import Intent, IntentKind
from csyncfs.types import ABSENT, RESERVED_DIR, Attributes, Expect, InodeId, Item, Kind, Location

log = logging.getLogger(__name__)

# Children that get a MOVE of their own in one transaction (about 10 ms of the loop).
_PUSH_DOWN = 200
# A larger file is renamed over the other one: its history is not worth another upload.
_SENT_INSTEAD_BYTES = 256 << 20


class Moves:
    """Carries out MOVE, MKDIR, ATTRS and DELETE intents."""

    def __init__(self, promise: Promise, adopter: Adopter, capable: Capable) -> None:
        self._promise = promise
        self._store = promise.store
        self._tree = promise.tree
        self._backend = promise.backend
        self._adopter = adopter
        self._capable = capable

    # -- files ---------------------------------------------------------------------------

    async def move_file(self, intent: Intent, row: InodeRow) -> None:
        """Bring the item to where the name says; conditional on both ends."""
        source = self._tree.location(row)
        target = self._tree.target(row)
        if await self._was_aside(intent, row, source, Kind.FILE):
            return
        if source.key == target.key or not row.in_cloud or row.base is None:
            self._stay(intent, row, source)
            return
        try:
            self._need_parents(row.id)
            expect, absorbed, target = self._promise.claim(row.id, target)
        except NotYet:
            if not self._promise.ordering.can_step_aside(row):
                raise
            await self._step_aside(intent, row, source)
            return
        if absorbed is not None and self._is_better_sent(row):
            self._send_instead(row, source)
            return
        await self._transfer(intent, row, source, target, expect, absorbed)

    def _is_better_sent(self, row: InodeRow) -> bool:
        """Whether the content goes over what has the name, instead of the item: a file that was
        saved under another name, and renamed, keeps its history."""
        return (
            self._capable.overwrite_keeps_history
            and stat.S_ISREG(row.mode)
            and not row.is_linked
            and row.size <= _SENT_INSTEAD_BYTES
            and self._adopter.can_recreate(row)
        )

    def _send_instead(self, row: InodeRow, source: Location) -> None:
        with self._store.transaction():
            self._promise.delete_later(row.id, source, row.base, is_dir=False)
            self._adopter.recreate(row)

    async def _transfer(
        self,
        intent: Intent,
        row: InodeRow,
        source: Location,
        target: Location,
        expect: Expect,
        absorbed: Intent | None,
    ) -> None:
        base = row.base
        assert base is not None
        writing = self._promise.writing(row, self._put_id(intent))
        self._promise.works_on(row.id, source.key, target.key)
        try:
            if self._capable.move_file:
                self._promise.sends(row, target.key, tag=base.tag)
                item = await self._backend.move(source, target, Kind.FILE, base, expect)
            else:
                self._promise.sends(row, target.key, put_id=writing.put_id)
                item = await self._backend.copy(source, target, writing, base, expect)
        except NotFound:
            moved = await self._moved_before(row, target)
            if moved is None:
                await self._source_changed(row, source)
                return
            item = moved
        except VersionMismatch as exc:
            await self._move_refused(row, source, target, expect, absorbed, exc)
            return
        now = self._promise.clock.now_ns()
        with self._store.transaction():
            journal.remove_void_deletes(self._store, target.key)
            if not self._capable.move_file:
                self._promise.delete_later(row.id, source, base, is_dir=False)
            self._forget_aside(intent, source)
            self._moved(row.id, target, item, now)
            if not self._capable.move_file and row.nlink:
                self._promise.recheck_attributes(row.id, writing, now)

    def _moved(self, ino: InodeId, target: Location, item: Item, now: int) -> None:
        current = inodes.get(self._store, ino)
        if current is None or current.nlink == 0:
            # Unlinked meanwhile: the DELETE of the old place is in the journal already.
            self._promise.delete_later(ino, target, item.version, is_dir=False)
            return
        self._promise.settle(current, target, item, now)

    def _put_id(self, intent: Intent) -> str:
        if intent.put_id is not None:
            return intent.put_id
        put_id = uuid.uuid4().hex
        with self._store.transaction():
            journal.start_put(self._store, intent.seq, put_id, 0)
        return put_id

    def _need_parents(self, ino: InodeId) -> None:
        if self._promise.ordering.pending_ancestor(ino) is not None:
            raise NotYet("the directory it goes into has to come first")

    async def _step_aside(self, intent: Intent, row: InodeRow, source: Location) -> None:
        """Two files swapped names: one waits outside while the other passes."""
        base = row.base
        assert base is not None
        # The same place at every try: what a lost reply left there is found again.
        put_id = self._put_id(intent)
        aside = Location(ASIDE + put_id)
        with self._store.transaction():
            journal.save_resume(self._store, intent.seq, aside.key)
        await self._make_aside_parents()
        self._promise.works_on(row.id, source.key, aside.key)
        try:
            if self._capable.move_file:
                item = await self._backend.move(source, aside, Kind.FILE, base, ABSENT)
            else:
                writing = self._promise.writing(row, put_id)
                item = await self._backend.copy(source, aside, writing, base, ABSENT)
        except (NotFound, VersionMismatch):
            moved = await self._moved_before(row, aside)
            if moved is None:
                await self._source_changed(row, source)
                return
            item = moved
        with self._store.transaction():
            if not self._capable.move_file:
                self._promise.delete_later(row.id, source, base, is_dir=False)
            self._moved(row.id, aside, item, self._promise.clock.now_ns())

    def _stay(self, intent: Intent, row: InodeRow, source: Location) -> None:
        """The name says that the item is where it was."""
        with self._store.transaction():
            self._forget_aside(intent, source)
            self._tree.settle_place(row.id, self._promise.clock.now_ns())

    async def _was_aside(self, intent: Intent, row: InodeRow, source: Location, kind: Kind) -> bool:
        """Whether an earlier try, whose reply was lost, left the item outside: then that is
        where it goes on from."""
        aside = self._aside_of(intent, source) if row.in_cloud else None
        if aside is None or not (
            self._capable.move_tree if kind is Kind.DIR else self._capable.move_file
        ):
            return False
        item = await self._promise.head(aside, kind)
        if item is None:
            return False
        if kind is Kind.DIR:
            self.tree_moved(row, source, aside, item)
            return True
        with self._store.transaction():
            self._moved(row.id, aside, item, self._promise.clock.now_ns())
        return True

    def _aside_of(self, intent: Intent, source: Location) -> Location | None:
        """Where an earlier try wanted to let the item wait, if it is not known to be there."""
        if intent.resume is None or intent.resume == source.key:
            return None
        return Location(intent.resume)

    def _forget_aside(self, intent: Intent, source: Location) -> None:
        """A crash may have left a copy outside that is not needed any more."""
        aside = self._aside_of(intent, source)
        if aside is not None and not aside.key.endswith("/"):
            self._promise.delete_later(intent.inode, aside, None, is_dir=False)
        if intent.resume is not None:
            journal.save_resume(self._store, intent.seq, None)

    async def _moved_before(self, row: InodeRow, target: Location) -> Item | None:
        """What an earlier try, whose reply was lost, brought to the target already."""
        item = await self._promise.head(target, Kind.FILE)
        if item is None or item.version is None or target.key.startswith(ASIDE):
            return item
        return item if self._capable.move_file and item.version.tag == row.base_tag else None

    async def _make_aside_parents(self) -> None:
        if self._tree.policy.real_dirs:
            for key in (RESERVED_DIR, ASIDE):
                writing = Writing(Attributes(), uuid.uuid4().hex, self._promise.device)
                await self._backend.make_dir(Location(key), writing)

    async def _source_changed(self, row: InodeRow, source: Location) -> None:
        """Somebody changed or removed the item under its old name."""
        item = await self._promise.head(source, Kind.FILE)
        current = inodes.get(self._store, row.id)
        if current is None or current.nlink == 0 or current.remote_key != source.key:
            return
        if item is None:
            self._source_gone(current)
            return
        if item.version is not None and row.base is not None and item.version.tag == row.base.tag:
            # Perhaps the directory it goes into is not there: a look at that makes it anew.
            self._promise.look_at_parent(row.id)
            raise Retry("the store refused a version that it still has")
        if current.dirty:
            self._adopter.part(current, item)
            self._promise.look_at_parent(row.id)
            return
        if current.is_linked:
            self._leave_old_name(current)
            return
        with self._adopter.changes():
            self._adopter.take_over(current, item)

    def _leave_old_name(self, row: InodeRow) -> None:
        """One of a file's names was renamed here, and there something else put in its place:
        that keeps the old name, and the file is copied to the new one."""
        if row.alias_of is not None or self._adopter.can_recreate(row):
            self._adopter.recreate(row)
            return
        dentry = inodes.names_of(self._store, row.id)[0]
        journal.remove_kind(self._store, row.id, IntentKind.MOVE)
        self._adopter.remove_gone(dentry.parent, dentry.name, row)

    def _source_gone(self, row: InodeRow) -> None:
        """Deleted there, renamed here: what is wholly here is uploaded anew, else it goes."""
        if row.dirty or row.alias_of is not None or self._adopter.can_recreate(row):
            self._adopter.recreate(row)
            return
        dentry = inodes.names_of(self._store, row.id)[0]
        journal.remove_kind(self._store, row.id, IntentKind.MOVE)
        self._adopter.remove_gone(dentry.parent, dentry.name, row)

    async def _move_refused(
        self,
        row: InodeRow,
        source: Location,
        target: Location,
        expect: Expect,
        absorbed: Intent | None,
        exc: VersionMismatch,
    ) -> None:
        item = exc.current or await self._promise.head(target, Kind.FILE)
        if is_as_expected(item, expect) or (item is not None and item.location.key == source.key):
            await self._source_changed(row, source)
            return
        if absorbed is not None:
            journal.remove(self._store, absorbed.seq)
            if item is None:
                return
        assert item is not None
        self._promise.watcher.touched(target.key)
        current = inodes.get(self._store, row.id)
        if current is not None and current.nlink:
            self._adopter.set_aside(current, item)

    # -- directories ---------------------------------------------------------------------

    async def make_dir(self, intent: Intent, row: InodeRow) -> None:
        """A marker, or a real directory where the store has them."""
        target = self._tree.location(row) if row.in_cloud else self._tree.target(row)
        self._promise.must_be_free(row.id, target.key)
        removed = self._removed_at(row.id, target.key)
        writing = self._promise.writing(row, uuid.uuid4().hex)
        self._promise.works_on(row.id, target.key)
        self._promise.sends(row, target.key, put_id=writing.put_id)
        try:
            item = await self._backend.make_dir(target, writing)
        except VersionMismatch as exc:
            item = exc.current or await self._promise.head(Location(target.key[:-1]), Kind.FILE)
            current = inodes.get(self._store, row.id)
            if item is None or current is None or current.nlink == 0:
                raise Retry("the store refused the directory") from exc
            self._adopter.set_aside(current, item)
            return
        now = self._promise.clock.now_ns()
        with self._store.transaction():
            journal.remove(self._store, intent.seq)
            # All of them: the marker is an old one perhaps, which each of them is about.
            journal.remove_deletes_at(self._store, target.key)
            current = inodes.get(self._store, row.id)
            if current is None or current.nlink == 0:
                self._promise.delete_later(row.id, target, item.version, is_dir=True)
                return
            self._promise.settle(current, target, item, now)
            self._tree.forget_dir_keys()
            if item.put_id != writing.put_id:
                # It was there already, and may have children that nobody here knows.
                inodes.set_listed(self._store, row.id, None)
                if removed is not None:
                    self._send_attributes(row.id, now)
            self._promise.recheck_attributes(row.id, writing, now)

    def _removed_at(self, ino: InodeId, key: str) -> Intent | None:
        """A directory of that name was removed here, but not there yet: it stays, and is the
        new one. What was in it goes by its own promises. The DELETE counts until it is made:
        who comes after a crash may want no directory there."""
        removed = journal.delete_at(self._store, key)
        self._not_being_removed(ino, key)
        return removed

    def _not_being_removed(self, ino: InodeId, key: str) -> None:
        """A marker may have several DELETEs, and each would take the one that is kept."""
        if any(
            self._is_other_running(other, ino) for other in journal.deleters_at(self._store, key)
        ):
            raise NotYet("an older directory of that name is just being removed")
        self._promise.must_stay(key)

    def _send_attributes(self, ino: InodeId, now: int) -> None:
        """The item was made by somebody else, or for another inode."""
        if self._tree.policy.keeps_attributes:
            journal.add_now(self._store, IntentKind.ATTRS, ino, now, is_dir=True)

    async def move_dir(self, intent: Intent, row: InodeRow) -> None:
        source, target = self._tree.location(row), self._tree.target(row)
        if await self._was_aside(intent, row, source, Kind.DIR):
            return
        if source.key == target.key or not row.in_cloud:
            self._stay(intent, row, source)
            return
        try:
            self._need_parents(row.id)
            self._claim_dir(row.id, target)
            self._promise.must_be_free(row.id, target.key)
        except NotYet:
            if not self._promise.ordering.can_step_aside(row):
                raise
            aside = Location(f"{ASIDE}{self._put_id(intent)}/")
            if self._capable.move_tree:
                with self._store.transaction():
                    journal.save_resume(self._store, intent.seq, aside.key)
                await self._make_aside_parents()
                await self._move_tree(intent, row, source, aside)
            else:
                await self._leave_place(row, source, aside)
            return
        if self._capable.move_tree:
            await self._move_tree(intent, row, source, target)
        else:
            await self._move_children(row, source, target)

    def _claim_dir(self, ino: InodeId, target: Location) -> None:
        """The pending DELETE of a marker is taken over if it is that of a directory which left,
        but not yet with all that is in it. One that was removed has to go first: NotYet."""
        left = journal.delete_at(self._store, target.key)
        if left is None:
            return
        owner = inodes.get(self._store, left.inode)
        is_there = owner is not None and owner.is_dir and owner.nlink > 0
        if self._capable.move_tree or not is_there or self._is_other_running(left.inode, ino):
            raise NotYet("an older directory of that name has to go first")
        self._promise.must_stay(target.key)

    def _is_other_running(self, other: InodeId, ino: InodeId) -> bool:
        return other != ino and other in self._promise.table.running

    async def _move_tree(
        self, intent: Intent, row: InodeRow, source: Location, target: Location
    ) -> None:
        if not self._promise.ordering.can_move_tree(row.id, source.key, target.key):
            raise NotYet("something below is on its way")
        self._promise.ordering.moving_trees[row.id] = (source.key, target.key)
        self._promise.works_on(row.id, source.key, target.key)
        if row.base is not None and not target.key.startswith(ASIDE):
            self._promise.sends(row, target.key, tag=row.base.tag)
        try:
            item = await self._backend.move(source, target, Kind.DIR, row.base, ABSENT)
        except NotFound:
            # Either somebody removed it, or an earlier try did it and the reply was lost.
            moved = await self._promise.head(target, Kind.DIR)
            if moved is None or moved.version is None or moved.version.tag != row.base_tag:
                # Renamed here, removed there: its files stay as they stand.
                self._adopter.make_anew(row.id)
                return
            item = moved
        except VersionMismatch as exc:
            await self._move_tree_refused(row, source, target, exc)
            return
        if not target.key.startswith(ASIDE):
            with self._store.transaction():
                self._forget_aside(intent, source)
        self.tree_moved(row, source, target, item)

    def tree_moved(self, row: InodeRow, source: Location, target: Location, item: Item) -> None:
        now = self._promise.clock.now_ns()
        with self._store.transaction():
            inodes.rebase_keys(self._store, source.key, target.key)
            journal.rebase_keys(self._store, source.key, target.key)
            current = inodes.get(self._store, row.id)
            if current is None or current.nlink == 0:
                self._promise.delete_later(row.id, target, item.version, is_dir=True)
            else:
                self._promise.settle(current, target, item, now)
            self._tree.forget_dir_keys()

    async def _move_tree_refused(
        self, row: InodeRow, source: Location, target: Location, exc: VersionMismatch
    ) -> None:
        """Somebody has put something at the target, or given the directory other attributes."""
        item = exc.current or await self._promise.head(target, Kind.DIR)
        current = inodes.get(self._store, row.id)
        if current is None or current.nlink == 0 or current.remote_key != row.remote_key:
            raise Retry("the store refused to move the directory") from exc
        if item is not None and item.location.key != source.key:
            self._adopter.set_aside(current, item)
            return
        item = await self._promise.head(source, Kind.DIR)
        with self._store.transaction():
            if item is None or not self._adopter.rebase_dir(row.id, item):
                raise Retry("the store refused to move the directory") from exc

    async def _move_children(self, row: InodeRow, source: Location, target: Location) -> None:
        """Without an atomic tree move every child gets a MOVE of its own; each step is a
        consistent state, so it goes on from wherever a crash left it."""
        await self._push_down(row, source)
        # That took its time: renamed again, it may have left the name to another directory.
        if self._tree.target(self._tree.row(row.id)).key != target.key:
            raise NotYet("the directory was renamed again meanwhile")
        self._claim_dir(row.id, target)
        self._promise.must_be_free(row.id, target.key)
        self._not_being_removed(row.id, target.key)
        self._promise.works_on(row.id, source.key, target.key)
        writing = self._promise.writing(self._tree.row(row.id), uuid.uuid4().hex)
        self._promise.sends(row, target.key, put_id=writing.put_id)
        item = await self._backend.make_dir(target, writing)
        now = self._promise.clock.now_ns()
        with self._store.transaction():
            journal.remove_deletes_at(self._store, target.key)
            current = inodes.get(self._store, row.id)
            # Uploads that ended meanwhile went to the old place.
            self.push_down_rest(row.id)
            # Also where no listing told whether there is a marker.
            self._promise.delete_later(row.id, source, row.base, is_dir=True)
            if current is None or current.nlink == 0:
                self._promise.delete_later(row.id, target, item.version, is_dir=True)
            else:
                self._promise.settle(current, target, item, now)
                if item.put_id != writing.put_id:
                    self._send_attributes(row.id, now)
            self._tree.forget_dir_keys()

    async def _push_down(self, row: InodeRow, source: Location) -> None:
        """Give everything in the directory a MOVE of its own."""
        # Nobody may have listed it, or not for a while: what is not known would stay behind.
        await self._promise.watcher.learn_names(row.id)
        current = inodes.get(self._store, row.id)
        if current is None or current.nlink == 0 or current.remote_key != source.key:
            raise NotYet("the directory was moved or removed meanwhile")
        while self._push_down_some(row.id):
            await trio.lowlevel.checkpoint()

    def push_down_rest(self, directory: InodeId) -> None:
        """The same at once, in the transaction that says where the directory is from now on: what
        came into it since has its item in the old place."""
        while self._push_down_some(directory):
            pass

    def _push_down_some(self, directory: InodeId) -> bool:
        with self._store.transaction():
            children = inodes.children_in_place(self._store, directory, _PUSH_DOWN)
            now = self._promise.clock.now_ns()
            for _, child in children:
                ino, is_dir = child.id, bool(child.is_dir)
                inodes.set_remote_key(self._store, ino, self._tree.location(child).key)
                journal.add_now(self._store, IntentKind.MOVE, ino, now, is_dir=is_dir)
        return bool(children)

    async def _leave_place(self, row: InodeRow, source: Location, aside: Location) -> None:
        """Two directories swapped names: one gives its place up, so that it is never the place of
        both, with what is in one of them taken for the other's. Its items stay where they are
        until it has a place again; its marker goes after them, or to a directory that comes."""
        await self._push_down(row, source)
        with self._store.transaction():
            self.push_down_rest(row.id)
            self._promise.delete_later(row.id, source, row.base, is_dir=True)
            inodes.set_base(
                self._store, row.id, None, in_cloud=True, item_id=None, remote_key=aside.key
            )
            self._tree.forget_dir_keys()

    # -- attributes and deletion ---------------------------------------------------------

    async def set_attributes(self, intent: Intent, row: InodeRow) -> None:
        location = self._tree.location(row)
        writing = self._promise.writing(row, uuid.uuid4().hex)
        self._promise.works_on(row.id, location.key)
        self._promise.sends(row, location.key, put_id=writing.put_id)
        try:
            if row.base is None:
                # An implicit directory gets a marker, which is what can carry attributes.
                item = await self._backend.make_dir(location, writing)
            else:
                kind = Kind.DIR if row.is_dir else Kind.FILE
                item = await self._backend.set_attributes(location, kind, writing, row.base)
        except (NotFound, VersionMismatch):
            # The item changed: first take the new version over, then try again on it.
            journal.remove(self._store, intent.seq)
            await self._adopter.look_again(row.id)
            self._promise.look_at_parent(row.id)
            return
        now = self._promise.clock.now_ns()
        with self._store.transaction():
            journal.remove(self._store, intent.seq)
            current = inodes.get(self._store, row.id)
            if current is None or current.nlink == 0:
                self._promise.delete_later(row.id, location, item.version, is_dir=row.is_dir)
                return
            self._promise.settle(current, location, item, now)
            if current.is_linked:
                self._tree.follow(row.id, now)
            self._promise.recheck_attributes(row.id, writing, now)

    async def delete(self, intent: Intent) -> None:
        """Delete the version we believe in; an edit by somebody else beats the delete."""
        location = intent.location
        # An earlier try may yet be carried out: after this one, something else might be there.
        self._promise.must_stay(location.key)
        self._promise.must_be_idle(intent.inode, location.key)
        self._promise.works_on(intent.inode, location.key)
        kind = Kind.DIR if intent.is_dir else Kind.FILE
        try:
            await self._backend.delete(location, kind, intent.expect)
        except VersionMismatch:
            log.warning("not deleted, changed by somebody else key=%s", location.key)
        with self._store.transaction():
            journal.remove(self._store, intent.seq)
