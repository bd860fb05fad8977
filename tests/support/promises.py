"""Programs that write down outside the mount what they were promised, and look later.

Each works in a directory of its own, one call after the other. What a call that has returned
promised is exact. The one that was under way when the mount died may have happened, or not, or
as far as its kind allows: ``Expect`` says that, path by path, and nothing else is excused.
"""

import os
import random
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

DIR: Final = b"\0a directory"
"""What a model has in the place of a directory's content."""

Tree = dict[str, bytes]


@dataclass(frozen=True)
class Expect:
    """What a path may show."""

    exact: tuple[bytes | None, ...] = ()
    """One of these; None: no such name."""
    prefix_of: bytes | None = None
    """As far as it was written, ``floor`` at least."""
    floor: int = 0
    mix_of: tuple[bytes, bytes] | None = None
    """Each byte of one or the other, for a write into the middle."""

    def allows(self, found: bytes | None) -> bool:
        if found in self.exact:
            return True
        if found is None or found == DIR:
            return False
        if self.prefix_of is not None and self.prefix_of.startswith(found):
            return len(found) >= self.floor
        if self.mix_of is None or len(found) != len(self.mix_of[0]):
            return False
        old, new = self.mix_of
        return all(f in (a, b) for f, a, b in zip(found, old, new, strict=True))

    def __repr__(self) -> str:
        exact = [None if e is None else f"{len(e)} bytes" for e in self.exact]
        prefix = None if self.prefix_of is None else len(self.prefix_of)
        return f"Expect({exact}, prefix of {prefix} from {self.floor}, mix={bool(self.mix_of)})"


def exactly(content: bytes | None) -> Expect:
    return Expect(exact=(content,))


_MMAP: Final = """
import mmap, sys
path, offset, byte = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
    memory[offset:offset + 512] = bytes([byte]) * 512
    memory.flush()
"""


@dataclass
class Program:
    """One of them."""

    name: str
    rng: random.Random
    model: Tree = field(default_factory=dict[str, bytes])
    outcomes: list[dict[str, Expect]] = field(default_factory=list[dict[str, Expect]])
    """What the call under way may come to; empty: none is."""
    doing: str = ""
    done: int = 0
    full_history: Path = Path(os.devnull)
    """Where all of it is written to when a promise was broken."""
    trouble: Exception | None = None
    """A call failed."""
    history: deque[str] = field(default_factory=lambda: deque[str](maxlen=400))
    """What was done to which name, the last of it."""

    def run(self, root: Path, stop: threading.Event) -> None:
        """Work in ``root/name`` until told to stop or a call fails."""
        self.trouble = None
        try:
            if not (root / self.name).is_dir():
                (root / self.name).mkdir()
            while not stop.is_set():
                self._step(root / self.name)
                self.done += 1
        except OSError as exc:
            self.trouble = exc

    def _step(self, root: Path) -> None:
        files = [path for path, content in self.model.items() if content != DIR]
        calls: list[Callable[[Path, str], None]] = [self._write] * 4
        if len(files) > 3:
            calls += [self._write, self._append, self._patch, self._truncate, self._rename]
            calls += [self._save, self._save, self._unlink, self._rename_over, self._rename_dir]
            calls += [self._make_dir, self._remove_dir, self._sync]
            calls += [self._unlink] * (len(files) // 6)
            calls += [self._map] if self.rng.random() < 0.2 else []
        call = self.rng.choice(calls)
        path = self.rng.choice(files) if files else "f"
        self.doing = call.__name__
        call(root, path)
        self.outcomes = []

    def _note(self, *paths: str) -> None:
        self.doing = f"{self.doing.split()[0]} {' '.join(paths)}"
        self.history.append(f"{datetime.now(UTC):%T.%f} {self.doing}")

    # -- what may come of a call -------------------------------------------------------------

    def _may(self, *outcomes: dict[str, Expect]) -> None:
        self.outcomes = list(outcomes)
        paths = sorted({path for outcome in outcomes for path in outcome})
        if not self.doing.endswith(" ".join(paths)):
            self._note(*paths)

    def _moved(self, old: str, new: str) -> Tree:
        """The tree after a rename."""
        after = {p: c for p, c in self.model.items() if p != new}
        for path in list(after):
            if path == old or path.startswith(f"{old}/"):
                after[new + path[len(old) :]] = after.pop(path)
        return after

    def _either(self, after: Tree) -> None:
        """All of the change, or nothing of it."""
        paths = {p for p in self.model.keys() | after.keys() if self.model.get(p) != after.get(p)}
        self._may(
            {path: exactly(self.model.get(path)) for path in paths},
            {path: exactly(after.get(path)) for path in paths},
        )

    # -- calls -------------------------------------------------------------------------------

    def _content(self) -> bytes:
        size = self.rng.choice([0, 1, 100, 5000, 5000, 40_000, 40_000, 300_000, 300_000])
        if self.rng.random() < 0.03:
            size = self.rng.choice([3 << 20, 9 << 20, 18 << 20])
        return self.rng.randbytes(size)

    def _new_name(self) -> str:
        above = [path for path, content in self.model.items() if content == DIR]
        place = self.rng.choice([*above, "", ""])
        name = f"f{self.rng.randrange(40)}"
        path = f"{place}/{name}" if place else name
        return name if self.model.get(path) == DIR else path

    def _write(self, root: Path, path: str) -> None:
        """Create or overwrite, with an fsync in the middle now and then."""
        if self.rng.random() < 0.6:
            path = self._new_name()
        old, new = self.model.get(path), self._content()
        if old == DIR:
            return
        self._may({path: Expect(exact=(old, b""))})
        with open(root / path, "wb", buffering=0) as file:
            self._fill(file.fileno(), path, b"", new)
        self.model[path] = new

    def _append(self, root: Path, path: str) -> None:
        old, more = self.model[path], self.rng.randbytes(self.rng.choice([1, 4096, 50_000]))
        self._may({path: exactly(old)})
        with open(root / path, "ab", buffering=0) as file:
            self._fill(file.fileno(), path, old, more)
        self.model[path] = old + more

    def _fill(self, fd: int, path: str, old: bytes, more: bytes) -> None:
        content, floor = old + more, len(old)
        position = len(old)
        step = self.rng.choice([4096, 65536, 1 << 20])
        while position < len(content):
            self._may({path: Expect(prefix_of=content, floor=floor)})
            position += os.write(fd, content[position : position + step])
            if self.rng.random() < 0.1:
                os.fsync(fd)
                floor = position
        self._may({path: Expect(prefix_of=content, floor=floor)})

    def _patch(self, root: Path, path: str) -> None:
        old = self.model[path]
        if not old:
            return
        start = self.rng.randrange(len(old))
        piece = self.rng.randbytes(min(len(old) - start, self.rng.choice([1, 3000, 100_000])))
        new = old[:start] + piece + old[start + len(piece) :]
        self._may({path: Expect(mix_of=(old, new))})
        with open(root / path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), piece, start)
        self.model[path] = new

    def _map(self, root: Path, path: str) -> None:
        """Through a mapping; in a process of its own, which a dead mount kills by SIGBUS."""
        old = self.model[path]
        if not 512 <= len(old) <= 1 << 20:
            return
        start, byte = self.rng.randrange(len(old) - 511) & ~511, self.rng.randrange(256)
        start = min(start, len(old) - 512)
        new = old[:start] + bytes([byte]) * 512 + old[start + 512 :]
        self._may({path: Expect(mix_of=(old, new))})
        words = [sys.executable, "-S", "-E", "-c", _MMAP, str(root / path), str(start), str(byte)]
        if subprocess.run(words, check=False, capture_output=True).returncode:
            raise OSError("the program that used a mapping failed")
        self.model[path] = new

    def _truncate(self, root: Path, path: str) -> None:
        old = self.model[path]
        size = self.rng.choice([0, len(old) // 2, len(old) + 1000])
        self._either({**self.model, path: old[:size] + bytes(max(0, size - len(old)))})
        os.truncate(root / path, size)
        self.model[path] = old[:size] + bytes(max(0, size - len(old)))

    def _rename(self, root: Path, path: str) -> None:
        new = self._new_name()
        if new == path or self.model.get(new) == DIR:
            return
        after = self._moved(path, new)
        self._either(after)
        self._note(path, "->", new)
        os.rename(root / path, root / new)
        self.model = after

    def _rename_over(self, root: Path, path: str) -> None:
        files = [p for p, content in self.model.items() if content != DIR and p != path]
        if not files:
            return
        new = self.rng.choice(files)
        after = self._moved(path, new)
        self._either(after)
        self._note(path, "->", new)
        os.rename(root / path, root / new)
        self.model = after

    def _save(self, root: Path, path: str) -> None:
        """As editors do: a file beside it, synced, and renamed over it."""
        aside, new = f"{path}.tmp", self._content()
        self._may({aside: Expect(exact=(self.model.get(aside), b""))})
        with open(root / aside, "wb", buffering=0) as file:
            self._fill(file.fileno(), aside, b"", new)
            if self.rng.random() < 0.5:
                os.fsync(file.fileno())
        self.model[aside] = new
        after = self._moved(aside, path)
        self._either(after)
        self._note(aside, "->", path)
        os.rename(root / aside, root / path)
        self.model = after

    def _unlink(self, root: Path, path: str) -> None:
        after = {p: c for p, c in self.model.items() if p != path}
        self._either(after)
        os.unlink(root / path)
        self.model = after

    def _make_dir(self, root: Path, path: str) -> None:
        path = f"d{self.rng.randrange(6)}"
        if path in self.model:
            return
        self._either({**self.model, path: DIR})
        os.mkdir(root / path)
        self.model[path] = DIR

    def _remove_dir(self, root: Path, path: str) -> None:
        empty = [
            path
            for path, content in self.model.items()
            if content == DIR and not any(p.startswith(f"{path}/") for p in self.model)
        ]
        if not empty:
            return
        path = self.rng.choice(empty)
        after = {p: c for p, c in self.model.items() if p != path}
        self._either(after)
        os.rmdir(root / path)
        self.model = after

    def _rename_dir(self, root: Path, path: str) -> None:
        above = [p for p, content in self.model.items() if content == DIR]
        new = f"d{self.rng.randrange(6)}"
        if not above or new in self.model:
            return
        old = self.rng.choice(above)
        after = self._moved(old, new)
        self._either(after)
        self._note(old, "->", new)
        os.rename(root / old, root / new)
        self.model = after

    def _sync(self, root: Path, path: str) -> None:
        fd = os.open(root / path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- looking -----------------------------------------------------------------------------

    def check(self, found: Tree) -> None:
        """Fails with the first promise that is not kept; what was open is settled by what is
        found."""
        outcomes = self.outcomes or [{}]
        faults = [self._faults(outcome, found) for outcome in outcomes]
        if [] not in faults:
            told = min(faults, key=len)
            self.full_history.write_text("\n".join(self.history))
            names = {fault.partition(":")[0] for fault in told}
            names |= {name.partition(".vm-")[0] for name in names}
            history = [
                line
                for line in self.history
                if names & set(line.split()) or "_dir" in line or "--" in line
            ]
            raise AssertionError(
                "\n".join([f"{self.name}, while it did {self.doing!r}:", *told, *history])
            )
        self.history.append("-- checked")
        self.outcomes = []
        self.model = dict(found)

    def _faults(self, outcome: dict[str, Expect], found: Tree) -> list[str]:
        told: list[str] = []
        for path in sorted(self.model.keys() | found.keys() | outcome.keys()):
            expect = outcome.get(path) or exactly(self.model.get(path))
            if not expect.allows(found.get(path)):
                told.append(f"{path}: expected {expect}, found {_short(found.get(path), expect)}")
        return told


def _short(content: bytes | None, expect: Expect) -> str:
    if content is None:
        return "nothing"
    if content == DIR:
        return "a directory"
    other = expect.prefix_of or next((e for e in expect.exact if e), b"")
    pairs = enumerate(zip(content, other, strict=False))
    differs = next((i for i, (a, b) in pairs if a != b), None)
    if content.startswith(b"\0cannot be read"):
        return content[1:].decode()
    zeros = len(content) - len(content.rstrip(b"\0"))
    return f"{len(content)} bytes, first other at {differs}, {zeros} zeros at the end"


def look(root: Path) -> Tree:
    """Every path below a directory."""
    found: Tree = {}
    for directory, names, files in os.walk(root, onerror=_fail):
        above = Path(directory).relative_to(root)
        for name in names:
            found[str(above / name)] = DIR
        for name in files:
            try:
                found[str(above / name)] = (Path(directory) / name).read_bytes()
            except OSError as exc:
                # No content it could have: told by the comparison.
                found[str(above / name)] = f"\0cannot be read: {exc}".encode()
    return found


def _fail(exc: OSError) -> None:
    raise exc
