"""The mount's side with real child processes."""

import hashlib
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from csyncfs.backends.base import Backend, Source, Writing
from csyncfs.errors import (
    AccessDenied,
    Ambiguous,
    ConfigError,
    CsyncError,
    NotFound,
    Offline,
    Retry,
    Superseded,
)
from csyncfs.transfer.client import TransferClient
from csyncfs.types import (
    ABSENT,
    Attributes,
    Item,
    Kind,
    Location,
    RemoteVersion,
    Span,
)
from tests.support.transfer import TEST_CHILD, through_transfer
from tests.support.transfer_child import BIG, FILE

FILE_AT, BIG_AT, NEW = Location("file"), Location("big"), Location("new")
WRITING = Writing(Attributes(mode=0o100644, uid=1), "put-id", "device")


@asynccontextmanager
async def faulty(**options: str | float | bool) -> AsyncGenerator[TransferClient, None]:
    """A client of the test child; connected, with the fault armed from then on."""
    with trio.fail_after(30):
        async with through_transfer("memory:", options, command=TEST_CHILD) as client:
            yield client


async def put(
    client: Backend, content: bytes, *, confirm: Callable[[], Awaitable[bool]] | None = None
) -> Item:
    async def yes() -> bool:
        return True

    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        source = Source(file.fileno(), len(content), confirm or yes)
        return await client.put(
            NEW, source, WRITING, ABSENT, resume=None, save_resume=lambda _state: None
        )


async def fetched(client: Backend, location: Location) -> bytes:
    item = await client.head(location, Kind.FILE)
    assert item.version is not None
    with tempfile.TemporaryFile() as file:
        span = Span(0, item.version.size)
        await client.fetch(location, span, file.fileno(), item.version, lambda _span: None)
        return os.pread(file.fileno(), item.version.size + 1, 0)


async def test_every_call_gives_what_the_backend_gives() -> None:
    async with faulty() as client:
        backend: Backend = client
        capabilities = await backend.connect()
        assert client.capabilities == capabilities
        assert capabilities.name.startswith("memory")
        page = await backend.list_page(Location(""), None)
        assert [item.location.key for item in page.items] == ["big", "file"]
        assert await fetched(backend, FILE_AT) == FILE
        item = await put(backend, b"new")
        assert item.attributes == WRITING.attributes
        assert item.put_id == "put-id"
        assert item == await backend.head(NEW, Kind.FILE)
        assert item.version is not None
        changed = await backend.set_attributes(NEW, Kind.FILE, WRITING, item.version)
        assert changed.version is not None
        copied = await backend.copy(NEW, Location("copy"), WRITING, changed.version, ABSENT)
        assert copied.version is not None
        assert await fetched(backend, copied.location) == b"new"
        await backend.delete(NEW, Kind.FILE, changed.version)
        with pytest.raises(NotFound):
            await backend.head(NEW, Kind.FILE)
        assert (await backend.make_dir(Location("d/"), WRITING)).kind is Kind.DIR
        await backend.abandon("{}")
        assert await backend.space() is None
        assert client.online
        assert client.counters.failed == 1


async def test_directories_move() -> None:
    async with faulty(real_dirs=True) as client:
        await client.make_dir(Location("d/"), WRITING)
        moved = await client.move(Location("d/"), Location("e/"), Kind.DIR, None, ABSENT)

        assert moved.location == Location("e/")


async def test_spans_arrive_in_order_and_before_the_item() -> None:
    async with faulty(block_s=0.002) as client:
        version = (await client.head(BIG_AT, Kind.FILE)).version
        assert version is not None
        spans: list[Span] = []
        with tempfile.TemporaryFile() as file:
            await client.fetch(BIG_AT, Span(0, len(BIG)), file.fileno(), version, spans.append)
            assert os.pread(file.fileno(), len(BIG) + 1, 0) == BIG

        assert [s.start for s in spans] == [0, *(s.end for s in spans[:-1])]
        assert spans[-1].end == len(BIG)
        assert len(spans) > 1


async def test_resume_states_arrive() -> None:
    states: list[str] = []

    async def yes() -> bool:
        return True

    async with faulty() as client:
        with tempfile.TemporaryFile() as file:
            file.truncate(20 << 20)
            source = Source(file.fileno(), 20 << 20, yes)
            await client.put(NEW, source, WRITING, ABSENT, resume=None, save_resume=states.append)

    assert states


async def test_a_refused_commit_is_superseded() -> None:
    async def no() -> bool:
        return False

    async with faulty() as client:
        with pytest.raises(Superseded):
            await put(client, b"x", confirm=no)
        with pytest.raises(NotFound):
            await client.head(NEW, Kind.FILE)


class Oops(Exception):
    pass


async def test_an_exception_in_confirm_stops_the_put_and_comes_back() -> None:
    async def confirm() -> bool:
        raise Oops

    async with faulty() as client:
        with pytest.raises(Oops):
            await put(client, b"x", confirm=confirm)
        with pytest.raises(NotFound):
            await client.head(NEW, Kind.FILE)
        assert (await client.stats())["running"] == 1


async def test_an_exception_in_landed_stops_that_fetch_only() -> None:
    def landed(_span: Span) -> None:
        raise Oops

    async with faulty(block_s=0.005) as client:
        version = (await client.head(BIG_AT, Kind.FILE)).version
        assert version is not None
        with tempfile.TemporaryFile() as file, pytest.raises(Oops):
            await client.fetch(BIG_AT, Span(0, len(BIG)), file.fileno(), version, landed)

        assert await fetched(client, FILE_AT) == FILE
        assert client.restarts == 0


# Cancellation --------------------------------------------------------------------------


async def cancelled_fetch(client: TransferClient, fd: int) -> float:
    """Fetch ``big``, cancelled when the first bytes have landed; how long that took."""
    version = (await client.head(BIG_AT, Kind.FILE)).version
    assert version is not None
    began = 0.0
    with trio.CancelScope() as scope:

        def landed(_span: Span) -> None:
            nonlocal began
            began = began or trio.current_time()
            scope.cancel()

        await client.fetch(BIG_AT, Span(0, len(BIG)), fd, version, landed)
    assert scope.cancelled_caught
    return trio.current_time() - began


def digest(fd: int) -> str:
    return hashlib.sha256(os.pread(fd, len(BIG), 0)).hexdigest()


async def assert_settled(fd: int) -> None:
    """The content does not change any more: over 100 ms, which is 100 late writes."""
    before = digest(fd)
    deadline = trio.current_time() + 0.1
    while trio.current_time() < deadline:
        await trio.sleep(0.01)
        assert digest(fd) == before


async def test_after_cancellation_nothing_is_written() -> None:
    async with faulty(block_s=0.005) as client:
        with tempfile.TemporaryFile() as file:
            await cancelled_fetch(client, file.fileno())
            await assert_settled(file.fileno())

        assert await fetched(client, FILE_AT) == FILE
        assert client.restarts == 0
        assert client.counters.cancelled == 1


async def test_cancellation_waits_for_a_writer_that_cannot_be_stopped() -> None:
    async with faulty(stubborn_s=0.5) as client:
        with tempfile.TemporaryFile() as file:
            waited_s = await cancelled_fetch(client, file.fileno())
            await assert_settled(file.fileno())

        assert waited_s > 0.3
        assert client.restarts == 0


async def test_a_writer_that_does_not_stop_in_time_is_killed() -> None:
    async with faulty(stubborn_s=60) as client:
        with tempfile.TemporaryFile() as file:
            waited_s = await cancelled_fetch(client, file.fileno())
            await assert_settled(file.fileno())

        assert waited_s < 4
        assert await fetched(client, FILE_AT) == FILE
        assert client.restarts == 1


async def test_a_cancelled_read_without_descriptor_returns_at_once() -> None:
    async with faulty(hang="head") as client:
        await client.connect()
        with trio.move_on_after(0.05) as scope:
            await client.head(FILE_AT, Kind.FILE)

        assert scope.cancelled_caught
        assert (await client.stats())["running"] == 1


async def test_cancelling_while_the_child_is_down_returns() -> None:
    async with faulty() as client:
        await client.connect()
        await client.kill()
        with trio.move_on_after(0) as scope:
            await client.head(FILE_AT, Kind.FILE)

        assert scope.cancelled_caught


# Death of the child --------------------------------------------------------------------

VERSION = RemoteVersion("v1", len(FILE), 1_700_000_001 * 10**9)


async def call_fetch(client: TransferClient) -> Any:
    with tempfile.TemporaryFile() as file:
        span = Span(0, len(FILE))
        return await client.fetch(FILE_AT, span, file.fileno(), VERSION, lambda _span: None)


DEADLY: list[tuple[str, type[Retry], Callable[[TransferClient], Awaitable[Any]]]] = [
    ("connect", Offline, lambda c: c.connect()),
    ("list_page", Offline, lambda c: c.list_page(Location(""), None)),
    ("head", Offline, lambda c: c.head(FILE_AT, Kind.FILE)),
    ("fetch", Offline, call_fetch),
    ("fetch:bytes", Offline, call_fetch),
    ("put", Ambiguous, lambda c: put(c, b"x")),
    ("put:commit", Ambiguous, lambda c: put(c, b"x")),
    ("put:done", Ambiguous, lambda c: put(c, b"x")),
    ("abandon", Offline, lambda c: c.abandon("{}")),
    (
        "set_attributes",
        Ambiguous,
        lambda c: c.set_attributes(FILE_AT, Kind.FILE, WRITING, VERSION),
    ),
    ("make_dir", Offline, lambda c: c.make_dir(Location("d/"), WRITING)),
    ("copy", Ambiguous, lambda c: c.copy(FILE_AT, NEW, WRITING, VERSION, ABSENT)),
    ("move", Ambiguous, lambda c: c.move(FILE_AT, NEW, Kind.FILE, VERSION, ABSENT)),
    ("delete", Ambiguous, lambda c: c.delete(FILE_AT, Kind.FILE, VERSION)),
    ("space", Offline, lambda c: c.space()),
]


@pytest.mark.parametrize(("step", "error", "call"), DEADLY, ids=[row[0] for row in DEADLY])
async def test_a_call_whose_child_is_killed_fails_as_try_again(
    step: str, error: type[Retry], call: Callable[[TransferClient], Awaitable[Any]]
) -> None:
    async with faulty(die=step, real_dirs=True) as client:
        first = client.stats()
        assert (await first)["running"] == 1
        pid = client.pid
        with pytest.raises(Retry) as caught:
            await call(client)

        assert type(caught.value) is error
        assert (await client.stats())["served"] == 0
        assert client.pid not in {None, pid}
        assert client.restarts == 1


async def test_all_calls_under_way_fail_and_later_ones_succeed() -> None:
    errors: list[type[BaseException]] = []

    async def head(client: TransferClient) -> None:
        try:
            await client.head(FILE_AT, Kind.FILE)
        except Offline as exc:
            errors.append(type(exc))

    async with faulty(hang="head") as client:
        await client.connect()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(head, client)
            await running(client, 21)
            await client.kill()

        assert errors == [Offline] * 20
        assert not client.online
        assert "ended" in (client.last_error or "")
        assert len((await client.list_page(Location(""), None)).items) == 2
        assert client.online
        assert client.last_error is None


async def running(client: TransferClient, count: int) -> None:
    """Return when the child has so many requests under way, the asking one included."""
    while (await client.stats())["running"] != count:
        await trio.lowlevel.checkpoint()


async def test_a_new_child_is_connected_before_it_serves_and_knows_the_memo() -> None:
    async with faulty() as client:
        known = await client.connect()
        assert client.memo == "+"
        await client.kill()
        assert client.capabilities == known
        await client.head(FILE_AT, Kind.FILE)

        assert client.memo == "++"


async def test_calls_fail_as_offline_when_no_child_comes_up() -> None:
    command = (sys.executable, "-c", "raise SystemExit(3)")
    async with through_transfer("memory:", {}, command=command) as client:
        with trio.fail_after(10):
            while client.restarts < 4:
                began = trio.current_time()
                with pytest.raises(Offline):
                    await client.head(FILE_AT, Kind.FILE)
                assert trio.current_time() - began < 3
        restarts_at = trio.current_time()
        with trio.fail_after(10):
            while client.restarts < 5:
                with pytest.raises(Offline):
                    await client.head(FILE_AT, Kind.FILE)

        # The pauses before the starts: 0, 0.1, 0.2, 0.4, 0.8 s.
        assert trio.current_time() - restarts_at > 0.5


async def test_a_command_that_cannot_be_started_is_offline() -> None:
    async with through_transfer("memory:", {}, command=("/nonexistent",)) as client:
        with pytest.raises(Offline, match="cannot start"):
            await client.head(FILE_AT, Kind.FILE)


async def test_a_stopped_child_is_found_out_and_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csyncfs.transfer.link._PING_EVERY_S", 0.2)
    monkeypatch.setattr("csyncfs.transfer.link._PONG_S", 5.0)
    async with faulty(freeze="head") as client:
        await client.connect()
        with pytest.raises(Offline):
            await client.head(FILE_AT, Kind.FILE)

        assert len((await client.list_page(Location(""), None)).items) == 2


async def test_a_slow_but_living_child_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csyncfs.transfer.link._PING_EVERY_S", 0.02)
    async with faulty(hang="head") as client:
        await client.connect()
        with trio.move_on_after(0.5):
            await client.head(FILE_AT, Kind.FILE)

        assert client.restarts == 0


async def test_a_child_that_talks_nonsense_is_replaced(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    mark = tmp_path / "mark"
    script.write_text(
        "import os, sys, time, runpy\n"
        f"if not os.path.exists({str(mark)!r}):\n"
        f"    open({str(mark)!r}, 'w').close()\n"
        "    os.write(int(sys.argv[1]), b'\\x01\\x00\\x00\\x00\\xff')\n"
        "    time.sleep(60)\n"
        f"sys.argv[0] = {TEST_CHILD[1]!r}\n"
        f"runpy.run_path({TEST_CHILD[1]!r}, run_name='__main__')\n"
    )
    command = (sys.executable, str(script))
    with trio.fail_after(20):
        async with through_transfer("memory:", {}, command=command) as client:
            with pytest.raises(Offline):
                await client.connect()
            await client.connect()

            assert client.restarts == 1


# Start and end -------------------------------------------------------------------------


async def test_run_starts_without_waiting_for_the_child() -> None:
    client = TransferClient("memory:", {}, command=TEST_CHILD)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        assert client.capabilities is None
        assert not client.online
        nursery.cancel_scope.cancel()


async def test_aclose_ends_the_child_and_run() -> None:
    client = TransferClient("memory:", {}, command=TEST_CHILD)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        await client.connect()
        pid = client.pid
        assert pid is not None
        with trio.fail_after(2):
            await client.aclose()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(Offline):
        await client.head(FILE_AT, Kind.FILE)


async def test_a_cancelled_run_leaves_no_process() -> None:
    client = TransferClient("memory:", {}, command=TEST_CHILD)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        await client.connect()
        pid = client.pid
        with trio.fail_after(3):
            nursery.cancel_scope.cancel()
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()


async def test_bad_specs_and_options_are_config_errors() -> None:
    for spec, options in (
        ("gopher://x", {}),
        ("file://relative", {}),
        ("file:///tmp", {"secret": "x"}),
        ("s3://", {}),
        ("s3://key:secret@bucket", {}),
        ("s3://bucket", {"part_size_bytes": "many"}),
    ):
        async with through_transfer(spec, options) as client:
            with pytest.raises(ConfigError):
                await client.connect()


async def test_an_s3_store_that_does_not_answer_is_offline() -> None:
    env = {**os.environ, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    options = {"endpoint": "http://127.0.0.1:9", "region": "us-east-1", "addressing": "path"}
    async with through_transfer("s3://bucket/prefix", options, env=env, memo="{}") as client:
        with pytest.raises(Offline):
            await client.connect()

        assert client.memo == "{}"
        assert (await client.stats())["guard"]["errors"] == {"Offline": 1}


async def test_a_descriptor_that_is_closed_fails_only_that_call() -> None:
    async with faulty() as client:
        with pytest.raises(Retry, match="descriptor"):
            await client.fetch(FILE_AT, Span(0, 1), 9999, VERSION, lambda _span: None)

        assert await fetched(client, FILE_AT) == FILE


async def test_a_directory_with_undecodable_names_is_listed(tmp_path: Path) -> None:
    name = b"caf\xe9"
    (Path(os.fsdecode(bytes(tmp_path) + b"/" + name))).write_bytes(b"content")
    async with through_transfer(f"file://{tmp_path}", {}) as client:
        await client.connect()
        page = await client.list_page(Location(""), None)
        assert [os.fsencode(item.location.key) for item in page.items] == [name]
        assert await fetched(client, page.items[0].location) == b"content"


async def test_errors_of_the_store_come_as_they_are(tmp_path: Path) -> None:
    async with through_transfer(f"file://{tmp_path}/gone", {}) as client:
        with pytest.raises(CsyncError) as caught:
            await client.connect()

        assert type(caught.value).__name__ in {"NoSuchStore", AccessDenied.__name__}


async def test_a_thousand_calls_leak_no_descriptor_on_either_side() -> None:
    def count(pid: int | str) -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    async with faulty() as client:
        await client.connect()
        await fetched(client, FILE_AT)
        assert client.pid is not None
        before = count("self"), count(client.pid)
        for _ in range(350):
            await fetched(client, FILE_AT)
            with pytest.raises(NotFound):
                await client.head(NEW, Kind.FILE)

        assert (count("self"), count(client.pid)) == before
