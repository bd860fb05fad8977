"""Items, drives and users as JSON, with what each flavour adds, omits and gets wrong."""

import base64
import json
import mimetypes
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from tests.support.graph.clock import NEVER
from tests.support.graph.drives import Drive, Item, Kind
from tests.support.graph.failures import Json
from tests.support.graph.knobs import Flavour
from tests.support.graph.tags import ctag, etag
from tests.support.graph.world import World

DOWNLOAD_URL: Final = "@microsoft.graph.downloadUrl"
_BOGUS_HASH: Final = "AAAAAAAAAAAAAAAAAAAAAAAAAAA="
_HOSTS: Final = {
    Flavour.PERSONAL: "https://onedrive.live.com",
    Flavour.BUSINESS: "https://contoso-my.sharepoint.com/personal/user/Documents",
    Flavour.SHAREPOINT: "https://contoso.sharepoint.com/sites/team/Shared%20Documents",
}


@dataclass(frozen=True, slots=True)
class View:
    """How much of an item is asked for."""

    select: Collection[str] | None = None
    is_delta: bool = False


PLAIN: Final = View()


def item_json(world: World, drive: Drive, item: Item, view: View = PLAIN) -> Json:
    """The item as it is in ``item``, which may be a state of the past."""
    is_personal = drive.is_personal
    name = item.name
    if view.is_delta and world.knobs.url_encoded_names:
        name = quote(name)
    body: Json = {
        "id": item.id,
        "name": name,
        "size": _size(world, drive, item, view),
        "eTag": etag(drive, item),
        "createdDateTime": world.stamp(item.created, drive, ms=True),
        "lastModifiedDateTime": world.stamp(item.modified, drive, ms=True),
        "webUrl": _HOSTS[drive.flavour] + "/" + quote(drive.path_of(item)),
        "createdBy": _who(item.made_by),
        "lastModifiedBy": _who(item.by),
        "parentReference": _parent(world, drive, item, view),
        "fileSystemInfo": {
            "createdDateTime": world.stamp(item.fs_created, drive, ms=True),
            "lastModifiedDateTime": world.stamp(item.fs_modified, drive, ms=True),
        },
    }
    tag = ctag(drive, item)
    if tag is not None and (is_personal or not view.is_delta):
        body["cTag"] = tag
    if item.description is not None:
        body["description"] = item.description
    body.update(_facets(world, drive, item, view))
    url = _download_url(world, drive, item, view)
    if url:
        body[DOWNLOAD_URL] = url
    return _selected(body, view)


def tombstone(world: World, drive: Drive, item: Item, view: View) -> Json:
    """What the change feed says of an item that is gone."""
    facet: Json = {}
    if item.is_file:
        facet = {"file": {"mimeType": _mime(item.name), "hashes": {"quickXorHash": _BOGUS_HASH}}}
    elif item.is_folder:
        facet = {"folder": {"childCount": 0}}
    body: Json = {"id": item.id, "deleted": {"state": "deleted"}, **facet}
    body["parentReference"] = _parent(world, drive, item, view)
    if drive.is_personal:
        body["name"] = item.name
        body["eTag"] = etag(drive, item)
        body["fileSystemInfo"] = {
            "createdDateTime": world.stamp(item.fs_created, drive),
            "lastModifiedDateTime": world.stamp(item.fs_modified, drive),
        }
    else:
        body.update(size=0, createdDateTime=NEVER, lastModifiedDateTime=NEVER)
    return body


def drive_json(world: World, drive: Drive) -> Json:
    body: Json = {
        "id": shown_drive_id(world, drive),
        "driveType": drive.flavour.drive_type,
        "name": drive.name,
        "webUrl": _HOSTS[drive.flavour],
        "createdDateTime": world.stamp(drive.root.created, drive),
        "lastModifiedDateTime": world.stamp(drive.root.modified, drive),
        "owner": _who("User"),
    }
    quota = _quota(world, drive)
    if quota is not None:
        body["quota"] = quota
    return body


def user_json() -> Json:
    return {
        "id": "48d31887-5fad-4d73-a9f5-3c356e68a038",
        "displayName": "User",
        "userPrincipalName": "user@contoso.example",
        "mail": "user@contoso.example",
    }


def site_json(world: World, path: str) -> Json:
    site_id = "contoso.sharepoint.com,2c712604-1370-44e7-a1f5-426573fda80a,2d2244c3-251a-49ea-93a8"
    return {
        "id": site_id,
        "name": path.rpartition("/")[2],
        "displayName": "Team",
        "webUrl": "https://contoso.sharepoint.com/" + path,
        "createdDateTime": world.stamp(world.drive.root.created),
        "siteCollection": {"hostname": "contoso.sharepoint.com"},
    }


def version_json(world: World, drive: Drive, number: int, size: int, when: float, by: str) -> Json:
    return {
        "id": f"{number}.0",
        "lastModifiedBy": _who(by),
        "lastModifiedDateTime": world.stamp(when, drive),
        "size": size,
    }


def shown_drive_id(world: World, drive: Drive) -> str:
    if not drive.is_personal:
        return drive.id
    match world.knobs.drive_id:
        case "drop_zero":
            return drive.id.lstrip("0")
        case "upper":
            return drive.id.upper()
        case _:
            return drive.id


def download_url(world: World, drive: Drive, item: Item, number: int = 0) -> str:
    """``number``: a version; 0: what the item is when it is asked for."""
    if world.knobs.pinned_downloads and not number:
        number = item.number
    fields = [drive.id, item.id, number, world.clock.now(), world.link_epoch]
    token = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
    return f"{world.urls.content}/dl/{token}?{download_query(world, token)}"


def download_query(world: World, token: str) -> str:
    """The only query that makes this token good."""
    return f"sv=1&tempauth={world.sign(token)}"


def _facets(world: World, drive: Drive, item: Item, view: View) -> Json:
    if item.parent is None:
        count = 0 if world.knobs.child_count_zero and view.is_delta else len(drive.children(item))
        return {"root": {}, "folder": {"childCount": count}}
    match item.kind:
        case Kind.FOLDER:
            empty = world.knobs.child_count_zero and view.is_delta
            facets: Json = {"folder": {"childCount": 0 if empty else len(drive.children(item))}}
            return {**facets, "specialFolder": {"name": item.special}} if item.special else facets
        case Kind.PACKAGE:
            return {"package": {"type": "oneNote"}}
        case Kind.REMOTE:
            return {"remoteItem": _remote(world, item)}
        case Kind.FILE:
            return _file_facets(world, drive, item, view)


def _file_facets(world: World, drive: Drive, item: Item, view: View) -> Json:
    facet: Json = {"mimeType": _mime(item.name)}
    if len(item.blob) or (world.knobs.zero_byte_hash and (drive.is_personal or not view.is_delta)):
        hashes: Json = {"quickXorHash": item.blob.quick_xor}
        if drive.is_personal and world.knobs.old_hashes:
            hashes.update(sha1Hash=item.blob.sha1, sha256Hash=item.blob.sha256.upper())
        facet["hashes"] = hashes
    facets: Json = {"file": facet}
    if item.malware:
        facets["malware"] = {"description": item.malware}
    return facets


def _remote(world: World, item: Item) -> Json:
    assert item.target is not None
    there = world.drives[item.target.drive_id]
    target = there.get(item.target.item_id)
    return {
        "id": target.id,
        "name": target.name,
        "size": there.size_of(target),
        "folder": {"childCount": len(there.children(target))},
        "parentReference": {"driveId": there.id, "driveType": there.flavour.drive_type},
        "fileSystemInfo": {
            "createdDateTime": world.stamp(target.fs_created, there),
            "lastModifiedDateTime": world.stamp(target.fs_modified, there),
        },
    }


def _parent(world: World, drive: Drive, item: Item, view: View) -> Json:
    reference: Json = {
        "driveType": drive.flavour.drive_type,
        "driveId": shown_drive_id(world, drive),
    }
    if item.parent is None:
        return reference
    reference["id"] = item.parent
    parent = drive.items[item.parent]
    if parent.parent is not None:
        reference["name"] = parent.name
    shown = world.knobs.delta_path if view.is_delta else "encoded"
    if shown == "none" or item.deleted:
        return reference
    path = drive.path_of(parent)
    path = quote(path) if shown == "encoded" else path
    reference["path"] = f"/drives/{drive.id}/root:" + (f"/{path}" if path else "")
    return reference


def _size(world: World, drive: Drive, item: Item, view: View) -> int:
    if not item.is_folder:
        return len(item.blob)
    size = drive.size_of(drive.items[item.id])
    return -size - 1 if view.is_delta and world.knobs.negative_folder_size else size


def _download_url(world: World, drive: Drive, item: Item, view: View) -> str:
    if not item.is_file or item.malware:
        return ""
    if not len(item.blob) and not world.knobs.zero_byte_download_url:
        return ""
    if view.select is None and view.is_delta and not drive.is_personal:
        return ""
    wanted = ("@microsoft.graph.downloadUrl", "content.downloadUrl")
    if view.select is not None and not any(name in view.select for name in wanted):
        return ""
    return download_url(world, drive, item)


def _selected(body: Json, view: View) -> Json:
    if view.select is None:
        return body
    wanted = {*view.select, DOWNLOAD_URL}
    return {name: value for name, value in body.items() if name in wanted}


def _quota(world: World, drive: Drive) -> Json | None:
    match world.knobs.quota_view:
        case "missing":
            return None
        case "zeros":
            return {"total": 0, "used": 0, "remaining": 0, "deleted": 0, "state": "normal"}
        case _:
            pass
    total, left = drive.quota_total, max(0, drive.remaining)
    state = "normal"
    if left == 0:
        state = "exceeded"
    elif left < total // 100:
        state = "critical"
    elif left < total // 10:
        state = "nearing"
    return {
        "total": total,
        "used": drive.used,
        "remaining": left,
        "deleted": drive.deleted_bytes,
        "state": state,
    }


def _who(name: str) -> Json:
    return {"user": {"id": f"id-of-{name.lower()}", "displayName": name}}


def _mime(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
