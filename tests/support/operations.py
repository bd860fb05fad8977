"""The alphabet of the model tests: what programs, the network, crashes and time do.

Owns the operations; ``drawn`` makes lists of them. Operands are plain numbers, taken modulo what
exists when their turn comes: a list from which some operations were taken is a list again,
so that failures shrink. ``Call`` is an operation on actual names.
"""

import os
import stat
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.support.oracle import Node, Oracle

NAMES = ("a", "b", "c", "d", "e.txt", "％41", "\udcff", "x" * 200, "y" * 256)  # noqa: RUF001
_PLAIN_NAMES = 5
_DEEPEST = 4
_SIZES = (3, 0, 1, 10, 64, 4096, 5000, 40_000)
_OFFSETS = (0, 1, 7, 50, 4096, 5000, 9000)
_MODES = (0o644, 0o600, 0o755, 0o4711, 0o000, 0o1777)
_TIMES = (1_700_000_000_123_456_789, 0, 1_500_000_000_000_000_000, -1_000_000_000)
_XATTRS = ("user.a", "user.b", "user.long")
_VALUES = (b"1", b"", b"\xff\0value", b"v" * 200)
_TARGETS = ("a", "nowhere", "../b", "\udcff", "t" * 300)
_SLEEPS_S = (0.01, 0.3, 1.1, 4.0, 40.0)
_LATENCIES_S = (0.0, 0.05, 0.5, 2.0)
_FAULTS = ("offline", "throttled", "lost")
_MOST_OPEN = 4

_OPEN_FLAGS = (
    os.O_RDWR,
    os.O_RDONLY,
    os.O_WRONLY,
    os.O_WRONLY | os.O_TRUNC,
    os.O_RDWR | os.O_APPEND,
    os.O_RDWR | os.O_CREAT,
    os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    os.O_RDWR | os.O_CREAT | os.O_TRUNC,
)


class Call(NamedTuple):
    """One step on actual names: a method of every system under test, and its arguments."""

    name: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}{self.args}"


class World:
    """What operands are taken from: the oracle's tree and its open files at this moment."""

    def __init__(self, oracle: Oracle, *, links: bool) -> None:
        self._oracle = oracle
        self.links = links
        self._opened = 0

    def existing(self, at: int) -> tuple[str, Node] | None:
        found = list(self._oracle.walk())
        return found[at % len(found)] if found else None

    def directory(self, at: int) -> str:
        found = [p for p, node in self._oracle.walk() if node.is_dir and p.count("/") < _DEEPEST]
        return ["", *found][at % (len(found) + 1)]

    def new(self, at: int) -> str:
        """A name in some directory; something may have it."""
        above = self.directory(at // len(NAMES))
        name = NAMES[at % len(NAMES)]
        return f"{above}/{name}" if above else name

    def is_fifo(self, path: str) -> bool:
        """open(2) of one waits for the other end."""
        return any(p == path and stat.S_ISFIFO(node.type) for p, node in self._oracle.walk())

    def handle(self, at: int) -> int | None:
        slots = sorted(self._oracle.open_files)
        return slots[at % len(slots)] if slots else None

    def new_slot(self) -> int | None:
        if len(self._oracle.open_files) >= _MOST_OPEN:
            return None
        self._opened += 1
        return self._opened


def content(length: int, fill: int) -> bytes:
    """Bytes that tell where they were written, different for each fill."""
    unit = b"<%d>" % fill
    return (unit * (length // len(unit) + 1))[:length]


def _pick(values: tuple[Any, ...], at: int) -> Any:
    return values[at % len(values)]


# -- programs: names -----------------------------------------------------------------------


@dataclass(frozen=True)
class Mkdir:
    new: int = 0
    mode: int = 2

    def calls(self, world: World) -> list[Call]:
        return [Call("mkdir", (world.new(self.new), _pick(_MODES, self.mode)))]


@dataclass(frozen=True)
class Mkfifo:
    new: int = 0
    mode: int = 0

    def calls(self, world: World) -> list[Call]:
        return [Call("mkfifo", (world.new(self.new), _pick(_MODES, self.mode)))]


@dataclass(frozen=True)
class Symlink:
    new: int = 0
    target: int = 0

    def calls(self, world: World) -> list[Call]:
        return [Call("symlink", (world.new(self.new), _pick(_TARGETS, self.target)))]


@dataclass(frozen=True)
class _At:
    at: int = 0

    def calls(self, world: World) -> list[Call]:
        found = world.existing(self.at)
        return [] if found is None else self.on(world, *found)

    def on(self, world: World, path: str, node: Node) -> list[Call]:
        raise NotImplementedError


class Rmdir(_At):
    def on(self, world: World, path: str, node: Node) -> list[Call]:
        return [Call("rmdir", (path,))]


class Unlink(_At):
    def on(self, world: World, path: str, node: Node) -> list[Call]:
        return [Call("unlink", (path,))]


class Readlink(_At):
    def on(self, world: World, path: str, node: Node) -> list[Call]:
        return [Call("readlink", (path,))]


class Stat(_At):
    def on(self, world: World, path: str, node: Node) -> list[Call]:
        below = [] if stat.S_ISLNK(node.type) else [Call("stat", (f"{path}/x",))]
        return [Call("stat", (path,)), *below]


class List(_At):
    def on(self, world: World, path: str, node: Node) -> list[Call]:
        return [] if stat.S_ISLNK(node.type) else [Call("listdir", (path,))]


class ReadWhole(_At):
    def on(self, world: World, path: str, node: Node) -> list[Call]:
        slot = world.new_slot()
        if slot is None or not stat.S_ISREG(node.type):
            return []
        return [
            Call("open", (slot, path, os.O_RDONLY, 0)),
            Call("read", (slot, 0, 1 << 20)),
            Call("close", (slot,)),
        ]


@dataclass(frozen=True)
class Rename:
    """To a free name or over anything."""

    at: int = 0
    new: int = 0
    replace: bool = True

    def calls(self, world: World) -> list[Call]:
        found = world.existing(self.at)
        if found is None:
            return []
        name = "rename" if self.replace else "rename_noreplace"
        return [Call(name, (found[0], world.new(self.new)))]


@dataclass(frozen=True)
class RenameOver:
    """To a name that something has."""

    at: int = 0
    over: int = 0

    def calls(self, world: World) -> list[Call]:
        found, victim = world.existing(self.at), world.existing(self.over)
        if found is None or victim is None:
            return []
        return [Call("rename", (found[0], victim[0]))]


@dataclass(frozen=True)
class Exchange:
    at: int = 0
    other: int = 0

    def calls(self, world: World) -> list[Call]:
        found, other = world.existing(self.at), world.existing(self.other)
        return [] if found is None or other is None else [Call("exchange", (found[0], other[0]))]


@dataclass(frozen=True)
class Link:
    at: int = 0
    new: int = 0

    def calls(self, world: World) -> list[Call]:
        found = world.existing(self.at)
        if found is None or not world.links:
            return []
        return [Call("link", (found[0], world.new(self.new)))]


# -- programs: attributes ------------------------------------------------------------------


@dataclass(frozen=True)
class Chmod:
    at: int = 0
    mode: int = 1

    def calls(self, world: World) -> list[Call]:
        found = world.existing(self.at)
        if found is None or stat.S_ISLNK(found[1].type):
            return []
        return [Call("chmod", (found[0], _pick(_MODES, self.mode)))]


@dataclass(frozen=True)
class Utime:
    at: int = 0
    time: int = 0

    def calls(self, world: World) -> list[Call]:
        found = world.existing(self.at)
        return [] if found is None else [Call("utime", (found[0], _pick(_TIMES, self.time)))]


@dataclass(frozen=True)
class Setxattr:
    at: int = 0
    name: int = 0
    value: int = 0

    def calls(self, world: World) -> list[Call]:
        found = world.existing(self.at)
        if found is None:
            return []
        return [Call("setxattr", (found[0], _pick(_XATTRS, self.name), _pick(_VALUES, self.value)))]


@dataclass(frozen=True)
class Getxattr:
    at: int = 0
    name: int = 0

    def calls(self, world: World) -> list[Call]:
        found = world.existing(self.at)
        return [] if found is None else [Call("getxattr", (found[0], _pick(_XATTRS, self.name)))]


@dataclass(frozen=True)
class Removexattr:
    at: int = 0
    name: int = 0

    def calls(self, world: World) -> list[Call]:
        found = world.existing(self.at)
        if found is None:
            return []
        return [Call("removexattr", (found[0], _pick(_XATTRS, self.name)))]


# -- programs: content ---------------------------------------------------------------------


@dataclass(frozen=True)
class Open:
    """Of what exists, and left open."""

    at: int = 0
    flags: int = 0

    def calls(self, world: World) -> list[Call]:
        found, slot = world.existing(self.at), world.new_slot()
        flags: int = _pick(_OPEN_FLAGS, self.flags)
        if found is None or slot is None or stat.S_ISFIFO(found[1].type):
            return []
        if found[1].is_dir and flags & os.O_ACCMODE == os.O_RDONLY:
            return []
        return [Call("open", (slot, found[0], flags, 0o644))]


@dataclass(frozen=True)
class Create:
    """Of a name that may be free, and left open."""

    new: int = 0
    flags: int = 5
    mode: int = 0

    def calls(self, world: World) -> list[Call]:
        slot, path = world.new_slot(), world.new(self.new)
        flags: int = _pick(_OPEN_FLAGS[5:], self.flags)
        if slot is None or world.is_fifo(path):
            return []
        return [Call("open", (slot, path, flags, _pick(_MODES, self.mode)))]


@dataclass(frozen=True)
class Save:
    """What most programs do: create or overwrite a file, and close it."""

    new: int = 0
    length: int = 0
    fill: int = 0

    def calls(self, world: World) -> list[Call]:
        slot, path = world.new_slot(), world.new(self.new)
        if slot is None or world.is_fifo(path):
            return []
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        data = content(_pick(_SIZES, self.length), self.fill)
        return [
            Call("open", (slot, path, flags, 0o644)),
            Call("write", (slot, 0, data)),
            Call("close", (slot,)),
        ]


@dataclass(frozen=True)
class Patch:
    """Write into an existing file, and close it."""

    at: int = 0
    offset: int = 0
    length: int = 0
    fill: int = 0

    def calls(self, world: World) -> list[Call]:
        found, slot = world.existing(self.at), world.new_slot()
        if found is None or slot is None or not stat.S_ISREG(found[1].type):
            return []
        data = content(_pick(_SIZES, self.length), self.fill)
        return [
            Call("open", (slot, found[0], os.O_WRONLY, 0)),
            Call("write", (slot, _pick(_OFFSETS, self.offset), data)),
            Call("close", (slot,)),
        ]


@dataclass(frozen=True)
class Truncate:
    at: int = 0
    size: int = 0

    def calls(self, world: World) -> list[Call]:
        found = world.existing(self.at)
        if found is None or stat.S_ISLNK(found[1].type):
            return []
        return [Call("truncate", (found[0], _pick(_SIZES, self.size)))]


@dataclass(frozen=True)
class Write:
    handle: int = 0
    offset: int = 0
    length: int = 0
    fill: int = 0

    def calls(self, world: World) -> list[Call]:
        slot = world.handle(self.handle)
        if slot is None:
            return []
        data = content(_pick(_SIZES, self.length), self.fill)
        return [Call("write", (slot, _pick(_OFFSETS, self.offset), data))]


@dataclass(frozen=True)
class Read:
    handle: int = 0
    offset: int = 0
    length: int = 5

    def calls(self, world: World) -> list[Call]:
        slot = world.handle(self.handle)
        if slot is None:
            return []
        return [Call("read", (slot, _pick(_OFFSETS, self.offset), _pick(_SIZES, self.length)))]


@dataclass(frozen=True)
class Ftruncate:
    handle: int = 0
    size: int = 0

    def calls(self, world: World) -> list[Call]:
        slot = world.handle(self.handle)
        return [] if slot is None else [Call("ftruncate", (slot, _pick(_SIZES, self.size)))]


@dataclass(frozen=True)
class _OfHandle:
    handle: int = 0

    def calls(self, world: World) -> list[Call]:
        slot = world.handle(self.handle)
        return [] if slot is None else [Call(type(self).__name__.lower(), (slot,))]


class Fsync(_OfHandle):
    pass


class Fstat(_OfHandle):
    pass


class Close(_OfHandle):
    pass


# -- everything else -----------------------------------------------------------------------


@dataclass(frozen=True)
class Sleep:
    seconds: int = 0

    def calls(self, world: World) -> list[Call]:
        return [Call("sleep", (_pick(_SLEEPS_S, self.seconds),))]


@dataclass(frozen=True)
class _Plain:
    def calls(self, world: World) -> list[Call]:
        return [Call(type(self).__name__.lower())]


class Flush(_Plain):
    """Everything that waits is sent."""


class Crash(_Plain):
    """kill -9, and a new start."""


class Wipe(_Plain):
    """Somebody empties the cache directory below the running mount."""


class Evict(_Plain):
    """Everything that may be evicted is."""


class Look(_Plain):
    """Every directory is listed again."""


@dataclass(frozen=True)
class Turn(_Plain):
    """Somebody else goes on, on another machine."""


@dataclass(frozen=True)
class Restart:
    """Every program ends, a clean unmount, and a new start, with or without the cache."""

    wipe: bool = False

    def calls(self, world: World) -> list[Call]:
        return [Call("restart", (self.wipe,))]


@dataclass(frozen=True)
class CrashAt:
    """kill -9 at the n-th step of the network from now."""

    step: int = 0

    def calls(self, world: World) -> list[Call]:
        return [Call("crash_at", (self.step % 24 + 1,))]


@dataclass(frozen=True)
class Network:
    """Cable out, cable in."""

    on: bool = True

    def calls(self, world: World) -> list[Call]:
        return [Call("set_network", (self.on,))]


@dataclass(frozen=True)
class Latency:
    seconds: int = 0

    def calls(self, world: World) -> list[Call]:
        return [Call("latency", (_pick(_LATENCIES_S, self.seconds),))]


@dataclass(frozen=True)
class Fault:
    """The n-th request from now fails, or its reply is lost."""

    kind: int = 0
    step: int = 0

    def calls(self, world: World) -> list[Call]:
        return [Call("fault", (_pick(_FAULTS, self.kind), self.step % 8))]


Operation = Any
"""Any of the classes above."""
