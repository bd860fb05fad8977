"""Directory pages and single objects: everything that only looks."""

from collections.abc import Iterator
from typing import Any, Final

from csyncfs.backends.s3 import items
from csyncfs.backends.s3.options import MARKER_NAME
from csyncfs.backends.s3.wire import Reply, Wire
from csyncfs.errors import Retry
from csyncfs.types import RESERVED_DIR, Item, Kind, Location, Page

_PAGE_SIZE: Final = 1000


async def list_page(wire: Wire, directory: str, token: str | None, *, md5_tags: bool) -> Page:
    """One page of the children of ``directory`` (a key ending in ``/``, or ``""``)."""
    prefixes = wire.options.prefixes(directory)
    if len(prefixes) == 1:
        return await _list_prefix(wire, directory, prefixes[0], token, md5_tags=md5_tags)
    # The plain keys first, then the long ones.
    number, _, rest = (token or "0:").partition(":")
    page = await _list_prefix(
        wire, directory, prefixes[int(number)], rest or None, md5_tags=md5_tags
    )
    if page.token is not None:
        return Page(page.items, f"{number}:{page.token}")
    return Page(page.items, "1:" if number == "0" else None)


async def _list_prefix(
    wire: Wire, directory: str, prefix: str, token: str | None, *, md5_tags: bool
) -> Page:
    params: dict[str, Any] = {"Prefix": prefix, "Delimiter": "/", "MaxKeys": _PAGE_SIZE}
    if token is not None:
        params["ContinuationToken"] = token
    reply = await wire.ask("list_objects_v2", **params)
    following = reply.get("NextContinuationToken") if reply.get("IsTruncated") else None
    if reply.get("IsTruncated") and following in (None, "", token):
        raise Retry("the listing was cut short: the server did not say how it goes on")
    found = _directories(directory, prefix, reply), _files(directory, prefix, reply, md5_tags)
    return Page(tuple(item for part in found for item in part), following)


def _directories(directory: str, prefix: str, reply: Reply) -> Iterator[Item]:
    for entry in reply.get("CommonPrefixes") or ():
        key = directory + str(entry["Prefix"]).removeprefix(prefix)
        if key not in (RESERVED_DIR, directory):
            yield Item(Location(key), Kind.DIR, None)


def _files(directory: str, prefix: str, reply: Reply, md5_tags: bool) -> Iterator[Item]:
    for entry in reply.get("Contents") or ():
        key = directory + str(entry["Key"]).removeprefix(prefix)
        # A marker that has a body is somebody's data and stays reachable as a file.
        if key == directory and (not key or not int(entry["Size"])):
            continue
        if key == directory + MARKER_NAME:
            continue
        yield items.from_listing(key, Kind.FILE, entry, md5_tags=md5_tags)


async def head_object(wire: Wire, object_key: str, key: str, kind: Kind, *, md5_tags: bool) -> Item:
    """The item ``key`` as its object is now."""
    full_key = wire.options.full_key(object_key)
    reply = await wire.ask("head_object", Key=full_key)
    size = int(reply.get("ContentLength", 0))
    return items.from_head(key, kind, reply, full_key=full_key, md5_tags=md5_tags, size=size)
