"""A store that tells by itself what has changed: no directory is listed a second time."""

import contextlib
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.changes import Follower
from csyncfs.errors import FsError
from csyncfs.store import changes
from tests.support.engines import Machine, is_conflict, machines
from tests.support.feeding import at_rest, follower_of


def fed(page_items: int = 1000) -> MemoryStore:
    return MemoryStore(real_dirs=True, has_feed=True, page_items=page_items)


@asynccontextmanager
async def following(home: Path, bucket: MemoryStore) -> AsyncGenerator[tuple[Machine, Follower]]:
    async with machines(home, bucket, "a") as [machine]:
        follower = follower_of(machine)
        await follower.poll()
        yield machine, follower


def counted(machine: Machine) -> dict[str, int]:
    """Requests since the last time."""
    found: dict[str, int] = {}
    for step, _ in machine.requests:
        found[step] = found.get(step, 0) + 1
    machine.requests.clear()
    return found


async def test_everything_is_told_once_and_nothing_is_listed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = fed(page_items=3)
    for n in range(10):
        bucket.write(f"d{n}/sub/f", b"%d" % n)
    async with machines(tmp_path, bucket, "a") as [machine]:
        follower = follower_of(machine)
        await follower.poll()
        counted(machine)
        shown = await machine.show()
        assert len(shown) == 30
        assert shown["d7/sub/f"] == b"7"
        assert "list_page" not in counted(machine)
        await follower.poll()
        assert counted(machine) == {"changes": 1}


async def test_changes_of_every_sort_are_seen_without_a_listing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = fed()
    bucket.write("d/changed", b"old")
    bucket.write("d/gone", b"gone")
    bucket.write("d/renamed", b"renamed")
    bucket.write("tree/a/b", b"deep")
    async with following(tmp_path, bucket) as (machine, follower):
        assert await machine.read("tree/a/b") == b"deep"
        inode = (await machine.row("tree/a/b")).id
        counted(machine)
        bucket.write("d/changed", b"new")
        bucket.remove("d/gone")
        bucket.rename("d/renamed", "moved")
        bucket.rename("tree/", "d/forest/")
        bucket.write("new/file", b"made")
        await follower.poll()
        assert "list_page" not in counted(machine)
        await at_rest(machine, follower)
        # The very inode, with its content: nothing was fetched again.
        assert (await machine.row("d/forest/a/b")).id == inode


@pytest.mark.parametrize("order", ["usual", "backwards"])
async def test_names_that_were_exchanged_and_taken_over_end_as_they_are_there(
    tmp_path: Path, autojump_clock: MockClock, order: str
) -> None:
    bucket = fed()
    assert bucket.feed is not None
    bucket.feed.order = "backwards" if order == "backwards" else "usual"
    bucket.write("x/in-x", b"x")
    bucket.write("y/in-y", b"y")
    bucket.write("a", b"a")
    bucket.write("b", b"b")
    bucket.write("saved", b"first")
    async with following(tmp_path, bucket) as (machine, follower):
        await machine.show()
        for one, other in (("x/", "y/"), ("a", "b")):
            bucket.rename(one, "t" + one)
            bucket.rename(other, one)
            bucket.rename("t" + one, other)
        bucket.rename("saved", "saved.bak")
        bucket.write("saved", b"second")
        await follower.poll()
        shown = await at_rest(machine, follower)
        assert shown["x/in-y"] == b"y"
        assert shown["saved.bak"] == b"first"


async def test_our_own_changes_coming_back_are_no_news(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = fed()
    async with following(tmp_path, bucket) as (machine, follower):
        await machine.mkdir("d")
        for n in range(20):
            await machine.write(f"d/f{n}", b"x" * n)
        await machine.flush()
        await machine.rename("d", "e")
        await machine.unlink("e/f0")
        await machine.flush()
        counted(machine)
        await follower.poll()
        assert counted(machine) == {"changes": 1}
        assert changes.count(machine.up.store) == 0
        await at_rest(machine, follower)
        assert machine.conflicts() == []


async def test_a_late_echo_of_an_older_version_is_not_believed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = fed()
    async with following(tmp_path, bucket) as (machine, follower):
        await machine.write("f", b"one")
        await machine.flush()
        page = await machine.backend.changes(changes.state(machine.up.store).cursor)
        await machine.write("f", b"two")
        await machine.flush()
        answer = machine.backend.changes

        async def late(cursor: str | None) -> object:
            machine.backend.changes = answer  # type: ignore[method-assign]
            return page

        machine.backend.changes = late  # type: ignore[method-assign,assignment]
        await machine.patch("f", 0, b"T")
        await follower.poll()
        assert await machine.read("f") == b"Two"
        await at_rest(machine, follower)
        assert machine.conflicts() == []
        assert bucket.read("f") == b"Two"


async def test_an_edit_here_and_one_there_are_both_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = fed()
    bucket.write("f", b"base")
    async with following(tmp_path, bucket) as (machine, follower):
        assert await machine.read("f") == b"base"
        await machine.write("f", b"ours")
        bucket.write("f", b"theirs")
        await follower.poll()
        shown = await at_rest(machine, follower)
        assert shown.pop("f") == b"theirs"
        ((path, content),) = shown.items()
        assert is_conflict(path)
        assert content == b"ours"


async def test_an_edit_beats_a_removal_there(tmp_path: Path, autojump_clock: MockClock) -> None:
    bucket = fed()
    bucket.write("d/f", b"base")
    async with following(tmp_path, bucket) as (machine, follower):
        assert await machine.read("d/f") == b"base"
        await machine.write("d/f", b"edit")
        bucket.remove("d/f")
        bucket.remove("d/")
        await follower.poll()
        assert await at_rest(machine, follower) == {"d": None, "d/f": b"edit"}


async def test_when_the_cursor_expires_what_is_not_told_any_more_goes(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = fed(page_items=5)
    for n in range(12):
        bucket.write(f"d{n % 3}/f{n}", b"%d" % n)
    async with following(tmp_path, bucket) as (machine, follower):
        await machine.show()
        assert bucket.feed is not None
        bucket.remove("d0/f0")
        gone = [key for key in bucket.keys() if key.startswith("d1/")]  # noqa: SIM118
        for key in reversed(gone):
            bucket.remove(key)
        bucket.write("d2/f2", b"changed")
        await machine.write("d2/ours", b"not sent yet")
        bucket.feed.expire()
        await follower.poll()
        shown = await at_rest(machine, follower)
        assert shown["d2/ours"] == b"not sent yet"
        assert "d1" not in shown


async def test_what_was_heard_before_a_crash_is_applied_after_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = fed()
    bucket.write("d/f", b"old")
    async with following(tmp_path, bucket) as (machine, follower):
        await machine.show()
        bucket.write("d/f", b"new")
        bucket.write("d/g", b"made")
        state = changes.state(machine.up.store)
        await follower._hear(state)  # pyright: ignore[reportPrivateUsage]
        await machine.crash()
        await machine.start()
        next_one = follower_of(machine)
        counted(machine)
        await next_one.poll()
        assert counted(machine) == {"changes": 1}
        await at_rest(machine, next_one)


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_both_sides_do_they_end_up_alike(
    tmp_path: Path, autojump_clock: MockClock, seed: int
) -> None:
    rng = random.Random(seed)
    bucket = fed(page_items=rng.choice([2, 1000]))
    assert bucket.feed is not None
    if seed % 2:
        bucket.feed.order = "backwards"
    async with following(tmp_path, bucket) as (machine, follower):
        for turn in range(25):
            await _act_there(rng, bucket, turn)
            await _act_here(rng, machine, turn)
            if rng.random() < 0.3:
                await follower.poll()
            if rng.random() < 0.3:
                await machine.flush()
            if rng.random() < 0.05:
                bucket.feed.expire()
        await at_rest(machine, follower)


async def _act_there(rng: random.Random, bucket: MemoryStore, turn: int) -> None:
    keys = bucket.keys()
    dirs = [key for key in keys if key.endswith("/") and not key.startswith(".csyncfs")]
    files = [key for key in keys if not key.endswith("/") and not key.startswith(".csyncfs")]
    target = f"{rng.choice([*dirs, ''])}{rng.choice('abc')}"
    is_free = not bucket.has_children(f"{target}/") and f"{target}/" not in keys
    match rng.randrange(5):
        case 0 | 1 if is_free:
            bucket.write(target, b"there %d" % turn)
        case 2 if files:
            bucket.remove(rng.choice(files))
        case 3 if files and is_free:
            bucket.rename(rng.choice(files), target)
        case 4 if dirs and is_free and target not in keys:
            source = rng.choice(dirs)
            if not target.startswith(source):
                bucket.rename(source, f"{target}/")
        case _:
            pass


async def _act_here(rng: random.Random, machine: Machine, turn: int) -> None:
    dirs, files = await _paths(machine)
    above = rng.choice([*dirs, ""])
    target = f"{above}/{rng.choice('abc')}" if above else rng.choice("abc")
    # What is there by now, or no longer, the mount finds out as any program does.
    with contextlib.suppress(FsError, FileNotFoundError):
        match rng.randrange(5):
            case 0 | 1:
                await machine.write(target, b"here %d" % turn)
            case 2 if files:
                await machine.unlink(rng.choice(files))
            case 3 if files:
                await machine.rename(rng.choice(files), target)
            case 4:
                await machine.mkdir(target)
            case _:
                pass


async def _paths(machine: Machine, above: str = "") -> tuple[list[str], list[str]]:
    """Directories and files, without a look into them."""
    dirs: list[str] = []
    files: list[str] = []
    for name in await machine.list(above):
        path = f"{above}/{name}" if above else name
        if not (await machine.row(path)).is_dir:
            files.append(path)
            continue
        dirs.append(path)
        below = await _paths(machine, path)
        dirs += below[0]
        files += below[1]
    return dirs, files
