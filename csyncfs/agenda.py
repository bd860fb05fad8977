"""Which promise of the journal is looked at next.

Owns the place in the journal up to which everything due was looked at, and what was found
blocked there. A blocked promise is looked at again when the inode it waits for has had
something carried out, and now and then in any case. So thousands of them cost neither rows
written nor a walk over them for each upload.
"""

import heapq
import math
from collections import deque
from typing import Final

import trio

from csyncfs.clock import Clock
from csyncfs.errors import StoreError
from csyncfs.store import journal
from csyncfs.store.db import Store
from csyncfs.store.journal import Intent
from csyncfs.types import InodeId, Seq

_NS: Final = 1_000_000_000
_BATCH: Final = 256
_START: Final = (0, Seq(0))
# Nobody tells when what it waits for is over: look soon, then less and less often.
_SOON_S: Final = 0.05
_SOON_MAX_S: Final = 2.0
# Somebody will tell, unless the reason goes without having been carried out.
_TOLD_S: Final = 0.5
_TOLD_MAX_S: Final = 16.0
# The whole journal is gone through anew so often: the wall clock may have been set back.
_RESCAN_S: Final = 60.0


class Agenda:
    """The order in which due promises are looked at: longest due first. Never waits."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._position = _START
        self._newest = Seq(0)
        """The last promise made when the journal was looked at."""
        self._ahead: deque[Seq] = deque()
        """Due and not looked at yet, up to ``_position``."""
        self._rescan_at = -math.inf
        self._blocked: dict[Seq, tuple[float, int]] = {}
        """When to look again, and how often that was put off."""
        self._by_time: list[tuple[float, Seq]] = []
        """The same as a heap; entries that differ from ``_blocked`` are void."""
        self._waiters: dict[InodeId, list[Seq]] = {}
        self._ready: deque[Seq] = deque()
        """Blocked until a moment ago."""

    def next(self) -> Intent | None:
        """The next due promise; None: there is none now that was not looked at."""
        now_s, now_ns = trio.current_time(), self._clock.now_ns()
        if now_s >= self._rescan_at:
            self._rescan_at = now_s + _RESCAN_S
            self._position = _START
            self._ahead.clear()
        while (seq := self._next_seq(now_s, now_ns)) is not None:
            intent = journal.get(self._store, seq)
            if (
                intent is not None
                and intent.not_before_ns is not None
                and intent.not_before_ns <= now_ns
            ):
                return intent
            # Over, held back or put off meanwhile: it is met again when it comes due.
            self._blocked.pop(seq, None)
        return None

    def _next_seq(self, now_s: float, now_ns: int) -> Seq | None:
        if self._ready:
            return self._ready.popleft()
        while self._by_time and self._by_time[0][0] <= now_s:
            until, seq = heapq.heappop(self._by_time)
            if self._blocked.get(seq, (math.inf, 0))[0] == until:
                return seq
        if not self._ahead:
            self._look_ahead(now_ns)
        return self._ahead.popleft() if self._ahead else None

    def _look_ahead(self, now_ns: int) -> None:
        # Some are as old as what they follow from, and so behind the position from the start.
        newest = journal.newest(self._store)
        if newest != self._newest:
            self._ahead.extend(journal.made_behind(self._store, self._newest, self._position))
            self._newest = newest
        found = journal.due(self._store, now_ns, _BATCH, self._position)
        if found:
            self._position = found[-1]
            self._ahead.extend(seq for _, seq in found)

    def wait_s(self) -> float:
        """How long ``next`` will have nothing, if nothing ends and nothing is promised."""
        if self._ready or self._ahead:
            return 0.0
        now_ns, now_s = self._clock.now_ns(), trio.current_time()
        wait_s = self._rescan_at - now_s
        if self._by_time:
            wait_s = min(wait_s, self._by_time[0][0] - now_s)
        next_ns = journal.next_due_ns(self._store, self._position)
        if next_ns is not None:
            wait_s = min(wait_s, (next_ns + 1 - now_ns) / _NS)
        return max(0.001, wait_s)

    def block(self, intent: Intent, waits_for: InodeId | None) -> None:
        """It cannot run before something of that inode has (None: something unknown)."""
        times = self._blocked.get(intent.seq, (0.0, 0))[1]
        if waits_for is None:
            pause_s = min(_SOON_S * 2.0**times, _SOON_MAX_S)
        else:
            pause_s = min(_TOLD_S * 2.0**times, _TOLD_MAX_S)
            self._waiters.setdefault(waits_for, []).append(intent.seq)
        until = trio.current_time() + pause_s
        self._blocked[intent.seq] = (until, min(times + 1, 10))
        heapq.heappush(self._by_time, (until, intent.seq))

    def started(self, intent: Intent) -> None:
        """It is being carried out."""
        self._blocked.pop(intent.seq, None)

    def ended(self, intent: Intent) -> None:
        """It was carried out, or not; who waited for its inode is looked at again."""
        for seq in self._waiters.pop(intent.inode, ()):
            if seq in self._blocked:
                # Its place in the heap becomes void.
                self._blocked[seq] = (math.inf, self._blocked[seq][1])
                self._ready.append(seq)
        try:
            left = journal.get(self._store, intent.seq)
        except StoreError:
            left = intent
        if left is not None and left.not_before_ns == intent.not_before_ns:
            self.block(left, None)
