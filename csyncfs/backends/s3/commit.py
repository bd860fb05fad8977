"""The one way a version is made: conditionally, or checked before and after; never twice.

A write whose reply was lost is found again by its put id, so that it is neither reported
as a conflict with ourselves nor forgotten.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from csyncfs.backends.failures import NoUpload, Unmet, may_have_happened
from csyncfs.backends.s3 import items
from csyncfs.backends.s3.dialect import Verdict
from csyncfs.backends.s3.wire import Reply
from csyncfs.errors import (
    Ambiguous,
    CsyncError,
    NotFound,
    Retry,
    VersionMismatch,
)
from csyncfs.types import Expect, Item, Kind, RemoteVersion

log = logging.getLogger(__name__)

Head = Callable[[str, Kind], Awaitable[Item]]
Send = Callable[[dict[str, str]], Awaitable[Reply]]
"""Sends the request with these conditions."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One version to be made."""

    key: str
    kind: Kind
    action: str
    """``put``, ``complete`` or ``copy``: whose conditions the verdict is asked about."""
    expect: Expect
    put_id: str
    size: int
    md5: str | None = None

    def is_ours(self, item: Item | None, verdict: Verdict) -> bool:
        """True if the item is what this attempt makes, stored by an earlier request."""
        if item is None or item.version is None:
            return False
        if verdict.keeps_metadata:
            return item.put_id == self.put_id
        # Nothing else is left to compare; equal bytes are never a conflict.
        if self.md5 is not None and item.version.md5 is not None:
            return item.version.md5 == self.md5
        return False

    def is_met_by(self, current: Item | None) -> bool:
        if not isinstance(self.expect, RemoteVersion):
            return current is None
        version = current.version if current is not None else None
        return version is not None and version.tag == self.expect.tag


class Commits:
    """Makes versions in one store."""

    def __init__(self, verdict: Verdict, head: Head) -> None:
        self.verdict: Final = verdict
        self.head: Final = head

    async def make(
        self, attempt: Attempt, send: Send, made: Callable[[Reply], Item | None]
    ) -> Item:
        """The version made. ``made`` reads the reply; None: it has to be asked for.

        Raises VersionMismatch, Ambiguous and what ``send`` raises.
        """
        is_conditional = self.verdict.allows(attempt.action, attempt.expect)
        if not is_conditional and (earlier := await self._check(attempt)) is not None:
            return earlier
        conditions = self.verdict.condition(attempt.expect) if is_conditional else {}
        try:
            reply = await send(conditions)
        except (Unmet, NotFound, Retry) as exc:
            return await self._resolve(attempt, exc)
        if is_conditional and (item := made(reply)) is not None:
            return item
        return await self._verify(attempt, _tag_of(reply))

    async def current(self, key: str, kind: Kind) -> Item | None:
        """The item as it is, or None where there is none."""
        try:
            return await self.head(key, kind)
        except NotFound:
            return None

    async def _surely(self, attempt: Attempt, told: str = "") -> Item | None:
        """The item as it is now, or None. ``told``: the ETag another reply gave it.

        Every later request will name this ETag, and it decides between our version and somebody
        else's. One that nothing bears out is asked for twice. Raises Retry if the two differ.
        """
        item = await self.current(attempt.key, attempt.kind)
        if item is None or item.version is None:
            return item
        known = {told, attempt.md5}
        if isinstance(attempt.expect, RemoteVersion):
            known.add(attempt.expect.tag)
        if item.version.tag in known:
            return item
        again = await self.current(attempt.key, attempt.kind)
        if again is None or again.version is None or again.version.tag != item.version.tag:
            raise Retry("the store tells two versions of one item")
        return again

    async def _check(self, attempt: Attempt) -> Item | None:
        """Hold the item to ``expect`` ourselves; a race with others remains. Ours already: it."""
        current = await self._surely(attempt)
        if self.verdict.keeps_metadata and attempt.is_ours(current, self.verdict):
            return current
        if not attempt.is_met_by(current):
            raise VersionMismatch("somebody else changed the item", current)
        return None

    async def _verify(self, attempt: Attempt, told: str) -> Item:
        """The version just made, as the server has it. Raises if somebody's came after it."""
        try:
            current = await self._surely(attempt, told)
        except CsyncError as exc:
            raise Ambiguous("stored, but the store cannot be asked for it") from exc
        if current is None or not self._may_be_ours(attempt, current):
            log.warning("somebody wrote the same item at the same time key=%r", attempt.key)
            raise VersionMismatch("somebody else changed the item at the same time", current)
        return current

    def _may_be_ours(self, attempt: Attempt, current: Item) -> bool:
        """Right after a write that succeeded: without metadata the size is all there is."""
        if attempt.is_ours(current, self.verdict):
            return True
        version = current.version
        return (
            not self.verdict.keeps_metadata
            and version is not None
            and version.size == attempt.size
            and (attempt.md5 is None or version.md5 is None)
        )

    async def _resolve(self, attempt: Attempt, error: CsyncError) -> Item:
        """The version made by this or an earlier request of the attempt, else an error.

        A missing upload (NoUpload) may have been completed by a request whose reply was lost.
        """
        refused = isinstance(error, (Unmet, NotFound))
        if not refused and not may_have_happened(error):
            raise error
        try:
            current = await self._surely(attempt)
        except CsyncError as exc:
            # Refused perhaps because an earlier request of the attempt has made it already.
            raise Ambiguous("the store cannot be asked what became of it") from exc
        if current is not None and attempt.is_ours(current, self.verdict):
            log.info("found an upload whose reply was lost key=%r", attempt.key)
            return current
        if may_have_happened(error) and attempt.is_met_by(current):
            # It may still be on its way. With any other version there it never takes effect.
            raise Ambiguous("the reply was lost, and the upload is not there (yet)") from error
        if isinstance(error, NoUpload):
            raise error
        if current is None and (directory := await self._directory_of(attempt)) is not None:
            raise VersionMismatch("a directory has this name", directory) from error
        if not attempt.is_met_by(current):
            raise VersionMismatch("somebody else changed the item", current) from error
        if attempt.action == "copy":
            raise VersionMismatch("somebody else changed the source") from error
        raise Retry("refused, although the item is as expected; it was changed twice") from error

    async def _directory_of(self, attempt: Attempt) -> Item | None:
        """A directory in the way: servers that keep a tree have one thing under one name."""
        if attempt.kind is Kind.DIR:
            return None
        return await self.current(f"{attempt.key}/", Kind.DIR)


def _tag_of(reply: Reply) -> str:
    copied: Reply = reply.get("CopyObjectResult") or {}
    return items.tag_of(copied or reply)
