"""``GcsBackend``: the Backend contract on one prefix of a bucket.

Only routes: each kind of request has its own module. The SDK is imported by ``connect``, in a
worker thread.
"""

from typing import Final

import trio

from csyncfs.backends.base import Capabilities, Landed, SaveResume, Source, Writing
from csyncfs.backends.failures import Unmet
from csyncfs.backends.gcs import (
    connecting,
    copying,
    directories,
    fetching,
    looking,
    resumable,
    uploading,
)
from csyncfs.backends.gcs.commit import Commits
from csyncfs.backends.gcs.options import MAX_SIZE_BYTES, GcsOptions
from csyncfs.backends.gcs.wire import Wire
from csyncfs.errors import NotFound, Offline, Unrepresentable, Unsupported, VersionMismatch
from csyncfs.types import Expect, Item, Kind, Location, Page, RemoteVersion, Space, Span

FLAT_ONLY: Final = (
    "the bucket has a hierarchical namespace, which is used as a flat one: folders that other"
    " programs make do not show while they are empty, and renaming a directory copies it"
)


class GcsBackend:
    """One mounted ``gs://bucket/prefix``."""

    def __init__(self, options: GcsOptions) -> None:
        self._options = options
        self._wire: Wire | None = None
        self._older: Wire | None = None

    async def connect(self) -> Capabilities:
        reached = await connecting.reach(self._options)
        before, self._wire = self._wire, reached.wire
        # With the last one requests are under way perhaps.
        older, self._older = self._older, before
        if older is not None:
            await trio.to_thread.run_sync(older.client.close)
        return capabilities(self._options, is_hierarchical=reached.is_hierarchical)

    async def list_page(self, directory: Location, token: str | None) -> Page:
        return await looking.list_page(self._connected(), directory.key, token)

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
        if source.size > MAX_SIZE_BYTES:
            raise Unrepresentable("too large for an object: over 5 TiB")
        if source.size > self._options.single_bytes:
            return await resumable.put_large(
                wire, commits, key, source, writing, expect, resume, save_resume
            )
        return await uploading.put_small(wire, commits, key, source, writing, expect)

    async def abandon(self, resume: str) -> None:
        state = resumable.load_state(resume)
        if state is not None and state.session:
            await resumable.cancel(self._connected(), state)

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
        return await directories.make(wire, self._commits(), location.key, writing)

    async def copy(
        self,
        source: Location,
        target: Location,
        writing: Writing,
        expect_source: RemoteVersion,
        expect_target: Expect,
    ) -> Item:
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
        raise Unsupported("buckets are used flat: they have no rename")

    async def delete(self, location: Location, kind: Kind, expect: RemoteVersion | None) -> None:
        wire = self._connected()
        if not self._options.base + location.key:
            return
        try:
            if kind is Kind.DIR:
                await directories.delete(wire, location.key, expect)
            else:
                await directories.delete_file(wire, location.key, expect)
        except NotFound:
            return
        except Unmet as exc:
            current = await self._commits().current(location.key, kind)
            if current is not None and current.version is not None:
                raise VersionMismatch("somebody else changed the item", current) from exc

    async def space(self) -> Space | None:
        return None

    async def aclose(self) -> None:
        wires, self._wire, self._older = (self._wire, self._older), None, None
        for wire in wires:
            if wire is not None:
                await trio.to_thread.run_sync(wire.client.close)

    def _commits(self) -> Commits:
        return Commits(self._head)

    async def _head(self, key: str, kind: Kind) -> Item:
        return await looking.head(self._connected(), key, kind)

    def _connected(self) -> Wire:
        if self._wire is None:
            raise Offline("not connected")
        return self._wire


def capabilities(options: GcsOptions, *, is_hierarchical: bool) -> Capabilities:
    return Capabilities(
        name=f"gcs ({'hierarchical' if is_hierarchical else 'flat'} namespace)",
        conditional_put=True,
        conditional_delete=True,
        server_copy=True,
        move_file=False,
        move_tree=False,
        real_dirs=False,
        keeps_attributes=True,
        # Longer ones are kept under shorter ones.
        max_key_bytes=0,
        max_size_bytes=MAX_SIZE_BYTES,
        whole_bytes=options.whole_bytes,
        warnings=(FLAT_ONLY,) if is_hierarchical else (),
    )
