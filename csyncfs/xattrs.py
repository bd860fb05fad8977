"""Extended attributes: users' own, and access control lists, which go with the mode.

The kernel enforces lists (FUSE_POSIX_ACL) and asks for them here; that a list and the mode agree,
and that what is made inherits its directory's default, is done here.
"""

import errno
import stat

from csyncfs import acl
from csyncfs.errors import FsError
from csyncfs.inode import InodeTable
from csyncfs.store import inodes
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.tree import Tree
from csyncfs.types import InodeId

_USERS = b"user."
_LISTS = frozenset({acl.ACCESS, acl.DEFAULT})
# The kernel's own limits (XATTR_NAME_MAX, XATTR_SIZE_MAX).
_NAME_BYTES = 255
_VALUE_BYTES = 65536


class Xattrs:
    """Each change is one transaction. ``lists`` False: the kernel does not enforce them, so
    there are none."""

    def __init__(self, store: Store, table: InodeTable, tree: Tree, *, lists: bool) -> None:
        self._store = store
        self._table = table
        self._tree = tree
        self._has_lists = lists

    def _is_shown(self, name: bytes) -> bool:
        return name.startswith(_USERS) or (self._has_lists and name in _LISTS)

    def get(self, ino: InodeId, name: bytes) -> bytes:
        """Raises ENODATA where there is none."""
        value = inodes.get_xattr(self._store, ino, name) if self._is_shown(name) else None
        if value is not None and name in _LISTS:
            found = self._list(ino, name)
            value = None if found is None else acl.encode(found)
        if value is None:
            raise FsError(errno.ENODATA)
        return value

    def names(self, ino: InodeId) -> list[bytes]:
        self._tree.row(ino)
        return [name for name in inodes.list_xattrs(self._store, ino) if self._is_shown(name)]

    def set(self, ino: InodeId, name: bytes, value: bytes | None, *, keep_setgid: bool) -> None:
        """Set, or remove with None. ``keep_setgid``: whether the caller may set that bit."""
        row = self._table.overlay(self._tree.row(ino))
        if not self._is_shown(name):
            raise FsError(errno.EOPNOTSUPP)
        if len(name) > _NAME_BYTES or len(value or b"") > _VALUE_BYTES:
            raise FsError(errno.ERANGE)
        if name not in _LISTS:
            self._tree.set_xattr(row, name, value)
            return
        new = self._parse(value)
        if name == acl.DEFAULT and new and not row.is_dir:
            raise FsError(errno.EACCES)
        with self._store.transaction():
            if name == acl.ACCESS and new:
                mode = row.mode & ~0o777 | acl.permissions(new)
                self._tree.set_attributes(row, mode=mode if keep_setgid else mode & ~stat.S_ISGID)
                new = () if acl.is_minimal(new) else new
            if new or inodes.get_xattr(self._store, ino, name) is not None:
                self._tree.set_xattr(row, name, acl.encode(new) if new else None)

    def _parse(self, value: bytes | None) -> acl.Acl:
        try:
            return () if value is None else acl.parse(value)
        except ValueError as exc:
            raise FsError(errno.EINVAL, str(exc)) from None

    def _list(self, ino: InodeId, name: bytes) -> acl.Acl | None:
        """A list as it counts: other tools may have changed the mode alone, or written nonsense."""
        raw = inodes.get_xattr(self._store, ino, name) if self._has_lists else None
        try:
            found = acl.parse(raw) if raw is not None else ()
        except ValueError:
            return None
        if not found:
            return None
        return found if name == acl.DEFAULT else acl.with_mode(found, self._tree.row(ino).mode)

    def follow_mode(self, row: InodeRow, mode: int) -> None:
        """chmod(2): the list says the same. Inside the caller's transaction."""
        found = self._list(row.id, acl.ACCESS)
        if found is not None:
            inodes.set_xattr(
                self._store, row.id, acl.ACCESS, acl.encode(acl.with_mode(found, mode))
            )

    def inherited(self, parent: InodeId, mode: int, umask: int) -> tuple[int, dict[bytes, bytes]]:
        """Mode and lists of what is made in a directory."""
        default = self._list(parent, acl.DEFAULT)
        if default is None:
            return mode & ~umask, {}
        made: dict[bytes, bytes] = {}
        if stat.S_ISDIR(mode):
            made[acl.DEFAULT] = acl.encode(default)
        mode, access = acl.inherit(default, mode)
        if access is not None:
            made[acl.ACCESS] = acl.encode(access)
        return mode, made

    def give(self, ino: InodeId, made: dict[bytes, bytes]) -> None:
        """What ``inherited`` told, inside the transaction that makes the inode."""
        for name, value in made.items():
            inodes.set_xattr(self._store, ino, name, value)
