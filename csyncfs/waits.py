"""What programs wait for: which of their calls are slow, and who has given up waiting.

Owns the table of waits. A call of the kernel is noted when it begins; only where it really
has to wait (``waiting``) does it cost more than that. One watchman looks at what has waited
long: he says once which call is slow and what for, and ends the wait of a program that was
told to stop.

The kernel waits for our answer even if the program has been killed: FUSE tells of a signal by
an INTERRUPT message, and pyfuse3 has no handler for it. So /proc is asked.
"""

import errno
import logging
import math
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

import trio

from csyncfs.errors import FsError

log = logging.getLogger(__name__)

PATIENCE_S: Final = 0.5
"""Shorter waits are not looked at."""
_LOOK_S: Final = 0.25

# Whoever catches one of these wants to stop, or to say so; EINTR gives him the turn. Others
# that are caught (alarms, children, Go's SIGURG every 10 ms) must not break a read(2).
_TO_STOP: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
# Not fatal where nobody catches them.
_HARMLESS: Final = (
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called, and what for, in words."""

    call: str
    subject: str
    threads: tuple[int, ...]
    """Any of these may be the one that waits; as ``/proc`` knows them."""

    def __str__(self) -> str:
        return f"call={self.call} {self.subject}"


@dataclass(eq=False, slots=True)
class Call:
    """One call of the kernel, from its beginning to our answer."""

    task: trio.lowlevel.Task
    describe: Callable[[], Caller]
    began: float
    is_told: bool = False
    """The log has it as slow."""
    _caller: Caller | None = None

    @property
    def caller(self) -> Caller:
        self._caller = self._caller or self.describe()
        return self._caller


@dataclass(eq=False, slots=True)
class _Wait:
    """One wait of one call."""

    call: Call
    reason: str
    can_end: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended_by: int = 0
    """The errno the watchman ended it with."""


_CALL: Final[ContextVar[Call | None]] = ContextVar("csyncfs call", default=None)


class _Table:
    """The waits of this process; there is one mount in it."""

    def __init__(self) -> None:
        self.waits: set[_Wait] = set()
        self.woken = trio.Event()
        self.slow_s = math.inf


_TABLE: Final = _Table()


def begin(describe: Callable[[], Caller]) -> Call:
    """A call of the kernel begins in this task; ``describe`` is asked only if it is slow."""
    call = Call(trio.lowlevel.current_task(), describe, trio.current_time())
    _CALL.set(call)
    return call


def end(call: Call) -> None:
    """The call was answered."""
    took_s = trio.current_time() - call.began
    if call.is_told or took_s >= _TABLE.slow_s:
        log.warning("slow call ended %s after_s=%.1f", call.caller, took_s)


@contextmanager
def waiting(reason: str, *, can_end: bool = True) -> Generator[None]:
    """Around whatever a program's call may wait for long; nothing for background tasks.

    Raises FsError(EINTR) where the program was told to stop and ``can_end``. The block is
    then cancelled: what others share has to run in a task of its own.
    """
    call = _CALL.get()
    # A task that was started by a call inherits the note, but nobody waits for it alone.
    if call is None or call.task is not trio.lowlevel.current_task():
        yield
        return
    wait = _Wait(call, reason, can_end)
    _TABLE.waits.add(wait)
    _TABLE.woken.set()
    try:
        with wait.scope:
            yield
    finally:
        _TABLE.waits.discard(wait)
    if wait.scope.cancelled_caught:
        raise FsError(wait.ended_by, "nobody waits for it any more")


async def watch(
    slow_s: float,
    is_over: Callable[[], bool],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The watchman. ``is_over``: the kernel has gone, and with it every program that waited."""
    _TABLE.slow_s = slow_s
    task_status.started()
    while True:
        if not _TABLE.waits:
            _TABLE.woken = trio.Event()
            await _TABLE.woken.wait()
        await trio.sleep(_LOOK_S)
        now = trio.current_time()
        long = [wait for wait in _TABLE.waits if now - wait.call.began >= PATIENCE_S]
        if long and is_over():
            end_all()
            continue
        for wait in long:
            if wait.can_end and any(map(is_told_to_stop, wait.call.caller.threads)):
                _end(wait, errno.EINTR)
            elif not wait.call.is_told and now - wait.call.began >= slow_s:
                _tell(wait, now)


def end_all() -> None:
    """The file system is being taken down: nobody waits any more."""
    for wait in _TABLE.waits:
        if wait.can_end:
            _end(wait, errno.ECONNABORTED)


def _end(wait: _Wait, code: int) -> None:
    if not wait.ended_by:
        why = "unmounted" if code == errno.ECONNABORTED else "its program was told to stop"
        log.info("stopped waiting %s: %s", wait.call.caller, why)
        wait.ended_by = code
    wait.scope.cancel()


def _tell(wait: _Wait, now: float) -> None:
    wait.call.is_told = True
    log.warning(
        "call is slow %s waits_for=%s for_s=%.1f",
        wait.call.caller,
        wait.reason,
        now - wait.call.began,
    )


def threads_of(thread: int) -> tuple[int, ...]:
    """All threads of this one's process; none if it is gone."""
    try:
        return tuple(int(name) for name in os.listdir(f"/proc/{thread}/task"))
    except OSError:
        return ()


def is_told_to_stop(thread: int) -> bool:
    """Whether a signal waits for this thread that would end it, or that it catches to stop."""
    try:
        with open(f"/proc/{thread}/status", "rb", buffering=0) as status:
            text = status.read(8192)
    except OSError:
        return False
    masks = dict(_masks(text))
    if not masks or b"\nState:\tD" not in text:
        return False
    pending = (masks[b"SigPnd"] | masks[b"ShdPnd"]) & ~masks[b"SigBlk"]
    caught = masks[b"SigCgt"]
    fatal = pending & ~caught & ~masks[b"SigIgn"] & ~_bits(_HARMLESS)
    return bool(fatal | (pending & caught & _bits(_TO_STOP)))


def _masks(status: bytes) -> Iterator[tuple[bytes, int]]:
    for line in status.split(b"\n"):
        name, _, value = line.partition(b":\t")
        if name in _MASKS:
            yield name, int(value, 16)


_MASKS: Final = frozenset({b"SigPnd", b"ShdPnd", b"SigBlk", b"SigIgn", b"SigCgt"})


def _bits(signals: Iterable[int]) -> int:
    return sum(1 << (number - 1) for number in signals)
