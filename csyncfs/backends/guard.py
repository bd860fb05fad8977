"""What every backend is wrapped in: lanes, deadlines, the throttle gate, classification.

Owns the answer to "is the store there": whether it answered last, since when not, and why.
Knows no wall clock and starts no tasks; time is trio's.

A call waits for a place in its lane and for the gate, then runs under its deadline. What
comes out is the result, a BackendError, a ConfigError (only the user can mend that), or a Retry
made from anything unexpected.
Nothing is tried again here: that is for those who know what the call was for.
"""

import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar, cast

import trio

from csyncfs.backends.base import (
    Backend,
    Capabilities,
    ChangeFeed,
    Landed,
    SaveResume,
    Source,
    Writing,
)
from csyncfs.errors import (
    Ambiguous,
    BackendError,
    ConfigError,
    Offline,
    Retry,
    Throttled,
    Unsupported,
)
from csyncfs.types import (
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

T = TypeVar("T")

_FOREVER: Final = float("inf")


class Lane(Enum):
    """Calls that compete with each other only."""

    FOREGROUND = "foreground"
    """Somebody waits for it: fetch, list_page, head."""
    UPLOADS = "uploads"
    """Moves many bytes, here or on the server: put, copy."""
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, and how long. Seconds of trio's clock."""

    foreground: int = 16
    uploads: int = 8
    control: int = 8
    call_s: float = 30.0
    """A call that moves no bytes; past it the store counts as not answering."""
    feed_s: float = 120.0
    """A page of the change feed: of a large drive it is seen to take a minute."""
    copy_s: float = 900.0
    """A server-side copy: no progress is seen, and terabytes take minutes."""
    stall_s: float = 60.0
    """fetch and put: the longest time without progress."""
    slowest_bytes_s: int = 64 << 10
    """A put tells its progress only now and then (``blind_bytes``): what is under way in
    between may be as slow as this on top of ``stall_s``."""
    blind_bytes: int = 64 << 20
    gate_first_s: float = 1.0
    gate_longest_s: float = 300.0
    offline_after: int = 3
    """This many calls in a row without an answer are not chance any more."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters since the start, and the state of the store as seen from here."""

    online: bool
    last_error: str | None
    last_success_s: float | None
    """When it last answered, be it with "no", on trio's clock; None: never."""
    consecutive_failures: int
    calls: Mapping[str, int]
    """By name of the call."""
    errors: Mapping[str, int]
    """By class of the error as callers got it."""
    bytes_down: int
    bytes_up: int
    gate_closed_s: float
    """How long the throttle gate stays closed from now on; 0: it is open."""


@dataclass(slots=True)
class _Tally:
    calls: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    bytes_down: int = 0
    bytes_up: int = 0


class _Deadline:
    """A cancel scope that progress pushes ahead, and that pauses while callers think."""

    def __init__(self, allowed_s: float) -> None:
        self._allowed_s = allowed_s
        self.scope = trio.CancelScope(deadline=trio.current_time() + allowed_s)

    def progress(self) -> None:
        self.scope.deadline = trio.current_time() + self._allowed_s

    def pause(self) -> None:
        self.scope.deadline = _FOREVER


class _Gate:
    """Closed for every lane while the store wants less."""

    def __init__(self, limits: Limits, jitter: Callable[[], float]) -> None:
        self._limits = limits
        self._jitter = jitter
        self._opens_at = -_FOREVER
        self._closings = 0
        """In a row, without a success in between."""

    @property
    def closed_s(self) -> float:
        return max(0.0, self._opens_at - trio.current_time())

    async def passed(self) -> None:
        """Wait until it is open, if that is soon; else Throttled."""
        while (rest_s := self.closed_s) > 0:
            if rest_s > self._limits.call_s:
                raise Throttled("the store asked for fewer requests", rest_s)
            await trio.sleep(rest_s)

    def close(self, after_s: float | None, began_at: float) -> None:
        # Calls that were under way when the gate closed are one refusal, not many: only
        # one that began since it opened makes the pause longer.
        if after_s is None and began_at < self._opens_at:
            return
        if after_s is None:
            doubled_s = self._limits.gate_first_s * 2.0 ** min(self._closings, 30)
            # Full pauses would bring every mount back at the same moment.
            after_s = min(doubled_s, self._limits.gate_longest_s) * (0.5 + self._jitter() / 2)
        self._closings += 1
        bounded_s = min(after_s, self._limits.gate_longest_s)
        self._opens_at = max(self._opens_at, trio.current_time() + bounded_s)

    def succeeded(self) -> None:
        self._closings = 0


class GuardedBackend:
    """A Backend around a Backend."""

    def __init__(
        self,
        inner: Backend,
        limits: Limits | None = None,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """``jitter``: uniform in [0, 1)."""
        self.inner = inner
        self._limits = limits or Limits()
        self._gate = _Gate(self._limits, jitter)
        self._lanes = {
            Lane.FOREGROUND: trio.CapacityLimiter(self._limits.foreground),
            Lane.UPLOADS: trio.CapacityLimiter(self._limits.uploads),
            Lane.CONTROL: trio.CapacityLimiter(self._limits.control),
        }
        self._tally = _Tally()
        self._failures = 0
        self._last_success_s: float | None = None
        self._last_error: str | None = None
        self._logged: set[str] = set()

    # State ---------------------------------------------------------------------------

    @property
    def online(self) -> bool:
        """The store has answered, and not yet failed to several times in a row."""
        return self._last_success_s is not None and self._failures < self._limits.offline_after

    @property
    def last_error(self) -> str | None:
        """Why the last call failed without an answer; None once one was answered again."""
        return self._last_error

    def snapshot(self) -> Snapshot:
        return Snapshot(
            online=self.online,
            last_error=self._last_error,
            last_success_s=self._last_success_s,
            consecutive_failures=self._failures,
            calls=dict(self._tally.calls),
            errors=dict(self._tally.errors),
            bytes_down=self._tally.bytes_down,
            bytes_up=self._tally.bytes_up,
            gate_closed_s=self._gate.closed_s,
        )

    # The way of a call ---------------------------------------------------------------

    async def _call(
        self,
        name: str,
        lane: Lane,
        allowed_s: float,
        work: Callable[[_Deadline], Awaitable[T]],
    ) -> T:
        self._tally.calls[name] += 1
        async with self._lanes[lane]:
            await self._pass_gate()
            began_at = trio.current_time()
            try:
                result = await self._bounded(name, allowed_s, work)
            except BackendError as exc:
                self._count(exc, began_at)
                raise
            except ConfigError as exc:
                # Found on this machine: the store was not asked, so it is neither there nor away.
                self._tally.errors[type(exc).__name__] += 1
                self._last_error = str(exc)
                raise
        self._answered()
        self._gate.succeeded()
        return result

    async def _pass_gate(self) -> None:
        try:
            await self._gate.passed()
        except Throttled as exc:
            self._tally.errors[type(exc).__name__] += 1
            raise

    async def _bounded(
        self, name: str, allowed_s: float, work: Callable[[_Deadline], Awaitable[T]]
    ) -> T:
        """The result in time, or a BackendError or ConfigError."""
        deadline = _Deadline(allowed_s)
        with deadline.scope:
            try:
                return await work(deadline)
            except (BackendError, ConfigError):
                raise
            except Exception as exc:
                raise self._classified(name, exc) from exc
        reason = f"{name}: no answer for {allowed_s:.0f} s"
        # Everything else can simply be repeated: it changes nothing, finds its put id on
        # what it wrote, or finds that the item is gone already.
        raise Ambiguous(reason) if name == "move" else Offline(reason)

    def _classified(self, name: str, exc: Exception) -> BackendError | ConfigError:
        """The domain error for what a backend should not have raised."""
        cause = exc
        while isinstance(cause, ExceptionGroup):
            # From a nursery; the first failure is what cancelled the others.
            cause = cast("ExceptionGroup[Exception]", cause).exceptions[0]
        if isinstance(cause, BackendError | ConfigError):
            return cause
        # Only the type goes into the message: the text may hold a signed URL.
        reason = f"{name}: unexpected {type(cause).__name__}"
        if reason not in self._logged:
            self._logged.add(reason)
            log.error("backend failed call=%s", name, exc_info=exc)
        return Retry(reason)

    def _count(self, exc: BackendError, began_at: float) -> None:
        self._tally.errors[type(exc).__name__] += 1
        if isinstance(exc, Throttled):
            self._gate.close(exc.after_s, began_at)
        if isinstance(exc, Offline | Ambiguous):
            self._failures += 1
            if self._failures == self._limits.offline_after:
                log.warning("store does not answer reason=%s", exc)
        if isinstance(exc, Throttled) or not isinstance(exc, Retry):
            self._answered()
            return
        # A failure of the server, or of the backend: it says nothing about the way there.
        self._last_error = str(exc)

    def _answered(self) -> None:
        if self._failures >= self._limits.offline_after:
            log.info("store answers again after failures=%d", self._failures)
        self._failures = 0
        self._last_success_s = trio.current_time()
        self._last_error = None

    # The Backend Protocol ------------------------------------------------------------

    async def connect(self) -> Capabilities:
        return await self._control("connect", self.inner.connect)

    async def _control(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        return await self._call(name, Lane.CONTROL, self._limits.call_s, lambda _: work())

    async def _look(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        return await self._call(name, Lane.FOREGROUND, self._limits.call_s, lambda _: work())

    async def list_page(self, directory: Location, token: str | None) -> Page:
        return await self._look("list_page", lambda: self.inner.list_page(directory, token))

    async def changes(self, cursor: str | None) -> ChangePage:
        feed = self.inner
        if not isinstance(feed, ChangeFeed):
            raise Unsupported("this store has no change feed")
        # Not in the lane of those who wait: nobody waits for it.
        limit_s = self._limits.feed_s
        return await self._call("changes", Lane.CONTROL, limit_s, lambda _: feed.changes(cursor))

    async def head(self, location: Location, kind: Kind, resume: str | None = None) -> Item:
        return await self._look("head", lambda: self.inner.head(location, kind, resume))

    async def fetch(
        self, location: Location, span: Span, fd: int, expect: RemoteVersion, landed: Landed
    ) -> Item:
        async def work(deadline: _Deadline) -> Item:
            def progress(got: Span) -> None:
                deadline.progress()
                if got.size_bytes:
                    self._tally.bytes_down += got.size_bytes
                    landed(got)

            return await self.inner.fetch(location, span, fd, expect, progress)

        return await self._call("fetch", Lane.FOREGROUND, self._limits.stall_s, work)

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
        async def work(deadline: _Deadline) -> Item:
            async def confirm() -> bool:
                deadline.pause()
                is_confirmed = await source.confirm()
                deadline.progress()
                return is_confirmed

            def save(state: str) -> None:
                deadline.progress()
                save_resume(state)

            guarded = Source(source.fd, source.size, confirm)
            return await self.inner.put(
                location, guarded, writing, expect, resume=resume, save_resume=save
            )

        limits = self._limits
        blind_s = min(source.size, limits.blind_bytes) / limits.slowest_bytes_s
        item = await self._call("put", Lane.UPLOADS, limits.stall_s + blind_s, work)
        self._tally.bytes_up += source.size
        return item

    async def abandon(self, resume: str) -> None:
        await self._control("abandon", lambda: self.inner.abandon(resume))

    async def set_attributes(
        self, location: Location, kind: Kind, writing: Writing, expect: RemoteVersion
    ) -> Item:
        # In the lane and time of a copy: on S3 it is one, of any size.
        return await self._call(
            "set_attributes",
            Lane.UPLOADS,
            self._limits.copy_s,
            lambda _: self.inner.set_attributes(location, kind, writing, expect),
        )

    async def make_dir(self, location: Location, writing: Writing) -> Item:
        return await self._control("make_dir", lambda: self.inner.make_dir(location, writing))

    async def copy(
        self,
        source: Location,
        target: Location,
        writing: Writing,
        expect_source: RemoteVersion,
        expect_target: Expect,
    ) -> Item:
        return await self._call(
            "copy",
            Lane.UPLOADS,
            self._limits.copy_s,
            lambda _: self.inner.copy(source, target, writing, expect_source, expect_target),
        )

    async def move(
        self,
        source: Location,
        target: Location,
        kind: Kind,
        expect_source: RemoteVersion | None,
        expect_target: Expect,
    ) -> Item:
        return await self._control(
            "move",
            lambda: self.inner.move(source, target, kind, expect_source, expect_target),
        )

    async def delete(self, location: Location, kind: Kind, expect: RemoteVersion | None) -> None:
        await self._control("delete", lambda: self.inner.delete(location, kind, expect))

    async def space(self) -> Space | None:
        return await self._control("space", self.inner.space)

    async def aclose(self) -> None:
        """Close the backend within the time of a call; not held up by gate or lanes."""
        with trio.move_on_after(self._limits.call_s):
            await self.inner.aclose()
