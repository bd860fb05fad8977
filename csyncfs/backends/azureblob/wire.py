"""SDK calls on worker threads, one lane per kind of work: uploads cannot starve a reader."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from csyncfs.backends.azureblob.options import AzureOptions
from csyncfs.backends.checking import Bodies
from csyncfs.backends.lanes import Lane

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, ContainerClient

    from csyncfs.backends.azureblob.client import Clients

log = logging.getLogger(__name__)

T = TypeVar("T")

FETCH_SLOTS: Final = 8
UPLOAD_SLOTS: Final = 8
CONTROL_SLOTS: Final = 4

# Slower than this is given up: waiting on is worse than starting over elsewhere.
_MIN_BYTES_PER_S: Final = 32 * 1024


class Wire:
    """One connected store: its clients, its container, its lanes."""

    def __init__(self, options: AzureOptions, clients: "Clients", *, is_hierarchical: bool) -> None:
        self.options: Final = options
        self.clients: Final = clients
        self.is_hierarchical: Final = is_hierarchical
        """Directories exist by themselves and are renamed at once."""
        self.copies_by_url = True
        """Put Blob From URL works here; False once it was refused."""
        self.fetches: Final = Lane("download", FETCH_SLOTS)
        self.uploads: Final = Lane("upload", UPLOAD_SLOTS)
        self.controls: Final = Lane("control", CONTROL_SLOTS)
        self.bodies: Final = Bodies()

    @property
    def container(self) -> "ContainerClient":
        return self.clients.container

    def blob(self, name: str) -> "BlobClient":
        return self.clients.container.get_blob_client(name)

    async def look(self, doing: str, work: Callable[[], T]) -> T:
        """A small request that changes nothing. Raises csyncfs's errors."""
        return await self.controls.run(lambda: _again(doing, work), self.deadline_s(0))

    async def change(self, doing: str, work: Callable[[], T]) -> T:
        """A small request, sent once. Raises csyncfs's errors."""
        return await self.controls.run(lambda: told(doing, work), self.deadline_s(0))

    async def send(self, doing: str, size: int, work: Callable[[], T], topic: str = "") -> T:
        """A request that carries so many bytes, sent once. Raises csyncfs's errors."""
        return await self.uploads.run(lambda: told(doing, work), self.deadline_s(size), topic)

    def deadline_s(self, size: int) -> float:
        """How long a call that moves so many bytes may take."""
        options = self.options
        return options.connect_timeout_s + 2 * options.read_timeout_s + size / _MIN_BYTES_PER_S


def told(doing: str, work: Callable[[], T]) -> T:
    """For worker threads: the result of SDK calls, or one of csyncfs's errors.

    ``doing``: what users call the request.
    """
    from csyncfs.backends.azureblob.translation import translate

    try:
        return work()
    except Exception as exc:
        raise translate(exc, doing) from exc


def _again(doing: str, work: Callable[[], T]) -> T:
    from csyncfs.backends.azureblob.translation import is_stale_connection

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
