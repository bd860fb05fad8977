"""An object store in memory: the verified fake of the tests, and their oracle.

``MemoryStore`` is the bucket: what it holds, how its server behaves, and the calls by which
a test plays "someone else". ``MemoryBackend`` is one mount's view of it; several backends
may share a store. Nothing here waits unless ``faults`` does: the hook is awaited at named
steps and may sleep (latency) or raise (a failure before the effect, a lost reply after it).

Steps: the name of every call, plus ``fetch:bytes`` before each block is written, ``put:part``
after each stored part, and for every write ``X:commit`` (confirmed, condition not yet
checked) and ``X:done`` (took effect, the reply is on its way).
"""

import hashlib
import itertools
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import trio

from csyncfs.backends.base import Capabilities, Landed, SaveResume, Source, Writing
from csyncfs.backends.memory_feed import Feed
from csyncfs.errors import (
    NoSuchStore,
    NotFound,
    Offline,
    QuotaExceeded,
    Superseded,
    Unrepresentable,
    Unsupported,
    VersionMismatch,
)
from csyncfs.types import (
    ABSENT,
    RESERVED_DIR,
    Attributes,
    ChangePage,
    Expect,
    Item,
    Kind,
    Location,
    Page,
    RemoteVersion,
    Space,
    Span,
)

Faults = Callable[[str, str], Awaitable[None]]
"""Awaited with (step, key); may sleep or raise a BackendError."""

_BLOCK_BYTES = 1 << 20
_EPOCH_NS = 1_700_000_000 * 10**9
_FOREIGN = Attributes()


@dataclass(frozen=True, slots=True)
class _Stored:
    content: bytes
    version: RemoteVersion
    attributes: Attributes
    put_id: str | None
    device: str | None
    bound: str = ""
    """The key that its link was written for; "": somebody copied it, it is no name of the file."""


@dataclass(slots=True)
class _Upload:
    """Parts of an upload that is not committed yet."""

    key: str
    size: int
    parts: list[bytes] = field(default_factory=list[bytes])


class MemoryStore:
    """What the server holds. Keys are flat and directories implicit, unless ``real_dirs``.

    ``content_tags``: equal bytes get equal version tags, as with S3's ETag; without, every
    write makes a new tag. ``conditional_writes`` False: conditions are only looked at before
    the write. ``lists_attributes``: listings tell attributes and put ids too. ``has_feed``, with
    ``real_dirs``: items have ids, and changes are told.
    """

    def __init__(
        self,
        *,
        real_dirs: bool = False,
        content_tags: bool = False,
        conditional_writes: bool = True,
        lists_attributes: bool = False,
        has_feed: bool = False,
        part_bytes: int = 8 << 20,
        page_items: int = 1000,
        total_bytes: int | None = None,
    ) -> None:
        self.real_dirs = real_dirs
        self.content_tags = content_tags
        self.conditional_writes = conditional_writes
        self.lists_attributes = lists_attributes
        self.part_bytes = part_bytes
        self.page_items = page_items
        self.total_bytes = total_bytes
        self.exists = True
        self.feed = Feed() if has_feed else None
        self._stored: dict[str, _Stored] = {}
        self._uploads: dict[str, _Upload] = {}
        self._ticks = itertools.count(1)

    # What a test does as "someone else": unconditional, effective at once.

    def write(
        self,
        key: str,
        content: bytes = b"",
        attributes: Attributes = _FOREIGN,
        *,
        put_id: str | None = None,
        device: str | None = None,
    ) -> RemoteVersion:
        """Store an item, a directory (marker) if the key ends in ``/``; parents as needed."""
        if self.real_dirs:
            for parent in _parents(key):
                if parent not in self._stored:
                    self._keep(parent, self._made(b"", _FOREIGN, None, None))
        self._keep(key, self._made(content, attributes, put_id, device))
        return self._stored[key].version

    def remove(self, key: str) -> None:
        """Delete an item if it is there; with a directory's key, the marker only."""
        self._stored.pop(key, None)
        if self.feed is not None:
            self.feed.gone(key)

    def rename(self, source: str, target: str) -> None:
        """Move an item, or with directory keys everything below, over what is there."""
        moved = {k: v for k, v in self._stored.items() if k == source or _is_below(k, source)}
        for key in moved:
            del self._stored[key]
        for key, stored in moved.items():
            self._stored[target + key[len(source) :]] = stored
            if self.feed is not None:
                self.feed.renamed(source, target, key)

    def _keep(self, key: str, stored: _Stored) -> None:
        self._stored[key] = stored
        if self.feed is not None:
            self.feed.made(key)

    def _location(self, key: str) -> Location:
        return Location(key, None if self.feed is None else self.feed.id_of(key))

    def read(self, key: str) -> bytes:
        """The content as the server has it; KeyError if there is no such item."""
        return self._stored[key].content

    def version(self, key: str) -> RemoteVersion | None:
        """The version the server has, None if there is no such item."""
        stored = self._stored.get(key)
        return stored.version if stored else None

    def attributes(self, key: str) -> Attributes:
        """The attributes as the server has them; KeyError if there is no such item."""
        return self._stored[key].attributes

    def keys(self) -> list[str]:
        """Every stored key, markers included, sorted."""
        return sorted(self._stored)

    @property
    def unfinished_uploads(self) -> int:
        """How many multipart uploads hold parts nobody has committed or abandoned."""
        return len(self._uploads)

    # The server side of MemoryBackend. All synchronous, hence atomic.

    def _made(
        self, content: bytes, attributes: Attributes, put_id: str | None, device: str | None
    ) -> _Stored:
        tick = next(self._ticks)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        tag = md5 if self.content_tags else f"v{tick}"
        version = RemoteVersion(tag, len(content), _EPOCH_NS + tick * 10**9, md5)
        return _Stored(content, version, attributes, put_id, device)

    def item(self, key: str, *, listed: bool = False) -> Item | None:
        """The item as a HEAD (or a listing) shows it, None if nothing is stored there."""
        stored = self._stored.get(key)
        kind = Kind.DIR if key.endswith("/") or not key else Kind.FILE
        if stored is None:
            is_implicit = kind is Kind.DIR and (not key or self.has_children(key))
            return Item(Location(key), kind, None) if is_implicit else None
        if listed and not self.lists_attributes:
            # A listing of S3 tells no more of a directory than that there is one.
            is_told = self.real_dirs or kind is Kind.FILE
            return Item(self._location(key), kind, stored.version if is_told else None)
        return self._item_of(key, stored)

    def _item_of(self, key: str, stored: _Stored) -> Item:
        kind = Kind.DIR if key.endswith("/") else Kind.FILE
        # With real directories a rename keeps what is bound to the file.
        is_bound = stored.bound != "" if self.real_dirs else stored.bound == key
        attributes = stored.attributes if is_bound else replace(stored.attributes, link=None)
        place = self._location(key)
        return Item(place, kind, stored.version, attributes, stored.put_id, stored.device)

    def has_children(self, key: str) -> bool:
        return any(_is_below(k, key) for k in self._stored)

    def children(self, directory: str) -> list[str]:
        """Keys of the direct children, sorted; those of directories end in ``/``."""
        found: set[str] = set()
        for key in self._stored:
            if _is_below(key, directory):
                cut = key.find("/", len(directory))
                found.add(key if cut < 0 else key[: cut + 1])
        if not directory:
            found.discard(RESERVED_DIR)
        return sorted(found)

    def admit(self, key: str, size: int) -> None:
        """Raise what this server answers to a write it cannot hold."""
        try:
            encoded = key.encode(errors="surrogateescape" if self.real_dirs else "strict")
        except UnicodeEncodeError:
            raise Unrepresentable(f"not a Unicode name: {key!r}") from None
        names = key.removesuffix("/").split("/")
        if not self.real_dirs and len(encoded) > 1024:
            raise Unrepresentable("the key is longer than 1024 bytes")
        if any(len(name.encode(errors="surrogateescape")) > 255 for name in names):
            raise Unrepresentable("the name is longer than 255 bytes")
        if not key or (self.real_dirs and {"", ".", ".."} & set(names)):
            raise Unrepresentable(f"no file can have this name: {key!r}")
        if self.real_dirs and any(parent not in self._stored for parent in _parents(key)):
            raise NotFound(f"the parent of {key!r} does not exist")
        kept = self._stored.get(key)
        used = self.used_bytes() - (kept.version.size if kept else 0)
        if self.total_bytes is not None and used + size > self.total_bytes:
            raise QuotaExceeded("the store is full")

    def used_bytes(self) -> int:
        return sum(stored.version.size for stored in self._stored.values())

    def clash(self, key: str) -> Item | None:
        """With real directories: what of the other kind has this name."""
        if not self.real_dirs:
            return None
        return self.item(key.removesuffix("/") if key.endswith("/") else key + "/")

    def accept(self, key: str, expect: Expect, put_id: str | None) -> Item | None:
        """Check a precondition; returns the item if this very write took effect before."""
        held = self.item(key) if key in self._stored else self.clash(key)
        version = self.version(key)
        if expect is ABSENT:
            fits = held is None
        else:
            fits = version is not None and version.tag == expect.tag
        if fits:
            return None
        if held is not None and put_id is not None and held.put_id == put_id:
            return held
        raise VersionMismatch(f"{key!r} is not the expected version", held)

    def put(self, key: str, content: bytes, writing: Writing) -> Item:
        self.admit(key, len(content))
        made = self._made(content, writing.attributes, writing.put_id, writing.device)
        self._keep(key, replace(made, bound=key))
        return self._item_of(key, self._stored[key])

    def restamp(self, key: str, writing: Writing) -> Item:
        """New attributes, same content."""
        return self.put(key, self._stored[key].content, writing)

    def begin(self, key: str, size: int) -> tuple[str, list[bytes]]:
        """A new upload's id (JSON, as resume states are) and its parts."""
        upload_id = json.dumps({"upload": next(self._ticks)})
        self._uploads[upload_id] = upload = _Upload(key, size)
        return upload_id, upload.parts

    def upload(self, upload_id: str, key: str, size: int) -> list[bytes] | None:
        """The parts of an unfinished upload, None if there is no such one (any more); one of
        something else is freed."""
        upload = self._uploads.get(upload_id)
        if upload is None or (upload.key, upload.size) != (key, size):
            self.end(upload_id)
            return None
        return upload.parts

    def end(self, upload_id: str) -> None:
        self._uploads.pop(upload_id, None)


def _parents(key: str) -> list[str]:
    """``a/b/c`` or ``a/b/c/``: ``a/``, ``a/b/``."""
    names = key.removesuffix("/").split("/")[:-1]
    return ["/".join(names[: n + 1]) + "/" for n in range(len(names))]


def _is_below(key: str, directory: str) -> bool:
    return key.startswith(directory) and key != directory and directory[-1:] in {"", "/"}


class MemoryBackend:
    """One mount's view of a ``MemoryStore``."""

    def __init__(self, store: MemoryStore, *, faults: Faults | None = None) -> None:
        self.store = store
        self.faults = faults
        self._is_closed = False

    async def _step(self, step: str, key: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.faults is not None:
            await self.faults(step, key)
        if self._is_closed and step != "connect":
            raise Offline("the backend is closed")
        if not self.store.exists:
            raise NoSuchStore("the memory store is gone")

    async def connect(self) -> Capabilities:
        await self._step("connect", "")
        self._is_closed = False
        store = self.store
        warning = "conditions are checked just before a write: two writers may race"
        return Capabilities(
            name="memory (directories)" if store.real_dirs else "memory (flat keys)",
            conditional_put=store.conditional_writes,
            conditional_delete=store.conditional_writes,
            server_copy=True,
            move_file=store.real_dirs,
            move_tree=store.real_dirs,
            real_dirs=store.real_dirs,
            keeps_attributes=True,
            max_key_bytes=0 if store.real_dirs else 1024,
            raw_names=store.real_dirs,
            change_feed=store.feed is not None,
            warnings=() if store.conditional_writes else (warning,),
        )

    async def list_page(self, directory: Location, token: str | None) -> Page:
        key, store = directory.key, self.store
        await self._step("list_page", key)
        if store.real_dirs and store.item(key) is None:
            raise NotFound(f"no directory {key!r}")
        rest = [child for child in store.children(key) if token is None or child > token]
        shown = rest[: store.page_items]
        items = (store.item(child, listed=True) for child in shown)
        last = shown[-1] if len(rest) > len(shown) else None
        return Page(tuple(item for item in items if item is not None), last)

    async def changes(self, cursor: str | None) -> ChangePage:
        await self._step("changes", "")
        store = self.store
        if store.feed is None:
            raise Unsupported("this store has no change feed")
        return store.feed.page(cursor, store.page_items, lambda key: store.item(key, listed=True))

    async def head(self, location: Location, kind: Kind, resume: str | None = None) -> Item:
        await self._step("head", location.key)
        return self._found(location.key, kind)

    def _found(self, key: str, kind: Kind) -> Item:
        item = self.store.item(key)
        if item is None or item.kind is not kind:
            raise NotFound(f"no {kind} {key!r}")
        return item

    async def fetch(
        self, location: Location, span: Span, fd: int, expect: RemoteVersion, landed: Landed
    ) -> Item:
        await self._step("fetch", location.key)
        item = self._found(location.key, Kind.FILE)
        content = self.store.read(location.key)
        if item.version is None or item.version.tag != expect.tag or span.end > len(content):
            raise VersionMismatch(f"{location.key!r} is another version", item)
        for start in range(span.start, span.end, _BLOCK_BYTES):
            end = min(start + _BLOCK_BYTES, span.end)
            await self._step("fetch:bytes", location.key)
            written = start
            while written < end:
                written += os.pwrite(fd, content[written:end], written)
            landed(Span(start, end))
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
        key, store = location.key, self.store
        await self._step("put", key)
        store.admit(key, source.size)
        upload_id = None
        if source.size > store.part_bytes:
            upload_id = await self._send_parts(key, source, resume, save_resume)
            content = b"".join(store.upload(upload_id, key, source.size) or ())
        else:
            content = _read(source, 0, source.size)
        if len(content) != source.size or not await source.confirm():
            raise Superseded(f"{key!r} changed before the commit")
        item = await self._write("put", key, content, writing, expect)
        if upload_id is not None:
            store.end(upload_id)
        await self._step("put:done", key)
        return item

    async def _send_parts(
        self, key: str, source: Source, resume: str | None, save_resume: SaveResume
    ) -> str:
        store = self.store
        upload_id = resume or ""
        parts = store.upload(upload_id, key, source.size)
        if parts is None:
            upload_id, parts = store.begin(key, source.size)
        for start in range(sum(map(len, parts)), source.size, store.part_bytes):
            part = _read(source, start, min(start + store.part_bytes, source.size))
            parts.append(part)
            save_resume(upload_id)
            await self._step("put:part", key)
        return upload_id

    async def _write(
        self, call: str, key: str, content: bytes, writing: Writing, expect: Expect
    ) -> Item:
        store = self.store
        if not store.conditional_writes:
            done = store.accept(key, expect, writing.put_id)
            await self._step(f"{call}:commit", key)
        else:
            await self._step(f"{call}:commit", key)
            done = store.accept(key, expect, writing.put_id)
        return done or store.put(key, content, writing)

    async def abandon(self, resume: str) -> None:
        await self._step("abandon", "")
        self.store.end(resume)

    async def set_attributes(
        self, location: Location, kind: Kind, writing: Writing, expect: RemoteVersion
    ) -> Item:
        key = location.key
        await self._step("set_attributes", key)
        if self._found(key, kind).version is None:
            raise VersionMismatch(key, None)
        item = await self._write("set_attributes", key, self.store.read(key), writing, expect)
        await self._step("set_attributes:done", key)
        return item

    async def make_dir(self, location: Location, writing: Writing) -> Item:
        key, store = location.key, self.store
        await self._step("make_dir", key)
        await self._step("make_dir:commit", key)
        item = store.item(key)
        if item is None or item.version is None:
            store.accept(key, ABSENT, None)
            item = store.put(key, b"", writing)
        await self._step("make_dir:done", key)
        return item

    async def copy(
        self,
        source: Location,
        target: Location,
        writing: Writing,
        expect_source: RemoteVersion,
        expect_target: Expect,
    ) -> Item:
        await self._step("copy", source.key)
        self._expect_source(source.key, Kind.FILE, expect_source)
        content = self.store.read(source.key)
        item = await self._write("copy", target.key, content, writing, expect_target)
        await self._step("copy:done", source.key)
        return item

    def _expect_source(self, key: str, kind: Kind, expect: RemoteVersion | None) -> None:
        item = self._found(key, kind)
        if expect is not None and (item.version is None or item.version.tag != expect.tag):
            raise VersionMismatch(f"{key!r} is not the expected version")

    async def move(
        self,
        source: Location,
        target: Location,
        kind: Kind,
        expect_source: RemoteVersion | None,
        expect_target: Expect,
    ) -> Item:
        await self._step("move", source.key)
        if not self.store.real_dirs:
            raise Unsupported("this store cannot move")
        await self._step("move:commit", source.key)
        self._expect_source(source.key, kind, expect_source)
        self.store.admit(target.key, 0)
        self.store.accept(target.key, expect_target, None)
        if kind is Kind.DIR and self.store.has_children(target.key):
            raise VersionMismatch(f"{target.key!r} is not empty", self.store.item(target.key))
        if kind is Kind.DIR and _is_below(target.key, source.key):
            raise Unrepresentable("a directory cannot move below itself")
        self.store.rename(source.key, target.key)
        await self._step("move:done", source.key)
        return self._found(target.key, kind)

    async def delete(self, location: Location, kind: Kind, expect: RemoteVersion | None) -> None:
        key, store = location.key, self.store
        await self._step("delete", key)
        await self._step("delete:commit", key)
        if store.version(key) is not None:
            if expect is not None:
                store.accept(key, expect, None)
            if kind is Kind.DIR and store.real_dirs and store.has_children(key):
                raise VersionMismatch(f"{key!r} is not empty", store.item(key))
            store.remove(key)
        await self._step("delete:done", key)

    async def space(self) -> Space | None:
        await self._step("space", "")
        total = self.store.total_bytes
        return None if total is None else Space(total, total - self.store.used_bytes())

    async def aclose(self) -> None:
        self._is_closed = True
        await trio.lowlevel.checkpoint()


def _read(source: Source, start: int, end: int) -> bytes:
    """These bytes of the source; fewer if it is shorter than it says."""
    content = bytearray()
    while start + len(content) < end:
        got = os.pread(source.fd, end - start - len(content), start + len(content))
        if not got:
            break
        content += got
    return bytes(content)
