"""The hosting side, in this process: one request, one reply, nothing after it."""

import os
import socket
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from csyncfs.backends.base import Backend, Landed
from csyncfs.backends.memory import MemoryBackend, MemoryStore
from csyncfs.errors import ConfigError
from csyncfs.transfer.channel import Channel
from csyncfs.transfer.faults import Fault
from csyncfs.transfer.messages import (
    PROTOCOL,
    AskConfirm,
    AskSpace,
    AskStats,
    Cancel,
    Cancelled,
    ConfirmAnswer,
    Connect,
    Connected,
    Done,
    Failed,
    Fetch,
    GotItem,
    GotStats,
    Head,
    Ping,
    Put,
    Reply,
    Start,
    ToClient,
    to_client,
)
from csyncfs.transfer.messages import (
    Landed as LandedMessage,
)
from csyncfs.transfer.server import Hosted, serve, serve_spec
from csyncfs.types import ABSENT, Attributes, Item, Kind, Location, RemoteVersion, Space, Span

FILE = Location("file")


class Peer:
    """The mount's end of the socket, by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.channel: Channel[ToClient] = Channel(sock, to_client, takes_fds=False)
        self._got: list[ToClient] = []

    async def next(self) -> ToClient:
        while not self._got:
            self._got = await self.channel.receive()
            assert self._got, "the server is gone"
        return self._got.pop(0)

    async def until_reply(self) -> list[ToClient]:
        got = [await self.next()]
        while not isinstance(got[-1], Reply):
            got.append(await self.next())
        return got


@asynccontextmanager
async def peer_of(
    service: Callable[[socket.socket], Awaitable[None]],
) -> AsyncGenerator[Peer, None]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    peer = Peer(ours)
    with trio.fail_after(10):
        async with trio.open_nursery() as writing:
            writing.start_soon(peer.channel.run_writer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service, theirs)
                yield peer
                peer.channel.end_sending()
            writing.cancel_scope.cancel()
    peer.channel.close()


@asynccontextmanager
async def serving(backend: Backend) -> AsyncGenerator[Peer, None]:
    async with peer_of(lambda sock: serve(sock, Hosted(backend))) as peer:
        yield peer


def store_with_file(content: bytes = b"content") -> MemoryStore:
    store = MemoryStore()
    store.write("file", content)
    return store


def version_of(store: MemoryStore) -> RemoteVersion:
    version = store.version("file")
    assert version is not None
    return version


async def hang(step: str, _key: str) -> None:
    if step != "connect":
        await trio.sleep_forever()


class Lander(MemoryBackend):
    """Announces what a test tells it to."""

    def __init__(self, announce: Callable[[Landed], Awaitable[None]]) -> None:
        super().__init__(store_with_file())
        self._announce = announce

    async def fetch(
        self, location: Location, span: Span, fd: int, expect: RemoteVersion, landed: Landed
    ) -> Item:
        await self._announce(landed)
        return await self.head(location, Kind.FILE)


async def landed_messages(announce: Callable[[Landed], Awaitable[None]]) -> list[Span]:
    backend = Lander(announce)
    with tempfile.TemporaryFile() as file:
        async with serving(backend) as peer:
            request = Fetch(1, FILE, Span(0, 1), version_of(backend.store))
            peer.channel.send_nowait(request, file.fileno())
            *progress, reply = await peer.until_reply()
    assert isinstance(reply, GotItem)
    assert all(isinstance(message, LandedMessage) for message in progress)
    return [Span(m.start, m.end) for m in progress if isinstance(m, LandedMessage)]


async def test_neighbouring_blocks_are_told_together(autojump_clock: Any) -> None:
    async def announce(landed: Landed) -> None:
        for start in range(0, 1000, 10):
            landed(Span(start, start + 10))

    assert await landed_messages(announce) == [Span(0, 10), Span(10, 1000)]


async def test_blocks_with_a_gap_are_told_apart(autojump_clock: Any) -> None:
    async def announce(landed: Landed) -> None:
        for start in range(0, 100, 20):
            landed(Span(start, start + 10))

    assert await landed_messages(announce) == [Span(s, s + 10) for s in range(0, 100, 20)]


async def test_a_full_mebibyte_is_told_without_waiting(autojump_clock: Any) -> None:
    block = 256 << 10

    async def announce(landed: Landed) -> None:
        for start in range(0, 9 * block, block):
            landed(Span(start, start + block))

    told = await landed_messages(announce)

    assert told == [
        Span(0, block),
        Span(block, 5 * block),
        Span(5 * block, 9 * block),
    ]


async def test_what_landed_before_a_pause_is_told_during_it() -> None:
    backend = Lander(two_then_wait)
    with tempfile.TemporaryFile() as file:
        async with serving(backend) as peer:
            request = Fetch(1, FILE, Span(0, 1), version_of(backend.store))
            peer.channel.send_nowait(request, file.fileno())

            assert await peer.next() == LandedMessage(1, 0, 10)
            assert await peer.next() == LandedMessage(1, 10, 20)
            peer.channel.send_nowait(Cancel(1))
            assert await peer.until_reply() == [Cancelled(1)]


async def two_then_wait(landed: Landed) -> None:
    landed(Span(0, 10))
    landed(Span(10, 20))
    await trio.sleep_forever()


async def test_what_landed_is_told_before_the_failure(autojump_clock: Any) -> None:
    async def announce(landed: Landed) -> None:
        landed(Span(0, 10))
        landed(Span(10, 20))
        raise ConfigError("broken")

    backend = Lander(announce)
    with tempfile.TemporaryFile() as file:
        async with serving(backend) as peer:
            request = Fetch(1, FILE, Span(0, 1), version_of(backend.store))
            peer.channel.send_nowait(request, file.fileno())

            assert await peer.until_reply() == [
                LandedMessage(1, 0, 10),
                LandedMessage(1, 10, 20),
                Failed(1, Fault("ConfigError", "broken")),
            ]


async def test_a_cancel_in_the_same_batch_as_its_request_counts() -> None:
    async with serving(MemoryBackend(store_with_file(), faults=hang)) as peer:
        peer.channel.send_nowait(Head(1, FILE, Kind.FILE, None))
        peer.channel.send_nowait(Cancel(1))

        assert await peer.next() == Cancelled(1)


async def test_a_cancel_that_comes_too_late_is_ignored() -> None:
    async with serving(MemoryBackend(store_with_file())) as peer:
        peer.channel.send_nowait(Head(1, FILE, Kind.FILE, None))
        assert isinstance(await peer.next(), GotItem)
        peer.channel.send_nowait(Cancel(1))
        peer.channel.send_nowait(Ping(2))

        assert await peer.next() == Done(2)


async def test_a_cancel_is_acknowledged_only_when_the_backend_has_returned() -> None:
    entered, may_return = trio.Event(), trio.Event()

    async def stubborn(landed: Landed) -> None:
        entered.set()
        with trio.CancelScope(shield=True):
            await may_return.wait()

    backend = Lander(stubborn)
    with tempfile.TemporaryFile() as file:
        async with serving(backend) as peer:
            request = Fetch(1, FILE, Span(0, 1), version_of(backend.store))
            peer.channel.send_nowait(request, file.fileno())
            await entered.wait()
            peer.channel.send_nowait(Cancel(1))
            peer.channel.send_nowait(Ping(2))
            assert await peer.next() == Done(2)
            await trio.testing.wait_all_tasks_blocked()
            peer.channel.send_nowait(Ping(3))
            assert await peer.next() == Done(3)

            may_return.set()
            assert isinstance(await peer.next(), Cancelled)


def put(size: int) -> Put:
    return Put(1, FILE, size, Attributes(), "id", "me", expect=ABSENT, resume=None, content=None)


@pytest.mark.parametrize("answer", [True, False])
async def test_the_clients_answer_decides_the_commit(answer: bool) -> None:
    store = MemoryStore()
    with tempfile.TemporaryFile() as file:
        file.write(b"new")
        file.flush()
        async with serving(MemoryBackend(store)) as peer:
            peer.channel.send_nowait(put(3), file.fileno())
            assert await peer.next() == AskConfirm(1)
            assert store.keys() == []
            peer.channel.send_nowait(ConfirmAnswer(1, answer))
            reply = await peer.next()

    if answer:
        assert isinstance(reply, GotItem)
        assert store.read("file") == b"new"
    else:
        assert isinstance(reply, Failed)
        assert reply.fault.kind == "Superseded"
        assert store.keys() == []


async def test_a_cancelled_put_does_not_wait_for_its_answer() -> None:
    store = MemoryStore()
    with tempfile.TemporaryFile() as file:
        async with serving(MemoryBackend(store)) as peer:
            peer.channel.send_nowait(put(0), file.fileno())
            assert await peer.next() == AskConfirm(1)
            peer.channel.send_nowait(Cancel(1))
            assert await peer.next() == Cancelled(1)
            peer.channel.send_nowait(ConfirmAnswer(1, True))
            peer.channel.send_nowait(Ping(2))
            assert await peer.next() == Done(2)

    assert store.keys() == []


async def broken(step: str, _key: str) -> None:
    if step in {"head", "put"}:
        raise KeyError("https://host/?X-Amz-Signature=secret")


async def test_a_bug_in_a_backend_fails_one_request_and_tells_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with tempfile.TemporaryFile() as file:
        async with serving(MemoryBackend(MemoryStore(), faults=broken)) as peer:
            peer.channel.send_nowait(Head(1, FILE, Kind.FILE, None))
            head = await peer.next()
            peer.channel.send_nowait(put(0), file.fileno())
            written = await peer.next()

    assert isinstance(head, Failed)
    assert isinstance(written, Failed)
    assert head.fault.kind == "Retry"
    assert written.fault.kind == "Ambiguous"
    assert "KeyError" in head.fault.message
    assert len(caplog.records) == 2
    assert "secret" not in caplog.text + head.fault.message


class Boundless(MemoryBackend):
    async def space(self) -> Space | None:
        return Space(1 << 80, 0)


async def test_a_reply_that_cannot_be_sent_fails_that_request_only() -> None:
    async with serving(Boundless(store_with_file())) as peer:
        peer.channel.send_nowait(AskSpace(1))
        reply = await peer.next()
        assert isinstance(reply, Failed)
        assert reply.fault.kind == "Retry"
        peer.channel.send_nowait(Head(2, FILE, Kind.FILE, None))

        assert isinstance(await peer.next(), GotItem)


async def test_descriptors_are_closed_after_each_request() -> None:
    backend = MemoryBackend(store_with_file())
    version = version_of(backend.store)
    with tempfile.TemporaryFile() as file:
        async with serving(backend) as peer:
            before = len(os.listdir("/proc/self/fd"))
            for number in range(50):
                request = Fetch(number, FILE, Span(0, 7), version)
                peer.channel.send_nowait(request, file.fileno())
                await peer.until_reply()

            assert len(os.listdir("/proc/self/fd")) == before
        assert os.pread(file.fileno(), 100, 0) == b"content"


class Closing(MemoryBackend):
    async def aclose(self) -> None:
        self.was_closed = True


async def test_eof_cancels_requests_and_closes_the_backend() -> None:
    backend = Closing(store_with_file(), faults=hang)
    async with serving(backend) as peer:
        peer.channel.send_nowait(Head(1, FILE, Kind.FILE, None))
        peer.channel.send_nowait(Ping(2))
        await peer.next()

    assert backend.was_closed


async def test_requests_wait_for_the_backend_to_be_made_and_can_be_cancelled() -> None:
    may_go_on = trio.Event()

    async def make(_start: Start) -> Hosted:
        await may_go_on.wait()
        return Hosted(MemoryBackend(store_with_file()))

    async with peer_of(lambda sock: serve_spec(sock, make, lambda: None)) as peer:
        peer.channel.send_nowait(Start(PROTOCOL, "memory:", {}, None))
        peer.channel.send_nowait(Head(1, FILE, Kind.FILE, None))
        peer.channel.send_nowait(Head(2, FILE, Kind.FILE, None))
        peer.channel.send_nowait(Cancel(2))
        assert await peer.next() == Cancelled(2)
        may_go_on.set()

        assert isinstance(await peer.next(), GotItem)


@pytest.mark.parametrize(("protocol", "told"), [(PROTOCOL, "no such store"), (0, "upgraded")])
async def test_a_backend_that_cannot_be_made_refuses_every_request(
    protocol: int, told: str
) -> None:
    async def make(_start: Start) -> Hosted:
        raise ConfigError("no such store")

    async with peer_of(lambda sock: serve_spec(sock, make, lambda: None)) as peer:
        peer.channel.send_nowait(Start(protocol, "x:", {}, None))
        peer.channel.send_nowait(Connect(1))
        reply = await peer.next()

    assert isinstance(reply, Failed)
    assert reply.fault.kind == "ConfigError"
    assert told in reply.fault.message


async def test_connect_brings_the_memo_as_it_is_afterwards() -> None:
    memos = iter(["first", "second"])
    hosted = Hosted(MemoryBackend(MemoryStore()), memo=lambda: next(memos))
    async with peer_of(lambda sock: serve(sock, hosted)) as peer:
        for number, memo in enumerate(["first", "second"]):
            peer.channel.send_nowait(Connect(number))
            reply = await peer.next()
            assert isinstance(reply, Connected)
            assert reply.memo == memo


async def test_stats_hold_the_counters_of_the_guard() -> None:
    hosted = Hosted(MemoryBackend(store_with_file()), counters=lambda: {"retries": 3})
    async with peer_of(lambda sock: serve(sock, hosted)) as peer:
        peer.channel.send_nowait(Head(1, FILE, Kind.FILE, None))
        await peer.next()
        peer.channel.send_nowait(AskStats(2))
        reply = await peer.next()

    assert reply == GotStats(2, {"running": 1, "served": 1, "guard": {"retries": 3}})
