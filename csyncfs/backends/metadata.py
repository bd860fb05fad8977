"""POSIX attributes as user metadata of an object.

Written: ``mtime`` (seconds.nanoseconds) and s3fs's decimal ``mode``, ``uid``, ``gid`` and
``xattr``, which s3fs and rclone read; ``rdev``; ``csyncput``, ``csyncdev`` and ``csynclink``.
Names use [a-z0-9] only, the one alphabet no server rewrites (Ceph turns ``_`` into ``-``, rclone
changes case). Read: also the conventions of s3sync, AWS DataSync and its family, and gsutil.
A value nobody can parse is as if it were not there.
"""

import base64
import binascii
import hashlib
import json
import re
import stat
from collections.abc import Callable, Mapping
from typing import Final, cast
from urllib.parse import quote, unquote

from csyncfs.backends.base import Writing
from csyncfs.types import Attributes

# AWS counts names and values together.
MAX_METADATA_BYTES: Final = 2048

PUT_ID: Final = "csyncput"
DEVICE: Final = "csyncdev"
LINK: Final = "csynclink"

_NS_PER_S: Final = 1_000_000_000
_MAX_NS: Final = (1 << 63) - 1
_MAX_ID: Final = (1 << 32) - 2
_MAX_RDEV: Final = (1 << 64) - 1

_DECIMAL = re.compile(r"[0-9]{1,20}", re.ASCII)
_OCTAL = re.compile(r"(?:0o?)?([0-7]{1,6})", re.ASCII)
_SECONDS = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{0,32}))?", re.ASCII)
_FILE_TIME = re.compile(r"(-?[0-9]{1,22})(ns)?", re.ASCII)


def encode(writing: Writing, full_key: str, max_bytes: int = MAX_METADATA_BYTES) -> dict[str, str]:
    """User metadata for a version at this key. Xattrs are left out where they do not fit."""
    attributes = writing.attributes
    values: dict[str, str] = {PUT_ID: quote(writing.put_id), DEVICE: quote(writing.device)}
    if attributes.link is not None:
        values[LINK] = f"{attributes.link}.{_bound(full_key)}"
    if attributes.mtime_ns is not None:
        values["mtime"] = format_time(attributes.mtime_ns)
    for name in ("mode", "uid", "gid", "rdev"):
        number = cast("int | None", getattr(attributes, name))
        if number is not None:
            values[name] = str(number)
    if attributes.xattrs:
        xattrs = _encode_xattrs(attributes.xattrs)
        if _size(values) + len("xattr") + len(xattrs) <= max_bytes:
            values["xattr"] = xattrs
    return values


def merge(kept: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """``new`` and, of an older version's metadata, what is not about attributes."""
    foreign = {
        name: _ascii(value)
        for name, value in kept.items()
        if name.lower() not in KNOWN and name.isascii()
    }
    return {**foreign, **new}


def decode(metadata: Mapping[str, str], full_key: str) -> Attributes:
    """The attributes this metadata tells of the object at this key, by whoever wrote it."""
    values = _lowered(metadata)
    return Attributes(
        mode=_first(values, _MODES),
        uid=_first(values, _UIDS),
        gid=_first(values, _GIDS),
        mtime_ns=_first(values, _MTIMES),
        rdev=_first(values, {"rdev": _number_up_to(_MAX_RDEV)}),
        xattrs=_decode_xattrs(values.get("xattr", "")),
        link=_decode_link(values.get(LINK, ""), full_key),
    )


def _bound(full_key: str) -> str:
    """What makes a link good for this key only: tools that copy objects copy metadata too, and
    their copies are no names of the file."""
    return hashlib.sha256(full_key.encode(errors="surrogateescape")).hexdigest()[:16]


def _decode_link(text: str, full_key: str) -> str | None:
    link, _, bound = text.rpartition(".")
    return link if link and bound == _bound(full_key) else None


def put_id(metadata: Mapping[str, str]) -> str | None:
    return _unquoted(metadata, PUT_ID)


def device(metadata: Mapping[str, str]) -> str | None:
    return _unquoted(metadata, DEVICE)


def format_time(time_ns: int) -> str:
    """Seconds with nine decimals; the sign stands for the whole, as in a decimal number."""
    seconds, rest = divmod(abs(time_ns), _NS_PER_S)
    return f"{'-' if time_ns < 0 else ''}{seconds}.{rest:09d}"


def _unquoted(metadata: Mapping[str, str], name: str) -> str | None:
    value = _lowered(metadata).get(name)
    return unquote(value) if value else None


def _lowered(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in metadata.items()}


def _size(values: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in values.items())


def _ascii(value: str) -> str:
    """As a header can carry it: RFC 2047 where it is not ASCII, which is how S3 tells it too."""
    if value.isascii():
        return value
    # Header bytes arrive decoded as Latin-1; what they meant is nearly always UTF-8.
    raw = value.encode("latin-1", "ignore") if _is_latin1(value) else value.encode()
    return f"=?UTF-8?B?{base64.b64encode(raw).decode()}?="


def _is_latin1(value: str) -> bool:
    return all(ord(character) < 256 for character in value)


def _encode_xattrs(xattrs: Mapping[str, bytes]) -> str:
    packed = {name: base64.b64encode(value).decode() for name, value in sorted(xattrs.items())}
    return quote(json.dumps(packed, separators=(",", ":"), ensure_ascii=False), safe="")


def _decode_xattrs(text: str) -> dict[str, bytes]:
    if not text:
        return {}
    try:
        packed: object = json.loads(unquote(text, errors="strict"))
        if not isinstance(packed, dict):
            return {}
        items = cast("dict[str, object]", packed).items()
        return {
            name: base64.b64decode(value, validate=True)
            for name, value in items
            if isinstance(value, str) and name and name.isprintable()
        }
    except (ValueError, RecursionError, binascii.Error):
        return {}


_Parse = Callable[[str], int | None]


def _first(values: Mapping[str, str], parsers: Mapping[str, _Parse]) -> int | None:
    for name, parse in parsers.items():
        if name in values and (number := parse(values[name].strip())) is not None:
            return number
    return None


def _number_up_to(limit: int) -> _Parse:
    def parse(text: str) -> int | None:
        if _DECIMAL.fullmatch(text) is None or int(text) > limit:
            return None
        return int(text)

    return parse


def _decimal_mode(text: str) -> int | None:
    return _valid_mode(int(text)) if _DECIMAL.fullmatch(text) else None


def _octal_mode(text: str) -> int | None:
    match = _OCTAL.fullmatch(text)
    return _valid_mode(int(match[1], 8)) if match else None


def _valid_mode(mode: int) -> int | None:
    known = (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO)
    special = (stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
    return mode if mode <= 0o177777 and stat.S_IFMT(mode) in known + special else None


def _seconds(text: str) -> int | None:
    match = _SECONDS.fullmatch(text)
    if match is None:
        return None
    fraction = ((match[3] or "") + "0" * 9)[:9]
    return _valid_time(int(match[2]) * _NS_PER_S + int(fraction), negative=bool(match[1]))


def _file_time(text: str) -> int | None:
    """DataSync's family: nanoseconds with suffix ``ns``, else milliseconds."""
    match = _FILE_TIME.fullmatch(text)
    if match is None:
        return None
    number = int(match[1]) * (1 if match[2] else 1_000_000)
    return _valid_time(abs(number), negative=number < 0)


def _valid_time(magnitude_ns: int, *, negative: bool) -> int | None:
    if magnitude_ns > _MAX_NS:
        return None
    return -magnitude_ns if negative else magnitude_ns


# First match wins: ours (and s3fs's, rclone's) before what other tools wrote.
_MODES: Final[Mapping[str, _Parse]] = {
    "mode": _decimal_mode,
    "file-permissions": _octal_mode,
    "permissions": _decimal_mode,
    "goog-reserved-posix-mode": _octal_mode,
}
_UIDS: Final[Mapping[str, _Parse]] = {
    name: _number_up_to(_MAX_ID)
    for name in ("uid", "file-owner", "owner", "goog-reserved-posix-uid")
}
_GIDS: Final[Mapping[str, _Parse]] = {
    name: _number_up_to(_MAX_ID)
    for name in ("gid", "file-group", "group", "goog-reserved-posix-gid")
}
_MTIMES: Final[Mapping[str, _Parse]] = {
    "mtime": _seconds,
    "file-mtime": _file_time,
    "goog-reserved-file-mtime": _seconds,
}
KNOWN: Final = (
    frozenset(_MODES)
    | frozenset(_UIDS)
    | frozenset(_GIDS)
    | frozenset(_MTIMES)
    | {"rdev", "xattr", PUT_ID, DEVICE, LINK}
)
