"""The composition root: makes every part, runs the services, stops them in order.

Nothing is wired after construction. Stop order: the kernel loop ends, no new intents start,
the queue drains within its budget, services are cancelled, the store closes last.
"""

import contextlib
import functools
import logging
import os
import resource
import signal
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from csyncfs import opening, recovery, waits
from csyncfs.adopt import Adopter
from csyncfs.arrivals import Defaults
from csyncfs.atime import Access, AccessTimes
from csyncfs.backends.base import Capabilities
from csyncfs.cache.files import ContentFiles
from csyncfs.cache.holes import Holes
from csyncfs.cache.space import Space, disk_free_bytes
from csyncfs.changes import Follower
from csyncfs.clock import WallClock
from csyncfs.config import Fsync, MountConfig
from csyncfs.content import Content
from csyncfs.control import ControlServer
from csyncfs.copies import Copies
from csyncfs.deletions import Deletions
from csyncfs.errors import AccessDenied, ConfigError, CsyncError, NoSuchStore, StoreError
from csyncfs.eviction import Evictor
from csyncfs.fetcher import Fetcher
from csyncfs.fuse import Adapter, KernelNotifier, Session
from csyncfs.inode import InodeTable
from csyncfs.leftovers import Leftovers
from csyncfs.moves import Moves
from csyncfs.ordering import Ordering
from csyncfs.places import TreePolicy
from csyncfs.poller import Poller
from csyncfs.promise import Promise
from csyncfs.puts import Puts
from csyncfs.steering import Steering
from csyncfs.store import contents, inodes, journal, settings
from csyncfs.store.db import Store, open_store
from csyncfs.transfer.client import TransferClient
from csyncfs.tree import Tree
from csyncfs.uploader import Uploader
from csyncfs.uploads import Uploads
from csyncfs.vfs import Vfs
from csyncfs.xattrs import Xattrs

log = logging.getLogger(__name__)

OnReady = Callable[[list[str]], None]

_NS: Final = 1_000_000_000
_CHECKPOINT_S: Final = 2.0
# The first commit after a checkpoint waits for the disk (50 to 100 ms on a slow one), and all
# programs with it. So the log is emptied when it rests, or after so many changed rows: about
# 30 MiB of it.
_CHECKPOINT_ROWS: Final = 5000
# Programs wait for every answer of this process: ahead of work that nobody waits for.
_NICE: Final = -5
_SPACE_EVERY_S: Final = 300.0
# A call that takes longer gets a line in the log; one that needs the network fails at its timeout.
_SLOW_S: Final = 10.0


def run(config: MountConfig, on_ready: OnReady) -> int:
    """Mount, serve until unmounted or SIGTERM, return the exit code.

    ``on_ready`` gets warnings for the user once the file system answers. Raises CsyncError
    where the mount cannot be made.
    """
    _allow_open_files()
    _hurry()
    store = open_store(config.state_dir)
    try:
        return trio.run(functools.partial(_Mount(config, store).run, on_ready))
    except BaseExceptionGroup as group:
        # Not ``except*``: Python 3.11.2 wraps what is raised in there once more.
        known, rest = group.split(CsyncError)
        if known is None or rest is not None:
            raise
        raise _first(known) from None
    finally:
        store.close()


def _first(group: BaseExceptionGroup[CsyncError]) -> CsyncError:
    """The error worth telling of several at once."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _allow_open_files() -> None:
    """Every open file of a program is a descriptor here: the usual soft limit is 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _hurry() -> None:
    """As root, unless somebody chose otherwise. Uploads are the transfer process's: nicer."""
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) == 0:
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)


class _Facts:
    """What the store can do, as last found out."""

    def __init__(self, client: TransferClient) -> None:
        self._client = client

    @property
    def move_file(self) -> bool:
        return self._client.capabilities is not None and self._client.capabilities.move_file

    @property
    def move_tree(self) -> bool:
        return self._client.capabilities is not None and self._client.capabilities.move_tree

    @property
    def overwrite_keeps_history(self) -> bool:
        known = self._client.capabilities
        return known is not None and known.overwrite_keeps_history

    @property
    def server_copy(self) -> bool:
        return self._client.capabilities is not None and self._client.capabilities.server_copy


class _Mount:
    """One mount, from the open store to the last checkpoint."""

    def __init__(self, config: MountConfig, store: Store) -> None:
        self._config = config
        self._store = store
        self._warnings: list[str] = []
        self._make_core()
        self._make_engines()

    def _make_core(self) -> None:
        config, store = self._config, self._store
        _claim_store(store, config)
        self._clock = WallClock()
        self._files = ContentFiles(config.cache_dir, config.state_dir)
        self._warnings += recovery.recover(store, self._files, self._clock)
        self._table = InodeTable()
        delay_ns = int(config.upload_delay_s * _NS)
        self._policy = TreePolicy(upload_delay_ns=delay_ns)
        with store.transaction():
            inodes.insert_root(
                store,
                mode=0o040000 | config.dir_mode,
                uid=config.uid,
                gid=config.gid,
                now_ns=self._clock.now_ns(),
            )
        self._client = TransferClient(
            str(config.spec), config.store_options(), memo=settings.get(store, "memo")
        )
        self._notifier = KernelNotifier()
        self._tree = Tree(store, self._table, self._clock, self._policy, self._journal_grew)
        holes = Holes()
        evictor = Evictor(
            store,
            self._table,
            self._files,
            self._clock,
            limit_bytes=config.cache_size_bytes,
            holes=holes,
        )
        self._space = Space(
            config.cache_size_bytes,
            # Content must not take what names and promises need in the end.
            max(config.min_free_bytes, store.reserve_bytes),
            evictor,
            disk_free=lambda: disk_free_bytes([config.cache_dir, config.state_dir]),
            holes=holes,
        )
        _, used, dirty = contents.totals(store)
        self._space.adopt(used, dirty)
        opening.measure_holes(store, self._files, holes)
        self._fetcher = Fetcher(self._client, self._tree, self._space, timeout_s=config.timeout_s)
        self._content = Content(
            store,
            self._table,
            self._files,
            self._space,
            evictor,
            self._fetcher,
            self._clock,
            upload_delay_ns=delay_ns,
            journal_grew=self._journal_grew,
        )

    def _make_engines(self) -> None:
        config, store = self._config, self._store
        facts = _Facts(self._client)
        self._adopter = Adopter(
            store,
            self._table,
            self._tree,
            self._content,
            self._client,
            self._notifier,
            self._clock,
            defaults=Defaults(config.uid, config.gid, config.file_mode, config.dir_mode),
            device=config.device,
        )
        ordering = Ordering(store, self._table, self._tree, facts)
        self._poller = Poller(
            store,
            self._table,
            self._tree,
            self._adopter,
            self._client,
            ordering,
            self._clock,
            refresh_s=config.refresh_s,
            timeout_s=config.timeout_s,
        )
        self._follower = Follower(
            store,
            self._table,
            self._tree,
            self._adopter,
            self._poller,
            self._client,
            ordering,
            self._clock,
            refresh_s=config.refresh_s,
        )
        promise = Promise(
            store,
            self._table,
            self._tree,
            self._client,
            self._poller,
            ordering,
            self._clock,
            device=config.device,
        )
        puts = Puts(promise, self._content, self._adopter)
        copies = Copies(promise, self._content, self._adopter, facts)
        moves = Moves(promise, self._adopter, facts)
        self._deletions = Deletions(store, self._tree, self._content, self._clock)
        self._uploader = Uploader(
            store,
            self._table,
            Uploads(promise, self._content, puts, copies, moves, self._deletions),
            self._clock,
            slots=config.uploads,
            upload_delay_ns=self._policy.upload_delay_ns,
            patience_s=config.timeout_s,
        )
        self._vfs = Vfs(
            store,
            self._table,
            self._tree,
            self._content,
            self._adopter,
            self._poller,
            self._client,
            AccessTimes(store, self._table, self._clock, _access(config)),
            Xattrs(store, self._table, self._tree, lists=config.default_permissions),
            uploaded=self._uploader.uploaded if config.fsync is Fsync.REMOTE else None,
        )

    def _journal_grew(self) -> None:
        self._uploader.poke()

    # -- running -------------------------------------------------------------------------

    async def run(self, on_ready: OnReady) -> int:
        steering = Steering(
            self._config,
            self._store,
            self._table,
            self._content,
            self._space,
            self._uploader,
            self._poller,
            self._deletions,
            self._client,
            self._clock,
            self._current_warnings,
        )
        async with trio.open_nursery() as services:
            await services.start(self._client.run)
            connected = await self._first_connect()
            await services.start(self._fetcher.run, self._adopter)
            await services.start(self._poller.run)
            await services.start(self._content.run)
            services.start_soon(self._checkpoints)
            services.start_soon(self._come_online, connected, services)
            await services.start(ControlServer(self._config.control_socket, steering).run)
            await self._serve_kernel(on_ready)
            await self._wind_down()
            services.cancel_scope.cancel()
        try:
            self._content.save_all()
            recovery.note_clean_stop(self._store)
        except StoreError as exc:
            # What was promised is in the journal already; the next start looks closer.
            log.warning("stopped without a last save error=%s", exc)
        self._store.checkpoint()
        return 0

    def _current_warnings(self) -> tuple[str, ...]:
        capabilities = self._client.capabilities
        now = [self._store.damage] if self._store.damage else []
        if self._store.is_tight:
            now.append(f"the disk of {self._config.state_dir} is full: nothing new can be written")
        if (refusal := self._client.refusal) is not None:
            now.append(f"the store cannot be used until somebody mends this: {refusal}")
        if held := self._poller.removals.count:
            now.append(f"{held} items are gone in the store, kept here: see csyncfs-admin held ls")
        if held := self._deletions.count:
            now.append(f"{held} items removed here stay in the store: see csyncfs-admin held ls")
        return (*now, *self._warnings, *(capabilities.warnings if capabilities else ()))

    async def _first_connect(self) -> bool:
        """A store nobody ever reached from here is tried before mounting, for a bounded time:
        a wrong name or key is told at once. A known one is not waited for."""
        known = settings.get(self._store, "capabilities")
        if known is not None:
            self._client.capabilities = msgspec.json.decode(known, type=Capabilities)
            self._apply_facts()
            return False
        error = "no answer yet"
        with trio.move_on_after(self._config.connect_wait_s):
            try:
                await self._client.connect()
                self._connected()
                return True
            except (AccessDenied, NoSuchStore, ConfigError):
                await self._client.aclose()
                raise
            except CsyncError as exc:
                error = str(exc)
        self._warnings.append(f"mounted offline: {error}")
        return False

    async def _come_online(self, connected: bool, services: trio.Nursery) -> None:
        """Uploads start once the store was reached; a failed try costs nothing but a line."""
        pause_s = 0.2
        told: str | None = None
        while not connected:
            try:
                await self._client.connect()
                self._connected()
                connected = True
            except CsyncError as exc:
                refusal = self._client.refusal
                if refusal is not None and refusal != told:
                    log.warning("the store cannot be used error=%s", refusal)
                    told = refusal
                else:
                    log.info("not connected yet error=%s", exc)
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, 15.0)
        await services.start(self._uploader.run)
        services.start_soon(Leftovers(self._store, self._client).run)
        services.start_soon(self._ask_space)
        capabilities = self._client.capabilities
        if capabilities is not None and capabilities.change_feed:
            services.start_soon(self._follower.run)

    def _connected(self) -> None:
        capabilities = self._client.capabilities
        assert capabilities is not None
        self._apply_facts()
        try:
            with self._store.transaction():
                known = msgspec.json.encode(capabilities).decode()
                settings.put(self._store, "capabilities", known)
                if self._client.memo is not None:
                    settings.put(self._store, "memo", self._client.memo)
        except StoreError as exc:
            # It is found out again at the next start; uploads need not wait for that.
            log.warning("not noted what the store can do error=%s", exc)
        self._warnings = [w for w in self._warnings if not w.startswith("mounted offline")]
        for warning in capabilities.warnings:
            log.warning("%s", warning)
        log.info("connected backend=%s", capabilities.name)

    def _apply_facts(self) -> None:
        capabilities = self._client.capabilities
        assert capabilities is not None
        self._policy.raw_names = capabilities.raw_names
        self._policy.real_dirs = capabilities.real_dirs
        self._policy.keeps_attributes = capabilities.keeps_attributes
        self._policy.keeps_mtime = capabilities.keeps_mtime
        self._policy.max_key_bytes = capabilities.max_key_bytes
        self._policy.max_size_bytes = capabilities.max_size_bytes
        self._fetcher.whole_bytes = capabilities.whole_bytes
        guard = self._config.delete_guard
        guard = capabilities.delete_guard if guard is None else guard
        self._poller.removals.limit = self._deletions.limit = guard
        self._tree.forget_dir_keys()

    async def _serve_kernel(self, on_ready: OnReady) -> None:
        config = self._config
        adapter = Adapter(
            self._vfs,
            self._table,
            min(config.refresh_s, 60.0),
            lists=config.default_permissions,
        )
        session = Session(adapter, config.mountpoint, config.source, config.fuse_options())
        ended = False
        try:
            self._notifier.start()
            async with trio.open_nursery() as kernel:
                slow_s = min(_SLOW_S, self._config.timeout_s / 2)
                await kernel.start(waits.watch, slow_s, session.is_over)
                kernel.start_soon(self._stop_on_signal, session)
                kernel.start_soon(self._announce, session, on_ready)
                await session.run()
                kernel.cancel_scope.cancel()
            ended = True
        finally:
            self._notifier.stop()
            # After a failure the mountpoint stays, dead: a backup job must not take an empty
            # directory for the user's files.
            session.close(unmount=ended)

    async def _announce(self, session: Session, on_ready: OnReady) -> None:
        """Ready means: the kernel's own stat of the root was answered."""
        await trio.to_thread.run_sync(os.stat, self._config.mountpoint, abandon_on_cancel=True)
        await trio.to_thread.run_sync(session.set_readahead, abandon_on_cancel=True)
        on_ready([*self._current_warnings()])

    async def _stop_on_signal(self, session: Session) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("stopping signal=%d", number)
                session.stop()
                return

    async def _wind_down(self) -> None:
        """No new intents but those in the journal; send what the budget allows."""
        with contextlib.suppress(StoreError):
            self._content.save_all()
        with trio.move_on_after(self._config.drain_s):
            if self._client.online:
                await self._uploader.drain(lambda _: None)
        self._uploader.stop_nowait()
        left = journal.totals(self._store)
        if left.waiting or left.held:
            log.warning(
                "stopped with unsent changes, safe in the journal changes=%d bytes=%d",
                left.waiting + left.held,
                left.put_bytes,
            )
        with trio.CancelScope(shield=True):
            await self._client.aclose()

    # -- small services ------------------------------------------------------------------

    async def _checkpoints(self) -> None:
        done = before = 0
        while True:
            await trio.sleep(_CHECKPOINT_S)
            self._store.retake_reserve()
            now = self._store.changes
            # On a full disk the log has to start over before the reserve is used up.
            is_time = now == before or now >= done + _CHECKPOINT_ROWS or self._store.is_tight
            if now > done and is_time:
                await trio.to_thread.run_sync(self._store.checkpoint)
                done = now
            before = now

    async def _ask_space(self) -> None:
        while True:
            try:
                self._vfs.space = await self._client.space()
            except CsyncError as exc:
                log.debug("quota not told error=%s", exc)
            await trio.sleep(_SPACE_EVERY_S)


def _access(config: MountConfig) -> Access:
    """The kernel leaves times of access to us, and so these options, too."""
    moves = not config.read_only and "noatime" not in config.kernel_options
    return Access(files=moves, dirs=moves and "nodiratime" not in config.kernel_options)


def _claim_store(store: Store, config: MountConfig) -> None:
    """A state directory belongs to one store: another one's journal must not go to it."""
    identity = f"{config.spec} {config.endpoint or ''}".strip()
    owner = settings.get(store, "spec")
    if owner is not None and owner != identity:
        raise ConfigError(
            f"state directory {config.state_dir} belongs to {owner}; use another one for {identity}"
        )
    with store.transaction():
        settings.put(store, "spec", identity)
