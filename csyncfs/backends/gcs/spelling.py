# ruff: noqa: RUF002  (the full-width percent sign is meant)
"""Segments of keys on one side, segments of object names on the other.

Google refuses line feeds and carriage returns, and nothing else that a file name may hold. They
are spelled ``％`` (U+FF05) and four hex digits, the code point: ``a<LF>b`` is the object
``a％000Ab``. What would be read as a spelling is spelled itself: ``％000A`` is ``％FF05000A``. See
``backends.spelling``.
"""

import re
from typing import Final

from csyncfs.backends import spelling
from csyncfs.errors import Unrepresentable

MAX_SEGMENT_BYTES: Final = 600
"""A name of 255 bytes may be spelled as often as this allows; see ``options``."""

_UNFIT = re.compile(rf"[\r\n]|{spelling.UNFIT_SIGN}")


def to_object(key: str) -> str:
    """The object name of a key, with the slash at its end if it has one. Raises
    Unrepresentable."""
    try:
        key.encode()
    except UnicodeEncodeError as exc:
        raise Unrepresentable("object names are Unicode; this name is not") from exc
    if _UNFIT.search(key) is None and spelling.FOREIGN not in key:
        return key
    return "/".join(_to_object(segment) for segment in key.split("/"))


def to_segment(name: str) -> str:
    """The segment of a key that this segment of an object name stands for."""
    return spelling.to_segment(name, _spelled)


def _to_object(segment: str) -> str:
    if (foreign := spelling.foreign(segment, _spelled)) is not None:
        return foreign
    spelled = _spelled(segment)
    if len(spelled.encode()) > MAX_SEGMENT_BYTES:
        raise Unrepresentable("the name is too long for Google as it has to be spelled there")
    return spelled


def _spelled(segment: str) -> str:
    return spelling.spell(_UNFIT, segment)
