"""One child process, the socket to it, and the calls that run in it.

One task reads replies and resolves waiters; calls spawn no task. When the child is gone
every call that ran in it fails, and only then: no writer is left.
"""

import logging
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import trio

from csyncfs.backends.base import Confirm, Landed, SaveResume
from csyncfs.errors import Ambiguous, CsyncError, Offline, Retry
from csyncfs.transfer.channel import Channel
from csyncfs.transfer.faults import ProtocolError, to_error
from csyncfs.transfer.messages import (
    AskConfirm,
    Cancel,
    Cancelled,
    ConfirmAnswer,
    Copy,
    Delete,
    Failed,
    MakeDir,
    Move,
    Ping,
    Put,
    Reply,
    Request,
    ResumeState,
    SetAttributes,
    Start,
    ToClient,
    carries_fd,
    to_client,
)
from csyncfs.transfer.messages import Landed as LandedMessage
from csyncfs.types import Span

log = logging.getLogger(__name__)

COMMAND: Final = (sys.executable, "-P", "-m", "csyncfs.transfer")
_NAME: Final = "csyncfs-xfer"
_CANCEL_S: Final = 2.0
_EXIT_S: Final = 2.0
_PING_EVERY_S: Final = 10.0
_PONG_S: Final = 20.0
_PING_ID: Final = -1


class Call:
    """A request under way, as its caller and the reading task see it."""

    def __init__(
        self, request: Request, landed: Landed | None, save_resume: SaveResume | None
    ) -> None:
        self.request = request
        self.landed = landed
        self.save_resume = save_resume
        self.reply: Reply | None = None
        self.failure: Exception | None = None
        self.is_asked = False
        self.woken = trio.Event()
        self.ended = trio.Event()

    def end(self, reply: Reply | None, failure: CsyncError | None = None) -> None:
        self.reply = reply
        self.failure = self.failure or failure
        self.ended.set()
        self.woken.set()

    def tell(self, message: LandedMessage | ResumeState) -> None:
        """Run the caller's callback; what it raises ends the call, not the reading task."""
        if self.failure is not None:
            return
        try:
            if isinstance(message, ResumeState):
                if self.save_resume is not None:
                    self.save_resume(message.state)
            elif self.landed is not None:
                self.landed(Span(message.start, message.end))
        except Exception as exc:  # noqa: BLE001
            self.failure = exc
            self.woken.set()


class Link:
    """One child, from spawn to exit."""

    def __init__(self, process: trio.Process, sock: socket.socket) -> None:
        self._process = process
        self._channel: Channel[ToClient] = Channel(sock, to_client, takes_fds=False)
        self._calls: dict[int, Call] = {}
        self._is_dead = False
        self.gone = trio.Event()
        """Set when the child is no more and every call has failed."""

    @classmethod
    async def spawn(
        cls, command: Sequence[str], start: Start, env: Mapping[str, str] | None
    ) -> "Link":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                process = await trio.lowlevel.open_process(
                    [*command, str(theirs.fileno()), _NAME],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=env,
                    cwd="/",
                    # Ctrl-C on a terminal is for the mount process alone.
                    process_group=0,
                )
            except BaseException:
                ours.close()
                raise
        link = cls(process, ours)
        link._channel.send_nowait(start)
        return link

    @property
    def is_up(self) -> bool:
        return not self._is_dead

    @property
    def pid(self) -> int:
        return self._process.pid

    async def run(self) -> None:
        """Carry calls until the child is gone. Cancelled: end the child first."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._channel.run_writer)
                nursery.start_soon(self._watch)
                try:
                    await self._read()
                except ProtocolError as exc:
                    log.warning("transfer process talks nonsense pid=%d error=%s", self.pid, exc)
                    self.kill()
                nursery.cancel_scope.cancel()
        finally:
            self._is_dead = True
            with trio.CancelScope(shield=True):
                await self._end_process()
            self._fail_calls()
            self._channel.close()
            self.gone.set()

    async def _watch(self) -> None:
        """Kill a child that is stuck: deadlines of calls are kept there, and every wait ends."""
        while True:
            await trio.sleep(_PING_EVERY_S)
            if self._calls:
                with trio.move_on_after(_PONG_S) as waiting, suppress(Offline):
                    await self.call(Ping(_PING_ID))
                if waiting.cancelled_caught:
                    log.error("transfer process does not answer; killed pid=%d", self.pid)
                    self.kill()

    async def _end_process(self) -> None:
        self._channel.end_sending()
        with trio.move_on_after(_EXIT_S):
            await self._process.wait()
        self.kill()
        # No deadline: until the process is gone its threads may write to content files. It
        # can only be late if a write to the local disk hangs, as the mount's own would.
        await self._process.wait()

    def _fail_calls(self) -> None:
        for call in self._calls.values():
            call.end(None, _lost(call.request))

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Let the child close its backend and exit; ``run`` then returns."""
        if not self._is_dead:
            self._is_dead = True
            self._channel.end_sending()

    async def _read(self) -> None:
        while messages := await self._channel.receive():
            for message in messages:
                # A late word on a call that no longer waits finds nobody.
                if (call := self._calls.get(message.id)) is None:
                    continue
                if isinstance(message, LandedMessage | ResumeState):
                    call.tell(message)
                elif isinstance(message, AskConfirm):
                    call.is_asked = True
                    call.woken.set()
                else:
                    call.end(message)
                    # What its caller does next takes up to a millisecond: programs come between.
                    await trio.lowlevel.checkpoint()

    async def call(
        self,
        request: Request,
        *,
        fd: int | None = None,
        confirm: Confirm | None = None,
        landed: Landed | None = None,
        save_resume: SaveResume | None = None,
    ) -> Reply:
        """The reply to a request; raises what the backend raised.

        Cancelled: nothing touches ``fd`` any more when this has returned.
        """
        if self._is_dead:
            raise Offline("the transfer process ended")
        call = Call(request, landed, save_resume)
        try:
            self._channel.send_nowait(request, fd)
        except OSError as exc:
            raise Retry(f"cannot hand over a descriptor: {exc.strerror}") from exc
        self._calls[request.id] = call
        try:
            reply = await self._follow(call, confirm)
        except BaseException:
            if not call.ended.is_set():
                await self._stop(call)
            raise
        finally:
            del self._calls[request.id]
        if isinstance(reply, Failed):
            raise to_error(reply.fault)
        if isinstance(reply, Cancelled):
            raise _lost(request)
        return reply

    async def _follow(self, call: Call, confirm: Confirm | None) -> Reply:
        while True:
            await call.woken.wait()
            call.woken = trio.Event()
            if call.failure is not None:
                raise call.failure
            if call.reply is not None:
                return call.reply
            if call.is_asked:
                call.is_asked = False
                is_confirmed = confirm is not None and await confirm()
                self._channel.send_nowait(ConfirmAnswer(call.request.id, is_confirmed))

    async def _stop(self, call: Call) -> None:
        """Cancel in the child; return when the call can do no more harm.

        One that holds a descriptor is waited for, if need be until the child is dead. One
        that may still change the store is waited for a while. Reads are left to themselves.
        """
        if not self._is_dead:
            self._channel.send_nowait(Cancel(call.request.id))
        request = call.request
        has_fd = carries_fd(request)
        if not has_fd and not isinstance(request, SetAttributes | MakeDir | Copy | Move | Delete):
            return
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_CANCEL_S):
                await call.ended.wait()
            if has_fd and not call.ended.is_set():
                log.warning("transfer process does not let go of a file; killed pid=%d", self.pid)
                self.kill()
                await call.ended.wait()


def _lost(request: Request) -> CsyncError:
    what = "the transfer process ended"
    is_write = isinstance(request, Put | Copy | Move | Delete | SetAttributes)
    return Ambiguous(what) if is_write else Offline(what)
