"""Items out of Graph's JSON, and when two states of an item are the same version.

A file's version is its QuickXorHash, its size and the time of change that programs set, to a
second. Not its tags: they change by themselves (a rename on business drives, pictures that were
looked into), and the change feed of business drives tells no cTag. Not the hash alone: two blocks
of 160 bytes may change places without changing it. Conditions of requests are tags all the same
(``condition``), of the item as it was looked at just before.
"""

import re
from datetime import UTC, datetime
from typing import Any, Final

from csyncfs.backends.onedrive.quickxor import EMPTY
from csyncfs.backends.onedrive.translation import Json
from csyncfs.types import Attributes, Item, Kind, Location, RemoteVersion

# Libraries write properties into these a moment after the upload.
_REWRITTEN: Final = (".docx", ".docm", ".dotx", ".xlsx", ".xlsm", ".pptx", ".pptm", ".html", ".htm")
_FRACTION = re.compile(r"\.(\d+)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_S: Final = 1_000_000_000
_LAST_S: Final = 253402300799


def kind_of(body: Json) -> Kind | None:
    """None: a notebook, a shortcut, or whatever else is no file and no directory."""
    if "remoteItem" in body or "package" in body:
        return None
    if "folder" in body:
        return Kind.DIR
    return Kind.FILE if "file" in body else None


def size_of(body: Json) -> int:
    return max(0, int(body.get("size") or 0))


def quick_xor(body: Json) -> str:
    """As Graph tells it; "" if it does not."""
    if not size_of(body):
        return EMPTY
    facet: Json = body.get("file") or {}
    hashes: Json = facet.get("hashes") or {}
    return str(hashes.get("quickXorHash") or "")


def condition(body: Json) -> str:
    """What If-Match has to say for the item to stay as it is here."""
    return str(body.get("cTag") or body.get("eTag") or "*")


def mtime_ns(body: Json) -> int | None:
    """The time of change that programs set; None where there is none."""
    info: Json = body.get("fileSystemInfo") or {}
    return to_ns(info.get("lastModifiedDateTime"))


def version_of(body: Json) -> RemoteVersion:
    if kind_of(body) is Kind.DIR:
        # Not the eTag: it changes with every name, and what is in it is no matter of versions.
        return RemoteVersion(str(body["id"]), 0, _changed_ns(body))
    size, digest, changed_ns = size_of(body), quick_xor(body), mtime_ns(body)
    # Without a hash only the eTag is left that listings and the feed both tell.
    tag = f"{digest} {size} {(changed_ns or 0) // _S}" if digest else str(body.get("eTag") or "*")
    return RemoteVersion(tag, size, _changed_ns(body))


def is_same(expect: RemoteVersion, body: Json) -> bool:
    """Whether the file still is what is expected."""
    found = version_of(body)
    if expect.tag == found.tag:
        return True
    digest = expect.tag.partition(" ")[0] if " " in expect.tag else ""
    # Personal drives: somebody set the time that programs see, and that is no new version.
    return (
        bool(digest)
        and (digest, expect.size) == (quick_xor(body), found.size)
        and expect.mtime_ns // _S == found.mtime_ns // _S
    )


def is_retimed(expect: RemoteVersion, body: Json, time_ns: int | None) -> bool:
    """Whether the file is what is expected, with this time of change: set by a request before."""
    content = expect.tag.rpartition(" ")[0]
    return time_ns is not None and version_of(body).tag == f"{content} {time_ns // _S}"


def is_rewritten(expect: RemoteVersion, body: Json) -> bool:
    """Whether the file may be what is expected, with what a library has written into it. It keeps
    the time of change that programs set; other bytes it has all the same."""
    time_s = expect.tag.rpartition(" ")[2]
    told_ns = mtime_ns(body)
    is_office = str(body.get("name") or "").lower().endswith(_REWRITTEN)
    return is_office and told_ns is not None and str(told_ns // _S) == time_s


def as_sent(body: Json, digest: str, size: int) -> RemoteVersion:
    """The version that this content made, although a library has rewritten it since: what is
    there now is news."""
    tag = f"{digest} {size} {(mtime_ns(body) or 0) // _S}"
    return RemoteVersion(tag, size, _changed_ns(body))


def from_json(key: str, kind: Kind, body: Json) -> Item:
    return Item(
        Location(key, str(body["id"])),
        kind,
        version_of(body),
        Attributes(mtime_ns=mtime_ns(body)),
    )


def to_ns(text: Any) -> int | None:
    """None for what is no time, or stands for none (the year 1)."""
    if not isinstance(text, str):
        return None
    fraction = _FRACTION.search(text)
    try:
        when = datetime.fromisoformat(_FRACTION.sub("", text))
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    if when.year <= 1:
        return None
    since = when - _EPOCH
    nanoseconds = int((fraction[1] if fraction else "0").ljust(9, "0")[:9])
    return (since.days * 86400 + since.seconds) * _S + nanoseconds


def to_text(time_ns: int) -> str | None:
    """None for times that OneDrive does not take."""
    seconds, rest = divmod(time_ns, _S)
    if not 0 <= seconds <= _LAST_S:
        return None
    when = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{when}.{rest // 1_000_000:03d}Z" if rest >= 1_000_000 else f"{when}Z"


def times(time_ns: int | None) -> Json:
    """As part of a request: what a new item says of its time of change, if anything."""
    text = None if time_ns is None else to_text(time_ns)
    return {} if text is None else {"fileSystemInfo": {"lastModifiedDateTime": text}}


def kept_times(body: Json) -> Json:
    """The times of an item that is renamed: without them it would get new ones."""
    info: Json = body.get("fileSystemInfo") or {}
    names = ("createdDateTime", "lastModifiedDateTime")
    kept = {name: info[name] for name in names if to_ns(info.get(name)) is not None}
    return {"fileSystemInfo": kept} if kept else {}


def _changed_ns(body: Json) -> int:
    return to_ns(body.get("lastModifiedDateTime")) or 0
