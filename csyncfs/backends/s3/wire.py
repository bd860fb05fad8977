"""SDK calls on worker threads: lanes, deadlines, errors.

One lane per kind of work, so that uploads cannot starve a reader. A call that is cancelled
or out of time is left behind: its thread ends at the socket's timeout and keeps its place
in the lane until then, so stalled threads cannot pile up.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from csyncfs.backends.s3.checking import Bodies
from csyncfs.backends.s3.failures import LostReply
from csyncfs.backends.s3.options import S3Options
from csyncfs.errors import Offline

if TYPE_CHECKING:
    from csyncfs.backends.s3.client import Clients

log = logging.getLogger(__name__)

T = TypeVar("T")

Reply = dict[str, Any]

FETCH_SLOTS: Final = 8
UPLOAD_SLOTS: Final = 8
CONTROL_SLOTS: Final = 4

# Slower than this is given up: waiting on is worse than starting over elsewhere.
_MIN_BYTES_PER_S: Final = 32 * 1024
_QUEUE_S: Final = 300.0
_SLOW_CALL_S: Final = 600.0


class Lane:
    """So many calls of one kind at a time."""

    def __init__(self, name: str, slots: int) -> None:
        self._name = name
        self._limiter = trio.CapacityLimiter(slots)
        self._running: Counter[str] = Counter()
        self._ended = trio.lowlevel.ParkingLot()

    async def run(self, work: Callable[[], T], deadline_s: float, topic: str = "") -> T:
        """The result of ``work`` in a thread. Raises LostReply if it takes too long to run.

        ``topic``: what ``wait_idle`` knows it by.
        """
        token = trio.lowlevel.current_trio_token()
        started = False
        with trio.move_on_after(_QUEUE_S) as scope:

            def start_the_clock() -> None:
                nonlocal started
                started = True
                scope.deadline = trio.current_time() + deadline_s
                self._running[topic] += 1

            def in_thread() -> T:
                token.run_sync_soon(start_the_clock)
                try:
                    return work()
                finally:
                    token.run_sync_soon(self._note_end, topic)

            return await trio.to_thread.run_sync(
                in_thread, abandon_on_cancel=True, limiter=self._limiter
            )
        if not started:
            raise Offline(f"no free {self._name} connection within {_QUEUE_S:.0f} s")
        raise LostReply(f"no end after {deadline_s:.0f} s")

    async def wait_idle(self, topic: str = "") -> None:
        """Return when no thread works on the topic, also none that was left behind."""
        while self._running[topic] > 0:
            await self._ended.park()

    def _note_end(self, topic: str) -> None:
        self._running[topic] -= 1
        if not self._running[topic]:
            del self._running[topic]
        self._ended.unpark_all()


class Wire:
    """One connected store: its clients, its bucket, its lanes."""

    def __init__(self, options: S3Options, clients: "Clients") -> None:
        self.options: Final = options
        self.clients: Final = clients
        self.fetches: Final = Lane("download", FETCH_SLOTS)
        self.uploads: Final = Lane("upload", UPLOAD_SLOTS)
        self.controls: Final = Lane("control", CONTROL_SLOTS)
        self.bodies: Final = Bodies()
        self._common: Final[Mapping[str, str]] = {
            "Bucket": options.bucket,
            **({"RequestPayer": "requester"} if options.requester_pays else {}),
        }

    async def ask(self, operation: str, **params: Any) -> Reply:
        """A small request. Raises csyncfs's errors."""
        deadline_s = self.deadline_s(0)
        return await self.controls.run(lambda: self.call(operation, **params), deadline_s)

    async def ask_patiently(self, operation: str, **params: Any) -> Reply:
        """A small request that makes the server work."""
        return await self.controls.run(
            lambda: self._call(self.clients.slow, operation, params), _SLOW_CALL_S
        )

    def call(self, operation: str, **params: Any) -> Reply:
        """For worker threads: one SDK call. Raises csyncfs's errors."""
        return self._call(self.clients.quick, operation, params)

    def deadline_s(self, size: int) -> float:
        """How long a call that moves so many bytes may take."""
        options = self.options
        return options.connect_timeout_s + 2 * options.read_timeout_s + size / _MIN_BYTES_PER_S

    def stamps(self) -> dict[str, str]:
        """The encryption arguments of every request that makes a version."""
        options = self.options
        stamps: dict[str, str] = {}
        if options.sse is not None:
            stamps["ServerSideEncryption"] = options.sse
        if options.sse_kms_key_id is not None:
            stamps["SSEKMSKeyId"] = options.sse_kms_key_id
        return stamps

    def _call(self, client: Any, operation: str, params: Mapping[str, Any]) -> Reply:
        from csyncfs.backends.s3.translation import is_stale_connection, translate

        method: Callable[..., Reply] = getattr(client, operation)
        arguments = {**self._common, **params}
        try:
            try:
                return method(**arguments)
            except Exception as exc:
                # The server closed an idle connection just as it was taken from the pool.
                if operation not in _READS or not is_stale_connection(exc):
                    raise
                log.debug("retrying on a fresh connection op=%s", operation)
                return method(**arguments)
        except Exception as exc:
            raise translate(exc, operation) from exc


_READS: Final = frozenset({"head_object", "get_object", "list_objects_v2", "list_parts"})
