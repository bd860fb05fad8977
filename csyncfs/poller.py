"""The poller: turns remote changes into local truth by listing directories again.

Owns which directory is listed when. A directory nobody ever listed is listed before it can
answer; one in use is listed again behind the answer once its listing is older than
``refresh``, unless the store tells by itself what has changed (``changes``). A failed listing
changes nothing: unknown is not gone.
"""

import errno
import logging
import random
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import trio

from csyncfs.adopt import Adopter
from csyncfs.backends.base import Backend
from csyncfs.clock import Clock
from csyncfs.errors import CsyncError, FsError, NotFound, Retry
from csyncfs.inode import InodeTable
from csyncfs.ordering import Ordering
from csyncfs.removals import Removals
from csyncfs.retry import delay_s
from csyncfs.store import attempts, inodes, journal
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.tree import Tree
from csyncfs.types import ROOT, InodeId, Item, Kind, Page
from csyncfs.waits import waiting

log = logging.getLogger(__name__)

_NS = 1_000_000_000
# Names applied in one transaction: it holds the loop, and so every program, for about 2 ms.
_BATCH = 25
_LISTERS = 4
_TELLERS = 4
# How long what this mount did itself is remembered, for a change feed that tells of it late.
# OneDrive's was seen to lag by a minute and more.
ECHO_NS = 300 * _NS
# Together at most 40 HEADs a second: a listing of a large bucket must not cost 80 times more.
_TELL_EVERY_S = 0.1


@dataclass(eq=False, slots=True)
class Listing:
    """One directory being listed, or whatever else is asked of the store."""

    touched: set[str] = field(default_factory=set[str])
    """Keys this mount changed since it began: what the listing says of them may be old."""
    done: trio.Event = field(default_factory=trio.Event)
    error: CsyncError | None = None


class Poller:
    """Keeps the tree up to date with the cloud."""

    def __init__(
        self,
        store: Store,
        table: InodeTable,
        tree: Tree,
        adopter: Adopter,
        backend: Backend,
        ordering: Ordering,
        clock: Clock,
        *,
        refresh_s: float,
        timeout_s: float,
    ) -> None:
        self._store = store
        self._table = table
        self._tree = tree
        self._adopter = adopter
        self._backend = backend
        self._ordering = ordering
        self._clock = clock
        self._refresh_ns = int(refresh_s * _NS)
        self._timeout_s = timeout_s
        self._listings: dict[InodeId, Listing] = {}
        self._learning: set[Listing] = set()
        self._failed_at: dict[InodeId, float] = {}
        self.removals = Removals(store, adopter, clock)
        self.has_feed = False
        """The store tells what has changed: known directories need no listing."""
        self._touched_ns: dict[str, int] = {}
        self.is_dark = False
        """Somebody waited for names in vain, and none came since."""
        self._queue: deque[InodeId] = deque()
        self._queued: set[InodeId] = set()
        self._untold: deque[InodeId] = deque()
        self._wake = trio.Event()
        self._wake_tellers = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._asking: set[InodeId] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the queues until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for _ in range(_LISTERS):
                nursery.start_soon(self._lister)
            for _ in range(_TELLERS):
                nursery.start_soon(self._teller)
            task_status.started()

    # -- what others ask for -------------------------------------------------------------

    def used(self, row: InodeRow) -> None:
        """Somebody looks at this directory: list it again soon if it is due; never waits."""
        if self.has_feed:
            return
        if row.listed_ns is not None and self._clock.now_ns() - row.listed_ns >= self._refresh_ns:
            self.look_soon(row.id)

    def look_soon(self, directory: InodeId) -> None:
        """List this directory in the background."""
        failed_at = self._failed_at.get(directory)
        if failed_at is not None and trio.current_time() < failed_at + self._refresh_ns / _NS:
            return
        if directory not in self._queued and directory not in self._listings:
            self._queued.add(directory)
            self._queue.append(directory)
            self._wake.set()

    async def ensure_listed(self, row: InodeRow) -> None:
        """Return when the directory's names are known; raises what kept them from it."""
        if row.listed_ns is not None:
            self.used(row)
            return
        with trio.move_on_after(self._timeout_s) as patience, waiting("names from the store"):
            await self._list_in_time(row.id)
        if patience.cancelled_caught:
            self.is_dark = True
            raise FsError(errno.ETIMEDOUT, "the store did not answer in time")

    async def _list_in_time(self, directory: InodeId) -> None:
        """Try again what may get better, as long as somebody waits. After somebody has waited in
        vain nobody else does, until the store has told names again."""
        tries = 0
        while True:
            listing = self._list_soon(directory)
            await listing.done.wait()
            if listing.error is None:
                return
            if not isinstance(listing.error, Retry) or self.is_dark:
                raise listing.error
            after_s = listing.error.after_s
            await trio.sleep(
                delay_s(tries, base_s=0.2, cap_s=2.0, jitter=random.random, after_s=after_s)
            )
            tries += 1

    def _list_soon(self, directory: InodeId) -> Listing:
        if self._nursery is None:
            raise FsError(errno.EIO, "shutting down")
        listing = self._listings.get(directory)
        if listing is None:
            listing = self._listings[directory] = Listing()
            self._nursery.start_soon(self._list, directory, listing)
        return listing

    async def list_again(self, directory: InodeId) -> None:
        """List it now, or wait for the listing under way. Raises what kept it from that."""
        listing = self._list_soon(directory)
        await listing.done.wait()
        if listing.error is not None:
            raise listing.error

    def touched(self, key: str) -> None:
        """This mount changed the key just now."""
        for listing in (*self._listings.values(), *self._learning):
            listing.touched.add(key)
        now = self._clock.now_ns()
        self._touched_ns.pop(key, None)
        self._touched_ns[key] = now
        # In order of time: a few old ones go with each new one.
        for old in list(islice(self._touched_ns, 2)):
            if self._touched_ns[old] < now - ECHO_NS:
                del self._touched_ns[old]

    def was_touched(self, key: str, heard_ns: int) -> bool:
        """Whether this mount changed the key so lately that a feed asked then may not know."""
        return self._touched_ns.get(key, -ECHO_NS) > heard_ns - ECHO_NS

    def touched_below(self, directory: str) -> list[str]:
        """Keys in or below a directory that this mount changed lately."""
        return [key for key in self._touched_ns if key.startswith(directory) and key != directory]

    @contextmanager
    def watching(self) -> Generator[Listing, None, None]:
        """Note what this mount changes meanwhile."""
        listing = Listing()
        self._learning.add(listing)
        try:
            yield listing
        finally:
            self._learning.discard(listing)

    def is_changing(self, key: str, listing: Listing | None = None) -> bool:
        """Whether this mount changed the key while it was listed, or is about to: what the
        listing shows may be the echo of a request whose reply is on its way, or lost."""
        return (
            (listing is not None and key in listing.touched)
            or self._ordering.is_worked_on(key)
            or attempts.is_open(self._store, key)
        )

    # -- listing -------------------------------------------------------------------------

    async def _lister(self) -> None:
        while True:
            while not self._queue:
                self._wake = trio.Event()
                await self._wake.wait()
            directory = self._queue.popleft()
            self._queued.discard(directory)
            if directory not in self._listings:
                listing = Listing()
                self._listings[directory] = listing
                await self._list(directory, listing)

    async def _list(self, directory: InodeId, listing: Listing) -> None:
        """Never raises: the outcome is in ``listing``."""
        try:
            with trio.move_on_after(max(self._timeout_s * 20, 600)) as patience:
                await self._list_now(directory, listing)
            if patience.cancelled_caught:
                listing.error = FsError(errno.ETIMEDOUT, "the listing took too long")
            else:
                self.is_dark = False
            self._failed_at.pop(directory, None)
        except CsyncError as exc:
            listing.error = exc
            self._failed_at[directory] = trio.current_time()
            level = logging.INFO if isinstance(exc, Retry) else logging.WARNING
            log.log(level, "listing failed ino=%d error=%s", directory, exc)
        finally:
            del self._listings[directory]
            listing.done.set()

    async def _list_now(self, directory: InodeId, listing: Listing) -> None:
        row = inodes.get(self._store, directory)
        if row is None or row.nlink == 0:
            return
        if self.is_on_its_way(directory):
            if row.listed_ns is None:
                await self.learn_names(directory)
                self._listed(directory)
            return
        location = self._tree.location(row)
        seen: set[bytes] = set()
        token: str | None = None
        while True:
            try:
                page = await self._backend.list_page(location, token)
            except NotFound:
                if directory == ROOT or not row.in_cloud:
                    raise
                await self._gone(directory)
                return
            if self.is_on_its_way(directory):
                return
            if self._tree.dir_key(directory) != location.key:
                raise Retry("somebody else renamed the directory while it was listed")
            await self._apply_page(directory, page, listing, seen)
            token = page.token
            if token is None:
                break
        await self._remove_missing(directory, listing, seen)
        self._listed(directory)
        if inodes.untold(self._store, directory, 1):
            self._untold.append(directory)
            self._wake_tellers.set()

    def _listed(self, directory: InodeId) -> None:
        with self._store.transaction():
            inodes.set_listed(self._store, directory, self._clock.now_ns())

    async def learn_names(self, directory: InodeId) -> None:
        """Know every item that is in the directory now, also one that is on its way to another
        place. Adds names and nothing else. Raises what kept it from that."""
        with self.watching() as listing:
            token: str | None = None
            while True:
                row = inodes.get(self._store, directory)
                if row is None or row.nlink == 0 or not row.in_cloud:
                    return
                location = self._tree.location(row)
                try:
                    page = await self._backend.list_page(location, token)
                except NotFound:
                    # Whoever moves the directory finds that out too.
                    return
                await self._learn_page(directory, page, listing)
                token = page.token
                if token is None:
                    return

    async def _learn_page(self, directory: InodeId, page: Page, listing: Listing) -> None:
        for start in range(0, len(page.items), _BATCH):
            row = inodes.get(self._store, directory)
            if row is None or row.nlink == 0:
                return
            prefix = self._tree.location(row).key
            with self._adopter.changes():
                for item in page.items[start : start + _BATCH]:
                    key = item.location.key
                    if key.startswith(prefix) and not self.is_changing(key, listing):
                        self._adopter.learn(directory, item)
            await trio.lowlevel.checkpoint()

    def is_on_its_way(self, directory: InodeId) -> bool:
        """Made, moved or removed here and not yet there, or a directory above is: what the cloud
        says means nothing."""
        ino = directory
        while ino != ROOT:
            if self._ordering.has_pending_place(ino):
                return True
            found = inodes.names_of(self._store, ino)
            if not found:
                return True
            ino = found[0].parent
        return False

    async def _apply_page(
        self, directory: InodeId, page: Page, listing: Listing, seen: set[bytes]
    ) -> None:
        # Directories first: a file of the same name then makes way at once.
        items = sorted(page.items, key=lambda item: item.kind is not Kind.DIR)
        row = inodes.get(self._store, directory)
        # Lookups wait for the first listing: the kernel has no name of it, nor its absence.
        tell = row is None or row.listed_ns is not None
        for start in range(0, len(items), _BATCH):
            both: list[tuple[InodeId, Item]] = []
            with self._adopter.changes(tell=tell):
                for item in items[start : start + _BATCH]:
                    seen.add(item.location.key.encode("utf-8", "surrogateescape"))
                    if self.is_changing(item.location.key, listing):
                        continue
                    row = self._adopter.apply(directory, item)
                    if row is not None:
                        both.append((row.id, item))
                    self._shown_again(directory, item)
            for ino, item in both:
                await self.resolve(ino, item)
            await trio.lowlevel.checkpoint()

    def _shown_again(self, directory: InodeId, item: Item) -> None:
        if self.removals.count:
            row = self._tree.lookup(directory, self._adopter.shown(item).name)
            if row is not None:
                self.removals.shown(row.id)

    async def resolve(self, ino: InodeId, item: Item) -> None:
        if ino in self._table.running:
            return
        self._table.running.add(ino)
        try:
            await self._adopter.resolve(ino, item)
        finally:
            self._table.running.discard(ino)

    async def _remove_missing(self, directory: InodeId, listing: Listing, seen: set[bytes]) -> None:
        """What the complete listing does not show and was in the cloud is gone."""
        self.removals.admit(await self._missing(directory, listing, seen))
        position = 0
        while entries := inodes.read_dir(self._store, directory, position, _BATCH):
            for position, name, row in entries:  # noqa: B007
                if self._is_gone(row, listing, seen) and not self.removals.is_held(row.id):
                    await self.remove(directory, name, row)
                    if row.is_dir:
                        # That took its time, in which anything may have happened: read again.
                        break
            await trio.lowlevel.checkpoint()

    async def _missing(
        self, directory: InodeId, listing: Listing, seen: set[bytes]
    ) -> list[InodeId]:
        found: list[InodeId] = []
        position = 0
        while entries := inodes.read_dir(self._store, directory, position, _BATCH):
            position = entries[-1][0]
            rows = [row for _, _, row in entries]
            found += [row.id for row in rows if self._is_gone(row, listing, seen)]
            await trio.lowlevel.checkpoint()
        return found

    def _is_gone(self, row: InodeRow, listing: Listing, seen: set[bytes]) -> bool:
        is_known = bool(row.in_cloud) and self._belongs(row)
        return is_known and not self._is_shown(row, listing, seen)

    def _is_shown(self, row: InodeRow, listing: Listing, seen: set[bytes]) -> bool:
        """Whether the listing has it, or cannot know because this mount changed it meanwhile."""
        key = self._tree.location(row).key
        return key.encode("utf-8", "surrogateescape") in seen or self.is_changing(key, listing)

    def _belongs(self, row: InodeRow) -> bool:
        """Whether this listing would have to show the inode's item."""
        if row.id in self._table.running:
            return False
        if row.remote_key is None:
            return True
        return not self._ordering.has_pending_place(row.id)

    async def remove(self, directory: InodeId, name: bytes, row: InodeRow) -> None:
        """The item is no longer there; what was changed here stays."""
        if row.is_dir:
            if not self._ordering.has_pending_place(row.id):
                await self._adopter.remove_gone_dir(row.id)
        elif row.dirty or self._tree.file_of(row).dirty:
            self._adopter.recreate(row)
        elif not journal.has_any(self._store, row.id):
            self._adopter.remove_gone(directory, name, row)

    async def _gone(self, directory: InodeId) -> None:
        found = inodes.names_of(self._store, directory)
        row = inodes.get(self._store, directory)
        if found and row is not None and self.removals.admit([directory]):
            await self.remove(found[0].parent, found[0].name, row)

    async def decide_held(self, *, accept: bool) -> int:
        """What is held goes, or is sent to the cloud again. Returns how many items that are."""
        decided = 0
        while (popped := self.removals.pop()) is not None:
            row, items = popped
            decided += items
            found = inodes.names_of(self._store, row.id)
            if not accept:
                await self.removals.keep(row)
            elif found:
                await self.remove(found[0].parent, found[0].name, row)
        log.info("held removals decided=%d accepted=%s", decided, accept)
        return decided

    # -- attributes behind the listing ---------------------------------------------------

    async def _teller(self) -> None:
        """Ask for what listings do not tell (owner, mode, mtime, symlinks), file by file."""
        while True:
            while not self._untold:
                self._wake_tellers = trio.Event()
                await self._wake_tellers.wait()
            directory = self._untold[0]
            rows = [
                row
                for row in inodes.untold(self._store, directory, 32)
                if row.id not in self._asking
            ]
            if not rows:
                if self._untold and self._untold[0] == directory:
                    self._untold.popleft()
                continue
            await self._tell(rows[0])

    async def _tell(self, row: InodeRow) -> None:
        self._asking.add(row.id)
        try:
            kind = Kind.DIR if row.is_dir else Kind.FILE
            item = await self._backend.head(self._tree.location(row), kind)
            self._adopter.told(row.id, item)
            self._settle_told(row.id)
            await trio.sleep(_TELL_EVERY_S)
        except NotFound:
            self._settle_told(row.id)
        except CsyncError as exc:
            log.debug("attributes not told ino=%d error=%s", row.id, exc)
            await trio.sleep(5)
        finally:
            self._asking.discard(row.id)

    def _settle_told(self, ino: InodeId) -> None:
        """Asked once is enough: what the item does not say stays a guess."""
        row = inodes.get(self._store, ino)
        if row is not None and not row.told:
            with self._store.transaction():
                inodes.set_told(self._store, ino, True)
