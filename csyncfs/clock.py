"""Wall-clock time, injected so that tests own it. Monotonic time is trio's."""

import time
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time in nanoseconds since the epoch (UTC)."""

    def now_ns(self) -> int: ...


class WallClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()
