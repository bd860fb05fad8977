"""Intents that run: what programs do meanwhile, what the network does, what is retried when."""

import errno
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import (
    AccessDenied,
    Ambiguous,
    BackendError,
    FsError,
    Offline,
    QuotaExceeded,
    Retry,
    Throttled,
)
from csyncfs.vfs import Changes
from tests.support.engines import Machine, agree, machines
from tests.support.invariants import check_machine


class Gate:
    """A network step that waits until the test lets it pass."""

    def __init__(self, machine: Machine, step: str) -> None:
        self._step = step
        self.reached = trio.Event()
        self.opened = trio.Event()
        machine.on_step = self

    async def __call__(self, step: str, key: str) -> None:
        if step == self._step and not self.opened.is_set():
            self.reached.set()
            await self.opened.wait()


class Failing:
    """A network that fails at a step a number of times."""

    def __init__(self, machine: Machine, step: str, error: BackendError, times: int) -> None:
        self._step = step
        self._error = error
        self.left = times
        self.times: list[float] = []
        machine.on_step = self

    async def __call__(self, step: str, key: str) -> None:
        if step == self._step:
            self.times.append(trio.current_time())
            if self.left:
                self.left -= 1
                raise self._error


# -- programs go on ----------------------------------------------------------------------


@pytest.mark.parametrize("step", ["put", "put:commit", "put:done"])
async def test_written_during_the_upload(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, step: str
) -> None:
    """No torn object: each version in the cloud is one that a program closed."""
    seen: set[bytes] = set()
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        gate = Gate(a, step)
        await a.write("f", b"one" * 1000)
        await gate.reached.wait()
        await a.patch("f", 0, b"TWO")
        gate.opened.set()
        for _ in range(20):
            await trio.sleep(0.1)
            if bucket.version("f"):
                seen.add(bucket.read("f"))
        assert await agree(a) == {"f": b"TWO" + b"one" * 999}
        assert seen <= {b"one" * 1000, b"TWO" + b"one" * 999}
        check_machine(a)


@pytest.mark.parametrize("step", ["put", "put:part", "put:commit", "put:done"])
async def test_written_during_a_multipart_upload(
    tmp_path: Path, autojump_clock: MockClock, step: str
) -> None:
    bucket = MemoryStore(part_bytes=100)
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        gate = Gate(a, step)
        await a.write("f", b"x" * 350)
        await gate.reached.wait()
        await a.patch("f", 320, b"TWO")
        gate.opened.set()
        await agree(a)
        assert bucket.read("f") == b"x" * 320 + b"TWO" + b"x" * 27


@pytest.mark.parametrize("step", ["put", "put:commit", "put:done"])
async def test_unlinked_during_the_upload(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, step: str
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        gate = Gate(a, step)
        await a.write("f", b"one")
        await gate.reached.wait()
        await a.unlink("f")
        gate.opened.set()
        assert await agree(a) == {}
        assert bucket.keys() == []
        check_machine(a)
        assert a.up.store.all("SELECT id FROM inode WHERE id <> 1") == []


@pytest.mark.parametrize("step", ["put", "put:commit", "put:done"])
async def test_replaced_by_another_file_during_the_upload(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, step: str
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        gate = Gate(a, step)
        await a.write("f", b"one")
        await gate.reached.wait()
        await a.write("t", b"two")
        await a.rename("t", "f")
        gate.opened.set()
        assert await agree(a) == {"f": b"two"}
        assert a.conflicts() == []


async def test_renamed_over_a_file_that_somebody_removes_meanwhile(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """Nothing of the renamed file itself is gone: it arrives, and leaves nothing behind."""
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.write("f", b"content")
        await a.write("v", b"victim")
        await agree(a)
        gate = Gate(a, "put")
        await a.patch("f", 0, b"C")
        await a.rename("f", "v")
        await gate.reached.wait()
        bucket.remove("v")
        gate.opened.set()
        assert await agree(a) == {"v": b"Content"}
        assert bucket.keys() == ["v"]
        assert a.conflicts() == []
        check_machine(a)


async def test_renamed_and_edited_to_what_somebody_put_there(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.write("f", b"content")
        await agree(a)
        gate = Gate(a, "put")
        await a.patch("f", 0, b"C")
        await a.rename("f", "g")
        await gate.reached.wait()
        bucket.write("g", b"Content")
        gate.opened.set()
        assert await agree(a) == {"g": b"Content"}
        assert bucket.keys() == ["g"]
        assert a.conflicts() == []


async def test_what_replaces_a_file_during_its_upload_follows_at_once(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """What is left of the first upload is as old as that, and still not forgotten."""
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.1) as (a,):
        gate = Gate(a, "put:done")
        await a.write("f", b"one")
        await gate.reached.wait()
        await trio.sleep(1)
        await a.write("later", b"later")
        await a.write("t", b"two")
        await a.rename("t", "f")
        await trio.sleep(1)
        gate.opened.set()
        await trio.sleep(3)
        assert bucket.keys() == ["f", "later"]
        assert bucket.read("f") == b"two"
        assert a.intents() == []


@pytest.mark.parametrize("step", ["put", "put:commit", "put:done"])
async def test_renamed_during_the_upload(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, step: str
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        gate = Gate(a, step)
        await a.write("f", b"one")
        await gate.reached.wait()
        await a.rename("f", "g")
        await a.write("f", b"another")
        gate.opened.set()
        assert await agree(a) == {"g": b"one", "f": b"another"}
        assert a.conflicts() == []


@pytest.mark.parametrize("step", ["put", "put:commit", "put:done"])
async def test_attributes_changed_during_the_upload(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, step: str
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        gate = Gate(a, step)
        await a.write("f", b"one")
        await gate.reached.wait()
        await a.chmod("f", 0o604)
        gate.opened.set()
        await agree(a)
        assert (bucket.attributes("f").mode or 0) & 0o7777 == 0o604


async def test_a_file_that_is_still_being_written_is_not_uploaded(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.list()
        fh = await a.open("f", os.O_WRONLY | os.O_CREAT)
        await a.up.vfs.write(fh, 0, b"half")
        await trio.sleep(4)
        assert bucket.keys() == []
        await a.close(fh)
        assert await agree(a) == {"f": b"half"}


# -- lost replies ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["create", "overwrite", "multipart"])
async def test_a_lost_reply_is_no_conflict_with_oneself(
    tmp_path: Path, autojump_clock: MockClock, what: str
) -> None:
    bucket = MemoryStore(part_bytes=100 if what == "multipart" else 1 << 20)
    content = b"mine" * 100
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        if what == "overwrite":
            bucket.write("f", b"base")
        await a.show()
        failing = Failing(a, "put:done", Ambiguous("the reply was lost"), 1)
        await a.write("f", content)
        assert await agree(a) == {"f": content}
        assert failing.left == 0
        assert a.conflicts() == []


async def test_a_lost_reply_then_a_crash_is_no_conflict(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        gate = Gate(a, "put:done")
        await a.write("f", b"mine")
        await gate.reached.wait()
        a.on_step = None
        await a.crash()
        await a.start()
        assert await agree(a) == {"f": b"mine"}
        assert a.conflicts() == []


@pytest.mark.parametrize("step", ["move:done", "copy:done", "delete:done", "make_dir:done"])
async def test_a_lost_reply_of_a_change_of_names(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, step: str
) -> None:
    bucket.write("f", b"x")
    bucket.write("gone", b"y")
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.show()
        Failing(a, step, Ambiguous("the reply was lost"), 1)
        await a.mkdir("d")
        await a.rename("f", "d/g")
        await a.unlink("gone")
        assert await agree(a) == {"d": None, "d/g": b"x"}
        assert a.conflicts() == []


# -- failures ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Offline("no route"), Throttled("slow down", 7.0)])
async def test_one_probe_for_all_while_the_store_takes_nothing(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, error: BackendError
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.list()
        failing = Failing(a, "put", error, 30)
        for n in range(20):
            await a.write(f"f{n}", b"x")
        await trio.sleep(60)
        # The first round had four slots; from then on it is one at a time, less and less often.
        assert 4 <= len(failing.times) <= 40
        assert a.up.uploader.last_error == str(error)
        await trio.sleep(1200)
        assert len(bucket.keys()) == 20
        assert a.up.uploader.last_error is None


async def test_retry_after_is_honoured(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        failing = Failing(a, "put", Retry("busy", 40.0), 1)
        await a.write("f", b"x")
        await trio.sleep(200)
        first, second = failing.times
        assert second - first >= 40.0
        assert bucket.read("f") == b"x"


async def test_a_failing_intent_does_not_hold_up_others(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0, slots=1) as (a,):

        async def bad_luck(step: str, key: str) -> None:
            if step == "put" and key == "bad":
                raise Retry("cannot do this one")

        a.on_step = bad_luck
        await a.write("bad", b"x")
        for n in range(5):
            await a.write(f"good{n}", b"x")
        await trio.sleep(10)
        assert len(bucket.keys()) == 5
        (intent,) = a.intents()
        assert intent.error == "cannot do this one"
        a.on_step = None
        await agree(a)


async def test_held_intents_are_kept_shown_and_tried_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = MemoryStore(total_bytes=10)
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.write("large", b"x" * 50)
        await a.write("small", b"x")
        await trio.sleep(5)
        assert bucket.keys() == ["small"]
        (intent,) = a.intents()
        assert intent.hold == "the store is full"
        await trio.sleep(600)
        assert [i.hold for i in a.intents()] == ["the store is full"]
        bucket.total_bytes = None
        await trio.sleep(300)
        assert bucket.read("large") == b"x" * 50
        assert a.intents() == []


@pytest.mark.parametrize("error", [AccessDenied("wrong key"), QuotaExceeded("full")])
async def test_flush_tries_held_intents_at_once(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, error: BackendError
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        Failing(a, "put", error, 1)
        await a.write("f", b"x")
        await trio.sleep(0.2)
        assert [i.hold for i in a.intents()] == [str(error)]
        began = trio.current_time()
        await a.flush()
        assert bucket.read("f") == b"x"
        assert trio.current_time() - began < 5


async def test_offline_for_long_then_everything_arrives(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    bucket.write("old", b"x")
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        await a.show()
        is_offline = True

        async def network(step: str, key: str) -> None:
            if is_offline:
                raise Offline("no route")

        a.on_step = network
        await a.mkdir("d")
        await a.write("d/new", b"y")
        await a.rename("old", "d/old")
        assert await a.read("d/old") == b"x"
        await trio.sleep(7200)
        assert bucket.keys() == ["old"]
        is_offline = False
        await trio.sleep(120)
        assert a.intents() == []
        assert await agree(a) == {"d": None, "d/new": b"y", "d/old": b"x"}


# -- resume ------------------------------------------------------------------------------


async def test_a_large_upload_goes_on_where_a_crash_left_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bucket = MemoryStore(part_bytes=100)
    content = bytes(range(250)) * 4
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):
        stuck = trio.Event()
        parts = 0

        async def stop_at_six(step: str, key: str) -> None:
            nonlocal parts
            if step == "put:part":
                parts += 1
                if parts == 6:
                    stuck.set()
                    await trio.sleep_forever()

        a.on_step = stop_at_six
        await a.write("f", content)
        await stuck.wait()
        await a.crash()
        a.on_step = None
        since = len(a.requests)
        await a.start()
        assert await agree(a) == {"f": content}
        sent = [step for step, _ in a.requests[since:] if step == "put:part"]
        assert len(sent) == 4
        assert bucket.unfinished_uploads == 0


@pytest.mark.parametrize("then", ["removed", "edited", "replaced", "renamed"])
async def test_what_an_upload_holds_is_freed_when_nobody_goes_on_with_it(
    tmp_path: Path, autojump_clock: MockClock, then: str
) -> None:
    bucket = MemoryStore(part_bytes=100)
    content = bytes(range(250)) * 4
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.0) as (a,):

        async def dark_after_six(step: str, key: str) -> None:
            if sum(step == "put:part" for step, _ in a.requests) >= 6:
                raise Offline("dark")

        a.on_step = dark_after_six
        await a.write("f", content)
        await trio.sleep(30)
        assert bucket.unfinished_uploads == 1
        match then:
            case "removed":
                await a.unlink("f")
            case "edited":
                await a.write("f", content + b"more")
            case "replaced":
                await a.write("other", b"small")
                await a.rename("other", "f")
            case _:
                await a.rename("f", "g")
        # Also if it is only known to the next one.
        await a.crash()
        a.on_step = None
        await a.start()
        shown = await agree(a)
        await trio.sleep(60)
        assert bucket.unfinished_uploads == 0
        told = {
            "removed": {},
            "edited": {"f": content + b"more"},
            "replaced": {"f": b"small"},
            "renamed": {"g": content},
        }
        assert shown == told[then]


async def test_an_edited_file_larger_than_the_cache_is_uploaded(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """Its other parts have to be here once: that may not wait for the upload it is for."""
    content = bytes(range(256)) * (6 << 12)
    bucket.write("f", content)
    async with machines(tmp_path, bucket, "a", cache_bytes=4 << 20) as (a,):
        edit = b"x" * (3 << 20)
        await a.patch("f", 1 << 20, edit)
        await a.flush()
        expected = content[: 1 << 20] + edit + content[4 << 20 :]
        assert bucket.read("f") == expected
        assert await a.read("f") == expected
        await trio.sleep(10)
        assert a.up.space.used_bytes <= 4 << 20


async def test_a_hole_larger_than_the_cache_takes_no_room(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """``truncate -s``, and a write far behind the end: zeros that are on no disk."""
    async with machines(tmp_path, bucket, "a", cache_bytes=4 << 20) as (a,):
        fh = await a.open("f", os.O_RDWR | os.O_CREAT)
        await a.up.vfs.setattr((await a.row("f")).id, Changes(size=6 << 20), fh)
        await a.close(fh)
        await a.write("g", b"")
        await a.patch("g", 5 << 20, b"end")
        await a.flush()
        assert bucket.read("f") == bytes(6 << 20)
        assert bucket.read("g") == bytes(5 << 20) + b"end"
        await trio.sleep(10)
        assert a.up.space.used_bytes <= 4 << 20
        check_machine(a)


# -- waiting for the cloud ---------------------------------------------------------------


async def test_fsync_of_a_store_that_takes_nothing_ends_and_the_bytes_go_later(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "anna") as (anna,):
        fh = await anna.open("f", os.O_WRONLY | os.O_CREAT)
        await anna.up.vfs.write(fh, 0, b"content")
        dead = Failing(anna, "put", Offline("dark"), 10_000)
        with pytest.raises(FsError) as caught:
            await anna.up.vfs.fsync(fh)
        assert caught.value.code == errno.ETIMEDOUT
        dead.left = 0
        anna.up.uploader.open_gate()
        await anna.up.vfs.fsync(fh)
        assert bucket.read("f") == b"content"
        await anna.close(fh)


async def test_fsync_of_what_the_store_refuses_says_so(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "anna") as (anna,):
        fh = await anna.open("f", os.O_WRONLY | os.O_CREAT)
        await anna.up.vfs.write(fh, 0, b"content")
        full = Failing(anna, "put", QuotaExceeded("full"), 10_000)
        with pytest.raises(FsError) as caught:
            await anna.up.vfs.fsync(fh)
        assert caught.value.code == errno.EIO
        full.left = 0
        await anna.close(fh)
        assert await agree(anna) == {"f": b"content"}
