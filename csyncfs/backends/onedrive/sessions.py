"""Upload sessions: content in fragments, the last of which makes the file.

A session's address lets anybody write: it is in the resume state and nowhere else. It is saved
before the first fragment is sent, because a business drive knows one session for each name and
gives its address away only once.
"""

import json
from dataclasses import asdict, dataclass
from typing import Final

import httpx
import trio

from csyncfs.backends.failures import LostReply, NoUpload, ServerFailed
from csyncfs.backends.onedrive import translation
from csyncfs.backends.onedrive.sending import Sending
from csyncfs.backends.onedrive.translation import Json
from csyncfs.backends.onedrive.wire import Wire
from csyncfs.errors import CsyncError, NotFound, Retry

_TRIES: Final = 6
_PAUSE_S: Final = 0.3
_CANCEL_S: Final = 5.0
_LOST: Final = (401, 403, 404, 410)
_AGAIN: Final = (202, 408, 416, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class State:
    """What is saved of an unfinished upload."""

    url: str
    """"": it needs no session."""
    key: str
    size: int
    put_id: str
    base: str
    """The tag of the version it replaces; "": none."""
    quick_xor: str = ""
    """Of all of it, once the last of it is about to be sent: items carry no put ids."""
    time_s: int = 0
    """Likewise, the time of change that it will have."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def state_of(text: str | None) -> State | None:
    """None for what is no state."""
    try:
        found: Json = json.loads(text or "")
        return State(
            str(found["url"]),
            str(found["key"]),
            int(found["size"]),
            str(found["put_id"]),
            str(found["base"]),
            str(found.get("quick_xor", "")),
            int(found.get("time_s", 0)),
        )
    except (ValueError, KeyError, TypeError):
        return None


async def cancel(wire: Wire, url: str) -> None:
    """Free a session; one that is gone is no error."""
    await wire.upload("abandoning", "DELETE", url)


async def cancel_quietly(wire: Wire, key: str, url: str) -> None:
    """Free it if that goes fast; also while the caller is being cancelled. What does not is tried
    again with the next upload, and when the mount ends; after that it expires."""
    wire.sessions.pop(key, None)
    wire.left_sessions.append(url)
    await cancel_left(wire)


async def cancel_left(wire: Wire, *, shield: bool = True) -> None:
    """Free what could not be freed before, as far as that goes fast."""
    with trio.move_on_after(_CANCEL_S, shield=shield):
        while wire.left_sessions:
            url, is_free = wire.left_sessions.popleft(), False
            try:
                await cancel(wire, url)
                is_free = True
            except CsyncError:
                return
            finally:
                if not is_free:
                    wire.left_sessions.append(url)


async def next_byte(wire: Wire, url: str, size: int) -> int:
    """How far the server has come. Raises NoUpload."""
    for tried in range(1, _TRIES + 1):
        try:
            reply = await wire.upload("uploading", "GET", url)
        except (LostReply, ServerFailed):
            if tried == _TRIES:
                raise
            await trio.sleep(_PAUSE_S * tried)
            continue
        if reply.status_code in _LOST:
            raise NoUpload("uploading: the upload session is gone")
        if reply.status_code < 400:
            return _expected(translation.body_of(reply), size)
        await trio.sleep(_PAUSE_S * tried)
    raise ServerFailed("uploading: the server does not tell how far it came")


def _expected(body: Json, otherwise: int) -> int:
    ranges = body.get("nextExpectedRanges")
    if not isinstance(ranges, list) or not ranges:
        return otherwise
    first = str(ranges[0]).partition("-")[0]  # pyright: ignore[reportUnknownArgumentType]
    return int(first) if first.isdecimal() else otherwise


async def send(wire: Wire, url: str, sending: Sending, start: int) -> Json:
    """Send from there to the end; returns what the server says of the file, or {}.

    Raises NoUpload (start anew), and what the last fragment met: Unmet, Taken, NotFound.
    """
    at, tries, is_new = start, 0, start == 0
    while True:
        data = await sending.fragment(at)
        end = at + len(data)
        if end == sending.size:
            await sending.before_commit()
            await sending.confirm()
        reply = await _put(wire, url, data, at, sending.size)
        if reply is not None and reply.status_code in (200, 201):
            return translation.body_of(reply)
        if reply is not None and reply.status_code == 202:
            at, tries, is_new = _expected(translation.body_of(reply), end), 0, False
            if at < sending.size:
                sending.progress()
                continue
        tries += 1
        await _judge(reply, tries, is_new=is_new, is_last=end == sending.size)
        if tries > 1 or not is_new:
            at = await next_byte(wire, url, sending.size)
        if at >= sending.size:
            # All of it is there, and nothing more is known.
            return {}


async def _put(wire: Wire, url: str, data: bytes, at: int, size: int) -> httpx.Response | None:
    """None: no reply came."""
    headers = {
        "Content-Range": f"bytes {at}-{at + len(data) - 1}/{size}",
        "Content-Type": "application/octet-stream",
    }
    try:
        return await wire.upload("uploading", "PUT", url, data, headers)
    except LostReply:
        return None


async def _judge(reply: httpx.Response | None, tries: int, *, is_new: bool, is_last: bool) -> None:
    """Wait a moment if it is worth another try; raise what it is if not."""
    if reply is None or reply.status_code in _AGAIN:
        if tries >= _TRIES:
            raise ServerFailed("uploading: the server failed several times")
        await trio.sleep(_PAUSE_S * tries)
        return
    if reply.status_code in _LOST:
        # A new session may not be known everywhere yet.
        if not (is_new and reply.status_code == 404 and tries < 3):
            raise NoUpload("uploading: the upload session is gone")
        await trio.sleep(_PAUSE_S * 2 * tries)
        return
    error = translation.refusal(reply, "uploading")
    if isinstance(error, NotFound) and not is_last:
        raise Retry("uploading: the server lost the upload")
    raise error
