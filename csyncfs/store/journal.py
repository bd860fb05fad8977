"""Table ``intent``, the journal: promises made to programs and not yet kept in the cloud.

No other module writes it. An intent disappears by success, by squash (a later promise makes
it void), or by the user's explicit command; never by failure.
"""

import enum
from typing import Final, NamedTuple

from csyncfs.store import attempts
from csyncfs.store.db import Row, Store, key_after, key_from_db, key_to_db
from csyncfs.types import InodeId, Location, RemoteVersion, Seq


class IntentKind(enum.StrEnum):
    PUT = "put"
    MOVE = "move"
    MKDIR = "mkdir"
    ATTRS = "attrs"
    DELETE = "delete"


BIG_DELETE: Final = "so much at once was removed that you have to agree: csyncfs-admin held"
"""Why a DELETE is held, see ``deletions``."""

_COLUMNS = (
    "seq, kind, inode, is_dir, not_before_ns, hold, attempts, error, put_id, put_generation, "
    "resume, key, item_id, expect_tag, expect_size, expect_mtime_ns, created_ns"
)


class Intent(NamedTuple):
    """One promise as stored; schema.sql says what each field means."""

    seq: Seq
    kind: str
    inode: InodeId
    is_dir: int
    not_before_ns: int | None
    hold: str | None
    attempts: int
    error: str | None
    put_id: str | None
    put_generation: int | None
    resume: str | None
    key_raw: bytes | None
    item_id: str | None
    expect_tag: str | None
    expect_size: int | None
    expect_mtime_ns: int | None
    created_ns: int

    @property
    def expect(self) -> RemoteVersion | None:
        """DELETE: the version we believe in."""
        if self.expect_tag is None:
            return None
        return RemoteVersion(self.expect_tag, self.expect_size or 0, self.expect_mtime_ns or 0)

    @property
    def location(self) -> Location:
        """DELETE: what goes."""
        key = key_from_db(self.key_raw)
        assert key is not None
        return Location(key, self.item_id)


class Totals(NamedTuple):
    """The journal in numbers."""

    waiting: int
    held: int
    put_bytes: int
    oldest_ns: int | None


def add(
    store: Store,
    kind: IntentKind,
    ino: InodeId,
    *,
    is_dir: bool,
    not_before_ns: int | None,
    now_ns: int,
) -> None:
    """Promise to bring this side of the inode to the cloud; one a kind and inode.

    An existing promise keeps its place in the order and its history, and takes the new time.
    """
    store.run(
        "INSERT INTO intent (kind, inode, is_dir, not_before_ns, created_ns) "
        "VALUES (?, ?, ?, ?, ?) ON CONFLICT (inode, kind) WHERE kind <> 'delete' "
        "DO UPDATE SET not_before_ns = excluded.not_before_ns, hold = NULL",
        (kind.value, ino, is_dir, not_before_ns, now_ns),
    )


def add_now(store: Store, kind: IntentKind, ino: InodeId, now_ns: int, *, is_dir: bool) -> None:
    """``add``, due at once."""
    add(store, kind, ino, is_dir=is_dir, not_before_ns=now_ns, now_ns=now_ns)


def add_delete(
    store: Store,
    ino: InodeId,
    location: Location,
    expect: RemoteVersion | None,
    *,
    is_dir: bool,
    not_before_ns: int,
    now_ns: int,
) -> None:
    """Promise to delete this item if it still is the expected version."""
    store.run(
        "INSERT INTO intent (kind, inode, is_dir, not_before_ns, key, item_id, expect_tag, "
        "expect_size, expect_mtime_ns, created_ns) "
        "VALUES ('delete', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(ino, is_dir, not_before_ns, key_to_db(location.key), location.item_id),
            *_expect_values(expect),
            now_ns,
        ),
    )


def _expect_values(expect: RemoteVersion | None) -> tuple[str | None, int | None, int | None]:
    if expect is None:
        return None, None, None
    return expect.tag, expect.size, expect.mtime_ns


def get(store: Store, seq: Seq) -> Intent | None:
    row = store.one(f"SELECT {_COLUMNS} FROM intent WHERE seq = ?", (seq,))
    return Intent._make(row) if row else None


def find(store: Store, ino: InodeId, kind: IntentKind) -> Intent | None:
    """The promise of this kind; DELETEs are found by their key."""
    # The last term tells SQLite that the partial index covers it; without, it scans the journal.
    row = store.one(
        f"SELECT {_COLUMNS} FROM intent WHERE inode = ? AND kind = ? AND kind <> 'delete'",
        (ino, kind.value),
    )
    return Intent._make(row) if row else None


def of_inode(store: Store, ino: InodeId) -> list[Intent]:
    rows = store.all(
        f"SELECT {_COLUMNS} FROM intent WHERE inode = ? AND kind <> 'delete' "
        f"UNION ALL SELECT {_COLUMNS} FROM intent WHERE inode = ? AND kind = 'delete'",
        (ino, ino),
    )
    return [Intent._make(row) for row in rows]


def has_any(store: Store, ino: InodeId) -> bool:
    return bool(
        store.one("SELECT 1 FROM intent WHERE inode = ? AND kind <> 'delete' LIMIT 1", (ino,))
        or store.one("SELECT 1 FROM intent WHERE inode = ? AND kind = 'delete' LIMIT 1", (ino,))
    )


def delete_at(store: Store, key: str) -> Intent | None:
    """The pending DELETE of exactly this key, the oldest if there are several."""
    row = store.one(
        f"SELECT {_COLUMNS} FROM intent WHERE key = ? AND kind = 'delete' ORDER BY seq LIMIT 1",
        (key_to_db(key),),
    )
    return Intent._make(row) if row else None


def deleters_at(store: Store, key: str, *, is_known: bool = False) -> set[InodeId]:
    """The inodes whose DELETEs are about exactly this key. ``is_known``: and none of them about
    what a request without reply may have made there."""
    rows = store.all(
        "SELECT inode, max(put_id IS NOT NULL) FROM intent WHERE key = ? AND kind = 'delete' "
        "GROUP BY inode",
        (key_to_db(key),),
    )
    return {ino for ino, is_unknown in rows if not (is_known and is_unknown)}


def remove_deletes_at(store: Store, key: str) -> None:
    """What was to go from this key stays after all."""
    store.run("DELETE FROM intent WHERE key = ? AND kind = 'delete'", (key_to_db(key),))


def remove_deletes_of(store: Store, ino: InodeId, key: str) -> None:
    """The inode's item is not at this key."""
    store.run(
        "DELETE FROM intent WHERE key = ? AND kind = 'delete' AND inode = ?", (key_to_db(key), ino)
    )


def remove_void_deletes(store: Store, key: str) -> None:
    """A new item is at the key: with it went all versions that were to go. Where a tag tells the
    content only, one of these may be that of the new one, too."""
    store.run(
        "DELETE FROM intent WHERE key = ? AND kind = 'delete' AND put_id IS NULL",
        (key_to_db(key),),
    )


def delete_below(store: Store, prefix: str) -> InodeId | None:
    """The inode of a DELETE that is pending below this prefix."""
    row = store.one(
        "SELECT inode FROM intent WHERE key > ? AND key < ? LIMIT 1",
        (key_to_db(prefix), key_after(prefix)),
    )
    return row[0] if row else None


def has_place(store: Store, ino: InodeId) -> bool:
    """Whether a MKDIR or MOVE of this inode is pending."""
    # As in ``find``: the last term is for the partial index.
    return (
        store.one(
            "SELECT 1 FROM intent WHERE inode = ? AND kind IN ('mkdir', 'move') "
            "AND kind <> 'delete' LIMIT 1",
            (ino,),
        )
        is not None
    )


def due(store: Store, now_ns: int, limit: int, after: tuple[int, Seq]) -> list[tuple[int, Seq]]:
    """Time and seq of promises that came due before now, earliest first, behind a position."""
    return store.all(
        "SELECT not_before_ns, seq FROM intent WHERE not_before_ns < ? "
        "AND (not_before_ns, seq) > (?, ?) ORDER BY not_before_ns, seq LIMIT ?",
        (now_ns, *after, limit),
    )


def newest(store: Store) -> Seq:
    """The last promise there is; 0: none."""
    row = store.one("SELECT seq FROM intent ORDER BY seq DESC LIMIT 1")
    return Seq(row[0] if row else 0)


def made_behind(store: Store, after_seq: Seq, position: tuple[int, Seq]) -> list[Seq]:
    """Promises made after that one, and due before a position."""
    rows = store.all(
        "SELECT seq FROM intent NOT INDEXED WHERE seq > ? AND (not_before_ns, seq) <= (?, ?)",
        (after_seq, *position),
    )
    return [seq for (seq,) in rows]


def next_due_ns(store: Store, after: tuple[int, Seq]) -> int | None:
    """When the next promise behind a position comes due."""
    row = store.one(
        "SELECT not_before_ns FROM intent WHERE (not_before_ns, seq) > (?, ?) "
        "ORDER BY not_before_ns, seq LIMIT 1",
        after,
    )
    return row[0] if row else None


def postpone(store: Store, seq: Seq, until_ns: int, error: str | None) -> None:
    """A try failed: count it and come back later."""
    store.run(
        "UPDATE intent SET not_before_ns = ?, attempts = attempts + 1, error = ? WHERE seq = ?",
        (until_ns, error, seq),
    )


def reschedule(store: Store, seq: Seq, until_ns: int | None) -> None:
    """Not a failure: just not now."""
    store.run("UPDATE intent SET not_before_ns = ? WHERE seq = ?", (until_ns, seq))


def hold(store: Store, seq: Seq, until_ns: int, reason: str) -> None:
    """It needs the user; it is still looked at now and then, for the user may just repair it."""
    store.run(
        "UPDATE intent SET not_before_ns = ?, hold = ?, error = ?, attempts = attempts + 1 "
        "WHERE seq = ?",
        (until_ns, reason, reason, seq),
    )


def start_put(store: Store, seq: Seq, put_id: str, generation: int) -> None:
    """Note the id before the request can have an effect; resume of another content is void."""
    _give_up(
        store,
        "seq = ? AND put_generation IS NOT ?",
        (seq, generation),
    )
    store.run(
        "UPDATE intent SET resume = CASE WHEN put_generation IS ? THEN resume END, "
        "put_id = ?, put_generation = ? WHERE seq = ?",
        (generation, put_id, generation, seq),
    )


def save_resume(store: Store, seq: Seq, resume: str | None) -> None:
    store.run("UPDATE intent SET resume = ? WHERE seq = ?", (resume, seq))


def set_expect(store: Store, seq: Seq, expect: RemoteVersion | None) -> None:
    store.run(
        "UPDATE intent SET expect_tag = ?, expect_size = ?, expect_mtime_ns = ? WHERE seq = ?",
        (*_expect_values(expect), seq),
    )


def rebase_keys(store: Store, old: str, new: str) -> None:
    """A whole prefix moved in the cloud: pending DELETEs below it follow."""
    store.run(
        "UPDATE intent SET key = CAST(? || substr(key, ?) AS BLOB) WHERE key > ? AND key < ?",
        (key_to_db(new), len(key_to_db(old) or b"") + 1, key_to_db(old), key_after(old)),
    )


def remove(store: Store, seq: Seq) -> None:
    """It was kept."""
    store.run("DELETE FROM intent WHERE seq = ?", (seq,))


def drop(store: Store, seq: Seq) -> None:
    """It is void."""
    _give_up(store, "seq = ?", (seq,))
    remove(store, seq)


def _give_up(store: Store, which: str, values: tuple[int | str, ...]) -> None:
    """What unfinished uploads hold in the store is to be freed."""
    store.run(
        "INSERT INTO unfinished (resume) SELECT resume FROM intent "
        f"WHERE kind = 'put' AND resume IS NOT NULL AND {which}",
        values,
    )


def first_unfinished(store: Store) -> tuple[int, str] | None:
    """An upload that nobody goes on with: its id, and what it saved last."""
    row = store.one("SELECT id, resume FROM unfinished ORDER BY id LIMIT 1")
    return (row[0], row[1]) if row else None


def remove_unfinished(store: Store, number: int) -> None:
    store.run("DELETE FROM unfinished WHERE id = ?", (number,))


def remove_kind(store: Store, ino: InodeId, kind: IntentKind) -> None:
    """Any but a DELETE."""
    _give_up(store, "inode = ? AND kind = ? AND kind <> 'delete'", (ino, kind.value))
    removed = store.all(
        "DELETE FROM intent WHERE inode = ? AND kind = ? AND kind <> 'delete' "
        "RETURNING kind, resume, created_ns, put_id",
        (ino, kind.value),
    )
    _clear_aside(store, ino, removed)


def remove_all(store: Store, ino: InodeId) -> None:
    """The inode has lost its last name: only DELETEs stay."""
    _give_up(store, "inode = ? AND kind <> 'delete'", (ino,))
    removed = store.all(
        "DELETE FROM intent WHERE inode = ? AND kind <> 'delete' "
        "RETURNING kind, resume, created_ns, put_id",
        (ino,),
    )
    _clear_attempt(store, ino, removed)
    _clear_aside(store, ino, removed)


def _clear_attempt(store: Store, ino: InodeId, removed: list[Row]) -> None:
    """What a request without reply may have made has to go as well, if it is there: the DELETE
    carries the put id of what it is about and what the upload saved last, or the version of what
    was moved."""
    attempt = attempts.of_inode(store, ino) if removed else None
    if attempt is None:
        return
    saved = next((resume for _, resume, _, put_id in removed if put_id == attempt.put_id), None)
    store.run(
        "INSERT INTO intent (kind, inode, is_dir, not_before_ns, key, put_id, expect_tag, "
        "resume, created_ns) VALUES ('delete', ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(ino, attempt.is_dir, removed[0][2], attempt.key_raw),
            *(attempt.put_id, attempt.tag, saved, removed[0][2]),
        ),
    )


def _clear_aside(store: Store, ino: InodeId, removed: list[Row]) -> None:
    """What a MOVE may have left outside has to go."""
    for kind, resume, now_ns, _ in removed:
        if kind == IntentKind.MOVE and resume is not None:
            is_dir, aside = resume.endswith("/"), Location(resume)
            add_delete(store, ino, aside, None, is_dir=is_dir, not_before_ns=now_ns, now_ns=now_ns)


def remove_settled_move(store: Store, ino: InodeId) -> None:
    """The item is where its name says. A MOVE that may have brought it elsewhere stays to find
    out."""
    store.run(
        "DELETE FROM intent WHERE inode = ? AND kind = 'move' AND kind <> 'delete' "
        "AND resume IS NULL AND NOT EXISTS (SELECT 1 FROM attempt WHERE attempt.inode = ?)",
        (ino, ino),
    )


def wake(store: Store, now_ns: int, *, held: bool) -> None:
    """Make every waiting promise due now; with ``held`` also those that need the user, which
    count as waiting until they fail again."""
    store.run(
        "UPDATE intent SET not_before_ns = ?, hold = NULL "
        "WHERE not_before_ns IS NOT NULL AND (not_before_ns > ? OR hold IS NOT NULL) "
        "AND (? OR hold IS NULL)",
        (now_ns, now_ns, held),
    )


def release_held_back(store: Store, now_ns: int) -> None:
    """After a crash nothing is being written any more."""
    store.run(
        "UPDATE intent SET not_before_ns = ? WHERE not_before_ns IS NULL AND hold IS NULL",
        (now_ns,),
    )


# -- removals of what the user had, see ``deletions`` ------------------------------------

_REMOVED = (
    "t.kind = 'delete' AND t.seq > ? AND t.put_id IS NULL "
    "AND NOT EXISTS (SELECT 1 FROM inode i WHERE i.id = t.inode AND i.nlink > 0)"
)


def is_removal(store: Store, seq: Seq, after: Seq) -> bool:
    """Whether it is a DELETE of something that lost its last name here, made after that one."""
    row = store.one(f"SELECT 1 FROM intent t WHERE {_REMOVED} AND t.seq = ?", (after, seq))
    return row is not None


def count_removals(store: Store, after: Seq, limit: int) -> int:
    """How many of these there are, counted up to a limit."""
    row = store.one(
        f"SELECT count(*) FROM (SELECT 1 FROM intent t WHERE {_REMOVED} LIMIT ?)", (after, limit)
    )
    return row[0] if row else 0


def removals(store: Store, after: Seq, limit: int, *, is_held: bool | None = None) -> list[Intent]:
    """These, in order; ``is_held``: only those that are held for the user, or are not."""
    columns = ", ".join(f"t.{column}" for column in _COLUMNS.split(", "))
    held = "" if is_held is None else "AND (t.hold IS ?) " if is_held else "AND (t.hold IS NOT ?) "
    values = (after, limit) if is_held is None else (after, BIG_DELETE, limit)
    rows = store.all(
        f"SELECT {columns} FROM intent t WHERE {_REMOVED} {held}ORDER BY t.seq LIMIT ?", values
    )
    return [Intent._make(row) for row in rows]


def hold_removal(store: Store, seq: Seq) -> None:
    """It stays until the user has decided."""
    store.run(
        "UPDATE intent SET not_before_ns = NULL, hold = ?, error = ? WHERE seq = ?",
        (BIG_DELETE, BIG_DELETE, seq),
    )


def release_removals(store: Store, now_ns: int, seq: Seq | None = None) -> None:
    """All that are held for the user, or this one, are due."""
    store.run(
        "UPDATE intent SET not_before_ns = ?, hold = NULL, error = NULL "
        "WHERE hold = ? AND kind = 'delete' AND seq = coalesce(?, seq)",
        (now_ns, BIG_DELETE, seq),
    )


def held_removals(store: Store) -> list[tuple[str, int]]:
    """Keys and times of those that are held for the user; a directory before what is in it."""
    rows = store.all(
        "SELECT key, created_ns FROM intent WHERE kind = 'delete' AND hold = ? ORDER BY key",
        (BIG_DELETE,),
    )
    return [(key_from_db(key) or "", created_ns) for key, created_ns in rows]


def count_held_removals(store: Store) -> int:
    row = store.one("SELECT count(*) FROM intent WHERE kind = 'delete' AND hold = ?", (BIG_DELETE,))
    return row[0] if row else 0


def totals(store: Store) -> Totals:
    row = store.one("SELECT count(*), sum(hold IS NOT NULL), min(created_ns) FROM intent ")
    size = store.one(
        "SELECT sum(i.size) FROM intent t JOIN inode i ON i.id = t.inode WHERE t.kind = 'put'"
    )
    assert row is not None
    held = row[1] or 0
    return Totals(row[0] - held, held, (size[0] if size else 0) or 0, row[2])


def first_error(store: Store, *, held: bool = False) -> str | None:
    """The last failure of the oldest promise that failed; with ``held``, that needs the user."""
    row = store.one(
        "SELECT error FROM intent WHERE error IS NOT NULL AND (? OR hold IS NOT NULL) "
        "ORDER BY seq LIMIT 1",
        (not held,),
    )
    return row[0] if row else None
