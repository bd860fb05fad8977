"""The kernel's side: the only importer of pyfuse3.

Translates requests to ``vfs`` calls and errors to errno, and tells the kernel what it must
forget. Any exception but FUSEError would end the mount, so every handler is guarded.
"""

# pyfuse3's plain ints and bytes are our InodeId, FileHandle and names from here on.
# pyright: reportIncompatibleMethodOverride=false

import contextlib
import errno
import functools
import itertools
import logging
import os
import queue
import select
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from csyncfs import acl, waits
from csyncfs.attach import attach
from csyncfs.errors import ConfigError, CsyncError, FsError, to_errno
from csyncfs.inode import InodeTable
from csyncfs.store.inodes import InodeRow
from csyncfs.types import FileHandle, InodeId
from csyncfs.vfs import Changes, DirStream, Vfs
from csyncfs.waits import Caller

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_DIR_BATCH = 128
# Default kernel readahead is 128 KiB: 0.9 GB/s of cached reads; 1 MiB gives 3.8 GB/s.
_READAHEAD_KB = 1024
_MAX_TASKS = 512
# These are not told who calls. As a rule it is who opened the file; a program that inherited
# the descriptor waits until the deadline.
_ON_HANDLES = frozenset({"read", "write", "flush", "release", "fsync"})


def guarded(
    handler: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Turn every failure into an errno; an unexpected one is logged and becomes EIO."""

    @functools.wraps(handler)
    async def guard(*args: P.args, **kwargs: P.kwargs) -> R:
        call = waits.begin(functools.partial(_describe, handler.__name__, args))
        try:
            return await handler(*args, **kwargs)
        except CsyncError as exc:
            code = to_errno(exc)
            if code in (errno.EIO, errno.ENOSPC):
                log.warning("%s failed error=%s", handler.__name__, exc)
            raise FUSEError(code) from None
        except OSError as exc:
            log.warning("%s failed error=%s", handler.__name__, exc)
            raise FUSEError(exc.errno or errno.EIO) from None
        except FUSEError:
            raise
        except Exception:
            log.exception("%s failed unexpectedly", handler.__name__)
            raise FUSEError(errno.EIO) from None
        finally:
            waits.end(call)

    return guard


def _describe(name: str, args: tuple[Any, ...]) -> Caller:
    """Whose call it is, for the watchman; ``args`` are the handler's."""
    adapter, first = args[0], args[1]
    assert isinstance(adapter, Adapter)
    if isinstance(args[-1], RequestContext):
        names = " ".join(f"name={arg!r}" for arg in args[2:] if isinstance(arg, bytes))
        ino = None if isinstance(first, RequestContext) else first
        return Caller(name, f"{adapter.path(ino)} {names}".strip(), (args[-1].pid,))
    if name in _ON_HANDLES:
        ino, opener = adapter.opened(first)
        return Caller(name, adapter.path(ino), waits.threads_of(opener))
    return Caller(name, adapter.path(first), ())


class Adapter(pyfuse3.Operations):
    """pyfuse3's handlers."""

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(self, vfs: Vfs, table: InodeTable, timeout_s: float, *, lists: bool) -> None:
        """``lists``: the kernel enforces access control lists; it checks permissions then."""
        super().__init__()
        self.enable_acl = lists
        self._vfs = vfs
        self._table = table
        self._timeout_s = timeout_s
        self._openers: dict[FileHandle, tuple[InodeId, int]] = {}
        """Inode and thread of each open(2)."""
        self._streams: dict[FileHandle, DirStream] = {}
        """What each opendir(3) began to read."""
        self._next_stream = itertools.count(1)

    def opened(self, fh: FileHandle) -> tuple[InodeId | None, int]:
        """The inode and the thread that opened it; (None, 0) if the handle is gone."""
        return self._openers.get(fh, (None, 0))

    def path(self, ino: InodeId | None) -> str:
        """For the log."""
        found = None if ino is None else self._vfs.path(ino)
        return f"ino={ino} path={found!r}"

    def _entry(self, row: InodeRow) -> EntryAttributes:
        """What the kernel is told of an inode."""
        entry = EntryAttributes()
        entry.st_ino = row.id
        entry.generation = 0
        entry.entry_timeout = self._timeout_s
        entry.attr_timeout = self._timeout_s
        entry.st_mode = row.mode
        entry.st_nlink = row.nlink
        entry.st_uid = row.uid
        entry.st_gid = row.gid
        entry.st_rdev = row.rdev
        entry.st_size = row.size
        entry.st_blksize = 131072
        entry.st_blocks = (row.size + 511) >> 9
        entry.st_atime_ns = row.atime_ns
        entry.st_mtime_ns = row.mtime_ns
        entry.st_ctime_ns = row.ctime_ns
        return entry

    def _told(self, row: InodeRow) -> EntryAttributes:
        """The same for replies that make the kernel remember the inode."""
        self._table.remember(row.id)
        return self._entry(row)

    @guarded
    async def lookup(
        self, parent_inode: InodeId, name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        row = await self._vfs.lookup(parent_inode, name)
        if row is None:
            # A negative entry: the kernel need not ask again until it times out.
            absent = EntryAttributes()
            absent.st_ino = 0
            absent.entry_timeout = self._timeout_s
            return absent
        return self._told(row)

    async def forget(self, inode_list: Sequence[tuple[InodeId, int]]) -> None:
        for ino, count in inode_list:
            try:
                self._vfs.forget(ino, count)
            except Exception:
                log.exception("forget failed ino=%d", ino)

    @guarded
    async def getattr(self, inode: InodeId, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._vfs.getattr(inode))

    @guarded
    async def setattr(
        self,
        inode: InodeId,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandle | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
        )
        return self._entry(await self._vfs.setattr(inode, changes, fh))

    @guarded
    async def readlink(self, inode: InodeId, ctx: RequestContext) -> bytes:
        return await self._vfs.readlink(inode)

    @guarded
    async def mknod(
        self, parent_inode: InodeId, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        made = await self._vfs.mknod(parent_inode, name, mode, rdev, ctx.uid, ctx.gid, ctx.umask)
        return self._told(made)

    @guarded
    async def mkdir(
        self, parent_inode: InodeId, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._told(
            await self._vfs.mkdir(parent_inode, name, mode, ctx.uid, ctx.gid, ctx.umask)
        )

    @guarded
    async def unlink(self, parent_inode: InodeId, name: bytes, ctx: RequestContext) -> None:
        await self._vfs.unlink(parent_inode, name)

    @guarded
    async def rmdir(self, parent_inode: InodeId, name: bytes, ctx: RequestContext) -> None:
        await self._vfs.rmdir(parent_inode, name)

    @guarded
    async def symlink(
        self, parent_inode: InodeId, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._told(await self._vfs.symlink(parent_inode, name, target, ctx.uid, ctx.gid))

    @guarded
    async def rename(
        self,
        parent_inode_old: InodeId,
        name_old: bytes,
        parent_inode_new: InodeId,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        if flags & ~(pyfuse3.RENAME_EXCHANGE | pyfuse3.RENAME_NOREPLACE):
            raise FsError(errno.EINVAL)
        if flags & pyfuse3.RENAME_EXCHANGE:
            await self._vfs.exchange(parent_inode_old, name_old, parent_inode_new, name_new)
            return
        await self._vfs.rename(
            parent_inode_old,
            name_old,
            parent_inode_new,
            name_new,
            replace=not flags & pyfuse3.RENAME_NOREPLACE,
        )

    @guarded
    async def link(
        self, inode: InodeId, new_parent_inode: InodeId, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._told(await self._vfs.link(inode, new_parent_inode, new_name))

    @guarded
    async def open(self, inode: InodeId, flags: int, ctx: RequestContext) -> FileInfo:
        fh, keep = await self._vfs.open(inode, flags)
        self._openers[fh] = (inode, ctx.pid)
        return FileInfo(fh=fh, keep_cache=keep)

    @guarded
    async def create(
        self, parent_inode: InodeId, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        fh, keep, row = await self._vfs.open_or_create(
            parent_inode, name, mode, flags, ctx.uid, ctx.gid, ctx.umask
        )
        self._openers[fh] = (row.id, ctx.pid)
        return FileInfo(fh=fh, keep_cache=keep), self._told(row)

    @guarded
    async def read(self, fh: FileHandle, off: int, size: int) -> bytes:
        return await self._vfs.read(fh, off, size)

    @guarded
    async def write(self, fh: FileHandle, off: int, buf: bytes) -> int:
        return await self._vfs.write(fh, off, buf)

    @guarded
    async def flush(self, fh: FileHandle) -> None:
        await self._vfs.flush(fh)

    @guarded
    async def release(self, fh: FileHandle) -> None:
        self._openers.pop(fh, None)
        await self._vfs.release(fh)

    @guarded
    async def fsync(self, fh: FileHandle, datasync: bool) -> None:
        await self._vfs.fsync(fh)

    @guarded
    async def opendir(self, inode: InodeId, ctx: RequestContext) -> FileHandle:
        stream = await self._vfs.open_dir(inode)
        fh = FileHandle(next(self._next_stream))
        self._streams[fh] = stream
        return fh

    @guarded
    async def readdir(self, fh: FileHandle, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        reply: Callable[..., bool] = pyfuse3.readdir_reply
        stream = self._streams[fh]
        while True:
            entries = self._vfs.read_dir(stream, start_id, _DIR_BATCH)
            for position, name, row in entries:
                if not reply(token, name, self._entry(row), position):
                    return
                self._table.remember(row.id)
            if len(entries) < _DIR_BATCH:
                return
            start_id = entries[-1][0]

    @guarded
    async def releasedir(self, fh: FileHandle) -> None:
        del self._streams[fh]

    @guarded
    async def fsyncdir(self, fh: FileHandle, datasync: bool) -> None:
        await self._vfs.fsync_dir()

    @guarded
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        block, blocks, free = self._vfs.statfs()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = block
        data.f_blocks = blocks
        data.f_bfree = data.f_bavail = free
        data.f_files = data.f_ffree = data.f_favail = 1 << 30
        data.f_namemax = 255
        return data

    @guarded
    async def getxattr(self, inode: InodeId, name: bytes, ctx: RequestContext) -> bytes:
        return self._vfs.xattrs.get(inode, name)

    @guarded
    async def listxattr(self, inode: InodeId, ctx: RequestContext) -> Sequence[bytes]:
        return self._vfs.xattrs.names(inode)

    @guarded
    async def setxattr(
        self, inode: InodeId, name: bytes, value: bytes, ctx: RequestContext
    ) -> None:
        keep = name != acl.ACCESS or self._may_set_group(inode, ctx)
        self._vfs.xattrs.set(inode, name, value, keep_setgid=keep)

    def _may_set_group(self, inode: InodeId, ctx: RequestContext) -> bool:
        """Whether the caller may leave setgid on: root, or somebody in the file's group."""
        gid = self._vfs.getattr(inode).gid
        return ctx.uid == 0 or gid == ctx.gid or gid in pyfuse3.get_sup_groups(ctx.pid)

    @guarded
    async def removexattr(self, inode: InodeId, name: bytes, ctx: RequestContext) -> None:
        self._vfs.xattrs.set(inode, name, None, keep_setgid=True)

    @guarded
    async def access(self, inode: InodeId, mode: int, ctx: RequestContext) -> bool:
        return True


class KernelNotifier:
    """Tells the kernel what it knows no longer, from one thread of its own.

    The kernel may wait for a running request before it takes a notification, so no handler
    and nobody holding a lock may send one.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def entry_changed(self, parent: InodeId, name: bytes) -> None:
        if self._thread is not None:
            self._queue.put((parent, name))

    def attributes_changed(self, ino: InodeId) -> None:
        if self._thread is not None:
            self._queue.put((ino, b""))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="notifier", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more. The thread may be stuck in the kernel: it is not waited for."""
        self._thread = None
        self._queue.put(None)

    def _serve(self) -> None:
        while (news := self._queue.get()) is not None:
            ino, name = news[0], news[1]
            try:
                if name:
                    pyfuse3.invalidate_entry(ino, name)
                else:
                    pyfuse3.invalidate_inode(ino, attr_only=True)
            except OSError as exc:
                # ENOENT: the kernel did not know it anyway.
                if exc.errno not in (errno.ENOENT, errno.ENOTCONN, errno.EBADF):
                    log.warning("notification failed ino=%d error=%s", ino, exc)


def _fuse_device() -> int | None:
    """The session's descriptor, which pyfuse3 keeps to itself."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                return int(name)
    return None


class Session:
    """One mount in the kernel. pyfuse3 has one a process."""

    def __init__(
        self, adapter: Adapter, mountpoint: Path, source: str, options: frozenset[str]
    ) -> None:
        self._mountpoint = mountpoint
        self._attached = attach(mountpoint, source, options) if adapter.enable_acl else None
        place = self._attached.name if self._attached else str(mountpoint)
        try:
            # libfuse does not know the word; only csyncfs itself has to.
            pyfuse3.init(adapter, place, set(options - {"nodiratime"}))
        except RuntimeError as exc:
            if self._attached is not None:
                self._attached.detach()
            raise ConfigError(f"cannot mount on {mountpoint}: {exc}") from exc
        self._device = select.poll()
        if (fd := _fuse_device()) is not None:
            self._device.register(fd, 0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the kernel until the file system is unmounted or ``stop`` is called."""
        task_status.started()
        await pyfuse3.main(min_tasks=1, max_tasks=_MAX_TASKS)

    def is_over(self) -> bool:
        """Whether the kernel has ended the file system, by umount(8) or an abort."""
        return bool(self._device.poll(0))

    def stop(self) -> None:
        """End ``run``; idempotent. Calls that wait fail with ECONNABORTED."""
        pyfuse3.terminate()
        waits.end_all()

    def close(self, *, unmount: bool) -> None:
        """End the session. ``unmount``: take the mountpoint down too, if nobody did yet."""
        is_ours = self._attached is not None and self._attached.is_mounted
        pyfuse3.close(unmount=unmount)
        if self._attached is not None and is_ours and unmount:
            self._attached.detach()

    def set_readahead(self) -> None:
        """Let the kernel read ahead further than its default; harmless where it may not."""
        try:
            device = os.stat(self._mountpoint).st_dev
            path = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
            Path(path).write_text(str(_READAHEAD_KB))
        except OSError as exc:
            log.debug("kernel readahead left as it is: %s", exc)
