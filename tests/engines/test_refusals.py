"""The store refuses a request, and it is not what was to be replaced that somebody changed."""

from pathlib import Path

import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import NotFound, Retry, VersionMismatch
from tests.support.engines import agree, machines
from tests.support.invariants import check_machine


async def test_a_rename_over_a_file_is_refused_because_of_the_renamed_one(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """Once, and for no reason that lasts: the file of the new name is no side of a conflict."""
    bucket.write("f", b"renamed")
    bucket.write("g", b"replaced")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.read("f")
        refused: list[str] = []

        async def at_step(step: str, key: str) -> None:
            if step in ("copy", "move") and key == "f" and not refused:
                refused.append(step)
                raise VersionMismatch("somebody else changed the source")

        a.on_step = at_step
        await a.rename("f", "g")
        assert await agree(a, b) == {"g": b"renamed"}
        assert refused
        assert a.conflicts() == b.conflicts() == []
        check_machine(a)


async def test_a_rename_over_a_file_of_one_that_somebody_edited(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """What was renamed over is gone, as promised; the edit is found, and no copy beside it."""
    bucket.write("f", b"renamed")
    bucket.write("g", b"replaced")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.read("f")
        await a.rename("f", "g")
        bucket.write("f", b"edited by somebody")
        shown = await agree(a, b)
        assert b"edited by somebody" in shown.values()
        assert b"replaced" not in shown.values()
        check_machine(a)


async def test_what_a_running_upload_replaces_is_not_removed_beside_it(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """Renamed away in the middle, the new file no longer stands for the old one's removal."""
    bucket.write("f", b"one")
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.read("f")
        beside: list[tuple[str, str]] = []
        is_running = False

        async def at_step(step: str, key: str) -> None:
            nonlocal is_running
            if is_running and key == "f":
                beside.append((step, key))
            if step == "put:commit" and key == "f" and not beside and not is_running:
                is_running = True
                await a.rename("f", "g")
                await trio.sleep(20)
                is_running = False

        a.on_step = at_step
        await a.write("t", b"two")
        await a.rename("t", "f")
        assert await agree(a) == {"g": b"two"}
        assert beside == []
        check_machine(a)


async def test_a_file_is_believed_to_be_gone_and_is_there(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """One wrong answer is no reason for a conflict with what the edit began with."""
    bucket.write("f", b"base")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.read("f")
        wrong: list[str] = []

        async def at_step(step: str, key: str) -> None:
            if key == "f" and step in ("put", "head") and step not in wrong:
                wrong.append(step)
                raise VersionMismatch("refused") if step == "put" else NotFound("no such item")

        a.on_step = at_step
        await a.write("f", b"edited")
        assert await agree(a, b) == {"f": b"edited"}
        assert wrong == ["put", "head"]
        assert a.conflicts() == b.conflicts() == []
        check_machine(a)


async def test_a_file_is_gone_and_somebody_has_made_another(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """The same bytes as before, but not the version the edit began with: both stay."""
    bucket.write("f", b"base")
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=30.0) as (a, b):
        await a.read("f")
        await a.write("f", b"edited")
        bucket.remove("f")
        await trio.sleep(5)
        bucket.write("f", b"base")
        shown = await agree(a, b)
        assert shown.pop("f") == b"base"
        assert list(shown.values()) == [b"edited"]
        assert len(a.conflicts()) == 1
        check_machine(a)


async def test_a_file_is_edited_in_a_directory_that_is_renamed_and_back(
    tmp_path: Path, flat: MemoryStore, autojump_clock: MockClock
) -> None:
    """It was to be moved with its directory, and is where it belongs again: no other file."""
    flat.write("d/f", b"base")
    async with machines(tmp_path, flat, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.read("d/f")
        turned: list[str] = []

        async def at_step(step: str, key: str) -> None:
            if step == "make_dir" and key == "e/" and not turned:
                turned.append(step)
                await a.rename("e", "d")
                await a.write("d/f", b"edited")
                raise Retry("try again")

        a.on_step = at_step
        await a.rename("d", "e")
        assert await agree(a, b) == {"d": None, "d/f": b"edited"}
        assert turned
        assert a.conflicts() == b.conflicts() == []
        check_machine(a)


async def test_a_file_that_is_gone_for_a_moment_can_be_read(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """A server that puts one version in the place of another may have neither for a moment."""
    bucket.write("f", b"content")
    async with machines(tmp_path, bucket, "a") as (a,):
        assert await a.list() == ["f"]
        answered: list[str] = []

        async def at_step(step: str, key: str) -> None:
            following = ["fetch", "head"][len(answered) :]
            if key == "f" and following and step == following[0]:
                answered.append(step)
                raise NotFound("no such item")

        a.on_step = at_step
        assert await a.read("f") == b"content"
        assert answered == ["fetch", "head"]
        assert await a.list() == ["f"]
