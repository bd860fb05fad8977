"""The store without its mount: opened read-only, for ``csyncfs-admin`` and for long scans.

Readers do not disturb a running mount (WAL); none of this may run on its loop thread.
"""

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from csyncfs.errors import StoreDamaged, StoreError, StoreTooNew
from csyncfs.store.db import APPLICATION_ID, FILE_NAME, SCHEMA_VERSION, Store, translate


def is_empty(state_dir: Path) -> bool:
    """Whether there is a database with nothing in it, as a mount leaves that was killed when it
    began."""
    path = state_dir / FILE_NAME
    if not path.exists():
        return False
    if path.stat().st_size == 0:
        return True
    connection = sqlite3.connect(_uri(path), uri=True, isolation_level=None)
    try:
        return connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    except sqlite3.Error:
        return False
    finally:
        connection.close()


def find_damage(state_dir: Path) -> list[str]:
    """What SQLite finds wrong with the file, one line each; the whole file is read.

    Changes nothing. Raises StoreTooNew; StoreError where there is none.
    """
    path = state_dir / FILE_NAME
    if not path.exists():
        raise StoreError(f"no csyncfs store in {state_dir}")
    try:
        connection = sqlite3.connect(_uri(path), uri=True, isolation_level=None)
    except sqlite3.Error as exc:
        return [str(exc)]
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA trusted_schema = OFF")
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if found != APPLICATION_ID:
            return ["it is not a csyncfs store"]
        if version > SCHEMA_VERSION:
            raise StoreTooNew(
                f"{path} was written by a newer csyncfs (schema {version}): install that one"
            )
        told = "\n".join(str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)"))
        return [line for line in told.splitlines() if line != "ok" and "***" not in line]
    except sqlite3.Error as exc:
        return [str(exc)]
    finally:
        connection.close()


@contextmanager
def open_read_only(state_dir: Path) -> Generator[Store]:
    """The store of a state directory, mounted or not; nothing is changed, nobody kept out.

    Raises StoreDamaged, StoreError.
    """
    path = state_dir / FILE_NAME
    if not path.exists():
        raise StoreError(f"no csyncfs store in {state_dir}")
    try:
        connection = _connect(path)
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc
    # Store closes a lock with itself; a reader has none, and an open directory will do.
    store = Store(connection, path, os.open(state_dir, os.O_PATH | os.O_CLOEXEC))
    try:
        yield store
    finally:
        store.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(_uri(path), uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA trusted_schema = OFF")
        _check(connection, path)
        # one view of everything, whatever a running mount commits meanwhile
        connection.execute("BEGIN")
    except BaseException:
        connection.close()
        raise
    return connection


def _uri(path: Path) -> str:
    return f"file:{quote(str(path))}?mode=ro"


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if found != APPLICATION_ID:
        raise StoreDamaged(f"{path} is not a csyncfs store")
    if version != SCHEMA_VERSION:
        raise StoreError(f"{path} was written by another version of csyncfs: mount it once")
