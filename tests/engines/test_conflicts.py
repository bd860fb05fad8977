"""Two sides changed: both versions survive, nothing else is made."""

from pathlib import Path

import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.types import Attributes
from tests.support.engines import Machine, agree, is_conflict, machines
from tests.support.invariants import check_machine


async def test_two_mounts_change_the_same_file_while_apart(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("d/f", b"base")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        for machine in (a, b):
            assert await machine.read("d/f") == b"base"
        await a.write("d/f", b"of a")
        await b.write("d/f", b"of b")
        shown = await agree(a, b)
        (aside,) = (path for path in shown if is_conflict(path))
        assert {shown["d/f"], shown[aside]} == {b"of a", b"of b"}
        assert len(shown) == 3
        loser = a if shown[aside] == b"of a" else b
        assert f".{loser.device}-" in aside
        assert len(a.conflicts()) + len(b.conflicts()) == 1


async def test_a_conflict_of_a_conflict_keeps_the_first_name(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("f", b"base")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.read("f")
        await a.write("f", b"mine")
        bucket.write("f", b"theirs")
        shown = await agree(a, b)
        (aside,) = (path for path in shown if is_conflict(path))
        await a.write(aside, b"mine, again")
        await b.write(aside, b"b has something to say")
        shown = await agree(a, b)
        names = [path for path in shown if is_conflict(path)]
        assert len(names) == 2
        assert all(name.startswith("f.") and name.count(".conflict") == 1 for name in names)
        assert {shown[name] for name in names} == {b"mine, again", b"b has something to say"}


async def test_identical_names_at_the_same_second(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """Two conflicts of one name within a second: the second gets another name."""
    bucket.write("f", b"base")
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.read("f")
        for n in range(3):
            bucket.write("f", b"theirs %d" % n)
            await a.write("f", b"mine %d" % n)
            await trio.sleep(0.01)
        shown = await agree(a)
        asides = [path for path in shown if is_conflict(path)]
        assert {shown[path] for path in asides} == {b"mine 0", b"mine 1", b"mine 2"}
        assert shown["f"] == b"theirs 2"


async def test_edit_beats_delete_in_both_directions(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("f", b"base")
    bucket.write("g", b"base")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        for machine in (a, b):
            await machine.read("f")
            await machine.read("g")
        await a.write("f", b"edited by a")
        await b.unlink("f")
        await b.write("g", b"edited by b")
        await a.unlink("g")
        assert await agree(a, b) == {"f": b"edited by a", "g": b"edited by b"}
        assert a.conflicts() == b.conflicts() == []


async def test_created_on_both_sides(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.mkdir("d")
        await b.mkdir("d")
        await a.write("d/f", b"of a")
        await b.write("d/f", b"of b")
        await a.write("d/same", b"same")
        await b.write("d/same", b"same")
        shown = await agree(a, b)
        (aside,) = (path for path in shown if is_conflict(path))
        assert {shown["d/f"], shown[aside]} == {b"of a", b"of b"}
        assert shown["d/same"] == b"same"
        assert len(shown) == 4


async def test_a_directory_against_a_file(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.list()
        await b.list()
        await a.mkdir("x")
        await a.write("x/inside", b"in the directory")
        await b.write("x", b"the file")
        shown = await agree(a, b)
        contents = [content for content in shown.values() if content is not None]
        assert sorted(contents) == [b"in the directory", b"the file"]


async def test_a_directory_appears_where_an_edited_file_is(
    tmp_path: Path, flat: MemoryStore, autojump_clock: MockClock
) -> None:
    """On flat keys both exist: the directory keeps the name, the file's object its key."""
    flat.write("x", b"the file")
    async with machines(tmp_path, flat, "a") as (a,):
        assert await a.read("x") == b"the file"
        flat.write("x/inside", b"in the directory")
        await agree(a)
        beside = next(name for name in await a.list() if name != "x")
        await a.write(beside, b"edited")
        await agree(a)
        assert flat.keys() == ["x", "x/inside"]
        assert flat.read("x") == b"edited"
        flat.remove("x/inside")
        assert await agree(a) == {"x": b"edited"}


async def test_a_partial_edit_whose_base_was_replaced_stands_on_the_new_version(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("f", b"old " * 4)
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        await a.patch("f", 4, b"MINE")
        bucket.write("f", b"new " * 4)
        shown = await agree(a)
        assert shown.pop("f") == b"new " * 4
        ((aside, content),) = shown.items()
        assert is_conflict(aside)
        assert content == b"new MINEnew new "
        check_machine(a)


async def test_a_partial_edit_whose_base_became_shorter(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("f", b"old " * 4)
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        await a.patch("f", 4, b"MINE")
        bucket.write("f", b"new")
        shown = await agree(a)
        ((aside, content),) = ((path, shown[path]) for path in shown if path != "f")
        assert is_conflict(aside)
        assert content == b"new\0MINE" + bytes(8)
        check_machine(a)


async def test_a_partial_edit_whose_base_was_removed_is_kept_and_marked(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """The rest of it is nowhere any more; the edit goes to a name that says so."""
    bucket.write("f", b"old " * 4)
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        await a.patch("f", 4, b"MINE")
        bucket.remove("f")
        ((aside, content),) = (await agree(a)).items()
        assert is_conflict(aside)
        assert content == bytes(4) + b"MINE" + bytes(8)
        check_machine(a)


async def test_a_whole_edit_of_a_removed_file_keeps_its_name(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("f", b"old " * 4)
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.read("f")
        await a.patch("f", 4, b"MINE")
        bucket.remove("f")
        assert await agree(a) == {"f": b"old MINEold old "}


async def test_symlinks_on_both_sides(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.symlink("same", "s")
        await b.symlink("same", "s")
        await a.symlink("of a", "t")
        await b.symlink("of b", "t")
        await agree_links(a, b)
        assert len(bucket.keys()) == 3
        assert len(a.conflicts()) + len(b.conflicts()) == 1
        for machine in (a, b):
            targets = [await machine.readlink(name) for name in await machine.list()]
            assert sorted(targets) == ["of a", "of b", "same"]


async def agree_links(*made: Machine) -> None:
    """Links cannot be read as files are: only let everything come to rest."""
    for _ in range(3):
        for machine in made:
            await machine.flush()
            await machine.look()


async def test_attributes_and_symlinks_of_another_mount_arrive(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.write("f", b"x")
        await a.chmod("f", 0o741)
        await a.mkdir("d")
        await a.chmod("d", 0o700)
        await a.symlink("f", "s")
        await a.flush()
        await b.look()
        await trio.sleep(10)
        assert (await b.row("f")).mode & 0o7777 == 0o741
        assert (await b.row("d")).mode & 0o7777 == 0o700
        assert await b.readlink("s") == "f"


async def test_a_foreign_mtime_is_told_behind_the_listing(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("f", b"x", Attributes(mode=0o100600, mtime_ns=12345 * 10**9))
    async with machines(tmp_path, bucket, "a") as (a,):
        assert "f" in await a.list()
        await trio.sleep(5)
        row = await a.row("f")
        assert (row.mtime_ns, row.mode) == (12345 * 10**9, 0o100600)
