"""From keys to descriptors, and from what is on disk to items and versions.

Runs in worker threads; raises OSError for what the file system says and the domain error
where only this place knows the meaning. ``translate`` makes the one from the other.

Keys are os.fsdecode'd names: bytes that are no UTF-8 come and go as lone surrogates.
A path is opened component by component without following symlinks, so that no symlink
somebody puts in the way leads a write out of the root (and no path is too long).

**The version tag** is inode number, size, mtime and ctime. A write in place, a rename over
the name and a restored mtime all change one of them. What it can miss: a write in place of
equal length within one clock tick of the one before (about 4 ms; none since Linux 6.13 on
the big local file systems, which count finer once somebody looked), a store through mmap
that has not been flushed yet, and on NFS whatever the client's attribute cache hides;
regular files are therefore opened before they are looked at where it matters
(close-to-open consistency asks the server then), but two hosts writing within the server's
timestamp granularity stay undistinguished. It can also change without need (a chmod, a
new hard link): that costs a comparison, never bytes.

A directory's tag is inode number, mode and owner; its times are left out because they
change with every child.
"""

import errno
import os
import stat
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from csyncfs import acl
from csyncfs.errors import (
    AccessDenied,
    BackendError,
    NoSuchStore,
    NotFound,
    Offline,
    QuotaExceeded,
    Retry,
    Unrepresentable,
    VersionMismatch,
)
from csyncfs.types import (
    RESERVED_DIR,
    Attributes,
    Item,
    Kind,
    Location,
    Page,
    RemoteVersion,
    Space,
)

MARKER: Final = RESERVED_DIR.removesuffix("/")
TEMPS: Final = RESERVED_DIR + "tmp/"
LOCKS: Final = RESERVED_DIR + "locks/"

PUT_XATTR: Final = "user.csyncfs.put"
DEVICE_XATTR: Final = "user.csyncfs.device"
LINK_XATTR: Final = "user.csyncfs.link"
_OWN_XATTRS: Final = "user.csyncfs."
LISTS: Final = frozenset({acl.ACCESS.decode(), acl.DEFAULT.decode()})

_KEPT_LISTINGS: Final = 8

_ERRORS: Final[dict[int, type[BackendError]]] = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ELOOP), NotFound),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), AccessDenied),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), QuotaExceeded),
    **dict.fromkeys(
        (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EFBIG, errno.E2BIG, errno.EXDEV),
        Unrepresentable,
    ),
    **dict.fromkeys(
        (
            errno.ESTALE,
            errno.EIO,
            errno.ENOTCONN,
            errno.ETIMEDOUT,
            errno.EHOSTDOWN,
            errno.EHOSTUNREACH,
            errno.ENETDOWN,
            errno.ENETUNREACH,
            errno.ECONNREFUSED,
            errno.ECONNRESET,
            errno.ECONNABORTED,
        ),
        Offline,
    ),
}


def translate(exc: OSError, key: str) -> BackendError:
    """The domain error for what the file system said about ``key``."""
    kind = _ERRORS.get(exc.errno or 0, Retry)
    return kind(f"{os.strerror(exc.errno or 0)}: {key!r}")


def proc_path(fd: int) -> str:
    """A path to exactly what an O_PATH descriptor holds, for calls that take no descriptor."""
    return f"/proc/self/fd/{fd}"


def tag_of(st: os.stat_result, mtime_ns: int, size: int) -> str:
    return f"{st.st_ino:x}.{size:x}.{mtime_ns:x}.{st.st_ctime_ns:x}"


def version_of(st: os.stat_result) -> RemoteVersion:
    if stat.S_ISDIR(st.st_mode):
        # No time: it changes with every child, and equal tags should be equal versions.
        tag = f"d{st.st_ino:x}.{st.st_mode:x}.{st.st_uid:x}.{st.st_gid:x}"
        return RemoteVersion(tag, 0, 0)
    has_content = stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode)
    size = st.st_size if has_content else 0
    return RemoteVersion(tag_of(st, st.st_mtime_ns, size), size, st.st_ctime_ns)


def identity(st: os.stat_result) -> tuple[int, ...]:
    """What tells versions apart across a rename, which changes ctime."""
    if stat.S_ISDIR(st.st_mode):
        return (st.st_ino,)
    return (st.st_ino, st.st_mtime_ns, st.st_size)


def lstat(directory: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """An opened item: an O_PATH descriptor, which opens no FIFO and no device."""

    key: str
    fd: int
    st: os.stat_result

    @property
    def kind(self) -> Kind:
        return Kind.DIR if stat.S_ISDIR(self.st.st_mode) else Kind.FILE


@dataclass(frozen=True, slots=True)
class Place:
    """A name in an opened directory, whether something is there or not."""

    key: str
    directory: int
    name: str


class Tree:
    """The root directory and what is below it."""

    def __init__(self, root: str, page_items: int) -> None:
        self.root = root
        self.has_xattrs = False
        self.is_marked = False
        """The reserved directory was there once; without it something else is mounted."""
        self._page_items = page_items
        self._listings: OrderedDict[str, list[str]] = OrderedDict()  # guarded by: _lock
        self._lock = threading.Lock()

    def open_root(self) -> int:
        try:
            root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchStore(f"no directory {self.root!r}") from None
        if self.is_marked:
            try:
                os.stat(MARKER, dir_fd=root, follow_symlinks=False)
            except FileNotFoundError:
                os.close(root)
                # An unmounted export is an empty directory; that nothing is listed
                # there must not read as "everything was deleted".
                raise NoSuchStore(f"{self.root!r} has lost {MARKER!r}: not mounted?") from None
            except OSError:
                os.close(root)
                raise
        return root

    def open_dir(self, key: str) -> int:
        """O_PATH descriptor of the directory ``a/b/``; the root is ``""``."""
        fd = self.open_root()
        for name in _names(key):
            parent = fd
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(name, flags, dir_fd=parent)
            finally:
                os.close(parent)
        return fd

    @contextmanager
    def directory(self, key: str) -> Generator[int]:
        fd = self.open_dir(key)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def reserved(self, key: str) -> Generator[int]:
        """A directory below the reserved one."""
        try:
            fd = self.open_dir(key)
        except (FileNotFoundError, NotADirectoryError):
            # Must not pass for "the item does not exist".
            raise AccessDenied(f"nothing can be written: no {key!r} in {self.root!r}") from None
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def place(self, key: str) -> Generator[Place]:
        """The name a key stands for, in its parent directory."""
        path = key.removesuffix("/")
        if not path:
            raise Unrepresentable("the root has no name")
        cut = path.rfind("/") + 1
        _names(path)
        with self.directory(path[:cut]) as directory:
            yield Place(key, directory, path[cut:])

    @contextmanager
    def entry(self, place: Place) -> Generator[Entry]:
        """What is at a place now, as fresh as the file system tells it."""
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(place.name, flags, dir_fd=place.directory)
        try:
            yield Entry(place.key, fd, _fresh(fd))
        finally:
            os.close(fd)

    @contextmanager
    def found(self, key: str, kind: Kind) -> Generator[Entry]:
        """The item of this key and kind; NotFound for one of the other kind."""
        if not key:
            fd = self.open_root()
            try:
                yield Entry("", fd, os.fstat(fd))
            finally:
                os.close(fd)
            return
        with self.place(key) as place, self.entry(place) as entry:
            if entry.kind is not kind:
                raise NotFound(f"no {kind} {key!r}")
            yield entry

    def item(self, entry: Entry) -> Item:
        return self._item(entry.key, entry.st, proc_path(entry.fd), follow=True)

    def current(self, place: Place) -> Item | None:
        """The item at a place, of whatever kind; None if there is none."""
        try:
            with self.entry(place) as entry:
                path = place.key.removesuffix("/")
                key = path + "/" if entry.kind is Kind.DIR else path
                return self.item(Entry(key, entry.fd, entry.st))
        except FileNotFoundError:
            return None

    def mismatch(self, place: Place) -> VersionMismatch:
        return VersionMismatch(f"{place.key!r} is not the expected version", self.current(place))

    def _item(self, key: str, st: os.stat_result, path: str, *, follow: bool) -> Item:
        own, xattrs = self._xattrs(st, path, follow=follow)
        is_device = stat.S_ISBLK(st.st_mode) or stat.S_ISCHR(st.st_mode)
        attributes = Attributes(
            mode=st.st_mode,
            uid=st.st_uid,
            gid=st.st_gid,
            mtime_ns=st.st_mtime_ns,
            rdev=st.st_rdev if is_device else None,
            xattrs=xattrs,
            link=_link_of(st, own.get(LINK_XATTR)),
        )
        kind = Kind.DIR if stat.S_ISDIR(st.st_mode) else Kind.FILE
        put_id, device = own.get(PUT_XATTR), own.get(DEVICE_XATTR)
        return Item(
            Location(key),
            kind,
            version_of(st),
            attributes,
            put_id.decode(errors="replace") if put_id is not None else None,
            device.decode(errors="replace") if device is not None else None,
        )

    def _xattrs(
        self, st: os.stat_result, path: str, *, follow: bool
    ) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
        """csyncfs's own stamps; user xattrs and access control lists."""
        own: dict[str, bytes] = {}
        users: dict[str, bytes] = {}
        # The kernel allows user xattrs on regular files and directories only.
        if not self.has_xattrs or not (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)):
            return own, users
        for name in os.listxattr(path, follow_symlinks=follow):
            if is_kept(name):
                try:
                    value = os.getxattr(path, name, follow_symlinks=follow)
                except OSError as exc:
                    # Removed meanwhile, or a file this user may not read.
                    if exc.errno in {errno.ENODATA, errno.EACCES, errno.EPERM}:
                        continue
                    raise
                (own if name.startswith(_OWN_XATTRS) else users)[name] = value
        return own, users

    def list_page(self, key: str, token: str | None) -> Page:
        """Children after the one named ``token``, in the order of their names."""
        with self.directory(key) as directory:
            names = self._names_after(key, directory, token)
            shown = names[: self._page_items]
            items = (self._listed(key, directory, name) for name in shown)
            found = tuple(item for item in items if item is not None)
        if len(names) > len(shown):
            return Page(found, shown[-1])
        with self._lock:
            self._listings.pop(key, None)
        return Page(found, None)

    def _names_after(self, key: str, directory: int, token: str | None) -> list[str]:
        with self._lock:
            names = self._listings.get(key)
        if token is None or names is None:
            # The token is a name, so any process can go on from it; the sorted names are
            # kept only to spare reading a large directory once per page.
            names = _scan(directory)
            if not key and MARKER in names:
                names.remove(MARKER)
            with self._lock:
                self._listings[key] = names
                self._listings.move_to_end(key)
                while len(self._listings) > _KEPT_LISTINGS:
                    self._listings.popitem(last=False)
        return names if token is None else names[bisect_right(names, token) :]

    def _listed(self, parent: str, directory: int, name: str) -> Item | None:
        try:
            st = lstat(directory, name)
            key = parent + name + ("/" if stat.S_ISDIR(st.st_mode) else "")
            return self._item(key, st, f"{proc_path(directory)}/{name}", follow=False)
        except FileNotFoundError:
            return None  # Removed since the scan.

    def space(self) -> Space:
        with self.directory("") as root:
            room = os.statvfs(proc_path(root))
        return Space(room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize)


def bound_link(link: str, st: os.stat_result) -> bytes:
    """A link that is good for this very file: ``cp -a`` copies xattrs, and its copies are no
    names of the file."""
    return f"{link}.{st.st_ino:x}".encode()


def is_kept(xattr: str) -> bool:
    """Whether an extended attribute is one that items have."""
    return xattr.startswith("user.") or xattr in LISTS


def _link_of(st: os.stat_result, told: bytes | None) -> str | None:
    if stat.S_ISDIR(st.st_mode):
        return None
    link, _, bound = (told or b"").decode(errors="replace").rpartition(".")
    if link and bound == f"{st.st_ino:x}":
        return link
    # Names that somebody else gave one file.
    return f"i{st.st_ino:x}.{st.st_mtime_ns:x}" if st.st_nlink > 1 else None


def _names(key: str) -> list[str]:
    """The components of a key; Unrepresentable if one cannot be a file name."""
    if not key:
        return []
    names = key.removesuffix("/").split("/")
    for name in names:
        if name in {"", ".", ".."} or "\0" in name:
            raise Unrepresentable(f"no file can have this name: {key!r}")
    return names


def _scan(directory: int) -> list[str]:
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def _fresh(fd: int) -> os.stat_result:
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode):
        return st
    try:
        # On NFS an open asks the server, a stat may answer from the attribute cache.
        reader = os.open(proc_path(fd), os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return st
    try:
        return os.fstat(reader)
    finally:
        os.close(reader)
