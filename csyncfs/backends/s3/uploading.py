"""Single requests that make a version: small content, directory markers."""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from csyncfs.backends import metadata
from csyncfs.backends.base import Source, Writing
from csyncfs.backends.content import Content, base64_of, content_type
from csyncfs.backends.s3 import items
from csyncfs.backends.s3.commit import Attempt, Commits
from csyncfs.backends.s3.wire import Reply, Wire
from csyncfs.errors import Superseded
from csyncfs.types import Expect, Item, Kind

DIR_TYPE: Final = "application/x-directory"
_UNKNOWN_TYPE: Final = "application/octet-stream"
# Up to here reading (from the page cache, as a rule) takes less than going to a thread: 100 us.
_INLINE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """The object to be made, and the item it stands for."""

    object_key: str
    key: str
    kind: Kind


async def put_small(
    wire: Wire, commits: Commits, key: str, source: Source, writing: Writing, expect: Expect
) -> Item:
    """One PutObject of bytes held in memory."""
    file = Content(source.fd)
    if source.size <= _INLINE:
        content, digest = file.read(0, source.size)
    else:
        content, digest = await wire.uploads.run(
            lambda: file.read(0, source.size), wire.deadline_s(source.size)
        )
    if not await source.confirm():
        raise Superseded("the content changed before it was sent")
    target = Target(key, key, Kind.FILE)
    return await put_bytes(wire, commits, target, content, digest, writing, expect)


async def put_empty(
    wire: Wire, commits: Commits, target: Target, writing: Writing, expect: Expect
) -> Item:
    digest = hashlib.md5(usedforsecurity=False).digest()
    return await put_bytes(wire, commits, target, b"", digest, writing, expect)


async def put_bytes(
    wire: Wire,
    commits: Commits,
    target: Target,
    content: bytes,
    digest: bytes,
    writing: Writing,
    expect: Expect,
) -> Item:
    """One PutObject, on the condition of ``expect``. ``digest`` is the content's MD5."""
    key, kind, size = target.key, target.kind, len(content)
    full_key = wire.options.full_key(target.object_key)
    params: dict[str, Any] = {
        "Key": full_key,
        "Body": content,
        "ContentMD5": base64_of(digest),
        "ContentType": DIR_TYPE if kind is Kind.DIR else content_type(key),
        "Metadata": metadata.encode(writing, full_key),
        **wire.stamps(),
    }

    async def send(conditions: dict[str, str]) -> Reply:
        return await wire.uploads.run(
            lambda: wire.call("put_object", **params, **conditions), wire.deadline_s(size)
        )

    attempt = Attempt(key, kind, "put", expect, writing.put_id, size, digest.hex())
    return await commits.make(
        attempt,
        send,
        lambda reply: items.from_put(
            *(key, kind, reply, writing, size, digest.hex()),
            full_key=full_key,
            md5_tags=commits.verdict.md5_tags,
        ),
    )
