"""What one handle fetches beyond what its program asks for.

Owns the access pattern of a handle. A sequential reader gets windows that double from
1 to 32 MiB, the next one asked for while half of the last is still unread; after a few
jumps only the read itself is fetched, until reads follow each other again. The plan knows
nothing of what is present or in flight: the fetcher subtracts that.
"""

from typing import Final

from csyncfs.types import Span

ALIGN: Final = 128 << 10
"""One read request of the kernel at its default readahead."""
FIRST_WINDOW: Final = 1 << 20
MAX_WINDOW: Final = 32 << 20
TOLERANCE: Final = 1 << 20
"""The kernel sends the requests of its own readahead in any order, so a distance of up to
this is no jump."""
RANDOM_AFTER: Final = 3
"""Jumps until a handle counts as random."""
_TRUST_RUN: Final = 2 << 20
"""Bytes in sequence that make up for earlier jumps. With this value random reads of blocks
from 128 KiB to 4 MiB fetch 1.0 to 1.9 times what is read."""


class ReadPlan:
    """The reading pattern of one handle."""

    __slots__ = (
        "_first_end",
        "_jumps",
        "_last_window",
        "_max_window",
        "_origin",
        "_planned",
        "_position",
        "_window",
    )

    def __init__(self, max_window: int = MAX_WINDOW) -> None:
        self._jumps = 0
        self._max_window = max_window
        self._window = min(FIRST_WINDOW, max_window)
        # The run: reads that follow each other, the present one last.
        self._origin = -1  # where it began; negative: nothing was read yet
        self._first_end = 0  # where its first read ended
        self._position = 0  # the furthest end of its reads
        self._planned = 0  # the end of what was planned for it
        self._last_window = 0

    def next(self, start: int, end: int, size: int) -> Span:
        """What to fetch for a read of ``[start, end)`` whose bytes are not all present.

        Contains the read as far as the file goes.
        """
        self._follow(start, end)
        low, high = _down(start), _up(end)
        if high <= self._planned:
            # Planned before: in flight, or lost again. Go on towards the end of the plan.
            return _clip(low, max(high, min(self._planned, low + self._last_window)), size)
        if self._is_random():
            # As much again as this run has been: at most twice what is read.
            self._planned = max(high, low + _down(self._position - self._origin))
            return _clip(low, self._planned, size)
        if self._origin < self._planned < low <= self._planned + TOLERANCE:
            low = self._planned
        return self._plan(low, high, size)

    def ahead(self, start: int, end: int, size: int) -> Span | None:
        """What to fetch in the background now that ``[start, end)`` is being read.

        Call it for every read, also for those that find their bytes present.
        """
        self._follow(start, end)
        if self._is_random() or self._position <= self._first_end:
            return None
        if self._planned < self._position:
            # All was present so far: the run itself must show that it goes on.
            if self._position - self._origin < FIRST_WINDOW // 2:
                return None
            self._planned = _up(self._position)
        elif self._planned - self._position >= self._last_window // 2:
            return None
        if self._planned >= size:
            return None
        return self._plan(self._planned, self._planned, size)

    def _plan(self, low: int, least: int, size: int) -> Span:
        """Plan one window from ``low``, or from the end of the plan if that is further."""
        self._planned = max(least, max(low, self._planned) + self._window)
        self._last_window = self._window
        self._window = min(self._max_window, self._window * 2)
        return _clip(low, self._planned, size)

    def _follow(self, start: int, end: int) -> None:
        """Note a read. Noting the same read twice changes nothing."""
        if self._origin < 0:
            self._begin_run(start, end)
        elif start > self._position + TOLERANCE or end < self._position - TOLERANCE:
            self._jumps += 1
            self._window = min(FIRST_WINDOW, self._max_window) >> self._jumps
            self._begin_run(start, end)
        else:
            self._position = max(self._position, end)
            self._origin = min(self._origin, start)
            if self._jumps and self._position - self._origin >= _TRUST_RUN:
                self._jumps = 0
                self._window = max(self._window, min(FIRST_WINDOW, self._max_window))

    def _begin_run(self, start: int, end: int) -> None:
        self._origin, self._first_end, self._position = start, end, end
        self._planned = _down(start)
        self._last_window = 0

    def _is_random(self) -> bool:
        return self._jumps >= RANDOM_AFTER


def _down(offset: int) -> int:
    return offset - offset % ALIGN


def _up(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


def _clip(low: int, high: int, size: int) -> Span:
    return Span(min(low, size), min(high, size))
