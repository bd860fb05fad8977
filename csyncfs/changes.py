"""Follows the change feed of a store that has one, instead of listing directories again.

Owns where the feed goes on, and what it told that is not applied yet. What is told is written
down first, an item's latest state only, together with the cursor; once a round is complete it is
applied: parents before children, what is there before what is gone. So nothing depends on the
order of telling, a crash loses nothing, and memory holds one page. What to do about an item is
decided where listings have it decided (``Adopter.apply``, ``Poller.remove``).

The feed tells our own changes too, and late. So nothing is decided about an inode while something
is promised of it (its request is conditional and finds out by itself), and what differs from what
this mount did a moment ago is asked for before it is believed.
"""

import enum
import logging
import random
from typing import Final, NamedTuple, Protocol

import trio

from csyncfs import names
from csyncfs.adopt import Adopter
from csyncfs.backends.base import Backend, ChangeFeed
from csyncfs.clock import Clock
from csyncfs.errors import CsyncError, CursorExpired, NotFound, Retry, Unsupported
from csyncfs.inode import InodeTable
from csyncfs.keeping import tag_of
from csyncfs.ordering import Ordering
from csyncfs.poller import ECHO_NS, Poller
from csyncfs.retry import delay_s
from csyncfs.store import changes, inodes, journal
from csyncfs.store.changes import FeedState, Told
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.tree import Tree
from csyncfs.types import ROOT, Change, ChangePage, InodeId, Item, Kind, Location

log = logging.getLogger(__name__)

_NS: Final = 1_000_000_000
# Written down, and applied, in one transaction: about 2 ms of the loop.
_WRITE_BATCH: Final = 100
_BATCH: Final = 15
# Feeds were seen to lose deletions (docs-contrib#8794): now and then everything is told anew.
_ANEW_NS: Final = 24 * 3600 * _NS
_EXPIRIES: Final = 3


class Feeding(Backend, ChangeFeed, Protocol):
    """A store that tells by itself what has changed."""


class _Step(enum.Enum):
    """What can be done about a change now."""

    APPLY = enum.auto()
    FORGET = enum.auto()
    WAIT = enum.auto()
    """Until a promise is kept, or the directory it is in is known."""
    ASK = enum.auto()
    """It may be older than what this mount knows."""
    CROWDED = enum.auto()
    """Another item has the name here, of which more was told."""
    LEFT = enum.auto()
    """It is in no directory of the mount."""


class _Place(NamedTuple):
    """Where a change says that its item is."""

    parent: InodeRow
    item: Item


class Follower:
    """Keeps the tree up to date with a change feed."""

    def __init__(
        self,
        store: Store,
        table: InodeTable,
        tree: Tree,
        adopter: Adopter,
        poller: Poller,
        backend: Feeding,
        ordering: Ordering,
        clock: Clock,
        *,
        refresh_s: float,
    ) -> None:
        self._store = store
        self._table = table
        self._tree = tree
        self._adopter = adopter
        self._poller = poller
        self._backend = backend
        self._ordering = ordering
        self._clock = clock
        self._refresh_s = max(refresh_s, 0.05)
        self._began_ns = clock.now_ns()
        self._is_told = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Poll until cancelled, or until it turns out that there is no feed."""
        task_status.started()
        failures = 0
        while True:
            pause_s = self._refresh_s
            try:
                await self.poll()
                failures, self._is_told = 0, False
            except Unsupported as exc:
                log.info("directories are listed instead: %s", exc)
                self._poller.has_feed = False
                return
            except CsyncError as exc:
                failures += 1
                self._tell(exc, failures)
                after_s = exc.after_s if isinstance(exc, Retry) else None
                pause_s = delay_s(
                    failures, base_s=1.0, cap_s=60.0, jitter=random.random, after_s=after_s
                )
            await trio.sleep(pause_s)

    def _tell(self, exc: CsyncError, failures: int) -> None:
        if isinstance(exc, Retry) and failures < 3:
            log.debug("changes not told error=%s", exc)
            return
        # Until it is heard of again, directories in use are listed.
        self._poller.has_feed = False
        if not self._is_told:
            self._is_told = True
            level = logging.INFO if isinstance(exc, Retry) else logging.WARNING
            log.log(level, "changes not told error=%s", exc)

    async def poll(self) -> None:
        """Hear what is new, and apply it. Raises what kept it from that."""
        state = changes.state(self._store)
        last_ns = state.enumerated_ns
        if last_ns is not None and self._clock.now_ns() - last_ns > _ANEW_NS:
            state = self._start_over(state)
        state = await self._hear(state)
        await self._apply_all()
        if state.is_enumeration:
            await self._sweep()
            await self._know_directories()
            self._enumerated(state)
        if not self._poller.has_feed:
            self._poller.has_feed = True
            log.info("following the store's change feed")

    # -- hearing -------------------------------------------------------------------------

    async def _hear(self, state: FeedState) -> FeedState:
        """Write down what is told, to the end."""
        expiries = 0
        while True:
            heard_ns = self._clock.now_ns()
            try:
                page = await self._backend.changes(state.cursor)
            except CursorExpired as exc:
                expiries += 1
                if expiries > _EXPIRIES:
                    raise Retry(f"the change feed starts over again and again: {exc}") from exc
                state = self._start_over(state)
                continue
            state = await self._write_down(page, state, heard_ns)
            if page.is_last:
                return state

    def _start_over(self, state: FeedState) -> FeedState:
        log.info("everything is told anew")
        state = FeedState(None, True, state.enumerated_ns)
        with self._store.transaction():
            changes.clear(self._store)
            changes.set_state(self._store, state)
        return state

    async def _write_down(self, page: ChangePage, state: FeedState, heard_ns: int) -> FeedState:
        """The cursor moves with the last change of the page; till then it is told again."""
        state = FeedState(page.cursor, state.is_enumeration, state.enumerated_ns)
        told = page.changes
        for start in range(0, max(len(told), 1), _WRITE_BATCH):
            with self._store.transaction(grows=True):
                for change in told[start : start + _WRITE_BATCH]:
                    changes.add(self._store, change, heard_ns, is_enumeration=state.is_enumeration)
                if start + _WRITE_BATCH >= len(told):
                    changes.set_state(self._store, state)
            await trio.lowlevel.checkpoint()
        return state

    # -- applying ------------------------------------------------------------------------

    async def _apply_all(self) -> None:
        """What is there, as often as something comes of it; then what is gone."""
        makes_room = False
        while True:
            done = await self._apply_shown(makes_room=makes_room)
            if not done and makes_room:
                break
            # Two that exchanged their names wait for each other.
            makes_room = not done
        await self._apply_gone()

    async def _apply_shown(self, *, makes_room: bool) -> int:
        """Returns how many changes were settled."""
        position, done = 0, 0
        while batch := changes.shown(self._store, position, _BATCH):
            position = batch[-1].seq
            before = done
            for is_listed in (False, True):
                part = [told for told in batch if self._is_in_listed(told) is is_listed]
                done += await self._apply_batch(part, is_listed=is_listed)
            if done - before < len(batch):
                for told in batch:
                    done += await self._apply_slowly(told, makes_room=makes_room)
            await trio.lowlevel.checkpoint()
        return done

    def _is_in_listed(self, told: Told) -> bool:
        place = self._directory(told.change)
        return place is not None and place.listed_ns is not None

    async def _apply_batch(self, batch: list[Told], *, is_listed: bool) -> int:
        """Those that can be applied just so. The kernel has no names of what nobody listed."""
        both: list[tuple[InodeId, Item]] = []
        stale: list[Told] = []
        with self._adopter.changes(tell=is_listed):
            for told in batch:
                step = self._judge(told)
                if step is _Step.FORGET:
                    changes.remove(self._store, told.seq)
                elif step is _Step.APPLY:
                    place = self._place(told.change)
                    assert place is not None, "judged just now"
                    both += self._apply(told, place)
                    stale.append(told)
            done = sum(not changes.has(self._store, told.seq) for told in batch)
        await self._finish(both, stale)
        return done

    async def _apply_slowly(self, told: Told, *, makes_room: bool) -> int:
        """One that takes a request, or the removal of something."""
        if not changes.has(self._store, told.seq):
            return 0
        step = self._judge(told)
        if step is _Step.ASK:
            return await self._ask(told)
        if step is _Step.LEFT:
            rows = inodes.by_item_id(self._store, told.change.item_id)
            self._poller.removals.admit(row.id for row in rows)
            await self._remove_all(told.change.item_id, None)
        elif step is _Step.CROWDED and makes_room:
            return await self._make_room(told)
        else:
            return 0
        with self._store.transaction():
            changes.remove(self._store, told.seq)
        return 1

    def _judge(self, told: Told) -> _Step:
        change = told.change
        rows = inodes.by_item_id(self._store, change.item_id)
        place = self._place(change)
        if change.parent_id and changes.is_waiting(self._store, change.parent_id):
            return _Step.WAIT
        if place is None:
            is_waiting = any(self._is_promised(row) for row in rows)
            return _Step.WAIT if is_waiting else _Step.LEFT if rows else _Step.FORGET
        if self._poller.is_on_its_way(place.parent.id):
            return _Step.WAIT
        key = place.item.location.key
        if len(rows) == 1 and self._is_same(rows[0], place.item):
            return _Step.APPLY
        keys = {key, *(self._tree.location(row).key for row in rows)}
        if any(self._is_promised(row) for row in rows) or any(map(self._is_changing, keys)):
            return _Step.WAIT
        return self._judge_name(told, place, rows, keys)

    def _judge_name(self, told: Told, place: _Place, rows: list[InodeRow], keys: set[str]) -> _Step:
        """Nothing is promised about the item itself."""
        parent, item = place
        holder = self._tree.lookup(parent.id, self._adopter.shown(item).name)
        if holder is not None and holder.id not in {row.id for row in rows}:
            if self._is_promised(holder):
                return _Step.WAIT
            is_told = holder.item_id is not None and changes.is_waiting(self._store, holder.item_id)
            if is_told or (holder.is_dir and holder.item_id is not None):
                return _Step.CROWDED
        is_listed_since = (parent.listed_ns or 0) > told.heard_ns
        if is_listed_since or self._is_doubtful(told, rows, keys):
            return _Step.ASK
        is_here = any(self._tree.location(row).key == item.location.key for row in rows)
        if rows and not is_here and not self._can_follow(rows[0], item):
            return _Step.WAIT
        return _Step.APPLY

    def _can_follow(self, row: InodeRow, item: Item) -> bool:
        """Whether nothing is on its way below a directory that was renamed."""
        if not row.is_dir:
            return True
        old = self._tree.location(row).key
        return self._ordering.can_move_tree(row.id, old, item.location.key)

    def _is_same(self, row: InodeRow, item: Item) -> bool:
        """Whether the inode stands on this very version, at this very place."""
        is_here = self._tree.location(row).key == item.location.key
        return is_here and row.base_tag == tag_of(item)

    def _is_promised(self, row: InodeRow) -> bool:
        return bool(
            row.dirty
            or self._tree.file_of(row).dirty
            or row.id in self._table.running
            or journal.has_any(self._store, row.id)
        )

    def _is_changing(self, key: str) -> bool:
        """Also if it is about to be removed: that request is conditional, too."""
        return self._poller.is_changing(key) or journal.delete_at(self._store, key) is not None

    def _is_doubtful(self, told: Told, rows: list[InodeRow], keys: set[str]) -> bool:
        """Whether this mount knows something newer, or may have known before it was restarted."""
        heard_ns = told.heard_ns
        if any(self._poller.was_touched(key, heard_ns) for key in keys):
            return True
        is_restarted = heard_ns < self._began_ns + ECHO_NS
        return is_restarted and any(
            (row.base_mtime_ns or 0) > heard_ns - ECHO_NS for row in rows if not row.is_dir
        )

    # -- places --------------------------------------------------------------------------

    def _directory(self, change: Change) -> InodeRow | None:
        """What the item is in; None: not in the mount, or not known yet."""
        if change.parent_id == "":
            return inodes.get(self._store, ROOT)
        if change.parent_id is None:
            return None
        found = inodes.by_item_id(self._store, change.parent_id)
        return found[0] if found and found[0].is_dir else None

    def _place(self, change: Change) -> _Place | None:
        parent = self._directory(change)
        if parent is None:
            return None
        key = names.child_key(self._tree.dir_key(parent.id), change.segment, change.kind)
        place = Location(key, change.item_id)
        return _Place(parent, Item(place, change.kind, change.version, change.attributes))

    # -- one change ----------------------------------------------------------------------

    def _apply(self, told: Told, place: _Place) -> list[tuple[InodeId, Item]]:
        """Inside ``changes``. Returns what has to be resolved. What was put off stays to be looked
        at again: nothing tells of it a second time."""
        parent, item = place
        rows = inodes.by_item_id(self._store, told.change.item_id)
        is_here = any(self._tree.location(row).key == item.location.key for row in rows)
        if rows and not is_here and not self._is_promised(rows[0]):
            self._follow(rows[0], place)
        changed = self._adopter.apply(parent.id, item)
        self._note_id(parent.id, item)
        rows = inodes.by_item_id(self._store, told.change.item_id)
        for found in rows:
            self._poller.removals.shown(found.id)
        if any(row.is_dir or row.base_tag == tag_of(item) for row in rows):
            changes.remove(self._store, told.seq)
        return [] if changed is None else [(changed.id, item)]

    def _follow(self, row: InodeRow, place: _Place) -> None:
        """What was asked for below a renamed directory while it was not heard of was asked for in
        the wrong place: a removal has found nothing there. The directories know."""
        old, new = self._tree.location(row).key, place.item.location.key
        touched = self._poller.touched_below(old) if row.is_dir else []
        if not self._adopter.renamed(row, place.parent.id, place.item):
            return
        for key in touched:
            above = key[len(old) :].removesuffix("/").rpartition("/")[0]
            directory = self._tree.dir_for_key(f"{new}{above}/") if above else row
            if directory is not None:
                inodes.set_listed(self._store, directory.id, None)

    def _note_id(self, parent: InodeId, item: Item) -> None:
        """The same bytes under another id: what is told of the old one is not about these."""
        row = self._tree.lookup(parent, self._adopter.shown(item).name)
        if row is None or not row.in_cloud or row.item_id == item.location.item_id:
            return
        if row.base_tag == tag_of(item) and row.remote_key in (None, item.location.key):
            inodes.set_item_id(self._store, row.id, item.location.item_id)

    async def _finish(self, both: list[tuple[InodeId, Item]], applied: list[Told]) -> None:
        for ino, item in both:
            await self._poller.resolve(ino, item)
        for told in applied:
            rows = inodes.by_item_id(self._store, told.change.item_id)
            place = self._place(told.change) if len(rows) > 1 else None
            if place is not None:
                await self._remove_all(told.change.item_id, place.item.location.key)

    async def _remove_all(self, item_id: str, but: str | None) -> None:
        """The item is not, or no longer, at these places."""
        for row in inodes.by_item_id(self._store, item_id):
            found = inodes.names_of(self._store, row.id)
            if self._poller.removals.is_held(row.id):
                continue
            if found and self._tree.location(row).key != but and not self._is_promised(row):
                await self._poller.remove(found[0].parent, found[0].name, row)

    async def _ask(self, told: Told) -> int:
        """Let the store say how it stands."""
        place = self._place(told.change)
        if place is None:
            return 0
        key, kind = place.item.location.key, told.change.kind
        with self._poller.watching() as listing:
            try:
                item = await self._backend.head(place.item.location, kind)
            except NotFound:
                item = None
            if self._poller.is_changing(key, listing):
                return 0
        rows = inodes.by_item_id(self._store, told.change.item_id)
        if any(self._is_promised(row) for row in rows) or self._place(told.change) is None:
            return 0
        if item is None or item.location.item_id != told.change.item_id:
            if not await self._is_at_its_place(place.parent.id):
                return 0
            with self._store.transaction():
                changes.remove(self._store, told.seq)
            return 1
        return await self._apply_one(told, place._replace(item=item))

    async def _is_at_its_place(self, directory: InodeId) -> bool:
        """Whether nobody has renamed the directory since; that is told yet, without what is in
        it."""
        row = inodes.get(self._store, directory)
        if row is None or row.nlink == 0 or directory == ROOT:
            return directory == ROOT
        place = self._tree.location(row)
        try:
            item = await self._backend.head(place, Kind.DIR)
        except NotFound:
            return False
        return item.location.item_id == place.item_id

    async def _apply_one(self, told: Told, place: _Place) -> int:
        with self._adopter.changes():
            both = self._apply(told, place)
        await self._finish(both, [told])
        return int(not changes.has(self._store, told.seq))

    async def _make_room(self, told: Told) -> int:
        """The name is another item's here, which is elsewhere by now or gone."""
        place = self._place(told.change)
        assert place is not None, "judged just now"
        name = self._adopter.shown(place.item).name
        holder = self._tree.lookup(place.parent.id, name)
        if holder is not None and holder.is_dir:
            await self._poller.remove(place.parent.id, name, holder)
            place = self._place(told.change)
        return 0 if place is None else await self._apply_one(told, place)

    async def _apply_gone(self) -> None:
        self._poller.removals.admit(await self._all_gone())
        position = 0
        while batch := changes.gone(self._store, position, _BATCH):
            position = batch[-1].seq
            for told in batch:
                rows = inodes.by_item_id(self._store, told.change.item_id)
                if any(self._is_busy(row) for row in rows):
                    continue
                await self._remove_all(told.change.item_id, None)
                with self._store.transaction():
                    changes.remove(self._store, told.seq)
            await trio.lowlevel.checkpoint()

    async def _all_gone(self) -> list[InodeId]:
        found: list[InodeId] = []
        position = 0
        while batch := changes.gone(self._store, position, _BATCH):
            position = batch[-1].seq
            for told in batch:
                rows = inodes.by_item_id(self._store, told.change.item_id)
                found += [row.id for row in rows if not self._is_busy(row)]
            await trio.lowlevel.checkpoint()
        return found

    def _is_busy(self, row: InodeRow) -> bool:
        key = self._tree.location(row).key
        return self._is_promised(row) or self._poller.is_changing(key)

    # -- after everything was told -------------------------------------------------------

    async def _sweep(self) -> None:
        """What was not told is gone, or came meanwhile: the directories it is in know."""
        looked_at: set[InodeId] = set()
        after = ROOT
        while rows := changes.unseen(self._store, after, _BATCH):
            after = rows[-1].id
            for row in rows:
                directory = self._topmost_unseen(row.id)
                if directory is None or directory in looked_at:
                    continue
                looked_at.add(directory)
                await self._poller.list_again(directory)
            await trio.lowlevel.checkpoint()

    def _topmost_unseen(self, ino: InodeId) -> InodeId | None:
        """The lowest directory above that was told; None: it has no name any more."""
        while True:
            found = inodes.names_of(self._store, ino)
            if not found:
                return None
            ino = found[0].parent
            if ino == ROOT or changes.was_seen(self._store, ino):
                return ino

    async def _know_directories(self) -> None:
        """Everything in them was told: nobody has to list them."""
        after = InodeId(0)
        while found := changes.unlisted_dirs(self._store, after, _WRITE_BATCH):
            after = found[-1]
            with self._store.transaction():
                for ino in found:
                    inodes.set_listed(self._store, ino, self._clock.now_ns())
            await trio.lowlevel.checkpoint()

    def _enumerated(self, state: FeedState) -> None:
        with self._store.transaction():
            changes.forget_seen(self._store)
            changes.set_state(self._store, FeedState(state.cursor, False, self._clock.now_ns()))
        log.info("everything was told inodes=%d", inodes.count(self._store))
