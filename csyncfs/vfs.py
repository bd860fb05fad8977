"""POSIX calls on inodes and handles; knows no kernel binding.

Translates each call into what ``tree`` (names) and ``content`` (bytes) do. Permissions are
checked by the kernel (``default_permissions``). Nothing here waits for the network except
reading bytes that are not here and the first look into a directory.
"""

import errno
import itertools
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from csyncfs import names
from csyncfs.adopt import Adopter
from csyncfs.atime import AccessTimes
from csyncfs.backends.base import Backend
from csyncfs.content import Content
from csyncfs.errors import FsError, StoreFull
from csyncfs.inode import InodeTable, LiveInode
from csyncfs.poller import Poller
from csyncfs.readahead import ReadPlan
from csyncfs.store import inodes, journal
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.tree import Tree
from csyncfs.types import ROOT, FileHandle, InodeId, Space, Span
from csyncfs.waits import waiting
from csyncfs.xattrs import Xattrs

log = logging.getLogger(__name__)

R = TypeVar("R")

_BLOCK_BYTES = 4096
# What df shows for a store without a quota.
_ENDLESS_BYTES = 1 << 50


@dataclass(eq=False, slots=True)
class Handle:
    """One open(2)."""

    live: LiveInode
    is_writer: bool
    plan: ReadPlan
    is_noted: bool
    """Whether reading moves the time of access no more."""


@dataclass(eq=False, slots=True)
class DirStream:
    """One opendir(3). A name is shown at most once, whatever happens meanwhile, and the stream
    ends: what gets a name after its beginning, or a new one, is not in it."""

    ino: InodeId
    last_position: int = inodes.LAST_POSITION
    """Where the directory ended when reading (again) began."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What setattr changes; None: stays."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    mtime_ns: int | None = None
    atime_ns: int | None = None


class Vfs:
    """The file system."""

    def __init__(
        self,
        store: Store,
        table: InodeTable,
        tree: Tree,
        content: Content,
        adopter: Adopter,
        poller: Poller,
        backend: Backend,
        access_times: AccessTimes,
        xattrs: Xattrs,
        *,
        uploaded: Callable[[InodeId], Awaitable[None]] | None,
    ) -> None:
        self._store = store
        self._table = table
        self._tree = tree
        self._content = content
        self._adopter = adopter
        self._poller = poller
        self._backend = backend
        self._access_times = access_times
        self.xattrs = xattrs
        self._uploaded = uploaded
        self._handles: dict[FileHandle, Handle] = {}
        self._next_handle = itertools.count(1)
        self.space: Space | None = None
        """Quota of the store as last heard; None: it has none."""

    # -- names ---------------------------------------------------------------------------

    async def lookup(self, parent: InodeId, name: bytes) -> InodeRow | None:
        """The inode behind a name; None: there is none."""
        directory = self._directory(parent)
        if len(name) > names.MAX_NAME_BYTES:
            raise FsError(errno.ENAMETOOLONG)
        if name == b".":
            return self.getattr(parent)
        if name == b"..":
            found = inodes.names_of(self._store, parent)
            return self.getattr(found[0].parent if found else ROOT)
        row = self._tree.lookup(parent, name)
        if row is None and directory.listed_ns is None:
            await self._poller.ensure_listed(directory)
            row = self._tree.lookup(parent, name)
        else:
            self._poller.used(directory)
        return None if row is None else self._table.overlay(self._tree.file_of(row))

    def _directory(self, ino: InodeId) -> InodeRow:
        row = self._tree.row(ino)
        if not row.is_dir:
            raise FsError(errno.ENOTDIR)
        return row

    def getattr(self, ino: InodeId) -> InodeRow:
        return self._table.overlay(self._tree.row(ino))

    async def open_dir(self, ino: InodeId) -> DirStream:
        """Make the directory's names known."""
        await self._poller.ensure_listed(self._directory(ino))
        return DirStream(ino, inodes.hold_positions(self._store))

    def read_dir(
        self, stream: DirStream, after: int, limit: int
    ) -> list[tuple[int, bytes, InodeRow]]:
        """Entries behind a position, in a stable order while the directory changes. From 0 on
        it is read anew."""
        if after == 0:
            self._access_times.read(stream.ino)
            stream.last_position = inodes.hold_positions(self._store)
        end = stream.last_position
        return [
            (position, name, self._table.overlay(self._tree.file_of(row)))
            for position, name, row in inodes.read_dir(self._store, stream.ino, after, limit, end)
        ]

    async def mkdir(
        self, parent: InodeId, name: bytes, mode: int, uid: int, gid: int, umask: int = 0
    ) -> InodeRow:
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        with self._store.transaction():
            mode, lists = self.xattrs.inherited(parent, mode, umask)
            ino = self._tree.mkdir(parent, name, mode=mode, uid=uid, gid=gid)
            self.xattrs.give(ino, lists)
        return self.getattr(ino)

    def _make(
        self, parent: InodeId, name: bytes, mode: int, uid: int, gid: int, umask: int, rdev: int = 0
    ) -> InodeId:
        with self._store.transaction():
            mode, lists = self.xattrs.inherited(parent, mode, umask)
            ino = self._tree.create(parent, name, mode=mode, uid=uid, gid=gid, rdev=rdev)
            self.xattrs.give(ino, lists)
        return ino

    async def symlink(
        self, parent: InodeId, name: bytes, target: bytes, uid: int, gid: int
    ) -> InodeRow:
        mode = stat.S_IFLNK | 0o777
        ino = self._tree.create(parent, name, mode=mode, uid=uid, gid=gid, target=target)
        return self.getattr(ino)

    async def mknod(
        self,
        parent: InodeId,
        name: bytes,
        mode: int,
        rdev: int,
        uid: int,
        gid: int,
        umask: int = 0,
    ) -> InodeRow:
        """FIFOs, sockets and device nodes; regular files too, as NFS servers make them."""
        ino = self._make(parent, name, mode, uid, gid, umask, rdev)
        if stat.S_ISREG(mode):
            live = self._content.open_new(self._tree.row(ino))
            self._content.flush(live)
            await self._content.close(live, for_writing=True)
        return self.getattr(ino)

    async def link(self, ino: InodeId, new_parent: InodeId, new_name: bytes) -> InodeRow:
        """One more name for a file of any type but a directory."""
        self._tree.link(ino, new_parent, new_name)
        return self.getattr(ino)

    async def readlink(self, ino: InodeId) -> bytes:
        row = self._tree.row(ino)
        if not stat.S_ISLNK(row.mode):
            raise FsError(errno.EINVAL)
        if row.target is not None:
            return row.target
        return await self._fetch_target(row)

    async def _fetch_target(self, row: InodeRow) -> bytes:
        """The target of a symlink that was only listed so far."""
        base = row.base
        if base is None or base.size > os.pathconf("/", "PC_PATH_MAX"):
            raise FsError(errno.EIO, "not a symlink's content")
        fd = os.memfd_create("csyncfs-target")
        try:
            span = Span(0, base.size)
            with waiting("the target of a symlink from the store"):
                await self._backend.fetch(self._tree.location(row), span, fd, base, lambda _: None)
            target = os.pread(fd, base.size, 0)
        finally:
            os.close(fd)
        with self._store.transaction():
            inodes.set_target(self._store, row.id, target)
        return target

    async def unlink(self, parent: InodeId, name: bytes) -> None:
        self._gone(self._insist(lambda: self._tree.unlink(parent, name)))

    def _insist(self, change: Callable[[], R]) -> R:
        """Make a change that frees space or keeps a promise also when the disk is full."""
        try:
            return change()
        except StoreFull:
            if not self._store.give_way():
                raise
            return change()

    async def rmdir(self, parent: InodeId, name: bytes) -> None:
        row = self._tree.must_lookup(parent, name)
        if row.is_dir and row.listed_ns is None:
            await self._poller.ensure_listed(row)
        self._gone(self._insist(lambda: self._tree.rmdir(parent, name)))

    async def rename(
        self,
        old_parent: InodeId,
        old_name: bytes,
        new_parent: InodeId,
        new_name: bytes,
        *,
        replace: bool,
    ) -> None:
        victim = self._tree.lookup(new_parent, new_name)
        if victim is not None and victim.is_dir and victim.listed_ns is None:
            await self._poller.ensure_listed(victim)
        victim = self._insist(
            lambda: self._tree.rename(old_parent, old_name, new_parent, new_name, replace=replace)
        )
        if victim is not None:
            self._gone(victim)

    async def exchange(
        self, parent_a: InodeId, name_a: bytes, parent_b: InodeId, name_b: bytes
    ) -> None:
        self._tree.exchange(parent_a, name_a, parent_b, name_b)

    def _gone(self, row: InodeRow) -> None:
        """A name was taken away; free what nobody can reach any more."""
        live = self._table.get(row.id)
        if live is not None and live.is_unlinked:
            self._content.keep_for_readers(live)
        if row.is_dir or live is not None or row.is_linked:
            return
        current = inodes.get(self._store, row.id)
        if current is not None and current.nlink == 0:
            self._content.discard(current)

    # -- attributes ----------------------------------------------------------------------

    async def setattr(self, ino: InodeId, changes: Changes, fh: FileHandle | None) -> InodeRow:
        row = self.getattr(ino)
        if changes.size is not None and not stat.S_ISDIR(row.mode):
            await self._truncate(row, changes.size, fh)
            row = self.getattr(ino)
        attributes = (
            *(changes.mode, changes.uid, changes.gid),
            *(changes.mtime_ns, changes.atime_ns),
        )
        if any(value is not None for value in attributes):
            with self._store.transaction():
                if changes.mode is not None:
                    self.xattrs.follow_mode(row, changes.mode)
                self._tree.set_attributes(
                    row,
                    mode=changes.mode,
                    uid=changes.uid,
                    gid=changes.gid,
                    mtime_ns=changes.mtime_ns,
                    atime_ns=changes.atime_ns,
                )
        return self.getattr(ino)

    def _check_size(self, size: int) -> None:
        """No file may grow beyond what the store takes: it could never be uploaded."""
        if size > self._tree.policy.max_size_bytes:
            raise FsError(errno.EFBIG)

    async def _truncate(self, row: InodeRow, size: int, fh: FileHandle | None) -> None:
        self._check_size(size)
        if fh is not None and fh in self._handles:
            await self._content.truncate(self._handles[fh].live, size)
            return
        live = self._content.open(row, for_writing=True)
        try:
            await self._content.truncate(live, size)
            if live.writers == 1:
                self._content.flush(live)
        finally:
            await self._content.close(live, for_writing=True)

    # -- handles -------------------------------------------------------------------------

    async def create(
        self, parent: InodeId, name: bytes, mode: int, uid: int, gid: int, umask: int = 0
    ) -> tuple[FileHandle, InodeRow]:
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        row = self._tree.row(self._make(parent, name, mode, uid, gid, umask))
        live = self._content.open_new(row)
        return self._add_handle(live, is_writer=True, flags=0), row

    async def open_or_create(
        self,
        parent: InodeId,
        name: bytes,
        mode: int,
        flags: int,
        uid: int,
        gid: int,
        umask: int = 0,
    ) -> tuple[FileHandle, bool, InodeRow]:
        """What open(2) with O_CREAT does on a name the kernel believes to be free: it may have
        appeared in the cloud a moment ago. As ``open``, and the inode."""
        row = self._tree.lookup(parent, name)
        if row is not None and stat.S_ISREG(row.mode) and not flags & os.O_EXCL:
            ino = self._tree.file_of(row).id
            fh, keep = await self.open(ino, flags)
            return fh, keep, self.getattr(ino)
        fh, row = await self.create(parent, name, mode, uid, gid, umask)
        return fh, True, row

    async def open(self, ino: InodeId, flags: int) -> tuple[FileHandle, bool]:
        """A handle, and whether the kernel may keep the pages it has of the file."""
        row = self._tree.row(ino)
        if row.is_dir:
            raise FsError(errno.EISDIR)
        is_writer = flags & os.O_ACCMODE != os.O_RDONLY
        keep = not self._adopter.take_stale_pages(ino)
        live = self._content.open(row, for_writing=is_writer)
        if flags & os.O_TRUNC:
            try:
                await self._content.truncate(live, 0)
            except BaseException:
                await self._content.close(live, for_writing=is_writer)
                raise
        return self._add_handle(live, is_writer=is_writer, flags=flags), keep

    def _add_handle(self, live: LiveInode, *, is_writer: bool, flags: int) -> FileHandle:
        fh = FileHandle(next(self._next_handle))
        plan = ReadPlan(self._content.window_bytes)
        self._handles[fh] = Handle(live, is_writer, plan, bool(flags & os.O_NOATIME))
        return fh

    async def read(self, fh: FileHandle, start: int, length: int) -> bytes:
        handle = self._handles[fh]
        data = await self._content.read(handle.live, start, length, handle.plan)
        if not handle.is_noted:
            self._access_times.read(handle.live.ino)
            handle.is_noted = True
        return data

    async def write(self, fh: FileHandle, start: int, data: bytes) -> int:
        self._check_size(start + len(data))
        return await self._content.write(self._handles[fh].live, start, data)

    async def flush(self, fh: FileHandle) -> None:
        """A descriptor was closed: what was written is in the journal when this returns."""
        handle = self._handles[fh]
        if handle.is_writer:
            self._insist(lambda: self._content.flush(handle.live))

    async def fsync(self, fh: FileHandle) -> None:
        live = self._handles[fh].live
        with waiting("the disk", can_end=False):
            await self._content.fsync(live)
        if self._uploaded is not None and not live.is_unlinked:
            with waiting("the upload of the file"):
                await self._uploaded(live.ino)

    async def fsync_dir(self) -> None:
        """Make names durable: they are rows of the store."""
        with waiting("the disk", can_end=False):
            await trio.to_thread.run_sync(self._store.make_durable)

    async def release(self, fh: FileHandle) -> None:
        handle = self._handles.pop(fh)
        await self._content.close(handle.live, for_writing=handle.is_writer)

    def forget(self, ino: InodeId, count: int) -> None:
        """The kernel dropped references; an inode without name goes with the last."""
        if self._table.forget(ino, count):
            self._content.reap(ino)

    # -- the whole -----------------------------------------------------------------------

    def path(self, ino: InodeId) -> str | None:
        """Where the inode is below the mountpoint, for people; None: nowhere any more."""
        found = inodes.path_of(self._store, ino)
        return None if found is None else os.fsdecode(found)

    def statfs(self) -> tuple[int, int, int]:
        """(block size, blocks, free blocks); never asks the network."""
        if self.space is None:
            blocks = _ENDLESS_BYTES // _BLOCK_BYTES
            return _BLOCK_BYTES, blocks, blocks
        total = self.space.total_bytes // _BLOCK_BYTES
        unsent = journal.totals(self._store).put_bytes
        free = max(0, self.space.free_bytes - unsent) // _BLOCK_BYTES
        return _BLOCK_BYTES, total, free
