"""The drive's change feed (delta), as changes of the mounted directory.

Source: learn.microsoft.com, driveitem-delta. Each item comes in its latest state, some several
times, in any order; ids are the only names. ``nextLink`` and ``deltaLink`` are followed as they are
given. On business drives and libraries only the whole drive has a feed, and with every change come
the directories above it; what is outside of the mount has parents that nobody there knows.

What the feed leaves out is asked for: hashes (business drives, now and then), and names that it
may have percent-encoded.
"""

from typing import Final
from urllib.parse import unquote

from csyncfs.backends.onedrive import items, looking, spelling
from csyncfs.backends.onedrive.client import Ask
from csyncfs.backends.onedrive.spelling import Place
from csyncfs.backends.onedrive.translation import Expired, Json
from csyncfs.backends.onedrive.wire import Wire
from csyncfs.errors import AccessDenied, CursorExpired, Hold, NotFound, Retry, Unsupported
from csyncfs.types import RESERVED_DIR, Attributes, Change, ChangePage, Kind

_SELECT: Final = f"{looking.SELECT},deleted"
_PAGE: Final = "1000"
_RESERVED: Final = RESERVED_DIR.removesuffix("/")


async def changes(wire: Wire, cursor: str | None) -> ChangePage:
    """See ChangeFeed.changes. The cursor is a link of Graph's."""
    body = await _page(wire, cursor)
    found: list[Change] = []
    for value in body.get("value") or ():
        if value.get("id") is not None and not _is_top(wire, value):
            found.append(await _change(wire, value))
    further, end = body.get("@odata.nextLink"), body.get("@odata.deltaLink")
    link = further if further is not None else end
    if link is None:
        raise Retry("asking for changes: the reply does not say how to go on")
    return ChangePage(tuple(found), str(link), is_last=further is None)


async def _page(wire: Wire, cursor: str | None) -> Json:
    doing = "asking for changes"
    if cursor is not None:
        try:
            return await wire.look(doing, Ask("GET", cursor))
        except Expired as exc:
            raise CursorExpired(str(exc)) from exc
        except Hold as exc:
            # Nobody but Graph made the link, so it is the link that has gone bad.
            if "HTTP 400" not in str(exc):
                raise
            raise CursorExpired(str(exc)) from exc
    where = wire.drive.base_id if wire.drive.is_personal else "root"
    query = {"top": _PAGE, "select": _SELECT}
    try:
        return await wire.look(doing, Ask("GET", wire.item(where).delta, query=query))
    except (NotFound, AccessDenied) as exc:
        # Of a folder that somebody shares, one may be let see the items only.
        raise Unsupported(f"no change feed: {exc}") from exc


def _is_top(wire: Wire, body: Json) -> bool:
    return "root" in body or str(body["id"]) == wire.drive.base_id


async def _change(wire: Wire, body: Json) -> Change:
    item_id, kind = str(body["id"]), items.kind_of(body)
    if "deleted" in body or kind is None:
        return Change(item_id, None)
    if _is_unclear(body, kind):
        try:
            query = {"select": looking.SELECT}
            body = await wire.look("looking", Ask("GET", wire.item(item_id), query=query))
        except NotFound:
            return Change(item_id, None)
        kind = items.kind_of(body)
        if kind is None:
            return Change(item_id, None)
    reference: Json = body.get("parentReference") or {}
    parent_id = str(reference.get("id") or "")
    is_child = parent_id in ("", wire.drive.base_id)
    place = Place(is_personal=wire.drive.is_personal, is_top=is_child and not wire.drive.base_chars)
    segment = spelling.to_segment(str(body.get("name") or ""), kind, place)
    if is_child and segment == _RESERVED:
        return Change(item_id, None)
    return Change(
        item_id,
        "" if is_child else parent_id,
        segment,
        kind,
        items.version_of(body),
        Attributes(mtime_ns=items.mtime_ns(body)),
    )


def _is_unclear(body: Json, kind: Kind) -> bool:
    name = str(body.get("name") or "")
    return unquote(name) != name or (kind is Kind.FILE and not items.quick_xor(body))
