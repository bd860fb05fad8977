"""Tables ``inode``, ``dentry`` and ``xattr``: what exists and how it is called."""

import stat
from typing import Final, NamedTuple

from csyncfs.store.db import Row, Store, key_after, key_from_db, key_to_db
from csyncfs.types import ROOT, InodeId, Item, RemoteVersion

LAST_POSITION: Final = (1 << 63) - 1
"""Of an entry in its directory: behind all others."""
COLUMNS: Final = (
    "id, mode, nlink, uid, gid, rdev, size, mtime_ns, ctime_ns, atime_ns, target, told, in_cloud, "
    "base_tag, base_size, base_mtime_ns, base_md5, item_id, remote_key, dirty, generation, "
    "listed_ns, alias_of, link"
)
_PREFIXED = ", ".join(f"i.{column}" for column in COLUMNS.split(", "))


class InodeRow(NamedTuple):
    """One inode as stored; schema.sql says what each field means."""

    id: InodeId
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    target: bytes | None
    told: int
    in_cloud: int
    base_tag: str | None
    base_size: int | None
    base_mtime_ns: int | None
    base_md5: str | None
    item_id: str | None
    remote_key_raw: bytes | None
    dirty: int
    generation: int
    listed_ns: int | None
    alias_of: InodeId | None
    link: str | None

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_linked(self) -> bool:
        """Whether it is one name of a file that has several."""
        return self.alias_of is not None or (self.nlink > 1 and not self.is_dir)

    @property
    def remote_key(self) -> str | None:
        """Where the item is, if not at the parent's key + own name."""
        return key_from_db(self.remote_key_raw)

    @property
    def base(self) -> RemoteVersion | None:
        """The remote version the content descends from."""
        if self.base_tag is None:
            return None
        return RemoteVersion(
            self.base_tag, self.base_size or 0, self.base_mtime_ns or 0, self.base_md5
        )


class Dentry(NamedTuple):
    id: int
    parent: InodeId
    name: bytes
    inode: InodeId


def get(store: Store, ino: InodeId) -> InodeRow | None:
    row = store.one(f"SELECT {COLUMNS} FROM inode WHERE id = ?", (ino,))
    return InodeRow._make(row) if row else None


def lookup(store: Store, parent: InodeId, name: bytes) -> InodeRow | None:
    row = store.one(
        f"SELECT {_PREFIXED} FROM dentry d JOIN inode i ON i.id = d.inode "
        "WHERE d.parent = ? AND d.name = ?",
        (parent, name),
    )
    return InodeRow._make(row) if row else None


def read_dir(
    store: Store, parent: InodeId, after: int, limit: int, last: int = LAST_POSITION
) -> list[tuple[int, bytes, InodeRow]]:
    """Entries of a directory behind a position up to another: (position, name, inode)."""
    rows = store.all(
        f"SELECT d.id, d.name, {_PREFIXED} FROM dentry d JOIN inode i ON i.id = d.inode "
        "WHERE d.parent = ? AND d.id > ? AND d.id <= ? ORDER BY d.id LIMIT ?",
        (parent, after, last, limit),
    )
    return [(row[0], row[1], InodeRow._make(row[2:])) for row in rows]


def hold_positions(store: Store) -> int:
    """The last position that readdir shows now, of any directory; until the store is closed no
    new entry gets one before it."""
    row = store.one("SELECT max(id) FROM dentry")
    last = row[0] if row and row[0] is not None else 0
    store.held_position = max(store.held_position, last)
    return store.held_position


def has_children(store: Store, parent: InodeId) -> bool:
    return store.one("SELECT 1 FROM dentry WHERE parent = ? LIMIT 1", (parent,)) is not None


def names_of(store: Store, ino: InodeId) -> list[Dentry]:
    """The name of an inode: one, or none of the root and of what was unlinked. Further names of
    a file are inodes too (``aliases``)."""
    rows = store.all(
        "SELECT id, parent, name, inode FROM dentry WHERE inode = ? ORDER BY id", (ino,)
    )
    return [Dentry._make(row) for row in rows]


def path_of(store: Store, ino: InodeId) -> bytes | None:
    """Path below the mountpoint (``b""`` for the root), or None for an unlinked inode."""
    parts: list[bytes] = []
    while ino != ROOT:
        row: Row | None = store.one(
            "SELECT parent, name FROM dentry WHERE inode = ? ORDER BY id LIMIT 1", (ino,)
        )
        if row is None:
            return None
        parts.append(row[1])
        ino = row[0]
    return b"/".join(reversed(parts))


def by_remote_key(store: Store, key: str) -> InodeRow | None:
    """The inode that explicitly owns this key (derived keys are found by name); an unlinked one
    only until its item is deleted or replaced."""
    row = store.one(
        f"SELECT {COLUMNS} FROM inode WHERE remote_key = ? AND in_cloud = 1 AND (nlink > 0 OR "
        "EXISTS (SELECT 1 FROM intent t WHERE t.inode = inode.id AND t.kind = 'delete')) "
        "ORDER BY nlink = 0 LIMIT 1",
        (key_to_db(key),),
    )
    return InodeRow._make(row) if row else None


def by_item_id(store: Store, item_id: str) -> list[InodeRow]:
    """The inodes with a name that stand on this item: one, or for a moment several."""
    rows = store.all(
        f"SELECT {COLUMNS} FROM inode WHERE item_id = ? AND in_cloud = 1 AND nlink > 0 ORDER BY id",
        (item_id,),
    )
    return [InodeRow._make(row) for row in rows]


def owner_below(store: Store, prefix: str) -> InodeId | None:
    """Some inode with a name that explicitly owns a key below this prefix."""
    row = store.one(
        "SELECT id FROM inode WHERE remote_key >= ? AND remote_key < ? AND in_cloud = 1 "
        "AND nlink > 0 LIMIT 1",
        (key_to_db(prefix), key_after(prefix)),
    )
    return row[0] if row else None


def mover_below(store: Store, prefix: str) -> InodeId | None:
    """Some inode with a key below this prefix that is to be moved elsewhere."""
    row = store.one(
        "SELECT i.id FROM inode i JOIN intent t ON t.inode = i.id AND t.kind = 'move' "
        "WHERE i.remote_key >= ? AND i.remote_key < ? AND i.in_cloud = 1 LIMIT 1",
        (key_to_db(prefix), key_after(prefix)),
    )
    return row[0] if row else None


def insert(
    store: Store,
    *,
    mode: int,
    uid: int,
    gid: int,
    now_ns: int,
    nlink: int = 1,
    rdev: int = 0,
    size: int = 0,
    mtime_ns: int | None = None,
    target: bytes | None = None,
    told: bool = True,
    in_cloud: bool = False,
    base: RemoteVersion | None = None,
    item_id: str | None = None,
    remote_key: str | None = None,
    dirty: bool = False,
    alias_of: InodeId | None = None,
    link: str | None = None,
) -> InodeId:
    mtime_ns = now_ns if mtime_ns is None else mtime_ns
    return InodeId(
        store.insert(
            "INSERT INTO inode (mode, nlink, uid, gid, rdev, size, mtime_ns, ctime_ns, atime_ns, "
            "target, told, in_cloud, base_tag, base_size, base_mtime_ns, base_md5, item_id, "
            "remote_key, dirty, alias_of, link) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(mode, nlink, uid, gid, rdev, size, mtime_ns, now_ns, mtime_ns),
                *(
                    target,
                    told,
                    in_cloud,
                    *_base_values(base),
                    item_id,
                    key_to_db(remote_key),
                    dirty,
                    alias_of,
                    link,
                ),
            ),
        )
    )


def insert_root(store: Store, *, mode: int, uid: int, gid: int, now_ns: int) -> None:
    store.run(
        "INSERT OR IGNORE INTO inode (id, mode, nlink, uid, gid, mtime_ns, ctime_ns, atime_ns, "
        "in_cloud) VALUES (?, ?, 2, ?, ?, ?, ?, ?, 1)",
        (ROOT, mode, uid, gid, now_ns, now_ns, now_ns),
    )


def _base_values(
    base: RemoteVersion | None,
) -> tuple[str | None, int | None, int | None, str | None]:
    if base is None:
        return None, None, None, None
    return base.tag, base.size, base.mtime_ns, base.md5


def set_base(
    store: Store,
    ino: InodeId,
    base: RemoteVersion | None,
    *,
    in_cloud: bool,
    item_id: str | None,
    remote_key: str | None,
) -> None:
    """What the inode is in the cloud, and where."""
    store.run(
        "UPDATE inode SET base_tag = ?, base_size = ?, base_mtime_ns = ?, base_md5 = ?, "
        "in_cloud = ?, item_id = ?, remote_key = ? WHERE id = ?",
        (*_base_values(base), in_cloud, item_id, key_to_db(remote_key), ino),
    )


def set_item(store: Store, ino: InodeId, item: Item, remote_key: str | None) -> None:
    """This item is the inode's; ``remote_key`` None: its key is its name."""
    set_base(
        store,
        ino,
        item.version,
        in_cloud=True,
        item_id=item.location.item_id,
        remote_key=remote_key,
    )


def set_item_id(store: Store, ino: InodeId, item_id: str | None) -> None:
    store.run("UPDATE inode SET item_id = ? WHERE id = ?", (item_id, ino))


def set_no_item(store: Store, ino: InodeId, base: RemoteVersion | None = None) -> None:
    """Nothing in the cloud is the inode's; ``base``: what its next upload may replace."""
    set_base(store, ino, base, in_cloud=False, item_id=None, remote_key=None)


def set_remote_key(store: Store, ino: InodeId, remote_key: str | None) -> None:
    store.run("UPDATE inode SET remote_key = ? WHERE id = ?", (key_to_db(remote_key), ino))


def rebase_keys(store: Store, old: str, new: str) -> None:
    """A whole prefix moved in the cloud: explicit keys below it follow."""
    store.run(
        "UPDATE inode SET remote_key = CAST(? || substr(remote_key, ?) AS BLOB) "
        "WHERE remote_key > ? AND remote_key < ?",
        (key_to_db(new), _length(old) + 1, key_to_db(old), key_after(old)),
    )


def _length(key: str) -> int:
    return len(key_to_db(key) or b"")


def set_clean(store: Store, ino: InodeId) -> None:
    store.run("UPDATE inode SET dirty = 0 WHERE id = ?", (ino,))


def set_dirty(store: Store, ino: InodeId) -> None:
    store.run("UPDATE inode SET dirty = 1 WHERE id = ?", (ino,))


def set_content_shape(
    store: Store, ino: InodeId, *, size: int, mtime_ns: int, ctime_ns: int, generation: int
) -> None:
    store.run(
        "UPDATE inode SET size = ?, mtime_ns = ?, ctime_ns = max(ctime_ns, ?), generation = ? "
        "WHERE id = ?",
        (size, mtime_ns, ctime_ns, generation, ino),
    )


def set_attributes(
    store: Store,
    ino: InodeId,
    *,
    mode: int,
    uid: int,
    gid: int,
    mtime_ns: int,
    atime_ns: int,
    ctime_ns: int,
    rdev: int = 0,
) -> None:
    """Attributes told by a program or by the item; they are no guesses any more."""
    store.run(
        "UPDATE inode SET mode = ?, uid = ?, gid = ?, mtime_ns = ?, atime_ns = ?, ctime_ns = ?, "
        "rdev = ?, told = 1 WHERE id = ?",
        (mode, uid, gid, mtime_ns, atime_ns, ctime_ns, rdev, ino),
    )


def set_atime(store: Store, ino: InodeId, when_ns: int) -> None:
    store.run("UPDATE inode SET atime_ns = ? WHERE id = ?", (when_ns, ino))


def set_size(store: Store, ino: InodeId, size: int, mtime_ns: int) -> None:
    store.run("UPDATE inode SET size = ?, mtime_ns = ? WHERE id = ?", (size, mtime_ns, ino))


def set_base_mtime(store: Store, ino: InodeId, mtime_ns: int) -> None:
    store.run("UPDATE inode SET base_mtime_ns = ? WHERE id = ?", (mtime_ns, ino))


def set_target(store: Store, ino: InodeId, target: bytes) -> None:
    store.run("UPDATE inode SET target = ?, size = ? WHERE id = ?", (target, len(target), ino))


def set_told(store: Store, ino: InodeId, told: bool) -> None:
    store.run("UPDATE inode SET told = ? WHERE id = ?", (told, ino))


def set_listed(store: Store, ino: InodeId, when_ns: int | None) -> None:
    store.run("UPDATE inode SET listed_ns = ? WHERE id = ?", (when_ns, ino))


def touch_dir(store: Store, ino: InodeId, now_ns: int) -> None:
    store.run("UPDATE inode SET mtime_ns = ?, ctime_ns = ? WHERE id = ?", (now_ns, now_ns, ino))


def set_nlink(store: Store, ino: InodeId, nlink: int, now_ns: int) -> None:
    store.run("UPDATE inode SET nlink = ?, ctime_ns = ? WHERE id = ?", (nlink, now_ns, ino))


def add_nlink(store: Store, ino: InodeId, delta: int) -> None:
    store.run("UPDATE inode SET nlink = nlink + ? WHERE id = ?", (delta, ino))


def delete(store: Store, ino: InodeId) -> None:
    """Forget an inode without names, intents and content."""
    store.run("DELETE FROM xattr WHERE inode = ?", (ino,))
    store.run("DELETE FROM inode WHERE id = ?", (ino,))


def orphans(store: Store, limit: int) -> list[InodeId]:
    """Unlinked inodes, oldest first."""
    rows = store.all("SELECT id FROM inode WHERE nlink = 0 ORDER BY id LIMIT ?", (limit,))
    return [InodeId(row[0]) for row in rows]


def link(
    store: Store, parent: InodeId, name: bytes, ino: InodeId, position: int | None = None
) -> None:
    """Give an inode a name; ``position`` of an entry it takes the place of, for readdir."""
    if position is not None:
        store.run(
            "INSERT INTO dentry (id, parent, name, inode) VALUES (?, ?, ?, ?)",
            (position, parent, name, ino),
        )
        return
    # Not what SQLite takes by itself: it gives what the last entry had to the next.
    store.run(
        "INSERT INTO dentry (id, parent, name, inode) "
        "SELECT max(coalesce(max(id), 0), ?) + 1, ?, ?, ? FROM dentry",
        (store.held_position, parent, name, ino),
    )


def position(store: Store, parent: InodeId, name: bytes) -> int | None:
    """Where readdir shows this name."""
    row = store.one("SELECT id FROM dentry WHERE parent = ? AND name = ?", (parent, name))
    return row[0] if row else None


def unlink(store: Store, parent: InodeId, name: bytes) -> None:
    store.run("DELETE FROM dentry WHERE parent = ? AND name = ?", (parent, name))


def children_in_place(store: Store, parent: InodeId, limit: int) -> list[tuple[bytes, InodeRow]]:
    """Children whose item is where the parent's item is (no key of their own)."""
    rows = store.all(
        f"SELECT d.name, {_PREFIXED} FROM dentry d JOIN inode i ON i.id = d.inode "
        "WHERE d.parent = ? AND i.in_cloud = 1 AND i.remote_key IS NULL LIMIT ?",
        (parent, limit),
    )
    return [(row[0], InodeRow._make(row[1:])) for row in rows]


def untold(store: Store, parent: InodeId, limit: int) -> list[InodeRow]:
    """Files of a directory whose attributes are guesses, small ones (maybe symlinks) first."""
    rows = store.all(
        f"SELECT {_PREFIXED} FROM dentry d JOIN inode i ON i.id = d.inode "
        "WHERE d.parent = ? AND i.told = 0 AND i.dirty = 0 ORDER BY i.size > 4096, d.id LIMIT ?",
        (parent, limit),
    )
    return [InodeRow._make(row) for row in rows]


def count(store: Store) -> int:
    row = store.one("SELECT count(*) FROM inode")
    return row[0] if row else 0


def get_xattr(store: Store, ino: InodeId, name: bytes) -> bytes | None:
    row = store.one("SELECT value FROM xattr WHERE inode = ? AND name = ?", (ino, name))
    return row[0] if row else None


def list_xattrs(store: Store, ino: InodeId) -> list[bytes]:
    return [row[0] for row in store.all("SELECT name FROM xattr WHERE inode = ?", (ino,))]


def all_xattrs(store: Store, ino: InodeId) -> dict[bytes, bytes]:
    rows = store.all("SELECT name, value FROM xattr WHERE inode = ?", (ino,))
    return {row[0]: row[1] for row in rows}


def set_xattr(store: Store, ino: InodeId, name: bytes, value: bytes) -> None:
    store.run(
        "INSERT INTO xattr (inode, name, value) VALUES (?, ?, ?) "
        "ON CONFLICT (inode, name) DO UPDATE SET value = excluded.value",
        (ino, name, value),
    )


def remove_xattr(store: Store, ino: InodeId, name: bytes) -> bool:
    return store.run("DELETE FROM xattr WHERE inode = ? AND name = ?", (ino, name)) > 0
