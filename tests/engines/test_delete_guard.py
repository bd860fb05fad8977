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
        assert await machine.up.poller.decide_held(accept=True) == 21
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


# -- towards the store ------------------------------------------------------------------


@asynccontextmanager
async def with_files(home: Path, bucket: MemoryStore, count: int) -> AsyncGenerator[Machine]:
    for n in range(count):
        bucket.write(f"d/sub{n % 2}/f{n}", b"%d" % n)
    bucket.write("other", b"other")
    async with machines(home, bucket, "a") as [machine]:
        machine.up.deletions.limit = LIMIT
        await machine.show()
        yield machine


async def remove_all(machine: Machine, path: str) -> None:
    """rm -r"""
    for name in sorted(await machine.list(path)):
        below = f"{path}/{name}"
        if (await machine.row(below)).is_dir:
            await remove_all(machine, below)
        else:
            await machine.unlink(below)
    await machine.rmdir(path)


def files_in(bucket: MemoryStore) -> list[str]:
    return [key for key in bucket.keys() if not key.endswith("/")]  # noqa: SIM118


async def test_many_removals_made_here_are_held_until_they_are_accepted(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = MemoryStore(real_dirs=True)
    async with with_files(tmp_path, bucket, 20) as machine:
        with caplog.at_level(logging.WARNING, "csyncfs.deletions"):
            await remove_all(machine, "d")
            for _ in range(3):
                await machine.flush()
                await machine.look()
        assert len([r for r in caplog.records if "csyncfs-admin held" in r.message]) == 1
        assert await machine.list() == ["other"]
        # It may have begun before there were so many.
        assert len(files_in(bucket)) >= 21 - LIMIT
        held = machine.up.deletions.count
        assert held >= 20 - LIMIT
        rows = overview.held_rows(machine.up.store)
        assert [(row.path, row.removed) for row in rows] == [("d", "here")]
        assert rows[0].items == held
        assert machine.up.deletions.accept() == held
        await machine.flush()
        assert files_in(bucket) == ["other"]
        assert machine.intents() == []
        # What comes after is counted anew.
        for n in range(20):
            await machine.write(f"n{n}", b"x")
        await machine.flush()
        for n in range(20):
            await machine.unlink(f"n{n}")
        await machine.flush()
        assert machine.up.deletions.count > 0


async def test_rejected_removals_come_back_with_all_that_was_in_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = MemoryStore(real_dirs=True)
    async with with_files(tmp_path, bucket, 20) as machine:
        before = await machine.show()
        machine.up.deletions.limit = 1
        await remove_all(machine, "d")
        await machine.write("d", b"a file now")
        await machine.flush()
        # It cannot be sent while the directory is there, and says so.
        assert "csyncfs-admin held" in (machine.intents()[-1].hold or "")
        there = files_in(bucket)
        await machine.up.deletions.reject()
        await machine.unlink("d")
        await machine.flush()
        await machine.look()
        assert machine.intents() == []
        shown = await machine.show()
        assert {path: content for path, content in before.items() if path in shown} == shown
        assert sorted(path for path, content in shown.items() if content is not None) == there


async def test_what_is_held_stays_held_over_a_crash(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = MemoryStore(real_dirs=True)
    async with with_files(tmp_path, bucket, 20) as machine:
        await remove_all(machine, "d")
        await machine.flush()
        held, there = machine.up.deletions.count, files_in(bucket)
        await machine.crash()
        await machine.start()
        await trio.sleep(300)
        await machine.flush()
        assert (machine.up.deletions.count, files_in(bucket)) == (held, there)
        machine.up.deletions.accept()
        await machine.flush()
        assert files_in(bucket) == ["other"]


async def test_few_removals_and_saves_by_rename_pass(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = MemoryStore(real_dirs=True)
    async with with_files(tmp_path, bucket, 20) as machine:
        for n in range(20):
            await machine.write("draft", b"new %d" % n)
            await machine.rename("draft", f"d/sub{n % 2}/f{n}")
        await machine.unlink("other")
        await machine.flush()
        assert machine.intents() == []
        assert files_in(bucket) == sorted(f"d/sub{n % 2}/f{n}" for n in range(20))
        assert bucket.read("d/sub0/f0") == b"new 0"
        for n in range(20):
            await machine.unlink(f"d/sub{n % 2}/f{n}")
            if n % 4 == 3:
                await machine.flush()
                await trio.sleep(61)
        await machine.flush()
        assert files_in(bucket) == []


async def test_a_name_that_is_used_again_while_it_is_held_is_the_new_files(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = MemoryStore(real_dirs=True)
    async with with_files(tmp_path, bucket, 20) as machine:
        await remove_all(machine, "d")
        await machine.flush()
        await machine.mkdir("d")
        await machine.mkdir("d/sub0")
        await machine.write("d/sub0/f0", b"anew")
        await machine.flush()
        assert bucket.read("d/sub0/f0") == b"anew"
        assert await machine.list("d/sub0") == ["f0"]
        await machine.up.deletions.reject()
        await machine.flush()
        await machine.look()
        assert await machine.read("d/sub0/f0") == b"anew"
        shown = {path: content for path, content in (await machine.show()).items() if content}
        assert sorted(shown) == files_in(bucket)
        assert machine.conflicts() == []


async def test_who_agrees_while_it_is_being_held_has_agreed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = MemoryStore(real_dirs=True)
    async with with_files(tmp_path, bucket, 300) as machine:
        deletions = machine.up.deletions
        machine.up.uploader.stop_nowait()
        await remove_all(machine, "d")
        waiting = [intent for intent in machine.intents() if intent.kind == "delete"]
        assert len(waiting) > 300
        async with trio.open_nursery() as nursery:

            async def agree_soon() -> None:
                while not deletions.count:
                    await trio.lowlevel.checkpoint()
                deletions.accept()

            nursery.start_soon(agree_soon)
            await deletions.admit(waiting[0])
        assert [intent.hold for intent in machine.intents() if intent.hold] == []
