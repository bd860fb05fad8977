# ruff: noqa: RUF002  (the full-width percent sign is meant)
"""Segments of keys on one side, names of OneDrive items on the other.

OneDrive holds no ``" * : < > ? \\ |`` and no control characters, no space at either end, no dot at
the end, no ``_vti_``, no names of DOS devices, no ``.lock``, ``desktop.ini`` or ``~$...``; business
drives no ``forms`` at the top and no directory that begins with ``~``. Such a character, or the
first one of such a name, is spelled ``％`` (U+FF05) and four hex digits, its code point: ``a:b`` is
the item ``a％003Ab``, ``con`` is ``％0063on``. What would be read as a spelling is spelled itself.

See ``backends.spelling``. Case is another matter: names that differ in it only are one name to
OneDrive, and are refused (see ``looking``).
"""

import re
from dataclasses import dataclass
from typing import Final

from csyncfs.backends import spelling
from csyncfs.errors import Unrepresentable
from csyncfs.types import Kind

MAX_NAME_CHARS: Final = 255
MAX_PATH_CHARS: Final = 400

_UNFIT = re.compile(
    rf"""["*:<>?\\|\x00-\x1f\x7f\ufffe\uffff]|{spelling.UNFIT_SIGN}"""
    r"""|\A\x20|[\x20.]\Z|_(?=(?i:vti_))"""
)
_RESERVED = re.compile(
    r"(?:CON|PRN|AUX|NUL|COM\d|LPT\d)(?:\..*)?|\.lock|desktop\.ini|~\$.*",
    re.IGNORECASE | re.DOTALL | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Place:
    """What decides which names are possible, beside the name."""

    is_personal: bool
    is_top: bool
    """Of the whole drive."""


def to_name(segment: str, kind: Kind, place: Place) -> str:
    """The name of the item. Raises Unrepresentable."""
    if (foreign := spelling.foreign(segment, _speller(kind, place))) is not None:
        return foreign
    name = _spelled(segment, kind, place)
    if not name or len(name.encode("utf-16-le", "surrogatepass")) // 2 > MAX_NAME_CHARS:
        raise Unrepresentable(f"a name on OneDrive has 1 to {MAX_NAME_CHARS} characters")
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise Unrepresentable("names on OneDrive are Unicode; this name is not") from exc
    return name


def to_segment(name: str, kind: Kind, place: Place) -> str:
    """The segment of a key that this item stands for."""
    return spelling.to_segment(name, _speller(kind, place))


def _speller(kind: Kind, place: Place) -> spelling.Spell:
    return lambda segment: _spelled(segment, kind, place)


def _spelled(segment: str, kind: Kind, place: Place) -> str:
    name = spelling.spell(_UNFIT, segment)
    if name[:1] == segment[:1] and _is_reserved(segment, kind, place):
        name = spelling.code(name[0]) + name[1:]
    return name


def _is_reserved(segment: str, kind: Kind, place: Place) -> bool:
    if _RESERVED.fullmatch(segment) is not None:
        return True
    if place.is_personal:
        return False
    if kind is Kind.DIR and segment.startswith("~"):
        return True
    return place.is_top and segment.lower() == "forms"
