"""Readers who share a cache that is smaller than what they have in hand."""

import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
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
