"""The tree of names: POSIX changes to it, each one transaction with its journal rows.

A name leads to an inode, its place in the cloud is ``places``' matter, and what a file with
several names needs, that of ``links``.
"""

import errno
import stat
from typing import Protocol

from csyncfs import names
from csyncfs.errors import FsError
from csyncfs.links import Links
from csyncfs.store import aliases, inodes, journal
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import IntentKind
from csyncfs.types import ROOT, InodeId


class Notifier(Protocol):
    """Tells the kernel, after the commit, what it knows no longer. Never waits."""

    def entry_changed(self, parent: InodeId, name: bytes) -> None: ...

    def attributes_changed(self, ino: InodeId) -> None: ...


class Tree(Links):
    """Names and attributes. Every method is synchronous and atomic."""

    # -- looking -------------------------------------------------------------------------

    def lookup(self, parent: InodeId, name: bytes) -> InodeRow | None:
        return inodes.lookup(self._store, parent, name)

    def file_for_key(self, key: str) -> InodeRow | None:
        """The file whose name says that its item belongs at this key."""
        row = self._at(key)
        return row if row is not None and not row.is_dir else None

    def dir_for_key(self, key: str) -> InodeRow | None:
        """Likewise the directory; not the root."""
        row = self._at(key.removesuffix("/"))
        return row if row is not None and row.is_dir else None

    def _at(self, path: str) -> InodeRow | None:
        ino, utf8_only = ROOT, not self.policy.raw_names
        row: InodeRow | None = None
        for segment in path.split("/"):
            if row is not None and not row.is_dir:
                return None
            row = self.lookup(ino, names.to_name(segment, utf8_only=utf8_only).name)
            if row is None:
                return None
            ino = row.id
        return row if row is not None and self.target(row).key.removesuffix("/") == path else None

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
        with self._store.transaction(grows=True):
            gid, _ = self.check_new(parent, name, gid, is_dir=False)
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
        with self._store.transaction(grows=True):
            gid, setgid = self.check_new(parent, name, gid, is_dir=True)
            ino = inodes.insert(
                self._store, mode=mode | setgid, uid=uid, gid=gid, now_ns=now, nlink=2
            )
            # Nothing can be in the cloud below a directory that is not there itself.
            inodes.set_listed(self._store, ino, now)
            inodes.link(self._store, parent, name, ino)
            inodes.touch_dir(self._store, parent, now)
            inodes.add_nlink(self._store, parent, 1)
            self.promise(IntentKind.MKDIR, ino, now, is_dir=True)
        self._journal_grew()
        return ino

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
        if row.alias_of is not None:
            self.drop_alias(row, now)
            return
        heirs = aliases.of(self._store, row.id) if row.is_linked else []
        if heirs:
            self.inherit_name(row, heirs[0], now)
            return
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

            def orphaned() -> None:
                live.is_unlinked = True
                live.orphan_location = location

            # Not if the disk is full: then it keeps its name, and what is written is kept.
            self._store.after_commit(orphaned)
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
            self.promise(IntentKind.MKDIR, row.id, now, is_dir=True)

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
            if victim is not None and self.file_of(victim).id == self.file_of(row).id:
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
            if self.file_of(row_a).id == self.file_of(row_b).id:
                return
            self._check_loop(row_a, parent_b)
            self._check_loop(row_b, parent_a)
            self.pin_place(row_a)
            self.pin_place(row_b)
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
        self.pin_place(row)
        inodes.unlink(self._store, old_parent, old_name)
        # A name that is replaced keeps its place, or a running readdir would show it twice.
        inodes.link(self._store, new_parent, new_name, row.id, position)
        if row.is_dir:
            self.forget_dir_keys()
        self.settle_place(row.id, now)

    def _after_rename(
        self, row: InodeRow, old_parent: InodeId, new_parent: InodeId, now: int
    ) -> None:
        if row.is_dir and old_parent != new_parent:
            inodes.add_nlink(self._store, old_parent, -1)
            inodes.add_nlink(self._store, new_parent, 1)
        inodes.touch_dir(self._store, old_parent, now)
        inodes.touch_dir(self._store, new_parent, now)
        file = self.file_of(row)
        inodes.set_nlink(self._store, file.id, file.nlink, now)
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
                self.promise_attributes(row, now, is_time=mtime_ns is not None)
        if atime_ns is not None:
            self._table.accessed.pop(row.id, None)
        live = self._table.get(row.id)
        if live is not None:
            live.ctime_ns = now
            if mtime_ns is not None:
                live.mtime_ns = mtime_ns

    def set_xattr(self, row: InodeRow, name: bytes, value: bytes | None) -> None:
        """None removes it. Raises ENODATA where there is none to remove."""
        now = self._clock.now_ns()
        with self._store.transaction(grows=value is not None):
            if value is not None:
                inodes.set_xattr(self._store, row.id, name, value)
            elif not inodes.remove_xattr(self._store, row.id, name):
                raise FsError(errno.ENODATA)
            inodes.set_nlink(self._store, row.id, row.nlink, now)
            self.promise_attributes(row, now)
