"""Items out of S3 replies."""

import calendar
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from csyncfs.backends import metadata
from csyncfs.backends.base import Writing
from csyncfs.backends.s3.wire import Reply
from csyncfs.types import Item, Kind, Location, RemoteVersion

_PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")


def tag_of(reply: Mapping[str, Any]) -> str:
    """The ETag without quotes; "" where the reply has none."""
    return str(reply.get("ETag") or "").removeprefix("W/").strip('"')


def is_opaque(reply: Mapping[str, Any]) -> bool:
    """Whether the object is encrypted so that its ETag is no MD5, whatever it looks like."""
    encryption = str(reply.get("ServerSideEncryption", ""))
    return bool(reply.get("SSECustomerAlgorithm")) or "kms" in encryption


def from_listing(key: str, kind: Kind, entry: Mapping[str, Any], *, md5_tags: bool) -> Item:
    version = RemoteVersion(
        tag=tag_of(entry),
        size=int(entry["Size"]),
        mtime_ns=to_ns(entry["LastModified"]),
        md5=_md5(tag_of(entry), md5_tags=md5_tags),
    )
    return Item(Location(key), kind, version)


def from_head(
    key: str, kind: Kind, reply: Reply, *, full_key: str, md5_tags: bool, size: int
) -> Item:
    """From a HEAD or GET reply; ``size`` is the whole object's."""
    told: Mapping[str, str] = reply.get("Metadata") or {}
    version = RemoteVersion(
        tag=tag_of(reply),
        size=size,
        mtime_ns=to_ns(reply["LastModified"]),
        md5=_md5(tag_of(reply), md5_tags=md5_tags and not is_opaque(reply)),
    )
    return Item(
        Location(key),
        kind,
        version,
        metadata.decode(told, full_key),
        metadata.put_id(told),
        metadata.device(told),
    )


def from_put(
    key: str,
    kind: Kind,
    reply: Reply,
    writing: Writing,
    size: int,
    md5: str,
    *,
    full_key: str,
    md5_tags: bool,
) -> Item | None:
    """What a successful PutObject made; None where the reply does not tell enough, or an ETag
    that this server would not give to content with this MD5."""
    tag = tag_of(reply)
    # The reply names no LastModified; its Date is the same clock.
    date = _date(reply)
    if not tag or date is None or (md5_tags and tag != md5):
        return None
    written = metadata.encode(writing, full_key)
    return Item(
        Location(key),
        kind,
        RemoteVersion(tag, size, to_ns(date), md5),
        metadata.decode(written, full_key),
        writing.put_id,
        writing.device,
    )


def to_ns(when: datetime) -> int:
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return calendar.timegm(when.utctimetuple()) * 1_000_000_000 + when.microsecond * 1000


def _date(reply: Reply) -> datetime | None:
    text = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None


def _md5(tag: str, *, md5_tags: bool) -> str | None:
    return tag if md5_tags and _PLAIN_MD5.fullmatch(tag) else None
