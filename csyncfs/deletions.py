"""The big-delete guard towards the store: what is removed here does not all go there at once
without being told.

Owns what was decided (table ``setting``). A wrong ``rm -r`` must not empty the drive of a whole
team. So before more than ``limit`` items removed here go within a minute, all removals that wait
are held in the journal: here the names are gone, there nothing is; the log has one loud line, and
the user decides (``csyncfs-admin held``). What was replaced (a save by rename) does not count, nor
what a move or a failed request left behind. Its counterpart is ``removals``.
"""

import logging
import math
from collections import deque
from typing import Final

import trio

from csyncfs.clock import Clock
from csyncfs.content import Content
from csyncfs.promise import NotYet
from csyncfs.store import inodes, journal, settings
from csyncfs.store.db import Store
from csyncfs.store.journal import Intent
from csyncfs.tree import Tree
from csyncfs.types import ROOT, InodeId, Seq

log = logging.getLogger(__name__)

_WINDOW_S: Final = 60.0
# In one transaction, about 5 ms of the loop.
_BATCH: Final = 100
_LOOK_S: Final = 0.2
_HOLDING: Final = "deletions_held"
_ACCEPTED: Final = "deletions_accepted"


class Deletions:
    """Lets few at once pass, and holds more."""

    def __init__(
        self, store: Store, tree: Tree, content: Content, clock: Clock, limit: int = 0
    ) -> None:
        """``limit`` 0: everything passes."""
        self._store = store
        self._tree = tree
        self._content = content
        self._clock = clock
        self.limit = limit
        self.is_holding = settings.get(store, _HOLDING) is not None
        self._accepted = Seq(int(settings.get(store, _ACCEPTED) or 0))
        self._lately: deque[tuple[float, Seq]] = deque()
        self._excused = 0
        """Of those that wait, how many the last look found not to count."""
        self._looked_at = -math.inf

    @property
    def count(self) -> int:
        """Removals that are held."""
        return journal.count_held_removals(self._store) if self.is_holding else 0

    async def admit(self, intent: Intent) -> None:
        """Raises NotYet if the DELETE, and with it all others, has to wait for the user."""
        if not (self.limit or self.is_holding):
            return
        if not journal.is_removal(self._store, intent.seq, self._accepted):
            return
        if not self.is_holding:
            if self._is_few(intent.seq):
                return
            self._begin_to_hold()
        await self._hold_all()
        held = journal.get(self._store, intent.seq)
        if held is None or held.hold is not None:
            raise NotYet("the user has to say that so much is to go")

    def blocked(self, intent: Intent) -> None:
        """A DELETE that waits for another one, perhaps of what is held: it is held as well."""
        if (
            self.is_holding
            and journal.is_removal(self._store, intent.seq, self._accepted)
            and not self._is_replaced(intent)
        ):
            journal.hold_removal(self._store, intent.seq)

    def _is_few(self, seq: Seq) -> bool:
        now = trio.current_time()
        while self._lately and self._lately[0][0] < now - _WINDOW_S:
            self._lately.popleft()
        begun = {gone for _, gone in self._lately}
        if seq in begun:
            # A try that failed has been counted.
            return True
        left = self.limit - len(begun)
        if now >= self._looked_at + _LOOK_S:
            self._excused = 0
        if self._waiting(left) > left:
            # Each of them is looked at, which takes its time where many files were replaced.
            waiting = journal.removals(self._store, self._accepted, 1 << 30)
            self._excused = sum(i.seq in begun or self._is_replaced(i) for i in waiting)
            self._looked_at = now
            if self._waiting(left) > left:
                return False
        self._lately.append((now, seq))
        return True

    def _waiting(self, left: int) -> int:
        most = left + self._excused + 1
        return journal.count_removals(self._store, self._accepted, most) - self._excused

    def _is_replaced(self, intent: Intent) -> bool:
        """Whether one of its kind has the name by now, and takes its place."""
        key = intent.location.key
        is_dir = key.endswith("/")
        found = self._tree.dir_for_key(key) if is_dir else self._tree.file_for_key(key)
        return found is not None

    def _begin_to_hold(self) -> None:
        with self._store.transaction():
            settings.put(self._store, _HOLDING, "1")
        self.is_holding = True
        log.error(
            "held: more than delete_guard=%d items were removed here at once; in the store they"
            " stay until you say: csyncfs-admin held ls, accept or reject",
            self.limit,
        )

    async def _hold_all(self) -> None:
        after = self._accepted
        while self.is_holding:
            # The user may have decided meanwhile.
            waiting = journal.removals(self._store, after, _BATCH, is_held=False)
            if not waiting:
                return
            after = waiting[-1].seq
            with self._store.transaction():
                for intent in waiting:
                    if not self._is_replaced(intent):
                        journal.hold_removal(self._store, intent.seq)
            await trio.lowlevel.checkpoint()

    # -- the user's word -----------------------------------------------------------------

    def accept(self) -> int:
        """All of it goes. Returns how many items that are."""
        count = self.count
        with self._store.transaction():
            self._accepted = journal.newest(self._store)
            settings.put(self._store, _ACCEPTED, str(self._accepted))
            journal.release_removals(self._store, self._clock.now_ns())
            self._end_holding()
        return count

    async def reject(self) -> int:
        """None of it goes, and the names come back: the store has the items still. Returns how
        many items that are."""
        count = 0
        while held := journal.removals(self._store, Seq(0), _BATCH, is_held=True):
            with self._store.transaction():
                for intent in held:
                    count += self._take_back(intent)
            for intent in held:
                self._content.reap(intent.inode)
            await trio.lowlevel.checkpoint()
        with self._store.transaction():
            self._end_holding()
        log.info("held removals taken back items=%d", count)
        return count

    def _take_back(self, intent: Intent) -> bool:
        if self._is_replaced(intent):
            # It goes with what takes its place.
            journal.release_removals(self._store, self._clock.now_ns(), intent.seq)
            return False
        journal.remove(self._store, intent.seq)
        directory = self._directory(intent.location.key)
        if directory is not None:
            inodes.set_listed(self._store, directory, None)
        return True

    def _directory(self, key: str) -> InodeId | None:
        """What it was in, if that is still there."""
        above = key.removesuffix("/").rpartition("/")[0]
        if not above:
            return ROOT
        row = self._tree.dir_for_key(above + "/")
        return row.id if row is not None else None

    def _end_holding(self) -> None:
        settings.remove(self._store, _HOLDING)
        self.is_holding = False
        self._lately.clear()
