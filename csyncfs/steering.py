"""What csyncfs-admin can ask of a running mount; the answers of ``control``."""

import errno
import math
import os
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from csyncfs import __version__
from csyncfs.answers import (
    CacheRow,
    CacheStatus,
    ConflictRow,
    Decided,
    Evicted,
    FlushProgress,
    HeldRow,
    Status,
    TransferStatus,
    is_below,
    shown,
)
from csyncfs.cache.space import Space
from csyncfs.clock import Clock
from csyncfs.config import MountConfig
from csyncfs.content import Content
from csyncfs.control import Progress
from csyncfs.deletions import Deletions
from csyncfs.errors import FsError
from csyncfs.inode import InodeTable
from csyncfs.poller import Poller
from csyncfs.store import aliases, conflicts, contents, inodes, journal, overview
from csyncfs.store.db import Store
from csyncfs.store.offline import open_read_only
from csyncfs.transfer.client import TransferClient
from csyncfs.types import ROOT, InodeId
from csyncfs.uploader import Uploader

R = TypeVar("R")

# Counting what a flush has before it takes at most one part in so many of the loop.
_COUNT_SHARE: Final = 10


class Steering:
    """Answers for one mount."""

    def __init__(
        self,
        config: MountConfig,
        store: Store,
        table: InodeTable,
        content: Content,
        space: Space,
        uploader: Uploader,
        poller: Poller,
        deletions: Deletions,
        client: TransferClient,
        clock: Clock,
        warnings: Callable[[], tuple[str, ...]],
    ) -> None:
        self._config = config
        self._store = store
        self._table = table
        self._content = content
        self._space = space
        self._uploader = uploader
        self._poller = poller
        self._deletions = deletions
        self._client = client
        self._clock = clock
        self._warnings = warnings
        self._started = trio.current_time()

    async def status(self) -> Status:
        running = self._uploader.running_count
        capabilities = self._client.capabilities
        return Status(
            spec=str(self._config.spec),
            mountpoint=str(self._config.mountpoint),
            version=__version__,
            pid=os.getpid(),
            online=self._client.online,
            last_error=self._uploader.last_error or self._client.last_error or self._held_error(),
            backend=capabilities.name if capabilities else None,
            warnings=self._warnings(),
            queue=overview.queue(self._store, self._clock.now_ns(), running),
            cache=CacheStatus(
                used_bytes=self._space.used_bytes,
                limit_bytes=self._space.limit_bytes,
                dirty_bytes=self._space.dirty_bytes,
                files=contents.totals(self._store)[0],
            ),
            inodes=inodes.count(self._store),
            conflicts=conflicts.count_open(self._store),
            transfer=TransferStatus(pid=self._client.pid, restarts=self._client.restarts),
            uptime_s=trio.current_time() - self._started,
        )

    def _held_error(self) -> str | None:
        """Why something waits for the user; the first of many."""
        return journal.first_error(self._store, held=True)

    async def flush(self, wait: bool, timeout_s: float | None, progress: Progress) -> FlushProgress:
        self._content.save_all()
        with self._store.transaction():
            journal.wake(self._store, self._clock.now_ns(), held=True)
        self._uploader.open_gate()
        before = self._uploader.done_count
        deadline = math.inf if timeout_s is None else trio.current_time() + timeout_s
        while True:
            began = trio.current_time()
            now = self._flush_progress(before)
            counting_s = trio.current_time() - began
            await progress(now)
            if not wait or now.remaining == 0 or trio.current_time() >= deadline:
                return now
            with trio.move_on_after(min(0.5, deadline - trio.current_time())):
                await self._uploader.ended()
            # Counting a long queue takes milliseconds: not after each that ends.
            await trio.sleep(min(0.5, _COUNT_SHARE * counting_s))

    def _flush_progress(self, before: int) -> FlushProgress:
        totals = journal.totals(self._store)
        return FlushProgress(
            remaining=totals.waiting,
            remaining_bytes=totals.put_bytes,
            done=self._uploader.done_count - before,
            held=totals.held,
            error=self._trouble() if totals.waiting else None,
        )

    def _trouble(self) -> str | None:
        error = self._uploader.last_error or self._client.last_error
        return error or (None if self._client.online else "the store has not answered yet")

    async def cache_ls(self, path: str | None) -> list[CacheRow]:
        self._content.save_all()
        rows = await self._scan(overview.cache_rows, path)
        if not rows:
            self._must_exist(path)
        return rows

    async def _scan(
        self, read: Callable[[Store, str | None], list[R]], path: str | None
    ) -> list[R]:
        """A walk over the whole store, off the loop thread, with a connection of its own."""

        def scan() -> list[R]:
            with open_read_only(self._config.state_dir) as store:
                return read(store, path)

        return await trio.to_thread.run_sync(scan)

    async def cache_evict(self, path: str | None) -> Evicted:
        self._must_exist(path)
        files = freed = kept = 0
        for cached in contents.all_cached(self._store):
            found = aliases.paths_of(self._store, cached.inode)
            if found and not any(is_below(shown(name), path) for name in found):
                continue
            bytes_freed = self._content.evict_now(cached.inode)
            freed += bytes_freed
            files += bytes_freed > 0
            kept += bytes_freed == 0 and cached.bytes > 0
            await trio.lowlevel.checkpoint()
        return Evicted(files=files, freed_bytes=freed, kept=kept)

    async def conflicts(self, path: str | None) -> list[ConflictRow]:
        self._must_exist(path)
        return await self._scan(overview.conflict_rows, path)

    async def held_rows(self) -> list[HeldRow]:
        return await self._scan(lambda store, _: overview.held_rows(store), None)

    async def decide_held(self, accept: bool) -> Decided:
        count = await self._poller.decide_held(accept=accept)
        count += self._deletions.accept() if accept else await self._deletions.reject()
        self._uploader.open_gate()
        return Decided(count)

    def _must_exist(self, path: str | None) -> None:
        """Raises ENOENT for a path the mount does not know."""
        ino: InodeId = ROOT
        for part in (path or "").encode("utf-8", "surrogateescape").split(b"/"):
            if not part:
                continue
            row = inodes.lookup(self._store, ino, part)
            if row is None:
                raise FsError(errno.ENOENT, path or "")
            ino = row.id
