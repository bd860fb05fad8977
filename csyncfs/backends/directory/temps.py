"""Items in the making, in the reserved directory of the same file system.

A temp item has its content, attributes and stamps before it takes its name. Its own name
says nothing; the ones a crash leaves behind are removed by a later ``connect``. Items that
had a name before (``swap-``, ``rescued-``) are never removed by that: see ``commit``.
"""

import errno
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from csyncfs.backends.base import Writing
from csyncfs.backends.directory.tree import (
    DEVICE_XATTR,
    LINK_XATTR,
    LISTS,
    PUT_XATTR,
    TEMPS,
    Tree,
    bound_link,
    identity,
    is_kept,
    lstat,
    proc_path,
)
from csyncfs.errors import Unrepresentable
from csyncfs.types import Attributes

log = logging.getLogger(__name__)

STEP_BYTES: Final = 1 << 20
_KEEP_NS: Final = 7 * 24 * 3600 * 10**9
_NAME: Final = re.compile(r"[0-9a-f]{24}")
_NO_RANGE_COPY: Final = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}

Step = Callable[[int, int], None]
"""Told the temp file's descriptor and how many bytes are in it; raises to stop."""


class ShortSource(Exception):
    """The content ended before the size it was said to have."""


@dataclass(frozen=True, slots=True)
class Content:
    """``size`` bytes of ``fd``, or of ``data`` where there is no descriptor (a symlink)."""

    size: int
    fd: int | None
    data: bytes = b""

    def read_all(self) -> bytes:
        if self.fd is None:
            return self.data
        got = bytearray()
        while len(got) < self.size:
            piece = os.pread(self.fd, self.size - len(got), len(got))
            if not piece:
                raise ShortSource
            got += piece
        return bytes(got)


@dataclass(frozen=True, slots=True)
class Made:
    """A finished temp item."""

    name: str
    st: os.stat_result

    @property
    def identity(self) -> tuple[int, ...]:
        return identity(self.st)


def new_name() -> str:
    return secrets.token_hex(12)


def is_name(name: str) -> bool:
    """Whether a name in the temp directory is that of an unfinished item."""
    return _NAME.fullmatch(name) is not None


def make(
    tree: Tree,
    name: str,
    content: Content,
    writing: Writing,
    *,
    done: int = 0,
    step: Step = lambda _fd, _at: None,
) -> Made:
    """Make the temp item of this name durable, with attributes and stamps.

    ``done``: that many bytes of it are there from an earlier try. Raises ShortSource.
    """
    kind = stat.S_IFMT(writing.attributes.mode or 0) or stat.S_IFREG
    with tree.reserved(TEMPS) as temps:
        match kind:
            case stat.S_IFREG:
                fd = _fill(temps, name, content, writing, done=done, step=step)
            case stat.S_IFLNK:
                fd = _link(temps, name, content)
            case stat.S_IFIFO | stat.S_IFSOCK | stat.S_IFBLK | stat.S_IFCHR:
                fd = _node(temps, name, content, writing.attributes)
            case _:
                raise Unrepresentable("a file cannot have the mode of a directory")
        try:
            stamp(tree, fd, writing)
            if kind == stat.S_IFREG:
                os.fsync(fd)
            return Made(name, os.fstat(fd))
        finally:
            os.close(fd)


def _fill(
    temps: int, name: str, content: Content, writing: Writing, *, done: int, step: Step
) -> int:
    """A regular temp file with this content, open."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    # Not readable by others before it has the mode it shall have.
    mode = 0o666 if writing.attributes.mode is None else 0o600
    fd = os.open(name, flags | (0 if done else os.O_EXCL), mode, dir_fd=temps)
    try:
        os.ftruncate(fd, done)
        if content.fd is None:
            os.pwrite(fd, content.data, 0)
        else:
            copy_bytes(content.fd, fd, done, content.size, lambda at: step(fd, at))
    except BaseException:
        os.close(fd)
        raise
    return fd


def copy_bytes(source: int, target: int, start: int, end: int, step: Callable[[int], None]) -> None:
    """Copy ``[start, end)``, inside the kernel where the file systems can."""
    copy = _range_copy
    while start < end:
        step(start)
        copied = copy(source, target, start, min(STEP_BYTES, end - start))
        if copied:
            start += copied
        elif copy is _range_copy:
            copy = _plain_copy
        else:
            raise ShortSource
    step(end)


def _range_copy(source: int, target: int, at: int, count: int) -> int:
    """Bytes copied; 0 at the end of the source, and where the file systems cannot."""
    try:
        return os.copy_file_range(source, target, count, at, at)
    except OSError as exc:
        if exc.errno in _NO_RANGE_COPY:
            return 0
        raise


def _plain_copy(source: int, target: int, at: int, count: int) -> int:
    data = os.pread(source, count, at)
    written = 0
    while written < len(data):
        written += os.pwrite(target, memoryview(data)[written:], at + written)
    return len(data)


def _open_path(temps: int, name: str) -> int:
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=temps)


def _link(temps: int, name: str, content: Content) -> int:
    target = content.read_all()
    if not target or b"\0" in target:
        raise Unrepresentable("no symlink can have this target")
    os.symlink(target, os.fsencode(name), dir_fd=temps)
    return _open_path(temps, name)


def _node(temps: int, name: str, content: Content, attributes: Attributes) -> int:
    if content.size:
        raise Unrepresentable("a special file has no content")
    mode = attributes.mode or 0
    try:
        os.mknod(name, stat.S_IFMT(mode) | 0o600, attributes.rdev or 0, dir_fd=temps)
    except PermissionError:
        raise Unrepresentable("only root can make device nodes in a directory") from None
    return _open_path(temps, name)


def stamp(tree: Tree, fd: int, writing: Writing) -> None:
    """Set attributes and stamps of what a descriptor (of any kind) holds; the put id last,
    because finding it means that the write was complete."""
    attributes, path = writing.attributes, proc_path(fd)
    mode = os.fstat(fd).st_mode
    if os.geteuid() == 0 and not (attributes.uid is None and attributes.gid is None):
        uid = -1 if attributes.uid is None else attributes.uid
        os.chown(path, uid, -1 if attributes.gid is None else attributes.gid)
    if attributes.mode is not None and not stat.S_ISLNK(mode):
        os.chmod(path, stat.S_IMODE(attributes.mode))
    has_xattrs = tree.has_xattrs and (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    if has_xattrs:
        _set_xattrs(path, attributes)
    if attributes.mtime_ns is not None:
        os.utime(path, ns=(attributes.mtime_ns, attributes.mtime_ns))
    if has_xattrs:
        if attributes.link is not None:
            os.setxattr(path, LINK_XATTR, bound_link(attributes.link, os.fstat(fd)))
        os.setxattr(path, DEVICE_XATTR, writing.device.encode())
        os.setxattr(path, PUT_XATTR, writing.put_id.encode())


def _set_xattrs(path: str, attributes: Attributes) -> None:
    for name in os.listxattr(path):
        stays = name in attributes.xattrs or name in {PUT_XATTR, DEVICE_XATTR}
        if is_kept(name) and not stays:
            os.removexattr(path, name)
    for name, value in attributes.xattrs.items():
        try:
            os.setxattr(path, name, value)
        except OSError as exc:
            # Not every file system has lists; a file must not wait for one.
            if exc.errno != errno.EOPNOTSUPP or name not in LISTS:
                raise
            log.debug("no access control lists")


def resumable(tree: Tree, name: str, done: int) -> bool:
    """Whether a temp item of an earlier try still has its first ``done`` bytes."""
    if not is_name(name):
        return False
    try:
        with tree.reserved(TEMPS) as temps:
            st = lstat(temps, name)
            if not stat.S_ISREG(st.st_mode) or st.st_size < done:
                return False
            if st.st_mode & 0o600 != 0o600:
                # Finished before, with the mode of a file nobody may write to.
                os.chmod(name, 0o600, dir_fd=temps)
    except FileNotFoundError:
        return False
    return True


def discard(tree: Tree, made: Made) -> None:
    """Remove a temp item, unless it has got its name meanwhile. Gone is no error."""
    discard_name(tree, made.name, made.st.st_ino)


def discard_name(tree: Tree, name: str, ino: int | None = None) -> None:
    """Remove the temp item of this name; gone already, or another inode, is no error."""
    try:
        with tree.reserved(TEMPS) as temps:
            st = lstat(temps, name)
            if ino is not None and st.st_ino != ino:
                return
            if stat.S_ISDIR(st.st_mode):
                os.rmdir(name, dir_fd=temps)
            else:
                os.unlink(name, dir_fd=temps)
    except FileNotFoundError:
        return


def sweep(tree: Tree, now_ns: int) -> None:
    """Remove what crashed writers left behind a week ago; nothing that ever had a name."""
    with tree.reserved(TEMPS) as temps:
        for name in os.listdir(proc_path(temps)):
            if is_name(name) and now_ns - lstat(temps, name).st_ctime_ns > _KEEP_NS:
                discard_name(tree, name)
