# ruff: noqa: RUF001, RUF002  (the full-width percent sign is meant)
"""Names: object key segments on one side, local file names on the other.

Owns the scheme. A *segment* is what stands between two ``/`` of an object key; any text
can. A local name is 1 to 255 bytes without NUL and ``/``, and neither ``.`` nor ``..``.
Nearly always the name is the segment in UTF-8. Otherwise it begins or ends with the sign
``％`` (U+FF05, the full-width percent sign, which nobody types by accident):

``％`` + hex        a segment no file can be called: empty, ``.``, ``..`` or with a NUL byte.
                   The hex digits (upper case) are its UTF-8 bytes: ``a//b`` is ``a/％/b``,
                   ``..`` is ``％2E2E``. A segment that is itself such an escape is escaped
                   once more (``％2E`` is ``％EFBC853245``), any other keeps its name (``％41``).
``％b`` + hex       the other way round: the segment for a local name that is not UTF-8,
                   in a store whose keys are text. The hex digits are the raw bytes. A local
                   name that looks so itself is treated the same; a segment of this form
                   that no name leads to (``％b41``) just means itself.
NAME ``％f``        the object ``NAME`` where objects ``NAME/...`` exist too: the directory
                   keeps the name.
START ``％~`` hash  the first bytes of a name that would be longer than 255, and 16 hex digits
                   of the segment's SHA-256. Also how to show a segment whose name is taken.

The first two are a bijection between all segments and all local names, so either side can
be computed from the other; the last two are found again only through the stored key
(``is_exact`` is False: the caller stores it). A name a program chose is always its own
segment's name: nothing a program does can write to the key of another file.

A store that is a file system itself (``utf8_only`` False) needs none of this: its segments
are ``os.fsdecode`` of its names, raw bytes as lone surrogates. Segments no file system can
hold are still shown as above, though not exactly.

Conflict copies are called ``NAME.DEVICE-YYYYMMDDTHHMMSSZ.conflict``, suffix last, so that
programs that load ``*.ext`` are not disturbed and ``*.conflict`` finds them all.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from csyncfs.errors import Unrepresentable
from csyncfs.types import Kind

MAX_NAME_BYTES: Final = 255

_SIGN: Final = "％"
_BESIDE: Final = "％f".encode()
_ESCAPE = re.compile(r"％((?:[0-9A-F]{2})*)", re.ASCII)
_RAW = re.compile(r"％b((?:[0-9A-F]{2})+)", re.ASCII)
_CONFLICT = re.compile(
    rb"(?P<original>.+)\.(?P<device>[A-Za-z0-9_-]+)-(?P<when>\d{8}T\d{6})Z(?:-\d+)?\.conflict",
    re.DOTALL,
)
_CONFLICT_TIME: Final = "%Y%m%dT%H%M%S"
_MAX_DEVICE_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class ShownName:
    """A local name. ``is_exact``: ``to_segment`` leads back from it to the segment."""

    name: bytes
    is_exact: bool


def to_name(segment: str, *, utf8_only: bool) -> ShownName:
    """The local name of a segment."""
    if "/" in segment:
        raise ValueError(f"not one segment: {segment!r}")
    exact = _exact_name(segment, utf8_only=utf8_only)
    if exact is not None and len(exact) <= MAX_NAME_BYTES:
        return ShownName(exact, is_exact=True)
    if exact is None and _is_impossible(segment):
        escape = _escape(segment)
        if len(escape) <= MAX_NAME_BYTES:
            return ShownName(escape, is_exact=False)
    return hashed_name(segment, utf8_only=utf8_only)


def to_segment(name: bytes, *, utf8_only: bool) -> str:
    """The segment of a local name; never that of another local name."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        if utf8_only:
            return f"{_SIGN}b{name.hex().upper()}"
        return name.decode(errors="surrogateescape")
    if utf8_only and text.startswith(_SIGN):
        if _raw_bytes(text) is not None:
            return f"{_SIGN}b{name.hex().upper()}"
        original = _unescape(text)
        if original is not None:
            return original
    return text


def beside_dir(segment: str, *, utf8_only: bool) -> ShownName:
    """The local name of a file whose own name belongs to a directory."""
    name = to_name(segment, utf8_only=utf8_only).name + _BESIDE
    if len(name) <= MAX_NAME_BYTES:
        return ShownName(name, is_exact=False)
    return hashed_name(f"{segment}/", utf8_only=utf8_only)


def hashed_name(segment: str, *, utf8_only: bool) -> ShownName:
    """A local name for a segment whose usual one is too long, or taken by another key."""
    plain = _exact_name(segment, utf8_only=utf8_only)
    if plain is None:
        plain = segment.encode(errors="replace").replace(b"\0", b"?")
    plain = plain.replace(b"/", b"")
    digest = hashlib.sha256(segment.encode(errors="surrogatepass")).hexdigest()[:16]
    suffix = f"{_SIGN}~{digest}".encode()
    return ShownName(_cut(plain, MAX_NAME_BYTES - len(suffix)) + suffix, is_exact=False)


def conflict_name(name: bytes, device: str, when_ns: int, n: int = 0) -> bytes:
    """The name under which the local version of ``name`` is set aside.

    A conflict copy is never set aside under a longer name: its original's is used. ``n``:
    1, 2, ... where the name before is taken.
    """
    while parts := conflict_parts(name):
        name = parts[0]
    safe_device = re.sub(r"[^A-Za-z0-9_-]", "_", device)[:_MAX_DEVICE_CHARS] or "unknown"
    when = datetime.fromtimestamp(when_ns // 1_000_000_000, UTC).strftime(_CONFLICT_TIME)
    count = f"-{n}" if n else ""
    suffix = f".{safe_device}-{when}Z{count}.conflict".encode()
    return _cut(name, MAX_NAME_BYTES - len(suffix)) + suffix


def is_conflict_name(name: bytes) -> bool:
    """Whether the name is one that ``conflict_name`` makes."""
    return conflict_parts(name) is not None


def conflict_parts(name: bytes) -> tuple[bytes, str, int] | None:
    """Original name (as far as it fitted), device and time (whole seconds, in ns)."""
    if not name.endswith(b".conflict"):
        return None
    match = _CONFLICT.fullmatch(name)
    if match is None:
        return None
    try:
        when = datetime.strptime(match["when"].decode(), _CONFLICT_TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    return match["original"], match["device"].decode(), int(when.timestamp()) * 1_000_000_000


def child_key(dir_key: str, segment: str, kind: Kind) -> str:
    """The key of a directory's child.

    Raises Unrepresentable for a file with an empty segment: its key is the directory's.
    """
    if kind is Kind.DIR:
        return f"{dir_key}{segment}/"
    if not segment:
        raise Unrepresentable("a file cannot have an empty name in the store")
    return dir_key + segment


def split_key(key: str, kind: Kind) -> tuple[str, str]:
    """The key of the directory an item is in, and its segment there. The root is in none."""
    body = key
    if kind is Kind.DIR:
        if not key.endswith("/"):
            raise ValueError(f"not the key of a directory below the root: {key!r}")
        body = key[:-1]
    elif not key or key.endswith("/"):
        raise ValueError(f"not the key of a file: {key!r}")
    cut = body.rfind("/") + 1
    return body[:cut], body[cut:]


def _exact_name(segment: str, *, utf8_only: bool) -> bytes | None:
    """The name that leads back to the segment, however long; None if there is none."""
    if not utf8_only:
        if _is_impossible(segment):
            return None
        return _encode_raw(segment)
    if segment.startswith(_SIGN):
        raw = _raw_bytes(segment)
        if raw is not None:
            return raw
        if _unescape(segment) is not None:
            return _escape(segment)
    if _is_impossible(segment):
        return _escape(segment)
    try:
        return segment.encode()
    except UnicodeEncodeError:  # a lone surrogate, which no text key has
        return None


def _encode_raw(segment: str) -> bytes | None:
    """os.fsencode in UTF-8, if it leads back."""
    try:
        name = segment.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return None
    # Surrogates that spell valid UTF-8 are not what decoding it gives.
    return name if segment.isascii() or name.decode(errors="surrogateescape") == segment else None


def _is_impossible(segment: str) -> bool:
    return segment in ("", ".", "..") or "\0" in segment


def _escape(segment: str) -> bytes:
    return (_SIGN + segment.encode(errors="surrogatepass").hex().upper()).encode()


def _unescape(text: str) -> str | None:
    """The segment this escape stands for; None if the text is not an escape.

    Only what must be escaped has one, so text that looks like one need not be: peel off the
    layers and see whether there is an impossible name below.
    """
    inner: str | None = None
    layer = text
    while match := _ESCAPE.fullmatch(layer):
        try:
            layer = bytes.fromhex(match[1]).decode()
        except UnicodeDecodeError:
            return None
        if inner is None:
            inner = layer
        if _is_impossible(layer):
            return inner if "/" not in layer else None
    return None


def _raw_bytes(text: str) -> bytes | None:
    """The local name this ``％b`` segment stands for; None if it just means itself.

    Layered like escapes: below the last layer must be a possible name that is not UTF-8.
    """
    name: bytes | None = None
    layer = text
    while match := _RAW.fullmatch(layer):
        raw = bytes.fromhex(match[1])
        if name is None:
            name = raw
        try:
            layer = raw.decode()
        except UnicodeDecodeError:
            return name if b"\0" not in raw and b"/" not in raw else None
    return None


def _cut(name: bytes, max_bytes: int) -> bytes:
    """At most so many bytes, without half a UTF-8 character at the end."""
    if len(name) <= max_bytes:
        return name
    end = max_bytes
    while end > max(max_bytes - 4, 1) and name[end] & 0xC0 == 0x80:
        end -= 1
    return name[:end]
