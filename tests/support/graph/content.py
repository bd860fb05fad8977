"""Small uploads, the redirect to a download URL, and the download host."""

import base64
import json
import mimetypes
from typing import Any, Final, cast

from tests.support.graph import tags
from tests.support.graph.blobs import Blob
from tests.support.graph.call import Call, Table, refuse_full
from tests.support.graph.drives import Drive, Item, Kind
from tests.support.graph.failures import GraphError, bad_request, not_found, taken
from tests.support.graph.messages import Reply, Request, byte_range
from tests.support.graph.shapes import download_query, download_url
from tests.support.graph.world import World


def get_content(call: Call) -> Reply:
    item = call.item()
    if not item.is_file:
        raise bad_request("The item has no content.")
    if item.malware:
        virus = (("X-Virus-Infected", item.malware),)
        raise GraphError(403, "malwareDetected", "Malware was detected.", headers=virus)
    return _redirect(download_url(call.world, call.drive, item))


def put_content(call: Call) -> Reply:
    if len(call.request.body) > call.world.knobs.small_limit:
        raise GraphError(
            413, "invalidRequest", "The file is too large.", inner="maxFileSizeExceeded"
        )
    if not call.request.is_complete:
        raise bad_request("The body is shorter than announced.")
    if call.route.names is None:
        return _put_by_id(call)
    return _put_by_path(call)


def get_version_content(call: Call) -> Reply:
    item = call.item()
    number = version_number(call)
    if number != item.number and all(v.number != number for v in item.versions):
        raise not_found()
    return _redirect(download_url(call.world, call.drive, item, number))


def version_number(call: Call) -> int:
    """Raises GraphError. ``current`` is the one the item has."""
    text = call.route.arguments["version"]
    if text == "current":
        return call.item().number
    whole = text.removesuffix(".0")
    if not whole.isdecimal():
        raise not_found()
    return int(whole)


def download(world: World, request: Request) -> Reply:
    """GET or HEAD of a download URL. Raises GraphError."""
    drive, item, blob = _downloaded(world, request)
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": tags.etag(drive, item).strip('"').join('""'),
        "Content-Type": mimetypes.guess_type(item.name)[0] or "application/octet-stream",
    }
    wanted = request.headers.get("range")
    if wanted is None or world.knobs.ignore_range:
        return Reply(200, blob.data, headers)
    try:
        span = byte_range(wanted, len(blob))
    except ValueError as exc:
        size = (("Content-Range", f"bytes */{len(blob)}"),)
        message = "The range is not satisfiable."
        raise GraphError(416, "invalidRange", message, headers=size) from exc
    if span is None:
        return Reply(200, blob.data, headers)
    start, end = span
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(blob)}"
    return Reply(206, blob.data[start:end], headers)


def _downloaded(world: World, request: Request) -> tuple[Drive, Item, Blob]:
    token = request.raw_path.removeprefix("/dl/")
    expired = GraphError(401, "unauthenticated", "The download URL is not valid.")
    if request.raw_query != download_query(world, token):
        raise expired
    padded = token + "=" * (-len(token) % 4)
    values = cast("list[Any]", json.loads(base64.urlsafe_b64decode(padded)))
    drive_id, item_id, number, made, epoch = values
    if epoch != world.link_epoch or world.clock.now() - made >= world.knobs.url_life_s:
        raise expired
    drive = world.drives[drive_id]
    item = drive.get(item_id)
    if number in (0, item.number):
        return drive, item, item.blob
    old = next((v for v in item.versions if v.number == number), None)
    if old is None:
        raise not_found()
    return drive, item, old.blob


def _redirect(url: str) -> Reply:
    return Reply(302, headers={"Location": url, "Cache-Control": "no-store"})


def _put_by_id(call: Call) -> Reply:
    item = call.item()
    if not item.is_file:
        raise bad_request("The item is not a file.")
    return _replace(call, item)


def _put_by_path(call: Call) -> Reply:
    parent, name = _parent_and_name(call)
    drive = call.drive
    there = None if parent is None else drive.child(parent, name)
    call.check_absent(there)
    behaviour = call.behaviour({}, "replace")
    if there is not None and behaviour != "rename":
        if behaviour == "fail" or not there.is_file:
            raise taken()
        return _replace(call, there)
    call.refuse_full(len(call.request.body))
    if parent is None:
        parent = _make_parents(call)
    if there is not None:
        name = drive.free_name(parent, name)
    item = drive.add(parent, name, Kind.FILE, blob=Blob(call.request.body))
    return call.reply_item(201, item)


def _parent_and_name(call: Call) -> tuple[Item | None, str]:
    """None: folders are missing that may be made. Raises GraphError."""
    names = call.route.names
    if not names:
        raise bad_request("File name not provided in url.")
    drive, start = call.drive, call.start()
    parent = drive.walk(start, names[:-1])
    if parent is None and not call.world.knobs.implicit_parents:
        raise not_found()
    if parent is not None and not parent.is_folder:
        raise bad_request("The parent is not a folder.")
    return parent, call.check_name(names[-1], parent or start, is_folder=False)


def _make_parents(call: Call) -> Item:
    assert call.route.names is not None
    folder = call.start()
    for name in call.route.names[:-1]:
        below = call.drive.child(folder, name)
        if below is None:
            call.check_name(name, folder, is_folder=True)
            below = call.drive.add(folder, name, Kind.FOLDER)
        elif not below.is_folder:
            raise bad_request("The parent is not a folder.")
        folder = below
    return folder


def _replace(call: Call, item: Item) -> Reply:
    call.check_if_match(item)
    call.refuse_locked(item)
    refuse_full(call.drive, len(call.request.body))
    call.drive.put(item, Blob(call.request.body))
    return call.reply_item(200, item)


TABLE: Final[Table] = {
    ("GET", "content"): get_content,
    ("PUT", "content"): put_content,
    ("GET", "versionContent"): get_version_content,
}
