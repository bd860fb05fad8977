"""The store did what it was asked, nobody heard of it, and then the file was changed again: what
it did is neither somebody else's version nor a file that comes back."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import Ambiguous, Throttled
from csyncfs.types import Item, Kind, Location, RemoteVersion
from tests.support.engines import Machine, agree, is_conflict, machines, show_bucket
from tests.support.invariants import check_machine
from tests.support.length import IS_LONG


class LosesReply:
    """A network that does the next request of a kind and loses what it says, then goes dark."""

    def __init__(self, machine: Machine, step: str) -> None:
        self._machine = machine
        self._step = step
        self.lost = trio.Event()
        machine.on_step = self

    async def __call__(self, step: str, key: str) -> None:
        if step == self._step or self.lost.is_set():
            self.lost.set()
            raise Ambiguous("the reply was lost")

    def clear(self) -> None:
        self._machine.on_step = None


Act = Callable[[Machine], Awaitable[object]]


async def _rename_and_write_anew(a: Machine) -> None:
    await a.rename("f", "g")
    await a.write("f", b"another file")


async def _remove_and_write_anew(a: Machine) -> None:
    await a.unlink("f")
    await a.write("f", b"another file")


async def _rename_and_edit(a: Machine) -> None:
    await a.rename("f", "g")
    await a.patch("g", 0, b"E")


async def _there_and_back(a: Machine) -> None:
    await a.rename("f", "g")
    await a.rename("g", "f")


async def _remove_directory(a: Machine) -> None:
    await a.mkdir("d")
    await a.rename("f", "d/f")
    await a.unlink("d/f")
    await a.rmdir("d")


async def _replace_another(a: Machine) -> None:
    await a.rename("f", "other")


# What is done after the reply was lost; what there must be then, if "f" was "sent content".
SEQUELS: dict[str, tuple[Act, dict[str, bytes]]] = {
    "nothing": (lambda _: trio.sleep(0), {"f": b"sent content"}),
    "edited": (lambda a: a.patch("f", 0, b"EDIT"), {"f": b"EDIT content"}),
    "written anew": (lambda a: a.write("f", b"new"), {"f": b"new"}),
    "renamed": (lambda a: a.rename("f", "g"), {"g": b"sent content"}),
    "renamed and edited": (_rename_and_edit, {"g": b"Eent content"}),
    "renamed there and back": (_there_and_back, {"f": b"sent content"}),
    "removed": (lambda a: a.unlink("f"), {}),
    "renamed, another in its place": (
        _rename_and_write_anew,
        {"g": b"sent content", "f": b"another file"},
    ),
    "removed, another in its place": (_remove_and_write_anew, {"f": b"another file"}),
    "moved and removed with its directory": (_remove_directory, {}),
    "renamed over another": (_replace_another, {"other": b"sent content"}),
}


async def _story(
    a: Machine,
    request: Act,
    step: str,
    sequel: tuple[Act, dict[str, bytes]],
    *,
    is_dark: bool,
) -> None:
    """``request`` is sent and its reply lost; in the dark, or in broad daylight, ``sequel``
    follows."""
    await a.flush()
    network = LosesReply(a, step)
    await request(a)
    await network.lost.wait()
    if is_dark:
        await trio.sleep(3)
    else:
        network.clear()
        await trio.sleep(0.01)
    await sequel[0](a)
    await trio.sleep(20)
    network.clear()
    for _ in range(2):
        await a.look()
        await a.flush()
    expected = sequel[1]
    others = {"other": b"other"} if "other" not in expected else {}
    assert a.intents() == []
    assert await a.show() == show_bucket(a.bucket) == {**others, **expected}
    assert not [name for name in await a.list() if is_conflict(name)]
    assert a.conflicts() == []
    check_machine(a)


# The others ask the same of the code, with other words.
TELLING = (
    *("edited", "renamed", "renamed and edited", "removed", "renamed over another"),
    "renamed, another in its place",
)


@pytest.fixture(params=SEQUELS if IS_LONG else TELLING)
def sequel(request: pytest.FixtureRequest) -> tuple[Act, dict[str, bytes]]:
    return SEQUELS[request.param]


@pytest.fixture(params=[True, False], ids=["dark", "light"])
def is_dark(request: pytest.FixtureRequest) -> bool:
    return request.param


async def test_a_first_upload(
    tmp_path: Path,
    bucket: MemoryStore,
    autojump_clock: MockClock,
    sequel: tuple[Act, dict[str, bytes]],
    is_dark: bool,
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.5) as (a,):
        await a.write("other", b"other")
        await _story(
            a, lambda a: a.write("f", b"sent content"), "put:done", sequel, is_dark=is_dark
        )


async def test_an_overwrite(
    tmp_path: Path,
    bucket: MemoryStore,
    autojump_clock: MockClock,
    sequel: tuple[Act, dict[str, bytes]],
    is_dark: bool,
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.5) as (a,):
        await a.write("other", b"other")
        await a.write("f", b"what was there before")
        await _story(
            a, lambda a: a.write("f", b"sent content"), "put:done", sequel, is_dark=is_dark
        )


async def test_a_rename(
    tmp_path: Path,
    bucket: MemoryStore,
    autojump_clock: MockClock,
    sequel: tuple[Act, dict[str, bytes]],
    is_dark: bool,
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.5) as (a,):
        await a.write("other", b"other")
        await a.write("before", b"sent content")
        step = "move:done" if bucket.real_dirs else "copy:done"
        await _story(a, lambda a: a.rename("before", "f"), step, sequel, is_dark=is_dark)


async def test_a_rename_over_another(
    tmp_path: Path,
    bucket: MemoryStore,
    autojump_clock: MockClock,
    sequel: tuple[Act, dict[str, bytes]],
    is_dark: bool,
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.5) as (a,):
        await a.write("other", b"other")
        await a.write("f", b"what was there before")
        await a.write("before", b"sent content")
        step = "move:done" if bucket.real_dirs else "copy:done"
        await _story(a, lambda a: a.rename("before", "f"), step, sequel, is_dark=is_dark)


async def test_new_attributes(
    tmp_path: Path,
    bucket: MemoryStore,
    autojump_clock: MockClock,
    sequel: tuple[Act, dict[str, bytes]],
    is_dark: bool,
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.5) as (a,):
        await a.write("other", b"other")
        await a.write("f", b"sent content")
        await _story(
            a, lambda a: a.chmod("f", 0o600), "set_attributes:done", sequel, is_dark=is_dark
        )


async def test_attributes_changed_again_are_the_last_ones(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.5) as (a, b):
        await a.write("f", b"content")
        await a.flush()
        network = LosesReply(a, "set_attributes:done")
        await a.chmod("f", 0o600)
        await network.lost.wait()
        await a.chmod("f", 0o640)
        await trio.sleep(5)
        network.clear()
        await agree(a, b)
        await b.read("f")
        assert (await b.row("f")).mode & 0o777 == 0o640
        assert (await a.row("f")).mode & 0o777 == 0o640


async def test_somebody_s_file_in_its_place_is_theirs(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """The upload never took effect, the file was removed here, and another machine made one."""
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.5) as (a, b):
        await a.flush()
        network = LosesReply(a, "put")
        await a.write("f", b"ours")
        await network.lost.wait()
        await a.unlink("f")
        await b.write("f", b"theirs")
        await b.flush()
        network.clear()
        assert await agree(a, b) == {"f": b"theirs"}


async def test_a_crash_in_the_dark_forgets_nothing_of_it(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.5) as (a,):
        await a.write("f", b"before")
        await a.flush()
        network = LosesReply(a, "put:done")
        await a.write("f", b"sent content")
        await network.lost.wait()
        await a.rename("f", "g")
        await a.crash()
        network.clear()
        await a.start()
        assert await agree(a) == {"g": b"sent content"}


DIR_SEQUELS: dict[str, tuple[Act, set[str]]] = {
    "removed": (lambda a: a.rmdir("d"), set()),
    "renamed": (lambda a: a.rename("d", "e"), {"e"}),
    "nothing": (lambda _: trio.sleep(0), {"d"}),
}


@pytest.mark.parametrize("name", DIR_SEQUELS)
async def test_a_directory(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, name: str
) -> None:
    sequel, expected = DIR_SEQUELS[name]
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.5) as (a,):
        await a.list()
        network = LosesReply(a, "make_dir:done")
        await a.mkdir("d")
        await network.lost.wait()
        await sequel(a)
        await trio.sleep(20)
        network.clear()
        for _ in range(2):
            await a.look()
            await a.flush()
        assert set(show_bucket(bucket)) == set(await a.list()) == expected
        assert a.intents() == []


class HalfMakes:
    """A server that takes a directory and its attributes in two requests; the second one of the
    first time it refuses."""

    def __init__(self, machine: Machine) -> None:
        self.is_there = False
        self.refused = trio.Event()
        self._head, self._delete = machine.backend.head, machine.backend.delete
        machine.on_step = self.step
        machine.backend.head = self.head  # type: ignore[method-assign]
        machine.backend.delete = self.delete  # type: ignore[method-assign]

    async def step(self, step: str, key: str) -> None:
        if (step, key) == ("make_dir:commit", "d/") and not self.refused.is_set():
            self.is_there = True
            self.refused.set()
            raise Throttled("later")

    async def head(self, location: Location, kind: Kind, resume: str | None = None) -> Item:
        if self.is_there and location.key == "d/":
            return Item(location, Kind.DIR, None)
        return await self._head(location, kind, resume)

    async def delete(self, location: Location, kind: Kind, expect: RemoteVersion | None) -> None:
        if location.key == "d/":
            self.is_there = False
        await self._delete(location, kind, expect)


@pytest.mark.parametrize("is_made_anew", [False, True], ids=["removed", "removed twice"])
async def test_a_directory_that_was_half_made_goes(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, is_made_anew: bool
) -> None:
    """A new one of its name would have taken it over, but goes before it is made itself."""
    async with machines(tmp_path, bucket, "a", upload_delay_s=5) as (a,):
        await a.list()
        server = HalfMakes(a)
        await a.mkdir("d")
        await server.refused.wait()
        await a.rmdir("d")
        if is_made_anew:
            await a.mkdir("d")
            await trio.sleep(4)
            await a.rmdir("d")
        await a.flush()
        assert not server.is_there
        assert a.intents() == []


@pytest.mark.parametrize("step", ["make_dir", "make_dir:done"])
@pytest.mark.parametrize("is_removed_again", [False, True], ids=["stays", "removed again"])
async def test_a_directory_removed_and_made_anew(
    tmp_path: Path,
    bucket: MemoryStore,
    autojump_clock: MockClock,
    step: str,
    is_removed_again: bool,
) -> None:
    """It takes over the marker that was about to go, which does not depend on the reply."""
    async with machines(tmp_path, bucket, "a", upload_delay_s=0.5) as (a,):
        await a.mkdir("d")
        # Its DELETE comes first, and the directory's after that.
        await a.write("d/f", b"content")
        await agree(a)
        network = LosesReply(a, step)
        await a.unlink("d/f")
        for _ in range(2):
            await a.rmdir("d")
            await a.mkdir("d")
        await network.lost.wait()
        if is_removed_again:
            await a.rmdir("d")
        await trio.sleep(20)
        network.clear()
        for _ in range(2):
            await a.look()
            await a.flush()
        expected: set[str] = set() if is_removed_again else {"d"}
        assert set(show_bucket(bucket)) == set(await a.list()) == expected
        assert a.intents() == []


async def test_what_may_be_in_a_directory_goes_before_it(
    tmp_path: Path, flat: MemoryStore, autojump_clock: MockClock
) -> None:
    """Servers that keep a tree do not remove the marker of a directory with something in it."""
    steps: list[tuple[str, str]] = []

    async def note(step: str, key: str) -> None:
        steps.append((step, key))
        if (step, key) == ("head", "d/f"):
            await trio.sleep(5)

    async with machines(tmp_path, flat, "a", upload_delay_s=0.5) as (a,):
        await a.mkdir("d")
        await a.write("d/other", b"other")
        await agree(a)
        network = LosesReply(a, "put:done")
        await a.write("d/f", b"sent content")
        await network.lost.wait()
        await a.rename("d", "e")
        await trio.sleep(20)
        a.on_step = note
        await agree(a)
        assert flat.keys() == ["e/", "e/f", "e/other"]
        deletes = [key for step, key in steps if step == "delete"]
        assert deletes.index("d/") > deletes.index("d/f")
        check_machine(a)
