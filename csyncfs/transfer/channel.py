"""One end of the socket pair: frames in, frames out, descriptors beside them.

Sending never waits: messages queue up and one writer task sends what has gathered since
its last turn in one system call, so many small calls cost few of them. Descriptors
attach to the first byte of a batch, hence never arrive after their message.
"""

import array
import errno
import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

import trio

from csyncfs.transfer.faults import ProtocolError
from csyncfs.transfer.messages import HEADER, Codec, Message, body_size, encode

_READ_BYTES: Final = 256 << 10
_BATCH_BYTES: Final = 128 << 10
# The kernel takes 253 per call (SCM_MAX_FD).
_BATCH_FDS: Final = 64
_FDS_SPACE: Final = socket.CMSG_SPACE(253 * array.array("i").itemsize)

M = TypeVar("M")


class Channel(Generic[M]):
    """Owns ``sock``. ``M``: what arrives."""

    def __init__(self, sock: socket.socket, codec: Codec[M], *, takes_fds: bool) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._codec = codec
        self._fds_space = _FDS_SPACE if takes_fds else 0
        self._out: deque[tuple[bytearray, list[int]]] = deque()
        self._queued = trio.Event()
        self._in = bytearray(_READ_BYTES)
        self._filled = 0
        self._fds: deque[int] = deque()

    def send_nowait(self, message: Message, fd: int | None = None) -> None:
        """Queue a message, with a duplicate of ``fd``: the caller may close his at once."""
        frame = encode(message)
        duplicate = None if fd is None else os.dup(fd)
        if not self._out or self._is_full(*self._out[-1]):
            self._out.append((bytearray(), []))
        batch, fds = self._out[-1]
        batch += frame
        if duplicate is not None:
            fds.append(duplicate)
        self._queued.set()

    @staticmethod
    def _is_full(batch: bytearray, fds: list[int]) -> bool:
        return len(batch) >= _BATCH_BYTES or len(fds) >= _BATCH_FDS

    async def run_writer(self) -> None:
        """Send what is queued, until the other end is gone (then the reader sees EOF)."""
        try:
            while True:
                await self._queued.wait()
                self._queued = trio.Event()
                while self._out:
                    batch, fds = self._out.popleft()
                    try:
                        await self._send(batch, fds)
                    finally:
                        _close_all(fds)
        except (BrokenPipeError, ConnectionResetError):
            return

    async def _send(self, batch: bytearray, fds: list[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        view = memoryview(batch)
        while view:
            try:
                sent = self._sock.sendmsg([view], ancillary)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)
            except OSError as exc:
                # Too many descriptors under way to a slow reader; they drain as it reads.
                if exc.errno != errno.ETOOMANYREFS:
                    raise
                await trio.sleep(0.005)
            else:
                view = view[sent:]
                ancillary = []

    async def receive(self) -> list[M]:
        """The next messages, at least one; the empty list: the other end is gone.

        Descriptors that came with them wait for ``take_fd``, in order.
        """
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                got = self._receive_nowait()
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return []
            if not got:
                return []
            if messages := self._split():
                return messages

    def _receive_nowait(self) -> int:
        free = memoryview(self._in)[self._filled :]
        if not self._fds_space:
            got = self._sock.recv_into(free)
        else:
            got, ancillary, flags, _ = self._sock.recvmsg_into(
                [free], self._fds_space, socket.MSG_CMSG_CLOEXEC
            )
            for _level, _kind, data in ancillary:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._fds.extend(fds)
            if flags & socket.MSG_CTRUNC:
                raise ProtocolError("descriptors were lost: too many open files")
        self._filled += got
        return got

    def _split(self) -> list[M]:
        """Take the complete frames out of the buffer."""
        messages: list[M] = []
        position, needed = 0, HEADER.size
        with memoryview(self._in) as view:
            while self._filled - position >= HEADER.size:
                (header,) = HEADER.unpack_from(view, position)
                needed = HEADER.size + body_size(header)
                if self._filled - position < needed:
                    break
                body = view[position + HEADER.size : position + needed]
                messages.append(self._codec.decode(header, body))
                position += needed
        if position or needed > len(self._in):
            self._keep(position, needed)
        return messages

    def _keep(self, position: int, needed: int) -> None:
        """Move the rest to the front, with room for the frame it belongs to."""
        rest = self._in[position : self._filled]
        if needed > len(self._in) or (len(self._in) > _READ_BYTES and needed <= _READ_BYTES):
            self._in = bytearray(max(needed, _READ_BYTES))
        self._in[: len(rest)] = rest
        self._filled = len(rest)

    def take_fd(self) -> int:
        """The oldest descriptor that has arrived; the caller closes it."""
        if not self._fds:
            raise ProtocolError("a message came without its descriptor")
        return self._fds.popleft()

    def end_sending(self) -> None:
        """Let the other end see EOF; what it still sends can be received."""
        self._discard_queue()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                raise

    def close(self) -> None:
        self._discard_queue()
        _close_all(self._fds)
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()

    def _discard_queue(self) -> None:
        for _batch, fds in self._out:
            _close_all(fds)
        self._out.clear()


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
