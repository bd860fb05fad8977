"""Frames and descriptors on a real socket pair."""

import os
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from csyncfs.transfer.channel import Channel
from csyncfs.transfer.faults import ProtocolError
from csyncfs.transfer.messages import (
    Cancel,
    Done,
    Fetch,
    GotPage,
    ToClient,
    ToServer,
    encode,
    to_client,
    to_server,
)
from csyncfs.types import Item, Kind, Location, Page, RemoteVersion, Span

VERSION = RemoteVersion("t", 1, 2)


def fetch(number: int) -> Fetch:
    return Fetch(number, Location(f"key{number}"), Span(0, 1), VERSION)


@asynccontextmanager
async def channel_pair() -> AsyncGenerator[tuple[Channel[ToClient], Channel[ToServer]], None]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    client = Channel[ToClient](ours, to_client, takes_fds=False)
    server = Channel[ToServer](theirs, to_server, takes_fds=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run_writer)
        nursery.start_soon(server.run_writer)
        yield client, server
        nursery.cancel_scope.cancel()
    client.close()
    server.close()


async def test_descriptors_arrive_with_their_messages(tmp_path: Path) -> None:
    """More than one system call can carry, mixed with messages that have none."""
    async with channel_pair() as (client, server):
        for number in range(300):
            fd = os.open(tmp_path / f"{number}", os.O_CREAT | os.O_RDWR)
            client.send_nowait(fetch(number), fd)
            os.close(fd)
            client.send_nowait(Cancel(number))
        seen: list[int] = []
        while len(seen) < 300:
            for message in await server.receive():
                if isinstance(message, Fetch):
                    fd = server.take_fd()
                    assert os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path / f"{message.id}")
                    assert not os.get_inheritable(fd)
                    os.close(fd)
                    seen.append(message.id)

        assert seen == list(range(300))


async def test_a_frame_larger_than_every_buffer_arrives() -> None:
    items = tuple(Item(Location(f"{n:01024d}"), Kind.FILE, VERSION) for n in range(3000))
    async with channel_pair() as (client, server):
        server.send_nowait(GotPage(1, Page(items, None)))
        server.send_nowait(Done(2))
        got: list[ToClient] = []
        while len(got) < 2:
            got += await client.receive()

        assert got == [GotPage(1, Page(items, None)), Done(2)]


async def test_frames_may_come_byte_by_byte() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    server = Channel[ToServer](theirs, to_server, takes_fds=True)
    got: list[ToServer] = []
    for byte in encode(Cancel(1)) + encode(Cancel(2)):
        ours.send(bytes([byte]))
        with trio.move_on_after(0):
            got += await server.receive()
    with trio.fail_after(5):
        while len(got) < 2:
            got += await server.receive()

    assert got == [Cancel(1), Cancel(2)]
    ours.close()
    assert await server.receive() == []
    server.close()


async def test_a_message_without_its_descriptor_is_a_protocol_error() -> None:
    async with channel_pair() as (client, server):
        client.send_nowait(fetch(1))
        assert await server.receive() == [fetch(1)]
        with pytest.raises(ProtocolError):
            server.take_fd()


async def test_descriptors_never_sent_or_never_taken_are_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with tempfile.TemporaryFile() as file:
        async with channel_pair() as (client, server):
            client.send_nowait(fetch(1), file.fileno())
            await server.receive()
            client.send_nowait(fetch(2), file.fileno())

    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_closed_descriptor_fails_in_the_hands_of_its_caller() -> None:
    async with channel_pair() as (client, server):
        with pytest.raises(OSError, match="Bad file"):
            client.send_nowait(fetch(1), 9999)
        client.send_nowait(Cancel(2))

        assert await server.receive() == [Cancel(2)]


async def test_a_slow_reader_gets_everything() -> None:
    async with channel_pair() as (client, server):
        for number in range(20_000):
            client.send_nowait(Cancel(number))
        await trio.testing.wait_all_tasks_blocked()
        got: list[ToServer] = []
        while len(got) < 20_000:
            got += await server.receive()

        assert got == [Cancel(number) for number in range(20_000)]
