"""A directory of a real file system as one of the systems that the model tests compare.

The same calls as ``oracle`` and ``driven``, made to the kernel; and one list of operations lived
through by the oracle and by several such directories side by side.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.calls import EXCHANGE, NOREPLACE, renameat2
from tests.support.driven import Outcome
from tests.support.operations import Call, Operation, World
from tests.support.oracle import Oracle, Seen
from tests.support.story import Difference, must_be_same


class RealTree:
    """What programs do below a directory. The process's umask has to be 0."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: dict[int, int] = {}

    def _at(self, path: str) -> Path:
        return self.root / path if path else self.root

    def outcome(self, call: Call) -> Outcome:
        try:
            return "ok", getattr(self, call.name)(*call.args)
        except OSError as exc:
            return "error", exc.errno

    # -- names ---------------------------------------------------------------------------

    def mkdir(self, path: str, mode: int) -> None:
        # mkdir(2) makes nothing of S_ISUID and S_ISVTX that is the same everywhere.
        os.mkdir(self._at(path), mode)
        os.chmod(self._at(path), mode)

    def mkfifo(self, path: str, mode: int) -> None:
        os.mkfifo(self._at(path), mode)

    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, self._at(path))

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def link(self, path: str, new: str) -> None:
        os.link(self._at(path), self._at(new), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def rename_noreplace(self, old: str, new: str) -> None:
        renameat2(self._at(old), self._at(new), NOREPLACE)

    def exchange(self, a: str, b: str) -> None:
        renameat2(self._at(a), self._at(b), EXCHANGE)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self._at(path)))

    # -- attributes ----------------------------------------------------------------------

    def stat(self, path: str) -> tuple[int, ...]:
        return _stat(os.lstat(self._at(path)))

    def fstat(self, slot: int) -> tuple[int, ...]:
        return _stat(os.fstat(self._open[slot]))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def utime(self, path: str, mtime_ns: int) -> None:
        os.utime(self._at(path), ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self._at(path), name, value, follow_symlinks=False)

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self._at(path), name, follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name, follow_symlinks=False)

    # -- content -------------------------------------------------------------------------

    def open(self, slot: int, path: str, flags: int, mode: int) -> None:
        self._open[slot] = os.open(self._at(path), flags | os.O_NOFOLLOW, mode)

    def read(self, slot: int, offset: int, length: int) -> bytes:
        return os.pread(self._open[slot], length, offset)

    def write(self, slot: int, offset: int, data: bytes) -> int:
        return os.pwrite(self._open[slot], data, offset)

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._open[slot], size)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._at(path), size)

    def fsync(self, slot: int) -> None:
        os.fsync(self._open[slot])

    def close(self, slot: int) -> None:
        os.close(self._open.pop(slot))

    # -- looking -------------------------------------------------------------------------

    def show(self) -> dict[str, Seen]:
        """The whole tree, as ``Oracle.show`` shows its own."""
        shown = {"": _seen(self.root)}
        for directory, dirs, files in os.walk(self.root):
            for name in dirs + files:
                path = Path(directory, name)
                shown[str(path.relative_to(self.root))] = _seen(path)
        return shown

    def end(self) -> None:
        """Close what a list left open."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


def _stat(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_nlink, 0 if stat.S_ISDIR(status.st_mode) else status.st_size


def _seen(path: Path) -> Seen:
    status = os.lstat(path)
    content: bytes | str = b""
    if stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    xattrs = () if stat.S_ISLNK(status.st_mode) else os.listxattr(path)
    mode, nlink, size = _stat(status)
    return Seen(
        mode,
        nlink,
        size,
        status.st_mtime_ns,
        content,
        tuple(sorted((name, os.getxattr(path, name)) for name in xattrs)),
    )


class SideBySide:
    """One list, in the oracle and in every directory given."""

    def __init__(
        self,
        trees: list[RealTree],
        *,
        links: bool,
        same: Callable[[RealTree, dict[str, Seen]], None] | None = None,
    ) -> None:
        """``same``: how much of a tree is looked at; None: all."""
        self.trees = trees
        self._same = same or same_tree
        self.oracle = Oracle()
        self._world = World(self.oracle, links=links)
        self.told: list[str] = []

    def live(self, operations: list[Operation]) -> None:
        try:
            for operation in operations:
                self.step(operation)
            for slot in list(self.oracle.open_files):
                self._compare(Call("close", (slot,)))
        except Difference as exc:
            exc.add_note("\n".join(self.told))
            raise
        finally:
            for tree in self.trees:
                tree.end()

    def step(self, operation: Operation) -> None:
        for call in operation.calls(self._world):
            self.told.append(str(call))
            is_good = self._compare(call)
            for tree in self.trees:
                self._same(tree, self.oracle.show())
            if not is_good:
                break

    def _compare(self, call: Call) -> bool:
        """Whether the call was refused nowhere."""
        try:
            expected: Outcome = ("ok", getattr(self.oracle, call.name)(*call.args))
        except OSError as exc:
            expected = ("error", exc.errno)
        for tree in self.trees:
            found = tree.outcome(call)
            if found != expected:
                raise Difference(f"{call} in {tree.root}: {found}, should be {expected}")
        return expected[0] == "ok"


def same_tree(tree: RealTree, expected: dict[str, Seen]) -> None:
    """Fails with what differs. Times that nobody set are the file system's own."""
    shown: dict[str, Any] = tree.show()
    for path, seen in expected.items():
        if path in shown and seen.mtime_ns is None:
            shown[path] = replace(shown[path], mtime_ns=None)
    # The root's mode is the test's own.
    shown[""] = replace(shown[""], mode=expected[""].mode)
    must_be_same(str(tree.root), shown, expected)


def same_content(tree: RealTree, expected: dict[str, Seen]) -> None:
    """Likewise with names, kinds and content: what every store keeps."""
    must_be_same(str(tree.root), _contents(tree.show()), _contents(expected))


def _contents(shown: dict[str, Seen]) -> dict[str, tuple[int, bytes | str]]:
    return {path: (stat.S_IFMT(seen.mode), seen.content) for path, seen in shown.items()}
