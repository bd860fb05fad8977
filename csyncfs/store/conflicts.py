"""Table ``conflict``: every time two people changed one file, and which side is where."""

from typing import NamedTuple

from csyncfs.store.db import Store
from csyncfs.types import InodeId, RemoteVersion


class Conflict(NamedTuple):
    """One conflict as stored; schema.sql says what each field means."""

    id: int
    inode: InodeId
    original: InodeId
    path: bytes
    conflict_name: bytes
    device: str
    other_device: str | None
    size: int
    ancestor_tag: str | None
    remote_tag: str | None
    remote_mtime_ns: int | None
    created_ns: int


_COLUMNS = ", ".join(Conflict._fields)
# The set-aside file still goes by its conflict name: nobody has removed or renamed it.
_IS_OPEN = (
    "EXISTS (SELECT 1 FROM dentry d WHERE d.inode = c.inode "
    "AND substr(d.name, -9) = CAST('.conflict' AS BLOB))"
)


def add(
    store: Store,
    *,
    inode: InodeId,
    original: InodeId,
    path: bytes,
    conflict_name: bytes,
    device: str,
    other_device: str | None,
    size: int,
    ancestor_tag: str | None,
    remote: RemoteVersion | None,
    now_ns: int,
) -> None:
    store.run(
        f"INSERT INTO conflict ({_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(inode, original, path, conflict_name, device, other_device, size, ancestor_tag),
            *((remote.tag, remote.mtime_ns) if remote else (None, None)),
            now_ns,
        ),
    )


def open_ones(store: Store) -> list[Conflict]:
    """Conflicts whose set-aside file still has a name: nobody has resolved them yet."""
    rows = store.all(f"SELECT {_COLUMNS} FROM conflict c WHERE {_IS_OPEN} ORDER BY id")
    return [Conflict._make(row) for row in rows]


def count_open(store: Store) -> int:
    row = store.one(f"SELECT count(*) FROM conflict c WHERE {_IS_OPEN}")
    return row[0] if row else 0
