"""Directory pages and single objects: everything that only looks.

A directory is an empty object ``dir/``, as Google's console, gcsfuse and S3's tools make it; or
just the prefix of others. One that has a body is somebody's data and stays reachable as a file.
"""

import json
from typing import Any, Final

from csyncfs.backends.gcs import items, spelling
from csyncfs.backends.gcs.wire import Wire
from csyncfs.errors import NoSuchStore, NotFound, Retry
from csyncfs.types import RESERVED_DIR, Item, Kind, Location, Page

_PAGE_SIZE: Final = 1000
_LIST_FIELDS: Final = f"nextPageToken,prefixes,items({items.FIELDS})"


# Single items ------------------------------------------------------------------------


async def head(wire: Wire, key: str, kind: Kind) -> Item:
    """The item; a directory that is only a prefix has no version. Raises NotFound."""
    if kind is Kind.FILE:
        return items.item(key, kind, await resource_of(wire, wire.options.object_name(key)))
    if not wire.options.base + key:
        return Item(Location(key), kind, None)
    try:
        return items.item(key, kind, await marker_of(wire, key))
    except NotFound:
        # The root of a mount exists, whether or not anything is in it yet.
        if not key or await _has_children(wire, key):
            return Item(Location(key), kind, None)
        raise


async def marker_of(wire: Wire, key: str) -> items.Resource:
    """The object that makes ``key`` a directory. Raises NotFound."""
    found = await resource_of(wire, wire.options.object_name(key))
    if int(found.get("size", 0)):
        raise NotFound("looking: no such item")
    return found


async def resource_of(
    wire: Wire, name: str, query: dict[str, str] | None = None, fields: str = items.FIELDS
) -> items.Resource:
    """Raises NotFound, Unmet."""
    asked = {"projection": "noAcl", "fields": fields, **(query or {})}
    found = await wire.look("looking", _path(name), asked)
    wire.words.note(found)
    return found


def _path(name: str) -> str:
    from csyncfs.backends.gcs.client import object_path

    return object_path(name)


async def _has_children(wire: Wire, key: str) -> bool:
    for prefix in wire.options.prefixes(key):
        if await is_any(wire, prefix):
            return True
    return False


async def is_any(wire: Wire, prefix: str) -> bool:
    """Whether any object begins so. Raises NoSuchStore."""
    query = {"prefix": prefix, "maxResults": "1", "fields": "nextPageToken,items(name)"}
    while True:
        reply = await _listed(wire, query)
        if reply.get("items"):
            return True
        # A page may be empty and not the last one.
        if not reply.get("nextPageToken"):
            return False
        query["pageToken"] = str(reply["nextPageToken"])


async def _listed(wire: Wire, query: dict[str, str]) -> items.Resource:
    try:
        return await wire.look("listing", "/o", query)
    except NotFound as exc:
        raise NoSuchStore("the bucket does not exist") from exc


# Pages -------------------------------------------------------------------------------


async def list_page(wire: Wire, directory: str, token: str | None) -> Page:
    """One page of the children of ``directory`` (a key ending in ``/``, or ``""``)."""
    prefixes = wire.options.prefixes(directory)
    number, going_on, hidden = _resumed(token)
    query = {
        "prefix": prefixes[number],
        "delimiter": "/",
        # The markers of directories in it, and so their attributes.
        "includeTrailingDelimiter": "true",
        "maxResults": str(_PAGE_SIZE),
        "projection": "noAcl",
        "fields": _LIST_FIELDS,
    }
    if going_on is not None:
        query["pageToken"] = going_on
    reply = await _listed(wire, query)
    following = reply.get("nextPageToken")
    if following and following == going_on:
        raise Retry("the listing was cut short: the server did not say how it goes on")
    page = _Reading(wire, directory, prefixes[number], hidden)
    page.read(reply)
    if following:
        return Page(page.items(), json.dumps([number, following, page.last_dir()]))
    if number + 1 < len(prefixes):
        return Page(page.items(), json.dumps([number + 1, None, None]))
    return Page(page.items(), None)


def _resumed(token: str | None) -> tuple[int, str | None, str | None]:
    if token is None:
        return 0, None, None
    number, going_on, hidden = json.loads(token)
    return number, going_on, hidden


class _Reading:
    """The items of one page. A directory may be told twice: as an object, and as a prefix."""

    def __init__(self, wire: Wire, directory: str, prefix: str, hidden: str | None) -> None:
        self._wire = wire
        self._directory = directory
        self._prefix = prefix
        self._hidden = hidden
        """The last directory of the page before, which may be told once more."""
        self._last: str | None = None
        self._files: dict[str, Item] = {}
        self._dirs: dict[str, Item] = {}

    def read(self, reply: items.Resource) -> None:
        for prefix in reply.get("prefixes") or ():
            self._add_dir(str(prefix).removeprefix(self._prefix), None)
        # What the marker says counts.
        for entry in reply.get("items") or ():
            self._wire.words.note(entry)
            rest = str(entry["name"]).removeprefix(self._prefix)
            if not rest or rest.endswith("/"):
                self._read_marker(rest, entry)
            else:
                key = self._directory + spelling.to_segment(rest)
                self._files[key] = items.item(key, Kind.FILE, entry)

    def items(self) -> tuple[Item, ...]:
        return (*self._dirs.values(), *self._files.values())

    def last_dir(self) -> str | None:
        return self._last

    def _read_marker(self, rest: str, entry: dict[str, Any]) -> None:
        if not int(entry.get("size", 0)):
            if rest:
                self._add_dir(rest, entry)
        elif not rest and self._directory:
            key = self._directory
            self._files[key] = items.item(key, Kind.FILE, entry)

    def _add_dir(self, rest: str, entry: dict[str, Any] | None) -> None:
        self._last = max(self._last or "", rest)
        key = f"{self._directory}{spelling.to_segment(rest.removesuffix('/'))}/"
        if rest == self._hidden or key in (RESERVED_DIR, self._directory):
            return
        if entry is None:
            self._dirs[key] = Item(Location(key), Kind.DIR, None)
        else:
            self._dirs[key] = items.item(key, Kind.DIR, entry)
