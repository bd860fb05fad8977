"""A mount that exists only as answers, for the control socket's two ends."""

import errno
from dataclasses import dataclass, field

import trio

from csyncfs.answers import (
    CacheRow,
    CacheStatus,
    ConflictRow,
    Decided,
    Evicted,
    FlushProgress,
    HeldRow,
    QueueStatus,
    Side,
    Status,
)
from csyncfs.control import Progress
from csyncfs.errors import FsError, Offline


@dataclass
class FakeSteer:
    """Implements ``control.Steer``; remembers what it was asked."""

    mountpoint: str = "/mnt"
    pending: int = 3
    held: int = 0
    is_stuck: bool = False
    trouble: str | None = None
    """A waiting flush never gets anything done."""
    asked: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    cancelled: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None

    async def status(self) -> Status:
        self.asked.append(("status",))
        if self.error is not None:
            raise self.error
        return Status(
            spec="s3://bucket",
            mountpoint=self.mountpoint,
            version="9.9",
            pid=42,
            online=True,
            backend="s3 (test dialect)",
            warnings=("deletes are not conditional",),
            queue=QueueStatus(
                waiting=self.pending, held=self.held, bytes=5 << 20, oldest_age_s=75.0
            ),
            cache=CacheStatus(used_bytes=3 << 30, limit_bytes=10 << 30, files=12),
            inodes=12345,
            conflicts=1,
            uptime_s=3700.0,
        )

    async def flush(self, wait: bool, timeout_s: float | None, progress: Progress) -> FlushProgress:
        self.asked.append(("flush", wait, timeout_s))
        done = 0
        while wait and self.pending and not self.is_stuck:
            await progress(FlushProgress(self.pending, self.pending * 100, done, self.held))
            self.pending, done = self.pending - 1, done + 1
        if wait and self.is_stuck:
            await self._wait_for_ever(timeout_s, progress)
        return FlushProgress(self.pending, self.pending * 100, done, self.held, self.trouble)

    async def _wait_for_ever(self, timeout_s: float | None, progress: Progress) -> None:
        try:
            with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
                while True:
                    await progress(FlushProgress(self.pending, 300, 0, self.held))
                    await trio.sleep(0.01)
        except (trio.BrokenResourceError, trio.Cancelled):
            self.cancelled.set()
            raise

    async def cache_ls(self, path: str | None) -> list[CacheRow]:
        self.asked.append(("cache_ls", path))
        if path == "absent":
            raise FsError(errno.ENOENT, path)
        return [CacheRow("a/full.txt", 10, 10, 0, "full"), CacheRow("b\x1b[31m", 9, 4, 1, "dirty")]

    async def cache_evict(self, path: str | None) -> Evicted:
        self.asked.append(("cache_evict", path))
        return Evicted(files=2, freed_bytes=4096, kept=1)

    async def conflicts(self, path: str | None) -> list[ConflictRow]:
        self.asked.append(("conflicts", path))
        if self.error is not None:
            raise Offline("no route")
        name = "a.txt.desk-20261121T101500Z.conflict"
        return [ConflictRow(name, "a.txt", "desk", "2026-11-21T10:15:00Z", 7)]

    async def held_rows(self) -> list[HeldRow]:
        self.asked.append(("held",))
        return [HeldRow("photos", Side.STORE, 12345, "2026-11-21T10:15:00Z")]

    async def decide_held(self, accept: bool) -> Decided:
        self.asked.append(("decide_held", accept))
        return Decided(1)
