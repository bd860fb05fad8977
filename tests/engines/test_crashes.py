"""kill -9 at every step of what the engines do; the next start goes on from there."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import Offline
from tests.support.engines import Machine, agree, machines
from tests.support.invariants import check_machine
from tests.support.length import IS_LONG

_FILES = 500 if IS_LONG else 30


class CrashAt:
    """Freezes the disk at the n-th step of the network (of a kind) and lets nothing through
    after it."""

    def __init__(self, machine: Machine, n: int, kind: str | None = None) -> None:
        self._machine = machine
        self._left = n
        self._kind = kind
        self.is_over = trio.Event()
        machine.on_step = self

    async def __call__(self, step: str, key: str) -> None:
        if self._kind in (None, step):
            self._left -= 1
        if self._left == 0 and not self.is_over.is_set():
            self._machine.freeze_disk()
            self.is_over.set()
        if self._left <= 0:
            await trio.sleep_forever()


async def _crash_at(machine: Machine, n: int) -> bool:
    """Let it work until its n-th step, kill it there and start it again; False: it came to an
    end before."""
    crash = CrashAt(machine, n)
    with trio.move_on_after(60):
        await crash.is_over.wait()
    machine.on_step = None
    if not crash.is_over.is_set():
        return False
    await machine.end()
    await machine.start()
    check_machine(machine)
    return True


async def test_a_directory_of_many_files_moves_through_crashes(
    tmp_path: Path, flat: MemoryStore, autojump_clock: MockClock
) -> None:
    """Killed again and again after a few steps each, until it is done."""
    for n in range(_FILES):
        flat.write(f"d/f{n}", b"%d" % n)
    async with machines(tmp_path, flat, "a", upload_delay_s=0.0, slots=8) as (a,):
        await a.show()
        await a.rename("d", "e")
        crashes = 0
        while await _crash_at(a, 7 + crashes % 13):
            crashes += 1
        assert crashes > 10
        shown = await agree(a)
        assert shown == {"e": None, **{f"e/f{n}": b"%d" % n for n in range(_FILES)}}


@pytest.mark.parametrize("step", range(1, 26))
async def test_a_small_tree_moves_whatever_the_step_of_the_crash(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, step: int
) -> None:
    bucket.write("d/f", b"f")
    bucket.write("d/s/g", b"g")
    bucket.write("d/s/")
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.list()
        await a.rename("d", "e")
        await _crash_at(a, step)
        shown = await agree(a, b)
        assert shown == {"e": None, "e/f": b"f", "e/s": None, "e/s/g": b"g"}


@pytest.mark.parametrize("step", range(1, 16))
async def test_a_swap_whatever_the_step_of_the_crash(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, step: int
) -> None:
    bucket.write("x", b"was x")
    bucket.write("y", b"was y")
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.show()
        await a.exchange("x", "y")
        await _crash_at(a, step)
        assert await agree(a) == {"x": b"was y", "y": b"was x"}
        assert [key for key in list(bucket.keys()) if not key.endswith("/")] == ["x", "y"]


@pytest.mark.parametrize("step", range(1, 8))
async def test_an_atomic_save_whatever_the_step_of_the_crash(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, step: int
) -> None:
    bucket.write("f", b"one")
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.show()
        await a.write("t", b"two")
        await a.rename("t", "f")
        await _crash_at(a, step)
        assert await agree(a) == {"f": b"two"}
        assert a.conflicts() == []


@pytest.mark.parametrize("step", range(1, 12))
async def test_a_conflict_whatever_the_step_of_the_crash(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, step: int
) -> None:
    bucket.write("f", b"one")
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.show()
        bucket.write("f", b"theirs")
        await a.write("f", b"mine")
        await _crash_at(a, step)
        shown = await agree(a)
        assert shown.pop("f") == b"theirs"
        assert list(shown.values()) == [b"mine"]


async def test_closed_files_survive_a_crash_before_any_upload(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=300.0) as (a,):
        await a.mkdir("d")
        await a.write("d/f", b"closed")
        fh = await a.open("d/open", os.O_WRONLY | os.O_CREAT)
        await a.up.vfs.write(fh, 0, b"written, not closed")
        await a.crash()
        await a.start()
        check_machine(a)
        assert await a.read("d/f") == b"closed"
        shown = await agree(a)
        assert shown["d/f"] == b"closed"
        assert shown["d/open"] == b"written, not closed"


async def test_an_unlinked_open_file_is_gone_after_a_crash(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.write("f", b"x")
        await a.flush()
        fh = await a.open("f", os.O_WRONLY)
        await a.up.vfs.write(fh, 0, b"y")
        await a.unlink("f")
        await a.crash()
        await a.start()
        assert await agree(a) == {}
        check_machine(a)
        assert list(a.up.files.ids(dirty=True)) == []
        assert a.up.space.used_bytes == 0


async def test_after_power_loss_clean_content_is_not_trusted(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """Another boot id and no clean stop: what was only cached may never have reached the disk."""
    bucket.write("clean", b"from the cloud")
    async with machines(tmp_path, bucket, "a", upload_delay_s=300.0) as (a,):
        await a.read("clean")
        await a.write("dirty", b"written here")
        a.setting("boot_id", "another boot")
        await a.crash()
        for path in (a.home / "cache").rglob("*"):
            if path.is_file():
                path.write_bytes(b"garbage of a torn write")
        await a.start()
        assert await a.read("clean") == b"from the cloud"
        assert await agree(a) == {"clean": b"from the cloud", "dirty": b"written here"}


async def test_after_a_clean_stop_another_boot_id_costs_nothing(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("clean", b"from the cloud")
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.read("clean")
        a.setting("boot_id", "another boot")
        await a.stop()
        since = len(a.requests)
        await a.start()
        assert await a.read("clean") == b"from the cloud"
        assert not [step for step, _ in a.requests[since:] if step == "fetch"]


async def test_a_wiped_cache_loses_nothing(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("clean", b"from the cloud")
    bucket.write("gone", b"deleted there")
    async with machines(tmp_path, bucket, "a", upload_delay_s=300.0) as (a,):
        await a.show()
        await a.write("dirty", b"written here")
        bucket.remove("gone")
        await a.rename("gone", "renamed")
        await a.crash()
        for path in (a.home / "cache").rglob("*"):
            if path.is_file():
                path.unlink()
        await a.start()
        shown = await agree(a)
        assert shown["dirty"] == b"written here"
        assert shown["clean"] == b"from the cloud"


async def test_a_renamed_file_made_anew_does_not_depend_on_the_cache(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """Deleted there, renamed here: from then on its only copy is ours, and safe as such."""
    bucket.write("f", b"only copy")
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.read("f")
        bucket.remove("f")

        async def no_put(step: str, key: str) -> None:
            if step == "put":
                await trio.sleep_forever()

        a.on_step = no_put
        await a.rename("f", "g")
        await trio.sleep(5)
        await a.crash()
        for path in (a.home / "cache").rglob("*"):
            if path.is_file():
                path.unlink()
        a.on_step = None
        await a.start()
        assert await agree(a) == {"g": b"only copy"}


async def test_what_is_synced_is_on_the_disk_with_its_names(
    tmp_path: Path,
    bucket: MemoryStore,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Power cannot be cut here: the kernel is watched being told to write to the disk."""
    synced: list[str] = []

    def noting(call: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            call(fd)
            synced.append(os.readlink(f"/proc/self/fd/{fd}"))

        return sync

    monkeypatch.setattr(os, "fdatasync", noting(os.fdatasync))
    monkeypatch.setattr(os, "fsync", noting(os.fsync))
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()

        async def offline(step: str, key: str) -> None:
            raise Offline("no route")

        # Else the file is in the cloud, and no matter of the disk any more.
        a.on_step = offline
        fh = await a.open("f", os.O_WRONLY | os.O_CREAT)
        await a.up.vfs.write(fh, 0, b"synced")
        synced.clear()
        live = a.up.table.get((await a.row("f")).id)
        assert live is not None
        # Not that of the call: here it waits for the cloud as well.
        await a.up.content.fsync(live)
        (content,) = (path for path in map(Path, synced) if path.name == f"{live.ino}")
        assert str(content.parent) in synced
        assert synced[-1].endswith("store.db-wal")
        await a.close(fh)
        synced.clear()
        await a.up.vfs.fsync_dir()
        assert synced[-1].endswith("store.db-wal")
        a.on_step = None


async def _rename(a: Machine, path: str) -> None:
    await a.rename(path, "moved")


async def _remove(a: Machine, path: str) -> None:
    await (a.rmdir(path) if path == "d" else a.unlink(path))


@pytest.mark.parametrize("sequel", [_rename, _remove])
@pytest.mark.parametrize("key", ["f", "d/"])
async def test_what_a_busy_server_still_did_after_the_crash_is_known_as_ours(
    tmp_path: Path,
    bucket: MemoryStore,
    autojump_clock: MockClock,
    key: str,
    sequel: Callable[[Machine, str], Awaitable[None]],
) -> None:
    """The request had arrived when the mount died; the server comes to it after the restart."""
    path, step = key.rstrip("/"), "make_dir:commit" if key.endswith("/") else "put:commit"
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):
        crash = CrashAt(a, 1, step)
        await (a.mkdir(path) if key.endswith("/") else a.write(path, b"content"))
        await crash.is_over.wait()
        a.on_step = None
        await a.end()
        await a.start()
        (put_id,) = [row[0] for row in a.up.store.all("SELECT put_id FROM attempt")]
        await sequel(a, path)
        await trio.sleep(1)
        assert bucket.item(key) is None
        bucket.write(key, b"" if key.endswith("/") else b"content", put_id=put_id)
        content = None if key.endswith("/") else b"content"
        assert await agree(a, b) == ({"moved": content} if sequel is _rename else {})
        assert a.conflicts() == []


@pytest.mark.parametrize("key", ["f", "d/"])
async def test_what_a_busy_server_still_removed_after_the_crash_is_not_the_new_one(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, key: str
) -> None:
    path, is_dir = key.rstrip("/"), key.endswith("/")
    bucket.write(key, b"" if is_dir else b"old")
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.show()
        crash = CrashAt(a, 1, "delete:commit")
        await _remove(a, path)
        await crash.is_over.wait()
        a.on_step = None
        await a.end()
        await a.start()
        await (a.mkdir(path) if is_dir else a.write(path, b"new"))
        await trio.sleep(1)
        bucket.remove(key)
        assert await agree(a, b) == {path: None if is_dir else b"new"}
        assert a.conflicts() == []
