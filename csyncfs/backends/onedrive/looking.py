"""What is where: items by path, and the children of directories.

Keys are looked up as paths below the mount's top. OneDrive takes ``A`` for ``a``: the name of what
it answers is compared, so a name that differs in case is not found; where it is in the way of a new
item, that is said (Unrepresentable), because no other name would be the right one for it.
"""

from typing import Final
from urllib.parse import unquote

import trio

from csyncfs.backends.onedrive import items, spelling
from csyncfs.backends.onedrive.client import Ask
from csyncfs.backends.onedrive.spelling import Place
from csyncfs.backends.onedrive.translation import Json
from csyncfs.backends.onedrive.wire import Wire
from csyncfs.errors import Hold, NotFound, Unrepresentable
from csyncfs.types import RESERVED_DIR, Item, Kind, Page, RemoteVersion

SELECT: Final = (
    "id,name,size,eTag,cTag,lastModifiedDateTime,fileSystemInfo,parentReference,"
    "file,folder,package,remoteItem,root"
)
DOWNLOAD_URL: Final = "@microsoft.graph.downloadUrl"
_PAGE: Final = "1000"
_PAUSE_S: Final = 0.3


def parent_of(key: str) -> str:
    """The key of the directory an item is in."""
    above = key.removesuffix("/").rpartition("/")[0]
    return f"{above}/" if above else ""


def name_of(wire: Wire, key: str, kind: Kind) -> str:
    """The item's name. Raises Unrepresentable."""
    segment = key.removesuffix("/").rpartition("/")[2]
    return spelling.to_name(segment, kind, _place(wire, parent_of(key)))


def path_of(wire: Wire, key: str, kind: Kind) -> str:
    """The item's path below the mount's top. Raises Unrepresentable."""
    segments = key.removesuffix("/").split("/")
    above = ""
    names: list[str] = []
    for at, segment in enumerate(segments):
        is_last = at == len(segments) - 1
        names.append(spelling.to_name(segment, kind if is_last else Kind.DIR, _place(wire, above)))
        above += f"{segment}/"
    path = "/".join(names)
    if wire.drive.base_chars + len(path) > spelling.MAX_PATH_CHARS:
        raise Unrepresentable(
            f"the path is too long for OneDrive: over {spelling.MAX_PATH_CHARS} characters"
        )
    return path


def address(wire: Wire, key: str, kind: Kind) -> str:
    """The item by its path, as the SDK's builders take it."""
    base = wire.drive.base_id
    return f"{base}:/{path_of(wire, key, kind)}:" if key else base


async def look(wire: Wire, key: str, kind: Kind, select: str = SELECT) -> Json:
    """The item as it is. Raises NotFound, also if it is of another kind."""
    body = await find(wire, key, kind, select)
    if body is None or items.kind_of(body) is not kind:
        raise NotFound("looking: no such item")
    return body


async def find(wire: Wire, key: str, kind: Kind, select: str = SELECT) -> Json | None:
    """Whatever has the key's name; None if nothing has it exactly so."""
    ask = Ask("GET", wire.item(address(wire, key, kind)), query={"select": select})
    body = await _find(wire, key, ask)
    if body is None or (key and not _is_named(wire, key, kind, body)):
        return None
    return body


async def in_the_way(wire: Wire, key: str, kind: Kind) -> Json | None:
    """What keeps a new item from being made; None: nothing is to be seen.

    Raises Unrepresentable for what csyncfs cannot show under the name.
    """
    ask = Ask("GET", wire.item(address(wire, key, kind)), query={"select": SELECT})
    body = await _find(wire, key, ask)
    if body is None:
        return None
    if not _is_named(wire, key, kind, body):
        raise Unrepresentable(
            "OneDrive has an item whose name differs in upper and lower case only,"
            " and cannot hold both"
        )
    if items.kind_of(body) is None:
        raise Unrepresentable("OneDrive has a notebook or a shortcut of this name")
    return body


async def _find(wire: Wire, key: str, ask: Ask) -> Json | None:
    fresh, above = wire.fresh, parent_of(key)
    is_parent_seen = False
    while True:
        try:
            return await wire.look("looking", ask)
        except NotFound:
            if fresh.is_fresh(key):
                await trio.sleep(_PAUSE_S)
            elif above and fresh.is_fresh(above) and not is_parent_seen:
                await look(wire, above, Kind.DIR)
                is_parent_seen = True
            else:
                return None
        except Hold as exc:
            if isinstance(exc, Unrepresentable) or "HTTP 400" not in str(exc):
                raise
            # A path through a file.
            return None


async def directory_id(wire: Wire, key: str) -> str:
    """The id of a directory, which may have been seen some seconds ago. Raises NotFound."""
    if not key:
        return wire.drive.base_id
    known = wire.fresh.dir_id(key)
    if known is not None:
        return known
    try:
        body = await look(wire, key, Kind.DIR)
    except Unrepresentable as exc:
        raise NotFound("looking: no such directory") from exc
    wire.fresh.note_dir(key, str(body["id"]))
    return str(body["id"])


async def head(wire: Wire, key: str, kind: Kind) -> Item:
    return (await seen(wire, key, kind))[0]


async def seen(wire: Wire, key: str, kind: Kind) -> tuple[Item, Json]:
    """The item, and what the drive says of it. Raises NotFound."""
    try:
        body = await look(wire, key, kind)
        return item_of(wire, key, kind, body), body
    except Unrepresentable as exc:
        raise NotFound("looking: no such item") from exc


def is_expected(wire: Wire, expect: RemoteVersion, body: Json) -> bool:
    """Whether what is there may be replaced or removed by who expects this version. What a library
    wrote into it by itself is nobody's edit."""
    if items.is_same(expect, body):
        return True
    return wire.drive.kind == "documentLibrary" and items.is_rewritten(expect, body)


def item_of(wire: Wire, key: str, kind: Kind, body: Json) -> Item:
    """With the id of the put that made it, if this process knows."""
    item = items.from_json(key, kind, body)
    if kind is Kind.DIR:
        return item
    size, digest, tag = items.size_of(body), items.quick_xor(body), items.condition(body)
    sent = wire.sent(key, size, digest, tag)
    if sent is None:
        return item
    return Item(item.location, kind, item.version, item.attributes, sent.put_id, sent.device)


async def list_page(wire: Wire, key: str, token: str | None) -> Page:
    """The children that are files or directories. Raises NotFound."""
    if token is not None:
        body = await wire.look("listing", Ask("GET", token))
    else:
        try:
            top = await look(wire, key, Kind.DIR)
        except Unrepresentable as exc:
            raise NotFound("listing: no such directory") from exc
        query = {"top": _PAGE, "select": SELECT}
        body = await wire.look(
            "listing", Ask("GET", wire.item(str(top["id"])).children, query=query)
        )
    found: dict[str, Item] = {}
    for child in body.get("value") or ():
        kind = items.kind_of(child)
        if kind is None:
            continue
        segment = spelling.to_segment(str(child["name"]), kind, _place(wire, key))
        own = f"{key}{segment}/" if kind is Kind.DIR else key + segment
        if own != RESERVED_DIR:
            found[own] = item_of(wire, own, kind, child)
    link = body.get("@odata.nextLink")
    return Page(tuple(found.values()), None if link is None else str(link))


async def is_empty(wire: Wire, item_id: str) -> bool:
    """Whether a directory has no children, of whatever kind."""
    link: object = Ask("GET", wire.item(item_id).children, query={"top": "1", "select": "id"})
    while isinstance(link, Ask):
        body = await wire.look("listing", link)
        if body.get("value"):
            return False
        more = body.get("@odata.nextLink")
        link = None if more is None else Ask("GET", str(more))
    return True


def _is_named(wire: Wire, key: str, kind: Kind, body: Json) -> bool:
    """Whether the item has this name, and not one that OneDrive takes for the same."""
    name = str(body.get("name"))
    # Drives were seen to tell names percent-encoded.
    if name_of(wire, key, kind) not in (name, unquote(name)):
        return False
    reference: Json = body.get("parentReference") or {}
    path = reference.get("path")
    above = parent_of(key)
    if not above or not isinstance(path, str):
        return True
    wanted = f"/{path_of(wire, above, Kind.DIR)}"
    shown = (path, unquote(path))
    if any(one.endswith(wanted) for one in shown):
        return True
    # Not the same directory, or only told in a way nobody foresaw.
    return not any(one.lower().endswith(wanted.lower()) for one in shown)


def _place(wire: Wire, directory: str) -> Place:
    is_top = not directory and not wire.drive.base_chars
    return Place(is_personal=wire.drive.is_personal, is_top=is_top)
