"""Server-side copies, of any size, with new attributes."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import trio

from csyncfs.backends.attempt import Attempt
from csyncfs.backends.azureblob import directories, items, looking
from csyncfs.backends.azureblob.commit import Commits, Reply, condition
from csyncfs.backends.azureblob.wire import Wire
from csyncfs.backends.base import Writing
from csyncfs.backends.failures import Contended, LostReply, Unmet
from csyncfs.errors import AccessDenied, Hold, NotFound, Retry, Unsupported, VersionMismatch
from csyncfs.types import Expect, Item, Kind, RemoteVersion

log = logging.getLogger(__name__)

# Put Blob From URL copies no more.
_AT_ONCE_BYTES: Final = 5000 << 20
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 5.0
_LET_IN: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy to be made."""

    source: str
    target: str
    writing: Writing
    expect_source: RemoteVersion
    expect_target: Expect


async def copy(wire: Wire, commits: Commits, order: Copy) -> Item:
    """See Backend.copy."""
    source, target = wire.options.blob_name(order.source), wire.options.blob_name(order.target)
    before = await looking.properties_of(wire, source)
    if items.is_dir(before.metadata or {}):
        raise NotFound("copying: no such item")
    if items.tag_of(before.etag) != order.expect_source.tag:
        raise VersionMismatch("somebody else changed the source")
    words = items.merged(before.metadata, items.stamps(order.writing, Kind.FILE, target))
    sending = _Sending(wire, order, source, target, words)
    attempt = Attempt(
        order.target, Kind.FILE, order.expect_target, order.writing.put_id, is_copy=True
    )
    # The reply does not tell the MD5 the copy has.
    return await commits.make(attempt, sending.run, lambda _: None)


class _Sending:
    """The requests of one copy."""

    def __init__(
        self, wire: Wire, order: Copy, source: str, target: str, words: Mapping[str, str]
    ) -> None:
        self._wire = wire
        self._order = order
        self._source = source
        self._target = target
        self._words = dict(words)

    async def run(self) -> Reply:
        """Return when the copy is complete.

        At once where that goes: until a copy that the server makes by and by is complete, others
        would see a part of it. Such ones take no time within an account, as a rule.
        """
        if self._wire.copies_by_url and self._order.expect_source.size <= _AT_ONCE_BYTES:
            try:
                return await self._at_once()
            except (Unsupported, AccessDenied, Hold) as exc:
                log.info("copies are not made at once here why=%s", exc)
                self._wire.copies_by_url = False
        return await self._by_and_by()

    def _conditions(self) -> dict[str, Any]:
        source = condition(self._order.expect_source)
        return {
            **condition(self._order.expect_target),
            **{f"source_{name}": value for name, value in source.items()},
        }

    async def _at_once(self) -> Reply:
        size = self._order.expect_source.size
        arguments: dict[str, Any] = {
            "metadata": self._words,
            "overwrite": True,
            **self._conditions(),
        }

        def work() -> Reply:
            url, access = self._readable_source()
            blob = self._wire.blob(self._target)
            return blob.upload_blob_from_url(url, **arguments, **access)

        return await self._wire.send("copying", size, work)

    async def _by_and_by(self) -> Reply:
        arguments: dict[str, Any] = {"metadata": self._words, **self._conditions()}

        def work() -> Reply:
            blob = self._wire.blob(self._target)
            url = self._wire.blob(self._source).url
            return blob.start_copy_from_url(url, **arguments)

        reply = await self._wire.change("copying", work)
        pause_s = _FIRST_PAUSE_S
        while (status := reply.get("copy_status")) == "pending":
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            reply = await self._progress(reply)
        if status != "success":
            await self._clear_away(reply)
        return reply

    async def _progress(self, reply: Reply) -> Reply:
        try:
            found = await looking.properties_of(self._wire, self._target)
        except (NotFound, Retry) as exc:
            raise LostReply("copying: the store cannot be asked how far it is") from exc
        if found.copy.id != reply.get("copy_id"):
            raise LostReply("copying: somebody else wrote the item meanwhile")
        return {
            "copy_status": found.copy.status,
            "copy_id": found.copy.id,
            "etag": found.etag,
            "last_modified": found.last_modified,
        }

    async def _clear_away(self, reply: Reply) -> None:
        """What a copy that failed leaves is empty, and has our put id."""
        version = RemoteVersion(items.tag_of(reply.get("etag")), 0, 0)
        with contextlib.suppress(NotFound, Unmet):
            await directories.delete_blob(self._wire, self._target, version)
        raise Contended("copying: the server gave up")

    def _readable_source(self) -> tuple[str, dict[str, Any]]:
        """In a thread: the source as the server itself can read it for a copy at once."""
        clients, blob = self._wire.clients, self._wire.blob(self._source)
        if clients.token is not None:
            token = clients.token.get_token("https://storage.azure.com/.default").token
            return blob.url, {"source_authorization": f"Bearer {token}"}
        if clients.credentials.key is None:
            return blob.url, {}  # it has the SAS token
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        access = generate_blob_sas(
            account_name=self._wire.options.account,
            container_name=self._wire.options.container,
            blob_name=self._source,
            account_key=clients.credentials.key,
            permission=BlobSasPermissions(read=True),
            expiry=datetime.now(UTC) + _LET_IN,
        )
        return f"{blob.url}?{access}", {}
