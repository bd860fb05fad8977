"""Looking at items, making folders, renaming, moving, deleting, restoring."""

import base64
import json
from typing import Any, Final

from tests.support.graph import tags
from tests.support.graph.call import (
    SOURCE_URL,
    Call,
    Table,
    object_in,
    page_size,
    parent_in,
    times_in,
)
from tests.support.graph.drives import Item, Kind
from tests.support.graph.failures import (
    GraphError,
    Json,
    bad_request,
    not_found,
    not_supported,
    taken,
)
from tests.support.graph.messages import Reply
from tests.support.graph.sessions import commit_by_source

_WRITABLE: Final = frozenset({"name", "parentReference", "fileSystemInfo", "description", "id"})


def get_item(call: Call) -> Reply:
    item = call.item()
    known = call.request.headers.get("if-none-match")
    if known and not call.world.knobs.ignore_if_none_match and tags.names(known, call.drive, item):
        return Reply(304, headers={"ETag": tags.etag(call.drive, item)})
    past = item.past[-call.request.stale :] if call.request.stale else []
    reply = call.reply_item(200, past[0] if past else item)
    if "children" in call.query.get("expand", "") and item.is_folder:
        assert reply.payload is not None
        below = [call.shown(child) for child in call.drive.children(item)[:200]]
        return Reply.of(200, {**reply.payload, "children": below}, ETag=reply.headers["ETag"])
    return reply


def list_children(call: Call) -> Reply:
    """A page. The token is the last name given, so writers in between make gaps and doubles."""
    folder = call.item()
    if not folder.is_folder and folder.kind is not Kind.PACKAGE:
        raise bad_request("The item is not a folder.")
    call.refuse_hidden(folder)
    after = _skip_token(call.query.get("skiptoken"))
    order = call.query.get("orderby", "name")
    if order.split(" ")[0] not in ("name", "lastModifiedDateTime", "size", "url"):
        raise bad_request(f"The $orderby {order!r} is not supported.")
    items = [item for item in call.drive.children(folder) if not call.world.hides(item)]
    if order.endswith(" desc"):
        items.reverse()
    left = [item for item in items if after is None or _is_behind(call, item, after, order)]
    size = page_size(call)
    page = left[:size]
    values = [call.shown(item) for item in page]
    link = ""
    if len(left) > size:
        link = _next_link(call, page[-1])
    return call.reply_list(values, nextLink=link)


def make_folder(call: Call) -> Reply:
    parent = call.item()
    if not parent.is_folder:
        raise bad_request("The parent is not a folder.")
    call.refuse_hidden(parent)
    body = call.request.json()
    remote = object_in(body, "remoteItem")
    if object_in(body, "folder") is None and remote is None:
        raise bad_request("The property 'folder' or 'file' must be specified.")
    name = call.check_name(body.get("name"), parent, is_folder=True)
    behaviour = call.behaviour(body, "fail")
    there = call.drive.child(parent, name)
    if there is not None:
        if behaviour == "replace" and there.is_folder:
            return _made(call, 200, there)
        if behaviour != "rename":
            raise taken()
        name = call.drive.free_name(parent, name)
    times = times_in(body.get("fileSystemInfo"))
    return _made(call, 201, call.drive.add(parent, name, Kind.FOLDER, times=times))


def patch_item(call: Call) -> Reply:
    """Rename, move, set times. All of it or nothing."""
    item = call.item()
    body = call.request.json()
    _check_writable(call, body)
    if item.parent is None and ("name" in body or "parentReference" in body):
        raise GraphError(403, "accessDenied", "The root cannot be changed.")
    call.check_if_match(item)
    call.refuse_locked(item)
    drive = call.drive
    times = times_in(body.get("fileSystemInfo"))
    said = bool(object_in(body, "fileSystemInfo"))
    parent, name = _place_wanted(call, item, body)
    is_moved = parent is not None and (parent.id != item.parent or name != item.name)
    if is_moved:
        assert parent is not None
        _make_room(call, item, parent, name, body)
        drive.move(item, parent, name)
        if call.world.knobs.mtime_reset_on_move and not said:
            item.fs_modified = call.world.clock.now()
    if said:
        drive.set_times(item, times)
    if "description" in body:
        drive.describe(item, str(body["description"]))
    return call.reply_item(200, item)


def delete_item(call: Call) -> Reply:
    item = call.item()
    if item.parent is None:
        raise GraphError(403, "accessDenied", "The root cannot be deleted.")
    if call.world.knobs.delete_if_match_fails and "if-match" in call.request.headers:
        raise GraphError(412, "resourceModified", "ETag does not match current item's value")
    call.check_if_match(item)
    for one in call.drive.subtree(item):
        call.refuse_locked(one)
    call.drive.remove(item)
    return Reply(204)


def delete_for_good(call: Call) -> Reply:
    if call.drive.is_personal:
        raise GraphError(405, "notSupported", "Operation not supported")
    item = call.item()
    call.check_if_match(item)
    call.refuse_locked(item)
    call.drive.purge(item)
    return Reply(204)


def restore_item(call: Call) -> Reply:
    drive = call.drive
    if not drive.is_personal:
        raise not_supported("Operation not supported", 501)
    item = drive.items.get(call.route.item)
    if item is None or not item.deleted or not item.batch:
        raise not_found()
    body = call.request.json()
    parent = parent_in(call, object_in(body, "parentReference"))
    if parent is None:
        parent = drive.find(item.parent or "")
    if parent is None:
        raise not_found("The parent is gone.")
    is_folder = item.is_folder
    name = call.check_name(body.get("name", item.name), parent, is_folder=is_folder)
    if drive.child(parent, name) is not None:
        raise taken()
    drive.restore(item, parent, name)
    return call.reply_item(200, item)


def put_item(call: Call) -> Reply:
    """Only to finish an upload session whose name was taken."""
    body = call.request.json()
    if SOURCE_URL not in body:
        raise GraphError(405, "notAllowed", "Method not allowed")
    return commit_by_source(call, body)


def check_out(call: Call) -> Reply:
    item = call.item()
    call.refuse_locked(item)
    item.locked_by = "User"
    return Reply(204)


def check_in(call: Call) -> Reply:
    call.item().locked_by = ""
    return Reply(204)


def _made(call: Call, status: int, item: Item) -> Reply:
    if call.world.knobs.empty_mkdir_reply:
        return Reply(status)
    return call.reply_item(status, item)


def _check_writable(call: Call, body: Json) -> None:
    for name in body:
        if name.startswith("@") or name in _WRITABLE:
            continue
        if call.world.knobs.strict:
            raise bad_request(
                f"The property {name!r} cannot be updated.", inner="propertyNotUpdateable"
            )


def _place_wanted(call: Call, item: Item, body: Json) -> tuple[Item | None, str]:
    """Parent and name after the PATCH; None: the root stays where it is."""
    if item.parent is None:
        return None, item.name
    parent = parent_in(call, object_in(body, "parentReference"))
    if parent is None:
        parent = call.drive.items[item.parent]
    if not parent.is_folder:
        raise bad_request("The parent is not a folder.")
    if parent is item or item in call.drive.ancestors(parent):
        raise bad_request("An item cannot be moved below itself.")
    name = call.check_name(body.get("name", item.name), parent, is_folder=item.is_folder)
    return parent, name


def _make_room(call: Call, item: Item, parent: Item, name: str, body: Json) -> None:
    """Nothing is at the new place, or it goes to the recycle bin. Raises GraphError."""
    there = call.drive.child(parent, name)
    if there is None or there is item:
        return
    behaviour = call.behaviour(body, "fail")
    if behaviour != "replace" or not (there.is_file and item.is_file):
        raise taken()
    call.refuse_locked(there)
    call.drive.remove(there)


def _skip_token(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        value: Any = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError as exc:
        raise bad_request("Invalid paging token") from exc
    if not isinstance(value, str):
        raise bad_request("Invalid paging token")
    return value


def _is_behind(call: Call, item: Item, after: str, order: str) -> bool:
    key = call.drive.fold(item.name)
    return key < after if order.endswith(" desc") else key > after


def _next_link(call: Call, last: Item) -> str:
    key = json.dumps(call.drive.fold(last.name)).encode()
    token = base64.urlsafe_b64encode(key).decode().rstrip("=")
    parts = [p for p in call.request.raw_query.split("&") if p and "skiptoken" not in p]
    query = "&".join([*parts, f"$skiptoken={token}"])
    origin = call.world.urls.api.removesuffix("/v1.0")
    return f"{origin}{call.request.raw_path}?{query}"


TABLE: Final[Table] = {
    ("GET", "item"): get_item,
    ("PATCH", "item"): patch_item,
    ("DELETE", "item"): delete_item,
    ("PUT", "item"): put_item,
    ("GET", "children"): list_children,
    ("POST", "children"): make_folder,
    ("POST", "permanentDelete"): delete_for_good,
    ("POST", "restore"): restore_item,
    ("POST", "checkout"): check_out,
    ("POST", "checkin"): check_in,
}
