"""``OneDriveBackend``: the Backend contract on one directory of a drive.

Only routes: each kind of request has its own module. Importing it imports the SDK: in a
worker thread. Of attributes a drive keeps the time of change, to a second; mode, owner and
extended attributes stay on the machine that set them.
"""

from typing import Final

from csyncfs.backends.base import Capabilities, Landed, SaveResume, Source, Writing
from csyncfs.backends.onedrive import (
    changing,
    connecting,
    delta,
    fetching,
    looking,
    sessions,
    uploading,
)
from csyncfs.backends.onedrive.account import Account
from csyncfs.backends.onedrive.client import Ask
from csyncfs.backends.onedrive.credential import ThreadCredential
from csyncfs.backends.onedrive.options import DELETE_GUARD, MAX_SIZE_BYTES, OneDriveOptions
from csyncfs.backends.onedrive.spelling import MAX_PATH_CHARS
from csyncfs.backends.onedrive.translation import Json
from csyncfs.backends.onedrive.wire import Wire
from csyncfs.errors import Offline, Unsupported
from csyncfs.types import (
    ChangePage,
    Expect,
    Item,
    Kind,
    Location,
    Page,
    RemoteVersion,
    Space,
    Span,
)

_KINDS: Final = {"personal": "personal", "business": "business", "documentLibrary": "SharePoint"}


class OneDriveBackend:
    """One mounted ``onedrive://DRIVE/PREFIX``."""

    def __init__(
        self, options: OneDriveOptions, credential: ThreadCredential | None = None
    ) -> None:
        """``credential``: somebody else's than who signed in."""
        self._options = options
        self._credential = credential
        self._account = Account()
        self._wire: Wire | None = None
        self._older: Wire | None = None

    async def connect(self) -> Capabilities:
        wire = await connecting.reach(self._options, self._account, self._credential)
        before, self._wire = self._wire, wire
        self._credential = wire.client.credential
        if before is not None and before.drive.id == wire.drive.id:
            wire.inherit(before)
        # With the last one requests are under way perhaps.
        older, self._older = self._older, before
        if older is not None:
            await older.client.aclose()
        return capabilities(wire.options, wire.drive.kind)

    async def list_page(self, directory: Location, token: str | None) -> Page:
        return await looking.list_page(self._connected(), directory.key, token)

    async def changes(self, cursor: str | None) -> ChangePage:
        return await delta.changes(self._connected(), cursor)

    async def head(self, location: Location, kind: Kind, resume: str | None = None) -> Item:
        return await uploading.head(self._connected(), location.key, kind, resume)

    async def fetch(
        self, location: Location, span: Span, fd: int, expect: RemoteVersion, landed: Landed
    ) -> Item:
        return await fetching.fetch(self._connected(), location.key, span, fd, expect, landed)

    async def put(
        self,
        location: Location,
        source: Source,
        writing: Writing,
        expect: Expect,
        *,
        resume: str | None,
        save_resume: SaveResume,
    ) -> Item:
        return await uploading.put(
            self._connected(), location.key, source, writing, expect, resume, save_resume
        )

    async def abandon(self, resume: str) -> None:
        wire, state = self._connected(), sessions.state_of(resume)
        if state is not None and state.url:
            wire.sessions.pop(state.key, None)
            await sessions.cancel(wire, state.url)

    async def set_attributes(
        self, location: Location, kind: Kind, writing: Writing, expect: RemoteVersion
    ) -> Item:
        return await changing.set_time(self._connected(), location.key, kind, writing, expect)

    async def make_dir(self, location: Location, writing: Writing) -> Item:
        wire = self._connected()
        if not location.key:
            return await looking.head(wire, "", Kind.DIR)
        return await changing.make_dir(wire, location.key, writing)

    async def copy(
        self,
        source: Location,
        target: Location,
        writing: Writing,
        expect_source: RemoteVersion,
        expect_target: Expect,
    ) -> Item:
        raise Unsupported("OneDrive copies at some later time, and without conditions")

    async def move(
        self,
        source: Location,
        target: Location,
        kind: Kind,
        expect_source: RemoteVersion | None,
        expect_target: Expect,
    ) -> Item:
        order = changing.Move(source, target, kind, expect_source, expect_target)
        return await changing.move(self._connected(), order)

    async def delete(self, location: Location, kind: Kind, expect: RemoteVersion | None) -> None:
        wire = self._connected()
        if location.key:
            await changing.delete(wire, location.key, kind, expect)

    async def space(self) -> Space | None:
        wire = self._connected()
        builder = wire.client.graph.drives.by_drive_id(wire.drive.id)
        body = await wire.look("asking for the quota", Ask("GET", builder))
        quota: Json = body.get("quota") or {}
        total, left = int(quota.get("total") or 0), int(quota.get("remaining") or 0)
        # Libraries may tell nothing, or zeros.
        return Space(total, max(0, min(left, total))) if total > 0 else None

    async def aclose(self) -> None:
        wires, self._wire, self._older = (self._wire, self._older), None, None
        for wire in wires:
            if wire is not None:
                await sessions.cancel_left(wire)
                await wire.client.aclose()

    def _connected(self) -> Wire:
        if self._wire is None:
            raise Offline("not connected")
        return self._wire


def capabilities(options: OneDriveOptions, drive_kind: str) -> Capabilities:
    kind = _KINDS.get(drive_kind, drive_kind)
    return Capabilities(
        name=f"onedrive ({kind})",
        conditional_put=True,
        conditional_delete=True,
        server_copy=False,
        move_file=True,
        move_tree=True,
        real_dirs=True,
        keeps_attributes=False,
        # Counted in characters there; what is too long by that is refused when it is sent.
        max_key_bytes=MAX_PATH_CHARS * 3,
        max_size_bytes=MAX_SIZE_BYTES,
        whole_bytes=options.whole_bytes,
        keeps_mtime=True,
        overwrite_keeps_history=True,
        change_feed=True,
        delete_guard=DELETE_GUARD,
    )
