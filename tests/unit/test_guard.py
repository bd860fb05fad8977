"""The guard: lanes, deadlines, the throttle gate, classification, counters."""

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from csyncfs.backends.base import Landed, SaveResume, Source, Writing
from csyncfs.backends.guard import GuardedBackend, Limits
from csyncfs.backends.memory import MemoryBackend, MemoryStore
from csyncfs.errors import (
    AccessDenied,
    Ambiguous,
    ConfigError,
    NotFound,
    Offline,
    Retry,
    Throttled,
)
from csyncfs.types import ABSENT, Attributes, Expect, Item, Kind, Location, RemoteVersion, Span
from tests.conformance.mount import file_of, ignore, version, writing, yes

FILE = Location("file")
Fault = Callable[[], Awaitable[None]]


class Setting:
    """A guarded memory backend that does what a test says at its steps."""

    def __init__(self, limits: Limits | None = None, *, part_bytes: int = 8 << 20) -> None:
        self.store = MemoryStore(part_bytes=part_bytes)
        self.faults: dict[str, Fault] = {}
        inner = MemoryBackend(self.store, faults=self._fault)
        self.guard = GuardedBackend(inner, limits, jitter=lambda: 1.0)

    async def _fault(self, step: str, _key: str) -> None:
        if step in self.faults:
            await self.faults[step]()

    def raises(self, step: str, error: Exception) -> None:
        async def fault() -> None:
            raise error

        self.faults[step] = fault

    def waits(self, step: str, seconds: float) -> None:
        async def fault() -> None:
            await trio.sleep(seconds)

        self.faults[step] = fault

    async def put(self, content: bytes) -> Item:
        with file_of(content) as fd:
            return await self.guard.put(
                FILE,
                Source(fd, len(content), yes),
                writing(),
                ABSENT,
                resume=None,
                save_resume=ignore,
            )

    async def fetch(self) -> None:
        expect = self.store.version("file")
        assert expect is not None
        with file_of() as fd:
            await self.guard.fetch(FILE, Span(0, expect.size), fd, expect, ignore)


async def test_calls_pass_through_and_are_counted() -> None:
    setting = Setting()
    await setting.guard.connect()
    put = await setting.put(b"content")
    await setting.fetch()
    await setting.guard.list_page(Location(""), None)
    with pytest.raises(NotFound):
        await setting.guard.head(Location("missing"), Kind.FILE)
    await setting.guard.delete(FILE, Kind.FILE, version(put))
    seen = setting.guard.snapshot()
    assert seen.calls == {
        "connect": 1, "put": 1, "fetch": 1, "list_page": 1, "head": 1, "delete": 1
    }  # fmt: skip
    assert seen.errors == {"NotFound": 1}
    assert (seen.bytes_up, seen.bytes_down) == (7, 7)
    assert seen.online


@pytest.mark.parametrize("call", ["connect", "head", "list_page", "space"])
async def test_a_call_without_an_answer_is_offline_after_its_time(
    autojump_clock: MockClock, call: str
) -> None:
    setting = Setting()
    setting.waits(call, 1e9)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "connect": setting.guard.connect,
        "head": lambda: setting.guard.head(FILE, Kind.FILE),
        "list_page": lambda: setting.guard.list_page(Location(""), None),
        "space": setting.guard.space,
    }
    with pytest.raises(Offline):
        await calls[call]()
    assert trio.current_time() == pytest.approx(30.0)


async def test_a_move_without_an_answer_is_ambiguous(autojump_clock: MockClock) -> None:
    setting = Setting()
    setting.waits("move", 1e9)
    with pytest.raises(Ambiguous):
        await setting.guard.move(FILE, Location("moved"), Kind.FILE, None, ABSENT)


async def test_a_slow_fetch_that_makes_progress_takes_its_time(
    autojump_clock: MockClock,
) -> None:
    setting = Setting()
    setting.store.write("file", b"x" * (10 << 20))
    setting.waits("fetch:bytes", 59)
    await setting.fetch()
    assert trio.current_time() == pytest.approx(590.0)
    assert setting.guard.snapshot().bytes_down == 10 << 20


async def test_a_fetch_that_stalls_is_offline(autojump_clock: MockClock) -> None:
    setting = Setting()
    setting.store.write("file", b"x" * (2 << 20))
    pauses = iter([50.0, 1e9])

    async def stall() -> None:
        await trio.sleep(next(pauses))

    setting.faults["fetch:bytes"] = stall
    with pytest.raises(Offline):
        await setting.fetch()
    assert trio.current_time() == pytest.approx(110.0)


async def test_a_put_may_take_as_long_as_its_parts_need(autojump_clock: MockClock) -> None:
    setting = Setting(Limits(stall_s=60, slowest_bytes_s=1000), part_bytes=10_000)
    # What is under way between two signs of life: all of it, at 1000 bytes a second.
    setting.waits("put:part", 89)
    await setting.put(b"x" * 30_000)
    assert trio.current_time() == pytest.approx(3 * 89.0)


async def test_a_put_that_stalls_is_offline(autojump_clock: MockClock) -> None:
    setting = Setting(Limits(stall_s=60, slowest_bytes_s=1000), part_bytes=10_000)
    setting.waits("put:part", 91)
    with pytest.raises(Offline):
        await setting.put(b"x" * 30_000)
    assert trio.current_time() == pytest.approx(90.0)


async def test_the_time_confirm_takes_is_not_the_stores(autojump_clock: MockClock) -> None:
    setting = Setting()

    async def slowly() -> bool:
        await trio.sleep(10_000)
        return True

    with file_of(b"content") as fd:
        await setting.guard.put(
            FILE, Source(fd, 7, slowly), writing(), ABSENT, resume=None, save_resume=ignore
        )
    assert setting.store.read("file") == b"content"
    setting.store.remove("file")
    setting.waits("put:commit", 1e9)
    with pytest.raises(Offline):
        await setting.put(b"content")


async def test_an_unexpected_exception_becomes_retry_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setting = Setting()
    setting.raises("head", ValueError("secret=https://signed"))
    with caplog.at_level(logging.DEBUG, "csyncfs.backends.guard"):
        for _ in range(3):
            with pytest.raises(Retry) as caught:
                await setting.guard.head(FILE, Kind.FILE)
            assert str(caught.value) == "head: unexpected ValueError"
            assert type(caught.value) is Retry
    assert len(caplog.records) == 1
    assert setting.guard.last_error == "head: unexpected ValueError"
    assert setting.guard.snapshot().errors == {"Retry": 3}


async def test_a_domain_error_out_of_a_nursery_stays_what_it_is() -> None:
    setting = Setting()
    setting.raises("head", ExceptionGroup("nursery", [AccessDenied("no")]))
    with pytest.raises(AccessDenied):
        await setting.guard.head(FILE, Kind.FILE)


@pytest.mark.parametrize("wrapped", [False, True])
async def test_what_only_the_user_can_mend_is_told_as_it_is(wrapped: bool) -> None:
    setting = Setting()
    error = ConfigError("the profile does not exist")
    setting.raises("connect", ExceptionGroup("nursery", [error]) if wrapped else error)
    with pytest.raises(ConfigError, match="the profile does not exist"):
        await setting.guard.connect()
    assert not setting.guard.online
    assert setting.guard.last_error == "the profile does not exist"
    assert setting.guard.snapshot().errors == {"ConfigError": 1}


async def test_cancellation_passes_and_counts_as_no_error(autojump_clock: MockClock) -> None:
    setting = Setting()
    setting.waits("head", 1e9)
    with trio.move_on_after(5) as scope:
        await setting.guard.head(FILE, Kind.FILE)
    assert scope.cancelled_caught
    assert setting.guard.snapshot().errors == {}


async def test_throttling_closes_the_gate_for_every_lane(autojump_clock: MockClock) -> None:
    setting = Setting()
    setting.raises("put", Throttled("slow down", 20))
    with pytest.raises(Throttled):
        await setting.put(b"content")
    assert setting.guard.snapshot().gate_closed_s == pytest.approx(20)
    await setting.guard.list_page(Location(""), None)
    assert trio.current_time() == pytest.approx(20)
    await setting.guard.space()
    assert trio.current_time() == pytest.approx(20)
    assert setting.guard.snapshot().gate_closed_s == 0


async def test_a_gate_closed_for_long_is_told_instead_of_waited_for(
    autojump_clock: MockClock,
) -> None:
    setting = Setting()
    setting.raises("put", Throttled("slow down", 10_000))
    with pytest.raises(Throttled):
        await setting.put(b"content")
    with pytest.raises(Throttled) as caught:
        await setting.guard.list_page(Location(""), None)
    # Bounded, whatever the store says.
    assert caught.value.after_s == pytest.approx(300)
    assert trio.current_time() == 0
    await trio.sleep(271)
    await setting.guard.list_page(Location(""), None)
    assert trio.current_time() == pytest.approx(300)


async def test_pauses_double_until_something_succeeds(autojump_clock: MockClock) -> None:
    setting = Setting()
    setting.raises("head", Throttled("slow down"))
    pauses: list[float] = []
    for _ in range(5):
        with pytest.raises(Throttled):
            await setting.guard.head(FILE, Kind.FILE)
        pauses.append(setting.guard.snapshot().gate_closed_s)
    assert pauses == pytest.approx([1, 2, 4, 8, 16])
    await setting.guard.list_page(Location(""), None)
    with pytest.raises(Throttled):
        await setting.guard.head(FILE, Kind.FILE)
    assert setting.guard.snapshot().gate_closed_s == pytest.approx(1)


async def test_one_refusal_of_many_calls_is_one_pause(autojump_clock: MockClock) -> None:
    setting = Setting()

    async def refuse() -> None:
        await trio.sleep(1)
        raise Throttled("slow down")

    setting.faults["head"] = refuse

    async def head() -> None:
        with pytest.raises(Throttled):
            await setting.guard.head(FILE, Kind.FILE)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(head)
    assert setting.guard.snapshot().gate_closed_s == pytest.approx(1)


async def test_a_lane_is_as_wide_as_its_limit(autojump_clock: MockClock) -> None:
    setting = Setting(Limits(foreground=3, uploads=1, control=1))
    for step in ("head", "list_page", "put", "space"):
        setting.waits(step, 1)
    done: list[tuple[str, float]] = []

    async def run(name: str, call: Callable[[], Awaitable[object]]) -> None:
        await call()
        done.append((name, trio.current_time()))

    async def head() -> None:
        with pytest.raises(NotFound):
            await setting.guard.head(FILE, Kind.FILE)

    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(run, "head", head)
        nursery.start_soon(run, "space", setting.guard.space)
        await wait_all_tasks_blocked()
    times = sorted(at for name, at in done if name == "head")
    assert times == pytest.approx([1, 1, 1, 2, 2, 2, 3])
    assert ("space", pytest.approx(1)) in done


async def test_online_follows_the_answers() -> None:
    setting = Setting()
    guard = setting.guard
    assert not guard.online
    assert guard.snapshot().last_success_s is None
    await guard.connect()
    assert guard.online
    setting.raises("list_page", Offline("no route"))
    for failures in range(1, 4):
        with pytest.raises(Offline):
            await guard.list_page(Location(""), None)
        assert guard.snapshot().consecutive_failures == failures
        assert guard.online is (failures < 3)
    assert guard.last_error == "no route"
    # "No such item" is an answer.
    with pytest.raises(NotFound):
        await guard.head(FILE, Kind.FILE)
    assert guard.online
    assert guard.last_error is None
    assert guard.snapshot().consecutive_failures == 0


class StuckOnClose(MemoryBackend):
    async def aclose(self) -> None:
        await trio.sleep_forever()


async def test_closing_ends(autojump_clock: MockClock) -> None:
    await GuardedBackend(StuckOnClose(MemoryStore())).aclose()
    assert trio.current_time() == pytest.approx(30)


class Recorder(MemoryBackend):
    """Remembers the arguments it was called with."""

    seen: tuple[object, ...] = ()

    async def put(
        self,
        location: Location,
        source: Source,
        writing: Writing,
        expect: Expect,
        *,
        resume: str | None,
        save_resume: SaveResume,
    ) -> Item:
        self.seen = (location, source.fd, source.size, writing, expect, resume)
        save_resume("saved")
        return await super().put(
            location, source, writing, expect, resume=None, save_resume=save_resume
        )

    async def fetch(
        self, location: Location, span: Span, fd: int, expect: RemoteVersion, landed: Landed
    ) -> Item:
        self.seen = (location, span, fd, expect)
        return await super().fetch(location, span, fd, expect, landed)


async def test_arguments_and_progress_arrive_unchanged() -> None:
    inner = Recorder(MemoryStore())
    guard = GuardedBackend(inner)
    stamp = writing(Attributes(mode=0o100600))
    saved: list[str] = []
    landed: list[Span] = []
    with file_of(b"content") as fd:
        item = await guard.put(
            FILE, Source(fd, 7, yes), stamp, ABSENT, resume="state", save_resume=saved.append
        )
        assert inner.seen == (FILE, fd, 7, stamp, ABSENT, "state")
        await guard.fetch(FILE, Span(2, 5), fd, version(item), landed.append)
        assert inner.seen == (FILE, Span(2, 5), fd, item.version)
    assert saved == ["saved"]
    assert landed == [Span(2, 5)]
