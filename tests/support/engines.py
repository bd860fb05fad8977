"""Whole mounts without a kernel: the engines wired as ``mount`` does, over a MemoryStore.

A ``Machine`` is a computer with a disk: ``start`` mounts, ``stop`` unmounts cleanly, ``crash``
drops what is only in memory, ``start`` again finds the disk as the crash left it. Machines share a
bucket. Time is trio's, so tests run under the autojump clock.
"""

import os
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import trio

from csyncfs import fsck, names, opening, recovery
from csyncfs.adopt import Adopter
from csyncfs.arrivals import Defaults
from csyncfs.atime import Access, AccessTimes
from csyncfs.backends.base import Backend, Capabilities
from csyncfs.backends.memory import MemoryBackend, MemoryStore
from csyncfs.cache.files import ContentFiles
from csyncfs.cache.holes import Holes
from csyncfs.cache.space import Space
from csyncfs.content import Content
from csyncfs.copies import Copies
from csyncfs.deletions import Deletions
from csyncfs.eviction import Evictor
from csyncfs.fetcher import Fetcher
from csyncfs.inode import InodeTable
from csyncfs.leftovers import Leftovers
from csyncfs.moves import Moves
from csyncfs.ordering import Ordering
from csyncfs.places import TreePolicy
from csyncfs.poller import Poller
from csyncfs.promise import Promise
from csyncfs.puts import Puts
from csyncfs.store import aliases, contents, inodes, journal, settings
from csyncfs.store.conflicts import Conflict, open_ones
from csyncfs.store.db import open_store
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import Intent
from csyncfs.tree import Tree
from csyncfs.types import RESERVED_DIR, ROOT, FileHandle, InodeId
from csyncfs.uploader import Uploader
from csyncfs.uploads import Uploads
from csyncfs.vfs import Changes, Vfs
from csyncfs.xattrs import Xattrs
from tests.support.trees import must_agree

NS = 1_000_000_000
START_NS = 1_800_000_000 * NS
SETTLE_S = 3000.0

Content_ = bytes | None
"""What a tree shows: the bytes of a file, None for a directory."""


class TrioClock:
    """Wall-clock time that goes with the test's."""

    def now_ns(self) -> int:
        return START_NS + int(trio.current_time() * NS)


class Told:
    """What the kernel would have been told."""

    def __init__(self) -> None:
        self.entries: list[tuple[InodeId, bytes]] = []

    def entry_changed(self, parent: InodeId, name: bytes) -> None:
        self.entries.append((parent, name))

    def attributes_changed(self, ino: InodeId) -> None:
        pass


class Engines:
    """One running mount."""

    def __init__(
        self,
        home: Path,
        backend: MemoryBackend,
        facts: Capabilities,
        *,
        device: str,
        refresh_s: float,
        upload_delay_s: float,
        slots: int,
        cache_bytes: int,
        timeout_s: float,
    ) -> None:
        self.backend = backend
        self.clock = TrioClock()
        self.store = store = open_store(home / "state")
        self.files = ContentFiles(home / "cache", home / "state")
        self.warnings = recovery.recover(store, self.files, self.clock)
        self.table = table = InodeTable()
        self.notifier = Told()
        self.is_started = False
        delay_ns = int(upload_delay_s * NS)
        policy = TreePolicy(
            upload_delay_ns=delay_ns,
            raw_names=facts.raw_names,
            real_dirs=facts.real_dirs,
            keeps_attributes=facts.keeps_attributes,
            keeps_mtime=facts.keeps_mtime,
            max_key_bytes=facts.max_key_bytes,
        )
        with store.transaction():
            inodes.insert_root(store, mode=0o040755, uid=0, gid=0, now_ns=self.clock.now_ns())
        self.tree = Tree(store, table, self.clock, policy, self._grew)
        holes = Holes()
        evictor = Evictor(
            store, table, self.files, self.clock, limit_bytes=cache_bytes, holes=holes
        )
        self.space = Space(cache_bytes, 0, evictor, disk_free=lambda: 1 << 40, holes=holes)
        _, used, dirty = contents.totals(store)
        self.space.adopt(used, dirty)
        opening.measure_holes(store, self.files, holes)
        self.fetcher = Fetcher(backend, self.tree, self.space, timeout_s=timeout_s)
        self.content = Content(
            store,
            table,
            self.files,
            self.space,
            evictor,
            self.fetcher,
            self.clock,
            upload_delay_ns=delay_ns,
            journal_grew=self._grew,
        )
        self._make_background(facts, device, refresh_s, timeout_s, slots, delay_ns)

    def _make_background(
        self,
        facts: Capabilities,
        device: str,
        refresh_s: float,
        timeout_s: float,
        slots: int,
        delay_ns: int,
    ) -> None:
        """What works behind the foreground."""
        self.adopter = Adopter(
            self.store,
            self.table,
            self.tree,
            self.content,
            self.backend,
            self.notifier,
            self.clock,
            defaults=Defaults(0, 0, 0o644, 0o755),
            device=device,
        )
        self.ordering = Ordering(self.store, self.table, self.tree, facts)
        self.poller = Poller(
            self.store,
            self.table,
            self.tree,
            self.adopter,
            self.backend,
            self.ordering,
            self.clock,
            refresh_s=refresh_s,
            timeout_s=timeout_s,
        )
        promise = Promise(
            self.store,
            self.table,
            self.tree,
            self.backend,
            self.poller,
            self.ordering,
            self.clock,
            device=device,
        )
        self.deletions = Deletions(self.store, self.tree, self.content, self.clock)
        self.uploader = Uploader(
            self.store,
            self.table,
            Uploads(
                promise,
                self.content,
                Puts(promise, self.content, self.adopter),
                Copies(promise, self.content, self.adopter, facts),
                Moves(promise, self.adopter, facts),
                self.deletions,
            ),
            self.clock,
            slots=slots,
            upload_delay_ns=delay_ns,
        )
        self.vfs = Vfs(
            self.store,
            self.table,
            self.tree,
            self.content,
            self.adopter,
            self.poller,
            self.backend,
            AccessTimes(self.store, self.table, self.clock, Access()),
            Xattrs(self.store, self.table, self.tree, lists=True),
            uploaded=self.uploader.uploaded,
        )

    def _grew(self) -> None:
        if self.is_started:
            self.uploader.poke()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as services:
            await services.start(self.fetcher.run, self.adopter)
            await services.start(self.poller.run)
            await services.start(self.content.run)
            await services.start(self.uploader.run)
            services.start_soon(Leftovers(self.store, self.backend).run)
            self.is_started = True
            task_status.started()


class Machine:
    """A computer with a disk, on which the bucket is mounted now and then."""

    def __init__(
        self,
        home: Path,
        bucket: MemoryStore,
        device: str,
        nursery: trio.Nursery,
        *,
        refresh_s: float = 1.0,
        upload_delay_s: float = 1.0,
        slots: int = 4,
        cache_bytes: int = 1 << 30,
        timeout_s: float = 30.0,
        backend: Backend | None = None,
    ) -> None:
        self._disks = home
        self._disk = 0
        self.bucket = bucket
        self.device = device
        self.backend = MemoryBackend(bucket) if backend is None else cast("MemoryBackend", backend)
        self._nursery = nursery
        self._refresh_s = refresh_s
        self._upload_delay_s = upload_delay_s
        self._slots = slots
        self._cache_bytes = cache_bytes
        self._timeout_s = timeout_s
        self._running: Engines | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self.requests: list[tuple[str, str]] = []
        """Every step the backend was asked for, in order."""
        self.on_step: Callable[[str, str], Awaitable[None]] | None = None
        """What the network does: may sleep, raise, or never return."""
        if backend is None:
            self.backend.faults = self._step

    @property
    def home(self) -> Path:
        return self._disks / f"{self.device}-{self._disk}"

    @property
    def up(self) -> Engines:
        assert self._running is not None, "not started"
        return self._running

    @property
    def is_up(self) -> bool:
        return self._running is not None

    async def _step(self, step: str, key: str) -> None:
        self.requests.append((step, key))
        if self.on_step is not None:
            await self.on_step(step, key)

    # -- coming and going ----------------------------------------------------------------

    def check_disk(self, *, repair: bool = False) -> fsck.Report:
        """csyncfs fsck, while it is not mounted."""
        places = fsck.Places(self.home / "state", self.home / "cache")
        return fsck.check(places, repair=repair)

    async def start(self, *, check: bool = True) -> None:
        """Mount. However it ended before, its disk is sound."""
        if check and (self.home / "state").exists():
            found = self.check_disk().findings
            assert found == [], found
        on_step, self.on_step = self.on_step, None
        facts = await self.backend.connect()
        self.on_step = on_step
        engines = Engines(
            self.home,
            self.backend,
            facts,
            device=self.device,
            refresh_s=self._refresh_s,
            upload_delay_s=self._upload_delay_s,
            slots=self._slots,
            cache_bytes=self._cache_bytes,
            timeout_s=self._timeout_s,
        )
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        await self._nursery.start(self._serve, engines, self._scope, self._ended)
        self._running = engines

    async def _serve(
        self,
        engines: Engines,
        scope: trio.CancelScope,
        ended: trio.Event,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        try:
            with scope:
                await engines.run(task_status=task_status)
        finally:
            ended.set()

    async def stop(self) -> None:
        """A clean unmount, with or without everything sent."""
        engines = self.up
        engines.content.save_all()
        await self._end()
        engines.content.save_all()
        recovery.note_clean_stop(engines.store)
        self._close(engines)

    async def crash(self, engines: Engines | None = None) -> None:
        """kill -9: what is on the disk at this moment is what the next start finds."""
        engines = engines or self.up
        self.freeze_disk()
        await self._end()
        self._close(engines)

    def freeze_disk(self) -> None:
        """From now on the mount works on a disk that nobody will see again."""
        before = self.home
        self._disk += 1
        shutil.copytree(before, self.home)

    async def _end(self) -> None:
        self._running = None
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    @staticmethod
    def _close(engines: Engines) -> None:
        for live in engines.table:
            if live.fd >= 0:
                os.close(live.fd)
        engines.store.close()

    async def end(self) -> None:
        if self._running is not None:
            engines = self._running
            await self._end()
            self._close(engines)

    # -- the journal ---------------------------------------------------------------------

    def intents(self) -> list[Intent]:
        rows = self.up.store.all("SELECT seq FROM intent ORDER BY seq")
        found = (journal.get(self.up.store, row[0]) for row in rows)
        return [intent for intent in found if intent is not None]

    async def flush(self) -> None:
        """Everything that waits is sent; fails if that takes for ever."""
        engines = self.up
        engines.content.save_all()
        with trio.move_on_after(SETTLE_S) as waiting:
            await engines.uploader.drain(lambda _: None)
        assert not waiting.cancelled_caught, f"{self.device} never drained: {self.intents()}"

    async def look(self) -> None:
        """List every directory anew and wait for what follows from it."""
        await trio.sleep(self._refresh_s + 1)
        pending = [ROOT]
        while pending:
            ino = pending.pop()
            row = inodes.get(self.up.store, ino)
            if row is None or row.nlink == 0:
                continue
            stream = await self.up.vfs.open_dir(ino)
            await trio.sleep(0.5)
            pending += [r.id for _, _, r in self.up.vfs.read_dir(stream, 0, 1 << 20) if r.is_dir]

    def conflicts(self) -> list[Conflict]:
        return open_ones(self.up.store)

    def setting(self, name: str, value: str) -> None:
        with self.up.store.transaction():
            settings.put(self.up.store, name, value)

    # -- what programs do ----------------------------------------------------------------

    async def row(self, path: str) -> InodeRow:
        """stat(2), by path. Raises ENOENT."""
        ino = ROOT
        row = self.up.vfs.getattr(ROOT)
        for part in [p for p in path.split("/") if p]:
            found = await self.up.vfs.lookup(ino, os.fsencode(part))
            if found is None:
                raise FileNotFoundError(path)
            row, ino = found, found.id
        return row

    async def exists(self, path: str) -> bool:
        try:
            await self.row(path)
        except FileNotFoundError:
            return False
        return True

    async def split(self, path: str) -> tuple[InodeId, bytes]:
        parent, _, name = path.rpartition("/")
        return (await self.row(parent)).id, os.fsencode(name)

    async def open(self, path: str, flags: int = os.O_RDONLY) -> FileHandle:
        """open(2); O_CREAT makes what is not there."""
        parent, name = await self.split(path)
        row = await self.up.vfs.lookup(parent, name)
        if row is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(path)
            return (await self.up.vfs.create(parent, name, 0o644, 0, 0))[0]
        fh, _ = await self.up.vfs.open(row.id, flags)
        return fh

    async def close(self, fh: FileHandle) -> None:
        await self.up.vfs.flush(fh)
        await self.up.vfs.release(fh)

    async def write(self, path: str, content: bytes) -> None:
        """Create or overwrite, and close."""
        fh = await self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            if content:
                await self.up.vfs.write(fh, 0, content)
        finally:
            await self.close(fh)

    async def patch(self, path: str, offset: int, content: bytes) -> None:
        """Write into an existing file, and close."""
        fh = await self.open(path, os.O_WRONLY)
        try:
            await self.up.vfs.write(fh, offset, content)
        finally:
            await self.close(fh)

    async def read(self, path: str) -> bytes:
        fh = await self.open(path)
        try:
            return await self.read_handle(fh)
        finally:
            await self.close(fh)

    async def read_handle(self, fh: FileHandle) -> bytes:
        content = b""
        while block := await self.up.vfs.read(fh, len(content), 1 << 20):
            content += block
        return content

    async def list(self, path: str = "") -> list[str]:
        stream = await self.up.vfs.open_dir((await self.row(path)).id)
        entries = self.up.vfs.read_dir(stream, 0, 1 << 20)
        return sorted(os.fsdecode(name) for _, name, _ in entries)

    async def mkdir(self, path: str) -> None:
        await self.up.vfs.mkdir(*await self.split(path), 0o755, 0, 0)

    async def chmod(self, path: str, mode: int) -> None:
        row = await self.row(path)
        await self.up.vfs.setattr(row.id, Changes(mode=mode), None)

    async def link(self, old: str, new: str) -> None:
        ino = (await self.row(old)).id
        parent, name = await self.split(new)
        await self.up.vfs.lookup(parent, name)
        await self.up.vfs.link(ino, parent, name)

    async def names(self, path: str) -> Sequence[str]:
        """Every path of the same file."""
        found = aliases.paths_of(self.up.store, (await self.row(path)).id)
        return sorted(os.fsdecode(name) for name in found)

    async def symlink(self, target: str, path: str) -> None:
        await self.up.vfs.symlink(*await self.split(path), os.fsencode(target), 0, 0)

    async def readlink(self, path: str) -> str:
        return os.fsdecode(await self.up.vfs.readlink((await self.row(path)).id))

    async def unlink(self, path: str) -> None:
        await self.up.vfs.unlink(*await self.split(path))

    async def rmdir(self, path: str) -> None:
        await self.up.vfs.rmdir(*await self.split(path))

    async def rename(self, old: str, new: str) -> None:
        # As the kernel does: look up both names first.
        old_at, new_at = await self.split(old), await self.split(new)
        await self.up.vfs.lookup(*old_at)
        await self.up.vfs.lookup(*new_at)
        await self.up.vfs.rename(*old_at, *new_at, replace=True)

    async def exchange(self, a: str, b: str) -> None:
        await self.row(a)
        await self.row(b)
        await self.up.vfs.exchange(*await self.split(a), *await self.split(b))

    async def show(self, path: str = "") -> dict[str, Content_]:
        """The whole tree, read through the mount."""
        shown: dict[str, Content_] = {}
        for name in await self.list(path):
            child = f"{path}/{name}" if path else name
            row = await self.row(child)
            if row.is_dir:
                shown[child] = None
                shown |= await self.show(child)
            else:
                shown[child] = await self.read(child)
        return shown


def show_bucket(bucket: MemoryStore) -> dict[str, Content_]:
    """The tree another program would see in the bucket."""
    shown: dict[str, Content_] = {}
    for key in list(bucket.keys()):
        if key in (RESERVED_DIR, f"{RESERVED_DIR}moving/"):
            continue
        parts = key.rstrip("/").split("/")
        for depth in range(1, len(parts)):
            shown["/".join(parts[:depth])] = None
        is_beside = not key.endswith("/") and bucket.has_children(f"{key}/")
        name = "/".join(parts)
        if is_beside or (bucket.version(f"{name}/") and not key.endswith("/")):
            name = f"{name}％f"  # noqa: RUF001 (what csyncfs.names calls it)
            if bucket.version(name):
                *above, last = parts
                hashed = names.hashed_name(f"{last}/", utf8_only=True).name
                name = "/".join([*above, os.fsdecode(hashed)])
        shown[name] = None if key.endswith("/") else bucket.read(key)
    return shown


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for what a thread works on: the test's time does not stop for threads."""
    for _ in range(5000):
        if condition():
            return
        await trio.to_thread.run_sync(time.sleep, 0.002)
    raise AssertionError(f"never: {what}")


def is_conflict(path: str) -> bool:
    return names.is_conflict_name(os.fsencode(path.rpartition("/")[2]))


async def agree(*machines: Machine) -> dict[str, Content_]:
    """Let everything come to rest; every mount must show what the bucket holds."""
    for _ in range(4):
        for machine in machines:
            await machine.flush()
        for machine in machines:
            await machine.look()
    for machine in machines:
        await machine.flush()
        assert machine.intents() == [], f"{machine.device} has promises left"
    shown = show_bucket(machines[0].bucket)
    for machine in machines:
        must_agree(f"on {machine.device}", await machine.show(), shown)
    return shown


@asynccontextmanager
async def machines(
    home: Path, bucket: MemoryStore, *devices: str, start: bool = True, **options: float
) -> AsyncGenerator[list[Machine], None]:
    """Computers on one bucket, all ended with the block."""
    async with trio.open_nursery() as nursery:
        made = [
            Machine(home, bucket, device, nursery, **options)  # type: ignore[arg-type]
            for device in devices
        ]
        try:
            if start:
                for machine in made:
                    await machine.start()
            yield made
        finally:
            with trio.CancelScope(shield=True):
                for machine in made:
                    await machine.end()
