"""Rounds in which a mount and somebody else change the same files, each without the other.

Owns the merge that has to come out: the table of ``reconcile.decide`` as contents. The cable is
out while both sides work, so that there is one right outcome for every file.
"""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from csyncfs.types import FileHandle
from tests.support.driven import Driven, outcome
from tests.support.engines import Machine, agree, is_conflict, machines
from tests.support.fuzz import KeepingStore
from tests.support.invariants import check_machine
from tests.support.operations import content
from tests.support.story import Difference, Flavour, run_story

NAMES = ("a", "b", "d/a", "c")
_FIRST = {"a": b"was a", "b": b"", "d/a": b"was below" * 500}
_LENGTHS = (3, 0, 10, 5000)
_OFFSETS = (0, 1, 7, 6000)


@dataclass(frozen=True)
class Here:
    """Something a program does: save, patch, unlink, rename, hold."""

    what: str
    name: int = 0
    length: int = 0
    fill: int = 0

    @property
    def path(self) -> str:
        return NAMES[self.name % len(NAMES)]

    @property
    def data(self) -> bytes:
        return content(_LENGTHS[self.length % len(_LENGTHS)], self.fill)


@dataclass(frozen=True)
class There(Here):
    """Something somebody else does: write, remove; same: writes what was written here."""


@dataclass(frozen=True)
class Round:
    """``evict``: nothing of a clean file is here when it begins."""

    here: tuple[Here, ...] = ()
    there: tuple[There, ...] = ()
    evict: bool = False


_here = st.builds(
    Here,
    st.sampled_from(("save", "patch", "unlink", "rename", "hold")),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 99),
)
_there = st.builds(
    There,
    st.sampled_from(("write", "remove", "same")),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(100, 199),
)
rounds: SearchStrategy[list[Round]] = st.lists(
    st.builds(
        Round,
        st.lists(_here, max_size=6).map(tuple),
        st.lists(_there, max_size=6).map(tuple),
        st.booleans(),
    ),
    max_size=4,
)


@dataclass
class _Side:
    """What became of one name here since both sides agreed."""

    content: bytes | None
    change: str = ""
    """"" (none), "dirty", "removed", "left" (renamed away), "arrived" (renamed to)."""
    dirty: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    """What was written into bytes that are not here; empty: all of it is."""
    partner: str = ""


@dataclass
class Merge:
    """The outcome: files by name, and what has to be found in ``.conflict`` siblings."""

    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    conflicts: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])


class Rounds:
    """A machine and somebody else on one bucket."""

    def __init__(self, driven: Driven, bucket: KeepingStore, told: list[str]) -> None:
        self._driven = driven
        self._machine = driven.machine
        self._bucket = bucket
        self._told = told
        self._agreed = Merge(files=dict(_FIRST))
        self._here: dict[str, _Side] = {}
        self._is_present = True
        self._held: dict[str, FileHandle] = {}

    async def play(self, each: Round) -> None:
        self._told.append(str(each))
        self._here = {name: _Side(self._agreed.files.get(name)) for name in NAMES}
        before = {name: self._bucket.version(name) for name in NAMES}
        self._is_present = not each.evict
        if each.evict:
            await self._driven.evict()
        self._held = {}
        for operation in each.here:
            if operation.what == "hold":
                await self._hold(operation.path)
        await self._driven.set_network(False)
        for operation in each.here:
            await self._do(operation)
        for operation in each.there:
            self._do_there(operation, before)
        expected = self._merge(before)
        await self._driven.set_network(True)
        await self._settled(expected)

    # -- this side -----------------------------------------------------------------------

    async def _hold(self, path: str) -> None:
        """Open and read before anything happens: the bytes seen are the handle's for good."""
        side = self._here[path]
        if not side.content or path in self._held:
            # Who has seen no byte of a file sees the next version through the same handle.
            return
        fh = await self._machine.open(path, os.O_RDONLY)
        found = await self._machine.read_handle(fh)
        if found != side.content:
            raise Difference(f"read {path}: {found!r}, should be {side.content!r}")
        self._held[path] = fh

    async def _do(self, operation: Here) -> None:
        path = operation.path
        side = self._here[path]
        if side.change in ("left", "arrived") or path in self._held:
            return
        if operation.what == "save":
            await self._machine.write(path, operation.data)
            self._here[path] = _Side(operation.data, "dirty")
        elif operation.what == "patch" and side.content is not None and operation.data:
            await self._patch(path, side, _OFFSETS[operation.fill % 4], operation.data)
        elif operation.what == "unlink" and side.content is not None:
            await self._machine.unlink(path)
            self._here[path] = _Side(None, "removed" if path in self._agreed.files else "")
        elif operation.what == "rename":
            await self._rename(path, NAMES[operation.fill % len(NAMES)])

    async def _patch(self, path: str, side: _Side, offset: int, data: bytes) -> None:
        assert side.content is not None
        old = side.content
        # Edits of a file that is wholly here, or that this round made, stand on their own.
        is_whole = not old or (self._is_present if not side.change else not side.dirty)
        await self._machine.patch(path, offset, data)
        hole = bytes(max(0, offset - len(old)))
        new = old[:offset] + hole + data + old[offset + len(data) :]
        dirty = [] if is_whole else [*side.dirty, (min(offset, len(old)), hole + data)]
        self._here[path] = _Side(new, "dirty", dirty)

    async def _rename(self, path: str, new: str) -> None:
        side, target = self._here[path], self._here[new]
        if side.content is None or side.change or path == new or new in self._held:
            return
        if target.content is not None or target.change:
            return
        await self._machine.rename(path, new)
        self._here[path] = _Side(None, "left", partner=new)
        self._here[new] = _Side(side.content, "arrived", partner=path)

    # -- the other side ------------------------------------------------------------------

    def _do_there(self, operation: There, before: dict[str, Any]) -> None:
        path = operation.path
        side = self._here[path]
        if side.partner and self._bucket.version(side.partner) != before[side.partner]:
            return
        if operation.what == "remove":
            self._bucket.remove(path)
        elif operation.what == "write" or side.content is None:
            self._bucket.write(path, operation.data)
        else:
            self._bucket.write(path, side.content)

    # -- together ------------------------------------------------------------------------

    def _merge(self, before: dict[str, Any]) -> Merge:
        merged = Merge(conflicts=list(self._agreed.conflicts))
        for name, side in self._here.items():
            now = self._bucket.version(name)
            theirs = self._bucket.read(name) if now is not None else None
            is_same = (now and now.tag) == (before[name] and before[name].tag)
            mine, conflict = self._outcome(name, side, theirs, is_same=is_same, before=before)
            if mine is not None:
                merged.files[name] = mine
            if conflict is not None:
                merged.conflicts.append((name, conflict))
        return merged

    def _outcome(
        self, name: str, side: _Side, theirs: bytes | None, *, is_same: bool, before: dict[str, Any]
    ) -> tuple[bytes | None, bytes | None]:
        """What the name holds, and what is set aside."""
        if not side.change:
            return theirs, None
        if side.change == "removed":
            return (None if is_same else theirs), None
        if side.change == "left":
            return None, None
        if side.change == "arrived":
            moved = self._moved(side, before)
            return (moved, None) if theirs is None else (theirs, moved)
        assert side.content is not None
        if is_same:
            return side.content, None
        if theirs is None:
            return self._without_base(side)
        if not side.dirty and theirs == side.content:
            return theirs, None
        return theirs, _stand_on(side, theirs)

    def _moved(self, side: _Side, before: dict[str, Any]) -> bytes | None:
        """The content of a file that was renamed here."""
        old = side.partner
        now = self._bucket.version(old)
        if now is None:
            return side.content if self._is_present or not side.content else None
        return self._bucket.read(old)

    def _without_base(self, side: _Side) -> tuple[bytes | None, bytes | None]:
        """An edit beats a removal; what was never fetched is nowhere any more."""
        if not side.dirty:
            return side.content, None
        kept = _stand_on(side, b"")
        return (kept, None) if kept == _stand_on(side, b"\1" * len(kept)) else (None, kept)

    async def _settled(self, expected: Merge) -> None:
        shown = await agree(self._machine)
        check_machine(self._machine)
        files = {k: v for k, v in shown.items() if v is not None and not is_conflict(k)}
        aside = sorted(
            (_original(k), v) for k, v in shown.items() if v is not None and is_conflict(k)
        )
        if files != expected.files or aside != sorted(expected.conflicts):
            raise Difference(
                f"files {files}, should be {expected.files}\n"
                f"aside {aside}, should be {sorted(expected.conflicts)}"
            )
        for path, fh in self._held.items():
            before = self._agreed.files[path]
            found = await outcome(self._machine.read_handle(fh))
            if found not in (("ok", before), ("error", errno.ESTALE)):
                raise Difference(f"held {path}: {found}, should be {before!r}")
            await self._machine.close(fh)
        self._agreed = expected


def _original(path: str) -> str:
    above, _, name = path.rpartition("/")
    name = name.rsplit(".", 2)[0]
    return f"{above}/{name}" if above else name


def _stand_on(side: _Side, base: bytes) -> bytes:
    """The edits, with what was never fetched taken from another version."""
    assert side.content is not None
    if not side.dirty:
        return side.content
    size = len(side.content)
    found = bytearray(base[:size].ljust(size, b"\0"))
    for offset, data in side.dirty:
        found[offset : offset + len(data)] = data
    return bytes(found)


def play(story: list[Round], flavour: Flavour) -> None:
    """Play the rounds; then a machine that saw nothing of it has to agree."""

    async def main(home: Path, told: list[str]) -> None:
        bucket = flavour.bucket()
        bucket.write("d/")
        for name, data in _FIRST.items():
            bucket.write(name, data)
        async with machines(home, bucket, "a", "b", start=False) as (a, b):
            driven = Driven(a, bucket)
            await driven.start()
            await a.show()
            both = Rounds(driven, bucket, told)
            for each in story:
                await both.play(each)
                await trio.sleep(1)
            await _same_elsewhere(a, b)

    run_story(main)


async def _same_elsewhere(a: Machine, b: Machine) -> None:
    await b.start()
    await agree(a, b)
