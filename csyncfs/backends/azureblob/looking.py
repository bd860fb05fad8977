"""Directory pages and single blobs: everything that only looks.

A directory is a zero-byte blob of its name that says ``hdi_isfolder``, as Hadoop, blobfuse2 and
Data Lake Storage make it; a zero-byte blob ``dir/``, as S3's tools make it; or just the prefix of
others.
"""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from csyncfs.backends.azureblob import items, spelling
from csyncfs.backends.azureblob.wire import Wire
from csyncfs.errors import NotFound, Retry
from csyncfs.types import RESERVED_DIR, Item, Kind, Location, Page

if TYPE_CHECKING:
    from azure.storage.blob import BlobProperties

_PAGE_SIZE: Final = 1000


# Single items ------------------------------------------------------------------------


async def head(wire: Wire, key: str, kind: Kind) -> Item:
    """The item; a directory that is only a prefix has no version. Raises NotFound."""
    if kind is Kind.FILE:
        return await _head_file(wire, key)
    return await head_dir(wire, key)


async def _head_file(wire: Wire, key: str) -> Item:
    name = wire.options.blob_name(key)
    properties = await properties_of(wire, name)
    if items.is_dir(properties.metadata or {}):
        raise NotFound("looking: no such item")
    return items.from_properties(key, Kind.FILE, properties, name)


async def head_dir(wire: Wire, key: str) -> Item:
    if not wire.options.base + key:
        return Item(Location(key), Kind.DIR, None)
    try:
        name, properties = await find_marker(wire, key)
    except NotFound:
        # The root of a mount exists, whether or not anything is in it yet.
        if not key or await _has_children(wire, key):
            return Item(Location(key), Kind.DIR, None)
        raise
    return items.from_properties(key, Kind.DIR, properties, name)


async def find_marker(wire: Wire, key: str) -> "tuple[str, BlobProperties]":
    """The blob that stands for a directory, and what it says. Raises NotFound."""
    name = wire.options.blob_name(key)
    try:
        properties = await properties_of(wire, name)
        if items.is_dir(properties.metadata or {}):
            return name, properties
    except NotFound:
        if wire.is_hierarchical:
            raise
    slashed = await properties_of(wire, f"{name}/")
    if slashed.size:
        # A marker that has a body is somebody's data, and stays reachable as a file.
        raise NotFound("looking: no such item")
    return f"{name}/", slashed


async def properties_of(wire: Wire, name: str) -> "BlobProperties":
    """Raises NotFound."""
    return await wire.look("looking", lambda: wire.blob(name).get_blob_properties())


async def _has_children(wire: Wire, key: str) -> bool:
    for prefix in wire.options.prefixes(key):

        def first(prefix: str = prefix) -> list[Any]:
            blobs = wire.container.list_blobs(name_starts_with=prefix, results_per_page=1)
            return [blob for blob, _ in zip(blobs, range(1), strict=False)]

        if await wire.look("looking", first):
            return True
    return False


# Pages -------------------------------------------------------------------------------


async def list_page(wire: Wire, directory: str, token: str | None) -> Page:
    """One page of the children of ``directory`` (a key ending in ``/``, or ``""``)."""
    prefixes = wire.options.prefixes(directory)
    number, going_on, told = _resumed(token)
    entries, following = await wire.look(
        "listing", lambda: _list_prefix(wire, prefixes[number], going_on)
    )
    page = _Reading(directory, prefixes[number], told)
    page.read(entries)
    if following is not None:
        if following == going_on:
            raise Retry("the listing was cut short: the server did not say how it goes on")
        return Page(page.items(), json.dumps([number, following, page.still_to_hide()]))
    if number + 1 < len(prefixes):
        return Page(page.items(), json.dumps([number + 1, None, []]))
    return Page(page.items(), None)


def _resumed(token: str | None) -> tuple[int, str | None, list[str]]:
    if token is None:
        return 0, None, []
    number, going_on, told = json.loads(token)
    return number, going_on, told


def _list_prefix(wire: Wire, prefix: str, going_on: str | None) -> tuple[list[Any], str | None]:
    """In a thread: what one request lists, and where the next one starts."""
    pages = wire.container.walk_blobs(
        name_starts_with=prefix,
        include=["metadata"],
        delimiter="/",
        results_per_page=_PAGE_SIZE,
    ).by_page(going_on)
    entries = list(next(pages, iter(())))
    following: str | None = getattr(pages, "continuation_token", None)
    return entries, following or None


class _Reading:
    """The items of one page. A directory may be told twice: as a blob, and as a prefix."""

    def __init__(self, directory: str, prefix: str, told: list[str]) -> None:
        self._directory = directory
        self._prefix = prefix
        self._told = set(told)
        """Directories of pages before whose prefix may be on this one."""
        self._last = ""
        self._files: dict[str, Item] = {}
        self._dirs: dict[str, Item] = {}

    def read(self, entries: Iterable[Any]) -> None:
        # Prefixes first: what the blob says counts.
        for entry in sorted(entries, key=lambda entry: not entry.name.endswith("/")):
            name = str(entry.name)
            self._last = max(self._last, name)
            rest = name.removeprefix(self._prefix)
            is_blob = hasattr(entry, "blob_type")
            if is_blob and (not rest or rest.endswith("/")):
                self._read_slashed(rest, entry, name)
            elif is_blob:
                self._read_blob(rest, entry, name)
            else:
                self._add_dir(rest.removesuffix("/"), None)

    def _read_slashed(self, rest: str, entry: "BlobProperties", name: str) -> None:
        # The directory's own marker; one that has a body is somebody's data.
        if not rest and self._directory and entry.size:
            key = self._directory
            self._files[key] = items.from_properties(key, Kind.FILE, entry, name)

    def _read_blob(self, rest: str, entry: "BlobProperties", name: str) -> None:
        if items.is_dir(entry.metadata or {}):
            key = f"{self._directory}{spelling.to_segment(rest)}/"
            self._add_dir(rest, items.from_properties(key, Kind.DIR, entry, name))
        else:
            key = self._directory + spelling.to_segment(rest)
            self._files[key] = items.from_properties(key, Kind.FILE, entry, name)

    def _add_dir(self, segment: str, item: Item | None) -> None:
        key = f"{self._directory}{spelling.to_segment(segment)}/"
        if item is None and segment in self._told:
            return
        if key != RESERVED_DIR:
            self._dirs[key] = item or Item(Location(key), Kind.DIR, None)

    def items(self) -> tuple[Item, ...]:
        return (*self._dirs.values(), *self._files.values())

    def still_to_hide(self) -> list[str]:
        """The directories told by their blob whose prefix comes later: ``a``, then ``a-b``, then
        ``a/``. All of them are what the last name begins with."""
        last = self._last.removeprefix(self._prefix)
        return sorted(
            segment
            for segment in self._told | {self._segment_of(item) for item in self._dirs.values()}
            if last.startswith(segment) and not last.startswith(f"{segment}/")
        )

    def _segment_of(self, item: Item) -> str:
        return spelling.to_blob(item.location.key.removeprefix(self._directory).removesuffix("/"))
