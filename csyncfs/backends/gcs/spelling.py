# ruff: noqa: RUF001, RUF002  (the full-width percent sign is meant)
"""Segments of keys on one side, segments of object names on the other.

Google refuses line feeds and carriage returns, and nothing else that a file name may hold. They
are spelled ``％`` (U+FF05) and four hex digits, the code point: ``a<LF>b`` is the object
``a％000Ab``. What would be read as a spelling is spelled itself: ``％000A`` is ``％FF05000A``.

A bijection. An object whose name spells what needs no spelling (``a％0041``) is nobody's key that
way, so its key is its name behind a NUL, which no file name has.
"""

import re
from typing import Final

from csyncfs.errors import Unrepresentable

MAX_SEGMENT_BYTES: Final = 600
"""A name of 255 bytes may be spelled as often as this allows; see ``options``."""

_SIGN: Final = "％"
_SPELLED = re.compile(r"％([0-9A-F]{4})")
_UNFIT = re.compile(r"[\r\n]|％(?=[0-9A-F]{4})")
_FOREIGN: Final = "\0"


def to_object(key: str) -> str:
    """The object name of a key, with the slash at its end if it has one. Raises
    Unrepresentable."""
    try:
        key.encode()
    except UnicodeEncodeError as exc:
        raise Unrepresentable("object names are Unicode; this name is not") from exc
    if _UNFIT.search(key) is None and _FOREIGN not in key:
        return key
    return "/".join(_to_object(segment) for segment in key.split("/"))


def to_segment(name: str) -> str:
    """The segment of a key that this segment of an object name stands for."""
    plain = _SPELLED.sub(lambda match: chr(int(match[1], 16)), name)
    if plain == name and not name.startswith(_FOREIGN):
        return name if _spelled(name) == name else _FOREIGN + name
    return plain if _spelled(plain) == name else _FOREIGN + name


def _to_object(segment: str) -> str:
    if segment.startswith(_FOREIGN) and to_segment(segment[1:]) == segment:
        return segment[1:]
    spelled = _spelled(segment)
    if len(spelled.encode()) > MAX_SEGMENT_BYTES:
        raise Unrepresentable("the name is too long for Google as it has to be spelled there")
    return spelled


def _spelled(segment: str) -> str:
    return _UNFIT.sub(lambda match: f"{_SIGN}{ord(match[0]):04X}", segment)
