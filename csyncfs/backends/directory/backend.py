"""The directory backend: the Backend Protocol over worker threads.

A call on a dead NFS server blocks in the kernel for as long as it likes, so every call is
abandoned when it is cancelled, and its thread finds that out through a ``Lease``: nothing
is written to the caller's descriptor, and nothing reported, once the call is over.
"""

import json
import os
import re
import stat
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn, ParamSpec, TypeVar

import trio

from csyncfs.backends.base import Capabilities, Landed, SaveResume, Source, Writing
from csyncfs.backends.directory import temps
from csyncfs.backends.directory.commit import Abilities, Commits, CreateBy, probe
from csyncfs.backends.directory.temps import STEP_BYTES, Content, Made, ShortSource
from csyncfs.backends.directory.tree import (
    LOCKS,
    MARKER,
    TEMPS,
    Entry,
    Tree,
    lstat,
    proc_path,
    translate,
    version_of,
)
from csyncfs.errors import (
    CsyncError,
    Retry,
    Superseded,
    VersionMismatch,
)
from csyncfs.types import Attributes, Expect, Item, Kind, Location, Page, RemoteVersion, Space, Span

P = ParamSpec("P")
T = TypeVar("T")

_THREADS: Final = 8
_DISCARD_S: Final = 5
_WRITER_ENDS_S: Final = 5
RESUME_BYTES: Final = 64 << 20
"""So much of a file is written before the caller is told that it can go on from there."""
_RESUME: Final = re.compile(r"[0-9a-f]{24}")


class _Over(Exception):
    """The call this thread works for is over."""


class Lease:
    """A worker thread's right to touch what belongs to the caller.

    ``end`` returns when a write under way has ended; after it none begins.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_over = False  # guarded by: _lock
        self._token = trio.lowlevel.current_trio_token()

    def check(self) -> None:
        if self._is_over:
            raise _Over

    def write(self, fd: int, data: memoryview, offset: int) -> None:
        while data:
            with self._lock:
                self.check()
                written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written

    def tell(self, report: Callable[[T], None], value: T) -> None:
        """Call ``report`` on the trio thread, in order, unless the call is over by then."""

        def deliver() -> None:
            if not self._is_over:
                report(value)

        self._token.run_sync_soon(deliver)

    def end(self) -> None:
        with self._lock:
            self._is_over = True


@dataclass(slots=True)
class _Job:
    """One put on its way to a finished temp item."""

    key: str
    fds: list[int]
    """A duplicate of the source's descriptor; whoever pops it closes it."""
    size: int
    writing: Writing
    resume: str | None
    save_resume: SaveResume
    lease: Lease
    is_saved: bool = False
    """The caller knows of the temp item and may come back for it."""


class DirectoryBackend:
    """Items are the files below ``root``; symlinks and special files are real ones.

    ``memo`` (None, or from an earlier connect) says that the reserved directory is there:
    if it is not, the file system that belongs here is not mounted.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        page_items: int = 1000,
        resume_bytes: int = RESUME_BYTES,
    ) -> None:
        self.memo: str | None = None
        self._tree = Tree(os.fspath(root), page_items)
        self._commits = Commits(self._tree)
        self._resume_bytes = resume_bytes
        self._max_name_bytes = 255
        self._busy: dict[str, threading.Event] = {}
        """Temp items a thread of ours, perhaps an abandoned one, writes to; set when done."""
        self._bulk = trio.CapacityLimiter(_THREADS)
        self._quick = trio.CapacityLimiter(_THREADS)

    async def _call(self, key: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._thread(self._quick, key, lambda: work(*args, **kwargs))

    async def _thread(self, limiter: trio.CapacityLimiter, key: str, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
        except OSError as exc:
            raise translate(exc, key) from exc

    async def connect(self) -> Capabilities:
        return await self._call("", self._connect)

    def _connect(self) -> Capabilities:
        tree = self._tree
        tree.is_marked = tree.is_marked or self.memo is not None
        with tree.directory("") as root:
            with os.scandir(proc_path(root)) as names:
                next(names, None)  # Readable at all?
            self._max_name_bytes = os.statvfs(proc_path(root)).f_namemax
            is_writable = _make_reserved(root)
        warnings = list[str]()
        if is_writable:
            tree.is_marked, self.memo = True, "marked"
            with tree.reserved(TEMPS) as directory:
                self._commits.abilities, tree.has_xattrs = probe(directory)
                name = temps.new_name()
                os.close(os.open(name, os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory))
                # The file system's own clock: on NFS it is the server's.
                now_ns = lstat(directory, name).st_ctime_ns
                temps.discard_name(tree, name)
            temps.sweep(tree, now_ns)
        else:
            warnings.append("the directory is read-only: nothing can be uploaded")
        return self._capabilities(warnings, is_writable=is_writable)

    def _capabilities(self, warnings: list[str], *, is_writable: bool) -> Capabilities:
        able = self._commits.abilities
        if is_writable and not able.can_exchange:
            warnings.append(
                "the file system cannot exchange names: a program that saves in the same "
                "instant as an upload may be overwritten"
            )
        if is_writable and able.create_by is CreateBy.CHECK:
            warnings.append("the file system cannot create exclusively: new files may collide")
        if is_writable and not self._tree.has_xattrs:
            warnings.append("the file system has no user xattrs: they are not kept")
        if is_writable and os.geteuid() != 0:
            warnings.append("not root: owner and group of files are not kept")
        return capabilities(able, self._max_name_bytes, tuple(warnings))

    async def list_page(self, directory: Location, token: str | None) -> Page:
        return await self._call(directory.key, self._tree.list_page, directory.key, token)

    async def head(self, location: Location, kind: Kind, resume: str | None = None) -> Item:
        return await self._call(location.key, self._head, location.key, kind)

    def _head(self, key: str, kind: Kind) -> Item:
        with self._tree.found(key, kind) as entry:
            return self._tree.item(entry)

    async def fetch(
        self, location: Location, span: Span, fd: int, expect: RemoteVersion, landed: Landed
    ) -> Item:
        lease, key = Lease(), location.key
        try:
            return await self._thread(
                self._bulk, key, lambda: self._fetch(key, span, fd, expect, landed, lease)
            )
        finally:
            lease.end()

    def _fetch(
        self,
        key: str,
        span: Span,
        fd: int,
        expect: RemoteVersion,
        landed: Landed,
        lease: Lease,
    ) -> Item:
        with self._tree.found(key, Kind.FILE) as entry, ExitStack() as stack:
            item = self._tree.item(entry)
            is_expected = item.version is not None and item.version.tag == expect.tag
            if not is_expected or item.version is None or span.end > item.version.size:
                raise VersionMismatch(f"{key!r} is another version", item)
            if span.size_bytes:
                content = self._commits.content_of(entry, stack)
                for start in range(span.start, span.end, STEP_BYTES):
                    step = Span(start, min(start + STEP_BYTES, span.end))
                    data = _read(content, step)
                    # Looked at after the read: what a foreign program writes into the file
                    # from now on is not in ``data``.
                    if len(data) < step.size_bytes:
                        raise VersionMismatch(f"{key!r} became shorter")
                    _require(key, _stat_now(entry, content), expect)
                    lease.write(fd, memoryview(data), start)
                    lease.tell(landed, step)
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
        key = location.key
        # A duplicate: an abandoned thread may read on when the caller has closed its own.
        job = _Job(key, [os.dup(source.fd)], source.size, writing, resume, save_resume, Lease())
        made = await self._prepare(job)
        keeps_resume = job.is_saved
        try:
            if not await source.confirm():
                keeps_resume = False
                _supersede(key)
            # From here on an abandoned thread may be giving the temp item its name.
            keeps_resume = False
            return await self._thread(
                self._bulk, key, lambda: self._commit(key, made, writing, expect)
            )
        except BaseException:
            if not keeps_resume:
                await self._discard(made)
            raise

    def _commit(self, key: str, made: Made, writing: Writing, expect: Expect) -> Item:
        with self._writer_of(made.name):
            return self._commits.put(key, made, writing, expect)

    @contextmanager
    def _writer_of(self, name: str) -> Generator[None]:
        """Keep a resumed put off a temp item until this thread is done with it."""
        ended = self._busy[name] = threading.Event()
        try:
            yield
        finally:
            del self._busy[name]
            ended.set()

    async def _prepare(self, job: _Job) -> Made:
        try:
            return await self._thread(self._bulk, job.key, lambda: self._make(job))
        except ShortSource:
            raise Superseded(f"the source of {job.key!r} became shorter") from None
        finally:
            job.lease.end()
            with suppress(IndexError):
                os.close(job.fds.pop())

    def _make(self, job: _Job) -> Made:
        """A finished temp item; kept for a resume only if trying again may help."""
        try:
            fd = job.fds.pop()
        except IndexError:
            raise _Over from None
        name, done = self._resumed(job.resume)
        with ExitStack() as stack:
            stack.callback(os.close, fd)
            stack.enter_context(self._writer_of(name))
            try:
                with self._tree.place(job.key) as place, suppress(FileNotFoundError):
                    # No parent, or a name that is too long: known before bytes are copied.
                    lstat(place.directory, place.name)
                content = Content(job.size, fd)
                step = self._saving(job, name, done)
                made = temps.make(self._tree, name, content, job.writing, done=done, step=step)
                job.lease.check()
            except BaseException as exc:
                if not (job.is_saved and _is_passing(exc)):
                    self._discard_now(name)
                raise
            return made

    def _discard_now(self, name: str) -> None:
        """On the way out with another error; what stays is swept by a later connect."""
        with suppress(OSError, CsyncError):
            temps.discard_name(self._tree, name)

    def _resumed(self, resume: str | None) -> tuple[str, int]:
        """Name of the temp item to go on with and how much it holds, or a fresh one."""
        name, done = _parse(resume)
        if done and self._is_free(name) and temps.resumable(self._tree, name, done):
            return name, done
        return temps.new_name(), 0

    def _is_free(self, name: str) -> bool:
        """Whether nobody writes to a temp item. A cancelled put needs a moment to notice;
        one that hangs in a dead server is left alone."""
        writer = self._busy.get(name)
        return writer is None or writer.wait(_WRITER_ENDS_S)

    def _saving(self, job: _Job, name: str, done: int) -> temps.Step:
        saved = done
        job.is_saved = done > 0

        def step(fd: int, at: int) -> None:
            nonlocal saved
            job.lease.check()
            if at - saved >= self._resume_bytes and at < job.size:
                os.fdatasync(fd)
                job.is_saved, saved = True, at
                job.lease.tell(job.save_resume, json.dumps({"temp": name, "done": at}))

        return step

    async def _discard(self, made: Made) -> None:
        scope = trio.CancelScope(shield=True, deadline=trio.current_time() + _DISCARD_S)
        # What cannot be removed now is swept by a later connect.
        with scope, suppress(CsyncError):
            await self._call("", temps.discard, self._tree, made)

    async def abandon(self, resume: str) -> None:
        await self._call("", self._abandon, resume)

    def _abandon(self, resume: str) -> None:
        name, done = _parse(resume)
        if done and self._is_free(name):
            temps.discard_name(self._tree, name)

    async def set_attributes(
        self, location: Location, kind: Kind, writing: Writing, expect: RemoteVersion
    ) -> Item:
        key = location.key
        return await self._call(key, self._commits.set_attributes, key, kind, writing, expect)

    async def make_dir(self, location: Location, writing: Writing) -> Item:
        return await self._call(location.key, self._commits.make_dir, location.key, writing)

    async def copy(
        self,
        source: Location,
        target: Location,
        writing: Writing,
        expect_source: RemoteVersion,
        expect_target: Expect,
    ) -> Item:
        lease = Lease()
        try:
            return await self._thread(
                self._bulk,
                source.key,
                lambda: self._copy(
                    source.key, target.key, writing, (expect_source, expect_target), lease
                ),
            )
        except ShortSource:
            raise VersionMismatch(f"{source.key!r} changed while it was copied") from None
        finally:
            lease.end()

    def _copy(
        self,
        source: str,
        target: str,
        writing: Writing,
        expect: tuple[RemoteVersion, Expect],
        lease: Lease,
    ) -> Item:
        name = temps.new_name()
        with self._tree.found(source, Kind.FILE) as entry, ExitStack() as stack:
            _require(source, entry.st, expect[0])
            stack.callback(self._discard_now, name)
            content = self._commits.content_of(entry, stack)
            made = temps.make(
                self._tree,
                name,
                content,
                _typed(writing, entry),
                step=lambda _fd, _at: lease.check(),
            )
            _require(source, _stat_now(entry, content), expect[0])
            lease.check()
            return self._commits.put(target, made, writing, expect[1])

    async def move(
        self,
        source: Location,
        target: Location,
        kind: Kind,
        expect_source: RemoteVersion | None,
        expect_target: Expect,
    ) -> Item:
        return await self._call(
            source.key,
            self._commits.move,
            source.key,
            target.key,
            kind,
            expect_source,
            expect_target,
        )

    async def delete(self, location: Location, kind: Kind, expect: RemoteVersion | None) -> None:
        await self._call(location.key, self._commits.delete, location.key, kind, expect)

    async def space(self) -> Space | None:
        return await self._call("", self._tree.space)

    async def aclose(self) -> None:
        """Nothing is held between calls."""
        await trio.lowlevel.checkpoint()


def _make_reserved(root: int) -> bool:
    """Make the reserved directories; False if the root is read-only."""
    try:
        for key, mode in ((MARKER, 0o755), (TEMPS, 0o1777), (LOCKS, 0o1777)):
            name = key.removesuffix("/")
            try:
                os.mkdir(name, mode, dir_fd=root)
            except FileExistsError:
                continue
            # Several users may mount the same export: sticky, not by the umask.
            os.chmod(name, mode, dir_fd=root)
        temps_fd = os.open(TEMPS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            return os.access(proc_path(temps_fd), os.W_OK)
        finally:
            os.close(temps_fd)
    except OSError as exc:
        if isinstance(translate(exc, MARKER), Retry):
            raise
        return False


def _parse(resume: str | None) -> tuple[str, int]:
    """Temp name and bytes of a saved resume; zero bytes for what is not ours."""
    try:
        state = json.loads(resume or "{}")
        name, done = str(state["temp"]), int(state["done"])
    except (ValueError, KeyError, TypeError):
        return "", 0
    return (name, done) if _RESUME.fullmatch(name) else ("", 0)


def _typed(writing: Writing, entry: Entry) -> Writing:
    """A copy is of the source's type where the new attributes do not say."""
    attributes = writing.attributes
    if attributes.mode is not None and stat.S_IFMT(attributes.mode):
        return writing
    own = entry.st.st_mode if attributes.mode is None else attributes.mode
    mode = stat.S_IFMT(entry.st.st_mode) | stat.S_IMODE(own)
    is_device = stat.S_ISBLK(mode) or stat.S_ISCHR(mode)
    typed = Attributes(
        mode,
        attributes.uid,
        attributes.gid,
        attributes.mtime_ns,
        entry.st.st_rdev if is_device else None,
        attributes.xattrs,
    )
    return Writing(typed, writing.put_id, writing.device)


def _read(content: Content, span: Span) -> bytes | bytearray:
    if content.fd is None:
        return content.data[span.start : span.end]
    data = bytearray(span.size_bytes)
    filled = 0
    while filled < len(data):
        count = os.preadv(content.fd, [memoryview(data)[filled:]], span.start + filled)
        if not count:
            break
        filled += count
    return data[:filled] if filled < len(data) else data


def _stat_now(entry: Entry, content: Content) -> os.stat_result:
    return os.fstat(entry.fd if content.fd is None else content.fd)


def _require(key: str, st: os.stat_result, expect: RemoteVersion) -> None:
    if version_of(st).tag != expect.tag:
        raise VersionMismatch(f"{key!r} is not the expected version")


def _supersede(key: str) -> NoReturn:
    raise Superseded(f"{key!r} changed before the commit")


def _is_passing(exc: BaseException) -> bool:
    """Whether the same put may succeed when it is tried again."""
    if isinstance(exc, OSError):
        return isinstance(translate(exc, ""), Retry)
    return isinstance(exc, _Over | Retry)


def capabilities(
    able: Abilities, max_name_bytes: int, warnings: tuple[str, ...] = ()
) -> Capabilities:
    is_safe = able.can_exchange and able.create_by is not CreateBy.CHECK
    return Capabilities(
        name="directory",
        conditional_put=is_safe,
        # Moved aside and looked at, which needs no exchange.
        conditional_delete=able.create_by is not CreateBy.CHECK,
        server_copy=True,
        move_file=True,
        move_tree=True,
        real_dirs=True,
        keeps_attributes=True,
        max_key_bytes=0,
        max_name_bytes=max_name_bytes,
        raw_names=True,
        warnings=warnings,
    )
