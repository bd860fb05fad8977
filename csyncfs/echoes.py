"""What became of a request of which no reply came: lost on the way, or cut off by a crash.

Owns the answer, which is asked for before the inode's next request. Without it what the request
made would pass for somebody else's as soon as the file has another name, other content or none.
"""

import logging

from csyncfs.errors import VersionMismatch
from csyncfs.inode import attributes_of
from csyncfs.moves import Moves
from csyncfs.promise import NotYet, Promise
from csyncfs.puts import Puts
from csyncfs.store import aliases, attempts, inodes, journal
from csyncfs.store.attempts import Attempt
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import Intent, IntentKind
from csyncfs.types import InodeId, Item, Kind, Location

log = logging.getLogger(__name__)


class Echoes:
    """Finds out about requests without reply."""

    def __init__(self, promise: Promise, puts: Puts, moves: Moves) -> None:
        self._promise = promise
        self._store = promise.store
        self._tree = promise.tree
        self._puts = puts
        self._moves = moves

    def known(self, ino: InodeId) -> None:
        """The inode's last request was answered, whatever the answer."""
        if attempts.of_inode(self._store, ino) is None:
            return
        row = inodes.get(self._store, ino)
        is_removed = row is None or row.nlink == 0
        if is_removed and journal.has_any(self._store, ino):
            # Unlinked meanwhile: until its DELETE has run, listings may show what was made.
            return
        with self._store.transaction():
            attempts.forget(self._store, ino)

    def _let_the_server_end(self, ino: InodeId) -> None:
        if self._promise.cut_off.may_make(ino):
            raise NotYet("a request without reply may still be carried out")

    async def find_out(self, intent: Intent) -> bool:
        """Make true what an earlier request of the inode did. False: none was open.

        Raises what keeps the store from answering: then the promise has to wait.
        """
        attempt = attempts.of_inode(self._store, intent.inode)
        if attempt is None:
            return False
        self._let_the_server_end(intent.inode)
        kind = Kind.DIR if attempt.is_dir else Kind.FILE
        item = await self._promise.head(Location(attempt.key), kind, self._saved(attempt, intent))
        row = inodes.get(self._store, intent.inode)
        if item is not None and row is not None and row.nlink:
            if self._is_ours(attempt, item) and await self._has_left(attempt, row):
                log.info("a request without reply took effect ino=%d key=%s", row.id, attempt.key)
                self._took_effect(attempt, row, item)
            elif (
                attempt.put_id is not None
                and self._is_half_made(item)
                and (item.version is None or self._tree.target(row).key != attempt.key)
            ):
                with self._store.transaction():
                    self._promise.delete_later(row.id, item.location, None, is_dir=True)
        self.known(intent.inode)
        return True

    def _saved(self, attempt: Attempt, intent: Intent) -> str | None:
        """What the request saved last, if it was an upload."""
        put = journal.find(self._store, intent.inode, IntentKind.PUT)
        return put.resume if put is not None and put.put_id == attempt.put_id else None

    def _is_half_made(self, item: Item) -> bool:
        """Whether the item is a directory without its attributes, which some servers take in a
        second request and others never, and no directory of ours is there. One that is yet to be
        made comes after this, and may go before it is. Only an empty one goes."""
        is_told = item.put_id is not None or self._tree.policy.keeps_attributes
        if item.kind is not Kind.DIR or (item.version is not None and is_told):
            return False
        key = item.location.key
        owner = inodes.by_remote_key(self._store, key) or self._tree.dir_for_key(key)
        return owner is None or owner.nlink == 0 or not owner.in_cloud

    def _is_ours(self, attempt: Attempt, item: Item) -> bool:
        if attempt.put_id is not None:
            return item.put_id == attempt.put_id
        return item.version is not None and item.version.tag == attempt.tag

    async def _has_left(self, attempt: Attempt, row: InodeRow) -> bool:
        """Whether nothing speaks against a move: where tags tell the content, and no more, what was
        at the target before may have the same."""
        source = self._tree.location(row)
        if attempt.put_id is not None or source.key == attempt.key:
            return True
        item = await self._promise.head(source, Kind.DIR if attempt.is_dir else Kind.FILE)
        return item is None or item.version is None or item.version.tag != attempt.tag

    def _took_effect(self, attempt: Attempt, row: InodeRow, item: Item) -> None:
        self._promise.watcher.touched(attempt.key)
        target = Location(attempt.key, item.location.item_id)
        if attempt.put_id is None and attempt.is_dir:
            self._moves.tree_moved(row, self._tree.location(row), target, item)
            return
        put = journal.find(self._store, row.id, IntentKind.PUT)
        live = self._promise.table.get(row.id)
        generation = row.generation if live is None else live.generation
        if (
            put is not None
            and put.put_id == attempt.put_id is not None
            and put.put_generation == generation
        ):
            self._puts.found(put, row, target, item)
            return
        now = self._promise.clock.now_ns()
        with self._store.transaction():
            self._replaced(target, item)
            old = self._tree.location(row)
            if row.is_dir and old.key != target.key:
                self._moves.push_down_rest(row.id)
            if attempt.put_id is not None and row.in_cloud and old.key != target.key:
                self._promise.delete_later(row.id, old, row.base, is_dir=bool(row.is_dir))
            self._promise.settle(row, target, item, now)
            if item.attributes is not None and row.link != item.attributes.link:
                aliases.set_link(self._store, row.id, item.attributes.link)
            if row.is_dir:
                self._tree.forget_dir_keys()
                self._made_dir(row, item, now)

    def _made_dir(self, row: InodeRow, item: Item, now: int) -> None:
        if journal.find(self._store, row.id, IntentKind.MKDIR) is None:
            return
        journal.remove_kind(self._store, row.id, IntentKind.MKDIR)
        if self._tree.policy.keeps_attributes and item.attributes != attributes_of(
            self._store, row
        ):
            journal.add_now(self._store, IntentKind.ATTRS, row.id, now, is_dir=True)

    def _replaced(self, target: Location, item: Item) -> None:
        """What was there before went with it."""
        if item.kind is Kind.DIR:
            journal.remove_deletes_at(self._store, target.key)
            return
        journal.remove_void_deletes(self._store, target.key)

    def is_tree_lost(self, ino: InodeId) -> bool:
        """Whether the inode is a directory that perhaps was moved."""
        attempt = attempts.of_inode(self._store, ino)
        return attempt is not None and bool(attempt.is_dir) and attempt.put_id is None

    async def find_tree(self, intent: Intent) -> None:
        """Find out where a directory is that was removed before it was known whether it had been
        moved: what was in it goes from there. Raises NotYet if that was open."""
        attempt = attempts.of_inode(self._store, intent.inode)
        if attempt is None or not self.is_tree_lost(intent.inode):
            return
        self._let_the_server_end(intent.inode)
        item = await self._promise.head(Location(attempt.key), Kind.DIR)
        row = inodes.get(self._store, intent.inode)
        is_there = (
            item is not None
            and row is not None
            and self._is_ours(attempt, item)
            and await self._has_left(attempt, row)
        )
        with self._store.transaction():
            if is_there:
                assert item is not None
                assert row is not None
                source = self._tree.location(row)
                target = Location(attempt.key, item.location.item_id)
                journal.remove_deletes_of(self._store, row.id, source.key)
                self._moves.tree_moved(row, source, target, item)
            else:
                journal.remove_deletes_of(self._store, intent.inode, attempt.key)
            attempts.forget(self._store, intent.inode)
        raise NotYet("it is known now where the directory is")

    async def delete(self, intent: Intent) -> None:
        """Remove what a request made for an inode that has no name any more, if it did."""
        self._let_the_server_end(intent.inode)
        location, kind = intent.location, Kind.DIR if intent.is_dir else Kind.FILE
        self._promise.must_be_idle(intent.inode, location.key)
        self._promise.works_on(intent.inode, location.key)
        item = await self._promise.head(location, kind, intent.resume)
        if item is not None and (item.put_id == intent.put_id or self._is_half_made(item)):
            try:
                await self._promise.backend.delete(location, kind, item.version)
            except VersionMismatch:
                log.warning("not deleted, changed by somebody else key=%s", location.key)
        with self._store.transaction():
            journal.remove(self._store, intent.seq)
            attempts.forget(self._store, intent.inode)
