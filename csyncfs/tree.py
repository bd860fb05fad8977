"""The tree of names: POSIX changes to it, each one transaction with its journal rows.

Owns where an inode's item is in the cloud. That place is derived, the parent's place plus
the own name, unless the inode has a key of its own (``remote_key``): it was renamed here and
the cloud has not followed yet, or the local name is not the key's.
"""

import errno
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from csyncfs import names
from csyncfs.clock import Clock
from csyncfs.errors import FsError
from csyncfs.inode import InodeTable
from csyncfs.store import inodes, journal
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import IntentKind
from csyncfs.types import ROOT, InodeId, Kind, Location

NS = 1_000_000_000


class Notifier(Protocol):
    """Tells the kernel, after the commit, what it knows no longer. Never waits."""

    def entry_changed(self, parent: InodeId, name: bytes) -> None: ...

    def attributes_changed(self, ino: InodeId) -> None: ...


@dataclass(slots=True)
class TreePolicy:
    """What the tree has to know of the store behind it; ``mount`` sets it after connect."""

    upload_delay_ns: int
    raw_names: bool = False
    real_dirs: bool = False
    keeps_attributes: bool = True
    max_key_bytes: int = 0
    max_size_bytes: int = 1 << 62


class Tree:
    """Names and attributes. Every method is synchronous and atomic."""

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

    # -- where things are ----------------------------------------------------------------

    def dir_key(self, ino: InodeId) -> str:
        """Where this directory's item is in the cloud, or will be when it is made."""
        key = self._dir_keys.get(ino)
        if key is None:
            row = self.row(ino)
            key = self.location(row).key
            if len(self._dir_keys) > 100_000:
                self._dir_keys = {ROOT: ""}
            self._dir_keys[ino] = key
        return key

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
        segment = names.to_segment(name, utf8_only=not self.policy.raw_names)
        return names.child_key(self.dir_key(parent), segment, Kind.DIR if is_dir else Kind.FILE)

    def forget_dir_keys(self) -> None:
        """A directory's place changed: derive again."""
        self._dir_keys = {ROOT: ""}

    # -- looking -------------------------------------------------------------------------

    def row(self, ino: InodeId) -> InodeRow:
        """Raises ENOENT for an inode that is gone: the kernel may still ask."""
        row = inodes.get(self._store, ino)
        if row is None:
            raise FsError(errno.ENOENT)
        return row

    def lookup(self, parent: InodeId, name: bytes) -> InodeRow | None:
        return inodes.lookup(self._store, parent, name)

    def file_for_key(self, key: str) -> InodeRow | None:
        """The file whose name says that its item belongs at this key."""
        *directories, last = key.split("/")
        ino, utf8_only = ROOT, not self.policy.raw_names
        for segment in directories:
            row = self.lookup(ino, names.to_name(segment, utf8_only=utf8_only).name)
            if row is None or not row.is_dir:
                return None
            ino = row.id
        row = self.lookup(ino, names.to_name(last, utf8_only=utf8_only).name)
        if row is None or row.is_dir or self.target(row).key != key:
            return None
        return row

    def must_lookup(self, parent: InodeId, name: bytes) -> InodeRow:
        row = self.lookup(parent, name)
        if row is None:
            raise FsError(errno.ENOENT)
        return row

    # -- making --------------------------------------------------------------------------

    def create(
        self,
        parent: InodeId,
        name: bytes,
        *,
        mode: int,
        uid: int,
        gid: int,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> InodeId:
        """A new file, symlink or special file. Its PUT is held back until ``flush`` for a
        regular file, and due after the upload delay for the others."""
        now = self._clock.now_ns()
        with self._store.transaction():
            gid, _ = self._check_new(parent, name, gid, is_dir=False)
            ino = inodes.insert(
                self._store,
                mode=mode,
                uid=uid,
                gid=gid,
                now_ns=now,
                rdev=rdev,
                size=len(target) if target is not None else 0,
                target=target,
                dirty=True,
            )
            inodes.link(self._store, parent, name, ino)
            inodes.touch_dir(self._store, parent, now)
            due = None if stat.S_ISREG(mode) else now + self.policy.upload_delay_ns
            journal.add(
                self._store, IntentKind.PUT, ino, is_dir=False, not_before_ns=due, now_ns=now
            )
        self._journal_grew()
        return ino

    def mkdir(self, parent: InodeId, name: bytes, *, mode: int, uid: int, gid: int) -> InodeId:
        now = self._clock.now_ns()
        with self._store.transaction():
            gid, setgid = self._check_new(parent, name, gid, is_dir=True)
            ino = inodes.insert(
                self._store, mode=mode | setgid, uid=uid, gid=gid, now_ns=now, nlink=2
            )
            # Nothing can be in the cloud below a directory that is not there itself.
            inodes.set_listed(self._store, ino, now)
            inodes.link(self._store, parent, name, ino)
            inodes.touch_dir(self._store, parent, now)
            inodes.add_nlink(self._store, parent, 1)
            self._promise(IntentKind.MKDIR, ino, now, is_dir=True)
        self._journal_grew()
        return ino

    def _check_new(
        self, parent: InodeId, name: bytes, gid: int, *, is_dir: bool
    ) -> tuple[int, int]:
        """Whether the name can be made there; returns the group and setgid it inherits."""
        self.check_name(parent, name, is_dir=is_dir)
        directory = self.row(parent)
        if directory.nlink == 0:
            raise FsError(errno.ENOENT)
        if self.lookup(parent, name) is not None:
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

    def _promise(
        self, kind: IntentKind, ino: InodeId, now_ns: int, *, is_dir: bool, delayed: bool = True
    ) -> None:
        due = now_ns + self.policy.upload_delay_ns if delayed else now_ns
        journal.add(self._store, kind, ino, is_dir=is_dir, not_before_ns=due, now_ns=now_ns)

    # -- removing ------------------------------------------------------------------------

    def unlink(self, parent: InodeId, name: bytes) -> InodeRow:
        """Take the name away; the inode stays while it is open. Returns what it was."""
        now = self._clock.now_ns()
        with self._store.transaction():
            row = self.must_lookup(parent, name)
            if row.is_dir:
                raise FsError(errno.EISDIR)
            self._drop_name(parent, name, row, now)
            inodes.touch_dir(self._store, parent, now)
            self._keep_alive(parent, now)
        self._journal_grew()
        return row

    def rmdir(self, parent: InodeId, name: bytes) -> InodeRow:
        """Remove an empty directory; callers made sure that it is listed."""
        now = self._clock.now_ns()
        with self._store.transaction():
            row = self.must_lookup(parent, name)
            if not row.is_dir:
                raise FsError(errno.ENOTDIR)
            if inodes.has_children(self._store, row.id):
                raise FsError(errno.ENOTEMPTY)
            self._drop_name(parent, name, row, now)
            inodes.touch_dir(self._store, parent, now)
            self._keep_alive(parent, now)
        self._journal_grew()
        return row

    def _drop_name(self, parent: InodeId, name: bytes, row: InodeRow, now: int) -> None:
        location = self.location(row) if row.in_cloud else None
        inodes.unlink(self._store, parent, name)
        nlink = 0 if row.is_dir else row.nlink - 1
        inodes.set_nlink(self._store, row.id, nlink, now)
        if row.is_dir:
            inodes.add_nlink(self._store, parent, -1)
            self.forget_dir_keys()
        if nlink > 0:
            return
        live = self._table.get(row.id)
        if live is not None:
            live.is_unlinked = True
            live.orphan_location = location
        journal.remove_all(self._store, row.id)
        if location is not None:
            journal.add_delete(
                self._store,
                row.id,
                location,
                row.base,
                is_dir=row.is_dir,
                not_before_ns=now + self.policy.upload_delay_ns,
                now_ns=now,
            )

    def _keep_alive(self, directory: InodeId, now: int) -> None:
        """An emptied directory that was only a prefix of its children needs a marker now."""
        if directory == ROOT or self.policy.real_dirs:
            return
        row = self.row(directory)
        if row.in_cloud and row.base_tag is None and not inodes.has_children(self._store, row.id):
            self._promise(IntentKind.MKDIR, row.id, now, is_dir=True)

    # -- renaming ------------------------------------------------------------------------

    def rename(
        self,
        old_parent: InodeId,
        old_name: bytes,
        new_parent: InodeId,
        new_name: bytes,
        *,
        replace: bool,
    ) -> InodeRow | None:
        """Rename, over an existing name if ``replace``. Returns the inode that lost its name.

        One transaction whatever the size of a directory; the cloud follows the journal.
        """
        now = self._clock.now_ns()
        with self._store.transaction():
            row = self.must_lookup(old_parent, old_name)
            victim = self.lookup(new_parent, new_name)
            if victim is not None and victim.id == row.id:
                return None
            if victim is not None and not replace:
                raise FsError(errno.EEXIST)
            self.check_name(new_parent, new_name, is_dir=row.is_dir)
            self._check_rename(row, new_parent, victim)
            position = inodes.position(self._store, new_parent, new_name)
            if victim is not None:
                self._drop_name(new_parent, new_name, victim, now)
            self._relink(row, old_parent, old_name, new_parent, new_name, position, now)
            self._after_rename(row, old_parent, new_parent, now)
        self._journal_grew()
        return victim

    def exchange(self, parent_a: InodeId, name_a: bytes, parent_b: InodeId, name_b: bytes) -> None:
        """Swap two names (RENAME_EXCHANGE)."""
        now = self._clock.now_ns()
        with self._store.transaction():
            row_a = self.must_lookup(parent_a, name_a)
            row_b = self.must_lookup(parent_b, name_b)
            if row_a.id == row_b.id:
                return
            self._check_loop(row_a, parent_b)
            self._check_loop(row_b, parent_a)
            self._pin_place(row_a)
            self._pin_place(row_b)
            position_a = inodes.position(self._store, parent_a, name_a)
            position_b = inodes.position(self._store, parent_b, name_b)
            inodes.unlink(self._store, parent_a, name_a)
            inodes.unlink(self._store, parent_b, name_b)
            inodes.link(self._store, parent_b, name_b, row_a.id, position_b)
            inodes.link(self._store, parent_a, name_a, row_b.id, position_a)
            for row, old, new in ((row_a, parent_a, parent_b), (row_b, parent_b, parent_a)):
                self._after_rename(row, old, new, now)
                self.forget_dir_keys()
                self.settle_place(row.id, now)
        self._journal_grew()

    def _check_rename(self, row: InodeRow, new_parent: InodeId, victim: InodeRow | None) -> None:
        if self.row(new_parent).nlink == 0:
            raise FsError(errno.ENOENT)
        self._check_loop(row, new_parent)
        if victim is None:
            return
        if victim.is_dir and not row.is_dir:
            raise FsError(errno.EISDIR)
        if row.is_dir and not victim.is_dir:
            raise FsError(errno.ENOTDIR)
        if victim.is_dir and inodes.has_children(self._store, victim.id):
            raise FsError(errno.ENOTEMPTY)

    def _check_loop(self, row: InodeRow, new_parent: InodeId) -> None:
        if not row.is_dir:
            return
        ino = new_parent
        while ino != ROOT:
            if ino == row.id:
                raise FsError(errno.EINVAL)
            ino = self._dentry(ino).parent

    def _relink(
        self,
        row: InodeRow,
        old_parent: InodeId,
        old_name: bytes,
        new_parent: InodeId,
        new_name: bytes,
        position: int | None,
        now: int,
    ) -> None:
        self._pin_place(row)
        inodes.unlink(self._store, old_parent, old_name)
        # A name that is replaced keeps its place, or a running readdir would show it twice.
        inodes.link(self._store, new_parent, new_name, row.id, position)
        if row.is_dir:
            self.forget_dir_keys()
        self.settle_place(row.id, now)

    def _pin_place(self, row: InodeRow) -> None:
        """Before the name changes: note where the item is."""
        if row.in_cloud and row.remote_key is None:
            inodes.set_remote_key(self._store, row.id, self.location(row).key)

    def settle_place(self, ino: InodeId, now: int) -> None:
        """Make the journal say what is left to do for the item to be where the name says."""
        row = self.row(ino)
        if not row.in_cloud or row.remote_key is None:
            journal.remove_kind(self._store, ino, IntentKind.MOVE)
        elif row.remote_key == self.target(row).key:
            inodes.set_remote_key(self._store, ino, None)
            journal.remove_settled_move(self._store, ino)
        else:
            self._promise(IntentKind.MOVE, ino, now, is_dir=row.is_dir)

    def _after_rename(
        self, row: InodeRow, old_parent: InodeId, new_parent: InodeId, now: int
    ) -> None:
        if row.is_dir and old_parent != new_parent:
            inodes.add_nlink(self._store, old_parent, -1)
            inodes.add_nlink(self._store, new_parent, 1)
        inodes.touch_dir(self._store, old_parent, now)
        inodes.touch_dir(self._store, new_parent, now)
        inodes.set_nlink(self._store, row.id, row.nlink, now)
        self._keep_alive(old_parent, now)

    # -- attributes ----------------------------------------------------------------------

    def set_attributes(
        self,
        row: InodeRow,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
        atime_ns: int | None = None,
    ) -> None:
        """What chmod, chown and utimensat change; the rest stays."""
        now = self._clock.now_ns()
        with self._store.transaction():
            inodes.set_attributes(
                self._store,
                row.id,
                mode=row.mode if mode is None else stat.S_IFMT(row.mode) | stat.S_IMODE(mode),
                uid=row.uid if uid is None else uid,
                gid=row.gid if gid is None else gid,
                mtime_ns=row.mtime_ns if mtime_ns is None else mtime_ns,
                atime_ns=row.atime_ns if atime_ns is None else atime_ns,
                ctime_ns=now,
                rdev=row.rdev,
            )
            if (mode, uid, gid, mtime_ns) != (None, None, None, None):
                self._promise_attributes(row, now)
        live = self._table.get(row.id)
        if live is not None:
            live.ctime_ns = now
            if mtime_ns is not None:
                live.mtime_ns = mtime_ns

    def set_xattr(self, row: InodeRow, name: bytes, value: bytes | None) -> None:
        """None removes it. Raises ENODATA where there is none to remove."""
        now = self._clock.now_ns()
        with self._store.transaction():
            if value is not None:
                inodes.set_xattr(self._store, row.id, name, value)
            elif not inodes.remove_xattr(self._store, row.id, name):
                raise FsError(errno.ENODATA)
            inodes.set_nlink(self._store, row.id, row.nlink, now)
            self._promise_attributes(row, now)

    def _promise_attributes(self, row: InodeRow, now: int) -> None:
        # A pending PUT or MKDIR carries the attributes there are when it runs.
        if (
            not self.policy.keeps_attributes
            or not row.in_cloud
            or row.dirty
            or row.nlink == 0
            or row.id == ROOT
            or (row.is_dir and journal.find(self._store, row.id, IntentKind.MKDIR))
        ):
            return
        self._promise(IntentKind.ATTRS, row.id, now, is_dir=row.is_dir)
        self._journal_grew()
