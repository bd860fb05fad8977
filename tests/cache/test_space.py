"""The space account: the ceiling holds, writers wait, ENOSPC comes last, every wait ends."""

import errno
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from csyncfs.cache.space import MAX_WAIT_S, STALL_S, Space, disk_free_bytes
from csyncfs.errors import FsError

MIB = 1 << 20
LIMIT = 160 * MIB
DIRTY_LIMIT = 150 * MIB


class CleanBytes:
    """An evictor with a stock of clean bytes."""

    def __init__(self, stock: int = 0) -> None:
        self.stock = stock
        self.asked: list[int] = []

    async def evict(self, n_bytes: int) -> int:
        await trio.lowlevel.checkpoint()
        self.asked.append(n_bytes)
        freed = min(n_bytes, self.stock)
        self.stock -= freed
        return freed


class Disk:
    """Free disk space, and how often somebody looked."""

    def __init__(self, free: int = 1 << 50) -> None:
        self.free = free
        self.looks = 0

    def __call__(self) -> int:
        self.looks += 1
        return self.free


def make(
    evictor: CleanBytes | None = None,
    disk: Callable[[], int] | None = None,
    *,
    min_free: int = 0,
) -> Space:
    return Space(LIMIT, min_free, evictor or CleanBytes(), disk_free=disk or Disk())


async def fails_with_no_space(space: Space, n: int, dirty: int = 0) -> float:
    """How long the reservation waited before it failed."""
    began = trio.current_time()
    with pytest.raises(FsError) as caught:
        await space.reserve(n, dirty)
    assert caught.value.code == errno.ENOSPC
    return trio.current_time() - began


async def test_reserved_bytes_count_until_released() -> None:
    space = make()
    await space.reserve(10 * MIB, dirty=4 * MIB)
    assert (space.used_bytes, space.dirty_bytes) == (10 * MIB, 4 * MIB)
    space.cleaned(3 * MIB)
    assert (space.used_bytes, space.dirty_bytes) == (10 * MIB, MIB)
    space.release(5 * MIB, dirty=MIB)
    assert (space.used_bytes, space.dirty_bytes) == (5 * MIB, 0)


async def test_room_is_given_without_a_checkpoint() -> None:
    space = make()
    with trio.testing.assert_no_checkpoints():
        await space.reserve(MIB)


async def test_ceiling_is_reached_and_never_passed() -> None:
    space = make()
    space.adopt(LIMIT - MIB, 0)
    assert space.reserve_nowait(MIB)
    assert not space.reserve_nowait(1)
    assert space.used_bytes == LIMIT


async def test_refused_reservation_books_nothing() -> None:
    space = make()
    space.adopt(LIMIT - MIB, DIRTY_LIMIT)
    assert not space.reserve_nowait(2 * MIB)
    assert not space.reserve_nowait(1, dirty=1)
    assert (space.used_bytes, space.dirty_bytes) == (LIMIT - MIB, DIRTY_LIMIT)


async def test_clean_bytes_are_evicted_with_some_slack(autojump_clock: MockClock) -> None:
    evictor = CleanBytes(100 * MIB)
    space = make(evictor)
    space.adopt(LIMIT, 0)
    await space.reserve(MIB)
    assert evictor.asked == [MIB + LIMIT // 16]
    assert space.used_bytes == LIMIT - LIMIT // 16


async def test_crowd_of_reservations_evicts_no_more_than_needed(autojump_clock: MockClock) -> None:
    evictor = CleanBytes(100 * MIB)
    space = make(evictor)
    space.adopt(LIMIT, 0)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(space.reserve, MIB)
    assert len(evictor.asked) == 1
    assert space.used_bytes <= LIMIT


async def test_writer_waits_for_an_upload(autojump_clock: MockClock) -> None:
    evictor = CleanBytes()
    space = make(evictor)
    space.adopt(DIRTY_LIMIT, DIRTY_LIMIT)
    done: list[float] = []
    began = trio.current_time()

    async def writer() -> None:
        await space.reserve(MIB, dirty=MIB)
        done.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer)
        await wait_all_tasks_blocked()
        assert done == []
        await trio.sleep(20)
        space.cleaned(8 * MIB)
    assert done == [20]
    assert space.dirty_bytes == DIRTY_LIMIT - 7 * MIB
    assert evictor.asked == []


async def test_full_of_dirty_bytes_evicts_what_uploads_make_clean(
    autojump_clock: MockClock,
) -> None:
    evictor = CleanBytes()
    space = make(evictor)
    space.adopt(LIMIT, DIRTY_LIMIT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(space.reserve, MIB, MIB)
        await trio.sleep(10)
        evictor.stock += 8 * MIB
        space.cleaned(8 * MIB)
    assert space.used_bytes == LIMIT - 7 * MIB
    assert space.dirty_bytes == DIRTY_LIMIT - 7 * MIB


async def test_reads_have_room_left_when_writers_have_none() -> None:
    space = make()
    space.adopt(DIRTY_LIMIT, DIRTY_LIMIT)
    assert not space.reserve_nowait(MIB, dirty=MIB)
    assert space.reserve_nowait(MIB)


async def test_overwriting_clean_bytes_is_bounded_too() -> None:
    space = make()
    space.adopt(LIMIT, DIRTY_LIMIT - 1)
    assert space.reserve_nowait(0, dirty=1)
    assert not space.reserve_nowait(0, dirty=1)


async def test_enospc_comes_when_nothing_moves(autojump_clock: MockClock) -> None:
    space = make()
    space.adopt(DIRTY_LIMIT, DIRTY_LIMIT)
    assert await fails_with_no_space(space, MIB, MIB) == pytest.approx(STALL_S)
    assert (space.used_bytes, space.dirty_bytes) == (DIRTY_LIMIT, DIRTY_LIMIT)


async def test_stuck_account_fails_at_once_until_something_moves(
    autojump_clock: MockClock,
) -> None:
    space = make()
    space.adopt(DIRTY_LIMIT, DIRTY_LIMIT)
    await fails_with_no_space(space, MIB, MIB)
    assert await fails_with_no_space(space, MIB, MIB) == 0
    space.cleaned(1)
    assert await fails_with_no_space(space, MIB, MIB) == pytest.approx(STALL_S)


async def test_slow_progress_extends_the_wait_but_not_for_ever(autojump_clock: MockClock) -> None:
    space = make()
    space.adopt(DIRTY_LIMIT, DIRTY_LIMIT)

    async def slow_uploads() -> None:
        while True:
            await trio.sleep(STALL_S / 2)
            space.cleaned(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow_uploads)
        waited = await fails_with_no_space(space, MIB, MIB)
        nursery.cancel_scope.cancel()
    assert waited == pytest.approx(MAX_WAIT_S)


async def test_more_than_the_whole_ceiling_fails_at_once(autojump_clock: MockClock) -> None:
    evictor = CleanBytes(LIMIT)
    space = make(evictor)
    assert await fails_with_no_space(space, LIMIT + 1) == 0
    assert await fails_with_no_space(space, LIMIT, LIMIT) == 0
    assert evictor.asked == []


async def test_cancelled_wait_books_nothing(autojump_clock: MockClock) -> None:
    space = make()
    space.adopt(LIMIT, 0)
    with trio.move_on_after(5) as scope:
        await space.reserve(MIB)
    assert scope.cancelled_caught
    assert space.used_bytes == LIMIT


async def test_disk_keeps_its_minimum_free(autojump_clock: MockClock) -> None:
    disk = Disk(20 * MIB)
    space = make(disk=disk, min_free=15 * MIB)
    assert space.reserve_nowait(5 * MIB)
    assert not space.reserve_nowait(1)


async def test_full_disk_is_answered_by_eviction(autojump_clock: MockClock) -> None:
    evictor = CleanBytes(100 * MIB)
    space = make(evictor, Disk(10 * MIB), min_free=15 * MIB)
    space.adopt(100 * MIB, 0)
    await space.reserve(MIB)
    assert evictor.asked == [MIB + 5 * MIB + LIMIT // 16]
    assert evictor.stock > 80 * MIB


async def test_file_system_that_frees_late_does_not_cost_the_whole_cache(
    autojump_clock: MockClock,
) -> None:
    evictor = CleanBytes(100 * MIB)
    disk = Disk(0)
    space = make(evictor, disk)
    space.adopt(100 * MIB, 0)
    for _ in range(8):
        await space.reserve(MIB)
    assert len(evictor.asked) == 1


async def test_room_that_others_make_on_the_disk_is_noticed(autojump_clock: MockClock) -> None:
    disk = Disk(0)
    space = make(disk=disk)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(space.reserve, MIB)
        await trio.sleep(10.5)
        disk.free = 100 * MIB
    assert trio.current_time() - began <= 12
    assert space.used_bytes == MIB


async def test_disk_is_looked_at_once_a_second_or_every_64_mib(autojump_clock: MockClock) -> None:
    disk = Disk()
    space = make(disk=disk)
    for _ in range(63):
        assert space.reserve_nowait(MIB)
    assert disk.looks == 1
    await trio.sleep(1)
    assert space.reserve_nowait(MIB)
    assert disk.looks == 2
    for _ in range(64):
        assert space.reserve_nowait(MIB)
    assert disk.looks == 3


async def test_full_disk_is_not_looked_at_for_every_refusal(autojump_clock: MockClock) -> None:
    disk = Disk(0)
    space = make(disk=disk)
    for _ in range(100):
        assert not space.reserve_nowait(4096)
    assert disk.looks == 1


def test_free_bytes_are_those_of_the_fullest_file_system(tmp_path: Path) -> None:
    here = disk_free_bytes([tmp_path])
    missing = disk_free_bytes([tmp_path / "not" / "there"])
    assert missing == pytest.approx(here, rel=0.1)
    assert disk_free_bytes([tmp_path, Path("/proc")]) == 0
    assert math.isfinite(here)
