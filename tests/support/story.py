"""One generated list, lived through by a mount and by the oracle side by side.

Owns what is compared, and when: the result of every call, the whole tree after every call, the
bucket when everything is sent, and what a machine that never saw any of it finds there.
"""

import dataclasses
import errno
import random
import shutil
import signal
import stat
import tempfile
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
import trio.testing

from csyncfs import names
from csyncfs.backends.base import Capabilities
from csyncfs.backends.memory import MemoryBackend
from csyncfs.types import RESERVED_DIR
from tests.support.driven import Driven, Outcome, outcome
from tests.support.engines import Machine, machines
from tests.support.fuzz import KeepingStore
from tests.support.invariants import check_machine
from tests.support.operations import Call, Operation, World
from tests.support.oracle import Node, Oracle, Seen

_REAL_S = 30.0
_TROUBLE = frozenset({errno.EIO, errno.ETIMEDOUT, errno.EAGAIN})
_RAM = Path("/dev/shm")


@dataclass(frozen=True)
class Flavour:
    """A kind of store, and how a machine is set up."""

    real_dirs: bool = False
    content_tags: bool = False
    lists_attributes: bool = False
    conditional_writes: bool = True
    can_copy: bool = True
    can_move_trees: bool = True
    part_bytes: int = 8 << 20
    page_items: int = 1000
    slots: int = 4
    upload_delay_s: float = 1.0

    def __repr__(self) -> str:
        usual = Flavour.__dataclass_fields__
        odd = {name: getattr(self, name) for name in usual}
        said = (f"{k}={v!r}" for k, v in odd.items() if v != usual[k].default)
        return f"Flavour({', '.join(said)})"

    def bucket(self) -> KeepingStore:
        bucket = KeepingStore(real_dirs=self.real_dirs, content_tags=self.content_tags)
        bucket.lists_attributes = self.lists_attributes
        bucket.conditional_writes = self.conditional_writes
        bucket.part_bytes, bucket.page_items = self.part_bytes, self.page_items
        return bucket


FLAVOURS = (
    Flavour(),
    Flavour(real_dirs=True),
    Flavour(content_tags=True, upload_delay_s=0.0),
    Flavour(content_tags=True, can_copy=False, part_bytes=3000, page_items=2),
    Flavour(real_dirs=True, content_tags=True, lists_attributes=True, slots=1),
    Flavour(conditional_writes=False, upload_delay_s=20.0, slots=2),
    Flavour(real_dirs=True, upload_delay_s=0.0, part_bytes=3000, page_items=2),
    Flavour(real_dirs=True, can_move_trees=False),
)


class _Limited(MemoryBackend):
    """A store that can do less than it could."""

    def __init__(self, bucket: KeepingStore, flavour: Flavour) -> None:
        super().__init__(bucket)
        self._flavour = flavour

    async def connect(self) -> Capabilities:
        facts = await super().connect()
        return dataclasses.replace(
            facts,
            server_copy=facts.server_copy and self._flavour.can_copy,
            move_tree=facts.move_tree and self._flavour.can_move_trees,
        )


class Difference(AssertionError):
    """The mount and the oracle do not agree."""


@dataclass
class Story:
    """The two sides, and what happened so far."""

    driven: Driven
    bucket: KeepingStore
    flavour: Flavour
    oracle: Oracle = field(default_factory=Oracle)
    told: list[str] = field(default_factory=list[str])

    # -- one step ------------------------------------------------------------------------

    async def step(self, operation: Operation, world: World) -> None:
        for call in operation.calls(world):
            self.told.append(str(call))
            surroundings = getattr(self, f"_{call.name}", None)
            if surroundings is not None:
                await surroundings(call)
            elif hasattr(self.oracle, call.name):
                result = await self._compare(call)
                if call.name == "open" and result[0] == "error":
                    return
            else:
                await getattr(self.driven, call.name)(*call.args)
            self._same_tree()

    async def _compare(self, call: Call) -> Outcome:
        may_fail = self.driven.may_fail(call.name)
        found = await outcome(getattr(self.driven, call.name)(*call.args))
        if may_fail and found[0] == "error" and found[1] in _TROUBLE:
            self.told.append(f"  {found}")
            return found
        expected = self.expected(call)
        if found != expected:
            raise Difference(f"{call}: {_short(found)}, should be {_short(expected)}")
        return found

    def expected(self, call: Call) -> Outcome:
        try:
            return "ok", getattr(self.oracle, call.name)(*call.args)
        except OSError as exc:
            return "error", exc.errno

    async def _restart(self, call: Call) -> None:
        await self._close_all()
        await self.driven.restart(*call.args)

    async def _crash(self, call: Call) -> None:
        await getattr(self.driven, call.name)(*call.args)
        found = {
            path: seen.content
            for path, seen in self.driven.show().items()
            if isinstance(seen.content, bytes)
        }
        wrong = self.oracle.crash(found)
        if wrong:
            raise Difference(f"after {call}: {wrong}")

    _crash_at = _crash

    async def _close_all(self) -> None:
        for slot in list(self.oracle.open_files):
            await self._compare(Call("close", (slot,)))

    def _same_tree(self) -> None:
        check_machine(self.driven.machine)
        self._learn_times(shown := self.driven.show())
        must_be_same("here", shown, self.oracle.show())

    def _learn_times(self, shown: dict[str, Seen]) -> None:
        """What the clock made of an mtime is not known before, but must stay from then on."""
        for path, node in [("", self.oracle.root), *self.oracle.walk()]:
            if node.mtime_ns is None and path in shown:
                node.mtime_ns = shown[path].mtime_ns

    # -- the end -------------------------------------------------------------------------

    async def end(self, elsewhere: Machine) -> None:
        """Everything reaches the bucket, and from there another machine."""
        self.told.append("the end")
        await self._close_all()
        self.driven.network.calm()
        await self.driven.machine.flush()
        self._same_tree()
        intents = self.driven.machine.intents()
        if intents or self.driven.machine.conflicts():
            raise Difference(f"left: {intents} {self.driven.machine.conflicts()}")
        self._same_bucket()
        await self.driven.machine.stop()
        await elsewhere.start()
        other = Driven(elsewhere, self.bucket)
        await self._same_elsewhere(other)

    def _same_bucket(self) -> None:
        expected = {self._key(path, node): node for path, node in self.oracle.walk()}
        keys = {k for k in list(self.bucket.keys()) if not k.startswith(RESERVED_DIR)}
        if keys != expected.keys():
            raise Difference(f"keys {sorted(keys)}, should be {sorted(expected)}")
        for key, node in expected.items():
            told = self.bucket.attributes(key)
            content = node.target.encode(errors="surrogateescape") or node.data
            mtime = told.mtime_ns if node.is_dir else node.mtime_ns
            wanted = (node.type | node.mode, 0, 0, mtime, node.xattrs)
            found = (told.mode, told.uid, told.gid, told.mtime_ns, dict(told.xattrs))
            if found != wanted or self.bucket.read(key) != content:
                raise Difference(
                    f"in the bucket {key}: {found} {self.bucket.read(key)[:99]!r}, "
                    f"should be {wanted} {content[:99]!r}"
                )

    def _key(self, path: str, node: Node) -> str:
        utf8_only = not self.flavour.real_dirs
        key = "/".join(
            names.to_segment(name.encode(errors="surrogateescape"), utf8_only=utf8_only)
            for name in path.split("/")
        )
        return f"{key}/" if node.is_dir else key

    async def _same_elsewhere(self, other: Driven) -> None:
        await other.machine.look()
        for _ in range(200):
            untold = other.machine.up.store.one("SELECT 1 FROM inode WHERE told = 0")
            if untold is None:
                break
            await trio.sleep(0.5)
        expected = {
            path: dataclasses.replace(seen, mtime_ns=None) if stat.S_ISDIR(seen.mode) else seen
            for path, seen in self.oracle.show().items()
        }
        shown = {
            path: dataclasses.replace(seen, mtime_ns=None) if stat.S_ISDIR(seen.mode) else seen
            for path, seen in other.show().items()
        }
        must_be_same("elsewhere", shown, expected)
        for path, node in self.oracle.walk():
            if node.type == stat.S_IFLNK:
                found = await outcome(other.readlink(path))
                if found != ("ok", node.target):
                    raise Difference(f"elsewhere, readlink {path}: {found}")
            elif node.type == stat.S_IFREG:
                await other.open(0, path, 0, 0)
                found = await outcome(other.read(0, 0, 1 << 20))
                await other.close(0)
                if found != ("ok", node.data):
                    raise Difference(f"elsewhere, read {path}: {_short(found)}")
        check_machine(other.machine)
        if other.machine.intents():
            raise Difference(f"elsewhere, left: {other.machine.intents()}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 300 else f"{text[:200]}...{text[-90:]}"


def must_be_same(where: str, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Fails with every name that looks otherwise than it should."""
    if found == expected:
        return
    lines = [
        f"{path!r}: {_short(found.get(path, 'absent'))}\n"
        f"    should be {_short(expected.get(path, 'absent'))}"
        for path in sorted(found.keys() | expected.keys())
        if found.get(path) != expected.get(path)
    ]
    raise Difference(f"{where}:\n  " + "\n  ".join(lines))


# -- running -------------------------------------------------------------------------------


@contextmanager
def deterministic(seed: int) -> Generator[None, None, None]:
    """The order of tasks and all delays from one seed. What threads do is done at once: the
    virtual clock does not wait for them."""
    random.seed(seed)
    run_sync = trio.to_thread.run_sync

    async def at_once(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*args)

    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[reportPrivateUsage]
    trio._core._run._r.seed(seed)  # type: ignore[reportPrivateUsage]
    trio.to_thread.run_sync = at_once
    try:
        yield
    finally:
        trio.to_thread.run_sync = run_sync


async def _live(operations: list[Operation], flavour: Flavour, home: Path, told: list[str]) -> None:
    bucket = flavour.bucket()
    options = {"slots": flavour.slots, "upload_delay_s": flavour.upload_delay_s}
    async with machines(home, bucket, "a", "b", start=False, **options) as (a, b):
        for machine in (a, b):
            machine.backend = _Limited(bucket, flavour)
            machine.backend.faults = machine._step  # type: ignore[reportPrivateUsage]
        driven = Driven(a, bucket)
        await driven.start()
        story = Story(driven, bucket, flavour, told=told)
        await driven.listdir("")
        world = World(story.oracle, links=driven.has_links)
        for operation in operations:
            await story.step(operation, world)
        await story.end(b)


@contextmanager
def ends_within(seconds: float) -> Generator[None, None, None]:
    """Real time: a loop that goes round and round on the virtual clock must end as well."""
    token = trio.lowlevel.current_trio_token()
    scope = trio.CancelScope()

    def too_late(*_: object) -> None:
        token.run_sync_soon(scope.cancel)

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with scope:
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if scope.cancelled_caught:
        raise Difference(f"no end within {seconds} s")


def live(operations: list[Operation], flavour: Flavour) -> None:
    """Run one list; fails with what was different, and how it came to that."""

    async def main(home: Path, told: list[str]) -> None:
        await _live(operations, flavour, home, told)

    run_story(main)


def run_story(main: Callable[[Path, list[str]], Awaitable[None]]) -> None:
    """Run it on a disk in memory, by the virtual clock; what it told is told if it fails."""
    told: list[str] = []
    home = Path(tempfile.mkdtemp(prefix="csyncfs-model-", dir=_RAM if _RAM.is_dir() else None))

    async def within_time() -> None:
        with ends_within(_REAL_S):
            await main(home, told)

    try:
        with deterministic(1):
            trio.run(within_time, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as exc:
        exc.add_note("\n".join(["", *told]))
        raise
    finally:
        shutil.rmtree(home, ignore_errors=True)
