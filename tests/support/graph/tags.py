"""eTag and cTag in the forms of each flavour, and the conditions that name them."""

import base64
import re
from typing import Final

from tests.support.graph.drives import Drive, Item

_ONE: Final = re.compile(r'"[^"]*"|[^,\s]+')


def etag(drive: Drive, item: Item) -> str:
    """Changes with everything; the quotes of business belong to it."""
    if drive.is_personal:
        return _packed(f"{item.id}.{item.ev}")
    return f'"{{{item.guid.upper()}}},{item.ev}"'


def ctag(drive: Drive, item: Item) -> str | None:
    """Changes with the content; None: business folders have none."""
    if not drive.is_personal:
        return None if item.is_folder else f'"c:{{{item.guid.upper()}}},{item.cv}"'
    if item.is_folder:
        return _packed(f"t:{item.id}.{item.stamp}")
    return _packed(f"c:{item.id}.{item.cv}")


def names(header: str, drive: Drive, item: Item) -> bool:
    """True if the condition's value is ``*`` or one of the item's tags."""
    value = header.strip()
    if value == "*":
        return True
    ours = {tag.strip('"') for tag in (etag(drive, item), ctag(drive, item)) if tag}
    return any(one.removeprefix("W/").strip('"') in ours for one in (value, *_ONE.findall(value)))


def _packed(text: str) -> str:
    return "a" + base64.b64encode(text.encode()).decode().rstrip("=")
