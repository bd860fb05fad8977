"""The transfer process's side: hosts one Backend and answers requests.

One task per request. A request's Reply is sent when the backend has returned and not
before, so a cancelled request is acknowledged only when nothing can write to its
descriptor any more.
"""

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import trio

from csyncfs.backends.base import Backend, ChangeFeed, Source, Writing
from csyncfs.errors import Ambiguous, ConfigError, CsyncError, Retry, Unsupported
from csyncfs.transfer.channel import Channel
from csyncfs.transfer.faults import ProtocolError, describe, to_fault
from csyncfs.transfer.messages import (
    PROTOCOL,
    Abandon,
    AskChanges,
    AskConfirm,
    AskSpace,
    AskStats,
    Cancel,
    Cancelled,
    ConfirmAnswer,
    Connect,
    Connected,
    Copy,
    Delete,
    Done,
    Failed,
    Fetch,
    GotChanges,
    GotItem,
    GotPage,
    GotSpace,
    GotStats,
    Head,
    ListPage,
    MakeDir,
    Move,
    Ping,
    Put,
    Reply,
    Request,
    ResumeState,
    SetAttributes,
    Start,
    ToServer,
    carries_fd,
    to_server,
)
from csyncfs.transfer.progress import Progress

log = logging.getLogger(__name__)

_CLOSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Hosted:
    """A backend and what the mount process may want to know of it."""

    backend: Backend
    memo: Callable[[], str | None] = lambda: None
    """After a connect: what the next process need not find out again."""
    counters: Callable[[], object] = dict


Make = Callable[[Start], Awaitable[Hosted]]


async def serve(sock: socket.socket, hosted: Hosted) -> None:
    """Answer requests until the other end of ``sock`` is gone."""
    host = Host(sock)
    host.offer(hosted)
    await host.run()


async def serve_spec(sock: socket.socket, make: Make, at_eof: Callable[[], None]) -> None:
    """The same with the backend the first message names; until then requests wait.

    ``at_eof`` is called before requests are cancelled and the backend is closed.
    """
    await Host(sock, make).run(at_eof)


class Host:
    """The requests of one mount process and the backend they are for."""

    def __init__(self, sock: socket.socket, make: Make | None = None) -> None:
        self._channel: Channel[ToServer] = Channel(sock, to_server, takes_fds=True)
        self._progress = Progress(self._channel.send_nowait)
        self._make = make
        self._hosted: Hosted | None = None
        self._refusal = ""
        self._settled = trio.Event()
        self._running: dict[int, trio.CancelScope] = {}
        self._confirming: dict[int, Answer] = {}
        self._served = 0

    def offer(self, hosted: Hosted) -> None:
        self._hosted = hosted
        self._settled.set()

    async def run(self, at_eof: Callable[[], None] = lambda: None) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._channel.run_writer)
                nursery.start_soon(self._progress.run)
                await self._receive(nursery)
                at_eof()
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(_CLOSE_S, shield=True):
                if self._hosted is not None:
                    await self._hosted.backend.aclose()
            self._channel.close()

    async def _receive(self, nursery: trio.Nursery) -> None:
        while messages := await self._channel.receive():
            for message in messages:
                self._handle(message, nursery)

    def _handle(self, message: ToServer, nursery: trio.Nursery) -> None:
        match message:
            case Cancel():
                if (scope := self._running.get(message.id)) is not None:
                    scope.cancel()
            case ConfirmAnswer():
                if (answer := self._confirming.get(message.id)) is not None:
                    answer.give(message.is_confirmed)
            case Ping():
                self._channel.send_nowait(Done(message.id))
            case Start():
                nursery.start_soon(self._start, message)
            case _:
                fd = self._take_content(message)
                # The scope exists from now on: a Cancel may come before the task's first turn.
                scope = self._running[message.id] = trio.CancelScope()
                nursery.start_soon(self._answer, message, fd, scope)

    def _take_content(self, request: Request) -> int | None:
        """The descriptor a request is about; the caller closes it."""
        if isinstance(request, Put) and request.content is not None:
            fd = os.memfd_create("put")
            os.write(fd, request.content)
            return fd
        return self._channel.take_fd() if carries_fd(request) else None

    async def _start(self, start: Start) -> None:
        if self._make is None or self._settled.is_set():
            raise ProtocolError("unexpected Start")
        if start.protocol != PROTOCOL:
            self._refusal = "csyncfs was upgraded while mounted; unmount and mount again"
        else:
            try:
                self._hosted = await self._make(start)
            except ConfigError as exc:
                self._refusal = str(exc)
        self._settled.set()

    async def _answer(self, request: Request, fd: int | None, scope: trio.CancelScope) -> None:
        reply: Reply = Cancelled(request.id)
        try:
            with scope:
                reply = await self._outcome(request, fd)
        finally:
            del self._running[request.id]
            if fd is not None:
                os.close(fd)
        self._served += 1
        try:
            self._channel.send_nowait(reply)
        except Exception as exc:  # noqa: BLE001
            # Nothing a backend returns may cost the other requests their process.
            self._channel.send_nowait(Failed(request.id, to_fault(_unexpected(request, exc))))

    async def _outcome(self, request: Request, fd: int | None) -> Reply:
        await self._settled.wait()
        if self._hosted is None:
            return Failed(request.id, to_fault(ConfigError(self._refusal)))
        try:
            return await self._perform(self._hosted, request, -1 if fd is None else fd)
        except CsyncError as exc:
            return Failed(request.id, to_fault(exc))
        except Exception as exc:  # noqa: BLE001
            return Failed(request.id, to_fault(_unexpected(request, exc)))

    async def _perform(self, hosted: Hosted, request: Request, fd: int) -> Reply:
        backend = hosted.backend
        match request:
            case Head():
                item = await backend.head(request.location, request.kind, request.resume)
            case ListPage():
                page = await backend.list_page(request.directory, request.token)
                return GotPage(request.id, page)
            case Fetch():
                item = await self._fetch(backend, request, fd)
            case Put():
                item = await self._put(backend, request, fd)
            case SetAttributes():
                item = await backend.set_attributes(
                    request.location, request.kind, _writing(request), request.expect
                )
            case MakeDir():
                item = await backend.make_dir(request.location, _writing(request))
            case Copy():
                item = await backend.copy(
                    request.source,
                    request.target,
                    _writing(request),
                    request.expect_source,
                    request.expect_target,
                )
            case Move():
                item = await backend.move(
                    request.source,
                    request.target,
                    request.kind,
                    request.expect_source,
                    request.expect_target,
                )
            case Delete():
                await backend.delete(request.location, request.kind, request.expect)
                return Done(request.id)
            case Abandon():
                await backend.abandon(request.resume)
                return Done(request.id)
            case Connect():
                capabilities = await backend.connect()
                return Connected(request.id, capabilities, hosted.memo())
            case AskChanges():
                if not isinstance(backend, ChangeFeed):
                    raise Unsupported("this store has no change feed")
                return GotChanges(request.id, await backend.changes(request.cursor))
            case AskSpace():
                return GotSpace(request.id, await backend.space())
            case AskStats():
                return GotStats(request.id, self._stats(hosted))
            case _:
                raise ProtocolError(f"unexpected {type(request).__name__}")
        return GotItem(request.id, item)

    async def _fetch(self, backend: Backend, request: Fetch, fd: int) -> Any:
        landing = self._progress.follow(request.id)
        try:
            return await backend.fetch(request.location, request.span, fd, request.expect, landing)
        finally:
            landing.flush()

    async def _put(self, backend: Backend, request: Put, fd: int) -> Any:
        async def confirm() -> bool:
            if request.content is not None:
                return True
            answer = self._confirming[request.id] = Answer()
            try:
                self._channel.send_nowait(AskConfirm(request.id))
                return await answer.get()
            finally:
                del self._confirming[request.id]

        def save_resume(state: str) -> None:
            self._channel.send_nowait(ResumeState(request.id, state))

        return await backend.put(
            request.location,
            Source(fd, request.size, confirm),
            _writing(request),
            request.expect,
            resume=request.resume,
            save_resume=save_resume,
        )

    def _stats(self, hosted: Hosted) -> dict[str, Any]:
        """Counters of this process; the request that asks is among those running."""
        guard = msgspec.to_builtins(hosted.counters())
        return {"running": len(self._running), "served": self._served, "guard": guard}


class Answer:
    """The client's answer to ``confirm``."""

    def __init__(self) -> None:
        self._given = trio.Event()
        self._is_confirmed = False

    def give(self, is_confirmed: bool) -> None:
        self._is_confirmed = is_confirmed
        self._given.set()

    async def get(self) -> bool:
        await self._given.wait()
        return self._is_confirmed


def _writing(request: Put | SetAttributes | MakeDir | Copy) -> Writing:
    return Writing(request.attributes, request.put_id, request.device)


def _unexpected(request: Request, exc: Exception) -> CsyncError:
    """What a bug in a backend looks like to the mount process: the request failed for now."""
    what = f"unexpected {describe(exc)}"
    log.error("request failed kind=%s error=%s", type(request).__name__, what)
    if isinstance(request, Put | Copy | Move | Delete | SetAttributes):
        return Ambiguous(what)
    return Retry(what)
