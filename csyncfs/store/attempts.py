"""Table ``attempt``: requests that were sent, and of which no reply said what became of them.

At most one an inode: the next request about it is made when this one is found out. Of an inode
that nothing is promised about any more the row means nothing.
"""

from typing import Final, NamedTuple

from csyncfs.store.db import Store, key_after, key_from_db, key_to_db
from csyncfs.types import InodeId

# Something is promised of the inode yet. In two halves, each of which a partial index covers: these
# are asked for before every request, and the journal may be long.
_MEANT: Final = (
    "(EXISTS (SELECT 1 FROM intent i WHERE i.inode = a.inode AND i.kind <> 'delete') "
    "OR EXISTS (SELECT 1 FROM intent i WHERE i.inode = a.inode AND i.kind = 'delete'))"
)


class Attempt(NamedTuple):
    """One request as stored; schema.sql says what each field means."""

    inode: InodeId
    key_raw: bytes
    is_dir: int
    put_id: str | None
    tag: str | None

    @property
    def key(self) -> str:
        key = key_from_db(self.key_raw)
        assert key is not None
        return key


def note(
    store: Store, ino: InodeId, key: str, *, is_dir: bool, put_id: str | None, tag: str | None
) -> None:
    """Write down where a request goes, before it can have an effect."""
    store.run(
        "INSERT OR REPLACE INTO attempt (inode, key, is_dir, put_id, tag) VALUES (?, ?, ?, ?, ?)",
        (ino, key_to_db(key), is_dir, put_id, tag),
    )


def of_inode(store: Store, ino: InodeId) -> Attempt | None:
    row = store.one("SELECT inode, key, is_dir, put_id, tag FROM attempt WHERE inode = ?", (ino,))
    return Attempt._make(row) if row else None


def all_inodes(store: Store) -> list[InodeId]:
    """Of which a request is open: as many as ran at once, a run of the mount."""
    return [row[0] for row in store.all("SELECT inode FROM attempt")]


def forget(store: Store, ino: InodeId) -> None:
    """It is known what became of the request."""
    store.run("DELETE FROM attempt WHERE inode = ?", (ino,))


def forget_void(store: Store) -> None:
    """Drop the rows that mean nothing any more."""
    store.run("DELETE FROM attempt WHERE inode NOT IN (SELECT inode FROM intent)")


def makers_at(store: Store, key: str) -> list[InodeId]:
    """The inodes of which a request may have made what is at the key, without our knowing."""
    rows = store.all(
        f"SELECT a.inode FROM attempt a WHERE a.key = ? AND {_MEANT}", (key_to_db(key),)
    )
    return [row[0] for row in rows]


def maker_below(store: Store, directory: str, ino: InodeId) -> InodeId | None:
    """One as of ``makers_at``, of a directory or something below it; not this inode."""
    row = store.one(
        "SELECT a.inode FROM attempt a "
        f"WHERE a.key >= ? AND a.key < ? AND a.inode <> ? AND {_MEANT} LIMIT 1",
        (key_to_db(directory), key_after(directory), ino),
    )
    return row[0] if row else None


def tree_moves(store: Store) -> list[Attempt]:
    """Moves of whole directories of which it is not known whether they took effect."""
    rows = store.all(
        "SELECT inode, key, is_dir, put_id, tag FROM attempt a "
        f"WHERE is_dir = 1 AND put_id IS NULL AND {_MEANT}"
    )
    return [Attempt._make(row) for row in rows]


def is_open(store: Store, key: str) -> bool:
    """Whether what is at the key may be ours, without our knowing."""
    return bool(makers_at(store, key))
