"""Single requests that make a version: small content, markers, attributes."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from csyncfs.backends.attempt import Attempt
from csyncfs.backends.azureblob import items, looking
from csyncfs.backends.azureblob.commit import Commits, Reply, condition
from csyncfs.backends.azureblob.wire import Wire
from csyncfs.backends.base import Source, Writing
from csyncfs.backends.content import Content, base64_of, content_type
from csyncfs.errors import Superseded, VersionMismatch
from csyncfs.types import Expect, Item, Kind, RemoteVersion

DIR_TYPE: Final = "application/x-directory"
# Up to here reading (from the page cache, as a rule) takes less than going to a thread: 100 us.
_INLINE: Final = 64 * 1024


async def put_small(
    wire: Wire, commits: Commits, key: str, source: Source, writing: Writing, expect: Expect
) -> Item:
    """One Put Blob of bytes held in memory."""
    file = Content(source.fd)
    if source.size <= _INLINE:
        content, digest = file.read(0, source.size)
    else:
        content, digest = await wire.send("reading", source.size, lambda: file.read(0, source.size))
    if not await source.confirm():
        raise Superseded("the content changed before it was sent")
    attempt = Attempt(key, Kind.FILE, expect, writing.put_id)
    name = wire.options.blob_name(key)
    return await _put(wire, commits, attempt, name, content, digest, writing)


async def put_marker(
    wire: Wire, commits: Commits, key: str, writing: Writing, expect: Expect
) -> Item:
    """The blob that makes ``key`` a directory, empty or not."""
    attempt = Attempt(key, Kind.DIR, expect, writing.put_id)
    digest = hashlib.md5(usedforsecurity=False).digest()
    return await _put(wire, commits, attempt, wire.options.blob_name(key), b"", digest, writing)


async def _put(
    wire: Wire,
    commits: Commits,
    attempt: Attempt,
    name: str,
    content: bytes,
    digest: bytes,
    writing: Writing,
) -> Item:
    key, kind, size = attempt.key, attempt.kind, len(content)
    told = items.stamps(writing, kind, name)
    is_dir = kind is Kind.DIR
    arguments: dict[str, Any] = {
        "metadata": told,
        "content_settings": settings_of(DIR_TYPE if is_dir else content_type(key), digest),
        # Checked on arrival; not every server checks the property.
        "headers": {"Content-MD5": base64_of(digest)},
        "overwrite": True,
        **condition(attempt.expect),
    }

    async def send() -> Reply:
        return await wire.send(
            "writing", size, lambda: wire.blob(name).upload_blob(content, length=size, **arguments)
        )

    md5 = digest.hex() if kind is Kind.FILE else None
    return await commits.make(
        attempt, send, lambda reply: items.from_reply(key, kind, reply, size, md5, told, name)
    )


def settings_of(kind: str, digest: bytes | None) -> Any:
    """The properties of a blob: its type, and its MD5 where that is known."""
    from azure.storage.blob import ContentSettings

    return ContentSettings(
        content_type=kind, content_md5=None if digest is None else bytearray(digest)
    )


async def set_attributes(
    wire: Wire, commits: Commits, key: str, kind: Kind, writing: Writing, expect: RemoteVersion
) -> Item:
    """See Backend.set_attributes: one conditional request, behind a look at what else the
    metadata says, which it replaces as a whole."""
    if kind is Kind.DIR:
        name, before = await looking.find_marker(wire, key)
    else:
        name = wire.options.blob_name(key)
        before = await looking.properties_of(wire, name)
    kept: Mapping[str, str] = before.metadata or {}
    attempt = Attempt(key, kind, expect, writing.put_id)
    current = items.from_properties(key, kind, before, name)
    if attempt.is_ours(current):
        return current  # done by a request before this one
    if not attempt.is_met_by(current):
        raise VersionMismatch("somebody else changed the item", await commits.surely(attempt))
    told = items.merged(kept, items.stamps(writing, kind, name))

    async def send() -> Reply:
        return await wire.change(
            "writing", lambda: wire.blob(name).set_blob_metadata(told, **condition(expect))
        )

    return await commits.make(
        attempt,
        send,
        lambda reply: items.from_reply(key, kind, reply, expect.size, expect.md5, told, name),
    )
