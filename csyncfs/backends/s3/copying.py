"""Server-side copies, of any size, with new attributes."""

from dataclasses import dataclass
from typing import Any, Final

import trio

from csyncfs.backends import metadata
from csyncfs.backends.base import Writing
from csyncfs.backends.lanes import in_parallel
from csyncfs.backends.s3 import items
from csyncfs.backends.s3.commit import Attempt, Commits
from csyncfs.backends.s3.multipart import complete, create, listed_parts, try_abort
from csyncfs.backends.s3.wire import Reply, Wire
from csyncfs.errors import Unsupported, VersionMismatch
from csyncfs.types import Expect, Item, Kind, RemoteVersion

_PARALLEL_PARTS: Final = 4
_CLEANUP_S: Final = 5.0

# What a program sees of an object besides its bytes; a copy with new metadata drops it.
_KEPT_HEADERS: Final = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "WebsiteRedirectLocation",
)


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy to be made."""

    source: str
    target: str
    kind: Kind
    writing: Writing
    expect_source: RemoteVersion
    expect_target: Expect


async def copy(wire: Wire, commits: Commits, order: Copy) -> Item:
    """See Backend.copy; source and target may be the same."""
    reply = await wire.ask("head_object", Key=wire.options.full_key(order.source))
    if order.source == order.target and _put_id(reply) == order.writing.put_id:
        return await commits.head(order.target, order.kind)  # done by a request before this one
    stamps = _stamps(order, reply, wire.options.full_key(order.target))
    if order.expect_source.size > wire.options.copy_threshold_bytes:
        return await _copy_in_parts(wire, commits, order, stamps)
    params: dict[str, Any] = {
        **_source(wire, order),
        **stamps,
        **wire.stamps(),
        "Key": wire.options.full_key(order.target),
        "MetadataDirective": "REPLACE",
    }

    async def send(conditions: dict[str, str]) -> Reply:
        return await wire.ask_patiently("copy_object", **params, **conditions)

    # The reply lacks the size and, with some servers, the ETag a HEAD shows.
    return await commits.make(_attempt(order, "copy"), send, lambda _: None)


def _attempt(order: Copy, action: str) -> Attempt:
    return Attempt(
        order.target,
        order.kind,
        action,
        order.expect_target,
        order.writing.put_id,
        order.expect_source.size,
        order.expect_source.md5,
    )


def _source(wire: Wire, order: Copy) -> dict[str, Any]:
    return {
        "CopySource": {
            "Bucket": wire.options.bucket,
            "Key": wire.options.full_key(order.source),
        },
        "CopySourceIfMatch": f'"{order.expect_source.tag}"',
    }


def _put_id(reply: Reply) -> str | None:
    return metadata.put_id(reply.get("Metadata") or {})


def _stamps(order: Copy, reply: Reply, full_key: str) -> dict[str, Any]:
    """Headers and metadata for the copy of a source that looks like this.

    The tag is compared here too: Ceph 16 and moto ignore the copy's source condition.
    """
    if items.tag_of(reply) != order.expect_source.tag:
        raise VersionMismatch("somebody else changed the source")
    kept = {name: reply[name] for name in _KEPT_HEADERS if reply.get(name)}
    told = metadata.merge(reply.get("Metadata") or {}, metadata.encode(order.writing, full_key))
    return {**kept, "Metadata": told}


async def _copy_in_parts(wire: Wire, commits: Commits, order: Copy, stamps: dict[str, Any]) -> Item:
    attempt = _attempt(order, "complete")
    current = await commits.current(order.target, order.kind)
    if attempt.is_ours(current, commits.verdict) and current is not None:
        return current
    if not attempt.is_met_by(current):
        # Known before gigabytes are moved, not after.
        raise VersionMismatch("somebody else changed the item", current)
    upload_id = await create(wire, order.target, **stamps)
    try:
        parts = await _copy_parts(wire, order, upload_id)
        item = await complete(wire, commits, attempt, upload_id, parts)
    except BaseException:
        with trio.move_on_after(_CLEANUP_S, shield=True):
            await try_abort(wire, order.target, upload_id)
        raise
    return item


async def _copy_parts(wire: Wire, order: Copy, upload_id: str) -> list[dict[str, Any]]:
    size = order.expect_source.size
    part_size = wire.options.copy_part_size_for(size)
    tags: dict[int, str] = {}

    async def send(number: int) -> None:
        start = (number - 1) * part_size
        reply = await wire.ask_patiently(
            "upload_part_copy",
            **_source(wire, order),
            Key=wire.options.full_key(order.target),
            UploadId=upload_id,
            PartNumber=number,
            CopySourceRange=f"bytes={start}-{min(start + part_size, size) - 1}",
        )
        tags[number] = items.tag_of(reply.get("CopyPartResult") or {})

    count = -(-size // part_size)
    await in_parallel(list(range(1, count + 1)), _PARALLEL_PARTS, send)
    listed = await listed_parts(wire, order.target, upload_id)
    # rclone answers 200 and stores an empty part.
    if sum(length for _, length in listed.values()) != size:
        raise Unsupported("the server does not copy parts of objects")
    return [{"PartNumber": number, "ETag": f'"{tags[number]}"'} for number in sorted(tags)]
