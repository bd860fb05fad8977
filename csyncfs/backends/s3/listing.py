"""Directory pages and single objects: everything that only looks."""

from collections.abc import Iterator
from typing import Any, Final

from csyncfs.backends.s3 import items
from csyncfs.backends.s3.wire import Reply, Wire
from csyncfs.errors import Retry
from csyncfs.types import RESERVED_DIR, Item, Kind, Location, Page

MARKER_NAME: Final = ".csyncfs-dir"
"""The marker of a directory on servers that cannot keep ``dir/``; see directories.py."""

_PAGE_SIZE: Final = 1000


async def list_page(wire: Wire, directory: str, token: str | None, *, md5_tags: bool) -> Page:
    """One page of the children of ``directory`` (a key ending in ``/``, or ``""``)."""
    params: dict[str, Any] = {
        "Prefix": wire.options.base + directory,
        "Delimiter": "/",
        "MaxKeys": _PAGE_SIZE,
    }
    if token is not None:
        params["ContinuationToken"] = token
    reply = await wire.ask("list_objects_v2", **params)
    following = reply.get("NextContinuationToken") if reply.get("IsTruncated") else None
    if reply.get("IsTruncated") and following in (None, "", token):
        raise Retry("the listing was cut short: the server did not say how it goes on")
    found = _directories(wire, directory, reply), _files(wire, directory, reply, md5_tags)
    return Page(tuple(item for part in found for item in part), following)


def _directories(wire: Wire, directory: str, reply: Reply) -> Iterator[Item]:
    for entry in reply.get("CommonPrefixes") or ():
        key = str(entry["Prefix"]).removeprefix(wire.options.base)
        if key not in (RESERVED_DIR, directory):
            yield Item(Location(key), Kind.DIR, None)


def _files(wire: Wire, directory: str, reply: Reply, md5_tags: bool) -> Iterator[Item]:
    for entry in reply.get("Contents") or ():
        key = str(entry["Key"]).removeprefix(wire.options.base)
        # A marker that has a body is somebody's data and stays reachable as a file.
        if key == directory and (not key or not int(entry["Size"])):
            continue
        if key == directory + MARKER_NAME:
            continue
        yield items.from_listing(key, Kind.FILE, entry, md5_tags=md5_tags)


async def head_object(wire: Wire, object_key: str, key: str, kind: Kind, *, md5_tags: bool) -> Item:
    """The item ``key`` as its object is now."""
    reply = await wire.ask("head_object", Key=wire.options.full_key(object_key))
    size = int(reply.get("ContentLength", 0))
    return items.from_head(key, kind, reply, md5_tags=md5_tags, size=size)
