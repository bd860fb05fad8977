"""The one way a version is made: conditionally, and never twice.

A write whose reply was lost is found again by its put id, so that it is neither reported as a
conflict with ourselves nor forgotten.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from csyncfs.backends.attempt import Attempt, Looking
from csyncfs.backends.failures import BadParts, Unmet, may_have_happened
from csyncfs.errors import Ambiguous, CsyncError, NotFound, Retry, VersionMismatch
from csyncfs.types import Expect, Item, Kind, RemoteVersion

log = logging.getLogger(__name__)

Reply = Mapping[str, Any]


def condition(expect: Expect | None) -> dict[str, Any]:
    """The SDK's arguments that say ``expect``; None: whatever is there."""
    from azure.core import MatchConditions

    if expect is None:
        return {}
    if isinstance(expect, RemoteVersion):
        return {"etag": f'"{expect.tag}"', "match_condition": MatchConditions.IfNotModified}
    return {"match_condition": MatchConditions.IfMissing}


class Commits(Looking):
    """Makes versions in one store."""

    async def make(
        self,
        attempt: Attempt,
        send: Callable[[], Awaitable[Reply]],
        made: Callable[[Reply], Item | None],
    ) -> Item:
        """The version made. ``made`` reads the reply; None: it has to be asked for.

        Raises VersionMismatch, Ambiguous and what ``send`` raises.
        """
        try:
            reply = await send()
        except (Unmet, NotFound, Retry) as exc:
            return await self._resolve(attempt, exc)
        if (item := made(reply)) is not None:
            return item
        try:
            current = await self.surely(attempt)
        except CsyncError as exc:
            raise Ambiguous("stored, but the store cannot be asked for it") from exc
        if current is None or not attempt.is_ours(current):
            raise VersionMismatch("somebody else changed the item at the same time", current)
        return current

    async def surely(self, attempt: Attempt) -> Item | None:
        """The item as it is now, or None.

        Its ETag decides between our version and somebody else's. One that nothing bears out is
        asked for twice. Raises Retry if the two differ.
        """
        item = await self.current(attempt.key, attempt.kind)
        if item is None or item.version is None or attempt.is_met_by(item):
            return item
        again = await self.current(attempt.key, attempt.kind)
        if again is None or again.version is None or again.version.tag != item.version.tag:
            raise Retry("the store tells two versions of one item")
        return again

    async def _resolve(self, attempt: Attempt, error: CsyncError) -> Item:
        """The version made by this or an earlier request of the attempt, else an error.

        Missing blocks (BadParts) may have been committed by a request whose reply was lost.
        """
        is_lost = may_have_happened(error)
        if not isinstance(error, (Unmet, NotFound, BadParts)) and not is_lost:
            raise error
        try:
            current = await self.surely(attempt)
        except CsyncError as exc:
            # Refused perhaps because an earlier request of the attempt has made it already.
            raise Ambiguous("the store cannot be asked what became of it") from exc
        if current is not None and attempt.is_ours(current):
            log.info("found an upload whose reply was lost key=%r", attempt.key)
            return current
        if is_lost and attempt.is_met_by(current):
            # It may still be on its way. With any other version there it never takes effect.
            raise Ambiguous("the reply was lost, and the upload is not there (yet)") from error
        is_free = current is None or current.version is None
        if is_free and (other := await self._of_other_kind(attempt)) is not None:
            raise VersionMismatch("the name is one of another kind", other) from error
        if not attempt.is_met_by(current):
            raise VersionMismatch("somebody else changed the item", current) from error
        if isinstance(error, BadParts):
            raise error
        if attempt.is_copy:
            raise VersionMismatch("somebody else changed the source") from error
        raise Retry("refused, although the item is as expected; it was changed twice") from error

    async def _of_other_kind(self, attempt: Attempt) -> Item | None:
        """A directory where a file is to be, or the other way round: both are one blob."""
        if attempt.kind is Kind.FILE:
            return await self._only_blob(f"{attempt.key}/", Kind.DIR)
        return await self._only_blob(attempt.key.removesuffix("/"), Kind.FILE)

    async def _only_blob(self, key: str, kind: Kind) -> Item | None:
        item = await self.current(key, kind) if key.strip("/") else None
        return item if item is not None and item.version is not None else None
