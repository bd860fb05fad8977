"""Tables ``change`` and ``seen``: what the change feed told and is not applied yet."""

from typing import Final, NamedTuple

import msgspec

from csyncfs.store.db import Store
from csyncfs.store.inodes import COLUMNS, InodeRow
from csyncfs.types import Change, InodeId

_decoder: Final = msgspec.msgpack.Decoder(Change)
_FEED: Final = "feed"


class Told(NamedTuple):
    """A change, and when the feed was asked for it."""

    seq: int
    change: Change
    heard_ns: int


class FeedState(msgspec.Struct, frozen=True):
    """Where the feed goes on, as kept between runs."""

    cursor: str | None = None
    is_enumeration: bool = True
    """Everything is being told anew; what it does not tell goes at its end."""
    enumerated_ns: int | None = None
    """When that was done last; None: never."""


def state(store: Store) -> FeedState:
    row = store.one("SELECT value FROM setting WHERE name = ?", (_FEED,))
    return msgspec.json.decode(row[0], type=FeedState) if row else FeedState()


def set_state(store: Store, new: FeedState) -> None:
    store.run(
        "INSERT INTO setting (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (_FEED, msgspec.json.encode(new).decode()),
    )


def add(store: Store, change: Change, heard_ns: int, *, is_enumeration: bool) -> None:
    """The latest word on its item; it takes the place of what was told before."""
    store.run("DELETE FROM change WHERE item_id = ?", (change.item_id,))
    store.run(
        "INSERT INTO change (item_id, parent_id, told, heard_ns) VALUES (?, ?, ?, ?)",
        (change.item_id, change.parent_id, msgspec.msgpack.encode(change), heard_ns),
    )
    if not is_enumeration:
        return
    if change.parent_id is None:
        store.run("DELETE FROM seen WHERE item_id = ?", (change.item_id,))
    else:
        store.run("INSERT OR IGNORE INTO seen (item_id) VALUES (?)", (change.item_id,))


def shown(store: Store, after: int, limit: int) -> list[Told]:
    """Items that are there, in the order of telling, behind a position."""
    rows = store.all(
        "SELECT seq, told, heard_ns FROM change WHERE seq > ? AND parent_id IS NOT NULL "
        "ORDER BY seq LIMIT ?",
        (after, limit),
    )
    return [Told(seq, _decoder.decode(told), heard) for seq, told, heard in rows]


def gone(store: Store, after: int, limit: int) -> list[Told]:
    """Items that are gone, likewise."""
    rows = store.all(
        "SELECT seq, told, heard_ns FROM change WHERE seq > ? AND parent_id IS NULL "
        "ORDER BY seq LIMIT ?",
        (after, limit),
    )
    return [Told(seq, _decoder.decode(told), heard) for seq, told, heard in rows]


def is_waiting(store: Store, item_id: str) -> bool:
    """Whether the item was told to be there, and that is not applied yet."""
    row = store.one(
        "SELECT 1 FROM change WHERE item_id = ? AND parent_id IS NOT NULL LIMIT 1", (item_id,)
    )
    return row is not None


def has(store: Store, seq: int) -> bool:
    return store.one("SELECT 1 FROM change WHERE seq = ?", (seq,)) is not None


def was_seen(store: Store, ino: InodeId) -> bool:
    """Whether the inode's item was among everything that was told."""
    row = store.one(
        "SELECT 1 FROM inode i JOIN seen s ON s.item_id = i.item_id WHERE i.id = ?", (ino,)
    )
    return row is not None


def count(store: Store) -> int:
    row = store.one("SELECT count(*) FROM change")
    return row[0] if row else 0


def remove(store: Store, seq: int) -> None:
    store.run("DELETE FROM change WHERE seq = ?", (seq,))


def clear(store: Store) -> None:
    """Everything is told anew."""
    store.run("DELETE FROM change")
    store.run("DELETE FROM seen")


def forget_seen(store: Store) -> None:
    store.run("DELETE FROM seen")


def unseen(store: Store, after: InodeId, limit: int) -> list[InodeRow]:
    """Inodes with a name whose item was not among everything that was told."""
    rows = store.all(
        f"SELECT {COLUMNS} FROM inode WHERE id > ? AND in_cloud = 1 AND nlink > 0 "
        "AND item_id IS NOT NULL AND item_id NOT IN (SELECT item_id FROM seen) "
        "ORDER BY id LIMIT ?",
        (after, limit),
    )
    return [InodeRow._make(row) for row in rows]


def unlisted_dirs(store: Store, after: InodeId, limit: int) -> list[InodeId]:
    """Directories that nobody has listed, but everything in them was told."""
    rows = store.all(
        "SELECT id FROM inode WHERE id > ? AND listed_ns IS NULL AND in_cloud = 1 AND nlink > 0 "
        "AND mode & 61440 = 16384 AND (id = 1 OR item_id IN (SELECT item_id FROM seen)) "
        "ORDER BY id LIMIT ?",
        (after, limit),
    )
    return [InodeId(row[0]) for row in rows]
