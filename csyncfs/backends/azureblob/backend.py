"""``AzureBackend``: the Backend contract on one prefix of a container.

Only routes: each kind of request has its own module. The SDK is imported by ``connect``, in a
worker thread.
"""

from typing import Final

import trio

from csyncfs.backends.azureblob import (
    blocks,
    connecting,
    copying,
    directories,
    fetching,
    looking,
    uploading,
)
from csyncfs.backends.azureblob.commit import Commits
from csyncfs.backends.azureblob.options import MAX_SIZE_BYTES, AzureOptions
from csyncfs.backends.azureblob.wire import Wire
from csyncfs.backends.base import Capabilities, Landed, SaveResume, Source, Writing
from csyncfs.backends.failures import Unmet, may_have_happened
from csyncfs.errors import (
    Ambiguous,
    NotFound,
    Offline,
    Retry,
    Unsupported,
    VersionMismatch,
)
from csyncfs.types import ABSENT, Expect, Item, Kind, Location, Page, RemoteVersion, Space, Span

MAX_NAME_BYTES: Final = 255


class AzureBackend:
    """One mounted ``az://account/container/prefix``."""

    def __init__(self, options: AzureOptions) -> None:
        self._options = options
        self._wire: Wire | None = None
        self._older: Wire | None = None

    async def connect(self) -> Capabilities:
        wire = await connecting.reach(self._options)
        before, self._wire = self._wire, wire
        # With the last one requests are under way perhaps.
        older, self._older = self._older, before
        if older is not None:
            await trio.to_thread.run_sync(older.clients.close)
        return capabilities(self._options, is_hierarchical=wire.is_hierarchical)

    async def list_page(self, directory: Location, token: str | None) -> Page:
        wire = self._connected()
        page = await looking.list_page(wire, directory.key, token)
        if wire.is_hierarchical and token is None and not page.items and directory.key:
            await looking.head_dir(wire, directory.key)
        return page

    async def head(self, location: Location, kind: Kind, resume: str | None = None) -> Item:
        return await self._head(location.key, kind)

    async def fetch(
        self, location: Location, span: Span, fd: int, expect: RemoteVersion, landed: Landed
    ) -> Item:
        wire = self._connected()
        if span.size_bytes > 0:
            try:
                return await fetching.fetch(wire, location.key, span, fd, expect, landed)
            except Unmet as exc:
                # Said of what is gone, too.
                current = await self._head(location.key, Kind.FILE)
                raise VersionMismatch("somebody else changed the item", current) from exc
        # A range of nothing cannot be asked for.
        item = await self._head(location.key, Kind.FILE)
        if item.version is None or item.version.tag != expect.tag:
            raise VersionMismatch("somebody else changed the item", item)
        return item

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
        wire, commits, key = self._connected(), self._commits(), location.key
        if expect is ABSENT:
            await self._require_parent(key)
        if source.size > self._options.block_threshold_bytes:
            return await blocks.put_large(
                wire, commits, key, source, writing, expect, resume, save_resume
            )
        return await uploading.put_small(wire, commits, key, source, writing, expect)

    async def abandon(self, resume: str) -> None:
        # Azure drops blocks that nobody commits, by itself and only so.
        self._connected()

    async def set_attributes(
        self, location: Location, kind: Kind, writing: Writing, expect: RemoteVersion
    ) -> Item:
        return await uploading.set_attributes(
            self._connected(), self._commits(), location.key, kind, writing, expect
        )

    async def make_dir(self, location: Location, writing: Writing) -> Item:
        wire = self._connected()
        if not self._options.base + location.key:
            return Item(location, Kind.DIR, None)
        await self._require_parent(location.key)
        return await directories.make(wire, self._commits(), location.key, writing)

    async def copy(
        self,
        source: Location,
        target: Location,
        writing: Writing,
        expect_source: RemoteVersion,
        expect_target: Expect,
    ) -> Item:
        await self._require_parent(target.key)
        order = copying.Copy(source.key, target.key, writing, expect_source, expect_target)
        return await copying.copy(self._connected(), self._commits(), order)

    async def move(
        self,
        source: Location,
        target: Location,
        kind: Kind,
        expect_source: RemoteVersion | None,
        expect_target: Expect,
    ) -> Item:
        wire = self._connected()
        if not wire.is_hierarchical:
            raise Unsupported("this account has no rename: its namespace is flat")
        from csyncfs.backends.azureblob import hierarchy

        names = self._options.blob_name(source.key), self._options.blob_name(target.key)
        before = await self._expected_source(source.key, kind, expect_source)
        try:
            await wire.change(
                "renaming",
                lambda: hierarchy.rename(wire, *names, before, expect_target),
            )
        except Unmet as exc:
            found = await self._commits().current(target.key, kind)
            if found is None:
                raise VersionMismatch("somebody else changed the source") from exc
            raise VersionMismatch("somebody else changed the item", found) from exc
        except Retry as exc:
            if may_have_happened(exc):
                raise Ambiguous("the reply to a rename was lost") from exc
            raise
        return await looking.head(wire, target.key, kind)

    async def delete(self, location: Location, kind: Kind, expect: RemoteVersion | None) -> None:
        wire = self._connected()
        if not self._options.base + location.key:
            return
        try:
            if kind is Kind.DIR:
                await directories.delete(wire, location.key, expect)
            else:
                name = self._options.blob_name(location.key)
                await directories.delete_blob(wire, name, expect)
        except NotFound:
            return
        except Unmet as exc:
            if expect is None:
                raise
            if await self._is_still(location.key, kind, expect):
                raise VersionMismatch("refused, although the item is as expected") from exc

    async def space(self) -> Space | None:
        return None

    async def aclose(self) -> None:
        wires, self._wire, self._older = (self._wire, self._older), None, None
        for wire in wires:
            if wire is not None:
                await trio.to_thread.run_sync(wire.clients.close)

    async def _is_still(self, key: str, kind: Kind, expect: RemoteVersion) -> bool:
        """False if the item is gone. Raises VersionMismatch if it is another version."""
        current = await self._commits().current(key, kind)
        if current is None or current.version is None:
            return False
        if current.version.tag != expect.tag:
            # An ETag that nothing bears out counts when it is told twice.
            again = await self._commits().current(key, kind)
            if again is None or again.version != current.version:
                raise Retry("the store tells two versions of one item")
            raise VersionMismatch("somebody else changed the item", current)
        return True

    async def _expected_source(
        self, key: str, kind: Kind, expect: RemoteVersion | None
    ) -> RemoteVersion | None:
        """What the rename names as its source's version. Raises NotFound, VersionMismatch."""
        found = await looking.head(self._connected(), key, kind)
        tag = found.version.tag if found.version is not None else ""
        if expect is not None and tag != expect.tag:
            raise VersionMismatch("somebody else changed the source")
        return expect

    async def _require_parent(self, key: str) -> None:
        """Real directories come up by themselves with their children; then they had no mode.
        Raises NotFound."""
        wire = self._connected()
        parent = key.removesuffix("/").rpartition("/")[0]
        if wire.is_hierarchical and parent:
            await looking.head_dir(wire, f"{parent}/")

    def _commits(self) -> Commits:
        return Commits(self._head)

    async def _head(self, key: str, kind: Kind) -> Item:
        return await looking.head(self._connected(), key, kind)

    def _connected(self) -> Wire:
        if self._wire is None:
            raise Offline("not connected")
        return self._wire


def capabilities(options: AzureOptions, *, is_hierarchical: bool) -> Capabilities:
    return Capabilities(
        name=f"azureblob ({'hierarchical' if is_hierarchical else 'flat'} namespace)",
        conditional_put=True,
        conditional_delete=True,
        server_copy=True,
        move_file=is_hierarchical,
        move_tree=is_hierarchical,
        real_dirs=is_hierarchical,
        keeps_attributes=True,
        # Longer ones are kept under shorter ones.
        max_key_bytes=0,
        max_name_bytes=MAX_NAME_BYTES,
        max_size_bytes=MAX_SIZE_BYTES,
        whole_bytes=options.whole_bytes,
    )
