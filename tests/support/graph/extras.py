"""Copies, versions, search, drives, users, sites, subscriptions."""

import http.client
from typing import Final
from urllib.parse import quote, urlsplit

from tests.support.graph import shapes
from tests.support.graph.call import Call, Table, object_in, parent_in
from tests.support.graph.content import version_number
from tests.support.graph.drives import Drive, Item
from tests.support.graph.failures import (
    GraphError,
    Json,
    bad_request,
    not_found,
    not_supported,
    taken,
)
from tests.support.graph.messages import Reply, Request
from tests.support.graph.world import Operation, World

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


# ---- copies -----------------------------------------------------------------------------


def copy_item(call: Call) -> Reply:
    item, world, drive = call.item(), call.world, call.drive
    body = call.request.json()
    reference = object_in(body, "parentReference") or {}
    parent = parent_in(call, reference) if reference else drive.find(item.parent or "")
    if parent is None:
        raise bad_request("The destination must be named.")
    if not parent.is_folder or world.hides(parent):
        raise not_found("Failed to verify the existence of destination location")
    if drive.is_personal and call.request.query.get("@microsoft.graph.conflictBehavior"):
        raise not_supported("conflictBehavior is not supported.")
    name = call.check_name(body.get("name", item.name), parent, is_folder=item.is_folder)
    behaviour = call.behaviour({}, "fail")
    clash = drive.child(parent, name) is not None and behaviour == "fail"
    if clash and not world.knobs.copy_clash_in_monitor:
        raise taken()
    call.refuse_full(drive.size_of(item))
    now = world.clock.now()
    operation = Operation(world.new_id(), now, now + world.knobs.copy_s)
    world.operations[operation.id] = operation
    world.later(
        world.knobs.copy_s, lambda: _finish_copy(drive, operation, item, parent, name, behaviour)
    )
    return Reply(202, headers={"Location": f"{world.urls.content}/monitor/{operation.id}"})


def monitor(world: World, request: Request) -> Reply:
    operation = world.operations.get(request.raw_path.removeprefix("/monitor/"))
    if operation is None:
        raise not_found()
    if operation.error:
        body: Json = {"operation": "itemCopy", "status": "failed", "percentageComplete": 0.0}
        body |= {"errorCode": operation.error, "statusDescription": operation.message}
        return Reply.of(200, body)
    if not operation.result:
        done = (world.clock.now() - operation.started) / max(
            operation.ends - operation.started, 1e-9
        )
        body = {"operation": "itemCopy", "status": "inProgress"}
        body["percentageComplete"] = round(min(done, 0.99) * 100, 1)
        return Reply.of(202, body)
    body = {"operation": "itemCopy", "status": "completed", "percentageComplete": 100.0}
    reply = Reply.of(200, {**body, "resourceId": operation.result})
    if world.knobs.monitor_303:
        reply.status = 303
        reply.headers["Location"] = (
            f"{world.urls.api}/drives/{quote(world.drive.id)}/items/{quote(operation.result)}"
        )
    return reply


def _finish_copy(
    drive: Drive, operation: Operation, item: Item, parent: Item, name: str, behaviour: str
) -> None:
    if item.deleted or parent.deleted:
        operation.error, operation.message = "itemNotFound", "The source or destination is gone."
        return
    there = drive.child(parent, name)
    if there is not None and behaviour == "rename":
        name, there = drive.free_name(parent, name), None
    if there is not None and behaviour == "replace" and there.is_file and item.is_file:
        drive.put(there, item.blob)
        operation.result = there.id
        return
    if there is not None:
        operation.error, operation.message = "nameAlreadyExists", "Name already exists"
        return
    operation.result = _copied(drive, item, parent, name).id


def _copied(drive: Drive, item: Item, parent: Item, name: str) -> Item:
    below = drive.children(item)
    made = drive.add(parent, name, item.kind, blob=item.blob)
    made.fs_created, made.fs_modified = item.fs_created, item.fs_modified
    for child in below:
        _copied(drive, child, made, child.name)
    return made


# ---- versions ---------------------------------------------------------------------------


def list_versions(call: Call) -> Reply:
    item = call.item()
    if not item.is_file:
        raise bad_request("The item has no versions.")
    world, drive = call.world, call.drive
    size = len(item.blob)
    shown = [shapes.version_json(world, drive, item.number, size, item.modified, item.by)]
    for version in item.versions:
        values = (version.number, len(version.blob), version.modified, version.by)
        shown.append(shapes.version_json(world, drive, *values))
    return call.reply_list(shown)


def get_version(call: Call) -> Reply:
    reply = list_versions(call)
    number = f"{version_number(call)}.0"
    assert reply.payload is not None
    found: list[Json] = [v for v in reply.payload["value"] if v["id"] == number]
    if not found:
        raise not_found()
    return Reply.of(200, found[0])


def restore_version(call: Call) -> Reply:
    item = call.item()
    call.refuse_locked(item)
    call.drive.restore_version(item, version_number(call))
    return Reply(204)


# ---- search -----------------------------------------------------------------------------


def search(call: Call) -> Reply:
    drive, top = call.drive, call.item()
    word = call.route.arguments["q"].lower()
    newest = call.world.clock.now() - call.world.knobs.search_lag_s
    found = [
        call.shown(item)
        for item in drive.subtree(top)
        if item is not top and word in item.name.lower() and item.created <= newest
    ]
    return call.reply_list(found)


# ---- drives, users, sites ---------------------------------------------------------------


def get_drive(call: Call) -> Reply:
    if call.route.drive.startswith("phantom"):
        raise bad_request("ObjectHandle is Invalid")
    body = shapes.drive_json(call.world, call.drive)
    return Reply.of(200, {"@odata.context": call.world.urls.api + "/$metadata#drives", **body})


def list_drives(call: Call) -> Reply:
    world = call.world
    in_site = call.route.drive.startswith("sites/")
    drives = [drive for drive in world.drives.values() if bool(drive.site) == in_site]
    shown = [shapes.drive_json(world, drive) for drive in drives]
    if world.knobs.phantom_drives and not in_site:
        shown.insert(0, {**shown[0], "id": "phantom0", "name": "PersonalCacheLibrary"})
    return call.reply_list(shown)


def get_user(call: Call) -> Reply:
    return Reply.of(200, {"@odata.context": call.world.urls.api, **shapes.user_json()})


def get_site(call: Call) -> Reply:
    path = call.route.arguments.get("path", "sites/team").strip("/")
    if not any(drive.site == path for drive in call.world.drives.values()):
        raise not_found("Requested site could not be found")
    return Reply.of(200, shapes.site_json(call.world, path))


def list_sites(call: Call) -> Reply:
    word = call.request.query.get("search", "").lower().strip("*")
    sites = {drive.site for drive in call.world.drives.values() if word in drive.site.lower()}
    return call.reply_list([shapes.site_json(call.world, site) for site in sorted(sites) if site])


# ---- notifications ----------------------------------------------------------------------


def socket_io(call: Call) -> Reply:
    world = call.world
    url = f"{world.urls.content}/notify?token={world.sign(world.new_id())}"
    when = world.stamp(world.clock.now() + 3600)
    shown = {"id": world.new_id(), "notificationUrl": url, "expirationDateTime": when}
    return Reply.of(200, {"@odata.context": world.urls.api, **shown})


def make_subscription(call: Call) -> Reply:
    """Asks the URL first whether it wants to be told."""
    body = call.request.json()
    if body.get("changeType") != "updated" or not body.get("expirationDateTime"):
        raise bad_request("Only 'updated' is supported for a drive's root.")
    _shake_hands(str(body.get("notificationUrl")), call.world.new_id())
    kept = ("changeType", "notificationUrl", "resource", "expirationDateTime", "clientState")
    shown: Json = {name: body[name] for name in kept if name in body}
    shown["id"] = call.world.new_id()
    call.world.subscriptions[shown["id"]] = shown
    return Reply.of(201, {"@odata.context": call.world.urls.api, **shown})


def list_subscriptions(call: Call) -> Reply:
    return call.reply_list(list(call.world.subscriptions.values()))


def get_subscription(call: Call) -> Reply:
    return Reply.of(200, _subscription(call))


def patch_subscription(call: Call) -> Reply:
    shown = _subscription(call)
    body = call.request.json()
    shown.update({k: v for k, v in body.items() if k == "expirationDateTime"})
    return Reply.of(200, shown)


def delete_subscription(call: Call) -> Reply:
    del call.world.subscriptions[_subscription(call)["id"]]
    return Reply(204)


def _subscription(call: Call) -> Json:
    found = call.world.subscriptions.get(call.route.arguments["subscription"])
    if found is None:
        raise not_found()
    return found


def _shake_hands(url: str, token: str) -> None:
    """Raises GraphError unless the URL echoes the token."""
    where = urlsplit(url)
    refusal = GraphError(400, "InvalidRequest", "Subscription validation request failed.")
    if where.hostname not in _LOOPBACK:
        raise refusal
    connection = http.client.HTTPConnection(where.hostname, where.port or 80, timeout=5)
    try:
        connection.request("POST", f"{where.path or '/'}?validationToken={quote(token)}")
        reply = connection.getresponse()
        text = reply.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        raise refusal from exc
    finally:
        connection.close()
    if reply.status != 200 or text != token:
        raise refusal


TABLE: Final[Table] = {
    ("POST", "copy"): copy_item,
    ("GET", "versions"): list_versions,
    ("GET", "version"): get_version,
    ("POST", "restoreVersion"): restore_version,
    ("GET", "search"): search,
    ("GET", "drive"): get_drive,
    ("GET", "drives"): list_drives,
    ("GET", "user"): get_user,
    ("GET", "site"): get_site,
    ("GET", "sites"): list_sites,
    ("GET", "socketIo"): socket_io,
    ("POST", "subscriptions"): make_subscription,
    ("GET", "subscriptions"): list_subscriptions,
    ("GET", "subscription"): get_subscription,
    ("PATCH", "subscription"): patch_subscription,
    ("DELETE", "subscription"): delete_subscription,
}
