"""Table ``held``: what is gone in the cloud, and stays here until the user agrees."""

from typing import NamedTuple

from csyncfs.store.db import Store
from csyncfs.types import InodeId


class Held(NamedTuple):
    """One file, or a directory with all below it."""

    inode: InodeId
    items: int
    since_ns: int


def add(store: Store, ino: InodeId, items: int, now_ns: int) -> None:
    store.run(
        "INSERT OR IGNORE INTO held (inode, items, since_ns) VALUES (?, ?, ?)", (ino, items, now_ns)
    )


def has(store: Store, ino: InodeId) -> bool:
    return store.one("SELECT 1 FROM held WHERE inode = ?", (ino,)) is not None


def remove(store: Store, ino: InodeId) -> None:
    store.run("DELETE FROM held WHERE inode = ?", (ino,))


def some(store: Store, after: InodeId, limit: int) -> list[Held]:
    rows = store.all(
        "SELECT inode, items, since_ns FROM held WHERE inode > ? ORDER BY inode LIMIT ?",
        (after, limit),
    )
    return [Held._make(row) for row in rows]


def count(store: Store) -> int:
    """Items altogether."""
    row = store.one("SELECT sum(items) FROM held")
    return (row[0] if row else 0) or 0


def items_below(store: Store, ino: InodeId, limit: int) -> int:
    """The inode and all below it, as far as it matters."""
    row = store.one(
        "WITH RECURSIVE below(id) AS (SELECT ? UNION ALL "
        "SELECT d.inode FROM dentry d JOIN below b ON d.parent = b.id) "
        "SELECT count(*) FROM (SELECT 1 FROM below LIMIT ?)",
        (ino, limit),
    )
    return row[0] if row else 0
