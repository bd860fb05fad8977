"""Where the item of each inode is in the cloud, and where its name says it belongs.

The place is derived, the parent's place plus the own name, unless the inode has a key of its
own (``remote_key``): it was renamed here and the cloud has not followed yet, or the local name
is not the key's.
"""

import errno
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from csyncfs import names
from csyncfs.clock import Clock
from csyncfs.errors import FsError
from csyncfs.inode import InodeTable
from csyncfs.store import inodes, journal
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import IntentKind
from csyncfs.types import ROOT, InodeId, Item, Kind, Location

# What is remembered of directories' keys: so many, and so many characters altogether.
_DIR_KEYS: Final = 100_000
_DIR_KEYS_LENGTH: Final = 16 << 20


@dataclass(slots=True)
class TreePolicy:
    """What the tree has to know of the store behind it; ``mount`` sets it after connect."""

    upload_delay_ns: int
    raw_names: bool = False
    real_dirs: bool = False
    keeps_attributes: bool = True
    keeps_mtime: bool = False
    """Of files, if nothing else."""
    max_key_bytes: int = 0
    max_size_bytes: int = 1 << 62


class Places:
    """Keys of inodes, and the promise to bring an item to its place. Synchronous and atomic."""

    def __init__(
        self,
        store: Store,
        table: InodeTable,
        clock: Clock,
        policy: TreePolicy,
        journal_grew: Callable[[], None],
    ) -> None:
        self._store = store
        self._table = table
        self._clock = clock
        self.policy = policy
        self._journal_grew = journal_grew
        self._dir_keys: dict[InodeId, str] = {ROOT: ""}
        self._dir_keys_length = 0

    def row(self, ino: InodeId) -> InodeRow:
        """Raises ENOENT for an inode that is gone: the kernel may still ask."""
        row = inodes.get(self._store, ino)
        if row is None:
            raise FsError(errno.ENOENT)
        return row

    # -- where things are ----------------------------------------------------------------

    def dir_key(self, ino: InodeId) -> str:
        """Where this directory's item is in the cloud, or will be when it is made."""
        at, above, key = ino, list[tuple[InodeId, bytes]](), self._dir_keys.get(ino)
        # Not by recursion: directories may be nested thousands deep.
        while key is None:
            key = self.row(at).remote_key
            if key is not None:
                self._remember(at, key)
            else:
                dentry = self._dentry(at)
                above.append((at, dentry.name))
                at, key = dentry.parent, self._dir_keys.get(dentry.parent)
        for at, name in reversed(above):
            key = names.child_key(key, self._segment(name), Kind.DIR)
            self._remember(at, key)
        return key

    def _remember(self, ino: InodeId, key: str) -> None:
        self._dir_keys_length += len(key)
        if len(self._dir_keys) > _DIR_KEYS or self._dir_keys_length > _DIR_KEYS_LENGTH:
            self.forget_dir_keys()
            self._dir_keys_length = len(key)
        self._dir_keys[ino] = key

    def location(self, row: InodeRow) -> Location:
        """Where the inode's item is, or will be. Raises ENOENT for an unlinked one."""
        own = row.remote_key
        if own is not None:
            return Location(own, row.item_id)
        if row.id == ROOT:
            return Location("", row.item_id)
        dentry = self._dentry(row.id)
        return Location(self.child_key(dentry.parent, dentry.name, is_dir=row.is_dir), row.item_id)

    def target(self, row: InodeRow) -> Location:
        """Where the inode's item belongs by its name."""
        dentry = self._dentry(row.id)
        return Location(self.child_key(dentry.parent, dentry.name, is_dir=row.is_dir), row.item_id)

    def _dentry(self, ino: InodeId) -> inodes.Dentry:
        found = inodes.names_of(self._store, ino)
        if not found:
            raise FsError(errno.ENOENT)
        return found[0]

    def child_key(self, parent: InodeId, name: bytes, *, is_dir: bool) -> str:
        """Key of a child of this name."""
        kind = Kind.DIR if is_dir else Kind.FILE
        return names.child_key(self.dir_key(parent), self._segment(name), kind)

    def _segment(self, name: bytes) -> str:
        return names.to_segment(name, utf8_only=not self.policy.raw_names)

    def forget_dir_keys(self) -> None:
        """A directory's place changed: derive again."""
        self._dir_keys = {ROOT: ""}
        self._dir_keys_length = 0

    def pin_place(self, row: InodeRow) -> None:
        """Before the name changes: note where the item is."""
        if row.in_cloud and row.remote_key is None:
            inodes.set_remote_key(self._store, row.id, self.location(row).key)

    @staticmethod
    def is_elsewhere(row: InodeRow, key: str) -> bool:
        """Whether the inode's item is not at this key, but still under a name before."""
        return bool(row.in_cloud) and row.remote_key not in (None, key)

    def stand_on(self, row: InodeRow, item: Item, key: str, now: int) -> None:
        """The item at this key is what the inode descends from now. If the name has moved on
        meanwhile, a MOVE follows it; a name that is not the key's stays."""
        inodes.set_item(self._store, row.id, item, key)
        self._table.rebase(self._store, row.id, item.version)
        if row.remote_key != key or journal.find(self._store, row.id, IntentKind.MOVE):
            self.settle_place(row.id, now)

    def settle_place(self, ino: InodeId, now: int) -> None:
        """Make the journal say what is left to do for the item to be where the name says."""
        row = self.row(ino)
        if not row.in_cloud or row.remote_key is None:
            journal.remove_kind(self._store, ino, IntentKind.MOVE)
        elif row.remote_key == self.target(row).key:
            inodes.set_remote_key(self._store, ino, None)
            journal.remove_settled_move(self._store, ino)
        else:
            self.promise(IntentKind.MOVE, ino, now, is_dir=row.is_dir)

    def promise(
        self, kind: IntentKind, ino: InodeId, now_ns: int, *, is_dir: bool, delayed: bool = True
    ) -> None:
        due = now_ns + self.policy.upload_delay_ns if delayed else now_ns
        journal.add(self._store, kind, ino, is_dir=is_dir, not_before_ns=due, now_ns=now_ns)

    def promise_attributes(self, row: InodeRow, now: int, *, is_time: bool = False) -> None:
        """Attributes changed here: where the item can carry them, it has to. ``is_time``: the
        mtime, perhaps with others."""
        keeps = self.policy.keeps_attributes
        keeps = keeps or (is_time and self.policy.keeps_mtime and not row.is_dir)
        # A pending PUT or MKDIR carries the attributes there are when it runs.
        if (
            not keeps
            or not row.in_cloud
            or row.dirty
            or row.nlink == 0
            or row.id == ROOT
            or (row.is_dir and journal.find(self._store, row.id, IntentKind.MKDIR))
        ):
            return
        self.promise(IntentKind.ATTRS, row.id, now, is_dir=row.is_dir)
        self._journal_grew()

    # -- new names -----------------------------------------------------------------------

    def check_new(self, parent: InodeId, name: bytes, gid: int, *, is_dir: bool) -> tuple[int, int]:
        """Whether the name can be made there; returns the group and setgid it inherits."""
        self.check_name(parent, name, is_dir=is_dir)
        directory = self.row(parent)
        if directory.nlink == 0:
            raise FsError(errno.ENOENT)
        if inodes.lookup(self._store, parent, name) is not None:
            raise FsError(errno.EEXIST)
        if directory.mode & stat.S_ISGID:
            return directory.gid, stat.S_ISGID
        return gid, 0

    def check_name(self, parent: InodeId, name: bytes, *, is_dir: bool) -> None:
        """Raises ENAMETOOLONG for what neither side can hold, EINVAL for a reserved name."""
        if len(name) > names.MAX_NAME_BYTES:
            raise FsError(errno.ENAMETOOLONG)
        if parent == ROOT and name == b".csyncfs":
            raise FsError(errno.EPERM, "reserved for csyncfs")
        if self.policy.max_key_bytes:
            key = self.child_key(parent, name, is_dir=is_dir)
            if len(key.encode("utf-8", "surrogateescape")) > self.policy.max_key_bytes:
                raise FsError(errno.ENAMETOOLONG)
