"""Large files: blocks in parallel, one conditional commit, and only what the blob has not yet.

The id of a block is made of the SHA-256 of its bytes and its length. So the server says by itself
which blocks need not be sent: those of the version there is, when a file was partly edited, and
those an interrupted upload left. Blocks that nobody commits are dropped by Azure after a week;
there is no request that frees them.
"""

import base64
import hashlib
import logging
import re
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import trio

from csyncfs.backends.attempt import Attempt
from csyncfs.backends.azureblob import items
from csyncfs.backends.azureblob.commit import Commits, Reply, condition
from csyncfs.backends.azureblob.uploading import settings_of
from csyncfs.backends.azureblob.wire import Wire
from csyncfs.backends.base import SaveResume, Source, Writing
from csyncfs.backends.content import Content, base64_of, content_type
from csyncfs.backends.failures import BadParts
from csyncfs.backends.lanes import in_parallel
from csyncfs.errors import Hold, NotFound, Retry, Superseded, VersionMismatch
from csyncfs.types import Expect, Item, Kind, RemoteVersion

log = logging.getLogger(__name__)

# Of one file; the upload lane bounds all of them together.
_PARALLEL_BLOCKS: Final = 4
_MEMORY_BYTES: Final = 256 << 20
_STRAYS_S: Final = 10.0
_UNSAVED_SHARE: Final = 64
# Of blocks that need not be sent: reading them takes time, too.
_TOLD_BYTES: Final = 1 << 30
_ID_CHARS: Final = 48
# Fewer would not tell contents apart: 16 bytes of the hash.
_LEAST_ID_CHARS: Final = 28
_UNCOMMITTED = re.compile(rb"<UncommittedBlocks>\s*<Block>\s*<Name>([^<]*)<")


class State(msgspec.Struct):
    """How far an upload has come, as JSON. What is there the server knows best."""

    put_id: str
    size: int
    sent: int = 0

    def dump(self) -> str:
        return msgspec.json.encode(self).decode()


@dataclass(slots=True)
class Known:
    """The blocks a blob has."""

    sizes: dict[str, int] = field(default_factory=dict[str, int])
    """By id, of committed and uncommitted ones."""
    id_chars: int = _ID_CHARS
    """The uncommitted blocks of a blob must have ids of one length, whoever sent them."""
    tag: str = ""
    """Of the version the committed ones belong to; "" where there is none."""


def id_of(content: bytes, chars: int = _ID_CHARS) -> str:
    """What a block with these bytes is called. Of ``chars`` characters before Base64."""
    digest = hashlib.sha256(content)
    digest.update(len(content).to_bytes(8, "big"))
    return base64.b64encode(digest.digest()).decode().ljust(chars, "0")[:chars]


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
    name = wire.options.blob_name(key)
    with trio.move_on_after(_STRAYS_S):
        # Blocks of a cancelled attempt may still be under way.
        await wire.uploads.wait_idle(name)
    known = await _known_blocks(wire, name)
    if known.tag != (expect.tag if isinstance(expect, RemoteVersion) else ""):
        current = await commits.surely(attempt)
        if attempt.is_ours(current) and current is not None:
            return current
        if not attempt.is_met_by(current):
            # Known before gigabytes are moved, not after.
            raise VersionMismatch("somebody else changed the item", current)
    state = State(writing.put_id, source.size)
    if resume is None:
        save_resume(state.dump())
    sending = _Sending(wire, name, source, state, known, save_resume)
    await sending.run()
    if not await source.confirm():
        raise Superseded("the content changed before it was committed")
    return await _commit(wire, commits, attempt, name, sending.ids(), source.size, writing)


async def _commit(
    wire: Wire,
    commits: Commits,
    attempt: Attempt,
    name: str,
    ids: list[str],
    size: int,
    writing: Writing,
) -> Item:
    from azure.storage.blob import BlobBlock

    stamps = items.stamps(writing, Kind.FILE, name)
    arguments: dict[str, Any] = {
        "metadata": stamps,
        "content_settings": settings_of(content_type(attempt.key), None),
        **condition(attempt.expect),
    }

    async def send() -> Reply:
        # Whether a block is of this upload or of the version before makes no difference.
        blocks = [BlobBlock(block_id) for block_id in ids]
        return await wire.send(
            "writing",
            len(ids) * 100,
            lambda: wire.blob(name).commit_block_list(blocks, **arguments),
            topic=name,
        )

    try:
        return await commits.make(
            attempt,
            send,
            lambda reply: items.from_reply(attempt.key, Kind.FILE, reply, size, None, stamps, name),
        )
    except BadParts as exc:
        # Whoever commits or puts a blob drops what others were sending.
        raise Retry("blocks of the upload are gone; it starts over") from exc


async def _known_blocks(wire: Wire, name: str) -> Known:
    """What the server has of this blob."""
    known = Known()

    def note(response: Any) -> None:
        known.tag = items.tag_of(response.http_response.headers.get("etag"))
        # The SDK does not tell whether it has taken the Base64 off.
        if found := _UNCOMMITTED.search(response.http_response.body()):
            known.id_chars = len(base64.b64decode(found[1]))

    def ask() -> Any:
        return wire.blob(name).get_block_list("all", raw_response_hook=note)

    try:
        committed, uncommitted = await wire.look("looking", ask)
    except NotFound:
        return Known()
    except Hold:
        # An append or a page blob. Put Block says so, if it is not to be replaced by a small one.
        return Known()
    if known.id_chars < _LEAST_ID_CHARS:
        raise Hold("another tool's unfinished upload is in the way; Azure drops it within a week")
    known.sizes = {block.id: int(block.size) for block in (*committed, *uncommitted)}
    log.debug("blocks on the server name=%r known=%d", name, len(known.sizes))
    return known


class _Sending:
    """The blocks of one upload on their way."""

    def __init__(
        self,
        wire: Wire,
        name: str,
        source: Source,
        state: State,
        known: Known,
        save_resume: SaveResume,
    ) -> None:
        self._wire = wire
        self._name = name
        self._content = Content(source.fd)
        self._size = source.size
        self._block_size = wire.options.block_size_for(source.size)
        self._state = state
        self._known = known
        self._save_resume = save_resume
        self._ids: dict[int, str] = {}
        self._unsaved = 0
        self._skipped_bytes = 0

    async def run(self) -> None:
        """Return when the server has every block as the file is now."""
        count = -(-self._size // self._block_size)
        # Blocks are in memory while they are sent.
        limit = max(1, min(_PARALLEL_BLOCKS, _MEMORY_BYTES // self._block_size))
        await in_parallel(list(range(count)), limit, self._send)
        log.debug("blocks sent name=%r sent=%d of=%d", self._name, self._state.sent, count)

    def ids(self) -> list[str]:
        return [self._ids[number] for number in sorted(self._ids)]

    async def _send(self, number: int) -> None:
        start = number * self._block_size
        length = min(self._block_size, self._size - start)
        block_id, is_sent = await self._wire.send(
            "writing", length, lambda: self._stage(start, length), topic=self._name
        )
        self._ids[number] = block_id
        if not is_sent:
            self._skipped_bytes += length
            if self._skipped_bytes >= _TOLD_BYTES:
                self._skipped_bytes = 0
                self._save_resume(self._state.dump())
        else:
            self._state.sent += 1
            self._unsaved += 1
            # Tells that there is progress, as above.
            if self._unsaved > self._state.sent // _UNSAVED_SHARE:
                self._unsaved = 0
                self._save_resume(self._state.dump())

    def _stage(self, start: int, length: int) -> tuple[str, bool]:
        """In a thread. The block's id, and whether it had to be sent."""
        content, digest = self._content.read(start, length)
        block_id = id_of(content, self._known.id_chars)
        if self._known.sizes.get(block_id) == length:
            return block_id, False
        self._wire.blob(self._name).stage_block(
            block_id, content, length=length, headers={"Content-MD5": base64_of(digest)}
        )
        return block_id, True
