"""What the cloud says is gone does not all go at once without being told."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.changes import Follower
from csyncfs.removals import Removals
from csyncfs.store import overview
from tests.support.engines import Machine, machines
from tests.support.feeding import at_rest, follower_of

LIMIT = 5


@pytest.fixture(params=["listed", "told"])
def bucket(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(real_dirs=True, has_feed=request.param == "told")


@asynccontextmanager
async def guarded(
    home: Path, bucket: MemoryStore
) -> AsyncGenerator[tuple[Machine, Follower | None]]:
    async with machines(home, bucket, "a") as [machine]:
        up = machine.up
        up.poller.removals = Removals(up.store, up.adopter, up.clock, LIMIT)
        follower = follower_of(machine) if bucket.feed is not None else None
        await hear(machine, follower)
        yield machine, follower


async def hear(machine: Machine, follower: Follower | None) -> None:
    if follower is not None:
        await follower.poll()
    else:
        await machine.look()


def empty(bucket: MemoryStore, prefix: str) -> None:
    for key in reversed([key for key in bucket.keys() if key.startswith(prefix)]):  # noqa: SIM118
        bucket.remove(key)


async def test_few_removals_pass_and_many_are_held_until_they_are_accepted(
    tmp_path: Path, autojump_clock: MockClock, bucket: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(20):
        bucket.write(f"d/f{n}", b"%d" % n)
    bucket.write("few/a")
    async with guarded(tmp_path, bucket) as (machine, follower):
        await machine.show()
        empty(bucket, "few/")
        await hear(machine, follower)
        assert not await machine.exists("few")
        empty(bucket, "d/")
        with caplog.at_level(logging.WARNING, "csyncfs.removals"):
            for _ in range(3):
                await hear(machine, follower)
        assert len([r for r in caplog.records if "csyncfs-admin held" in r.message]) == 1
        assert len(await machine.list("d")) == 20
        assert [(row.path, row.items) for row in overview.held_rows(machine.up.store)] == [
            ("d", 21)
        ]
        assert await machine.up.poller.decide_held(accept=True) == 1
        assert await machine.list() == []
        assert machine.up.poller.removals.count == 0


async def test_what_is_rejected_is_sent_again_as_far_as_it_is_here(
    tmp_path: Path, autojump_clock: MockClock, bucket: MemoryStore
) -> None:
    for n in range(20):
        bucket.write(f"d/f{n}", b"%d" % n)
    async with guarded(tmp_path, bucket) as (machine, follower):
        await machine.list("d")
        for n in range(3):
            assert await machine.read(f"d/f{n}") == b"%d" % n
        empty(bucket, "d/")
        await hear(machine, follower)
        await machine.up.poller.decide_held(accept=False)
        for _ in range(3):
            await machine.flush()
            await hear(machine, follower)
        shown = {"d": None, "d/f0": b"0", "d/f1": b"1", "d/f2": b"2"}
        assert await machine.show() == shown
        if follower is not None:
            assert await at_rest(machine, follower) == shown


async def test_what_is_restored_in_the_store_is_held_no_longer(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = MemoryStore(real_dirs=True)
    for n in range(20):
        bucket.write(f"f{n}", b"%d" % n)
    async with guarded(tmp_path, bucket) as (machine, follower):
        await machine.show()
        empty(bucket, "f")
        await hear(machine, follower)
        assert machine.up.poller.removals.count == 20
        for n in range(20):
            bucket.write(f"f{n}", b"%d" % n)
        await hear(machine, follower)
        assert machine.up.poller.removals.count == 0
        assert len(await machine.list()) == 20


async def test_removals_of_more_than_a_minute_ago_do_not_count(
    tmp_path: Path, autojump_clock: MockClock, bucket: MemoryStore
) -> None:
    for n in range(20):
        bucket.write(f"f{n}", b"%d" % n)
    async with guarded(tmp_path, bucket) as (machine, follower):
        await machine.list()
        for n in range(20):
            bucket.remove(f"f{n}")
            if n % 4 == 3:
                await hear(machine, follower)
                await trio.sleep(61)
        assert await machine.list() == []
