"""A request took effect, its reply was lost with the process, and the name moved on before the
next try: nothing may come back under the old name, and nobody else was there."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import Ambiguous, Offline
from tests.support.engines import Machine, agree, machines

NEW = b"written just before the crash"
LATER = b"written after the crash"

Change = Callable[[Machine], Awaitable[None]]


async def _unlink(a: Machine) -> None:
    await a.unlink("f")


async def _rename(a: Machine) -> None:
    await a.rename("f", "g")


async def _rename_twice(a: Machine) -> None:
    await a.rename("f", "g")
    await a.rename("g", "h")


async def _edit(a: Machine) -> None:
    await a.write("f", LATER)


async def _edit_and_rename(a: Machine) -> None:
    await a.write("f", LATER)
    await a.rename("f", "g")


async def _save_over(a: Machine) -> None:
    await a.write("t", LATER)
    await a.rename("t", "f")


async def _unlink_and_make_anew(a: Machine) -> None:
    await a.unlink("f")
    await a.write("f", LATER)


async def _rename_and_make_anew(a: Machine) -> None:
    await a.rename("f", "g")
    await a.write("f", LATER)


CHANGES: dict[str, tuple[Change, dict[str, bytes]]] = {
    "unlink": (_unlink, {}),
    "rename": (_rename, {"g": NEW}),
    "rename twice": (_rename_twice, {"h": NEW}),
    "edit": (_edit, {"f": LATER}),
    "edit and rename": (_edit_and_rename, {"g": LATER}),
    "save over": (_save_over, {"f": LATER}),
    "unlink and make anew": (_unlink_and_make_anew, {"f": LATER}),
    "rename and make anew": (_rename_and_make_anew, {"g": NEW, "f": LATER}),
}


async def _crash_after(a: Machine, step: str) -> None:
    """Killed when the store has done it and before anybody here knows; no network then."""
    done = trio.Event()

    async def at_step(now: str, _key: str) -> None:
        if done.is_set():
            await trio.sleep_forever()
        if now == step:
            a.freeze_disk()
            done.set()
            await trio.sleep_forever()

    a.on_step = at_step
    with trio.fail_after(60):
        await done.wait()
    await a.end()
    a.on_step = _no_network
    await a.start()


async def _no_network(_step: str, _key: str) -> None:
    raise Offline("no network")


async def _check(a: Machine, b: Machine, expected: dict[str, bytes]) -> None:
    a.on_step = None
    await trio.sleep(70)
    assert await agree(a, b) == expected
    keys = list(a.bucket.keys())
    assert [key for key in keys if not key.startswith(".csyncfs")] == sorted(expected)
    assert a.conflicts() == []


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "overwritten"])
async def test_a_file_changes_before_its_lost_upload_is_known(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, change: str, is_new: bool
) -> None:
    if not is_new:
        bucket.write("f", b"older")
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.show()
        await a.write("f", NEW)
        await _crash_after(a, "put:done")
        do, expected = CHANGES[change]
        await do(a)
        await _check(a, b, expected)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_changes_before_its_lost_move_is_known(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, change: str
) -> None:
    bucket.write("e", NEW)
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.show()
        await a.rename("e", "f")
        await _crash_after(a, "copy:done" if not bucket.real_dirs else "move:done")
        do, expected = CHANGES[change]
        await do(a)
        await _check(a, b, expected)


DIR_CHANGES: dict[str, tuple[tuple[tuple[str, ...], ...], set[str]]] = {
    "removed": ((("rmdir", "d"),), set()),
    "renamed": ((("rename", "d", "e"),), {"e"}),
    "renamed twice": ((("rename", "d", "e"), ("rename", "e", "g")), {"g"}),
    "made anew": ((("rmdir", "d"), ("mkdir", "d")), {"d"}),
    "renamed and made anew": ((("rename", "d", "e"), ("mkdir", "d")), {"d", "e"}),
}


async def _change_directory(a: Machine, b: Machine, change: str) -> None:
    calls, expected = DIR_CHANGES[change]
    for name, *words in calls:
        await getattr(a, name)(*words)
    a.on_step = None
    await trio.sleep(70)
    assert await agree(a, b) == dict.fromkeys(expected)
    keys = list(a.bucket.keys())
    markers = {key.rstrip("/") for key in keys if not key.startswith(".csyncfs")}
    assert markers == expected


@pytest.mark.parametrize("change", DIR_CHANGES)
async def test_a_directory_changes_before_its_lost_making_is_known(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, change: str
) -> None:
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.show()
        await a.mkdir("d")
        await _crash_after(a, "make_dir:done")
        await _change_directory(a, b, change)


@pytest.mark.parametrize("change", DIR_CHANGES)
async def test_a_directory_changes_before_its_lost_move_is_known(
    tmp_path: Path, flat: MemoryStore, autojump_clock: MockClock, change: str
) -> None:
    flat.write("x/", b"")
    async with machines(tmp_path, flat, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.show()
        await a.rename("x", "d")
        await _crash_after(a, "make_dir:done")
        await _change_directory(a, b, change)


async def test_an_upload_that_was_not_lost_but_refused_is_still_a_conflict(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """The guard against our own leftovers must not hide what others wrote."""
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.show()
        await a.write("f", NEW)
        await _crash_after(a, "put:commit")
        bucket.write("f", b"theirs")
        await a.write("f", LATER)
        a.on_step = None
        await trio.sleep(70)
        shown = await agree(a)
        assert shown.pop("f") == b"theirs"
        assert list(shown.values()) == [LATER]


async def test_a_file_goes_into_a_directory_of_its_name_before_its_lost_upload_is_known(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """It waits for the directory, and the directory for knowing what stands at its name."""
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.show()
        await a.write("f", NEW)
        await _crash_after(a, "put:done")
        await a.rename("f", "t")
        await a.mkdir("f")
        await a.rename("t", "f/t")
        a.on_step = None
        await trio.sleep(70)
        assert await agree(a, b) == {"f": None, "f/t": NEW}
        assert a.conflicts() == []


@pytest.mark.parametrize("real_dirs", [False, True], ids=["flat", "real_dirs"])
@pytest.mark.parametrize("is_renamed", [True, False], ids=["renamed over", "saved over"])
async def test_a_file_takes_the_place_of_one_with_the_same_bytes_and_the_reply_is_lost(
    tmp_path: Path, autojump_clock: MockClock, *, real_dirs: bool, is_renamed: bool
) -> None:
    """Where tags are hashes, what was to go has the tag of what came in its place."""
    bucket = MemoryStore(real_dirs=real_dirs, content_tags=True)
    bucket.write("e", NEW)
    bucket.write("f", NEW)
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.read("e")
        await a.read("f")
        lost: list[str] = []

        async def at_step(step: str, _key: str) -> None:
            if step in ("copy:done", "move:done", "put:done") and not lost:
                lost.append(step)
                raise Ambiguous("no reply")

        a.on_step = at_step
        if not is_renamed:
            await a.unlink("e")
            await a.write("e", NEW)
        await a.rename("e", "f")
        assert await agree(a, b) == {"f": NEW}
        assert lost
        assert bucket.read("f") == NEW


TREE_CHANGES: dict[str, tuple[tuple[tuple[str, ...], ...], dict[str, bytes | None]]] = {
    "a file removed": ((("unlink", "d/f"),), {"d": None, "d/g": b"g"}),
    "all of it removed": ((("unlink", "d/f"), ("unlink", "d/g"), ("rmdir", "d")), {}),
    "a file edited": ((("write", "d/f", "new"),), {"d": None, "d/f": b"new", "d/g": b"g"}),
    "a file saved over": (
        (("write", "d/t", "new"), ("rename", "d/t", "d/f")),
        {"d": None, "d/f": b"new", "d/g": b"g"},
    ),
    "a file moved out": ((("rename", "d/f", "f"),), {"d": None, "d/g": b"g", "f": b"f"}),
    "all moved out, and removed": (
        (("rename", "d/f", "f"), ("unlink", "d/g"), ("rmdir", "d")),
        {"f": b"f"},
    ),
    "renamed again": ((("rename", "d", "e"),), {"e": None, "e/f": b"f", "e/g": b"g"}),
    "renamed back": ((("rename", "d", "x"),), {"x": None, "x/f": b"f", "x/g": b"g"}),
    "made anew": (
        (("unlink", "d/f"), ("unlink", "d/g"), ("rmdir", "d"), ("mkdir", "d")),
        {"d": None},
    ),
    "old name made anew": (
        (("mkdir", "x"), ("write", "x/f", "new")),
        {"d": None, "d/f": b"f", "d/g": b"g", "x": None, "x/f": b"new"},
    ),
}


@pytest.mark.parametrize("change", TREE_CHANGES)
@pytest.mark.parametrize("step", ["move", "move:done"])
async def test_a_tree_changes_before_its_lost_move_is_known(
    tmp_path: Path, autojump_clock: MockClock, change: str, step: str
) -> None:
    bucket = MemoryStore(real_dirs=True)
    bucket.write("x/f", b"f")
    bucket.write("x/g", b"g")
    calls, expected = TREE_CHANGES[change]
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.show()
        await a.rename("x", "d")
        await _crash_after(a, step)
        for name, *words in calls:
            given = [words[0], words[1].encode()] if name == "write" else words
            await getattr(a, name)(*given)
        a.on_step = None
        await trio.sleep(70)
        assert await agree(a, b) == expected
        assert a.conflicts() == []
