"""SDK calls on worker threads, one lane per kind of work: uploads cannot starve a reader."""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from csyncfs.backends.checking import Bodies
from csyncfs.backends.lanes import Lane
from csyncfs.backends.s3.options import S3Options

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
