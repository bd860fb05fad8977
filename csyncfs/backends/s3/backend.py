"""``S3Backend``: the Backend contract on one bucket prefix.

Only routes: each kind of request has its own module. boto3 is imported by ``connect``, in
a worker thread.
"""

import logging
from typing import Final

import trio

from csyncfs.backends.base import Capabilities, Landed, SaveResume, Source, Writing
from csyncfs.backends.failures import Unmet
from csyncfs.backends.s3 import (
    connecting,
    copying,
    directories,
    fetching,
    listing,
    multipart,
    uploading,
)
from csyncfs.backends.s3.commit import Commits
from csyncfs.backends.s3.dialect import Support, Verdict
from csyncfs.backends.s3.options import MARKER_NAME, S3Options
from csyncfs.backends.s3.wire import Wire
from csyncfs.errors import (
    NotFound,
    Offline,
    Retry,
    Unrepresentable,
    Unsupported,
    VersionMismatch,
)
from csyncfs.types import Expect, Item, Kind, Location, Page, RemoteVersion, Space, Span

log = logging.getLogger(__name__)

MAX_SIZE_BYTES: Final = 5 << 40


class S3Backend:
    """One mounted ``s3://bucket/prefix``."""

    def __init__(self, options: S3Options, cached_verdict: Verdict | None = None) -> None:
        self._options = options
        self._verdict = cached_verdict
        self._wire: Wire | None = None
        self._older: Wire | None = None

    @property
    def verdict(self) -> Verdict | None:
        """What ``connect`` found out about the server; worth keeping for the next process."""
        return self._verdict

    async def connect(self) -> Capabilities:
        wire = await connecting.reach(self._options)
        verdict = self._verdict
        if verdict is None or not verdict.probed:
            verdict = self._verdict = await connecting.find_verdict(wire)
        before, self._wire = self._wire, wire
        # With the last one requests are under way perhaps.
        older, self._older = self._older, before
        if older is not None:
            await trio.to_thread.run_sync(older.clients.close)
        return capabilities(verdict, self._options)

    async def list_page(self, directory: Location, token: str | None) -> Page:
        wire, verdict = self._connected()
        return await listing.list_page(wire, directory.key, token, md5_tags=verdict.md5_tags)

    async def head(self, location: Location, kind: Kind, resume: str | None = None) -> Item:
        return await self._head(location.key, kind)

    async def fetch(
        self, location: Location, span: Span, fd: int, expect: RemoteVersion, landed: Landed
    ) -> Item:
        wire, verdict = self._connected()
        if span.size_bytes > 0:
            return await fetching.fetch(
                wire, location.key, span, fd, expect, landed, md5_tags=verdict.md5_tags
            )
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
        wire, verdict = self._connected()
        self._require_own_key(location.key)
        commits = Commits(verdict, self._head)
        key = location.key
        if source.size > self._options.multipart_threshold_bytes:
            return await multipart.put_large(
                wire, commits, key, source, writing, expect, resume, save_resume
            )
        if resume is not None:
            await self.abandon(resume)
        return await uploading.put_small(wire, commits, key, source, writing, expect)

    async def abandon(self, resume: str) -> None:
        wire, _ = self._connected()
        state = multipart.load_state(resume)
        if state is not None:
            await multipart.abort(wire, state.key, state.upload_id)

    async def set_attributes(
        self, location: Location, kind: Kind, writing: Writing, expect: RemoteVersion
    ) -> Item:
        wire, verdict = self._connected()
        key = location.key
        if kind is Kind.DIR and not expect.size:
            return await directories.put_marker(wire, verdict, key, writing, expect)
        order = copying.Copy(key, key, kind, writing, expect, expect)
        return await copying.copy(wire, Commits(verdict, self._head), order)

    async def make_dir(self, location: Location, writing: Writing) -> Item:
        wire, verdict = self._connected()
        if not self._options.base + location.key:
            return Item(location, Kind.DIR, None)
        self._require_own_key(location.key)
        return await directories.make(wire, verdict, location.key, writing)

    async def copy(
        self,
        source: Location,
        target: Location,
        writing: Writing,
        expect_source: RemoteVersion,
        expect_target: Expect,
    ) -> Item:
        wire, verdict = self._connected()
        self._require_own_key(target.key)
        order = copying.Copy(
            source.key, target.key, Kind.FILE, writing, expect_source, expect_target
        )
        return await copying.copy(wire, Commits(verdict, self._head), order)

    async def move(
        self,
        source: Location,
        target: Location,
        kind: Kind,
        expect_source: RemoteVersion | None,
        expect_target: Expect,
    ) -> Item:
        raise Unsupported("S3 has no rename")

    async def delete(self, location: Location, kind: Kind, expect: RemoteVersion | None) -> None:
        _, verdict = self._connected()
        if not self._options.base + location.key:
            return
        condition: dict[str, str] = {}
        if expect is not None:
            if verdict.delete_if_match is Support.YES:
                condition = {"IfMatch": f'"{expect.tag}"'}
            elif not await self._is_still(location.key, kind, expect):
                return
        try:
            await self._delete(location.key, kind, condition)
        except NotFound:
            return
        except Unmet as exc:
            if expect is None:
                # Nothing was asked for that could be unmet: it is a refusal.
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

    async def _head(self, key: str, kind: Kind) -> Item:
        wire, verdict = self._connected()
        if kind is Kind.DIR:
            return await directories.head(wire, verdict, key)
        return await listing.head_object(wire, key, key, kind, md5_tags=verdict.md5_tags)

    async def _delete(self, key: str, kind: Kind, condition: dict[str, str]) -> None:
        wire, verdict = self._connected()
        if kind is Kind.DIR:
            await directories.delete(wire, verdict, key, condition)
        else:
            await wire.ask("delete_object", Key=self._options.full_key(key), **condition)

    async def _is_still(self, key: str, kind: Kind, expect: RemoteVersion) -> bool:
        """False if the item is gone. Raises VersionMismatch if it is another version."""
        try:
            current = await self._head(key, kind)
        except NotFound:
            return False
        if current.version is None:
            return False
        if current.version.tag != expect.tag:
            # An ETag that nothing bears out counts when it is told twice.
            again = await self._head(key, kind)
            if again.version != current.version:
                raise Retry("the store tells two versions of one item")
            raise VersionMismatch("somebody else changed the item", current)
        return True

    def _connected(self) -> tuple[Wire, Verdict]:
        if self._wire is None or self._verdict is None:
            raise Offline("not connected")
        return self._wire, self._verdict

    def _require_own_key(self, key: str) -> None:
        """Refuse keys that this server would take for another object's."""
        _, verdict = self._connected()
        if key.rpartition("/")[2] == MARKER_NAME:
            raise Unrepresentable(f"{MARKER_NAME} is a reserved name")
        if verdict.rewrites(self._options.base + key.removesuffix("/")):
            raise Unrepresentable("this server rewrites names with '//', '.', '..' or '\\'")


def capabilities(verdict: Verdict, options: S3Options) -> Capabilities:
    return Capabilities(
        name=f"s3 ({verdict.server})",
        conditional_put=verdict.is_conditional,
        conditional_delete=verdict.delete_if_match is Support.YES,
        server_copy=True,
        move_file=False,
        move_tree=False,
        real_dirs=False,
        keeps_attributes=verdict.keeps_metadata,
        # Longer ones are kept under shorter ones.
        max_key_bytes=0,
        max_size_bytes=MAX_SIZE_BYTES,
        whole_bytes=options.whole_bytes if verdict.md5_tags else 0,
        warnings=verdict.warnings(),
    )
