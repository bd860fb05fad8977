"""The mount process's side: a Backend whose work is done by a child process.

Keeps one child running. When it dies, what ran in it fails as "try again" and the next
child takes over, connected as the last one was; a mount notices "offline" at worst. No
SDK and no secret enters this process, and of content only what is small and to be sent.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict, TypeVar, Unpack

import trio

from csyncfs.backends.base import Capabilities, Confirm, Landed, SaveResume, Source, Writing
from csyncfs.errors import (
    Ambiguous,
    ConfigError,
    CsyncError,
    FsError,
    Hold,
    Offline,
    Superseded,
)
from csyncfs.retry import delay_s
from csyncfs.transfer.faults import ProtocolError
from csyncfs.transfer.link import COMMAND, Link
from csyncfs.transfer.messages import (
    PROTOCOL,
    Abandon,
    AskChanges,
    AskSpace,
    AskStats,
    Connect,
    Connected,
    Copy,
    Delete,
    Done,
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
    Options,
    Put,
    Reply,
    Request,
    SetAttributes,
    Start,
)
from csyncfs.types import (
    Attributes,
    ChangePage,
    Expect,
    Item,
    Kind,
    Location,
    Page,
    RemoteVersion,
    Space,
    Span,
)

log = logging.getLogger(__name__)

# What the debug log names: what changes the store, and what decides that somebody else did.
_TOLD: Final = (Put, MakeDir, SetAttributes, Copy, Move, Delete, Head, ListPage)
# How long a call waits for the child to come up: it imports an SDK and reaches the store.
_START_S: Final = 15.0
# Content up to here travels in the message.
_SMALL_BYTES: Final = 32 * 1024
# How long when that was tried and failed.
_GRACE_S: Final = 2.0
_CLOSE_S: Final = 3.0
# A child that lived this long did not die of its start: the next one is spawned at once.
_SETTLED_S: Final = 10.0

R = TypeVar("R", bound=Reply)


@dataclass(slots=True)
class Counters:
    """Since the start of the mount process."""

    calls: int = 0
    failed: int = 0
    cancelled: int = 0


class Callbacks(TypedDict, total=False):
    """What ``Link.call`` takes besides the request."""

    fd: int | None
    confirm: Confirm
    landed: Landed
    save_resume: SaveResume


class TransferClient:
    """A Backend. ``run`` must be running for calls to succeed."""

    def __init__(
        self,
        spec: str,
        options: Options,
        *,
        env: Mapping[str, str] | None = None,
        memo: str | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """``env``: the child's whole environment, None for this process's."""
        self._spec = spec
        self._options = dict(options)
        self._env = env
        self._command = command
        self._link: Link | None = None
        self._is_connected = False
        self._closing = trio.Event()
        self._changed = trio.Event()
        self._last_id = 0
        self._trouble: CsyncError | None = None
        self._connect_failed = False
        self._stopped: trio.Event | None = None
        self.capabilities: Capabilities | None = None
        """What the last successful connect found; None until then."""
        self.memo = memo
        """What connect learnt and need not learn again; the caller keeps it across restarts."""
        self.restarts = 0
        self.counters = Counters()

    # State ---------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        return None if self._link is None else self._link.pid

    @property
    def online(self) -> bool:
        """The child is up, and the store answered the last call that reached it."""
        is_up = self._link is not None and self._link.is_up and self._is_connected
        return is_up and self._trouble is None

    @property
    def last_error(self) -> str | None:
        """Why not online; None where nothing has gone wrong."""
        return None if self._trouble is None else str(self._trouble)

    @property
    def refusal(self) -> str | None:
        """Why the store cannot be used, where only the user can change that."""
        trouble = self._trouble
        return str(trouble) if isinstance(trouble, Hold | ConfigError) else None

    async def stats(self) -> Mapping[str, Any]:
        """The child's own view: requests, and the counters of the guard."""
        return (await self._call(GotStats, AskStats(self._next_id()))).stats

    async def kill(self) -> None:
        """SIGKILL the child; returns when it is gone and its calls have failed."""
        if (link := self._link) is not None:
            link.kill()
            await link.gone.wait()

    # The service ---------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a child running, until cancelled or ``aclose``. Started before the child is."""
        self._stopped = trio.Event()
        task_status.started()
        attempt = 0
        try:
            while True:
                born = trio.current_time()
                await self._live_once()
                if trio.current_time() - born >= _SETTLED_S:
                    attempt = 0
                pause_s = _backoff_s(attempt - 1) if attempt else 0
                with trio.move_on_after(pause_s):
                    await self._closing.wait()
                if self._closing.is_set():
                    return
                attempt += 1
                self.restarts += 1
        finally:
            self._stopped.set()

    async def _live_once(self) -> None:
        """One child, from spawn to exit."""
        try:
            start = Start(PROTOCOL, self._spec, self._options, self.memo)
            link = await Link.spawn(self._command, start, self._env)
        except OSError as exc:
            self._trouble = Offline(f"cannot start the transfer process: {exc.strerror}")
            self._connect_failed = True
            return
        self._link = link
        self._is_connected = self.capabilities is None
        try:
            async with trio.open_nursery() as nursery:
                if self._closing.is_set():
                    link.close()
                elif self.capabilities is not None:
                    nursery.start_soon(self._reconnect, link)
                self._tell_change()
                await link.run()
                nursery.cancel_scope.cancel()
        finally:
            self._link = None
            self._tell_change()
        if not self._closing.is_set():
            self._trouble = Offline("the transfer process ended")
            log.warning("transfer process ended pid=%d", link.pid)

    async def _reconnect(self, link: Link) -> None:
        """Bring a new child to where the last one was."""
        attempt = 0
        while not self._is_connected:
            try:
                await self._connect_over(link)
            except CsyncError as exc:
                self._trouble = exc
                self._connect_failed = True
                self._tell_change()
                await trio.sleep(_backoff_s(attempt))
                attempt += 1

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def aclose(self) -> None:
        """End the child and ``run``. Calls made from now on fail with Offline."""
        self._closing.set()
        self._tell_change()
        if (link := self._link) is not None:
            link.close()
        if self._stopped is not None:
            with trio.move_on_after(_CLOSE_S):
                await self._stopped.wait()
        if link is not None and not link.gone.is_set():
            await self.kill()

    # How a call gets to the child and back --------------------------------------------

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def _call(self, kind: type[R], request: Request, **callbacks: Unpack[Callbacks]) -> R:
        link = await self._ready_link(needs_store=not isinstance(request, AskStats))
        return await self._ask(link, kind, request, **callbacks)

    async def _ready_link(self, *, needs_store: bool) -> Link:
        """The running child, connected if it was before; waits a moment for the next one."""
        began = trio.current_time()
        while not self._closing.is_set():
            link = self._link
            if link is not None and link.is_up and (self._is_connected or not needs_store):
                return link
            patience_s = _GRACE_S if self._connect_failed else _START_S
            with trio.move_on_at(began + patience_s) as waiting:
                await self._changed.wait()
            if waiting.cancelled_caught:
                break
        trouble = self._trouble
        if isinstance(trouble, ConfigError) and needs_store:
            # Mended, it goes on by itself: for a promise or a program it is as if away.
            raise Offline(str(trouble))
        if isinstance(trouble, Hold | ConfigError):
            raise type(trouble)(str(trouble))
        raise Offline("the transfer process is not running" if trouble is None else str(trouble))

    async def _ask(
        self, link: Link, kind: type[R], request: Request, **callbacks: Unpack[Callbacks]
    ) -> R:
        self.counters.calls += 1
        told = isinstance(request, _TOLD) and log.isEnabledFor(logging.DEBUG)
        if told:
            log.debug("asked %s", _in_words(request))
        try:
            reply = await link.call(request, **callbacks)
        except trio.Cancelled:
            self.counters.cancelled += 1
            raise
        except CsyncError as exc:
            self.counters.failed += 1
            if told:
                log.debug("not done %s error=%s", _in_words(request), exc)
            if not isinstance(exc, Ambiguous):
                self._trouble = exc if isinstance(exc, Offline) else None
            raise
        if not isinstance(reply, kind):
            raise ProtocolError(f"{type(reply).__name__} instead of {kind.__name__}")
        if kind is not GotStats:
            self._trouble = None
        if told:
            log.debug("done %s%s", _in_words(request), _outcome(reply))
        return reply

    async def _item(self, request: Request, **callbacks: Unpack[Callbacks]) -> Item:
        return (await self._call(GotItem, request, **callbacks)).item

    async def _connect_over(self, link: Link) -> Capabilities:
        try:
            reply = await self._ask(link, Connected, Connect(self._next_id()))
        except CsyncError as exc:
            # Until it was reached, a refusal is what the status has to tell.
            if not self._is_connected or self.capabilities is None:
                self._trouble = exc
            raise
        self.capabilities = reply.capabilities
        self.memo = reply.memo if reply.memo is not None else self.memo
        if link is self._link:
            self._is_connected = True
            self._connect_failed = False
            self._tell_change()
        return reply.capabilities

    # The Backend Protocol ------------------------------------------------------------

    async def connect(self) -> Capabilities:
        return await self._connect_over(await self._ready_link(needs_store=False))

    async def list_page(self, directory: Location, token: str | None) -> Page:
        return (await self._call(GotPage, ListPage(self._next_id(), directory, token))).page

    async def changes(self, cursor: str | None) -> ChangePage:
        return (await self._call(GotChanges, AskChanges(self._next_id(), cursor))).page

    async def head(self, location: Location, kind: Kind, resume: str | None = None) -> Item:
        return await self._item(Head(self._next_id(), location, kind, resume))

    async def fetch(
        self, location: Location, span: Span, fd: int, expect: RemoteVersion, landed: Landed
    ) -> Item:
        request = Fetch(self._next_id(), location, span, expect)
        return await self._item(request, fd=fd, landed=landed)

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
        content = await _read_small(source)
        request = Put(
            self._next_id(),
            location,
            source.size,
            *_stamp(writing),
            expect=expect,
            resume=resume,
            content=content,
        )
        fd = source.fd if content is None else None
        return await self._item(request, fd=fd, confirm=source.confirm, save_resume=save_resume)

    async def abandon(self, resume: str) -> None:
        await self._call(Done, Abandon(self._next_id(), resume))

    async def set_attributes(
        self, location: Location, kind: Kind, writing: Writing, expect: RemoteVersion
    ) -> Item:
        return await self._item(
            SetAttributes(self._next_id(), location, kind, *_stamp(writing), expect=expect)
        )

    async def make_dir(self, location: Location, writing: Writing) -> Item:
        return await self._item(MakeDir(self._next_id(), location, *_stamp(writing)))

    async def copy(
        self,
        source: Location,
        target: Location,
        writing: Writing,
        expect_source: RemoteVersion,
        expect_target: Expect,
    ) -> Item:
        return await self._item(
            Copy(
                self._next_id(),
                source,
                target,
                *_stamp(writing),
                expect_source=expect_source,
                expect_target=expect_target,
            )
        )

    async def move(
        self,
        source: Location,
        target: Location,
        kind: Kind,
        expect_source: RemoteVersion | None,
        expect_target: Expect,
    ) -> Item:
        return await self._item(
            Move(self._next_id(), source, target, kind, expect_source, expect_target)
        )

    async def delete(self, location: Location, kind: Kind, expect: RemoteVersion | None) -> None:
        await self._call(Done, Delete(self._next_id(), location, kind, expect))

    async def space(self) -> Space | None:
        return (await self._call(GotSpace, AskSpace(self._next_id()))).space


def _in_words(request: Request) -> str:
    """The request without content, for the log."""
    words = ""
    match request:
        case Copy() | Move():
            words = f"{request.source.key!r} -> {request.target.key!r}"
            words += f" expect={_tag(request.expect_source)},{_tag(request.expect_target)}"
        case Put() | SetAttributes() | Delete():
            words = f"{request.location.key!r} expect={_tag(request.expect)}"
        case MakeDir() | Head():
            words = repr(request.location.key)
        case ListPage():
            words = repr(request.directory.key)
        case _:
            pass
    return f"{type(request).__name__} id={request.id} {words}"


def _outcome(reply: Reply) -> str:
    if isinstance(reply, GotItem):
        return f" tag={_tag(reply.item.version)}"
    return f" items={len(reply.page.items)}" if isinstance(reply, GotPage) else ""


def _tag(expect: Expect | None) -> str:
    """Enough of a version's tag to tell it from others."""
    return expect.tag[:8] if isinstance(expect, RemoteVersion) else "-"


async def _read_small(source: Source) -> bytes | None:
    """All of a small content, confirmed; None: the transfer process reads it by itself.

    Costs the loop 10 us instead of a descriptor handed over and a question asked and answered.
    """
    if source.size > _SMALL_BYTES:
        return None
    try:
        content = os.pread(source.fd, source.size, 0)
    except OSError as exc:
        raise FsError(exc.errno or 0, "reading content to upload") from exc
    if len(content) < source.size or not await source.confirm():
        raise Superseded("the content changed before it was sent")
    return content


def _stamp(writing: Writing) -> tuple[Attributes, str, str]:
    return writing.attributes, writing.put_id, writing.device


def _backoff_s(attempt: int) -> float:
    return delay_s(attempt, base_s=0.1, cap_s=5.0, jitter=lambda: 1.0)
