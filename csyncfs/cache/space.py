"""The space content files may take: a hard ceiling, and who waits when it is reached.

Owns the two sums (bytes on disk, and those of them not yet in the cloud); who puts bytes
on disk reserves them here first and gives them back when they go. When the ceiling is
reached clean bytes are evicted; when all is dirty, writers wait for uploads; ENOSPC comes
only when neither helps for a while. Two things go beyond the ceiling: what has to be fetched
so that an edited file can be uploaded, for only that makes dirty bytes clean; and holes, which
take no disk (``holes``). At mount the sums come from the store; only holes are measured.
"""

import errno
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

import trio

from csyncfs.cache.holes import Holes
from csyncfs.errors import FsError
from csyncfs.waits import waiting

STALL_S: Final = 30.0
"""A reservation fails when nothing became free or clean for so long; then the following
ones fail at once, until something does."""
MAX_WAIT_S: Final = 120.0
"""A reservation fails after so long even if others are served: every wait ends."""

_DISK_CHECK_S: Final = 1.0
_DISK_CHECK_BYTES: Final = 64 << 20
_MAX_SLACK_BYTES: Final = 64 << 20


class Evictor(Protocol):
    """Whoever can drop clean bytes from content files."""

    async def evict(self, n_bytes: int) -> int:
        """Free about so many bytes of disk, at least so many if possible; how many it were.

        Only the caller, Space, takes them off the sum: they are not released as well.
        """
        ...


class Space:
    """The accounts of one mount. Every sync method is atomic and never waits."""

    def __init__(
        self,
        limit_bytes: int,
        min_free_bytes: int,
        evictor: Evictor,
        *,
        disk_free: Callable[[], int],
        now: Callable[[], float] = trio.current_time,
        holes: Holes | None = None,
    ) -> None:
        self.holes = Holes() if holes is None else holes
        self.limit_bytes = limit_bytes
        self.min_free_bytes = min_free_bytes
        self._evictor = evictor
        self._disk_free = disk_free
        self._now = now
        self._used = 0
        self._dirty = 0
        # Free disk above the minimum, as of the last look and booked against since.
        self._disk_left = 0
        self._unchecked_bytes = 0
        self._next_check = -math.inf
        self._evicting = trio.Lock()
        self._changed = trio.Event()
        self._waiters = 0
        self._is_stuck = False

    @property
    def used_bytes(self) -> int:
        """On the disk."""
        return max(0, self._used - self.holes.total_bytes)

    @property
    def dirty_bytes(self) -> int:
        """Those of them that are not in the cloud yet."""
        return max(0, self._dirty - self.holes.total_bytes)

    @property
    def dirty_limit_bytes(self) -> int:
        """The rest is for reads, without which an upload with holes could not be filled."""
        return self.limit_bytes - self.limit_bytes // 16

    def adopt(self, used_bytes: int, dirty_bytes: int) -> None:
        """Take over the sums the store has, at mount."""
        self._used, self._dirty = used_bytes, dirty_bytes

    def reserve_nowait(self, n: int, dirty: int = 0) -> bool:
        """Book ``n`` more bytes on disk and ``dirty`` newly dirty ones, if there is room.

        False: nothing was booked; go the long way, ``reserve``.
        """
        if n and self.used_bytes + n > self.limit_bytes:
            return False
        if dirty and self.dirty_bytes + dirty > self.dirty_limit_bytes:
            return False
        if n:
            self._look_at_disk_if_due(n)
            if n > self._disk_left:
                return False
            self._disk_left -= n
            self._unchecked_bytes -= n
        self._used += n
        self._dirty += dirty
        return True

    async def reserve(self, n: int, dirty: int = 0) -> None:
        """As ``reserve_nowait``, but evict and wait for uploads first.

        Raises FsError(ENOSPC) if that does not help. Cancelled: nothing is booked. Is a
        checkpoint only if it has to wait.
        """
        if self.reserve_nowait(n, dirty):
            return
        if n > self.limit_bytes or dirty > self.dirty_limit_bytes:
            raise FsError(errno.ENOSPC, "larger than the whole cache may be")
        self._waiters += 1
        try:
            with waiting("room in the cache"):
                await self._wait_for_room(n, dirty)
        finally:
            self._waiters -= 1

    async def reserve_over(self, n: int) -> None:
        """Book ``n`` bytes without which no upload can go on, beyond the ceiling if need be: to
        wait for uploads would be to wait for ever. The disk's own limit stays.

        Raises FsError(ENOSPC). Is a checkpoint only if it has to evict.
        """
        if self.reserve_nowait(n):
            return
        await self._evict(n)
        if self.reserve_nowait(n):
            return
        self._look_at_disk_if_due(n)
        if n > self._disk_left:
            raise FsError(errno.ENOSPC, "no room on the disk for what an upload needs")
        self._disk_left -= n
        self._unchecked_bytes -= n
        self._used += n

    def book_hole(self, n: int) -> None:
        """A file grew by so many zeros that nobody wrote: dirty like others, but not on disk.
        ``holes`` is told when the file has its new length."""
        self._used += n
        self._dirty += n

    async def shrink(self) -> None:
        """Evict what an upload brought beyond the ceiling, once it can be."""
        async with self._evicting:
            if self.used_bytes > self.limit_bytes:
                await self._evictor_frees(self.used_bytes - self.limit_bytes)

    def release(self, n: int, dirty: int = 0) -> None:
        """Give back bytes that left the disk (cut off, removed, never written)."""
        self._used -= n
        self._dirty -= dirty
        self._disk_left += n
        self._announce()

    def cleaned(self, n: int) -> None:
        """These dirty bytes are in the cloud now: still on disk, but they can be evicted."""
        self._dirty -= n
        self._announce()

    async def _wait_for_room(self, n: int, dirty: int) -> None:
        began = progressed = self._now()
        while True:
            changed = self._changed  # taken before the await: nothing in between is missed
            freed = await self._evict(n)
            if self.reserve_nowait(n, dirty):
                return
            now = self._now()
            if freed or changed.is_set():
                progressed = now
            give_up = min(progressed + STALL_S, began + MAX_WAIT_S)
            if self._is_stuck or now >= give_up:
                self._is_stuck = True
                raise FsError(
                    errno.ENOSPC,
                    f"{self.dirty_bytes} of {self.used_bytes} cached bytes wait for upload",
                )
            if not freed:
                # Others may make room on the disk without telling: look at it now and then.
                with trio.move_on_after(min(give_up - now, _DISK_CHECK_S)):
                    await changed.wait()
                if changed.is_set():
                    progressed = self._now()

    async def _evict(self, n: int) -> int:
        """Have room made for ``n`` bytes and some more. 0: none can be, or none is lacking."""
        async with self._evicting:
            if n == 0:
                return 0
            self._look_at_disk_if_due(n)
            lacking = max(self.used_bytes + n - self.limit_bytes, n - self._disk_left)
            if lacking <= 0:
                return 0
            slack = min(self.limit_bytes // 16, _MAX_SLACK_BYTES)
            return await self._evictor_frees(lacking + slack)

    async def _evictor_frees(self, n: int) -> int:
        freed = await self._evictor.evict(n)
        if freed:
            # Counted on, not measured: some file systems free space seconds later, and a look
            # now would evict the whole cache.
            self.release(freed)
        return freed

    def _look_at_disk_if_due(self, n: int) -> None:
        now = self._now()
        if now >= self._next_check or n > self._unchecked_bytes:
            self._disk_left = self._disk_free() - self.min_free_bytes
            self._unchecked_bytes = _DISK_CHECK_BYTES
            self._next_check = now + _DISK_CHECK_S

    def _announce(self) -> None:
        self._is_stuck = False
        if self._waiters:
            self._changed.set()
            self._changed = trio.Event()


def disk_free_bytes(directories: Iterable[Path]) -> int:
    """What is free for us on the fullest of the file systems these directories are on.

    A directory that does not exist (yet, or any more) counts as its parent.
    """
    return min(_free_bytes(directory) for directory in directories)


def _free_bytes(directory: Path) -> int:
    try:
        stat = os.statvfs(directory)
    except FileNotFoundError:
        return _free_bytes(directory.parent)
    return stat.f_bavail * stat.f_frsize
