"""Listings: what they show is taken over, what they do not show is gone, and only then."""

import contextlib
import errno
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import AccessDenied, BackendError, FsError, Offline, Throttled
from tests.support.engines import Machine, agree, machines
from tests.support.invariants import check_machine


class SlowListing:
    """Holds a listing back after the server has answered it."""

    def __init__(self, machine: Machine) -> None:
        self._backend = machine.backend
        self._list_page = machine.backend.list_page
        self.answered = trio.Event()
        self.delivered = trio.Event()
        machine.backend.list_page = self  # type: ignore[method-assign]

    async def __call__(self, directory: object, token: str | None) -> object:
        page = await self._list_page(directory, token)  # type: ignore[arg-type]
        self.answered.set()
        await self.delivered.wait()
        return page

    def release(self) -> None:
        self._backend.list_page = self._list_page  # type: ignore[method-assign]
        self.delivered.set()


@pytest.mark.parametrize("error", [Offline("no route"), AccessDenied("no")])
async def test_a_failed_listing_changes_nothing(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, error: BackendError
) -> None:
    bucket.write("f", b"x")
    bucket.write("d/g", b"y")
    async with machines(tmp_path, bucket, "a") as (a,):
        before = await a.show()

        async def broken(step: str, key: str) -> None:
            if step == "list_page":
                raise error

        a.on_step = broken
        bucket.remove("f")
        await a.look()
        assert await a.show() == before
        a.on_step = None
        await a.look()
        assert not await a.exists("f")


async def test_a_listing_that_fails_half_way_removes_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = MemoryStore(page_items=3)
    for n in range(10):
        bucket.write(f"f{n}", b"x")
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.show()
        pages = 0

        async def broken(step: str, key: str) -> None:
            nonlocal pages
            if step == "list_page":
                pages += 1
                if pages == 3:
                    raise Offline("in the middle")

        a.on_step = broken
        await a.look()
        assert pages == 3
        assert len(await a.list()) == 10


async def test_a_directory_that_cannot_be_listed_says_so(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):

        async def broken(step: str, key: str) -> None:
            raise Offline("no route")

        a.on_step = broken
        began = trio.current_time()
        with pytest.raises(FsError) as timed_out:
            await a.list()
        assert timed_out.value.code == errno.ETIMEDOUT
        waited_s = trio.current_time() - began
        # Who comes next does not wait as long for a store that is known to be away.
        with pytest.raises(Offline):
            await a.list()
        assert trio.current_time() - began < waited_s + 1
        a.on_step = None
        assert await a.list() == []
        assert not a.up.poller.is_dark


async def test_a_hiccup_of_the_network_fails_nobody_who_waits_for_names(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("f", b"x")
    errors: list[BackendError] = [Offline("the transfer process ended"), Throttled("later", 3)]
    async with machines(tmp_path, bucket, "a") as (a,):

        async def hiccup(step: str, key: str) -> None:
            if errors and step == "list_page":
                raise errors.pop()

        a.on_step = hiccup
        assert await a.list() == ["f"]
        assert errors == []


async def _raced(tmp_path: Path, bucket: MemoryStore, what: str) -> None:
    bucket.write("d/f", b"x")
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.show()
        await trio.sleep(5)
        slow = SlowListing(a)
        a.up.poller.look_soon((await a.row("d")).id)
        await slow.answered.wait()
        if what == "upload":
            await a.write("d/new", b"new")
            expected = {"d": None, "d/f": b"x", "d/new": b"new"}
        elif what == "overwrite":
            await a.write("d/f", b"new")
            expected = {"d": None, "d/f": b"new"}
        elif what == "delete":
            await a.write("d/keep", b"")
            await a.unlink("d/f")
            expected = {"d": None, "d/keep": b""}
        elif what == "move out":
            await a.rename("d/f", "g")
            await a.write("d/keep", b"")
            expected = {"d": None, "d/keep": b"", "g": b"x"}
        elif what == "move within":
            await a.rename("d/f", "d/g")
            expected = {"d": None, "d/g": b"x"}
        else:
            await a.rename("d", "e")
            expected = {"e": None, "e/f": b"x"}
        if what != "move the directory":  # that has to list it first
            await a.flush()
        slow.release()
        await trio.sleep(1)
        assert await a.show() == expected, "right after the late listing"
        assert await agree(a) == expected
        assert a.conflicts() == []
        check_machine(a)


@pytest.mark.parametrize(
    "what", ["upload", "overwrite", "delete", "move out", "move within", "move the directory"]
)
async def test_an_old_listing_neither_removes_nor_resurrects(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, what: str
) -> None:
    await _raced(tmp_path, bucket, what)


async def test_a_directory_removed_there_goes_with_all_below(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    for n in range(450):
        bucket.write(f"d/s/f{n}", b"x")
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list("d")
        await a.list("d/s")
        for key in list(bucket.keys()):
            bucket.remove(key)
        await a.look()
        assert await a.list() == []
        check_machine(a)
        assert a.up.store.all("SELECT id FROM inode WHERE id <> 1") == []


async def test_a_directory_removed_there_keeps_what_was_edited_here(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("d/s/f", b"x")
    bucket.write("d/s/g", b"x")
    bucket.write("d/h", b"x")
    async with machines(tmp_path, bucket, "a", upload_delay_s=300.0) as (a,):
        await a.show()
        await a.write("d/s/f", b"edited")
        await a.write("d/s/new", b"new")
        for key in list(bucket.keys()):
            bucket.remove(key)
        await a.look()
        expected = {"d": None, "d/s": None, "d/s/f": b"edited", "d/s/new": b"new"}
        assert await agree(a) == expected


async def test_the_loop_is_not_held_up_by_a_large_removal(
    tmp_path: Path, flat: MemoryStore, autojump_clock: MockClock
) -> None:
    for n in range(1200):
        flat.write(f"d/f{n}", b"")
    async with machines(tmp_path, flat, "a") as (a,):
        await a.list("d")
        for key in list(flat.keys()):
            flat.remove(key)
        ticks = 0
        directory = (await a.row("d")).id

        async def tick() -> None:
            nonlocal ticks
            while True:
                await trio.lowlevel.checkpoint()
                ticks += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await a.up.adopter.remove_gone_dir(directory)
            nursery.cancel_scope.cancel()
        assert ticks >= 30
        assert await a.list() == []


async def test_open_files_of_a_removed_directory_can_be_read_on(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("d/f", b"still here")
    async with machines(tmp_path, bucket, "a") as (a,):
        fh = await a.open("d/f")
        await a.read_handle(fh)
        bucket.remove("d/f")
        bucket.remove("d/")
        await a.look()
        assert await a.list() == []
        assert await a.read_handle(fh) == b"still here"
        await a.close(fh)
        check_machine(a)


async def test_a_foreign_overwrite_while_bytes_arrive(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Never bytes of two versions in one file."""
    bucket = MemoryStore()
    bucket.write("f", b"1" * (4 << 20))
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        blocks = 0

        async def overwrite(step: str, key: str) -> None:
            nonlocal blocks
            if step == "fetch:bytes":
                blocks += 1
                if blocks == 2:
                    bucket.write("f", b"2" * (4 << 20))
                await trio.sleep(0.2)

        a.on_step = overwrite
        fh = await a.open("f")
        content = b""
        with contextlib.suppress(FsError):  # ESTALE: nobody has the old version any more
            content = await a.read_handle(fh)
        await a.close(fh)
        assert len(set(content)) <= 1
        a.on_step = None
        await a.look()
        assert set(await a.read("f")) == {ord("2")}
        check_machine(a)


async def test_writing_on_after_a_foreign_change_loses_nothing(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """Open for writing, replaced in the cloud, then written: both versions stay."""
    bucket.write("f", b"base")
    async with machines(tmp_path, bucket, "a") as (a,):
        fh = await a.open("f", os.O_RDWR)
        assert await a.read_handle(fh) == b"base"
        bucket.write("f", b"theirs")
        await a.look()
        await a.up.vfs.write(fh, 0, b"MINE")
        await a.close(fh)
        shown = await agree(a)
        assert sorted(content or b"" for content in shown.values()) == [b"MINE", b"theirs"]


async def test_writing_on_after_a_foreign_removal_loses_nothing(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("f", b"base")
    async with machines(tmp_path, bucket, "a") as (a,):
        fh = await a.open("f", os.O_RDWR)
        assert await a.read_handle(fh) == b"base"
        bucket.remove("f")
        await a.look()
        await a.up.vfs.write(fh, 0, b"MINE")
        await a.close(fh)
        assert list((await agree(a)).values()) == [b"MINE"]


async def test_a_listing_does_not_bring_back_what_was_unlinked_while_it_was_sent(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """The PUT has made the object, its reply is on its way, and its name is gone already."""
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        sent = trio.Event()

        async def slow_reply(step: str, key: str) -> None:
            if step == "put:done":
                sent.set()
                await trio.sleep(20)

        a.on_step = slow_reply
        await a.write("f", b"one")
        await sent.wait()
        await a.unlink("f")
        await a.look()
        assert await a.list() == []
        a.on_step = None
        assert await agree(a) == {}


async def test_a_listing_does_not_bring_back_the_old_name_of_a_renamed_file(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """Also if the kernel still knows a file that had the name, and was renamed, before."""
    async with machines(tmp_path, bucket, "a", refresh_s=0.1, upload_delay_s=5) as (a,):
        for _ in range(2):
            await a.write("f", b"one")
            await a.flush()
            a.up.table.remember((await a.row("f")).id)
            await a.rename("f", "g")
            await a.unlink("g")
        await a.write("f", b"two")
        await a.flush()
        await a.rename("f", "h")
        await a.look()
        assert await a.list() == ["h"]
        assert await agree(a) == {"h": b"two"}


async def test_extended_attributes_changed_there_are_changed_here(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.write("f", b"x")
        await _set_xattr(a, "user.first", b"1")
        await agree(a, b)
        for name, value in (("user.first", b"2"), ("user.more", b"3"), ("user.first", None)):
            await _set_xattr(b, name, value)
            await agree(a, b)
            assert await _xattrs(a) == await _xattrs(b)
        assert await _xattrs(a) == {b"user.more": b"3"}
        # The last one goes: an item without any, of another mount, says so.
        await _set_xattr(b, "user.more", None)
        await agree(a, b)
        assert await _xattrs(a) == {}


async def _set_xattr(machine: Machine, name: str, value: bytes | None) -> None:
    row = await machine.row("f")
    machine.up.vfs.xattrs.set(row.id, name.encode(), value, keep_setgid=True)


async def _xattrs(machine: Machine) -> dict[bytes, bytes]:
    ino = (await machine.row("f")).id
    found = machine.up.vfs.xattrs
    return {name: found.get(ino, name) for name in found.names(ino)}
