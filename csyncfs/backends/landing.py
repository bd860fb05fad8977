"""The way of downloaded bytes into the caller's file, from the thread that receives them."""

import contextlib
import os
import threading
from collections.abc import Callable

import trio

from csyncfs.backends.base import Landed
from csyncfs.errors import FsError
from csyncfs.types import Span


class _Closed(Exception):
    """The caller no longer waits; nothing may be written any more."""


class Gate:
    """The only way to the caller's file, until it is shut.

    After ``shut`` returns nothing is written: the same bytes may then belong to a local
    writer, and the descriptor to somebody else. It waits for at most one pwrite.
    """

    def __init__(self, fd: int, landed: Landed) -> None:
        self._fd = fd
        self._landed = landed
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._is_open = True  # guarded by: _lock
        self._hang_up: Callable[[], object] | None = None  # guarded by: _lock

    def receive_from(self, hang_up: Callable[[], object]) -> None:
        """``hang_up`` wakes the thread that reads from the connection."""
        with self._lock:
            self._require_open()
            self._hang_up = hang_up

    def write(self, data: bytes, offset: int) -> None:
        self._write(data, offset)
        self.announce(Span(offset, offset + len(data)))

    def keep(self, data: bytes, offset: int, begin: int) -> None:
        """As ``write``, but only ``announce`` says that the bytes are good; nothing of what
        begins there is yet."""
        self._write(data, offset)
        self.announce(Span(begin, begin))

    def announce(self, span: Span) -> None:
        """These bytes are good; an empty span only tells that something came."""
        # Does not wait for the loop; calls arrive in order and before the thread's result.
        self._token.run_sync_soon(self._announce, span)

    def _write(self, data: bytes, offset: int) -> None:
        with self._lock:
            self._require_open()
            self._pwrite(data, offset)

    def shut(self) -> None:
        with self._lock:
            self._is_open = False
            hang_up, self._hang_up = self._hang_up, None
        if hang_up is not None:
            # The response has just ended: urllib3 tells that in any of these ways.
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                hang_up()

    def finish(self) -> None:
        """The thread is done with the connection: it may go back to the pool."""
        with self._lock:
            self._hang_up = None

    def _require_open(self) -> None:
        if not self._is_open:
            raise _Closed

    def _announce(self, span: Span) -> None:
        if self._is_open:
            self._landed(span)

    def _pwrite(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
        except OSError as exc:
            raise FsError(exc.errno or 0, "writing fetched bytes") from exc
