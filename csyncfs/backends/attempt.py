"""One version to be made, and how to tell whether it was.

For stores that keep a put id with every version and hold every condition themselves.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from csyncfs.errors import NotFound
from csyncfs.types import Expect, Item, Kind, RemoteVersion

Head = Callable[[str, Kind], Awaitable[Item]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One version to be made."""

    key: str
    kind: Kind
    expect: Expect
    put_id: str
    is_copy: bool = False

    def is_ours(self, item: Item | None) -> bool:
        """True if the item is what this attempt makes, stored by an earlier request."""
        return item is not None and item.version is not None and item.put_id == self.put_id

    def is_met_by(self, current: Item | None) -> bool:
        if not isinstance(self.expect, RemoteVersion):
            return current is None or current.version is None
        version = current.version if current is not None else None
        return version is not None and version.tag == self.expect.tag


class Looking:
    """Asks what is there."""

    def __init__(self, head: Head) -> None:
        self.head: Final = head

    async def current(self, key: str, kind: Kind) -> Item | None:
        """The item as it is, or None where there is none."""
        try:
            return await self.head(key, kind)
        except NotFound:
            return None
