"""Progress of fetches, merged before it is told.

A backend announces each block it wrote, up to thousands a second; the mount process
needs to know soon, not often. Contiguous spans become one message at most every 10 ms
or 1 MiB, the first at once, the last before the reply.
"""

from collections.abc import Callable
from typing import Final

import trio

from csyncfs.transfer.messages import Landed
from csyncfs.types import Span

_INTERVAL_S: Final = 0.010
_MERGE_BYTES: Final = 1 << 20

Send = Callable[[Landed], None]


class Progress:
    """All fetches of one transfer process; one timer for all of them."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._late: set[Landing] = set()
        self._woken = trio.Event()

    def follow(self, request_id: int) -> "Landing":
        return Landing(request_id, self._send, self._later)

    def _later(self, landing: "Landing") -> None:
        self._late.add(landing)
        self._woken.set()

    async def run(self) -> None:
        while True:
            await self._woken.wait()
            await trio.sleep(_INTERVAL_S)
            self._woken = trio.Event()
            late, self._late = self._late, set()
            for landing in late:
                landing.flush()


class Landing:
    """The ``landed`` callback of one fetch."""

    def __init__(self, request_id: int, send: Send, later: Callable[["Landing"], None]) -> None:
        self._id = request_id
        self._send = send
        self._later = later
        self._pending: Span | None = None
        self._told_at = -_INTERVAL_S

    def __call__(self, span: Span) -> None:
        before = self._pending
        if before is not None and before.end == span.start:
            span = Span(before.start, span.end)
        elif before is not None:
            self.flush()
        self._pending = span
        now = trio.current_time()
        if span.size_bytes >= _MERGE_BYTES or now - self._told_at >= _INTERVAL_S:
            self.flush()
        elif before is None:
            self._later(self)

    def flush(self) -> None:
        if self._pending is not None:
            self._send(Landed(self._id, self._pending.start, self._pending.end))
            self._pending = None
            self._told_at = trio.current_time()
