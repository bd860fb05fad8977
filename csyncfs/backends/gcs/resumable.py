"""Large files: one upload session, chunk after chunk, that another process can go on with.

The server keeps what it has got and says how far that is. The condition is part of the session
and counts when its last byte arrives; that comes with the CRC32C of the whole, so content that
changed on the way is refused, not stored. A session lives for a week, and whoever knows its
address may write to it: no log line and no message has one.
"""

import base64
import logging
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import trio

from csyncfs.backends.attempt import Attempt
from csyncfs.backends.base import SaveResume, Source, Writing
from csyncfs.backends.content import Content
from csyncfs.backends.failures import NoUpload
from csyncfs.backends.gcs import items
from csyncfs.backends.gcs.commit import Commits
from csyncfs.backends.gcs.uploading import answer, resource_for, thrown_away
from csyncfs.backends.gcs.wire import Wire
from csyncfs.errors import CsyncError, NotFound, Retry, Superseded
from csyncfs.types import Expect, Item, Kind, RemoteVersion

log = logging.getLogger(__name__)

_STRAYS_S: Final = 10.0
_CLEANUP_S: Final = 5.0


class State(msgspec.Struct):
    """What an upload is resumed from, as JSON. How far it is the server knows best."""

    session: str
    put_id: str
    size: int
    name: str
    expect: str
    """The tag of the version to replace, "" for none."""
    endpoint: str
    sent: int = 0

    def dump(self) -> str:
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a session says: the object if it is complete, else how far it is."""

    made: items.Resource | None
    committed: int


def load_state(resume: str | None) -> State | None:
    """None for anything that is not a state of this version."""
    if not resume:
        return None
    try:
        return msgspec.json.decode(resume, type=State)
    except msgspec.DecodeError:
        return None


async def put_large(
    wire: Wire,
    commits: Commits,
    key: str,
    source: Source,
    writing: Writing,
    expect: Expect,
    resume: str | None,
    save_resume: SaveResume,
) -> Item:
    """See Backend.put."""
    attempt = Attempt(key, Kind.FILE, expect, writing.put_id)
    wanted = State(
        "",
        writing.put_id,
        source.size,
        wire.options.object_name(key),
        expect.tag if isinstance(expect, RemoteVersion) else "",
        wire.client.endpoint,
    )
    # Known before gigabytes are moved, not after.
    if (found := await commits.found(attempt)) is not None:
        return found
    state, offset = await _resumed(wire, load_state(resume), wanted)
    if state is None:
        state, offset = await _begun(wire, attempt, writing, wanted), 0
        save_resume(state.dump())
    sending = _Sending(wire, source, state, save_resume)
    last, start = await sending.all_but_last(offset)
    if not await source.confirm():
        raise Superseded("the content changed before it was committed")
    return await commits.make(attempt, lambda: sending.commit(last, start))


async def cancel(wire: Wire, state: State) -> None:
    """Free what the session holds; one that is gone is no error."""
    if state.endpoint != wire.client.endpoint:
        return
    try:
        await wire.send("cancelling", 0, lambda: _call(wire, state.session, "DELETE", b"", {}))
    except NotFound:
        return


async def _begun(wire: Wire, attempt: Attempt, writing: Writing, wanted: State) -> State:
    told = resource_for(attempt, wanted.name, writing)
    query = {"uploadType": "resumable", **items.condition(attempt.expect), **answer()}
    headers = {
        "X-Upload-Content-Type": told["contentType"],
        "X-Upload-Content-Length": str(wanted.size),
    }

    def work() -> str:
        reply = wire.client.send(
            "POST", wire.client.url("upload", "/o"), params=query, json=told, headers=headers
        )
        return str(reply.headers.get("location", ""))

    session = await wire.send("writing", 0, work)
    if not session:
        raise Retry("the server did not tell the address of the upload")
    return msgspec.structs.replace(wanted, session=session)


async def _resumed(wire: Wire, state: State | None, wanted: State) -> tuple[State | None, int]:
    """The session to go on with and how far it is; None: there is none."""
    if state is None or not state.session:
        return None, 0
    with trio.move_on_after(_STRAYS_S):
        # A chunk of a cancelled attempt may still be under way.
        await wire.uploads.wait_idle(state.session)
    if msgspec.structs.replace(state, session="", sent=0) != wanted:
        # Condition and metadata are fixed when a session begins: another attempt cannot use it.
        with trio.move_on_after(_CLEANUP_S):
            await _try_cancel(wire, state)
        return None, 0
    try:
        told = await wire.send("looking", 0, lambda: _ask_progress(wire, state))
    except NotFound:
        return None, 0
    if told.made is not None:
        # It was completed, and what it made is not there any more.
        return None, 0
    log.info("resuming an upload size=%d sent=%d", state.size, told.committed)
    return state, told.committed


async def _try_cancel(wire: Wire, state: State) -> None:
    try:
        await cancel(wire, state)
    except CsyncError as exc:
        log.info("an upload session is left to expire why=%s", exc)


def _ask_progress(wire: Wire, state: State) -> Answer:
    return _call(wire, state.session, "PUT", b"", {"Content-Range": f"bytes */{state.size}"})


def _call(wire: Wire, session: str, method: str, data: bytes, headers: dict[str, str]) -> Answer:
    """In a thread: one request to the session. Raises NoUpload within Refused's meaning."""
    from csyncfs.backends.gcs.translation import Refused

    headers = {**headers, "Content-Length": str(len(data))}
    try:
        reply: Any = wire.client.send(method, session, data=data, headers=headers)
    except Refused as exc:
        if exc.status in (404, 410, 499):
            raise NoUpload("the upload session is gone") from exc
        raise
    if reply.status_code != 308:
        return Answer(reply.json() if reply.content else {}, 0)
    # No range: nothing is kept yet.
    told = str(reply.headers.get("range", ""))
    return Answer(None, int(told.rpartition("-")[2]) + 1 if told else 0)


class _Sending:
    """The content of one upload on its way, and its CRC32C so far."""

    def __init__(self, wire: Wire, source: Source, state: State, save_resume: SaveResume) -> None:
        self._wire = wire
        self._content = Content(source.fd)
        self._state = state
        self._save_resume = save_resume
        self._crc = 0
        self._summed = 0

    async def all_but_last(self, offset: int) -> tuple[bytes, int]:
        """The last chunk, not sent yet, and where it starts; the server has all before it."""
        size, chunk = self._state.size, self._wire.options.chunk_bytes
        # Sent by another process: what the file has there now is what is summed.
        await self._sum_up_to(offset)
        while size - offset > chunk:
            data, start = await self._read(offset, chunk), offset
            told = await self._send(data, start, {})
            if told.made is not None or not start < told.committed <= start + chunk:
                raise Retry("the upload session is out of step")
            offset = told.committed
            await self._add(data[: offset - start])
            self._state.sent = offset
            self._save_resume(self._state.dump())
        last = await self._read(offset, size - offset)
        await self._add(last)
        return last, offset

    async def commit(self, last: bytes, start: int) -> items.Resource:
        """Send the last chunk; the object it makes. Raises Unmet, NoUpload."""
        crc32c = base64.b64encode(self._crc.to_bytes(4, "big")).decode()
        while True:
            told = await self._send(last, start, {"X-Goog-Hash": f"crc32c={crc32c}"})
            if told.made is not None:
                break
            if not start < told.committed < self._state.size:
                raise Retry("the upload session is out of step")
            last, start = last[told.committed - start :], told.committed
        if told.made.get("crc32c") != crc32c:
            raise await thrown_away(self._wire, told.made)
        self._wire.words.note(told.made)
        return told.made

    async def _send(self, data: bytes, start: int, headers: dict[str, str]) -> Answer:
        end = start + len(data)
        # At the end of what it is asked for: an empty rest is asked for like progress.
        span = f"{start}-{end - 1}" if data else "*"
        headers = {**headers, "Content-Range": f"bytes {span}/{self._state.size}"}
        session = self._state.session
        try:
            return await self._wire.send(
                "writing",
                len(data),
                lambda: _call(self._wire, session, "PUT", data, headers),
                topic=session,
            )
        except Retry as exc:
            if _is_damaged(exc):
                await _try_cancel(self._wire, self._state)
            raise

    async def _sum_up_to(self, offset: int) -> None:
        while self._summed < offset:
            step = min(self._wire.options.chunk_bytes, offset - self._summed)
            await self._add(await self._read(self._summed, step))

    async def _read(self, start: int, length: int) -> bytes:
        data, _ = await self._wire.send(
            "reading", length, lambda: self._content.read(start, length)
        )
        return data

    async def _add(self, data: bytes) -> None:
        self._crc = await self._wire.send("reading", len(data), lambda: _extended(self._crc, data))
        self._summed += len(data)


def _is_damaged(error: Retry) -> bool:
    from csyncfs.backends.gcs.translation import Damaged

    return isinstance(error, Damaged)


def _extended(crc: int, data: bytes) -> int:
    import google_crc32c

    module: Any = google_crc32c
    return int(module.extend(crc, data))
