"""Who asks too much: resource units a minute, and the pause a client was told to keep."""

import time
from typing import Final

from tests.support.graph.clock import Clock
from tests.support.graph.failures import GraphError
from tests.support.graph.knobs import Knobs

WINDOW_S: Final = 60.0


class Throttle:
    """Called with the world's lock held."""

    def __init__(self, clock: Clock, knobs: Knobs) -> None:
        self._clock = clock
        self._knobs = knobs
        self._window = clock.now()
        self._used = 0
        self._until = float("-inf")
        self._wait = 0.0
        self._told_at = float("-inf")
        self._enforced = False

    def told(self, retry_after: float, *, enforce: bool) -> None:
        """A client was told to wait so long."""
        self._until = max(self._until, self._clock.now() + retry_after)
        self._wait = retry_after
        self._told_at = time.monotonic()
        self._enforced = enforce

    @property
    def is_ignored(self) -> bool:
        """True if a request that arrives now should have waited."""
        late = time.monotonic() - self._told_at > self._knobs.on_its_way_s
        return late and self._clock.now() < self._until

    def check(self) -> None:
        """Raise GraphError while a pause is enforced; asking makes it longer."""
        if self._enforced and self._clock.now() < self._until:
            self._until = self._clock.now() + self._wait
            raise too_many(self._wait)

    def charge(self, units: int) -> None:
        """Raises GraphError when the minute's units are used up."""
        limit = self._knobs.units_per_minute
        if limit is None:
            return
        now = self._clock.now()
        if now - self._window >= WINDOW_S:
            self._window, self._used = now, 0
        if self._used + units > limit:
            wait = max(1.0, self._window + WINDOW_S - now)
            self.told(wait, enforce=True)
            raise too_many(wait)
        self._used += units

    def headers(self) -> dict[str, str]:
        """What is left, told from four fifths on."""
        limit = self._knobs.units_per_minute
        if limit is None or self._used < 0.8 * limit:
            return {}
        left = max(1, int(self._window + WINDOW_S - self._clock.now()))
        return {
            "RateLimit-Limit": str(limit),
            "RateLimit-Remaining": str(limit - self._used),
            "RateLimit-Reset": str(left),
        }


def too_many(wait: float) -> GraphError:
    after = (("Retry-After", str(max(1, round(wait)))),)
    message = "The app or user has been throttled."
    return GraphError(429, "activityLimitReached", message, inner="throttledRequest", headers=after)


def cost(method: str, route: str, *, has_token: bool) -> int:
    """Resource units, by SharePoint's list."""
    if method in ("GET", "HEAD") and (
        route in ("item", "content") or (route == "delta" and has_token)
    ):
        return 1
    return 5 if route == "permissions" else 2
