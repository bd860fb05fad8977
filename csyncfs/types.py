"""The words every module shares: ids, remote versions, items, attributes.

Values only; nothing here does anything. Keys are relative to the mounted prefix:
a file is ``dir/name``, a directory is its prefix ``dir/name/``, the root is ``""``.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NewType

InodeId = NewType("InodeId", int)
FileHandle = NewType("FileHandle", int)
Seq = NewType("Seq", int)

ROOT: Final = InodeId(1)

# Reserved names at the top of the mounted prefix: probes, moves in transit, devices.
RESERVED_DIR: Final = ".csyncfs/"


class Kind(enum.StrEnum):
    """What an item is to the cloud. Symlinks and special files are FILE there."""

    FILE = "file"
    DIR = "dir"


class Absent(enum.Enum):
    """The version of something that does not exist; a precondition like any other."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Span:
    """A byte range ``[start, end)``."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Location:
    """Where an item lives in the cloud. ``item_id`` where the provider has stable ids."""

    key: str
    item_id: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteVersion:
    """One version of an item's content, as the cloud names it."""

    tag: str
    """Opaque version token (ETag without quotes); equal tags mean equal versions."""
    size: int
    mtime_ns: int
    """The server's clock (LastModified), not the file's mtime."""
    md5: str | None = None
    """Hex MD5 of the content where the provider tells it, else None."""


Expect = RemoteVersion | Absent


@dataclass(frozen=True, slots=True)
class Attributes:
    """POSIX attributes an item carries as user metadata; None: the item does not say."""

    mode: int | None = None
    """st_mode including the file type."""
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    rdev: int | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """User xattrs (``user.foo``) and access control lists (``system.posix_acl_access``)."""
    link: str | None = None
    """Of which file this is a name, and with which content (GROUP.STAMP). A backend tells it of
    the very item it was written for: a copy made by somebody else is a file of its own."""


@dataclass(frozen=True, slots=True)
class Item:
    """One remote thing, as a listing, a HEAD or a finished upload shows it."""

    location: Location
    kind: Kind
    version: RemoteVersion | None
    """None: a directory that is only a common prefix of other keys."""
    attributes: Attributes | None = None
    """None: not told by this call (a listing carries no user metadata)."""
    put_id: str | None = None
    """The id the writer stamped on this version, if it was told and is known."""
    device: str | None = None
    """Name of the csyncfs device that wrote this version, likewise."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a directory listing. ``token`` None: it was the last."""

    items: tuple[Item, ...]
    token: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """The latest state of one item, as a change feed tells it: items are known by their ids."""

    item_id: str
    parent_id: str | None
    """The directory it is in; "": the mount's top. None: the item is gone, or not to be shown."""
    segment: str = ""
    """The last part of its key, without a slash."""
    kind: Kind = Kind.FILE
    version: RemoteVersion | None = None
    attributes: Attributes | None = None


@dataclass(frozen=True, slots=True)
class ChangePage:
    """What a change feed tells at once."""

    changes: tuple[Change, ...]
    """Of several about one item the last one counts. In any order."""
    cursor: str
    """Opaque: where to go on."""
    is_last: bool
    """Nothing else is to be told now."""


@dataclass(frozen=True, slots=True)
class Space:
    """Quota of the store in bytes."""

    total_bytes: int
    free_bytes: int
