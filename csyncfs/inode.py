"""Inodes in memory: what is open or in transit right now.

Owns ``LiveInode`` and the table of them. Rows in the store are the truth about everything
else; an inode is live while it has a handle, a fetch or an upload, and may be dropped from
memory whenever it has none and nothing unsaved.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import trio

from csyncfs.extents import Extents
from csyncfs.store import inodes
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.types import Attributes, InodeId, Location, RemoteVersion, Span


@dataclass(eq=False, slots=True)
class Fetch:
    """One ranged GET under way into a content file."""

    span: Span
    scope: trio.CancelScope
    is_for_upload: bool = False
    has_room: bool = False
    done: trio.Event = field(default_factory=trio.Event)
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A read that found no answer in time."""

    span: Span
    at: float
    """Trio's clock."""
    code: int
    """The errno its program got."""


@dataclass(frozen=True, slots=True)
class LostName:
    """The name an open inode had when the cloud took it away."""

    parent: InodeId
    name: bytes
    key: str
    device: str
    """Ours: whose edit it will be if a program writes on."""


@dataclass(eq=False, slots=True)
class LiveInode:
    """One inode in use. Changed only in synchronous blocks on the loop thread."""

    ino: InodeId
    size: int
    mtime_ns: int
    ctime_ns: int
    generation: int
    """Goes up with every change of content; the store has the one last saved."""
    base: RemoteVersion | None
    is_dirty: bool
    present: Extents
    dirty: Extents
    fd: int = -1
    """Content file; -1: not open."""
    is_dirty_file: bool = False
    """The content file is on the state side (it holds bytes the cloud has not)."""
    handles: int = 0
    writers: int = 0
    pins: int = 0
    """Uploads and fetches using it beside the handles."""
    is_unsaved: bool = False
    """Size, extents or generation are newer than the store."""
    is_held: bool = False
    """Its PUT waits for the next flush: a program is writing."""
    are_extents_unsaved: bool = False
    is_unlinked: bool = False
    lost: LostName | None = None
    """Unlinked by the cloud, not by a program."""
    orphan_location: Location | None = None
    """Where an unlinked inode's bytes still are, for those who have it open."""
    was_read: bool = False
    """A program has seen bytes of this version through an open handle."""
    used_ns: int = 0
    fetches: list[Fetch] = field(default_factory=list[Fetch])
    stops: list[Span] = field(default_factory=list[Span])
    """Ranges a writer is about to change: no fetch may begin there."""
    given_up: GivenUp | None = None
    landed: trio.Event = field(default_factory=trio.Event)
    """Set and replaced each time bytes landed or a fetch ended."""

    @property
    def is_idle(self) -> bool:
        return not (self.handles or self.pins or self.fetches or self.stops)

    def wake(self) -> None:
        """Tell the waiters that something landed."""
        self.landed.set()
        self.landed = trio.Event()

    def is_whole(self) -> bool:
        """Whether no byte would have to be fetched."""
        return self.base is None or self.present.covers(0, self.size)


class InodeTable:
    """The live inodes, and how often the kernel knows each inode."""

    def __init__(self) -> None:
        self._live: dict[InodeId, LiveInode] = {}
        self.lookups: dict[InodeId, int] = {}
        self.running: set[InodeId] = set()
        """Inodes with an intent on its way; the uploader's."""
        self.accessed: dict[InodeId, int] = {}
        """Times of last access that the store does not have yet, see ``atime``."""

    def get(self, ino: InodeId) -> LiveInode | None:
        return self._live.get(ino)

    def add(self, live: LiveInode) -> None:
        assert live.ino not in self._live
        self._live[live.ino] = live

    def drop(self, ino: InodeId) -> None:
        del self._live[ino]

    def rebase(self, store: Store, ino: InodeId, base: RemoteVersion | None) -> None:
        """The inode descends from another version as soon as the transaction has committed."""
        live = self._live.get(ino)
        if live is None:
            return

        def rebased() -> None:
            live.base = base

        store.after_commit(rebased)

    def __iter__(self) -> Iterator[LiveInode]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)

    def overlay(self, row: InodeRow) -> InodeRow:
        """The row with what is newer in memory: what stat(2) must tell."""
        if row.id in self.accessed:
            row = row._replace(atime_ns=self.accessed[row.id])
        live = self._live.get(row.id)
        if live is None or not live.is_unsaved:
            return row
        ctime_ns = max(row.ctime_ns, live.ctime_ns)
        return row._replace(size=live.size, mtime_ns=live.mtime_ns, ctime_ns=ctime_ns)

    def has_handles(self, ino: InodeId) -> bool:
        live = self._live.get(ino)
        return live is not None and live.handles > 0

    def remember(self, ino: InodeId) -> None:
        """The kernel was told of this inode once more."""
        self.lookups[ino] = self.lookups.get(ino, 0) + 1

    def forget(self, ino: InodeId, count: int) -> bool:
        """The kernel dropped that many references; True: it has none left."""
        left = self.lookups.get(ino, 0) - count
        if left > 0:
            self.lookups[ino] = left
            return False
        self.lookups.pop(ino, None)
        return True


def attributes_of(store: Store, row: InodeRow) -> Attributes:
    """What the inode's item carries, or should."""
    xattrs = inodes.all_xattrs(store, row.id)
    return Attributes(
        mode=row.mode,
        uid=row.uid,
        gid=row.gid,
        mtime_ns=row.mtime_ns,
        rdev=row.rdev or None,
        xattrs={name.decode("utf-8", "replace"): value for name, value in xattrs.items()},
    )


def growth(live: LiveInode, start: int, end: int) -> tuple[int, int]:
    """How many bytes of a write are new in the content file, and how many newly dirty.

    Without the hole a program seeks over, which is uploaded like the rest.
    """
    if start >= live.size:
        return end - start, end - start
    new = sum(span.size_bytes for span in live.present.missing(start, end))
    return new, sum(span.size_bytes for span in live.dirty.missing(start, end))
