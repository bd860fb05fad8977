"""Items out of Google's object resources.

The version's tag is ``GENERATION-METAGENERATION``: the first changes with the content, the second
with the attributes of a content.
"""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from csyncfs.backends import metadata
from csyncfs.backends.base import Writing
from csyncfs.backends.failures import Unmet
from csyncfs.errors import Retry
from csyncfs.types import Absent, Expect, Item, Kind, Location, RemoteVersion

Resource = Mapping[str, Any]

MAX_METADATA_BYTES: Final = 8 << 10
FIELDS: Final = "name,generation,metageneration,size,updated,md5Hash,crc32c,metadata"
_KEPT: Final = (
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "contentLanguage",
    "contentType",
)
KEPT_FIELDS: Final = ",".join((FIELDS, *_KEPT))


def tag_of(resource: Resource) -> str:
    return f"{resource['generation']}-{resource['metageneration']}"


def condition(expect: Expect | None, prefix: str = "if") -> dict[str, str]:
    """The query that says ``expect``; None: whatever is there. Raises Unmet for a tag that is
    none of Google's."""
    if expect is None:
        return {}
    if isinstance(expect, Absent):
        return {f"{prefix}GenerationMatch": "0"}
    generation, _, metageneration = expect.tag.partition("-")
    if not generation.isdecimal() or not metageneration.isdecimal():
        raise Unmet("the expected version is none of this store")
    return {
        f"{prefix}GenerationMatch": generation,
        f"{prefix}MetagenerationMatch": metageneration,
    }


def item(key: str, kind: Kind, resource: Resource) -> Item:
    """From whatever reply carries the object. Raises Retry for one that is cut short."""
    try:
        version = RemoteVersion(
            tag=tag_of(resource),
            size=int(resource.get("size", 0)),
            mtime_ns=_to_ns(str(resource["updated"])),
            md5=_md5(resource) if kind is Kind.FILE else None,
        )
        name = str(resource["name"])
    except (LookupError, ValueError) as exc:
        raise Retry("the server does not tell all of an object") from exc
    words = words_of(resource)
    return Item(
        Location(key),
        kind,
        version,
        metadata.decode(words, name),
        metadata.put_id(words),
        metadata.device(words),
    )


def words_of(resource: Resource) -> Mapping[str, str]:
    return resource.get("metadata") or {}


def stamps(writing: Writing, name: str) -> dict[str, str]:
    """The metadata of a version of this object."""
    return metadata.encode(writing, name, MAX_METADATA_BYTES - 64)


def foreign(words: Mapping[str, str]) -> dict[str, str]:
    """What a version's metadata says that is not about attributes."""
    return {name: text for name, text in words.items() if name.lower() not in metadata.KNOWN}


def kept(resource: Resource) -> dict[str, str]:
    """What a program sees of an object besides its bytes; a copy with new metadata drops it."""
    return {name: resource[name] for name in _KEPT if resource.get(name)}


def _md5(resource: Resource) -> str | None:
    """Objects that were composed have none."""
    try:
        digest = base64.b64decode(str(resource.get("md5Hash") or ""), validate=True)
    except binascii.Error:
        return None
    return digest.hex() if len(digest) == 16 else None


def _to_ns(text: str) -> int:
    """RFC 3339, with three decimals as a rule."""
    when = datetime.fromisoformat(text)
    return int(when.replace(microsecond=0).timestamp()) * 1_000_000_000 + when.microsecond * 1000
