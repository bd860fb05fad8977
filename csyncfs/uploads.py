"""Runs one intent: the right way for its kind."""

import contextlib
import errno
from collections.abc import Awaitable, Callable

from csyncfs.content import Content
from csyncfs.copies import Copies
from csyncfs.deletions import Deletions
from csyncfs.echoes import Echoes
from csyncfs.errors import Ambiguous, FsError, NotFound, Offline, StoreError, Superseded
from csyncfs.moves import Moves
from csyncfs.promise import NotYet, Promise
from csyncfs.puts import Puts
from csyncfs.store import attempts, inodes, journal
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import Intent, IntentKind
from csyncfs.types import InodeId


class Uploads:
    """Carries out intents; their order is the uploader's and ``ordering``'s."""

    def __init__(
        self,
        promise: Promise,
        content: Content,
        puts: Puts,
        copies: Copies,
        moves: Moves,
        deletions: Deletions,
    ) -> None:
        self._promise = promise
        self._store = promise.store
        self._content = content
        self._puts = puts
        self._copies = copies
        self._moves = moves
        self._deletions = deletions
        self._echoes = Echoes(promise, puts, moves)

    def begin(self) -> None:
        """Before the first one."""
        self._promise.cut_off.begin()

    def blocker(self, intent: Intent) -> InodeId | None:
        """The inode of which something else has to reach the cloud first."""
        blocker = self._promise.ordering.blocker(intent)
        if blocker is None:
            return None
        if intent.kind == IntentKind.DELETE:
            self._deletions.blocked(intent)
            is_open = intent.is_dir and self._echoes.is_tree_lost(intent.inode)
            return None if is_open else blocker
        # What became of the last request can be asked at any time, and others wait for it.
        return None if attempts.of_inode(self._store, intent.inode) is not None else blocker

    async def execute(self, intent: Intent) -> None:
        """Carry the intent out; the journal says what is left to do afterwards."""
        if intent.kind == IntentKind.DELETE:
            await self._delete(intent)
            return
        if await self._echoes.find_out(intent) and self.blocker(intent) is not None:
            raise NotYet("something else has to come first")
        found = journal.get(self._store, intent.seq)
        if found is None:
            return
        intent, row = found, inodes.get(self._store, intent.inode)
        if row is None or row.nlink == 0:
            with self._store.transaction():
                journal.drop(self._store, intent.seq)
            return
        try:
            await self._step(intent, row)(intent, row)
            self._echoes.known(intent.inode)
        except Superseded:
            self._echoes.known(intent.inode)
            raise
        except (Ambiguous, Offline):
            self._promise.cut_off.note(intent)
            raise
        except NotFound:
            # The directory it belongs into is gone: a look at it says what to do.
            self._promise.look_at_parent(intent.inode)
            raise
        except FsError as exc:
            # Unlinked in the middle: its other promises take care of what was made.
            if exc.code != errno.ENOENT or inodes.names_of(self._store, intent.inode):
                raise

    async def _delete(self, intent: Intent) -> None:
        if intent.put_id is not None:
            await self._echoes.delete(intent)
            return
        await self._echoes.find_tree(intent)
        await self._deletions.admit(intent)
        if journal.get(self._store, intent.seq) is None:
            return
        try:
            await self._moves.delete(intent)
        except (Ambiguous, Offline):
            self._promise.cut_off.note(intent)
            raise

    def _step(self, intent: Intent, row: InodeRow) -> Callable[[Intent, InodeRow], Awaitable[None]]:
        match IntentKind(intent.kind):
            case IntentKind.PUT:
                return self._puts.put if row.alias_of is None else self._copies.put
            case IntentKind.MKDIR:
                return self._moves.make_dir
            case IntentKind.MOVE:
                return self._moves.move_dir if row.is_dir else self._moves.move_file
            case IntentKind.ATTRS:
                return self._moves.set_attributes
            case IntentKind.DELETE:
                raise AssertionError("handled by execute")

    def finished(self, intent: Intent) -> None:
        """The intent is not running any more, however it ended."""
        self._promise.ordering.moving_trees.pop(intent.inode, None)
        for key in self._promise.ordering.running_keys.pop(intent.inode, ()):
            self._promise.watcher.touched(key)
        with contextlib.suppress(StoreError):
            # What cannot be removed now is removed at the next start.
            self._content.reap(intent.inode)
