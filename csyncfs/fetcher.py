"""Single-flight ranged GETs into content files.

Owns the running fetches of every live inode. Whoever needs bytes says which; a range is
asked for once, waiters wake as bytes land, and a reader that goes away does not stop a
download that others share.
"""

import errno
import logging
import os
import random
from typing import NoReturn, Protocol

import trio

from csyncfs.backends.base import Backend
from csyncfs.cache.space import Space
from csyncfs.errors import (
    CsyncError,
    FsError,
    NotFound,
    Offline,
    QuotaExceeded,
    Retry,
    VersionMismatch,
)
from csyncfs.inode import Fetch, GivenUp, LiveInode
from csyncfs.retry import delay_s
from csyncfs.tree import Tree
from csyncfs.types import InodeId, Item, Location, Span
from csyncfs.waits import waiting

log = logging.getLogger(__name__)

# One GET carries at most this much: what a waiter behind it has to wait for, and what is
# lost when the reader seeks away.
MAX_FETCH_BYTES = 32 << 20
MIN_FETCH_BYTES = 128 << 10
# How long a fetch waits for room on the disk: then its reader gets the bytes without it.
_ROOM_S = 3.0
# An unlinked file whose readers still need its item is tried again after this long.
_KEEP_AGAIN_S = 5.0
# A read of bytes that did not come in time, so soon after that, is the same one to its program.
_SAME_READ_S = 1.0


class ForeignChange(Protocol):
    """Called when a fetch finds that the item is not what the store believes."""

    async def look_again(self, ino: InodeId) -> None:
        """Bring the inode's name up to date with the cloud."""
        ...

    def told(self, ino: InodeId, item: Item) -> None:
        """A fetch told the item's attributes."""
        ...

    def fetched(self, live: LiveInode) -> None:
        """A fetch ended, however; it may have been the last user of the inode."""
        ...


class Fetcher:
    """Brings absent bytes into content files."""

    def __init__(self, backend: Backend, tree: Tree, space: Space, *, timeout_s: float) -> None:
        self._backend = backend
        self._tree = tree
        self._space = space
        self._timeout_s = timeout_s
        # Space is reserved for a whole part: several have to fit.
        self._part_bytes = max(MIN_FETCH_BYTES, min(MAX_FETCH_BYTES, space.limit_bytes // 8))
        self._nursery: trio.Nursery | None = None
        self.whole_bytes = 0
        """Smaller content is asked for whole; as the store's capabilities say."""
        self.fetched_bytes = 0
        self.fetch_count = 0

    async def run(
        self,
        change: ForeignChange,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Host the running fetches; a cancelled reader must not kill a shared download."""
        self._change = change
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def ensure(
        self,
        live: LiveInode,
        start: int,
        end: int,
        window: Span,
        *,
        is_for_upload: bool = False,
    ) -> None:
        """Return when bytes ``[start, end)`` are in the content file.

        ``window`` covers them and says what else to fetch by the way. ``is_for_upload``: the
        cache's ceiling does not hold it up. Raises what the last
        try ended with: ETIMEDOUT within the deadline when the store does not answer,
        ESTALE when this version is gone.
        """
        self._must_not_be_again(live, Span(start, end))
        deadline = trio.current_time() + self._timeout_s
        attempt = 0
        # A new version may be shorter: what is behind its end nobody can wait for.
        while not live.present.covers(start, end := max(start, min(end, live.size))):
            if is_for_upload:
                self._end_waiting(live)
            self.start(live, self._wide(live, window), is_for_upload=is_for_upload)
            self.start(live, Span(start, end), is_for_upload=is_for_upload)
            mine = [f for f in live.fetches if f.span.start < end and start < f.span.end]
            with trio.move_on_at(deadline) as patience, waiting("bytes from the store"):
                await self._landed(live, start, end, mine)
            if patience.cancelled_caught:
                self._give_up(live, Span(start, end), errno.ETIMEDOUT, "no answer in time")
            error = next((f.error for f in mine if f.error is not None), None)
            if error is None or live.present.covers(start, end):
                continue
            attempt += 1
            await self._after_failure(live, Span(start, end), error, attempt, deadline)

    def _wide(self, live: LiveInode, window: Span) -> Span:
        limit = min(self.whole_bytes, self._part_bytes)
        return Span(0, live.size) if live.base and live.base.size <= limit else window

    def _must_not_be_again(self, live: LiveInode, span: Span) -> None:
        """The kernel asks a second time at once for a page that its readahead did not get: a
        program must not wait twice as long for that."""
        last = live.given_up
        if last is None:
            return
        if trio.current_time() - last.at < _SAME_READ_S and _touch(last.span, span):
            raise FsError(last.code, "no answer a moment ago")
        live.given_up = None

    def _give_up(self, live: LiveInode, span: Span, code: int, why: str) -> NoReturn:
        live.given_up = GivenUp(span, trio.current_time(), code)
        raise FsError(code, why)

    async def read_through(self, live: LiveInode, start: int, end: int) -> bytes:
        """The bytes without keeping them, where the disk has no room for them."""
        base = live.base
        assert base is not None
        fd = os.memfd_create("csyncfs-read")
        try:
            span = Span(start, min(end, base.size))
            if span.start < span.end:
                await self._backend.fetch(self._location(live), span, fd, base, lambda _: None)
            data = bytearray(end - start)
            found = os.pread(fd, end - start, start)
        finally:
            os.close(fd)
        data[: len(found)] = found
        # atomic: what is here, edits above all, counts
        for here in live.present.within(start, end) if live.fd >= 0 else ():
            own = os.pread(live.fd, here.size_bytes, here.start)
            data[here.start - start : here.start - start + len(own)] = own
        return bytes(data[: max(0, min(end, live.size) - start)])

    async def _landed(self, live: LiveInode, start: int, end: int, mine: list[Fetch]) -> None:
        while not live.present.covers(start, end):
            if not live.stops and all(fetch.done.is_set() for fetch in mine):
                return
            await live.landed.wait()

    async def _after_failure(
        self, live: LiveInode, span: Span, error: BaseException, attempt: int, deadline: float
    ) -> None:
        if isinstance(error, VersionMismatch | NotFound):
            before = live.base
            try:
                if not live.is_unlinked:
                    await self._change.look_again(live.ino)
            except Retry as exc:
                error = exc
            if live.is_unlinked or (live.base != before and live.was_read):
                raise FsError(errno.ESTALE, "the file was replaced in the cloud") from error
            if live.base != before:
                return
            # Nothing has changed, says the store: its refusal was garbled on the way.
        elif not isinstance(error, Retry):
            raise error
        wait_s = delay_s(attempt, base_s=0.2, cap_s=4.0, jitter=random.random)
        if trio.current_time() + wait_s >= deadline:
            code = errno.ETIMEDOUT if isinstance(error, Offline) else errno.EIO
            self._give_up(live, span, code, str(error))
        with waiting(f"another try, after: {error}"):
            await trio.sleep(wait_s)

    def keep(self, live: LiveInode) -> None:
        """Fetch all of it while somebody has it open, however often that fails; never waits."""
        if self._nursery is not None:
            self._nursery.start_soon(self._keep, live, name=f"keep {live.ino}")

    async def _keep(self, live: LiveInode) -> None:
        while live.handles and not live.is_whole():
            try:
                await self.ensure(live, 0, live.size, Span(0, live.size))
            except CsyncError as exc:
                if isinstance(exc, FsError) and exc.code == errno.ESTALE:
                    return
                await trio.sleep(_KEEP_AGAIN_S)

    @staticmethod
    def _end_waiting(live: LiveInode) -> None:
        """Fetches for readers that wait for room: in the way of one that need not."""
        for fetch in live.fetches:
            if not fetch.has_room and not fetch.is_for_upload:
                fetch.scope.cancel()

    def start(self, live: LiveInode, window: Span, *, is_for_upload: bool = False) -> None:
        """Begin to fetch what is absent of the window and not under way; never waits."""
        if live.base is None or any(_touch(window, stop) for stop in live.stops):
            return
        end = min(window.end, live.size)
        for missing in live.present.missing(window.start, end):
            for span in _not_under_way(live, missing):
                for part_start in range(span.start, span.end, self._part_bytes):
                    part_end = min(part_start + self._part_bytes, span.end)
                    self._begin(live, Span(part_start, part_end), is_for_upload)

    def _begin(self, live: LiveInode, span: Span, is_for_upload: bool) -> None:
        if self._nursery is None:
            raise FsError(errno.EIO, "shutting down")
        fetch = Fetch(span, trio.CancelScope(), is_for_upload)
        live.fetches.append(fetch)
        self._nursery.start_soon(self._fetch, live, fetch, name=f"fetch {live.ino}")

    async def _fetch(self, live: LiveInode, fetch: Fetch) -> None:
        """Never raises: the outcome is in ``fetch``."""
        reserved = 0
        landed = 0

        def on_landed(span: Span) -> None:
            nonlocal landed
            landed += span.size_bytes
            live.present.add(span.start, span.end)
            live.are_extents_unsaved = True
            live.given_up = None
            self.fetched_bytes += span.size_bytes
            live.wake()

        try:
            with fetch.scope:
                await self._find_room(fetch)
                reserved = fetch.span.size_bytes
                fetch.has_room = True
                base = live.base
                assert base is not None
                self.fetch_count += 1
                item = await self._backend.fetch(
                    self._location(live), fetch.span, live.fd, base, on_landed
                )
                self._change.told(live.ino, item)
        except CsyncError as exc:
            # A download does not use up the store's quota: it is our disk that is full.
            is_full = isinstance(exc, QuotaExceeded)
            fetch.error = FsError(errno.ENOSPC, "the cache's disk is full") if is_full else exc
            log.info("fetch failed ino=%d start=%d error=%s", live.ino, fetch.span.start, exc)
        except OSError as exc:
            fetch.error = FsError(exc.errno or errno.EIO)
        finally:
            self._space.release(reserved - landed)
            live.fetches.remove(fetch)
            fetch.done.set()
            live.wake()
            self._change.fetched(live)

    async def _find_room(self, fetch: Fetch) -> None:
        if fetch.is_for_upload:
            await self._space.reserve_over(fetch.span.size_bytes)
            return
        with trio.move_on_after(_ROOM_S) as patience:
            await self._space.reserve(fetch.span.size_bytes)
        if patience.cancelled_caught:
            raise FsError(errno.ENOSPC, "no room in the cache")

    def _location(self, live: LiveInode) -> Location:
        if live.orphan_location is not None:
            return live.orphan_location
        return self._tree.location(self._tree.row(live.ino))

    async def stop(self, live: LiveInode, start: int, end: int) -> None:
        """End the fetches that touch this range; then nobody else writes to it.

        When it returns none has begun again: the caller's next step must not await.
        """
        span = Span(start, end)
        live.stops.append(span)
        try:
            with trio.CancelScope(shield=True):
                for fetch in list(live.fetches):
                    if _touch(fetch.span, span):
                        fetch.scope.cancel()
                        await fetch.done.wait()
        finally:
            live.stops.remove(span)
            # Whoever waits for these bytes begins anew, behind the write.
            live.wake()


def _touch(a: Span, b: Span) -> bool:
    return a.start < b.end and b.start < a.end


def _not_under_way(live: LiveInode, span: Span) -> list[Span]:
    """The parts of a span that no running fetch covers."""
    parts = [span]
    for fetch in live.fetches:
        rest: list[Span] = []
        for part in parts:
            if part.end <= fetch.span.start or fetch.span.end <= part.start:
                rest.append(part)
                continue
            if part.start < fetch.span.start:
                rest.append(Span(part.start, fetch.span.start))
            if fetch.span.end < part.end:
                rest.append(Span(fetch.span.end, part.end))
        parts = rest
    return parts
