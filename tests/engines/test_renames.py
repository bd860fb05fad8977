"""Renames reach the cloud as what they mean, whatever the store can do and whoever interferes."""

from collections import Counter
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs import names
from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import Ambiguous
from tests.support.engines import Machine, agree, is_conflict, machines
from tests.support.invariants import check_machine

_WRITES = ("put", "copy", "move", "delete", "make_dir", "set_attributes")


def _calls(machine: Machine, since: int = 0) -> "Counter[str]":
    """Changing requests, by kind."""
    return Counter(step for step, _ in machine.requests[since:] if step in _WRITES)


def _aside(bucket: MemoryStore) -> list[str]:
    """What still waits outside, for another item to pass."""
    return [key for key in list(bucket.keys()) if "moving/" in key.rstrip("/")[:-1]]


async def test_atomic_save_is_one_conditional_overwrite(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """Write a temporary file, rename it over: as editors do. The object lives on."""
    bucket.write("f", b"one")
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.read("f")
        since = len(a.requests)
        await a.write("f.tmp", b"two")
        await a.rename("f.tmp", "f")
        assert await agree(a) == {"f": b"two"}
        assert _calls(a, since) == {"put": 1}


async def test_a_backup_copy_save_keeps_both(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """f -> f~, write f anew (vim with backup, LibreOffice)."""
    bucket.write("f", b"one")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.read("f")
        await a.rename("f", "f~")
        await a.write("f", b"two")
        await a.unlink("f~")
        assert await agree(a, b) == {"f": b"two"}
        assert a.conflicts() == b.conflicts() == []


async def test_a_temporary_file_that_dies_early_costs_no_request(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        since = len(a.requests)
        await a.write("tmp", b"x")
        await a.rename("tmp", "tmp2")
        await a.unlink("tmp2")
        await agree(a)
        assert _calls(a, since) == {}
        assert bucket.keys() == []


async def test_an_atomic_save_over_a_foreign_edit_keeps_both(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("f", b"one")
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.read("f")
        await a.write("f.tmp", b"mine")
        await a.rename("f.tmp", "f")
        bucket.write("f", b"theirs")
        shown = await agree(a)
        assert shown.pop("f") == b"theirs"
        ((aside, content),) = shown.items()
        assert is_conflict(aside)
        assert content == b"mine"


async def test_a_chain_of_renames_before_upload_is_one_upload(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        await a.write("n0", b"x")
        for n in range(5):
            await a.rename(f"n{n}", f"n{n + 1}")
        assert await agree(a) == {"n5": b"x"}
        assert _calls(a) == {"put": 1}


async def test_a_chain_of_renames_of_a_stored_file_is_one_move(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("n0", b"x")
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        for n in range(5):
            await a.rename(f"n{n}", f"n{n + 1}")
        assert await agree(a) == {"n5": b"x"}
        expected = {"move": 1} if bucket.real_dirs else {"copy": 1, "delete": 1}
        assert _calls(a) == expected


async def test_renamed_there_and_back_costs_nothing(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("f", b"x")
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        await a.rename("f", "g")
        await a.rename("g", "f")
        assert await agree(a) == {"f": b"x"}
        assert _calls(a) == {}


@pytest.mark.parametrize("by", ["exchange", "temporary name"])
@pytest.mark.parametrize("kind", ["files", "directories", "file and directory"])
async def test_two_names_swap(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, kind: str, by: str
) -> None:
    x = "x" if kind == "files" or kind.startswith("file ") else "x/in"
    y = "y" if kind == "files" else "y/in"
    bucket.write(x, b"was x")
    bucket.write(y, b"was y")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.show()
        if by == "exchange":
            await a.exchange("x", "y")
        else:
            await a.rename("x", "t")
            await a.rename("y", "x")
            await a.rename("t", "y")
        shown = await agree(a, b)
        now_x = "x" + y[1:]
        now_y = "y" + x[1:]
        assert (shown[now_x], shown[now_y]) == (b"was y", b"was x")
        assert not [path for path in shown if is_conflict(path)]
        stored = [key for key in list(bucket.keys()) if not key.endswith("/")]
        assert stored == sorted((now_x, now_y))


async def test_three_names_rotate(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    for name in "xyz":
        bucket.write(name, name.encode())
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        await a.rename("x", "t")
        await a.rename("y", "x")
        await a.rename("z", "y")
        await a.rename("t", "z")
        assert await agree(a) == {"x": b"y", "y": b"z", "z": b"x"}
        assert a.conflicts() == []


async def test_a_new_file_under_the_name_of_a_renamed_directory(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """No conflict with oneself where files and directories share one set of names."""
    bucket.write("n/in", b"x")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.show()
        await a.rename("n", "m")
        await a.write("n", b"a file")
        assert await agree(a, b) == {"m": None, "m/in": b"x", "n": b"a file"}
        assert a.conflicts() == b.conflicts() == []


async def test_a_new_directory_under_the_name_of_a_removed_file(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("n", b"x")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.list()
        await a.unlink("n")
        await a.mkdir("n")
        await a.write("n/in", b"y")
        assert await agree(a, b) == {"n": None, "n/in": b"y"}
        assert a.conflicts() == b.conflicts() == []


async def test_rename_against_edit(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """The edit is found under the new name, or beside it."""
    bucket.write("f", b"base")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.read("f")
        await b.read("f")
        await b.write("f", b"edited")
        await a.rename("f", "g")
        shown = await agree(a, b)
        assert b"edited" in shown.values()
        assert a.conflicts() == b.conflicts() == []


async def test_rename_and_edit_against_edit(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("f", b"base")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.read("f")
        await b.read("f")
        await a.rename("f", "g")
        await a.write("g", b"of a")
        await b.write("f", b"of b")
        shown = await agree(a, b)
        assert sorted(content or b"" for content in shown.values()) == [b"of a", b"of b"]


async def test_rename_against_delete(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """Wholly here: it stays, under the new name. Otherwise nobody has the bytes."""
    bucket.write("read", b"x")
    bucket.write("unread", b"y")
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.read("read")
        bucket.remove("read")
        bucket.remove("unread")
        await a.rename("read", "read2")
        await a.rename("unread", "unread2")
        assert await agree(a) == {"read2": b"x"}
        check_machine(a)


async def test_both_rename(tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock) -> None:
    bucket.write("f", b"x")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.read("f")
        await b.read("f")
        await a.rename("f", "of_a")
        await b.rename("f", "of_b")
        shown = await agree(a, b)
        assert shown
        assert shown.keys() <= {"of_a", "of_b"}
        assert set(shown.values()) == {b"x"}


async def test_a_directory_nobody_listed_is_renamed_whole(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    for n in range(3):
        bucket.write(f"d/f{n}", b"%d" % n)
        bucket.write(f"d/deep/deeper/f{n}", b"%d" % n)
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.list()
        await a.rename("d", "e")
        shown = await agree(a, b)
        assert {key for key in list(bucket.keys()) if key.startswith("d/")} == set()
        files = {path: content for path, content in shown.items() if content is not None}
        assert files == {
            **{f"e/f{n}": b"%d" % n for n in range(3)},
            **{f"e/deep/deeper/f{n}": b"%d" % n for n in range(3)},
        }


async def test_a_renamed_directory_takes_along_what_was_added_unseen(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("d/old", b"old")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.show()
        bucket.write("d/new", b"new")
        await a.rename("d", "e")
        assert await agree(a, b) == {"e": None, "e/old": b"old", "e/new": b"new"}


async def test_a_file_added_to_a_directory_while_it_moves_is_not_lost(
    tmp_path: Path, flat: MemoryStore, autojump_clock: MockClock
) -> None:
    """It came too late for the move: it stays where it was put, and is seen there."""
    for n in range(20):
        flat.write(f"d/f{n}", b"x")
    async with machines(tmp_path, flat, "a", "b", slots=1) as (a, b):
        await a.show()
        added = False

        async def add(step: str, key: str) -> None:
            nonlocal added
            if step == "copy" and not added:
                added = True
                flat.write("d/late", b"late")

        a.on_step = add
        await a.rename("d", "e")
        shown = await agree(a, b)
        assert added
        assert b"late" in shown.values()
        assert sum(content == b"x" for content in shown.values()) == 20


async def test_an_edit_inside_a_directory_that_moves(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    for n in range(10):
        bucket.write(f"d/f{n}", b"base")
    async with machines(tmp_path, bucket, "a", "b", slots=2) as (a, b):
        await a.show()
        await a.rename("d", "e")
        await trio.sleep(1.0)
        await a.write("e/f3", b"edited")
        await a.unlink("e/f4")
        await a.rename("e/f5", "f5")
        shown = await agree(a, b)
        assert shown.pop("e/f3") == b"edited"
        assert shown.pop("f5") == b"base"
        assert shown == {"e": None, **{f"e/f{n}": b"base" for n in (0, 1, 2, 6, 7, 8, 9)}}


async def test_a_tree_removed_while_it_moves(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    for n in range(10):
        bucket.write(f"d/s/f{n}", b"base")
    async with machines(tmp_path, bucket, "a", slots=2) as (a,):
        await a.show()
        await a.rename("d", "e")
        await trio.sleep(1.0)
        for name in await a.list("e/s"):
            await a.unlink(f"e/s/{name}")
        await a.rmdir("e/s")
        await a.rmdir("e")
        assert await agree(a) == {}


async def test_rm_rf_removes_children_first(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    for n in range(5):
        bucket.write(f"d/s/f{n}", b"x")
    bucket.write("d/")
    bucket.write("d/s/")
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.show()
        for n in range(5):
            await a.unlink(f"d/s/f{n}")
        await a.rmdir("d/s")
        await a.rmdir("d")
        await agree(a)
        assert bucket.keys() == []
        deleted = [key for step, key in a.requests if step == "delete:done"]
        assert deleted[-2:] == ["d/s/", "d/"]


async def test_a_removed_directory_keeps_what_somebody_added(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("d/f", b"x")
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.show()
        await a.unlink("d/f")
        await a.rmdir("d")
        bucket.write("d/theirs", b"y")
        assert await agree(a) == {"d": None, "d/theirs": b"y"}


async def test_an_emptied_directory_does_not_vanish(
    tmp_path: Path, flat: MemoryStore, autojump_clock: MockClock
) -> None:
    """On flat keys it was only the prefix of its last file."""
    flat.write("d/f", b"x")
    async with machines(tmp_path, flat, "a", "b") as (a, b):
        await a.show()
        await a.unlink("d/f")
        assert await agree(a, b) == {"d": None}


async def test_a_partly_edited_file_is_renamed_while_somebody_replaces_it(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """What was never fetched of the old version is nowhere: it follows the one that won."""
    bucket.write("f", b"0123456789")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.look()
        await a.patch("f", 2, b"of a")
        await a.rename("f", "g")
        bucket.write("f", b"ABCDEFGHIJ")
        assert await agree(a, b) == {"f": b"ABCDEFGHIJ", "g": b"ABof aGHIJ"}


@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize("then", ["rename", "remove"])
async def test_a_directory_that_somebody_gave_another_mode(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, then: str, *, seen: bool
) -> None:
    """It has no content to lose: it is renamed, and once the change was seen here, removed."""
    bucket.write("d/")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        assert await a.show() == await b.show() == {"d": None}
        await b.chmod("d", 0o700)
        await b.flush()
        if seen:
            await a.look()
        if then == "rename":
            await a.rename("d", "e")
            shown = await agree(a, b)
            if bucket.real_dirs:
                assert shown == {"e": None}
                assert ((await a.row("e")).mode & 0o777) == 0o700
            # A listing of flat keys tells nothing of directories: there the marker that somebody
            # changed stays, as an empty directory.
            assert "e" in shown
        else:
            await a.rmdir("d")
            shown = await agree(a, b)
            if seen and bucket.real_dirs:
                assert shown == {}


@pytest.mark.parametrize("kind", ["files", "directories"])
@pytest.mark.parametrize("then", ["go on", "swap back", "remove", "crash"])
async def test_the_reply_to_a_step_aside_is_lost(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, kind: str, then: str
) -> None:
    """Two names swap, one waits outside; whether it is there has to be found out."""
    lost = 0

    async def lose(step: str, key: str) -> None:
        nonlocal lost
        if step in ("move:done", "copy:done") and not lost:
            lost += 1
            raise Ambiguous("the reply was lost")

    x, y = ("x", "y") if kind == "files" else ("x/in", "y/in")
    bucket.write(x, b"was x")
    bucket.write(y, b"was y")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.look()
        a.on_step = lose
        await a.exchange("x", "y")
        with trio.fail_after(60):
            while not lost:
                await trio.sleep(0.1)
        if then == "swap back":
            await a.exchange("x", "y")
        elif then == "remove":
            await a.unlink(x)
            await a.unlink(y)
        elif then == "crash":
            await a.crash()
            await a.start()
        shown = await agree(a, b)
        now = {} if then == "remove" else {x: b"was y", y: b"was x"}
        if then == "swap back":
            now = {x: b"was x", y: b"was y"}
        assert {path: content for path, content in shown.items() if content} == now
        assert _aside(bucket) == []


async def test_two_items_may_want_the_same_name_beside_a_directory(
    tmp_path: Path, flat: MemoryStore, autojump_clock: MockClock
) -> None:
    """``f`` beside ``f/`` is shown under another name; whose name that really is keeps it."""
    beside = names.beside_dir("f", utf8_only=True).name.decode()
    flat.write("f", b"beside")
    flat.write("f/in", b"in")
    async with machines(tmp_path, flat, "a") as (a,):
        assert await a.show() == {"f": None, "f/in": b"in", beside: b"beside"}
        flat.write(beside, b"exact")
        shown = await agree(a)
        assert shown[beside] == b"exact"
        assert sorted(content or b"" for content in shown.values()) == [
            *(b"", b"beside", b"exact", b"in"),
        ]


@pytest.mark.parametrize("again", ["mkdir", "mv", "mv and write"])
@pytest.mark.parametrize("marker", [False, True], ids=["prefix", "marker"])
async def test_a_directory_is_removed_and_made_again_at_once(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, again: str, *, marker: bool
) -> None:
    """``rm -rf build && make``: all of it before anything has reached the cloud."""
    if marker or bucket.real_dirs:
        bucket.write("d/")
        bucket.write("e/")
    for key in ("d/f", "d/gone", "e/f"):
        bucket.write(key, f"old {key}".encode())
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.show()
        await a.unlink("d/f")
        await a.unlink("d/gone")
        await a.rmdir("d")
        if again == "mkdir":
            await a.mkdir("d")
            await a.chmod("d", 0o700)
        else:
            await a.rename("e", "d")
        if again != "mv":
            await a.write("d/f", b"new")
        shown = await agree(a, b)
        if again == "mkdir":
            assert shown == {"d": None, "d/f": b"new", "e": None, "e/f": b"old e/f"}
            assert ((await b.row("d")).mode & 0o777) == 0o700
        else:
            assert shown == {"d": None, "d/f": b"new" if again != "mv" else b"old e/f"}


async def test_a_removed_directory_is_made_again_while_a_reader_needs_what_was_in_it(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """The reader keeps its object; everything else does not wait for it."""
    bucket.write("d/f", b"x" * (1 << 20))
    async with machines(tmp_path, bucket, "a", cache_bytes=2 << 20) as (a,):
        await a.list("d")
        fh = await a.open("d/f")
        await a.unlink("d/f")
        await a.rmdir("d")
        await a.mkdir("d")
        await a.write("d/new", b"new")
        with trio.fail_after(60):
            while bucket.version("d/new") is None:
                await trio.sleep(0.5)
        assert await a.read_handle(fh) == b"x" * (1 << 20)
        await a.close(fh)
        shown = await agree(a)
        assert shown == {"d": None, "d/new": b"new"}


@pytest.mark.parametrize("kind", ["directory", "file", "edited file"])
@pytest.mark.parametrize("new", [True, False], ids=["mkdir", "known"])
async def test_something_moves_into_a_directory_that_takes_its_name(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, kind: str, *, new: bool
) -> None:
    """``mkdir t; mv x t/x; mv t x``: each waits for the other, until one steps aside."""
    bucket.write("x/in" if kind == "directory" else "x", b"content")
    if not new:
        bucket.write("t/other", b"other")
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.show()
        if new:
            await a.mkdir("t")
        if kind == "edited file":
            await a.write("x", b"content, edited")
        await a.rename("x", "t/x")
        await a.rename("t", "x")
        content = b"content, edited" if kind == "edited file" else b"content"
        expected: dict[str, bytes | None] = {"x": None, "x/x": content}
        if kind == "directory":
            expected = {"x": None, "x/x": None, "x/x/in": content}
        if not new:
            expected["x/other"] = b"other"
        assert await agree(a, b) == expected
        assert _aside(bucket) == []
