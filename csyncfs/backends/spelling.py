# ruff: noqa: RUF001, RUF002  (the full-width percent sign is meant)
"""Names that a store cannot hold, spelled so that they come back.

A character that does not fit is spelled ``％`` (U+FF05) and four hex digits, its code point; each
store says which do not fit, and among them has to be a sign that would be read as a spelling
(``UNFIT_SIGN``). A bijection: an item whose name spells what needs no spelling is nobody's key
that way, so its key is its name behind a NUL, which no file name has.
"""

import re
from collections.abc import Callable
from typing import Final

FOREIGN: Final = "\0"
UNFIT_SIGN: Final = "％(?=[0-9A-F]{4})"
_SPELLED = re.compile(r"％([0-9A-F]{4})")

Spell = Callable[[str], str]
"""The spelling of a segment; itself where nothing in it needs one."""


def code(character: str) -> str:
    return f"％{ord(character):04X}"


def spell(unfit: "re.Pattern[str]", segment: str) -> str:
    """The segment with everything that does not fit spelled."""
    return unfit.sub(lambda match: code(match[0]), segment)


def to_segment(name: str, spelled: Spell) -> str:
    """The segment of a key that a segment of a name in the store stands for."""
    plain = _SPELLED.sub(lambda match: chr(int(match[1], 16)), name)
    return plain if spelled(plain) == name else FOREIGN + name


def foreign(segment: str, spelled: Spell) -> str | None:
    """The name of an item that is nobody's spelling; None for what has to be spelled."""
    name = segment[1:]
    is_foreign = segment.startswith(FOREIGN) and to_segment(name, spelled) == segment
    return name if is_foreign else None
