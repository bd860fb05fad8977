"""Partial responses: ``fields=nextPageToken,items(name,size)`` leaves out everything else.

Honoured, so that a field csyncfs needs and does not ask for is missed in a test.
"""

from typing import Any, cast


def projected(reply: dict[str, Any], fields: str) -> dict[str, Any]:
    """What of the reply the fields name."""
    kept: dict[str, Any] = {}
    for name, inner in _split(fields):
        if name not in reply:
            continue
        value = reply[name]
        if not inner:
            kept[name] = value
        elif isinstance(value, list):
            kept[name] = [projected(one, inner) for one in cast("list[dict[str, Any]]", value)]
        else:
            kept[name] = projected(value, inner)
    return kept


def _split(fields: str) -> list[tuple[str, str]]:
    """Names, each with what is in parentheses behind it."""
    found: list[tuple[str, str]] = []
    depth, start = 0, 0
    for at, character in enumerate(f"{fields},"):
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            name, _, inner = fields[start:at].partition("(")
            found.append((name, inner.removesuffix(")")))
            start = at + 1
    return found
