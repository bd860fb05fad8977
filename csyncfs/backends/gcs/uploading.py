"""Single requests that make a version: small content, markers, attributes."""

import hashlib
import json
import uuid
from typing import Any, Final

from csyncfs.backends import metadata
from csyncfs.backends.attempt import Attempt
from csyncfs.backends.base import Source, Writing
from csyncfs.backends.content import Content, base64_of, content_type
from csyncfs.backends.gcs import items, looking
from csyncfs.backends.gcs.commit import Commits
from csyncfs.backends.gcs.wire import Wire
from csyncfs.errors import Retry, Superseded, VersionMismatch
from csyncfs.types import Expect, Item, Kind, RemoteVersion

DIR_TYPE: Final = "application/x-directory"
# Up to here reading (from the page cache, as a rule) takes less than going to a thread: 100 us.
_INLINE: Final = 64 * 1024


async def put_small(
    wire: Wire, commits: Commits, key: str, source: Source, writing: Writing, expect: Expect
) -> Item:
    """One request of bytes held in memory."""
    file = Content(source.fd)
    if source.size <= _INLINE:
        content, digest = file.read(0, source.size)
    else:
        content, digest = await wire.send("reading", source.size, lambda: file.read(0, source.size))
    if not await source.confirm():
        raise Superseded("the content changed before it was sent")
    attempt = Attempt(key, Kind.FILE, expect, writing.put_id)
    return await _put(wire, commits, attempt, content, digest, writing)


async def put_marker(
    wire: Wire, commits: Commits, key: str, writing: Writing, expect: Expect
) -> Item:
    """The object that makes ``key`` a directory, empty or not."""
    attempt = Attempt(key, Kind.DIR, expect, writing.put_id)
    digest = hashlib.md5(usedforsecurity=False).digest()
    return await _put(wire, commits, attempt, b"", digest, writing)


async def _put(
    wire: Wire,
    commits: Commits,
    attempt: Attempt,
    content: bytes,
    digest: bytes,
    writing: Writing,
) -> Item:
    name = wire.options.object_name(attempt.key)
    # The server compares the MD5 and throws away what arrived damaged.
    told = {**resource_for(attempt, name, writing), "md5Hash": base64_of(digest)}

    async def send() -> items.Resource:
        query = {"uploadType": "multipart", **items.condition(attempt.expect), **answer()}
        made = await wire.send("writing", len(content), lambda: _insert(wire, query, told, content))
        if made.get("md5Hash") != told["md5Hash"]:
            raise await thrown_away(wire, made)
        wire.words.note(made)
        return made

    return await commits.make(attempt, send)


def resource_for(attempt: Attempt, name: str, writing: Writing) -> dict[str, Any]:
    """What the server is told of an object beside its content."""
    is_dir = attempt.kind is Kind.DIR
    return {
        "name": name,
        "contentType": DIR_TYPE if is_dir else content_type(attempt.key),
        "metadata": items.stamps(writing, name),
    }


def answer() -> dict[str, str]:
    return {"projection": "noAcl", "fields": items.FIELDS}


async def thrown_away(wire: Wire, made: items.Resource) -> Retry:
    """The error for content that was stored damaged; it has our put id, so it must go."""
    query = {
        "generation": str(made["generation"]),
        "ifGenerationMatch": str(made["generation"]),
    }
    await wire.change("deleting", "DELETE", object_path(str(made["name"])), query)
    return Retry("the content was stored damaged and removed")


def object_path(name: str) -> str:
    from csyncfs.backends.gcs import client

    return client.object_path(name)


def _insert(
    wire: Wire, query: dict[str, str], told: dict[str, Any], content: bytes
) -> items.Resource:
    """In a thread."""
    boundary = uuid.uuid4().hex
    parts = (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n",
        f"{json.dumps(told)}\r\n--{boundary}\r\nContent-Type: {told['contentType']}\r\n\r\n",
    )
    body = b"".join((*(part.encode() for part in parts), content, f"\r\n--{boundary}--".encode()))
    reply = wire.client.send(
        "POST",
        wire.client.url("upload", "/o"),
        params=query,
        data=body,
        headers={"Content-Type": f"multipart/related; boundary={boundary}"},
    )
    return reply.json()


async def set_attributes(
    wire: Wire, commits: Commits, key: str, kind: Kind, writing: Writing, expect: RemoteVersion
) -> Item:
    """See Backend.set_attributes: one conditional request, behind a look at what else the
    metadata says. It only changes what it names, so what is to go is named, too."""
    name = wire.options.object_name(key)
    before = await looking.resource_of(wire, name)
    current = items.item(key, kind, before)
    attempt = Attempt(key, kind, expect, writing.put_id)
    if attempt.is_ours(current):
        return current  # done by a request before this one
    if not attempt.is_met_by(current):
        raise VersionMismatch("somebody else changed the item", current)
    gone = {word: None for word in items.words_of(before) if word.lower() in metadata.KNOWN}
    words = {**gone, **items.stamps(writing, name)}

    async def send() -> items.Resource:
        query = {**items.condition(expect), **answer()}
        made = await wire.change("writing", "PATCH", object_path(name), query, {"metadata": words})
        wire.words.note(made)
        return made

    return await commits.make(attempt, send)
