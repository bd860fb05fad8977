"""SDK calls on worker threads: so many of a kind at a time, each with a deadline.

A call that is cancelled or out of time is left behind: its thread ends at the socket's timeout
and keeps its place in the lane until then, so stalled threads cannot pile up.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

import trio

from csyncfs.backends.failures import LostReply
from csyncfs.errors import CsyncError, Offline

T = TypeVar("T")

_QUEUE_S: Final = 300.0


class Lane:
    """So many calls of one kind at a time."""

    def __init__(self, name: str, slots: int) -> None:
        self._name = name
        self._limiter = trio.CapacityLimiter(slots)
        self._running: Counter[str] = Counter()
        self._ended = trio.lowlevel.ParkingLot()

    async def run(self, work: Callable[[], T], deadline_s: float, topic: str = "") -> T:
        """The result of ``work`` in a thread. Raises LostReply if it takes too long to run.

        ``topic``: what ``wait_idle`` knows it by.
        """
        token = trio.lowlevel.current_trio_token()
        started = False
        with trio.move_on_after(_QUEUE_S) as scope:

            def start_the_clock() -> None:
                nonlocal started
                started = True
                scope.deadline = trio.current_time() + deadline_s
                self._running[topic] += 1

            def in_thread() -> T:
                token.run_sync_soon(start_the_clock)
                try:
                    return work()
                finally:
                    token.run_sync_soon(self._note_end, topic)

            return await trio.to_thread.run_sync(
                in_thread, abandon_on_cancel=True, limiter=self._limiter
            )
        if not started:
            raise Offline(f"no free {self._name} connection within {_QUEUE_S:.0f} s")
        raise LostReply(f"no end after {deadline_s:.0f} s")

    async def wait_idle(self, topic: str = "") -> None:
        """Return when no thread works on the topic, also none that was left behind."""
        while self._running[topic] > 0:
            await self._ended.park()

    def _note_end(self, topic: str) -> None:
        self._running[topic] -= 1
        if not self._running[topic]:
            del self._running[topic]
        self._ended.unpark_all()


async def in_parallel(numbers: list[int], limit: int, send: Callable[[int], Any]) -> None:
    """``await send(number)`` for all, so many at a time; the first error ends it."""
    waiting = deque(numbers)
    failures: list[CsyncError] = []

    async def worker() -> None:
        while waiting:
            try:
                await send(waiting.popleft())
            except CsyncError as exc:
                failures.append(exc)
                nursery.cancel_scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(min(limit, len(waiting))):
            nursery.start_soon(worker)
    if failures:
        raise failures[0]
