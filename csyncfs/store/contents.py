"""Table ``content``: which bytes of each content file are good."""

from typing import NamedTuple

from csyncfs.extents import Extents
from csyncfs.store.db import Store
from csyncfs.types import InodeId


class Cached(NamedTuple):
    """What is cached of one file."""

    inode: InodeId
    bytes: int
    dirty_bytes: int
    used_ns: int


def get(store: Store, ino: InodeId) -> tuple[Extents, Extents] | None:
    """(present, dirty) of an inode; None: it has no content file."""
    row = store.one("SELECT present, dirty FROM content WHERE inode = ?", (ino,))
    if row is None:
        return None
    return Extents.from_bytes(row[0]), Extents.from_bytes(row[1])


def save(store: Store, ino: InodeId, present: Extents, dirty: Extents, used_ns: int) -> None:
    store.run(
        "INSERT INTO content (inode, present, dirty, bytes, dirty_bytes, used_ns) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (inode) DO UPDATE SET present = excluded.present, "
        "dirty = excluded.dirty, bytes = excluded.bytes, dirty_bytes = excluded.dirty_bytes, "
        "used_ns = excluded.used_ns",
        (
            *(ino, present.to_bytes(), dirty.to_bytes()),
            *(present.total_bytes, dirty.total_bytes, used_ns),
        ),
    )


def forget(store: Store, ino: InodeId) -> None:
    store.run("DELETE FROM content WHERE inode = ?", (ino,))


def forget_clean(store: Store) -> None:
    """Distrust all clean content: after power loss its bytes may not have reached the disk."""
    store.run(
        "DELETE FROM content WHERE dirty_bytes = 0 AND inode NOT IN "
        "(SELECT inode FROM intent WHERE kind = 'put')"
    )
    store.run("UPDATE content SET present = dirty, bytes = dirty_bytes WHERE bytes > dirty_bytes")


def note_use(store: Store, ino: InodeId, used_ns: int, grain_ns: int) -> None:
    """Remember the last use for eviction, unless what is known is nearly as new."""
    store.run(
        "UPDATE content SET used_ns = ? WHERE inode = ? AND used_ns < ?",
        (used_ns, ino, used_ns - grain_ns),
    )


def victims(store: Store, limit: int, after: tuple[int, int]) -> list[Cached]:
    """Clean cached files, least recently used first, behind a position (used_ns, inode)."""
    rows = store.all(
        "SELECT inode, bytes, dirty_bytes, used_ns FROM content "
        "WHERE bytes > dirty_bytes AND (used_ns, inode) > (?, ?) ORDER BY used_ns, inode LIMIT ?",
        (*after, limit),
    )
    return [Cached._make(row) for row in rows]


def totals(store: Store) -> tuple[int, int, int]:
    """(files, bytes, dirty bytes) of all content."""
    row = store.one("SELECT count(*), sum(bytes), sum(dirty_bytes) FROM content")
    return (row[0], row[1] or 0, row[2] or 0) if row else (0, 0, 0)


def all_cached(store: Store) -> list[Cached]:
    rows = store.all("SELECT inode, bytes, dirty_bytes, used_ns FROM content ORDER BY inode")
    return [Cached._make(row) for row in rows]


def unsent_of_size(store: Store, size: int) -> list[Cached]:
    """What of files with at least so many unsent bytes is cached."""
    rows = store.all(
        "SELECT inode, bytes, dirty_bytes, used_ns FROM content WHERE dirty_bytes >= ?", (size,)
    )
    return [Cached._make(row) for row in rows]


def is_known(store: Store, ino: InodeId) -> bool:
    return store.one("SELECT 1 FROM content WHERE inode = ?", (ino,)) is not None
