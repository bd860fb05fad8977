"""A new store of what can still be read of a damaged one.

Row by row, around the pages that cannot be read. Nothing of the damaged files is changed;
the caller puts them aside.
"""

import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from csyncfs.errors import StoreFull
from csyncfs.store.db import APPLICATION_ID, FILE_NAME, SCHEMA_VERSION, make_schema, translate

log = logging.getLogger(__name__)

_REBUILT: Final = "rebuilt.db"
_COPY: Final = "salvage.db"
# Tables with a rowid, which can be looked up behind a page that cannot be read.
_BY_ID: Final = {
    "inode": "id",
    "dentry": "id",
    "conflict": "id",
    "content": "inode",
    "intent": "seq",
    "attempt": "inode",
    "held": "inode",
    "unfinished": "id",
}
_BY_KEY: Final = {"xattr": "inode, name", "setting": "name"}
_BATCH: Final = 1000

Row = tuple[Any, ...]


def rebuild(state_dir: Path) -> dict[str, int]:
    """Make ``rebuilt.db`` beside the damaged store; returns the rows saved, by table.

    What was listed counts as not listed: the cloud is asked again. Raises StoreFull.
    """
    target = state_dir / _REBUILT
    _remove(target)
    new = sqlite3.connect(target, isolation_level=None)
    try:
        new.execute("PRAGMA synchronous = OFF")
        new.execute("PRAGMA foreign_keys = OFF")
        make_schema(new)
        with _readable(state_dir) as old:
            saved = {table: _copy_table(old, new, table) for table in (*_BY_ID, *_BY_KEY)}
            _copy_sequences(old, new)
        new.execute("UPDATE inode SET listed_ns = NULL")
        new.execute("DELETE FROM setting WHERE name = 'feed'")
        new.execute("INSERT OR REPLACE INTO setting VALUES ('clean_stop', '0')")
    except sqlite3.Error as exc:
        raise translate(exc, target) from exc
    finally:
        new.close()
    return saved


def put_in_place(state_dir: Path, aside: Path) -> None:
    """Move the damaged files into the directory ``aside`` and let the rebuilt one be the store."""
    for ending in ("-shm", "-wal", ""):
        source = state_dir / f"{FILE_NAME}{ending}"
        if source.exists():
            os.rename(source, aside / source.name)
    with open(state_dir / _REBUILT, "rb") as rebuilt:
        os.fsync(rebuilt.fileno())
    os.rename(state_dir / _REBUILT, state_dir / FILE_NAME)
    fd = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{ending}").unlink(missing_ok=True)


# -- reading -----------------------------------------------------------------------------


@contextlib.contextmanager
def _readable(state_dir: Path) -> Generator[sqlite3.Connection]:
    """The damaged store, or a copy of it with a first page that can be read; at worst nothing."""
    path, copy = state_dir / FILE_NAME, state_dir / _COPY
    try:
        connection = _open_any(path, copy)
        try:
            yield connection
        finally:
            connection.close()
    except OSError as exc:
        raise StoreFull(f"no room for a copy of {path}: {exc.strerror}") from exc
    finally:
        _remove(copy)


def _open_any(path: Path, copy: Path) -> sqlite3.Connection:
    try:
        return _open(path)
    except sqlite3.Error as exc:
        log.warning("first page not readable error=%s", exc)
    _copy_with_new_head(path, copy)
    try:
        return _open(copy)
    except sqlite3.Error as exc:
        log.warning("nothing readable error=%s", exc)
    nothing = sqlite3.connect(":memory:", isolation_level=None)
    make_schema(nothing)
    return nothing


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        (found,) = connection.execute("PRAGMA application_id").fetchone()
    except BaseException:
        connection.close()
        raise
    if found != APPLICATION_ID:
        connection.close()
        raise sqlite3.DatabaseError("not a csyncfs store")
    return connection


def _copy_with_new_head(path: Path, copy: Path) -> None:
    """All stores of one schema are laid out alike, so the first page of an empty one fits."""
    _remove(copy)
    head = _empty_head(copy)
    copy.touch(mode=0o600)
    for ending in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{path}{ending}", f"{copy}{ending}")
    pages = max(1, copy.stat().st_size // len(head))
    # Size in pages; no list of free pages: they are found by nobody, which does no harm here.
    head[28:32] = pages.to_bytes(4, "big")
    head[32:40] = bytes(8)
    with open(copy, "r+b") as file:
        file.write(head)


def _empty_head(place: Path) -> bytearray:
    empty = sqlite3.connect(place, isolation_level=None)
    try:
        make_schema(empty)
        (page,) = empty.execute("PRAGMA page_size").fetchone()
        empty.execute("PRAGMA journal_mode = WAL")
        empty.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert empty.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    finally:
        empty.close()
    with open(place, "rb") as file:
        head = bytearray(file.read(page))
    _remove(place)
    return head


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> int:
    rows = _by_id(old, table, _BY_ID[table]) if table in _BY_ID else _by_key(old, table)
    saved = 0
    new.execute("BEGIN")
    for row in rows:
        places = ", ".join("?" * len(row))
        try:
            done = new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({places})", row)
            saved += done.rowcount
        except sqlite3.OperationalError:
            # No room, or another number of columns: nothing that skipping a row cures.
            raise
        except sqlite3.Error as exc:
            log.warning("row not saved table=%s error=%s", table, exc)
    new.execute("COMMIT")
    return saved


def _by_id(old: sqlite3.Connection, table: str, key: str) -> Iterator[Row]:
    """Every readable row, in order; a page that cannot be read is stepped over."""
    columns = [row[1] for row in _try(old, f"PRAGMA table_info({table})")]
    position = columns.index(key) if key in columns else 0
    after = -1
    while True:
        batch: list[Row] = []
        is_broken = False
        try:
            found = old.execute(
                f"SELECT * FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT ?", (after, _BATCH)
            )
            for row in found:
                batch.append(row)
        except sqlite3.Error as exc:
            log.warning("unreadable table=%s after=%d error=%s", table, after, exc)
            is_broken = True
        yield from batch
        if batch:
            after = batch[-1][position]
        if is_broken:
            behind = _behind_gap(old, table, key, after)
            if behind is None:
                return
            after = behind
        elif len(batch) < _BATCH:
            return


def _behind_gap(old: sqlite3.Connection, table: str, key: str, after: int) -> int | None:
    """The smallest position behind which a row can be read again."""

    def is_readable(position: int) -> bool:
        try:
            sql = f"SELECT * FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT 1"
            return old.execute(sql, (position,)).fetchone() is not None
        except sqlite3.Error:
            return False

    step = 1
    while not is_readable(after + step):
        step *= 2
        if step > 1 << 48:
            return None
    low, high = after + step // 2, after + step
    while low + 1 < high:
        middle = (low + high) // 2
        if is_readable(middle):
            high = middle
        else:
            low = middle
    return high


def _by_key(old: sqlite3.Connection, table: str) -> Iterator[Row]:
    """From both ends, up to what cannot be read."""
    columns = _BY_KEY[table].split(", ")
    for order in (", ".join(columns), ", ".join(f"{column} DESC" for column in columns)):
        try:
            yield from old.execute(f"SELECT * FROM {table} ORDER BY {order}")
            return
        except sqlite3.Error as exc:
            log.warning("unreadable table=%s error=%s", table, exc)


def _copy_sequences(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Ids are never given out twice, whatever was lost."""
    highest: dict[str, int] = dict(_try(old, "SELECT name, seq FROM sqlite_sequence"))
    for table, key in _BY_ID.items():
        if table == "content":
            continue
        (most,) = new.execute(f"SELECT coalesce(max({key}), 0) FROM {table}").fetchone()
        most = max(most, highest.get(table, 0))
        new.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        new.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, most))


def _try(old: sqlite3.Connection, sql: str) -> list[Row]:
    try:
        return old.execute(sql).fetchall()
    except sqlite3.Error:
        return []
