"""Files with several names: every name an object of its own, and still one file."""

from collections import Counter
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.types import Attributes
from tests.support.engines import Machine, agree, is_conflict, machines
from tests.support.invariants import check_machine


@pytest.fixture(params=["flat", "flat-tags", "real_dirs"])
def bucket(request: pytest.FixtureRequest) -> MemoryStore:
    kind: str = request.param
    return MemoryStore(real_dirs=kind == "real_dirs", content_tags=kind == "flat-tags")


def _files(bucket: MemoryStore) -> dict[str, bytes]:
    return {key: bucket.read(key) for key in bucket.keys() if not key.endswith("/")}  # noqa: SIM118


async def _inos(machine: Machine, *paths: str) -> set[int]:
    return {(await machine.row(path)).id for path in paths}


async def _one_file(machine: Machine, *paths: str) -> None:
    """The names lead to one file, which has no other."""
    assert len(await _inos(machine, *paths)) == 1
    assert (await machine.row(paths[0])).nlink == len(paths)
    assert list(await machine.names(paths[0])) == sorted(paths)


async def _settle(*made: Machine) -> None:
    """Until what each did is known to the others, and has been followed."""
    for _ in range(4):
        for machine in made:
            await machine.flush()
            await machine.look()
            await trio.sleep(6)
    for machine in made:
        check_machine(machine)


async def test_both_names_show_what_is_written_through_either(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.write("f", b"one")
        await a.link("f", "g")
        await a.write("g", b"two!")
        await _one_file(a, "f", "g")
        assert await a.read("f") == b"two!"
        assert await agree(a) == {"f": b"two!", "g": b"two!"}
        await a.patch("f", 1, b"ouch")
        assert await a.read("g") == b"touch"
        await agree(a)
        assert _files(bucket) == {"f": b"touch", "g": b"touch"}


async def test_an_edit_is_uploaded_once_and_copied_there(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.write("f", b"one")
        await a.link("f", "g")
        await a.link("g", "h")
        await a.flush()
        since = len(a.requests)
        await a.write("h", b"two")
        await a.flush()
        calls = Counter(step for step, _ in a.requests[since:] if ":" not in step)
        assert (calls["put"], calls["copy"]) == (1, 2)
        assert _files(bucket) == {"f": b"two", "g": b"two", "h": b"two"}


@pytest.mark.parametrize("sent", [False, True], ids=["new", "sent"])
@pytest.mark.parametrize("gone", ["f", "g"])
async def test_a_name_goes_and_the_file_stays(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, sent: bool, gone: str
) -> None:
    left = "g" if gone == "f" else "f"
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.write("f", b"one")
        await a.link("f", "g")
        ino = (await a.row("f")).id
        if sent:
            await a.flush()
        await a.unlink(gone)
        check_machine(a)
        row = await a.row(left)
        assert (row.id, row.nlink) == (ino, 1)
        assert await agree(a) == {left: b"one"}
        await a.write(left, b"more")
        assert await agree(a) == {left: b"more"}
        await a.unlink(left)
        assert await agree(a) == {}
        assert a.up.store.all("SELECT id FROM inode WHERE id > 1") == []


async def test_a_name_that_is_there_already_is_taken_as_it_is(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """The first name goes: the second one's object is the file, nothing has to be copied."""
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.write("f", b"one")
        await a.link("f", "g")
        await a.flush()
        since = len(a.requests)
        await a.unlink("f")
        await a.flush()
        steps = [step for step, _ in a.requests[since:] if ":" not in step]
        assert steps == ["delete"]


async def test_names_are_renamed_one_by_one(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.mkdir("d")
        await a.write("f", b"one")
        await a.link("f", "g")
        await a.flush()
        await a.rename("f", "d/f")
        await _one_file(a, "d/f", "g")
        await a.rename("g", "d/g")
        await a.rename("d", "e")
        await _settle(a, b)
        await _one_file(a, "e/f", "e/g")
        await _one_file(b, "e/f", "e/g")
        assert _files(bucket) == {"e/f": b"one", "e/g": b"one"}


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("sent", [False, True])
async def test_names_trade_places(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, edited: bool, sent: bool
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.write("f", b"one")
        await a.link("f", "g")
        await a.write("other", b"other")
        if sent:
            await a.flush()
        if edited:
            await a.write("f", b"two")
        await a.rename("f", "t")
        await a.rename("g", "f")
        await a.rename("t", "g")
        await a.exchange("g", "other")
        content = b"two" if edited else b"one"
        assert await agree(a) == {"f": content, "other": content, "g": b"other"}
        await _one_file(a, "f", "other")


async def test_renamed_over_a_name_the_file_keeps_the_other(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        for name in ("f", "x", "y"):
            await a.write(name, name.encode())
        await a.link("f", "g")
        await a.link("f", "h")
        await a.flush()
        await a.rename("x", "f")
        await a.rename("y", "g")
        check_machine(a)
        assert await agree(a) == {"f": b"x", "g": b"y", "h": b"f"}
        assert (await a.row("h")).nlink == 1


async def test_renaming_a_name_over_another_of_the_same_file_does_nothing(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """POSIX rename(2)."""
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.write("f", b"one")
        await a.link("f", "g")
        await a.rename("g", "f")
        await _one_file(a, "f", "g")
        assert await agree(a) == {"f": b"one", "g": b"one"}


async def test_attributes_reach_every_name(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.write("f", b"one")
        await a.link("f", "g")
        await a.flush()
        await a.chmod("g", 0o640)
        assert (await a.row("f")).mode & 0o777 == 0o640
        await a.flush()
        for key in ("f", "g"):
            assert (bucket.attributes(key).mode or 0) & 0o777 == 0o640


async def test_a_symlink_has_two_names(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.symlink("there", "f")
        await a.link("f", "g")
        await _settle(a, b)
        await _one_file(b, "f", "g")
        assert await b.readlink("g") == "there"


@pytest.mark.parametrize("known", [False, True], ids=["both new", "one known before"])
async def test_another_machine_sees_one_file(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, known: bool
) -> None:
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.write("f", b"one")
        if known:
            await _settle(a, b)
            assert await b.read("f") == b"one"
        await a.link("f", "g")
        await _settle(a, b)
        await _one_file(b, "f", "g")
        await b.write("g", b"two!!")
        await _settle(b, a)
        await _one_file(a, "f", "g")
        await _one_file(b, "f", "g")
        assert await a.read("f") == await a.read("g") == b"two!!"
        assert await agree(a, b) == {"f": b"two!!", "g": b"two!!"}
        assert a.conflicts() == b.conflicts() == []


async def test_a_machine_that_knows_one_name_changes_all(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """The other directory was never listed there; who knows both names brings it up to date."""
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.mkdir("d")
        await a.write("f", b"one")
        await a.link("f", "d/g")
        await a.flush()
        await b.list()
        await trio.sleep(3)
        assert (await b.row("f")).nlink == 1
        await b.write("f", b"by b")
        await b.flush()
        await _settle(a, b)
        assert await agree(a, b) == {"d": None, "f": b"by b", "d/g": b"by b"}
        await _one_file(a, "d/g", "f")
        await _one_file(b, "d/g", "f")
        assert a.conflicts() == b.conflicts() == []


@pytest.mark.parametrize("name", ["f", "g"])
async def test_somebody_replaces_one_name(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, name: str
) -> None:
    """Another tool's upload is another file: the name leads to that, the file keeps the other."""
    other = "g" if name == "f" else "f"
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.write("f", b"one")
        await a.link("f", "g")
        await a.flush()
        fh = await a.open(name)
        bucket.write(name, b"foreign")
        await _settle(a)
        assert await a.read_handle(fh) == b"one"
        await a.close(fh)
        assert await agree(a) == {name: b"foreign", other: b"one"}
        assert (await a.row(name)).nlink == (await a.row(other)).nlink == 1
        assert a.conflicts() == []


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", ["f", "g"])
async def test_somebody_removes_one_name(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, name: str, cached: bool
) -> None:
    other = "g" if name == "f" else "f"
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await b.write("f", b"one")
        await b.link("f", "g")
        await _settle(b, a)
        if cached:
            await a.read("f")
        bucket.remove(name)
        await _settle(a, b)
        assert await agree(a, b) == {other: b"one"}
        assert (await a.row(other)).nlink == 1


@pytest.mark.parametrize("name", ["f", "g"])
async def test_an_edit_here_and_another_file_there_are_both_kept(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, name: str
) -> None:
    other = "g" if name == "f" else "f"
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.write("f", b"one")
        await a.link("f", "g")
        await a.flush()
        await a.write(name, b"edit")
        bucket.write(name, b"foreign")
        await _settle(a)
        shown = await agree(a)
        aside = [path for path in shown if is_conflict(path)]
        assert shown == {name: b"foreign", other: b"edit", aside[0]: b"edit"}
        await _one_file(a, aside[0], other)


async def test_two_machines_edit_through_different_names(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.write("f", b"one")
        await a.link("f", "g")
        await _settle(a, b)
        await a.write("f", b"by a")
        await b.write("g", b"by b")
        await _settle(a, b)
        shown = await agree(a, b)
        assert {"f", "g"} <= shown.keys()
        assert set(shown.values()) == {b"by a", b"by b"}
        check_machine(a)
        check_machine(b)


async def test_a_copy_by_another_tool_is_a_file_of_its_own(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """``aws s3 cp`` takes the metadata along; an edit must not reach the backup."""
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.write("f", b"one")
        await a.link("f", "g")
        await a.flush()
        bucket.write("backup", bucket.read("f"), bucket.attributes("f"))
        await _settle(a, b)
        await _one_file(a, "f", "g")
        await _one_file(b, "f", "g")
        await b.write("f", b"two")
        await _settle(b, a)
        assert await agree(a, b) == {"f": b"two", "g": b"two", "backup": b"one"}


async def test_attributes_somebody_changed_are_seen_though_the_tag_stays(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """S3 makes tags of the content: new metadata show by the time only."""
    bucket = MemoryStore(content_tags=True)
    async with machines(tmp_path, bucket, "a", "b") as (a, b):
        await a.write("f", b"one")
        await _settle(a, b)
        await a.chmod("f", 0o600)
        await _settle(a, b)
        assert (await b.row("f")).mode & 0o777 == 0o600
        since = len(b.requests)
        await b.look()
        await b.look()
        assert [step for step, _ in b.requests[since:]].count("head") == 0


@pytest.mark.parametrize("kill_at", range(12))
async def test_a_crash_anywhere_loses_no_name(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, kill_at: int
) -> None:
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.write("f", b"one")
        await a.flush()
        crashed, steps = trio.Event(), 0

        async def count(step: str, key: str) -> None:
            nonlocal steps
            steps += 1
            if steps == kill_at + 1:
                a.freeze_disk()
                crashed.set()
                await trio.sleep_forever()

        await a.link("f", "g")
        await a.write("g", b"two")
        await a.rename("f", "h")
        await a.link("h", "i")
        await a.unlink("g")
        a.on_step = count
        with trio.move_on_after(60):
            await crashed.wait()
        a.on_step = None
        if crashed.is_set():
            await a.end()
        else:
            await a.crash()
        await a.start()
        await _one_file(a, "h", "i")
        assert await agree(a) == {"h": b"two", "i": b"two"}
        assert _files(bucket) == {"h": b"two", "i": b"two"}
        check_machine(a)


async def test_a_new_name_for_a_file_nobody_fetched(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """No byte of it has to pass this machine."""
    bucket.write("f", b"large", Attributes(mode=0o100644))
    async with machines(tmp_path, bucket, "a") as (a,):
        await a.list()
        await a.link("f", "g")
        await a.flush()
        assert _files(bucket) == {"f": b"large", "g": b"large"}
        assert not [step for step, _ in a.requests if step == "fetch"]


@pytest.mark.parametrize("by", ["removed", "replaced"])
async def test_what_was_never_fetched_comes_from_another_name(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, by: str
) -> None:
    """An edit in the middle of a file whose own item somebody takes away before it is sent."""
    async with machines(tmp_path, bucket, "b", "a") as (b, a):
        await b.write("f", b"0123456789")
        await b.link("f", "g")
        await _settle(b, a)
        await _one_file(a, "f", "g")
        await a.patch("f", 2, b"ab")
        if by == "removed":
            bucket.remove("f")
        else:
            bucket.write("f", b"foreign")
        shown = await agree(a)
        assert shown["g"] == b"01ab456789"
        if by == "removed":
            assert shown == {"f": b"01ab456789", "g": b"01ab456789"}
        else:
            assert set(shown.values()) == {b"foreign", b"01ab456789"}
            assert shown["f"] == b"foreign"


async def test_a_name_beside_a_directory_stays_where_it_is(
    tmp_path: Path, flat: MemoryStore, autojump_clock: MockClock
) -> None:
    """Its key is not its name; another machine's chmod is no reason to rename the object."""
    flat.write("x", b"file")
    flat.write("x/in", b"in the directory")
    async with machines(tmp_path, flat, "a", "b") as (a, b):
        await a.look()
        await a.link("x％f", "y")  # noqa: RUF001
        await _settle(a, b)
        await _one_file(b, "x％f", "y")  # noqa: RUF001
        await b.chmod("y", 0o600)
        await _settle(b, a)
        assert (await a.row("y")).mode & 0o777 == 0o600
        assert _files(flat) == {"x": b"file", "x/in": b"in the directory", "y": b"file"}


async def test_a_name_made_while_the_file_is_uploaded_is_a_name_everywhere(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """The request had gone without a word of further names."""
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):

        async def slow(step: str, key: str) -> None:
            if step == "put:commit":
                await trio.sleep(3)

        a.on_step = slow
        await a.write("f", b"content")
        await trio.sleep(1)
        await a.link("f", "g")
        await trio.sleep(10)
        a.on_step = None
        await _settle(a, b)
        await _one_file(a, "f", "g")
        await b.show()
        await _one_file(b, "f", "g")
