"""Reach the drive: who signs in, which drive is meant, where in it the mount begins."""

from typing import Final
from urllib.parse import quote

import trio

from csyncfs.backends.onedrive import signin
from csyncfs.backends.onedrive.account import Account
from csyncfs.backends.onedrive.client import Ask, Client
from csyncfs.backends.onedrive.credential import Source, ThreadCredential
from csyncfs.backends.onedrive.options import OneDriveOptions
from csyncfs.backends.onedrive.translation import Json, SignedOut
from csyncfs.backends.onedrive.wire import Drive, Wire
from csyncfs.errors import AccessDenied, Hold, NoSuchStore, NotFound

_NOWHERE: Final = Drive("", "", 0, "")
_PERSONAL_CHARS: Final = 16


async def reach(
    options: OneDriveOptions, account: Account, credential: ThreadCredential | None
) -> Wire:
    """A drive that exists and lets us in. Raises NoSuchStore, AccessDenied, Offline.

    ``credential``: of the last connection.
    """
    if credential is None:
        credential = _credential(options)
    wire = Wire(options, Client(options, credential), account, _NOWHERE)
    try:
        drive = await _drive(wire)
    except SignedOut as exc:
        await wire.client.aclose()
        # A mount that never was let in is a mistake of the user's, and told at once.
        raise AccessDenied(str(exc)) from exc
    except BaseException:
        with trio.CancelScope(shield=True):
            await wire.client.aclose()
        raise
    return Wire(options, wire.client, account, drive)


def _credential(options: OneDriveOptions) -> ThreadCredential:
    def find() -> Source:
        return signin.find(options.login_dir, signin.resource_of(options.api_url))

    return ThreadCredential(find, (f"{signin.resource_of(options.api_url)}/.default",))


async def _drive(wire: Wire) -> Drive:
    try:
        body = await _chosen(wire)
    except NotFound as exc:
        raise NoSuchStore("the drive or site does not exist") from exc
    except Hold as exc:
        if "HTTP 400" in str(exc):
            raise NoSuchStore("the drive does not exist, or its id is wrong") from exc
        raise
    drive_id, kind = normal_id(str(body["id"])), str(body.get("driveType") or "")
    drive = Drive(drive_id, "root", 0, kind)
    prefix = wire.options.prefix.strip("/")
    where = f"root:/{prefix}:" if prefix else "root"
    builder = wire.client.graph.drives.by_drive_id(drive.id).items.by_drive_item_id(where)
    try:
        base = await wire.look("looking", Ask("GET", builder))
    except NotFound as exc:
        raise NoSuchStore(f"there is no directory '{prefix}' in the drive") from exc
    if "folder" not in base:
        raise NoSuchStore(f"'{prefix}' in the drive is no directory")
    return Drive(drive.id, str(base["id"]), len(prefix) + 1 if prefix else 0, kind)


async def _chosen(wire: Wire) -> Json:
    """The drive that the spec means. Raises NotFound."""
    graph = wire.client.graph
    sort, _, rest = wire.options.drive.partition("/")
    if sort == "me":
        return await wire.look("looking", Ask("GET", graph.me.drive))
    if sort == "drive":
        return await wire.look("looking", Ask("GET", graph.drives.by_drive_id(rest)))
    place, _, library = rest.partition(":")
    host, _, path = place.partition("/")
    where = f"{quote(host)}:/{quote(path)}" if path else quote(host)
    site = await wire.look("looking", Ask("GET", f"{wire.options.api_url}/sites/{where}"))
    builder = graph.sites.by_site_id(str(site["id"]))
    if not library:
        return await wire.look("looking", Ask("GET", builder.drive))
    link: object = Ask("GET", builder.drives)
    while isinstance(link, Ask):
        page = await wire.look("looking", link)
        for body in page.get("value") or ():
            if str(body.get("name")) == library:
                return body
        more = page.get("@odata.nextLink")
        link = None if more is None else Ask("GET", str(more))
    raise NotFound("the site has no such library")


def normal_id(drive_id: str) -> str:
    """Ids of personal drives lose zeros and change case on their way."""
    if len(drive_id) <= _PERSONAL_CHARS and drive_id.isalnum():
        return drive_id.lower().zfill(_PERSONAL_CHARS)
    return drive_id
