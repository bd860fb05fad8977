"""Who shares a cache that is smaller than what is in hand."""

import errno
import os
import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import FsError
from csyncfs.types import FileHandle
from tests.support.engines import Machine, machines

_MIB = 1 << 20
_BLOCK = 128 << 10
# A reply takes this long, so that all have something on its way.
_REPLY_S = 0.01


@pytest.mark.parametrize("readers", [2, 4, 8, 16])
async def test_readers_of_files_larger_than_the_cache_never_wait_for_each_other(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, readers: int
) -> None:
    contents = [random.Random(n).randbytes(6 * _MIB) for n in range(readers)]
    for n, content in enumerate(contents):
        bucket.write(f"f{n}", content)
    async with machines(tmp_path, bucket, "a", cache_bytes=4 * _MIB) as (a,):
        await a.list()

        async def slow(step: str, key: str) -> None:
            await trio.sleep(_REPLY_S)

        a.on_step = slow
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for n, content in enumerate(contents):
                nursery.start_soon(_read_through, a, f"f{n}", content)
        # Each of some 50 blocks may wait for its reply, and for that of every other reader.
        assert trio.current_time() - began < 50 * readers * _REPLY_S * 4
        # And hardly anything is fetched twice.
        assert a.up.fetcher.fetched_bytes < 1.2 * sum(map(len, contents))
        a.on_step = None


async def _read_through(machine: Machine, path: str, content: bytes) -> None:
    fh = await machine.open(path)
    try:
        for start in range(0, len(content), _BLOCK):
            found = await machine.up.vfs.read(fh, start, _BLOCK)
            assert found == content[start : start + _BLOCK]
    finally:
        await machine.close(fh)


async def test_a_hole_larger_than_the_cache_keeps_nobody_from_writing(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """It takes no disk: not while it waits for upload, not after a restart, not in the cloud."""
    others = random.Random(1).randbytes(2 * _MIB)
    async with machines(tmp_path, bucket, "a", cache_bytes=4 * _MIB, upload_delay_s=300) as (a,):
        await a.write("sparse", b"begin")
        await a.patch("sparse", 40 * _MIB, b"end")
        began = trio.current_time()
        await a.write("one", others)
        await a.end()
        await a.start()
        await a.write("two", others[: _MIB // 2])
        assert trio.current_time() - began < 1
        await a.flush()
        await a.write("three", others)
        assert await a.read("one") == others
        await a.flush()
        assert bucket.read("sparse") == b"begin".ljust(40 * _MIB, b"\0") + b"end"
        assert {bucket.read("one"), bucket.read("three")} == {others}


async def test_what_is_written_into_a_hole_takes_room(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", cache_bytes=4 * _MIB, upload_delay_s=300) as (a,):
        await a.write("sparse", b"begin")
        await a.patch("sparse", 40 * _MIB, b"end")
        fh = await a.open("sparse", os.O_WRONLY)
        block = random.Random(2).randbytes(_MIB // 2)
        with pytest.raises(FsError) as full:
            await _fill(a, fh, block)
        assert full.value.code == errno.ENOSPC
        assert a.up.space.used_bytes <= 4 * _MIB
        await a.close(fh)


async def _fill(machine: Machine, fh: FileHandle, block: bytes) -> None:
    for n in range(40):
        await machine.up.vfs.write(fh, _MIB * n, block)
