"""The contract between csyncfs and a cloud: ``Backend`` and its ``Capabilities``.

Everything a caller may rely on is written here and tested by the conformance suite
(tests/conformance), which every backend passes, directly and through the transfer
process. Errors are those of ``csyncfs.errors``; no provider exception leaves a backend.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from csyncfs.types import (
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

Confirm = Callable[[], Awaitable[bool]]
"""Asked once the content to commit is fixed, right before the point of no return."""

Landed = Callable[[Span], None]
"""Told that these bytes are in the file now; spans come in ascending order. Called on the
loop's thread only. An empty span says that something came which cannot be used yet: it keeps
the deadline away and goes no further than ``guard``."""

SaveResume = Callable[[str], None]
"""Given the state of a resumable upload (opaque, JSON) each time it grew."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this store can do, found out by ``connect`` and true until the next one."""

    name: str
    """For people: ``s3 (SeaweedFS dialect)``."""
    conditional_put: bool
    """put and copy honour ``expect`` atomically, for versions and for ABSENT."""
    conditional_delete: bool
    """delete honours ``expect`` atomically. Without: checked just before (a race remains)."""
    server_copy: bool
    """copy works without moving bytes through this machine."""
    move_file: bool
    """move of a file is one atomic request."""
    move_tree: bool
    """move of a directory of any size is one atomic request."""
    real_dirs: bool
    """Directories exist by themselves; a parent must exist before its children."""
    keeps_attributes: bool
    """put, make_dir and set_attributes store POSIX attributes."""
    max_key_bytes: int
    """Longest full key including the mounted prefix; 0: no limit known."""
    max_name_bytes: int = 255
    max_size_bytes: int = 1 << 62
    whole_bytes: int = 0
    """Content up to this size is always fetched whole, and checked: best asked for so."""
    raw_names: bool = False
    """Keys may carry bytes that are no UTF-8, as os.fsdecode gives them."""
    keeps_mtime: bool = False
    """Without ``keeps_attributes``: of files, it stores this one."""
    overwrite_keeps_history: bool = False
    """A put over an item makes a version of it, a move over it ends it with its id and history."""
    change_feed: bool = False
    """It is a ``ChangeFeed`` too; items have ids."""
    delete_guard: int = 0
    """If the user names no other limit: so many removals at once are done without being told."""
    warnings: tuple[str, ...] = ()
    """One line each: a promise this store cannot keep, for the log and ``status``."""


@dataclass(frozen=True, slots=True)
class Source:
    """Content to upload: ``size`` bytes of ``fd``, from offset 0.

    ``confirm`` is awaited when every byte that will be committed has been read (a small
    object) or sent as an uncommitted part (a large one). False: abandon, raise Superseded.
    The descriptor belongs to the caller and outlives the call.
    """

    fd: int
    size: int
    confirm: Confirm


@dataclass(frozen=True, slots=True)
class Writing:
    """What the writer stamps on a version it makes."""

    attributes: Attributes
    put_id: str
    """Unique per attempt to make a version, the same for its retries: after a lost reply
    the backend finds this id on the stored version and reports success, not a conflict."""
    device: str


class Backend(Protocol):
    """One store, or a prefix of it.

    Every call has a deadline of its own making and ends; it may be cancelled (then a
    write may or may not have taken effect). Calls may run concurrently.
    """

    async def connect(self) -> Capabilities:
        """Reach the store, check access, find out what it can do. Repeatable.

        Raises NoSuchStore, AccessDenied, Offline, and ConfigError where this machine is not set
        up for it.
        """
        ...

    async def list_page(self, directory: Location, token: str | None) -> Page:
        """One page of the direct children of a directory, in any order across pages.

        Each name at most once per kind. The reserved prefix is left out at the root, the
        directory's own marker everywhere. ``token``: of the page before, None to start.
        Raises NotFound if the directory does not exist; a store without real directories
        answers an empty page instead.
        """
        ...

    async def head(self, location: Location, kind: Kind, resume: str | None = None) -> Item:
        """The item as it is now, with attributes. Raises NotFound.

        For a DIR without a marker but with children: version None, attributes None. ``resume``:
        what an upload to this place saved last. Where items carry no put ids, one that it made
        is known by that.
        """
        ...

    async def fetch(
        self, location: Location, span: Span, fd: int, expect: RemoteVersion, landed: Landed
    ) -> Item:
        """Write these bytes of that version to ``fd`` at the same offsets.

        Returns the item with attributes. Either every byte of the span is written, or an
        error is raised; bytes announced through ``landed`` are good in both cases and
        belong to ``expect``. Raises VersionMismatch, NotFound.
        """
        ...

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
        """Make the source the item's content, if the item still is what is expected.

        Appears completely or not at all. Raises VersionMismatch (``current`` filled where
        one request can tell), Superseded, Ambiguous, QuotaExceeded. ``resume``: what
        ``save_resume`` was last given for this same source, to go on from there; a stale
        one is no error, the upload starts over.
        """
        ...

    async def abandon(self, resume: str) -> None:
        """Free what an unfinished upload holds, by what it saved last. Nothing to free is no
        error."""
        ...

    async def set_attributes(
        self, location: Location, kind: Kind, writing: Writing, expect: RemoteVersion
    ) -> Item:
        """Replace the attributes, content unchanged; returns the item's new version."""
        ...

    async def make_dir(self, location: Location, writing: Writing) -> Item:
        """Create a directory that shows up in listings, empty or not.

        One that exists already is no error: it is returned as it is.
        """
        ...

    async def copy(
        self,
        source: Location,
        target: Location,
        writing: Writing,
        expect_source: RemoteVersion,
        expect_target: Expect,
    ) -> Item:
        """Server-side copy of a file of any size, with new attributes. Raises
        VersionMismatch (target), NotFound or VersionMismatch with ``current`` None
        (source is gone or changed), Unsupported."""
        ...

    async def move(
        self,
        source: Location,
        target: Location,
        kind: Kind,
        expect_source: RemoteVersion | None,
        expect_target: Expect,
    ) -> Item:
        """Atomic server-side rename, where capabilities say so; else Unsupported.

        Errors as ``copy``.
        """
        ...

    async def delete(self, location: Location, kind: Kind, expect: RemoteVersion | None) -> None:
        """Remove the item if it still is the expected version.

        None: whatever version (directories without a marker version). Gone already is no
        error. A DIR must be empty; with real directories a non-empty one raises
        VersionMismatch; elsewhere only its marker goes.
        """
        ...

    async def space(self) -> Space | None:
        """Quota, or None where the store has none or does not tell."""
        ...

    async def aclose(self) -> None:
        """Give up connections. Running calls may fail with Offline."""
        ...


@runtime_checkable
class ChangeFeed(Protocol):
    """What a Backend has besides, whose store tells by itself what has changed."""

    async def changes(self, cursor: str | None) -> ChangePage:
        """What has changed in the whole mount behind a cursor; None: everything there is.

        The latest state of each item, some of it told before. A change may be told late, so
        that a listing knows more. The items of a directory that came into the mount from
        outside need not be told. With nothing new it costs one request. Raises CursorExpired,
        and Unsupported where this very drive or folder has no feed.
        """
        ...
