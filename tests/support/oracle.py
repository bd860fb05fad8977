"""What POSIX says a file system does: a tree in memory, as simple as it can be made.

Owns the meaning of "right" in ``tests/model``. Every call returns what the call returns to a
program, or raises OSError with the errno Linux gives on ext4. Paths are text without a
leading slash; the root is ``""``. Nothing here knows csyncfs.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

NAME_BYTES = 255


@dataclass(eq=False)
class Node:
    """One inode."""

    type: int
    """S_IFREG, S_IFDIR, S_IFLNK or S_IFIFO."""
    mode: int
    data: bytes = b""
    target: str = ""
    entries: dict[str, "Node"] = field(default_factory=dict[str, "Node"])
    xattrs: dict[str, bytes] = field(default_factory=dict[str, bytes])
    names: int = 0
    """How many names it has; of a directory 0 or 1."""
    mtime_ns: int | None = None
    """As it was set; None: whatever the file system's clock made of it."""
    since_saved: list[bytes] = field(default_factory=lambda: [b""])
    """Of a file: the content a program last closed or synced, and every one since."""

    @property
    def is_dir(self) -> bool:
        return self.type == stat.S_IFDIR

    @property
    def nlink(self) -> int:
        if not self.is_dir:
            return self.names
        return 2 + sum(child.is_dir for child in self.entries.values()) if self.names else 0

    @property
    def size(self) -> int:
        return len(os.fsencode(self.target)) if self.target else len(self.data)

    def change(self, data: bytes) -> None:
        self.data = data
        self.since_saved.append(data)
        self.mtime_ns = None

    def save(self) -> None:
        """A program was told that the content is safe."""
        self.since_saved = [self.data]


@dataclass(frozen=True)
class Seen:
    """What programs see of one name."""

    mode: int
    nlink: int
    size: int
    mtime_ns: int | None
    content: bytes | str
    """Bytes of a file, target of a symlink."""
    xattrs: tuple[tuple[str, bytes], ...]


@dataclass(eq=False)
class Open:
    """One open file description."""

    node: Node
    flags: int

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def reads(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Oracle:
    """The tree, and what is open. Handles are named by the number the caller opened them as."""

    def __init__(self) -> None:
        self.root = Node(stat.S_IFDIR, 0o755, names=1)
        self.open_files: dict[int, Open] = {}

    # -- looking -------------------------------------------------------------------------

    def walk(self, path: str = "") -> Iterator[tuple[str, Node]]:
        """Every name below, parents first."""
        for name, node in sorted(self.node(path).entries.items()):
            child = f"{path}/{name}" if path else name
            yield child, node
            if node.is_dir:
                yield from self.walk(child)

    def node(self, path: str) -> Node:
        node = self.root
        for name in [part for part in path.split("/") if part]:
            if not node.is_dir:
                raise fail(errno.ENOTDIR)
            if len(os.fsencode(name)) > NAME_BYTES:
                raise fail(errno.ENAMETOOLONG)
            if name not in node.entries:
                raise fail(errno.ENOENT)
            node = node.entries[name]
        return node

    def _parent(self, path: str) -> tuple[Node, str]:
        above, _, name = path.rpartition("/")
        parent = self.node(above)
        if not parent.is_dir:
            raise fail(errno.ENOTDIR)
        if len(os.fsencode(name)) > NAME_BYTES:
            raise fail(errno.ENAMETOOLONG)
        return parent, name

    def _existing(self, path: str) -> tuple[Node, str, Node]:
        parent, name = self._parent(path)
        if name not in parent.entries:
            raise fail(errno.ENOENT)
        return parent, name, parent.entries[name]

    def show(self) -> dict[str, Seen]:
        """The whole tree."""
        return {path: self._seen(node) for path, node in [("", self.root), *self.walk()]}

    def _seen(self, node: Node) -> Seen:
        return Seen(
            node.type | node.mode,
            node.nlink,
            0 if node.is_dir else node.size,
            node.mtime_ns,
            node.target or node.data,
            tuple(sorted(node.xattrs.items())),
        )

    def stat(self, path: str) -> tuple[int, ...]:
        return self._stat(self.node(path))

    def fstat(self, slot: int) -> tuple[int, ...]:
        return self._stat(self.open_files[slot].node)

    def _stat(self, node: Node) -> tuple[int, ...]:
        return node.type | node.mode, node.nlink, 0 if node.is_dir else node.size

    def listdir(self, path: str) -> list[str]:
        node = self.node(path)
        if not node.is_dir:
            raise fail(errno.ENOTDIR)
        return sorted(node.entries)

    # -- names ---------------------------------------------------------------------------

    def _add(self, path: str, node: Node) -> Node:
        parent, name = self._parent(path)
        if name in parent.entries:
            raise fail(errno.EEXIST)
        parent.entries[name] = node
        parent.mtime_ns = None
        node.names += 1
        return node

    def mkdir(self, path: str, mode: int) -> None:
        self._add(path, Node(stat.S_IFDIR, mode))

    def mkfifo(self, path: str, mode: int) -> None:
        self._add(path, Node(stat.S_IFIFO, mode))

    def symlink(self, path: str, target: str) -> None:
        self._add(path, Node(stat.S_IFLNK, 0o777, target=target))

    def readlink(self, path: str) -> str:
        node = self.node(path)
        if node.type != stat.S_IFLNK:
            raise fail(errno.EINVAL)
        return node.target

    def link(self, path: str, new: str) -> None:
        node = self.node(path)
        parent, name = self._parent(new)
        if name in parent.entries:
            raise fail(errno.EEXIST)
        if node.is_dir:
            raise fail(errno.EPERM)
        self._add(new, node)

    def _drop(self, parent: Node, name: str) -> None:
        parent.entries.pop(name).names -= 1
        parent.mtime_ns = None

    def unlink(self, path: str) -> None:
        parent, name, node = self._existing(path)
        if node.is_dir:
            raise fail(errno.EISDIR)
        self._drop(parent, name)

    def rmdir(self, path: str) -> None:
        parent, name, node = self._existing(path)
        if not node.is_dir:
            raise fail(errno.ENOTDIR)
        if node.entries:
            raise fail(errno.ENOTEMPTY)
        self._drop(parent, name)

    def rename(self, old: str, new: str, *, replace: bool = True) -> None:
        # The order of the checks is that of Linux: it decides which errno a program sees.
        old_parent, old_name = self._parent(old)
        new_parent, new_name = self._parent(new)
        node = old_parent.entries.get(old_name)
        if node is None:
            raise fail(errno.ENOENT)
        victim = new_parent.entries.get(new_name)
        if victim is not None and not replace:
            raise fail(errno.EEXIST)
        if _is_below(new, old):
            raise fail(errno.EINVAL)
        if _is_below(old, new):
            raise fail(errno.ENOTEMPTY)
        if victim is node:
            return
        if victim is not None:
            if node.is_dir and not victim.is_dir:
                raise fail(errno.ENOTDIR)
            if victim.is_dir and not node.is_dir:
                raise fail(errno.EISDIR)
            if victim.entries:
                raise fail(errno.ENOTEMPTY)
            self._drop(new_parent, new_name)
        del old_parent.entries[old_name]
        new_parent.entries[new_name] = node
        old_parent.mtime_ns = new_parent.mtime_ns = None

    def rename_noreplace(self, old: str, new: str) -> None:
        self.rename(old, new, replace=False)

    def exchange(self, a: str, b: str) -> None:
        parent_a, name_a, node_a = self._existing(a)
        parent_b, name_b, node_b = self._existing(b)
        if _is_below(a, b) or _is_below(b, a):
            raise fail(errno.EINVAL)
        if node_a is node_b:
            return
        parent_a.entries[name_a], parent_b.entries[name_b] = node_b, node_a
        parent_a.mtime_ns = parent_b.mtime_ns = None

    # -- attributes ----------------------------------------------------------------------

    def chmod(self, path: str, mode: int) -> None:
        self.node(path).mode = mode

    def utime(self, path: str, mtime_ns: int) -> None:
        self.node(path).mtime_ns = mtime_ns

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        node = self.node(path)
        if node.type not in (stat.S_IFREG, stat.S_IFDIR):
            raise fail(errno.EPERM)
        node.xattrs[name] = value

    def getxattr(self, path: str, name: str) -> bytes:
        node = self.node(path)
        if name not in node.xattrs:
            raise fail(errno.ENODATA)
        return node.xattrs[name]

    def removexattr(self, path: str, name: str) -> None:
        node = self.node(path)
        if node.type not in (stat.S_IFREG, stat.S_IFDIR):
            raise fail(errno.EPERM)
        if name not in node.xattrs:
            raise fail(errno.ENODATA)
        del node.xattrs[name]

    # -- content -------------------------------------------------------------------------

    def open(self, slot: int, path: str, flags: int, mode: int) -> None:
        """open(2) with O_NOFOLLOW; never of a FIFO."""
        parent, name = self._parent(path)
        node = parent.entries.get(name)
        if node is None:
            if not flags & os.O_CREAT:
                raise fail(errno.ENOENT)
            node = self._add(path, Node(stat.S_IFREG, mode))
            node.save()
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise fail(errno.EEXIST)
        elif node.type == stat.S_IFLNK:
            raise fail(errno.ELOOP)
        elif node.is_dir and (flags & os.O_CREAT or flags & os.O_ACCMODE != os.O_RDONLY):
            raise fail(errno.EISDIR)
        elif flags & os.O_TRUNC:
            node.change(b"")
        self.open_files[slot] = Open(node, flags)

    def read(self, slot: int, offset: int, length: int) -> bytes:
        opened = self.open_files[slot]
        if not opened.reads:
            raise fail(errno.EBADF)
        if opened.node.is_dir:
            raise fail(errno.EISDIR)
        return opened.node.data[offset : offset + length]

    def write(self, slot: int, offset: int, data: bytes) -> int:
        opened = self.open_files[slot]
        if not opened.writes:
            raise fail(errno.EBADF)
        node = opened.node
        if not data:
            return 0
        if opened.flags & os.O_APPEND:
            offset = len(node.data)
        node.change(
            node.data[:offset].ljust(offset, b"\0") + data + node.data[offset + len(data) :]
        )
        return len(data)

    def ftruncate(self, slot: int, size: int) -> None:
        opened = self.open_files[slot]
        if not opened.writes:
            raise fail(errno.EINVAL)
        self._truncate(opened.node, size)

    def truncate(self, path: str, size: int) -> None:
        node = self.node(path)
        if node.is_dir:
            raise fail(errno.EISDIR)
        if node.type != stat.S_IFREG:
            raise fail(errno.EINVAL)
        self._truncate(node, size)
        if not any(o.node is node and o.writes for o in self.open_files.values()):
            node.save()

    def _truncate(self, node: Node, size: int) -> None:
        node.change(node.data[:size].ljust(size, b"\0"))

    def fsync(self, slot: int) -> None:
        self.open_files[slot].node.save()

    def close(self, slot: int) -> None:
        opened = self.open_files.pop(slot)
        if opened.writes:
            opened.node.save()

    # -- what a crash may leave ----------------------------------------------------------

    def crash(self, found: dict[str, bytes]) -> list[str]:
        """Every process is gone. ``found``: the content of each file afterwards; returns what
        it must not be. What was closed or synced is exact; of a file that was open for
        writing each byte, and its size, is of some content it had since."""
        writing = {id(o.node) for o in self.open_files.values() if o.writes}
        self.open_files.clear()
        wrong: list[str] = []
        for path, node in self.walk():
            if node.type != stat.S_IFREG or path not in found:
                continue
            content = found[path]
            if id(node) in writing:
                if not _is_mix(content, node.since_saved):
                    wrong.append(f"{path}: {content!r} is no mix of {node.since_saved}")
                node.data, node.mtime_ns = content, None
            elif content != node.data:
                wrong.append(f"{path}: {content!r}, not {node.data!r}")
            node.save()
        return wrong


def _is_mix(content: bytes, states: list[bytes]) -> bool:
    if len(content) not in {len(state) for state in states}:
        return False
    padded = [state.ljust(len(content), b"\0") for state in states]
    return all(any(p[i] == byte for p in padded) for i, byte in enumerate(content))


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(f"{directory}/")
