"""Requests that were cut off: by a crash, or by the end of the connection or of the transfer
process. A server that had received one may carry it out a moment later.

Owns how long to give it. Until then "not there" proves nothing, and what is put where something
was being removed might be removed as well.
"""

import math
from typing import Final

import trio

from csyncfs.store import attempts, journal
from csyncfs.store.db import Store
from csyncfs.store.journal import Intent, IntentKind
from csyncfs.types import InodeId, Seq

# Ten times what a busy server takes for a small request; a mount after a crash waits as long.
_STILL_WORKED_ON_S: Final = 2.0


class CutOff:
    """What a server may still be working on. Never waits; times are trio's, in seconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last_seq = Seq(0)
        self._started_until = -math.inf
        self._making: dict[InodeId, float] = {}
        self._removing: dict[str, float] = {}

    def begin(self) -> None:
        """All requests of earlier runs have been cut off now at the latest."""
        self._last_seq = journal.newest(self._store)
        self._started_until = trio.current_time() + _STILL_WORKED_ON_S
        self._making = dict.fromkeys(attempts.all_inodes(self._store), self._started_until)

    def note(self, intent: Intent) -> None:
        """The intent's request ended without a reply."""
        self._forget_old()
        until = trio.current_time() + _STILL_WORKED_ON_S
        if intent.kind == IntentKind.DELETE:
            self._removing[intent.location.key] = until
        elif attempts.of_inode(self._store, intent.inode) is not None:
            self._making[intent.inode] = until

    def _forget_old(self) -> None:
        now = trio.current_time()
        self._making = {ino: until for ino, until in self._making.items() if until > now}
        self._removing = {key: until for key, until in self._removing.items() if until > now}

    def may_make(self, ino: InodeId) -> bool:
        """Whether something made for the inode may appear all of a sudden."""
        return trio.current_time() < self._making.get(ino, 0.0)

    def may_remove(self, key: str) -> bool:
        """Whether what is at the key may disappear all of a sudden."""
        now = trio.current_time()
        if now < self._removing.get(key, 0.0):
            return True
        if now >= self._started_until:
            return False
        oldest = journal.delete_at(self._store, key)
        return oldest is not None and oldest.seq <= self._last_seq
