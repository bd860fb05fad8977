"""Directories nested deeper than Python calls may be: nothing is done by recursion."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.types import ROOT, InodeId
from tests.support.engines import Machine, machines
from tests.support.invariants import check_machine

# Far less than usual, and far more than the tests themselves need: less deep trees will do.
_CALLS = 400
# A recursion takes two calls a level at least.
_DEPTH = _CALLS // 2 + 5


@pytest.fixture(autouse=True)
def few_nested_calls() -> Iterator[None]:
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(_CALLS)
    yield
    sys.setrecursionlimit(usual)


async def _down(a: Machine, names: list[bytes]) -> InodeId:
    ino = ROOT
    for name in names:
        row = await a.up.vfs.lookup(ino, name)
        assert row is not None, name
        ino = row.id
    return ino


async def test_a_tree_that_is_very_deep(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0, slots=8) as (a, b):
        ino, inodes = ROOT, [ROOT]
        for _ in range(_DEPTH):
            ino = (await a.up.vfs.mkdir(ino, b"d", 0o755, 0, 0)).id
            inodes.append(ino)
        fh, _ = await a.up.vfs.create(ino, b"f", 0o644, 0, 0, os.O_WRONLY)
        await a.up.vfs.write(fh, 0, b"deep")
        await a.up.vfs.flush(fh)
        await a.up.vfs.release(fh)
        await a.flush()
        assert bucket.read("d/" * _DEPTH + "f") == b"deep"
        await a.rename("d", "e")
        await a.flush()
        assert bucket.read("e/" + "d/" * (_DEPTH - 1) + "f") == b"deep"
        bottom = await _down(b, [b"e"] + [b"d"] * (_DEPTH - 1))
        row = await b.up.vfs.lookup(bottom, b"f")
        assert row is not None
        assert row.size == 4
        await a.up.vfs.unlink(inodes[-1], b"f")
        for parent in reversed(inodes[1:-1]):
            await a.up.vfs.rmdir(parent, b"d")
        await a.rmdir("e")
        await a.flush()
        assert [key for key in list(bucket.keys()) if not key.startswith(".csyncfs")] == []
        await b.look()
        assert await b.list() == []
        check_machine(a)


async def test_a_very_deep_tree_is_removed_by_somebody_else(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    key = "d/" * _DEPTH
    bucket.write(key + "f", b"deep")
    async with machines(tmp_path, bucket, "a") as (a,):
        await _down(a, [b"d"] * _DEPTH + [b"f"])
        for stored in list(bucket.keys()):
            bucket.remove(stored)
        await a.look()
        assert await a.list() == []
        check_machine(a)
