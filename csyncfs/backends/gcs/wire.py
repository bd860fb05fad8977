"""SDK calls on worker threads, one lane per kind of work: uploads cannot starve a reader."""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from csyncfs.backends.checking import Bodies
from csyncfs.backends.gcs import items
from csyncfs.backends.gcs.options import GcsOptions
from csyncfs.backends.lanes import Lane

if TYPE_CHECKING:
    from csyncfs.backends.gcs.client import Client

log = logging.getLogger(__name__)

T = TypeVar("T")

FETCH_SLOTS: Final = 8
UPLOAD_SLOTS: Final = 8
CONTROL_SLOTS: Final = 4

# Slower than this is given up: waiting on is worse than starting over elsewhere.
_MIN_BYTES_PER_S: Final = 32 * 1024
_REMEMBERED: Final = 4096


class Wire:
    """One connected bucket: its client and its lanes."""

    def __init__(self, options: GcsOptions, client: "Client") -> None:
        self.options: Final = options
        self.client: Final = client
        self.fetches: Final = Lane("download", FETCH_SLOTS)
        self.uploads: Final = Lane("upload", UPLOAD_SLOTS)
        self.controls: Final = Lane("control", CONTROL_SLOTS)
        self.bodies: Final = Bodies()
        self.words: Final = Words()

    async def look(self, doing: str, path: str, query: dict[str, str]) -> items.Resource:
        """A GET of JSON below the bucket. Raises csyncfs's errors."""
        return await self.controls.run(
            lambda: _again(doing, lambda: self.client.ask("GET", path, query)), self.deadline_s(0)
        )

    async def change(
        self,
        doing: str,
        method: str,
        path: str,
        query: dict[str, str],
        body: dict[str, Any] | None = None,
        slow_s: float = 0,
    ) -> items.Resource:
        """A small request, sent once. Raises csyncfs's errors.

        ``slow_s``: how much longer than others the server may take.
        """
        read_s = self.options.read_timeout_s + slow_s
        return await self.controls.run(
            lambda: told(doing, lambda: self.client.ask(method, path, query, body, read_s)),
            self.deadline_s(0) + slow_s,
        )

    async def send(self, doing: str, size: int, work: Callable[[], T], topic: str = "") -> T:
        """A request that carries so many bytes, sent once. Raises csyncfs's errors."""
        return await self.uploads.run(lambda: told(doing, work), self.deadline_s(size), topic)

    def deadline_s(self, size: int) -> float:
        """How long a call that moves so many bytes may take."""
        options = self.options
        return options.connect_timeout_s + 2 * options.read_timeout_s + size / _MIN_BYTES_PER_S


class Words:
    """The metadata of versions seen lately: content comes without, and a version's never change."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Mapping[str, str]] = {}

    def note(self, resource: items.Resource) -> None:
        """For the loop's thread, as all here."""
        name = str(resource.get("name", ""))
        if name and "generation" in resource and "metageneration" in resource:
            self._known[name, items.tag_of(resource)] = items.words_of(resource)
            while len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]

    def of(self, name: str, tag: str) -> Mapping[str, str] | None:
        return self._known.get((name, tag))


def told(doing: str, work: Callable[[], T]) -> T:
    """For worker threads: the result of SDK calls, or one of csyncfs's errors.

    ``doing``: what users call the request.
    """
    from csyncfs.backends.gcs.translation import translate

    try:
        return work()
    except Exception as exc:
        raise translate(exc, doing) from exc


def _again(doing: str, work: Callable[[], T]) -> T:
    from csyncfs.backends.gcs.translation import is_stale_connection

    def twice() -> T:
        try:
            return work()
        except Exception as exc:
            # The server closed an idle connection just as it was taken from the pool.
            if not is_stale_connection(exc):
                raise
        log.debug("retrying on a fresh connection doing=%s", doing)
        return work()

    return told(doing, twice)
