"""The engines, driven by single system calls as the kernel would, and looked at without a trace.

``Driven`` is one of the systems that the model tests compare with the oracle. It does what
Linux does before it asks a file system: walks paths, and refuses what no file system is asked.
"""

import errno
import os
import shutil
import stat
from collections.abc import Awaitable
from typing import Any

import trio

from csyncfs.errors import Ambiguous, CsyncError, Offline, Throttled, to_errno
from csyncfs.extents import Extents
from csyncfs.store import contents, inodes
from csyncfs.store.inodes import InodeRow
from csyncfs.types import ROOT, FileHandle, InodeId
from csyncfs.vfs import Changes, DirStream
from tests.support.engines import Machine
from tests.support.fuzz import KeepingStore
from tests.support.oracle import Seen, fail

Outcome = tuple[str, Any]
"""("ok", value) or ("error", errno)."""

_CRASH_WITHIN_S = 60.0


async def outcome(call: Awaitable[Any]) -> Outcome:
    """What a program sees of a call."""
    try:
        return "ok", await call
    except CsyncError as exc:
        return "error", to_errno(exc)
    except OSError as exc:
        return "error", exc.errno


class Network:
    """What lies between the machine and the bucket."""

    def __init__(self) -> None:
        self.is_on = True
        self.latency_s = 0.0
        self.faults: list[tuple[str, int]] = []

    def calm(self) -> None:
        self.is_on, self.latency_s = True, 0.0
        self.faults.clear()

    async def __call__(self, step: str, key: str) -> None:
        is_reply = step.endswith(":done")
        if self.latency_s and (":" not in step or is_reply):
            await trio.sleep(self.latency_s)
        if not self.is_on:
            raise Ambiguous("cable out: no reply") if is_reply else Offline("cable out")
        for n, (kind, left) in enumerate(self.faults):
            if ":" in step and not (is_reply and kind == "lost"):
                continue
            if kind == "lost" and not is_reply:
                continue
            if left:
                self.faults[n] = (kind, left - 1)
                continue
            del self.faults[n]
            raise {"offline": Offline, "throttled": Throttled, "lost": Ambiguous}[kind](kind)


class Driven:
    """One machine's mount, call by call."""

    def __init__(self, machine: Machine, bucket: KeepingStore) -> None:
        self.machine = machine
        self._bucket = bucket
        self.network = Network()
        machine.on_step = self.network
        self._open: dict[int, tuple[FileHandle, InodeId, int]] = {}

    @property
    def has_links(self) -> bool:
        return hasattr(self.machine.up.vfs, "link")

    # -- the walk ------------------------------------------------------------------------

    async def _row(self, path: str) -> InodeRow:
        row = self.machine.up.vfs.getattr(ROOT)
        for part in [part for part in path.split("/") if part]:
            found = await self._lookup(row, os.fsencode(part))
            if found is None:
                raise fail(errno.ENOENT)
            row = found
        return row

    async def _lookup(self, parent: InodeRow, name: bytes) -> InodeRow | None:
        if not parent.is_dir:
            raise fail(errno.ENOTDIR)
        return await self.machine.up.vfs.lookup(parent.id, name)

    async def _split(self, path: str) -> tuple[InodeId, bytes, InodeRow | None]:
        """Parent, name, and what has it."""
        above, _, name = path.rpartition("/")
        parent = await self._row(above)
        found = await self._lookup(parent, os.fsencode(name))
        return parent.id, os.fsencode(name), found

    async def _free(self, path: str) -> tuple[InodeId, bytes]:
        parent, name, found = await self._split(path)
        if found is not None:
            raise fail(errno.EEXIST)
        return parent, name

    async def _taken(self, path: str) -> tuple[InodeId, bytes, InodeRow]:
        parent, name, found = await self._split(path)
        if found is None:
            raise fail(errno.ENOENT)
        return parent, name, found

    # -- names ---------------------------------------------------------------------------

    async def mkdir(self, path: str, mode: int) -> None:
        await self.machine.up.vfs.mkdir(*await self._free(path), mode, 0, 0)

    async def mkfifo(self, path: str, mode: int) -> None:
        at = await self._free(path)
        await self.machine.up.vfs.mknod(*at, stat.S_IFIFO | mode, 0, 0, 0)

    async def symlink(self, path: str, target: str) -> None:
        at = await self._free(path)
        await self.machine.up.vfs.symlink(*at, os.fsencode(target), 0, 0)

    async def readlink(self, path: str) -> str:
        row = await self._row(path)
        if not stat.S_ISLNK(row.mode):
            raise fail(errno.EINVAL)
        return os.fsdecode(await self.machine.up.vfs.readlink(row.id))

    async def link(self, path: str, new: str) -> None:
        row = await self._row(path)
        at = await self._free(new)
        if row.is_dir:
            raise fail(errno.EPERM)
        vfs: Any = self.machine.up.vfs
        await vfs.link(row.id, *at)

    async def unlink(self, path: str) -> None:
        parent, name, row = await self._taken(path)
        if row.is_dir:
            raise fail(errno.EISDIR)
        await self.machine.up.vfs.unlink(parent, name)

    async def rmdir(self, path: str) -> None:
        parent, name, row = await self._taken(path)
        if not row.is_dir:
            raise fail(errno.ENOTDIR)
        await self.machine.up.vfs.rmdir(parent, name)

    async def rename(self, old: str, new: str, *, replace: bool = True) -> None:
        old_parent, old_name, row = await self._taken(old)
        new_parent, new_name, victim = await self._split(new)
        if victim is not None and not replace:
            raise fail(errno.EEXIST)
        if new.startswith(f"{old}/"):
            raise fail(errno.EINVAL)
        if old.startswith(f"{new}/"):
            raise fail(errno.ENOTEMPTY)
        if victim is not None and victim.id == row.id:
            return
        await self.machine.up.vfs.rename(
            old_parent, old_name, new_parent, new_name, replace=replace
        )

    async def rename_noreplace(self, old: str, new: str) -> None:
        await self.rename(old, new, replace=False)

    async def exchange(self, a: str, b: str) -> None:
        parent_a, name_a, row_a = await self._taken(a)
        parent_b, name_b, row_b = await self._taken(b)
        if a.startswith(f"{b}/") or b.startswith(f"{a}/"):
            raise fail(errno.EINVAL)
        if row_a.id != row_b.id:
            await self.machine.up.vfs.exchange(parent_a, name_a, parent_b, name_b)

    async def listdir(self, path: str) -> list[str]:
        row = await self._row(path)
        if not row.is_dir:
            raise fail(errno.ENOTDIR)
        stream = await self.machine.up.vfs.open_dir(row.id)
        found: list[str] = []
        position = 0
        while entries := self.machine.up.vfs.read_dir(stream, position, 2):
            position = entries[-1][0]
            found += [os.fsdecode(name) for _, name, _ in entries]
        return sorted(found)

    # -- attributes ----------------------------------------------------------------------

    async def stat(self, path: str) -> tuple[int, ...]:
        return _stat(await self._row(path))

    async def fstat(self, slot: int) -> tuple[int, ...]:
        return _stat(self.machine.up.vfs.getattr(self._open[slot][1]))

    async def chmod(self, path: str, mode: int) -> None:
        row = await self._row(path)
        await self.machine.up.vfs.setattr(row.id, Changes(mode=mode), None)

    async def utime(self, path: str, mtime_ns: int) -> None:
        row = await self._row(path)
        changes = Changes(mtime_ns=mtime_ns, atime_ns=mtime_ns)
        await self.machine.up.vfs.setattr(row.id, changes, None)

    async def _row_with_xattrs(self, path: str, refusal: int) -> InodeRow:
        row = await self._row(path)
        if not (stat.S_ISREG(row.mode) or row.is_dir):
            raise fail(refusal)
        return row

    async def setxattr(self, path: str, name: str, value: bytes) -> None:
        row = await self._row_with_xattrs(path, errno.EPERM)
        self.machine.up.vfs.xattrs.set(row.id, name.encode(), value, keep_setgid=True)

    async def getxattr(self, path: str, name: str) -> bytes:
        row = await self._row_with_xattrs(path, errno.ENODATA)
        return self.machine.up.vfs.xattrs.get(row.id, name.encode())

    async def removexattr(self, path: str, name: str) -> None:
        row = await self._row_with_xattrs(path, errno.EPERM)
        self.machine.up.vfs.xattrs.set(row.id, name.encode(), None, keep_setgid=True)

    # -- content -------------------------------------------------------------------------

    async def open(self, slot: int, path: str, flags: int, mode: int) -> None:
        parent, name, row = await self._split(path)
        vfs = self.machine.up.vfs
        if row is None:
            if not flags & os.O_CREAT:
                raise fail(errno.ENOENT)
            fh, _, row = await vfs.open_or_create(parent, name, mode, flags, 0, 0)
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise fail(errno.EEXIST)
        elif stat.S_ISLNK(row.mode):
            raise fail(errno.ELOOP)
        elif row.is_dir:
            raise fail(errno.EISDIR)
        else:
            fh, _ = await vfs.open(row.id, flags & ~(os.O_CREAT | os.O_EXCL))
        self._open[slot] = (fh, row.id, flags)

    async def read(self, slot: int, offset: int, length: int) -> bytes:
        fh, _, flags = self._open[slot]
        if flags & os.O_ACCMODE == os.O_WRONLY:
            raise fail(errno.EBADF)
        found = b""
        while len(found) < length:
            got = await self.machine.up.vfs.read(fh, offset + len(found), length - len(found))
            if not got:
                break
            found += got
        return found

    async def write(self, slot: int, offset: int, data: bytes) -> int:
        fh, ino, flags = self._open[slot]
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise fail(errno.EBADF)
        if not data:
            return 0
        if flags & os.O_APPEND:
            offset = self.machine.up.vfs.getattr(ino).size
        return await self.machine.up.vfs.write(fh, offset, data)

    async def ftruncate(self, slot: int, size: int) -> None:
        fh, ino, flags = self._open[slot]
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise fail(errno.EINVAL)
        await self.machine.up.vfs.setattr(ino, Changes(size=size), fh)

    async def truncate(self, path: str, size: int) -> None:
        row = await self._row(path)
        if row.is_dir:
            raise fail(errno.EISDIR)
        if not stat.S_ISREG(row.mode):
            raise fail(errno.EINVAL)
        await self.machine.up.vfs.setattr(row.id, Changes(size=size), None)

    async def fsync(self, slot: int) -> None:
        await self.machine.up.vfs.fsync(self._open[slot][0])

    async def close(self, slot: int) -> None:
        fh = self._open.pop(slot)[0]
        await self.machine.close(fh)

    # -- surroundings --------------------------------------------------------------------

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def flush(self) -> None:
        if self.network.is_on:
            await self.machine.flush()

    async def look(self) -> None:
        if self.network.is_on and not self.network.faults:
            await self.machine.look()

    async def start(self) -> None:
        """As mounted by default: fsync makes content safe here, and does not wait for the cloud."""
        await self.machine.start()
        self.machine.up.vfs._uploaded = None  # type: ignore[reportPrivateUsage]

    async def crash(self) -> None:
        self._open.clear()
        await self.machine.crash()
        await self.start()

    async def crash_at(self, step: int) -> None:
        self._open.clear()
        left, is_over = step, trio.Event()

        async def until_then(name: str, key: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.machine.freeze_disk()
                is_over.set()
            if left <= 0:
                await trio.sleep_forever()
            await self.network(name, key)

        self.machine.on_step = until_then
        with trio.move_on_after(_CRASH_WITHIN_S):
            await is_over.wait()
        self.machine.on_step = self.network
        await (self.machine.end() if is_over.is_set() else self.machine.crash())
        await self.start()

    async def restart(self, wipe: bool) -> None:
        await self.machine.stop()
        if wipe:
            await self.wipe()
        await self.start()

    async def wipe(self) -> None:
        shutil.rmtree(self.machine.home / "cache", ignore_errors=True)

    async def evict(self) -> None:
        up = self.machine.up
        for cached in list(contents.all_cached(up.store)):
            up.content.evict_now(cached.inode)

    async def set_network(self, on: bool) -> None:
        self.network.is_on = on

    async def latency(self, seconds: float) -> None:
        self.network.latency_s = seconds

    async def fault(self, kind: str, step: int) -> None:
        self.network.faults.append((kind, step))

    def may_fail(self, name: str) -> bool:
        """Whether this call may fail now: it needs what is not here."""
        if self.network.is_on and not self.network.faults:
            return False
        # A directory that was found to be there already may hold what nobody here knows.
        unlisted = "SELECT 1 FROM inode WHERE listed_ns IS NULL AND mode & 61440 = 16384"
        return name == "read" or self.machine.up.store.one(unlisted) is not None

    # -- looking without touching --------------------------------------------------------

    def show(self) -> dict[str, Seen]:
        """The whole tree as programs would see it; nothing is opened, fetched or listed."""
        up = self.machine.up
        shown = {"": self._seen(up.vfs.getattr(ROOT))}
        pending = [(ROOT, "")]
        while pending:
            ino, path = pending.pop()
            for _, raw, row in up.vfs.read_dir(DirStream(ino), 0, 1 << 20):
                child = f"{path}{os.fsdecode(raw)}"
                shown[child] = self._seen(row)
                if row.is_dir:
                    pending.append((row.id, f"{child}/"))
        return shown

    def _seen(self, row: InodeRow) -> Seen:
        xattrs = inodes.all_xattrs(self.machine.up.store, row.id)
        return Seen(
            row.mode,
            row.nlink,
            0 if row.is_dir else row.size,
            row.mtime_ns,
            self._content(row),
            tuple(sorted((name.decode(), value) for name, value in xattrs.items())),
        )

    def _content(self, row: InodeRow) -> bytes | str:
        if stat.S_ISLNK(row.mode):
            base = b"" if row.base is None else self._bucket.versions[row.base.tag]
            return os.fsdecode(base if row.target is None else row.target)
        return self.content(row) if stat.S_ISREG(row.mode) else b""

    def content(self, row: InodeRow) -> bytes:
        """What a program would read."""
        up = self.machine.up
        live = up.table.get(row.id)
        row = up.table.overlay(row)
        base = live.base if live is not None else row.base
        size = live.size if live is not None else row.size
        found = bytearray(self._bucket.versions[base.tag] if base is not None else b"")
        found = found[:size].ljust(size, b"\0")
        if live is not None:
            present, fd = live.present, live.fd
            if present and fd >= 0:
                _overlay(found, present, os.pread(fd, size, 0))
            return bytes(found)
        known = contents.get(up.store, row.id)
        if known is not None and known[0]:
            path = up.files._path(row.id, dirty=bool(row.dirty))  # type: ignore[reportPrivateUsage]
            if path.exists():
                _overlay(found, known[0], path.read_bytes())
            else:
                assert not row.dirty, f"unsent content is missing: {row}"
        return bytes(found)


def _overlay(found: bytearray, present: Extents, stored: bytes) -> None:
    stored = stored.ljust(len(found), b"\0")
    for span in present:
        found[span.start : span.end] = stored[span.start : span.end]


def _stat(row: InodeRow) -> tuple[int, ...]:
    return row.mode, row.nlink, 0 if row.is_dir else row.size
