"""Which intents have to wait for others, so that the cloud is never told nonsense.

Children come after their parent's MKDIR and MOVE, a directory's DELETE after everything below
it, a DELETE not at all while another file is about to overwrite the same key.
"""

from typing import Protocol

from csyncfs.inode import InodeTable
from csyncfs.store import attempts, inodes, journal
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import Intent, IntentKind
from csyncfs.tree import Tree
from csyncfs.types import RESERVED_DIR, ROOT, InodeId

# Where an item waits that has to make room for another one.
ASIDE = f"{RESERVED_DIR}moving/"


class Capable(Protocol):
    """What has to be known of the store; False until it is known."""

    @property
    def move_file(self) -> bool: ...
    @property
    def move_tree(self) -> bool: ...
    @property
    def server_copy(self) -> bool: ...
    @property
    def overwrite_keeps_history(self) -> bool: ...


class Ordering:
    """Answers whether an intent may run now. Owns the keys that are being worked on."""

    def __init__(self, store: Store, table: InodeTable, tree: Tree, capable: Capable) -> None:
        self._store = store
        self._table = table
        self._tree = tree
        self._capable = capable
        self.running_keys: dict[InodeId, tuple[str, ...]] = {}
        self.moving_trees: dict[InodeId, tuple[str, str]] = {}

    def blocker(self, intent: Intent) -> InodeId | None:
        """The inode of which something else has to reach the cloud first, if there is one."""
        if intent.kind == IntentKind.DELETE:
            moved = self._lost_with_tree(intent.location.key, intent.inode)
            return moved if moved is not None else self._delete_blocker(intent)
        row = inodes.get(self._store, intent.inode)
        if row is None or row.nlink == 0:
            return None
        if row.in_cloud:
            moved = self._lost_with_tree(self._tree.location(row).key, row.id)
            if moved is not None:
                return moved
        waits_for = self.pending_ancestor(row.id)
        if waits_for is None and intent.kind == IntentKind.PUT:
            waits_for = self._file_first(row)
        if waits_for is None and self._has_to_wait(intent, row):
            waits_for = row.id
        if waits_for is not None and intent.kind == IntentKind.MOVE and self.can_step_aside(row):
            return None
        return waits_for

    def _lost_with_tree(self, key: str, ino: InodeId) -> InodeId | None:
        """The directory whose move may have taken the item elsewhere, without our knowing."""
        for attempt in attempts.tree_moves(self._store):
            row = inodes.get(self._store, attempt.inode)
            if (
                row is not None
                and row.id != ino
                and row.in_cloud
                and key.startswith(self._tree.location(row).key)
            ):
                return row.id
        return None

    def _file_first(self, row: InodeRow) -> InodeId | None:
        """The file of which the inode is a further name, until its own item is as it should be."""
        file = row.alias_of
        if file is None or not row.dirty:
            return None
        is_busy = file in self._table.running or any(
            self.is_pending(file, kind) for kind in (IntentKind.PUT, IntentKind.ATTRS)
        )
        return file if is_busy else None

    def can_step_aside(self, row: InodeRow) -> bool:
        """Whether the inode has to make room for what it waits for itself."""
        is_aside = row.remote_key is None or row.remote_key.startswith(ASIDE)
        return bool(row.in_cloud) and not is_aside and self._is_cycle(row.id)

    def _is_cycle(self, ino: InodeId) -> bool:
        """Whether the inode waits for itself, following who waits for whom."""
        seen: set[InodeId] = set()
        node = self._waits_for(ino)
        while node is not None and node not in seen:
            if node == ino:
                return True
            seen.add(node)
            node = self._waits_for(node)
        return False

    def _waits_for(self, ino: InodeId) -> InodeId | None:
        """Which inode has to get to its place first: a directory above, or the one whose item
        has the key."""
        row = inodes.get(self._store, ino)
        if row is None or not inodes.names_of(self._store, ino):
            return None
        above = self.pending_ancestor(ino)
        if above is not None:
            return above
        owner = self._in_the_way(self._tree.target(row).key, ino)
        return self._file_first(row) if owner is None else owner.id

    def owner(self, key: str) -> InodeRow | None:
        """Whose item is in the way at this key until its MOVE is done."""
        for taken in (key, other_kind(key)):
            owner = inodes.by_remote_key(self._store, taken)
            if owner is not None and self.is_pending(owner.id, IntentKind.MOVE):
                return owner
        return None

    def _in_the_way(self, key: str, ino: InodeId) -> InodeRow | None:
        """As ``owner``, of another inode; also who left the key, and who still has to leave a
        directory there that goes."""
        owner = self.owner(key)
        if owner is not None and owner.id != ino:
            return owner
        for taken in (key, other_kind(key)):
            left = journal.delete_at(self._store, taken)
            if left is None or left.inode == ino:
                continue
            waits_for = left.inode
            if not self.is_pending(left.inode, IntentKind.MOVE):
                waits_for = self._inhabitant(taken) if left.is_dir else None
            if waits_for is not None:
                return inodes.get(self._store, waits_for)
        makers = [maker for maker in attempts.makers_at(self._store, key) if maker != ino]
        return inodes.get(self._store, makers[0]) if makers else None

    def _has_to_wait(self, intent: Intent, row: InodeRow) -> bool:
        """Whether another promise about the same inode comes first."""
        if intent.kind == IntentKind.PUT:
            return self._capable.move_file and self.is_pending(row.id, IntentKind.MOVE)
        if intent.kind == IntentKind.MOVE and not row.is_dir:
            # Without an atomic rename the PUT goes to the new place itself.
            return bool(row.dirty) and not self._capable.move_file
        if intent.kind == IntentKind.ATTRS:
            return any(
                self.is_pending(row.id, kind)
                for kind in (IntentKind.PUT, IntentKind.MOVE, IntentKind.MKDIR)
            )
        return False

    def _delete_blocker(self, intent: Intent) -> InodeId | None:
        key = intent.location.key
        for ino, pair in self.moving_trees.items():
            if ino != intent.inode and key.startswith(pair):
                return ino
        if intent.is_dir:
            return (
                journal.delete_below(self._store, key)
                or self._busy_below(key, intent.inode)
                # Servers that keep a tree cannot remove the marker while something is below it.
                or attempts.maker_below(self._store, key, intent.inode)
                or self._inhabitant(key)
            )
        successor = self._tree.file_for_key(key)
        if (
            successor is not None
            and intent.put_id is None
            and (
                self.is_pending(successor.id, IntentKind.PUT)
                or self.is_pending(successor.id, IntentKind.MOVE)
            )
            and self.pending_ancestor(successor.id) is None
        ):
            # It will take the key over in one conditional step, which keeps the history. Not
            # while its directory waits to come: that may wait for this very DELETE.
            return successor.id
        return self._reader_of(key)

    def _inhabitant(self, prefix: str) -> InodeId | None:
        """Who has to leave a directory before it goes. Where that is but a marker, what somebody
        else has put there since may stay."""
        if self._capable.move_tree:
            return inodes.owner_below(self._store, prefix)
        return inodes.mover_below(self._store, prefix)

    def is_needed_by_reader(self, key: str) -> bool:
        """An unlinked file that is open and not wholly here keeps its object for now."""
        return self._reader_of(key) is not None

    def _reader_of(self, key: str) -> InodeId | None:
        for live in self._table:
            location = live.orphan_location
            if (
                location is not None
                and location.key == key
                and live.handles
                and not live.is_whole()
            ):
                return live.ino
        return None

    def pending_ancestor(self, ino: InodeId) -> InodeId | None:
        """The nearest directory above the inode that still has to be made or moved."""
        while ino != ROOT:
            found = inodes.names_of(self._store, ino)
            if not found:
                return None
            ino = found[0].parent
            if ino != ROOT and self.has_pending_place(ino):
                return ino
        return None

    def has_pending_place(self, ino: InodeId) -> bool:
        """Whether the directory's item still has to be made or moved."""
        return journal.has_place(self._store, ino)

    def is_pending(self, ino: InodeId, kind: IntentKind) -> bool:
        return journal.find(self._store, ino, kind) is not None

    def _busy_below(self, directory: str, ino: InodeId) -> InodeId | None:
        for other, keys in self.running_keys.items():
            if any(key.startswith(directory) and (key, other) != (directory, ino) for key in keys):
                return other
        return None

    def is_below_moving(self, keys: tuple[str, ...], ino: InodeId) -> bool:
        """Whether a directory above one of the keys is being moved, other than the inode."""
        pairs = [pair for other, pair in self.moving_trees.items() if other != ino]
        return any(key.startswith(pair) for pair in pairs for key in keys)

    def is_worked_on(self, key: str, ino: InodeId | None = None) -> bool:
        """Whether a request of another inode's changes this very key."""
        return any(key in keys for other, keys in self.running_keys.items() if other != ino)

    def can_move_tree(self, ino: InodeId, source: str, target: str) -> bool:
        """Whether nothing else is at work below either place; then the move may begin."""
        for other, keys in self.running_keys.items():
            if other != ino and any(key.startswith((source, target)) for key in keys):
                return False
        return True


def other_kind(key: str) -> str:
    """Where a directory of the file's name would be, or a file of the directory's. Most stores,
    servers of S3 among them, keep a tree inside and have one thing under one name."""
    return key[:-1] if key.endswith("/") else f"{key}/"
