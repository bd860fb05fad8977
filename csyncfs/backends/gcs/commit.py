"""The one way a version is made: conditionally, and never twice.

A write whose reply was lost is found again by its put id, so that it is neither reported as a
conflict with ourselves nor forgotten.
"""

import logging
from collections.abc import Awaitable, Callable

from csyncfs.backends.attempt import Attempt, Looking
from csyncfs.backends.failures import Unmet, may_have_happened
from csyncfs.backends.gcs import items
from csyncfs.errors import Ambiguous, CsyncError, NotFound, Retry, VersionMismatch
from csyncfs.types import Item

log = logging.getLogger(__name__)


class Commits(Looking):
    """Makes versions in one bucket."""

    async def make(self, attempt: Attempt, send: Callable[[], Awaitable[items.Resource]]) -> Item:
        """The version made. Raises VersionMismatch, Ambiguous and what ``send`` raises."""
        try:
            resource = await send()
        except (Unmet, NotFound, Retry) as exc:
            return await self._resolve(attempt, exc)
        return items.item(attempt.key, attempt.kind, resource)

    async def found(self, attempt: Attempt) -> Item | None:
        """What an earlier request of the attempt made; None if the way is free for it. Raises
        VersionMismatch."""
        current = await self.current(attempt.key, attempt.kind)
        if attempt.is_ours(current):
            return current
        if not attempt.is_met_by(current):
            raise VersionMismatch("somebody else changed the item", current)
        return None

    async def _resolve(self, attempt: Attempt, error: CsyncError) -> Item:
        """The version made by this or an earlier request of the attempt, else an error."""
        is_lost = may_have_happened(error)
        if not isinstance(error, (Unmet, NotFound)) and not is_lost:
            raise error
        try:
            current = await self.current(attempt.key, attempt.kind)
        except CsyncError as exc:
            # Refused perhaps because an earlier request of the attempt has made it already.
            raise Ambiguous("the store cannot be asked what became of it") from exc
        if current is not None and attempt.is_ours(current):
            log.info("found an upload whose reply was lost key=%r", attempt.key)
            return current
        if not attempt.is_met_by(current):
            raise VersionMismatch("somebody else changed the item", current) from error
        if is_lost:
            # It may still be on its way. With any other version there it never takes effect.
            raise Ambiguous("the reply was lost, and the upload is not there (yet)") from error
        if attempt.is_copy:
            raise VersionMismatch("somebody else changed the source") from error
        raise Retry("refused, although the item is as expected; it was changed twice") from error
