"""What an account is allowed at once: one gate for all its requests, and so many at a time.

Graph says "later" for a whole account, and whoever asks before has to wait longer. So nothing
passes, no upload either, until the time is over.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import trio

from csyncfs.errors import Throttled

REQUESTS: Final = 8
DOWNLOADS: Final = 8
_PATIENCE_S: Final = 8.0
"""Longer pauses are told to the caller: there a deadline runs."""
_MARGIN_S: Final = 0.05
_LONGEST_S: Final = 600.0


class Account:
    """The gate and the places. Seconds of trio's clock."""

    def __init__(self) -> None:
        self._opens_at = float("-inf")
        self._requests = trio.CapacityLimiter(REQUESTS)
        self._downloads = trio.CapacityLimiter(DOWNLOADS)

    @asynccontextmanager
    async def request(self) -> AsyncGenerator[None]:
        """While it is open, one request of the API or of an upload may run. Raises Throttled."""
        async with self._requests:
            await self._passed()
            yield

    @asynccontextmanager
    async def download(self) -> AsyncGenerator[None]:
        async with self._downloads:
            await self._passed()
            yield

    def close(self, after_s: float) -> None:
        """Graph wants to be left alone so long."""
        opens_at = trio.current_time() + min(after_s, _LONGEST_S) + _MARGIN_S
        self._opens_at = max(self._opens_at, opens_at)

    async def _passed(self) -> None:
        patience = trio.current_time() + _PATIENCE_S
        # More replies may close it again while we wait.
        while (rest_s := self._opens_at - trio.current_time()) > 0:
            if self._opens_at > patience:
                raise Throttled("the store asked for fewer requests", rest_s)
            await trio.sleep(rest_s)
