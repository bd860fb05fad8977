"""What a mount tells about itself: the words of the control socket and of csyncfs-admin.

Values only. The running mount fills them in through ``control``; when it is down, the store
answers with the same ones. Paths are relative to the root of the mount, without a leading
slash; the root is "".
"""

import enum
from typing import Literal

import msgspec


class QueueStatus(msgspec.Struct, frozen=True):
    """The journal: changes not yet in the cloud."""

    waiting: int = 0
    running: int = 0
    held: int = 0
    """Failed in a way that needs the user."""
    bytes: int = 0
    oldest_age_s: float | None = None
    """None: the queue is empty."""

    @property
    def total(self) -> int:
        return self.waiting + self.running + self.held


class CacheStatus(msgspec.Struct, frozen=True):
    used_bytes: int = 0
    limit_bytes: int | None = None
    """None: not known without the running mount."""
    dirty_bytes: int = 0
    files: int = 0


class TransferStatus(msgspec.Struct, frozen=True):
    """The transfer process."""

    pid: int | None = None
    restarts: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of ``csyncfs-admin status``."""

    spec: str
    mountpoint: str
    version: str
    mounted: bool = True
    pid: int | None = None
    online: bool | None = None
    """None: not known without the running mount."""
    last_error: str | None = None
    backend: str | None = None
    """What the store turned out to be: ``s3 (SeaweedFS dialect)``."""
    warnings: tuple[str, ...] = ()
    """Promises this store cannot keep, one line each."""
    queue: QueueStatus
    cache: CacheStatus
    inodes: int = 0
    conflicts: int = 0
    transfer: TransferStatus = TransferStatus()
    uptime_s: float | None = None


class CacheRow(msgspec.Struct, frozen=True):
    """One file with content on this machine."""

    path: str
    size: int
    present_bytes: int
    dirty_bytes: int
    state: Literal["full", "partial", "none", "dirty"]


class Evicted(msgspec.Struct, frozen=True):
    """What ``cache evict`` did. Unsent bytes and files in use are never evicted."""

    files: int
    freed_bytes: int
    kept: int
    """Files left alone."""


class ConflictRow(msgspec.Struct, frozen=True):
    """One file that was set aside."""

    path: str
    original: str
    """The path both sides wanted."""
    device: str
    """Whose version was set aside."""
    time: str
    """ISO 8601, UTC."""
    size: int


class Side(enum.StrEnum):
    """One of the two that are kept the same."""

    HERE = "here"
    STORE = "store"


class HeldRow(msgspec.Struct, frozen=True):
    """What was removed on one side, and stays on the other until the user agrees."""

    path: str
    removed: Side
    """Where it is gone."""
    items: int
    """With all below it."""
    time: str
    """Since when; ISO 8601, UTC."""


class Decided(msgspec.Struct, frozen=True):
    """What became of it."""

    count: int
    """Items: files, and directories with all below them."""


class FlushProgress(msgspec.Struct, frozen=True):
    """Where a flush stands; the last one is its result."""

    remaining: int
    """Changes still to be sent, held ones not counted."""
    remaining_bytes: int
    done: int
    """Changes sent since the flush began."""
    held: int
    error: str | None = None
    """Why the store takes nothing now; None: it does."""


def shown(path: bytes) -> str:
    """A path as it travels and is shown: bytes that are not UTF-8 as ``\\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def is_below(path: str, above: str | None) -> bool:
    """Whether a path is this one or inside it; None and "" hold everything."""
    return not above or path == above or path.startswith(f"{above}/")


def cache_state(
    size: int, present_bytes: int, dirty_bytes: int
) -> Literal["full", "partial", "none", "dirty"]:
    """The one word for how much of a file is here."""
    if dirty_bytes:
        return "dirty"
    if present_bytes >= size:
        return "full"
    return "partial" if present_bytes else "none"
