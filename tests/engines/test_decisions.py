"""The decision table of DESIGN section 4, cell by cell, through the running engines."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from tests.support.engines import Machine, agree, eventually, is_conflict, machines
from tests.support.invariants import check_machine

_LATER = 300.0
"""An upload delay nothing in a test outlasts: local changes stay local until flushed."""


async def _with_file(bucket: MemoryStore, machine: Machine) -> None:
    """``f`` is in the cloud, listed and read here."""
    bucket.write("f", b"base")
    assert await machine.read("f") == b"base"


async def test_absent_and_changed_inserts(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        bucket.write("f", b"theirs")
        await a.look()
        assert await a.read("f") == b"theirs"


async def test_clean_and_same_stays_and_costs_no_fetch(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await _with_file(bucket, a)
        await a.look()
        before = len(a.requests)
        assert await a.read("f") == b"base"
        assert [step for step, _ in a.requests[before:] if step.startswith("fetch")] == []


async def test_clean_and_changed_refreshes_in_place(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await _with_file(bucket, a)
        ino = (await a.row("f")).id
        bucket.write("f", b"theirs, longer")
        await a.look()
        row = await a.row("f")
        assert (row.id, row.size) == (ino, 14)
        assert await a.read("f") == b"theirs, longer"
        assert a.conflicts() == []


async def test_clean_and_gone_removes(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await _with_file(bucket, a)
        bucket.remove("f")
        await a.look()
        assert await a.list() == []
        check_machine(a)


async def test_open_and_changed_gives_the_name_a_new_inode(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await _with_file(bucket, a)
        ino = (await a.row("f")).id
        fh = await a.open("f")
        assert await a.read_handle(fh) == b"base"
        bucket.write("f", b"theirs")
        await a.look()
        assert (await a.row("f")).id != ino
        assert await a.read("f") == b"theirs"
        assert await a.read_handle(fh) == b"base"
        await a.close(fh)
        check_machine(a)


async def test_open_and_gone_keeps_the_handle(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await _with_file(bucket, a)
        fh = await a.open("f")
        assert await a.read_handle(fh) == b"base"
        bucket.remove("f")
        await a.look()
        assert not await a.exists("f")
        assert await a.read_handle(fh) == b"base"
        await a.close(fh)
        check_machine(a)


async def test_dirty_and_same_uploads(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await _with_file(bucket, a)
        await a.write("f", b"mine")
        await a.look()
        assert await agree(a) == {"f": b"mine"}


@pytest.mark.parametrize("found_by", ["upload", "listing"])
async def test_dirty_and_changed_keeps_both(
    tmp_path: Path, bucket: MemoryStore, found_by: str, autojump_clock: MockClock
) -> None:
    delay = 0.0 if found_by == "upload" else _LATER
    async with machines(tmp_path, bucket, "a", upload_delay_s=delay) as (a,):
        await _with_file(bucket, a)
        if found_by == "upload":
            bucket.write("f", b"theirs")
            await a.write("f", b"mine")
            await a.flush()
        else:
            await a.write("f", b"mine")
            bucket.write("f", b"theirs")
            await a.look()
        shown = await agree(a)
        (aside,) = shown.keys() - {"f"}
        assert is_conflict(aside)
        assert shown == {"f": b"theirs", aside: b"mine"}
        (conflict,) = a.conflicts()
        assert (conflict.path, conflict.device) == (b"f", "a")
        assert conflict.conflict_name.decode() == aside


@pytest.mark.parametrize("found_by", ["upload", "listing"])
async def test_dirty_and_changed_to_the_same_bytes_adopts(
    tmp_path: Path, bucket: MemoryStore, found_by: str, autojump_clock: MockClock
) -> None:
    delay = 0.0 if found_by == "upload" else _LATER
    async with machines(tmp_path, bucket, "a", upload_delay_s=delay) as (a,):
        await _with_file(bucket, a)
        if found_by == "upload":
            bucket.write("f", b"equal")
            await a.write("f", b"equal")
        else:
            await a.write("f", b"equal")
            bucket.write("f", b"equal")
            await a.look()
            await eventually(lambda: a.intents() == [], "adopted without an upload")
        assert await agree(a) == {"f": b"equal"}
        assert a.conflicts() == []


async def test_dirty_and_gone_is_made_anew(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=_LATER) as (a,):
        await _with_file(bucket, a)
        await a.write("f", b"mine")
        bucket.remove("f")
        await a.look()
        assert await agree(a) == {"f": b"mine"}
        assert a.conflicts() == []


@pytest.mark.parametrize("found_by", ["upload", "listing"])
async def test_created_on_both_sides_keeps_both(
    tmp_path: Path, bucket: MemoryStore, found_by: str, autojump_clock: MockClock
) -> None:
    delay = 0.0 if found_by == "upload" else _LATER
    async with machines(tmp_path, bucket, "a", upload_delay_s=delay) as (a,):
        await a.list()
        if found_by == "upload":
            bucket.write("f", b"theirs")
            await a.write("f", b"mine")
        else:
            await a.write("f", b"mine")
            bucket.write("f", b"theirs")
            await a.look()
        shown = await agree(a)
        assert shown.pop("f") == b"theirs"
        ((aside, content),) = shown.items()
        assert is_conflict(aside)
        assert content == b"mine"


async def test_created_on_both_sides_with_the_same_bytes_adopts(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        await a.write("f", b"equal")
        bucket.write("f", b"equal")
        assert await agree(a) == {"f": b"equal"}
        assert a.conflicts() == []


async def test_created_and_gone_just_uploads(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=_LATER) as (a,):
        await a.list()
        await a.write("f", b"mine")
        await a.look()
        assert await agree(a) == {"f": b"mine"}


async def test_removed_and_same_deletes(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=_LATER) as (a,):
        await _with_file(bucket, a)
        await a.unlink("f")
        await a.look()
        assert not await a.exists("f"), "the listing must not bring back what was removed"
        assert await agree(a) == {}


@pytest.mark.parametrize("found_by", ["upload", "listing"])
async def test_removed_and_changed_shows_the_edit_again(
    tmp_path: Path, bucket: MemoryStore, found_by: str, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=_LATER) as (a,):
        await _with_file(bucket, a)
        await a.unlink("f")
        bucket.write("f", b"edited by somebody")
        if found_by == "listing":
            await a.look()
            assert await a.read("f") == b"edited by somebody"
            assert a.intents() == []
        assert await agree(a) == {"f": b"edited by somebody"}


async def test_removed_and_gone_needs_nothing(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=_LATER) as (a,):
        await _with_file(bucket, a)
        await a.unlink("f")
        bucket.remove("f")
        assert await agree(a) == {}


async def test_a_running_upload_is_not_taken_for_a_change(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """The listing shows the new version before the reply of the PUT is here: our own echo."""
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await _with_file(bucket, a)
        reply = trio.Event()

        async def slow_reply(step: str, key: str) -> None:
            if step == "put:done":
                await reply.wait()

        a.on_step = slow_reply
        await a.write("f", b"mine")
        await trio.sleep(1)
        assert bucket.read("f") == b"mine"
        await a.look()
        reply.set()
        assert await agree(a) == {"f": b"mine"}
        assert a.conflicts() == []
