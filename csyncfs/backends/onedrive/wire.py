"""Requests, one by one: through the account's gate, and with csyncfs's errors as outcome.

Also what this process remembers of the drive: directories' ids for some seconds, what it has just
made, upload sessions it left open, and what it sent last to a key.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import trio

from csyncfs.backends.failures import LostReply, ServerFailed
from csyncfs.backends.onedrive import translation
from csyncfs.backends.onedrive.account import Account
from csyncfs.backends.onedrive.client import Ask, Client
from csyncfs.backends.onedrive.fresh import Fresh
from csyncfs.backends.onedrive.options import OneDriveOptions
from csyncfs.backends.onedrive.translation import Json
from csyncfs.errors import CsyncError, Throttled

log = logging.getLogger(__name__)

_LOOKS: Final = 3
_WAITS: Final = 3
_SENT_KEPT: Final = 4096
_LEFT_KEPT: Final = 1000
_PAUSE_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Drive:
    """Which drive, and where in it the mount begins."""

    id: str
    base_id: str
    base_chars: int
    """Length of the path of the mount's top in the drive."""
    kind: str
    """personal, business or documentLibrary."""

    @property
    def is_personal(self) -> bool:
        return self.kind == "personal"


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent to a key last: what is found there and is the same was made by it."""

    put_id: str
    device: str
    size: int
    quick_xor: str
    tag: str = ""
    """Of the version it became, once a reply told it."""


class Wire:
    """One connected drive."""

    def __init__(
        self, options: OneDriveOptions, client: Client, account: Account, drive: Drive
    ) -> None:
        self.options: Final = options
        self.client: Final = client
        self.account: Final = account
        self.drive: Final = drive
        self.fresh: Final = Fresh()
        self.sessions: Final[dict[str, str]] = {}
        """Upload sessions nobody finished yet, by key: their addresses."""
        self.left_sessions: Final[deque[str]] = deque(maxlen=_LEFT_KEPT)
        """Addresses of those that are of no use any more and could not be freed yet."""
        self.damaged: Final[dict[str, str]] = {}
        """Checksums of downloads that were not as told, by item and version."""
        self._sent: OrderedDict[str, Sent] = OrderedDict()

    def inherit(self, before: "Wire") -> None:
        """Know what the connection before this one knew of the same drive."""
        self.sessions.update(before.sessions)
        self.left_sessions.extend(before.left_sessions)
        before.left_sessions.clear()
        self.damaged.update(before.damaged)
        self._sent.update(before._sent)

    # -- the API -------------------------------------------------------------------------

    def items(self) -> Any:
        """The SDK's builder of the drive's items."""
        return self.client.graph.drives.by_drive_id(self.drive.id).items

    def item(self, item_id: str) -> Any:
        """The SDK's builder of one item, or of ``ID:/PATH:``."""
        return self.items().by_drive_item_id(item_id)

    async def look(self, doing: str, ask: Ask) -> Json:
        """A request that changes nothing, tried again when the server or the connection fails."""
        for tried in range(1, _LOOKS + 1):
            try:
                return translation.body_of(await self._ask(doing, ask))
            except (LostReply, ServerFailed) as exc:
                if tried == _LOOKS:
                    raise
                log.debug("looking again doing=%s error=%s", doing, exc)
            await trio.sleep(_PAUSE_S * tried)
        raise AssertionError

    async def change(self, doing: str, ask: Ask) -> Json:
        """A request sent once, unless the server did not let it in. An empty reply is {}."""
        return translation.body_of(await self._ask(doing, ask))

    async def _ask(self, doing: str, ask: Ask) -> httpx.Response:
        credential = self.client.credential
        is_renewed = False
        for waited in range(_WAITS + 1):
            try:
                # Before the gate: a sign-in takes its time, in which the gate may close.
                await credential.get_token(*credential.scopes, enable_cae=True)
                async with self.account.request():
                    reply = await self.client.send(ask)
            except (CsyncError, httpx.HTTPError, OSError) as exc:
                raise translation.broken(exc, doing) from exc
            if reply.status_code == 401:
                if is_renewed:
                    raise credential.refused("the account does not let csyncfs in")
                credential.forget()
                is_renewed = True
                continue
            credential.succeeded()
            if reply.status_code < 400:
                return reply
            error = translation.refusal(reply, doing)
            if not isinstance(error, Throttled):
                raise error
            self._throttled(error)
            if waited == _WAITS:
                raise error
        raise credential.refused("the account does not let csyncfs in")

    def _throttled(self, error: Throttled) -> None:
        self.account.close(1.0 if error.after_s is None else error.after_s)

    # -- content -------------------------------------------------------------------------

    async def upload(
        self, doing: str, verb: str, url: str, data: bytes = b"", headers: Mapping[str, str] = {}
    ) -> httpx.Response:
        """A request to the address of an upload, whose reply is for the caller to read; only
        being asked to wait is an error here."""
        try:
            async with self.account.request():
                reply = await self.client.content.request(
                    verb, url, content=data or None, headers=dict(headers)
                )
        except (CsyncError, httpx.HTTPError, OSError) as exc:
            raise translation.broken(exc, doing) from exc
        if reply.status_code >= 400:
            error = translation.refusal(reply, doing)
            if isinstance(error, Throttled):
                self._throttled(error)
                raise error
        return reply

    @asynccontextmanager
    async def download(
        self, url: str, headers: Mapping[str, str]
    ) -> AsyncGenerator[httpx.Response]:
        """The reply, its body not read yet."""
        async with (
            self.account.download(),
            self.client.content.stream("GET", url, headers=dict(headers)) as reply,
        ):
            if reply.status_code in (429, 503, 509):
                error = translation.refusal(reply, "reading")
                if isinstance(error, Throttled):
                    self._throttled(error)
            yield reply

    # -- what was sent -------------------------------------------------------------------

    def note_sent(self, key: str, sent: Sent) -> None:
        self._sent[key] = sent
        self._sent.move_to_end(key)
        while len(self._sent) > _SENT_KEPT:
            self._sent.popitem(last=False)

    def has_sent(self, put_id: str) -> bool:
        """Whether this put was under way before, perhaps to where the file was then."""
        return any(sent.put_id == put_id for sent in self._sent.values())

    def sent(self, key: str, size: int, quick_xor: str, tag: str) -> Sent | None:
        """What this process sent to the key, if that is what is there."""
        found = self._sent.get(key)
        if found is None or (found.size, found.quick_xor) != (size, quick_xor):
            return None
        return found if found.tag in ("", tag) else None
