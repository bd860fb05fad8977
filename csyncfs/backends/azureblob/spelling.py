# ruff: noqa: RUF002  (the full-width percent sign is meant)
"""Segments of keys on one side, segments of blob names on the other.

Azure takes a backslash for a slash, and refuses or drops control characters, a dot at the end of
a segment, and segments that are ``.`` or ``..``. Such a character is spelled ``％`` (U+FF05) and
four hex digits, its code point: ``a\\b`` is the blob ``a％005Cb``, ``v1.`` is ``v1％002E``.
What would be read as a spelling is spelled itself: ``％005C`` is ``％FF05005C``. See
``backends.spelling``.
"""

import re
from typing import Final

from csyncfs.backends import spelling
from csyncfs.errors import Unrepresentable

MAX_SEGMENT_CHARS: Final = 600
"""A name of 255 bytes has to be spelled as often as this allows; see ``options``."""

_UNFIT = re.compile(rf"[\x00-\x1f\x7f-\x9f\\\ufffe\uffff]|{spelling.UNFIT_SIGN}|\.\Z")


def to_blob(key: str) -> str:
    """The blob name of a key without slash at its end. Raises Unrepresentable."""
    if key.isascii() and key.isprintable() and "\\" not in key and not _has_dotted_end(key):
        return key
    return "/".join(_to_blob(segment) for segment in key.split("/"))


def to_segment(blob: str) -> str:
    """The segment of a key that this segment of a blob name stands for."""
    return spelling.to_segment(blob, _spelled)


def _to_blob(segment: str) -> str:
    if (foreign := spelling.foreign(segment, _spelled)) is not None:
        return foreign
    spelled = _spelled(segment)
    if len(spelled) > MAX_SEGMENT_CHARS:
        raise Unrepresentable("the name is too long for Azure as it has to be spelled there")
    try:
        spelled.encode()
    except UnicodeEncodeError as exc:
        raise Unrepresentable("blob names are Unicode; this name is not") from exc
    return spelled


def _spelled(segment: str) -> str:
    return spelling.spell(_UNFIT, segment)


def _has_dotted_end(key: str) -> bool:
    return key.endswith(".") or "./" in key
