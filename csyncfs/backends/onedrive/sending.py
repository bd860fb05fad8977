"""Content on its way up: read in threads, summed up, confirmed once."""

from collections.abc import Awaitable, Callable

import trio

from csyncfs.backends.base import Source
from csyncfs.backends.content import Content
from csyncfs.backends.onedrive.quickxor import QuickXor
from csyncfs.errors import Superseded

_HASH_BYTES = 4 << 20


class Sending:
    """One source. What fits into one fragment is read once and kept; of larger content the last
    fragment is, so that nothing is sent that was read after the question."""

    def __init__(self, source: Source, fragment_bytes: int, progress: Callable[[], None]) -> None:
        self.size = source.size
        self.progress = progress
        """To be called when the server has more of it for good."""
        self.before_commit: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        """To be called when the last of it is about to be sent."""
        self._source = source
        self._content = Content(source.fd)
        self._fragment_bytes = fragment_bytes
        self._kept: tuple[int, bytes] | None = None
        self._is_confirmed = False
        self._quick_xor = QuickXor()
        self._summed_to = 0

    @property
    def is_confirmed(self) -> bool:
        return self._is_confirmed

    @property
    def is_small(self) -> bool:
        """It can be sent again as it was when it was confirmed."""
        return self.size <= self._fragment_bytes

    async def fragment(self, start: int) -> bytes:
        """The next bytes to send. Raises Superseded if there are not as many any more."""
        if self._kept is not None and start >= self._kept[0]:
            begin, data = self._kept
            return data[start - begin :]
        if self._is_confirmed:
            raise Superseded("the server asks for content that may have changed since")
        begin = 0 if self.is_small else start
        end = min(begin + self._fragment_bytes, self.size)
        data = await self._read(begin, end)
        if end == self.size:
            self._kept = begin, data
        await self._sum_up(begin, data)
        return data[start - begin :]

    async def confirm(self) -> None:
        """Ask, the first time. Raises Superseded."""
        if self._is_confirmed:
            return
        if not await self._source.confirm():
            raise Superseded("the content changed before the commit")
        self._is_confirmed = True

    async def quick_xor(self) -> str:
        """Of all the content; what was not sent by this process is read for it."""
        while self._summed_to < self.size:
            if self._kept is not None and self._summed_to == self._kept[0]:
                await self._sum_up(*self._kept)
            else:
                await self._sum_next()
        return self._quick_xor.base64()

    async def _sum_next(self) -> None:
        end = min(self._summed_to + _HASH_BYTES, self.size)
        if self._kept is not None and self._summed_to < self._kept[0]:
            end = min(end, self._kept[0])
        await self._sum_up(self._summed_to, await self._read(self._summed_to, end))

    async def _sum_up(self, begin: int, data: bytes) -> None:
        while self._summed_to < begin:
            end = min(self._summed_to + _HASH_BYTES, begin)
            await self._sum_up(self._summed_to, await self._read(self._summed_to, end))
        fresh = data[self._summed_to - begin :]
        if fresh:
            await trio.to_thread.run_sync(self._quick_xor.update, fresh)
            self._summed_to = begin + len(data)

    async def _read(self, start: int, end: int) -> bytes:
        def work() -> bytes:
            return self._content.read(start, end - start)[0]

        return await trio.to_thread.run_sync(work)
