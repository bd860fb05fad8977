"""Items out of Azure's replies."""

import calendar
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from csyncfs.backends import metadata
from csyncfs.backends.base import Writing
from csyncfs.types import Item, Kind, Location, RemoteVersion

if TYPE_CHECKING:
    from azure.storage.blob import BlobProperties

MAX_METADATA_BYTES: Final = 8 << 10
IS_DIR: Final = "hdi_isfolder"
"""The word of Hadoop, Data Lake Storage and blobfuse2 for a blob that is a directory."""


def tag_of(etag: object) -> str:
    """The ETag without quotes; "" where there is none."""
    return str(etag or "").removeprefix("W/").strip('"')


def is_dir(told: Mapping[str, str]) -> bool:
    """Whether the metadata says that the blob stands for a directory."""
    return any(name.lower() == IS_DIR and value.lower() == "true" for name, value in told.items())


def from_properties(key: str, kind: Kind, properties: "BlobProperties", name: str) -> Item:
    """From a listing or a HEAD. ``name``: of the blob."""
    told: Mapping[str, str] = properties.metadata or {}
    version = RemoteVersion(
        tag=tag_of(properties.etag),
        size=int(properties.size or 0),
        mtime_ns=to_ns(properties.last_modified),
        md5=_md5(properties) if kind is Kind.FILE else None,
    )
    return _item(key, kind, version, told, name)


def from_reply(
    key: str,
    kind: Kind,
    reply: Mapping[str, Any],
    size: int,
    md5: str | None,
    told: Mapping[str, str],
    name: str,
) -> Item | None:
    """What a request that succeeded made; None where the reply does not tell enough."""
    tag, modified = tag_of(reply.get("etag")), reply.get("last_modified")
    if not tag or modified is None:
        return None
    return _item(key, kind, RemoteVersion(tag, size, to_ns(modified), md5), told, name)


def stamps(writing: Writing, kind: Kind, name: str) -> dict[str, str]:
    """The metadata of a version of this blob."""
    words = metadata.encode(writing, name, MAX_METADATA_BYTES - 64)
    return {**words, IS_DIR: "true"} if kind is Kind.DIR else words


def merged(kept: Mapping[str, str] | None, new: Mapping[str, str]) -> dict[str, str]:
    """``new`` and, of an older version's metadata, what is not about attributes."""
    foreign = {name: value for name, value in (kept or {}).items() if name.lower() != IS_DIR}
    return metadata.merge(foreign, new)


def to_ns(when: datetime) -> int:
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return calendar.timegm(when.utctimetuple()) * 1_000_000_000 + when.microsecond * 1000


def _item(key: str, kind: Kind, version: RemoteVersion, told: Mapping[str, str], name: str) -> Item:
    return Item(
        Location(key),
        kind,
        version,
        metadata.decode(told, name),
        metadata.put_id(told),
        metadata.device(told),
    )


def _md5(properties: "BlobProperties") -> str | None:
    # What others append to or overwrite in place keeps the MD5 it had.
    if properties.blob_type != "BlockBlob":
        return None
    told = properties.content_settings.content_md5
    return bytes(told).hex() if told and len(told) == 16 else None
