"""Multipart uploads: parts in parallel, resumable across processes, one conditional commit."""

import logging
from typing import Any, Final

import msgspec
import trio

from csyncfs.backends import metadata
from csyncfs.backends.base import SaveResume, Source, Writing
from csyncfs.backends.content import Content, base64_of, content_type
from csyncfs.backends.failures import BadParts, Contended, NoUpload
from csyncfs.backends.lanes import in_parallel
from csyncfs.backends.s3 import items
from csyncfs.backends.s3.commit import Attempt, Commits
from csyncfs.backends.s3.wire import Reply, Wire
from csyncfs.errors import CsyncError, Retry, Superseded
from csyncfs.types import Expect, Item, Kind

log = logging.getLogger(__name__)

# Of one file; the upload lane bounds all of them together.
_PARALLEL_PARTS: Final = 4
_MEMORY_BYTES: Final = 256 << 20
_CLEANUP_S: Final = 5.0
_STRAYS_S: Final = 10.0
_UNSAVED_SHARE: Final = 64


class Part(msgspec.Struct, array_like=True, frozen=True):
    """One part the server has."""

    tag: str
    md5: str


class State(msgspec.Struct):
    """What an upload is resumed from, as JSON."""

    upload_id: str
    key: str
    put_id: str
    size: int
    part_size: int
    parts: dict[int, Part] = msgspec.field(default_factory=dict[int, Part])

    def dump(self) -> str:
        return msgspec.json.encode(self).decode()


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
    attempt = Attempt(key, Kind.FILE, "complete", expect, writing.put_id, source.size)
    state = load_state(resume)
    if state is not None:
        try:
            state = await _usable(wire, key, source, writing, state)
        except NoUpload:
            # Perhaps it was completed and the reply got lost.
            current = await commits.current(key, Kind.FILE)
            if current is not None and current.put_id == writing.put_id:
                return current
            state = None
    if state is None:
        state = await _create(wire, key, source, writing)
        save_resume(state.dump())
    await _Sending(wire, key, source, state, save_resume).run()
    if not await source.confirm():
        raise Superseded("the content changed before it was committed")
    try:
        return await complete(wire, commits, attempt, state.upload_id, _numbered(state))
    except NoUpload as exc:
        raise Retry("the multipart upload is gone; it starts over") from exc


async def create(wire: Wire, key: str, **stamps: Any) -> str:
    """The id of a new upload to ``key``."""
    reply = await wire.ask(
        "create_multipart_upload", Key=wire.options.full_key(key), **stamps, **wire.stamps()
    )
    return str(reply["UploadId"])


async def complete(
    wire: Wire, commits: Commits, attempt: Attempt, upload_id: str, parts: list[dict[str, Any]]
) -> Item:
    """Commit the upload, on the attempt's condition."""

    async def send(conditions: dict[str, str]) -> Reply:
        try:
            return await wire.ask_patiently(
                "complete_multipart_upload",
                Key=wire.options.full_key(attempt.key),
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
                **conditions,
            )
        except (Contended, BadParts):
            # AWS wants a new upload after this; the next attempt finds none and makes it.
            await abort(wire, attempt.key, upload_id)
            raise

    # Some servers answer with another ETag than the object then has, or with none.
    return await commits.make(attempt, send, lambda _: None)


async def abort(wire: Wire, key: str, upload_id: str) -> None:
    """Free the parts; an upload that is gone is no error."""
    try:
        await wire.ask("abort_multipart_upload", Key=wire.options.full_key(key), UploadId=upload_id)
    except NoUpload:
        return


async def listed_parts(wire: Wire, key: str, upload_id: str) -> dict[int, tuple[str, int]]:
    """ETag and size of every part the server has, by number. Raises NoUpload."""
    found: dict[int, tuple[str, int]] = {}
    params: dict[str, Any] = {"Key": wire.options.full_key(key), "UploadId": upload_id}
    while True:
        reply = await wire.ask("list_parts", **params)
        for part in reply.get("Parts") or ():
            found[int(part["PartNumber"])] = (items.tag_of(part), int(part["Size"]))
        following = reply.get("NextPartNumberMarker")
        if not reply.get("IsTruncated") or following in (None, params.get("PartNumberMarker")):
            return found
        params["PartNumberMarker"] = following


async def _create(wire: Wire, key: str, source: Source, writing: Writing) -> State:
    stamps = metadata.encode(writing, wire.options.full_key(key))
    upload_id = await create(wire, key, Metadata=stamps, ContentType=content_type(key))
    part_size = wire.options.part_size_for(source.size)
    return State(upload_id, key, writing.put_id, source.size, part_size)


async def _usable(
    wire: Wire, key: str, source: Source, writing: Writing, state: State
) -> State | None:
    """The state with the parts the server confirms; None if it is of other content.

    Raises NoUpload.
    """
    known, wanted = (state.put_id, state.size, state.key), (writing.put_id, source.size, key)
    if known != wanted or state.part_size <= 0:
        # Metadata is fixed when an upload is created, so another attempt cannot use it.
        with trio.move_on_after(_CLEANUP_S):
            await try_abort(wire, state.key, state.upload_id)
        return None
    with trio.move_on_after(_STRAYS_S):
        # Parts of a cancelled attempt may still be under way; rclone loses a part sent twice.
        await wire.uploads.wait_idle(state.upload_id)
    listed = await listed_parts(wire, key, state.upload_id)
    state.parts = {
        number: _known_part(state.parts.get(number), tag)
        for number, (tag, size) in listed.items()
        if size == _part_length(state, number)
    }
    log.info("resuming an upload key=%r parts=%d", key, len(state.parts))
    return state


def _known_part(saved: Part | None, tag: str) -> Part:
    """A part not saved in time is known by its tag, which is its MD5 nearly everywhere."""
    return saved if saved is not None and saved.tag == tag else Part(tag, tag)


async def try_abort(wire: Wire, key: str, upload_id: str) -> None:
    try:
        await abort(wire, key, upload_id)
    except CsyncError as exc:
        log.warning("an unfinished upload is left in the bucket key=%r why=%s", key, exc)


def _part_length(state: State, number: int) -> int:
    return min(state.part_size, state.size - (number - 1) * state.part_size)


def _numbered(state: State) -> list[dict[str, Any]]:
    return [
        {"PartNumber": number, "ETag": f'"{part.tag}"'}
        for number, part in sorted(state.parts.items())
    ]


class _Sending:
    """The parts of one upload on their way."""

    def __init__(
        self, wire: Wire, key: str, source: Source, state: State, save_resume: SaveResume
    ) -> None:
        self._wire = wire
        self._key = wire.options.full_key(key)
        self._content = Content(source.fd)
        self._state = state
        self._save_resume = save_resume
        self._unsaved = 0

    async def run(self) -> None:
        """Return when the server has every part as the file is now."""
        state = self._state
        count = -(-state.size // state.part_size)
        # Parts are in memory while they are sent.
        limit = max(1, min(_PARALLEL_PARTS, _MEMORY_BYTES // state.part_size))
        await in_parallel(list(range(1, count + 1)), limit, self._send)

    async def _send(self, number: int) -> None:
        length = _part_length(self._state, number)
        known = self._state.parts.get(number)
        part = await self._wire.uploads.run(
            lambda: self._upload(number, length, known),
            self._wire.deadline_s(length),
            topic=self._state.upload_id,
        )
        if part is not known:
            self._state.parts[number] = part
            self._unsaved += 1
            self._save()

    def _save(self) -> None:
        # The state of 10,000 parts is 1 MB: what is not saved each time, ListParts still knows.
        if self._unsaved > len(self._state.parts) // _UNSAVED_SHARE:
            self._unsaved = 0
            self._save_resume(self._state.dump())

    def _upload(self, number: int, length: int, known: Part | None) -> Part:
        """In a thread. A part sent earlier is sent again if its bytes have changed."""
        start = (number - 1) * self._state.part_size
        content, digest = self._content.read(start, length)
        if known is not None and known.md5 == digest.hex():
            return known
        reply = self._wire.call(
            "upload_part",
            Key=self._key,
            UploadId=self._state.upload_id,
            PartNumber=number,
            Body=content,
            ContentMD5=base64_of(digest),
        )
        return Part(items.tag_of(reply), digest.hex())
