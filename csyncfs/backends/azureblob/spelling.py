# ruff: noqa: RUF001, RUF002  (the full-width percent sign is meant)
"""Segments of keys on one side, segments of blob names on the other.

Azure takes a backslash for a slash, and refuses or drops control characters, a dot at the end of
a segment, and segments that are ``.`` or ``..``. Such a character is spelled ``％`` (U+FF05) and
four hex digits, its code point: ``a\\b`` is the blob ``a％005Cb``, ``v1.`` is ``v1％002E``.
What would be read as a spelling is spelled itself: ``％005C`` is ``％FF05005C``.

A bijection. A blob whose name spells what needs no spelling (``a％0041``) is nobody's key that way,
so its key is its name behind a NUL, which no file name has.
"""

import re
from typing import Final

from csyncfs.errors import Unrepresentable

MAX_SEGMENT_CHARS: Final = 600
"""A name of 255 bytes has to be spelled as often as this allows; see ``options``."""

_SIGN: Final = "％"
_SPELLED = re.compile(r"％([0-9A-F]{4})")
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ufffe\uffff]|％(?=[0-9A-F]{4})|\.\Z")
_FOREIGN: Final = "\0"


def to_blob(key: str) -> str:
    """The blob name of a key without slash at its end. Raises Unrepresentable."""
    if key.isascii() and key.isprintable() and "\\" not in key and not _has_dotted_end(key):
        return key
    return "/".join(_to_blob(segment) for segment in key.split("/"))


def to_segment(blob: str) -> str:
    """The segment of a key that this segment of a blob name stands for."""
    plain = _SPELLED.sub(lambda match: chr(int(match[1], 16)), blob)
    if plain == blob and not blob.startswith(_FOREIGN):
        return blob if _spelled(blob) == blob else _FOREIGN + blob
    return plain if _spelled(plain) == blob else _FOREIGN + blob


def _to_blob(segment: str) -> str:
    if segment.startswith(_FOREIGN) and to_segment(segment[1:]) == segment:
        return segment[1:]
    spelled = _spelled(segment)
    if len(spelled) > MAX_SEGMENT_CHARS:
        raise Unrepresentable("the name is too long for Azure as it has to be spelled there")
    try:
        spelled.encode()
    except UnicodeEncodeError as exc:
        raise Unrepresentable("blob names are Unicode; this name is not") from exc
    return spelled


def _spelled(segment: str) -> str:
    return _UNFIT.sub(lambda match: f"{_SIGN}{ord(match[0]):04X}", segment)


def _has_dotted_end(key: str) -> bool:
    return key.endswith(".") or "./" in key
