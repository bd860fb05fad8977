"""What must hold between the rows of a store at rest (the invariants of ARCHITECTURE.md), and
how a row that breaks it is set right.

Reads every row: for fsck only. Each check yields flaws as they are found; the next one must
see the repairs of the one before. Never drops what says where unsent bytes belong: that is
decided by ``fsck``, which knows the content files.
"""

import stat
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from csyncfs.errors import StoreError
from csyncfs.extents import Extents
from csyncfs.store import aliases, contents, inodes, journal
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import IntentKind
from csyncfs.types import ROOT, InodeId, Seq

_IS_DIR: Final = "(i.mode & 61440) = 16384"
_DEEPEST: Final = 4096


class Flaw(NamedTuple):
    """One thing that must not be."""

    text: str
    repair: Callable[[], object] | None
    """Inside a transaction; None: nothing here can."""
    inode: InodeId | None = None
    """Whose name or content has to be decided about by the caller."""


def shown_path(store: Store, ino: InodeId) -> str | None:
    """Path of an inode for people, also where rows are missing; None: no name leads to it."""
    parts: list[bytes] = []
    while ino != ROOT and len(parts) < _DEEPEST:
        row = store.one(
            "SELECT parent, name FROM dentry WHERE inode = ? ORDER BY id LIMIT 1", (ino,)
        )
        if row is None:
            parts.append(f"?{ino}".encode())
            break
        parts.append(row[1])
        ino = row[0]
    if len(parts) == 1 and parts[0].startswith(b"?"):
        return None
    return b"/".join(reversed(parts)).decode("utf-8", "backslashreplace")


def foreign_keys(store: Store) -> Iterator[Flaw]:
    """Rows about inodes that do not exist; names are ``names``' business."""
    for table, column in (("xattr", "inode"), ("content", "inode")):
        sql = f"SELECT DISTINCT {column} FROM {table} WHERE {column} NOT IN (SELECT id FROM inode)"
        for (ino,) in store.all(sql):
            drop = f"DELETE FROM {table} WHERE {column} = ?"
            yield Flaw(
                f"{table} of inode {ino}, which does not exist",
                lambda drop=drop, ino=ino: store.run(drop, (ino,)),
            )


def root(store: Store) -> Iterator[Flaw]:
    row = inodes.get(store, ROOT)
    if row is None and store.one("SELECT 1 FROM dentry LIMIT 1"):
        now = time.time_ns()

        def make() -> None:
            inodes.insert_root(store, mode=stat.S_IFDIR | 0o755, uid=0, gid=0, now_ns=now)

        yield Flaw("the root directory is missing", make)


def names(store: Store) -> Iterator[Flaw]:
    """Names lead from a directory to an inode."""
    for position, name, ino in store.all(
        "SELECT d.id, d.name, d.inode FROM dentry d LEFT JOIN inode i ON i.id = d.inode "
        "WHERE i.id IS NULL"
    ):
        yield Flaw(
            f"name {_name(name)} leads to inode {ino}, which does not exist",
            lambda position=position: _drop_name(store, position),
        )
    for position, name, parent in store.all(
        "SELECT d.id, d.name, d.parent FROM dentry d LEFT JOIN inode i ON i.id = d.parent "
        f"WHERE i.id IS NULL OR NOT {_IS_DIR}"
    ):
        yield Flaw(
            f"name {_name(name)} is in inode {parent}, which is no directory",
            lambda position=position: _drop_name(store, position),
        )
    for ino, count in store.all(
        "SELECT d.inode, count(*) FROM dentry d JOIN inode i ON i.id = d.inode "
        f"WHERE {_IS_DIR} GROUP BY d.inode HAVING count(*) > 1"
    ):
        keep = "SELECT min(id) FROM dentry WHERE inode = ?"
        drop = f"DELETE FROM dentry WHERE inode = ? AND id <> ({keep})"
        yield Flaw(
            f"directory {ino} has {count} names",
            lambda ino=ino, drop=drop: store.run(drop, (ino, ino)),
        )


def _drop_name(store: Store, position: int) -> None:
    # The directory is listed anew: what is in the cloud comes back by itself.
    store.run(
        "UPDATE inode SET listed_ns = NULL WHERE id = (SELECT parent FROM dentry WHERE id = ?)",
        (position,),
    )
    store.run("DELETE FROM dentry WHERE id = ?", (position,))


def unreachable(store: Store) -> Iterator[Flaw]:
    """Directories that no path leads to; the caller empties them."""
    for (ino,) in store.all(
        "WITH RECURSIVE found(id) AS (VALUES (1) UNION SELECT d.inode FROM found f "
        "JOIN dentry d ON d.parent = f.id JOIN inode i ON i.id = d.inode "
        f"WHERE {_IS_DIR}) "
        f"SELECT i.id FROM inode i WHERE {_IS_DIR} AND i.nlink > 0 AND i.id <> 1 "
        "AND i.id NOT IN (SELECT id FROM found)"
    ):
        yield Flaw(f"directory {ino} is in no directory that can be reached", None, InodeId(ino))


def further_names(store: Store) -> Iterator[Flaw]:
    """An alias is a further name of a file that has one of its own."""
    for (ino,) in store.all(
        "SELECT a.id FROM inode a LEFT JOIN inode i ON i.id = a.alias_of "
        "WHERE a.alias_of IS NOT NULL AND a.nlink > 0 "
        f"AND (i.id IS NULL OR i.alias_of IS NOT NULL OR i.nlink = 0 OR {_IS_DIR})"
    ):
        yield Flaw(
            f"{_of(store, ino)} is a further name of no file", lambda ino=ino: forget(store, ino)
        )
    for ino, alias in store.all(
        "SELECT i.id, min(a.id) FROM inode i JOIN inode a ON a.alias_of = i.id AND a.nlink > 0 "
        "JOIN dentry e ON e.inode = a.id "
        "WHERE i.id NOT IN (SELECT inode FROM dentry) GROUP BY i.id"
    ):
        yield Flaw(
            f"file {ino} has lost the name that is its own",
            lambda ino=ino, alias=alias: _inherit(store, ino, alias),
        )


def _inherit(store: Store, ino: InodeId, alias: InodeId) -> None:
    file, other = inodes.get(store, ino), inodes.get(store, alias)
    assert file is not None
    assert other is not None
    aliases.give_name(store, alias, ino)
    inodes.set_base(
        store,
        ino,
        other.base,
        in_cloud=bool(other.in_cloud),
        item_id=other.item_id,
        remote_key=other.remote_key,
    )
    aliases.set_link(store, ino, other.link)
    if file.link != other.link and not file.dirty:
        contents.forget(store, ino)
    forget(store, alias)


def link_counts(store: Store) -> Iterator[Flaw]:
    """How many names an inode has is how many it says it has. Without any: the caller's."""
    further = (
        "(SELECT count(*) FROM inode a JOIN dentry e ON e.inode = a.id "
        "WHERE a.alias_of = i.id AND a.nlink > 0)"
    )
    for ino, nlink, found in store.all(
        f"SELECT i.id, i.nlink, count(d.id) + {further} AS found FROM inode i "
        "LEFT JOIN dentry d ON d.inode = i.id "
        f"WHERE NOT {_IS_DIR} GROUP BY i.id HAVING i.nlink <> found"
    ):
        if found == 0:
            yield Flaw(f"inode {ino} has no name", None, InodeId(ino))
            continue
        yield Flaw(
            f"inode {ino} has {found} names and counts {nlink}",
            lambda ino=ino, found=found: _set_nlink(store, ino, found),
        )
    for ino, nlink, found in store.all(
        f"SELECT i.id, i.nlink, 2 + count(c.id) FROM inode i "
        "LEFT JOIN dentry d ON d.parent = i.id "
        "LEFT JOIN inode c ON c.id = d.inode AND (c.mode & 61440) = 16384 "
        f"WHERE {_IS_DIR} AND i.nlink > 0 GROUP BY i.id HAVING i.nlink <> 2 + count(c.id)"
    ):
        yield Flaw(
            f"directory {ino} has {found - 2} directories in it and counts {nlink - 2}",
            lambda ino=ino, found=found: _set_nlink(store, ino, found),
        )


def _set_nlink(store: Store, ino: int, nlink: int) -> None:
    store.run("UPDATE inode SET nlink = ? WHERE id = ?", (nlink, ino))


def intents(store: Store) -> Iterator[Flaw]:
    """Promises are about something that is there, and could be kept."""
    for seq, kind, ino in store.all(
        "SELECT t.seq, t.kind, t.inode FROM intent t LEFT JOIN inode i ON i.id = t.inode "
        "WHERE t.kind <> 'delete' AND i.id IS NULL"
    ):
        yield Flaw(f"{kind} of inode {ino}, which does not exist", _remover(store, seq))
    for seq, ino in store.all(
        "SELECT seq, inode FROM intent WHERE kind = 'delete' AND key IS NULL"
    ):
        yield Flaw(f"delete of inode {ino} does not say what", _remover(store, seq))
    for seq, ino in store.all(
        "SELECT t.seq, i.id FROM intent t JOIN inode i ON i.id = t.inode "
        "WHERE t.kind = 'move' AND i.remote_key IS NULL AND i.nlink > 0 "
        # In place: then it only has to find out what became of a lost attempt.
        "AND t.resume IS NULL AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.inode = i.id)"
    ):
        yield Flaw(f"move of inode {ino} does not say from where", _remover(store, seq))


def _remover(store: Store, seq: int) -> Callable[[], object]:
    return lambda: journal.remove(store, Seq(seq))


def promises(store: Store) -> Iterator[Flaw]:
    """What the cloud has not is promised to it, and nothing else is."""
    has_put = "EXISTS (SELECT 1 FROM intent t WHERE t.inode = i.id AND t.kind = 'put')"
    for (ino,) in store.all(
        f"SELECT i.id FROM inode i WHERE i.dirty = 1 AND i.nlink > 0 AND NOT {has_put}"
    ):
        yield Flaw(f"{_of(store, ino)} has changes that no upload waits for", _put(store, ino))
    for (ino,) in store.all(
        "SELECT i.id FROM inode i JOIN content c ON c.inode = i.id "
        "WHERE i.dirty = 0 AND i.nlink > 0 AND c.dirty_bytes > 0"
    ):
        yield Flaw(f"{_of(store, ino)} has changes and does not know it", _put(store, ino))
    for (ino,) in store.all(
        f"SELECT i.id FROM inode i WHERE i.dirty = 0 AND i.nlink > 0 AND {has_put}"
    ):
        yield Flaw(
            f"upload of {_of(store, ino)}, which has no changes",
            lambda ino=ino: journal.remove_kind(store, ino, IntentKind.PUT),
        )
    yield from _nowhere(store)


def _nowhere(store: Store) -> Iterator[Flaw]:
    for (ino,) in store.all(
        f"SELECT i.id FROM inode i WHERE {_IS_DIR} AND i.id <> 1 AND i.nlink > 0 "
        "AND i.in_cloud = 0 AND NOT EXISTS "
        "(SELECT 1 FROM intent t WHERE t.inode = i.id AND t.kind = 'mkdir')"
    ):
        now = time.time_ns()
        yield Flaw(
            f"directory {_of(store, ino)} is not in the cloud and nobody makes it there",
            lambda ino=ino, now=now: journal.add_now(
                store, IntentKind.MKDIR, ino, now, is_dir=True
            ),
        )
    for (ino,) in store.all(
        f"SELECT i.id FROM inode i WHERE NOT {_IS_DIR} AND i.nlink > 0 AND i.dirty = 0 "
        "AND (i.in_cloud = 0 OR i.base_tag IS NULL)"
    ):
        row = inodes.get(store, InodeId(ino))
        assert row is not None, "listed just now"
        known = contents.get(store, row.id)
        is_whole = row.size == 0 or (known is not None and known[0].covers(0, row.size))
        if is_whole or not stat.S_ISREG(row.mode):
            yield Flaw(f"{_of(store, ino)} is neither here nor in the cloud", _put(store, ino))
        else:
            yield Flaw(
                f"{_of(store, ino)} is neither here nor in the cloud",
                lambda ino=ino: forget(store, ino),
            )


def _put(store: Store, ino: int) -> Callable[[], object]:
    def promise() -> None:
        inodes.set_dirty(store, InodeId(ino))
        now = time.time_ns()
        journal.add_now(store, IntentKind.PUT, InodeId(ino), now, is_dir=False)

    return promise


def forget(store: Store, ino: InodeId) -> None:
    """Drop an inode and its names; what the cloud has of it is listed anew."""
    for dentry in inodes.names_of(store, ino):
        _drop_name(store, dentry.id)
    store.run("DELETE FROM intent WHERE inode = ? AND kind <> 'delete'", (ino,))
    contents.forget(store, ino)
    inodes.delete(store, ino)


def keys(store: Store) -> Iterator[Flaw]:
    """One item in the cloud is one inode here."""
    for key, count in store.all(
        "SELECT remote_key, count(*) FROM inode WHERE remote_key IS NOT NULL AND in_cloud = 1 "
        "AND nlink > 0 GROUP BY remote_key HAVING count(*) > 1"
    ):
        found = store.all(
            "SELECT id, dirty FROM inode WHERE remote_key = ? AND in_cloud = 1 AND nlink > 0 "
            "ORDER BY dirty DESC, id",
            (key,),
        )
        spare = [InodeId(ino) for ino, dirty in found[1:] if not dirty]

        def drop(spare: list[InodeId] = spare) -> None:
            for ino in spare:
                forget(store, ino)

        can_be_repaired = len(spare) == count - 1
        yield Flaw(
            f"{count} files take the item {_name(key)} for theirs",
            drop if can_be_repaired else None,
        )


def extents(store: Store) -> Iterator[Flaw]:
    """dirty ⊆ present ⊆ [0, size), and the sums are right."""
    for cached in contents.all_cached(store):
        row = inodes.get(store, cached.inode)
        if row is None:
            continue  # foreign_keys has told
        try:
            known = contents.get(store, cached.inode)
        except (ValueError, OverflowError):
            known = None
        if known is None:
            yield Flaw(f"extents of {_of(store, row.id)} cannot be read", None, row.id)
            continue
        present, dirty = known
        if what := _wrong(row, present, dirty, cached):
            yield Flaw(f"extents of {_of(store, row.id)}: {what}", _fit(store, row, present, dirty))


def _wrong(row: InodeRow, present: Extents, dirty: Extents, cached: contents.Cached) -> str:
    if dirty.subtract(present):
        return "changed bytes that are not there"
    if present.end > row.size:
        return f"bytes up to {present.end}, behind its end at {row.size}"
    if (cached.bytes, cached.dirty_bytes) != (present.total_bytes, dirty.total_bytes):
        return "the sums are wrong"
    return ""


def _fit(store: Store, row: InodeRow, present: Extents, dirty: Extents) -> Callable[[], object]:
    def fit() -> None:
        good, unsent = present.union(dirty), dirty.copy()
        good.truncate(row.size)
        unsent.truncate(row.size)
        contents.save(store, row.id, good, unsent, row.atime_ns)

    return fit


def is_empty(store: Store) -> bool:
    """Whether this is the store of a mount that was never made."""
    tables = ("inode", "dentry", "intent")
    return all(store.one(f"SELECT 1 FROM {table} LIMIT 1") is None for table in tables)


def highest(store: Store) -> int:
    """The highest inode id ever given out."""
    row = store.one("SELECT seq FROM sqlite_sequence WHERE name = 'inode'")
    return row[0] if row else 0


def reserve_ids(store: Store, up_to: int) -> None:
    """Never give out these ids: content files have them already."""
    if up_to > highest(store):
        store.run("DELETE FROM sqlite_sequence WHERE name = 'inode'")
        store.run("INSERT INTO sqlite_sequence (name, seq) VALUES ('inode', ?)", (up_to,))


def revive(store: Store, ino: InodeId, size: int, mtime_ns: int, uid: int, gid: int) -> None:
    """An inode for content whose row was lost: a new file, to be uploaded."""
    store.run(
        "INSERT INTO inode (id, mode, nlink, uid, gid, size, mtime_ns, ctime_ns, atime_ns, dirty) "
        "VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, 1)",
        (ino, stat.S_IFREG | 0o600, uid, gid, size, mtime_ns, mtime_ns, mtime_ns),
    )
    whole = Extents.whole(size)
    contents.save(store, ino, whole, whole, mtime_ns)
    journal.add_now(store, IntentKind.PUT, ino, mtime_ns, is_dir=False)


def _of(store: Store, ino: int) -> str:
    try:
        return shown_path(store, InodeId(ino)) or f"inode {ino}"
    except StoreError:
        return f"inode {ino}"


def _name(raw: bytes) -> str:
    return repr(raw.decode("utf-8", "backslashreplace"))
