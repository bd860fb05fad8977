"""The uploader: turns intents into remote truth.

Owns which intents run. Picks what is due from the journal, oldest promise first, one a
inode at a time, children after their parents; runs it; writes down how it ended. How each
kind is carried out is in ``uploads``.
"""

import errno
import logging
import math
import random
from collections.abc import Callable

import trio

from csyncfs.agenda import Agenda
from csyncfs.clock import Clock
from csyncfs.errors import (
    AccessDenied,
    ContentLost,
    CsyncError,
    FsError,
    Hold,
    NoSuchStore,
    Offline,
    Retry,
    StoreDamaged,
    StoreError,
    StoreFull,
    Superseded,
    Throttled,
)
from csyncfs.inode import InodeTable
from csyncfs.promise import NotYet
from csyncfs.retry import delay_s
from csyncfs.store import journal
from csyncfs.store.db import Store
from csyncfs.store.journal import Intent, IntentKind
from csyncfs.types import InodeId
from csyncfs.uploads import Uploads

log = logging.getLogger(__name__)

_NS = 1_000_000_000
# Intents looked at in one go: about a millisecond of the loop if all of them are blocked.
_LOOKS = 16
# Whoever waits for the journal looks at it at least this often.
_LOOK_S = 1.0
# Between two counts of the journal, for each row: they take a tenth of the loop at most.
_COUNT_PAUSE_S = 10e-6
# After a failure of the local store itself.
_STORE_TROUBLE_S = 5.0
# A held intent is tried again now and then: the user may have repaired what was wrong.
_HOLD_NS = 120 * _NS


class Uploader:
    """Keeps the promises of the journal."""

    def __init__(
        self,
        store: Store,
        table: InodeTable,
        uploads: Uploads,
        clock: Clock,
        *,
        slots: int,
        upload_delay_ns: int,
        patience_s: float = 30.0,
    ) -> None:
        """``patience_s``: how long ``uploaded`` waits for a store that takes nothing."""
        self._patience_s = patience_s
        self._store = store
        self._table = table
        self._uploads = uploads
        self._clock = clock
        self._slots = slots
        self._upload_delay_ns = upload_delay_ns
        self._wake = trio.Event()
        self._ended = trio.Event()
        self._closed_until = -math.inf
        self._failures = 0
        self._stopping = False
        self.running_count = 0
        """Intents on their way. ``table.running`` has those that the poller works on too."""
        self._sleeps_until = -math.inf
        self._agenda = Agenda(store, clock)
        self.last_error: str | None = None
        self.done_count = 0

    def poke(self) -> None:
        """The journal grew; never waits."""
        # What was promised just now comes due after the delay: often it wakes before anyway.
        if trio.current_time() + self._upload_delay_ns / _NS < self._sleeps_until:
            self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run intents until cancelled; what is unfinished stays in the journal."""
        self._uploads.begin()
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._wake = trio.Event()
                try:
                    has_more = self._start_due(nursery)
                    idle_s = 0.0 if has_more else self._idle_s()
                except StoreError as exc:
                    self._store_trouble(exc)
                    idle_s = max(0.0, self._closed_until - trio.current_time())
                self._sleeps_until = trio.current_time() + idle_s
                with trio.move_on_after(idle_s):
                    await self._wake.wait()

    def stop_nowait(self) -> None:
        """Start nothing more."""
        self._stopping = True

    @property
    def _free_slots(self) -> int:
        # After a failure of the whole store one intent is the probe for all.
        return (1 if self._failures else self._slots) - self.running_count

    def _idle_s(self) -> float:
        """How long there is nothing to do, if nothing wakes us."""
        if self._stopping or self._free_slots <= 0:
            return math.inf
        return max(self._agenda.wait_s(), self._closed_until - trio.current_time())

    def _start_due(self, nursery: trio.Nursery) -> bool:
        """Start what can run now; True if there is more to look at."""
        if self._stopping or trio.current_time() < self._closed_until:
            return False
        for _ in range(_LOOKS):
            intent = self._agenda.next() if self._free_slots > 0 else None
            if intent is None:
                return False
            blocker = self._blocker(intent)
            if blocker is not None:
                self._agenda.block(intent, blocker)
                continue
            self._agenda.started(intent)
            self._table.running.add(intent.inode)
            self.running_count += 1
            nursery.start_soon(self._run_one, intent)
            # Programs come between it and the next one.
            break
        return True

    def _blocker(self, intent: Intent) -> InodeId | None:
        if intent.inode in self._table.running:
            return intent.inode
        return self._uploads.blocker(intent)

    def _store_trouble(self, exc: StoreError) -> None:
        """The journal cannot be read or written now (full disk): all waits, nothing is lost."""
        self.last_error = str(exc)
        if isinstance(exc, StoreDamaged):
            # It will not get better; the store has said so in the log.
            self._closed_until = math.inf
            return
        log.error("the journal cannot be used now error=%s", exc)
        # What an upload has to note frees space in the end.
        is_relieved = isinstance(exc, StoreFull) and self._store.give_way()
        self._closed_until = trio.current_time() + (0.0 if is_relieved else _STORE_TROUBLE_S)

    async def _run_one(self, intent: Intent) -> None:
        try:
            await self._carry_out(intent)
        except StoreError as exc:
            self._store_trouble(exc)
        finally:
            self._table.running.discard(intent.inode)
            self.running_count -= 1
            self._uploads.finished(intent)
            self._agenda.ended(intent)
            self._wake.set()
            self._ended.set()
            self._ended = trio.Event()

    async def _carry_out(self, intent: Intent) -> None:
        """Run it, and write down what became of it. Raises StoreError only."""
        try:
            await self._uploads.execute(intent)
            self._succeeded()
        except StoreError:
            raise
        except NotYet:
            pass  # the agenda has it looked at again
        except Superseded:
            self._later(intent, self._upload_delay_ns)
        except Offline as exc:
            self._close_gate(intent, exc, cap_s=30.0)
        except Throttled as exc:
            self._close_gate(intent, exc, cap_s=60.0)
        except (AccessDenied, NoSuchStore) as exc:
            self._hold(intent, exc)
            self._close_gate(intent, exc, cap_s=60.0)
        except (Hold, ContentLost) as exc:
            self._hold(intent, exc)
        except CsyncError as exc:
            self._failed(intent, exc)
        except OSError as exc:
            self._failed(intent, Retry(f"local error: {exc.strerror}"))

    def _succeeded(self) -> None:
        self.done_count += 1
        if self._failures:
            log.info("the store takes changes again")
        self._failures = 0
        self.last_error = None

    def _later(self, intent: Intent, delay_ns: int) -> None:
        current = journal.get(self._store, intent.seq)
        # A flush or a write meanwhile has set the time itself.
        if current is not None and current.not_before_ns == intent.not_before_ns:
            journal.reschedule(self._store, intent.seq, self._clock.now_ns() + delay_ns)

    def _close_gate(self, intent: Intent, exc: CsyncError, *, cap_s: float) -> None:
        """The store as a whole does not take changes: nobody else needs to find out."""
        wait_s = delay_s(self._failures, base_s=1.0, cap_s=cap_s, jitter=random.random)
        after_s = exc.after_s if isinstance(exc, Retry) else None
        wait_s = max(0.5, wait_s, after_s or 0.0)
        if not self._failures:
            log.warning("the store does not take changes now error=%s", exc)
        self._failures += 1
        self.last_error = str(exc)
        self._closed_until = max(self._closed_until, trio.current_time() + wait_s)
        if not isinstance(exc, Hold):
            journal.postpone(self._store, intent.seq, self._clock.now_ns(), str(exc))

    def open_gate(self) -> None:
        """Try again now: the network is back, or the user says so."""
        self._closed_until = -math.inf
        self._wake.set()

    def _hold(self, intent: Intent, exc: CsyncError) -> None:
        log.warning("upload needs attention seq=%d error=%s", intent.seq, exc)
        journal.hold(self._store, intent.seq, self._clock.now_ns() + _HOLD_NS, str(exc))

    def _failed(self, intent: Intent, exc: CsyncError) -> None:
        after_s = exc.after_s if isinstance(exc, Retry) else None
        wait_s = delay_s(intent.attempts, jitter=random.random, after_s=after_s)
        log.warning(
            "upload failed seq=%d kind=%s attempts=%d error=%s",
            intent.seq,
            intent.kind,
            intent.attempts + 1,
            exc,
        )
        until = self._clock.now_ns() + int(max(wait_s, 0.2) * _NS)
        journal.postpone(self._store, intent.seq, until, str(exc))

    # -- waiting for the cloud -----------------------------------------------------------

    async def drain(self, report: Callable[[journal.Totals], None]) -> journal.Totals:
        """Wait until nothing waits any more (held intents stay); cancellable."""
        journal.wake(self._store, self._clock.now_ns(), held=True)
        self.open_gate()
        while True:
            totals = journal.totals(self._store)
            report(totals)
            if totals.waiting == 0 and not self.running_count:
                return totals
            await self._soon()
            # Counting goes through the journal, about 1 us a row: not after each that ends.
            await trio.sleep(totals.waiting * _COUNT_PAUSE_S)

    async def _soon(self) -> None:
        """Until something ended; promises also go without having run."""
        with trio.move_on_after(_LOOK_S):
            await self._ended.wait()

    async def ended(self) -> None:
        """Wait until some intent ends, however."""
        await self._ended.wait()

    async def uploaded(self, ino: InodeId) -> None:
        """Wait until the inode's content is in the cloud (``-o fsync=remote``).

        Raises FsError: ETIMEDOUT when it could not be sent for a while, EIO when the store
        refuses it. It stays in the journal, and is sent when that is over.
        """
        intent = journal.find(self._store, ino, IntentKind.PUT)
        well_at = trio.current_time()
        is_first = True
        while intent is not None:
            # What failed meanwhile comes in its own time.
            if intent.not_before_ns is not None and (is_first or intent.error is None):
                journal.reschedule(self._store, intent.seq, self._clock.now_ns())
                self._wake.set()
            is_first = False
            await self._soon()
            intent = journal.find(self._store, ino, IntentKind.PUT)
            if intent is None or (intent.error is None and not self._failures):
                well_at = trio.current_time()
            elif intent.hold is not None:
                raise FsError(errno.EIO, f"not in the cloud: {intent.hold}")
            elif trio.current_time() >= well_at + self._patience_s:
                raise FsError(errno.ETIMEDOUT, f"not in the cloud yet: {intent.error}")
