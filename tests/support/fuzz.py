"""Random lives of machines on one bucket, and the oracle that says what must have survived.

Files are made of blocks, every block written carries a token of its own. A token that a
closed file holds has to be found in the end, unless somebody who saw it overwrote or removed
it. Everything is drawn from one seed, the order of tasks too.
"""

import errno
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
import trio.testing

from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import Ambiguous, BackendError, FsError, Offline, Throttled
from csyncfs.extents import Extents
from csyncfs.store import contents, inodes
from csyncfs.store.inodes import InodeRow
from csyncfs.types import Attributes, FileHandle, InodeId, RemoteVersion
from tests.support.engines import Engines, Machine, agree, machines
from tests.support.invariants import check_machine

_BLOCK = 8
_PATHS = ("f", "g", "d", "e", "d/f", "d/g", "d/e", "e/f", "e/d", "d/e/f", "e/d/g")
_FOREIGN_KEYS = ("f", "g", "d/f", "d/g", "e/f", "d/e/f", "e/d/g", "d/", "new/f")
_EXPECTED = frozenset(
    {
        *(errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR),
        *(errno.EINVAL, errno.ESTALE, errno.ETIMEDOUT, errno.EIO, errno.EPERM),
    }
)


class KeepingStore(MemoryStore):
    """A bucket that remembers the content of every version it ever had."""

    def __init__(self, *, real_dirs: bool, content_tags: bool) -> None:
        super().__init__(real_dirs=real_dirs, content_tags=content_tags)
        self.versions: dict[str, bytes] = {}

    def _made(self, content: bytes, attributes: Attributes, put_id: str | None, device: str | None):  # type: ignore[no-untyped-def]
        stored = super()._made(content, attributes, put_id, device)
        self.versions[stored.version.tag] = content
        return stored


class Life:
    """One random story."""

    def __init__(
        self, seed: int, bucket: KeepingStore, steps: int, *, patches: bool, links: bool
    ) -> None:
        self.random = random.Random(seed)
        self.bucket = bucket
        self._steps = steps
        self._patches = patches
        self._links = links
        self._tokens = 0
        self.must: dict[bytes, str] = {}
        """Tokens that have to be found in the end, and where they were written."""
        self.story: list[str] = []
        self._is_calm = False
        self._held: dict[str, tuple[Engines, FileHandle, InodeId]] = {}

    async def run(self, made: list[Machine]) -> None:
        for machine in made:
            machine.on_step = self._network
        for _ in range(self._steps):
            await self._one_step(made)
            if self.random.random() < 0.6:
                await trio.sleep(self.random.choice((0.01, 0.3, 1.1, 4.0)))
            for machine in made:
                if machine.is_up:
                    check_machine(machine)
        self._is_calm = True
        for machine in made:
            if not machine.is_up:
                await machine.start()
            if machine.device in self._held:
                await self._write_held(machine)
        shown = await agree(*made)
        for machine in made:
            check_machine(machine)
        found = b"\n".join(content for content in shown.values() if content is not None)
        for token, where in self.must.items():
            assert token in found, f"{token!r} written to {where} is lost"

    async def _network(self, step: str, key: str) -> None:
        if self._is_calm:
            return
        drawn = self.random.random()
        if drawn < 0.25:
            await trio.sleep(self.random.choice((0.05, 0.5, 2.0)))
        elif drawn < 0.27 and ":" not in step:
            raise self.random.choice((Offline, Throttled))("injected")
        elif drawn < 0.29 and step.endswith(":done"):
            raise Ambiguous("injected: the reply was lost")

    # -- the oracle ----------------------------------------------------------------------

    def token(self, who: str) -> bytes:
        self._tokens += 1
        return f"<{who}{self._tokens:05d}>".encode()[:_BLOCK].ljust(_BLOCK, b".")

    def _view(self, machine: Machine, row: InodeRow) -> bytes:
        """What a program would read, without touching anything."""
        up = machine.up
        row = up.tree.file_of(row)
        live = up.table.get(row.id)
        row = up.table.overlay(row)
        base: RemoteVersion | None = live.base if live is not None else row.base
        content = bytearray(self.bucket.versions[base.tag] if base is not None else b"")
        size = live.size if live is not None else row.size
        content = content[:size].ljust(size, b"\0")
        known = contents.get(up.store, row.id)
        present = live.present if live is not None else (known[0] if known else Extents())
        path = up.files._path(row.id, dirty=bool(row.dirty))  # type: ignore[reportPrivateUsage]
        if present:
            stored = path.read_bytes().ljust(size, b"\0")
            for span in present:
                content[span.start : span.end] = stored[span.start : span.end]
        return bytes(content)

    def _destroy(self, content: bytes) -> None:
        for start in range(0, len(content), _BLOCK):
            self.must.pop(content[start : start + _BLOCK], None)

    def _destroy_name(self, machine: Machine, parent: InodeId, name: bytes) -> None:
        row = inodes.lookup(machine.up.store, parent, name)
        if row is not None and not row.is_dir and not row.is_linked:
            self._destroy(self._view(machine, row))

    # -- steps ---------------------------------------------------------------------------

    async def _one_step(self, made: list[Machine]) -> None:
        if self.random.random() < 0.12:
            self._foreign()
            return
        machine = self.random.choice(made)
        if not machine.is_up:
            self.story.append(f"{machine.device} start")
            await machine.start()
            return
        doing, weights = zip(
            *(
                (self._write, 8),
                (self._patch, 4 if self._patches else 0),
                (self._unlink, 3),
                (self._rename, 7),
                (self._exchange, 1),
                (self._link, 3 if self._links else 0),
                (self._mkdir, 3),
                (self._rmdir, 2),
                (self._read, 3),
                (self._hold, 2),
                (self._write_held, 3),
                (self._chmod, 1),
                (self._look, 3),
                (self._flush, 2),
                (self._crash, 2),
                (self._stop, 1),
            ),
            strict=True,
        )
        step: Callable[[Machine], Awaitable[None]] = self.random.choices(doing, weights)[0]
        try:
            await step(machine)
        except (FileNotFoundError, NotADirectoryError) as exc:
            self.story.append(f"  {type(exc).__name__}")
        except BackendError as exc:
            self.story.append(f"  {exc}")
        except FsError as exc:
            if exc.code not in _EXPECTED:
                raise
            self.story.append(f"  {exc}")

    def _path(self) -> str:
        return self.random.choice(_PATHS)

    def _foreign(self) -> None:
        key = self.random.choice(_FOREIGN_KEYS)
        now = self.bucket.version(key)
        if now is not None and not key.endswith("/"):
            self._destroy(self.bucket.read(key))
        if now is not None and self.random.random() < 0.4:
            if self.bucket.real_dirs and key.endswith("/") and self.bucket.has_children(key):
                return
            self.story.append(f"foreign remove {key}")
            self.bucket.remove(key)
            return
        if self.bucket.real_dirs and not self._fits(key):
            return
        if key.endswith("/"):
            self.story.append(f"foreign mkdir {key}")
            self.bucket.write(key)
            return
        token = self.token("x")
        self.story.append(f"foreign write {key} {token.decode()}")
        self.bucket.write(key, token * 3)
        self.must[token] = f"foreign {key}"

    def _fits(self, key: str) -> bool:
        """A real directory store has one thing a name."""
        parts = key.rstrip("/").split("/")
        above = ["/".join(parts[:n]) for n in range(1, len(parts))]
        other = key.rstrip("/") if key.endswith("/") else key + "/"
        return not any(self.bucket.version(p) for p in [*above, other])

    async def _write(self, machine: Machine) -> None:
        path, token = self._path(), self.token(machine.device)
        self.story.append(f"{machine.device} write {path} {token.decode()}")
        parent, name = await machine.split(path)
        await machine.up.vfs.lookup(parent, name)
        row = inodes.lookup(machine.up.store, parent, name)
        vfs = machine.up.vfs
        if row is None:
            fh, _ = await vfs.create(parent, name, 0o644, 0, 0)
        else:
            before = b"" if row.is_dir else self._view(machine, row)
            fh, _ = await vfs.open(machine.up.tree.file_of(row).id, 0o1001)
            self._destroy(before)
        try:
            await vfs.write(fh, 0, token * self.random.choice((1, 4)))
        finally:
            await machine.close(fh)
        self.must[token] = f"{machine.device} {path}"

    async def _patch(self, machine: Machine) -> None:
        path, token = self._path(), self.token(machine.device)
        parent, name = await machine.split(path)
        row = await machine.up.vfs.lookup(parent, name)
        if row is None or row.is_dir:
            return
        offset = _BLOCK * self.random.randrange(4)
        self.story.append(f"{machine.device} patch {path} {offset} {token.decode()}")
        fh, _ = await machine.up.vfs.open(row.id, 1)
        before = self._view(machine, row)
        try:
            await machine.up.vfs.write(fh, offset, token)
            self._destroy(before[offset : offset + _BLOCK])
        finally:
            await machine.close(fh)
        self.must[token] = f"{machine.device} {path}"

    async def _hold(self, machine: Machine) -> None:
        """Open a file for writing, read it, and leave it open."""
        if machine.device in self._held:
            return
        path = self._path()
        self.story.append(f"{machine.device} hold {path}")
        row = await machine.row(path)
        if row.is_dir:
            return
        fh, _ = await machine.up.vfs.open(row.id, os.O_RDWR)
        self._held[machine.device] = (machine.up, fh, row.id)
        await machine.read_handle(fh)

    async def _write_held(self, machine: Machine) -> None:
        """Write into the file that was left open, wherever its name is by now, and close."""
        if machine.device not in self._held:
            return
        up, fh, ino = self._held.pop(machine.device)
        if up is not machine.up:
            return
        token = self.token(machine.device)
        self.story.append(f"{machine.device} write held ino={ino} {token.decode()}")
        row = up.table.overlay(up.tree.row(ino))
        live = up.table.get(ino)
        has_name = row.nlink > 0 or (live is not None and live.lost is not None)
        before = self._view(machine, row)
        try:
            await up.vfs.write(fh, 0, token)
            self._destroy(before[:_BLOCK])
        finally:
            await machine.close(fh)
        if has_name:
            self.must[token] = f"{machine.device} held ino={ino}"

    async def _unlink(self, machine: Machine) -> None:
        path = self._path()
        self.story.append(f"{machine.device} unlink {path}")
        parent, name = await machine.split(path)
        await machine.up.vfs.lookup(parent, name)
        self._destroy_name(machine, parent, name)
        await machine.up.vfs.unlink(parent, name)

    async def _rename(self, machine: Machine) -> None:
        old, new = self._path(), self._path()
        self.story.append(f"{machine.device} rename {old} {new}")
        old_at, new_at = await machine.split(old), await machine.split(new)
        await machine.up.vfs.lookup(*old_at)
        await machine.up.vfs.lookup(*new_at)
        source = inodes.lookup(machine.up.store, *old_at)
        victim = inodes.lookup(machine.up.store, *new_at)
        lost = b""
        if victim and source and self._is_lost(victim, source):
            lost = self._view(machine, victim)
        await machine.up.vfs.rename(*old_at, *new_at, replace=True)
        self._destroy(lost)

    @staticmethod
    def _is_lost(victim: InodeRow, source: InodeRow) -> bool:
        """Whether nothing is left of a file over which another one is renamed."""
        return not victim.is_dir and not victim.is_linked and victim.id != source.id

    async def _link(self, machine: Machine) -> None:
        old, new = self._path(), self._path()
        self.story.append(f"{machine.device} link {old} {new}")
        await machine.link(old, new)

    async def _exchange(self, machine: Machine) -> None:
        old, new = self._path(), self._path()
        self.story.append(f"{machine.device} exchange {old} {new}")
        await machine.exchange(old, new)

    async def _mkdir(self, machine: Machine) -> None:
        path = self._path()
        self.story.append(f"{machine.device} mkdir {path}")
        await machine.row(path.rpartition("/")[0])
        await machine.exists(path)
        await machine.mkdir(path)

    async def _rmdir(self, machine: Machine) -> None:
        path = self._path()
        self.story.append(f"{machine.device} rmdir {path}")
        await machine.rmdir(path)

    async def _read(self, machine: Machine) -> None:
        path = self._path()
        self.story.append(f"{machine.device} read {path}")
        row = await machine.row(path)
        if not row.is_dir:
            await machine.read(path)

    async def _chmod(self, machine: Machine) -> None:
        path = self._path()
        self.story.append(f"{machine.device} chmod {path}")
        await machine.chmod(path, self.random.choice((0o600, 0o640, 0o755)))

    async def _look(self, machine: Machine) -> None:
        self.story.append(f"{machine.device} look")
        await machine.look()

    async def _flush(self, machine: Machine) -> None:
        self.story.append(f"{machine.device} flush")
        await machine.flush()

    async def _crash(self, machine: Machine) -> None:
        self.story.append(f"{machine.device} crash")
        await machine.crash()

    async def _stop(self, machine: Machine) -> None:
        self.story.append(f"{machine.device} stop")
        await machine.stop()


def live_once(
    seed: int,
    home: Path,
    *,
    steps: int,
    real_dirs: bool,
    content_tags: bool,
    links: bool = False,
) -> None:
    """Run one story; a failure tells the seed and the story."""
    draw = random.Random(seed)
    bucket = KeepingStore(real_dirs=real_dirs, content_tags=content_tags)
    life = Life(seed, bucket, steps, patches=draw.random() < 0.5, links=links)
    random.seed(seed)
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[reportPrivateUsage]
    trio._core._run._r.seed(seed)  # type: ignore[reportPrivateUsage]

    async def main() -> None:
        async with machines(home, bucket, "a", "b", slots=draw.choice((1, 2, 4))) as made:
            await life.run(made)

    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as exc:
        story = "\n".join(life.story)
        exc.add_note(f"seed={seed} real_dirs={real_dirs} tags={content_tags}\n{story}")
        raise
