"""The store's file: opening, checking, transactions, durability.

Owns the connection. Statements run inline on the loop thread (8-30 us each), which is also
what makes state between two awaits atomic; WAL checkpoints run on another thread with a
connection of their own, for they stall for tens of milliseconds.
"""

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

from csyncfs.errors import StoreDamaged, StoreError, StoreFull, StoreLocked, StoreTooNew
from csyncfs.store import wal
from csyncfs.store.reserve import Reserve

log = logging.getLogger(__name__)

APPLICATION_ID: Final = 0x6373796E  # "csyn"
SCHEMA_VERSION: Final = 3
FILE_NAME: Final = "store.db"

Row = tuple[Any, ...]
Value = int | str | bytes | None


class Store:
    """One open store. Use ``open_store``."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        lock_fd: int,
        reserve: Reserve | None = None,
        *,
        lost_pages: int = 0,
    ) -> None:
        self._db = connection
        self._path = path
        self._lock_fd = lock_fd
        self._reserve = reserve
        self._wal_fd = -1
        self._after_commit: list[Callable[[], None]] = []
        self.wal_guard = threading.Lock()
        self.damage: str | None = None
        """Why nothing is written any more: SQLite found the file damaged. One line."""
        self.lost_pages = lost_pages
        """Pages of the log that somebody cut off since the last crash; see ``wal``."""
        self.held_position = 0
        """New directory entries are placed behind it; see ``inodes.hold_positions``."""

    @property
    def path(self) -> Path:
        return self._path

    def one(self, sql: str, values: Sequence[Value] = ()) -> Row | None:
        """First row of a query, or None."""
        try:
            return self._db.execute(sql, values).fetchone()
        except sqlite3.Error as exc:
            raise self._failure(exc) from exc

    def all(self, sql: str, values: Sequence[Value] = ()) -> list[Row]:
        """Every row of a query; callers LIMIT what can be large."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as exc:
            raise self._failure(exc) from exc

    def run(self, sql: str, values: Sequence[Value] = ()) -> int:
        """One changing statement, inside ``transaction``; returns the rows changed."""
        self._must_be_sound()
        try:
            return self._db.execute(sql, values).rowcount
        except sqlite3.Error as exc:
            raise self._failure(exc) from exc

    def insert(self, sql: str, values: Sequence[Value] = ()) -> int:
        """One INSERT, inside ``transaction``; returns the new row's id."""
        self._must_be_sound()
        try:
            return self._db.execute(sql, values).lastrowid or 0
        except sqlite3.Error as exc:
            raise self._failure(exc) from exc

    @contextmanager
    def transaction(self, *, grows: bool = False) -> Generator[None, None, None]:
        """All statements inside commit together or not at all. No await inside; they nest.

        Survives a crash of the process when it returns; power loss after ``make_durable``.
        ``grows``: it is refused while the disk is so full that its reserve had to be given
        back; what frees space or keeps a promise goes on.
        """
        if self._db.in_transaction:
            yield
            return
        self._must_be_sound()
        if grows and self.is_tight:
            raise StoreFull(f"the disk of {self._path.parent} is full")
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as exc:
            raise self._failure(exc) from exc
        try:
            yield
        except BaseException:
            self._rollback()
            raise
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            self._rollback()
            raise self._failure(exc) from exc
        changes, self._after_commit = self._after_commit, []
        for change in changes:
            change()

    def after_commit(self, change: Callable[[], None]) -> None:
        """Change memory, or a content file, once the running transaction has committed; not at
        all if it fails. At once outside of one."""
        if self._db.in_transaction:
            self._after_commit.append(change)
        else:
            change()

    def _rollback(self) -> None:
        self._after_commit.clear()
        # A failed statement may have rolled back already (disk full, I/O error).
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _failure(self, exc: sqlite3.Error) -> StoreError:
        error = translate(exc, self._path)
        if isinstance(error, StoreDamaged) and self.damage is None:
            self.damage = str(error)
            log.error("nothing is written any more: %s", error)
        return error

    def _must_be_sound(self) -> None:
        # What is written on top of damage may make more of it unreadable.
        if self.damage is not None:
            raise StoreDamaged(self.damage)

    # -- the reserve ---------------------------------------------------------------------

    @property
    def is_tight(self) -> bool:
        """Whether the disk is so full that the reserve had to be given back."""
        return self._reserve is not None and not self._reserve.is_held

    @property
    def reserve_bytes(self) -> int:
        return 0 if self._reserve is None else self._reserve.size_bytes

    def give_way(self) -> bool:
        """Give the reserve back, so that space can be freed. True: trying again is worth it."""
        if self._reserve is None or not self._reserve.give_back():
            return False
        log.warning("the disk of %s is full; only what frees space goes on", self._path.parent)
        # The database takes what it has to grow by before the log takes all; then the log
        # starts over in the space it has.
        self.checkpoint()
        return True

    def retake_reserve(self) -> None:
        """Take the reserve again if the disk has room by now."""
        if self.is_tight and self._reserve is not None and self._reserve.take():
            log.info("the disk of %s has room again", self._path.parent)

    # -- durability ----------------------------------------------------------------------

    def make_durable(self) -> None:
        """Make every commit so far survive power loss. Blocks: call it in a thread."""
        with self.wal_guard:
            if self._wal_fd < 0:
                self._wal_fd = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
                # The log's name has to survive as well; SQLite leaves that to the next sync.
                directory = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
            os.fdatasync(self._wal_fd)

    @property
    def changes(self) -> int:
        """Rows changed since the store was opened, to decide on a checkpoint."""
        return self._db.total_changes

    def wal_bytes(self) -> int:
        """Size of the write-ahead log's file; a checkpoint does not shrink it."""
        try:
            return os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return 0

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database file. Blocks: call it in a thread."""
        with self.wal_guard:
            other = sqlite3.connect(self._path, isolation_level=None)
            try:
                other.execute("PRAGMA busy_timeout = 2000")
                other.execute("PRAGMA wal_checkpoint(PASSIVE)")
                # Only an emptied log is started over; a passive run does not shrink it.
                if self.wal_bytes() > 64 << 20:
                    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as exc:
                log.warning("WAL checkpoint failed error=%s", exc)
            finally:
                other.close()

    def close(self) -> None:
        """Close the store and let another mount have it. Checkpoints the log."""
        if self._wal_fd >= 0:
            os.close(self._wal_fd)
            self._wal_fd = -1
        try:
            self._db.close()
        finally:
            os.close(self._lock_fd)


def translate(exc: sqlite3.Error, path: Path) -> StoreError:
    """The domain error for what SQLite says."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"the disk of {path.parent} is full")
    # Its index of the log is another file, which has no word of its own for a full disk.
    if code == sqlite3.SQLITE_IOERR and _is_full(path.parent):
        return StoreFull(f"the disk of {path.parent} is full")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, str(exc))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLocked(f"{path} is in use by another program")
    return StoreError(f"{path}: {exc}")


def _is_full(directory: Path) -> bool:
    try:
        disk = os.statvfs(directory)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < 64 << 10


def key_to_db(key: str | None) -> bytes | None:
    """Keys are stored as bytes: those of a directory store need not be valid UTF-8."""
    return None if key is None else key.encode("utf-8", "surrogateescape")


def key_from_db(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "surrogateescape")


def key_after(prefix: str) -> bytes:
    """The first key behind all keys with this prefix (which ends in a slash)."""
    raw = prefix.encode("utf-8", "surrogateescape")
    return raw[:-1] + bytes([raw[-1] + 1])


def damaged(path: Path, detail: str) -> StoreDamaged:
    """The error for a broken store, and what to do about it."""
    return StoreDamaged(
        f"{path} is damaged ({detail}): unmount and run "
        f"'csyncfs fsck --repair -o state_dir={path.parent}'"
    )


def open_store(state_dir: Path, lock_fd: int | None = None) -> Store:
    """Open or create the store of a state directory, and keep others out of it.

    ``lock_fd``: of ``lock``, where the caller has it already; the store closes it, also when
    this fails. Raises StoreLocked, StoreDamaged, StoreTooNew, StoreFull; StoreError where the
    directory cannot be used.
    """
    path = state_dir / FILE_NAME
    lock_fd = lock(state_dir) if lock_fd is None else lock_fd
    try:
        reserve = Reserve(state_dir)
        lost_pages = wal.missing_pages(path)
        # Even opening it takes some room.
        reserve.give_back_if_full()
        connection = _connect(path)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        reserve.take()
    except sqlite3.Error as exc:
        os.close(lock_fd)
        raise translate(exc, path) from exc
    except BaseException:
        os.close(lock_fd)
        raise
    return Store(connection, path, lock_fd, reserve, lost_pages=lost_pages)


def lock(state_dir: Path) -> int:
    """Keep others out of a state directory; making it if need be. Close the descriptor to let
    them in. Raises StoreLocked; StoreError where it cannot be used."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StoreError(f"cannot use state directory {state_dir}: {exc.strerror}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise StoreLocked(
            f"state directory {state_dir} is in use by another mount; give this one its own "
            f"with -o state_dir=DIR,cache_dir=DIR"
        ) from exc
    return fd


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=512)
    os.chmod(path, 0o600)
    for pragma in (
        "busy_timeout = 5000",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "wal_autocheckpoint = 0",
        "cache_size = -16384",
        "temp_store = MEMORY",
        "trusted_schema = OFF",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables == 0:
        if any((path.parent / "dirty").glob("*/*")):
            raise damaged(path, "it is empty, and there is content that was not sent")
        make_schema(connection)
        return
    if found != APPLICATION_ID:
        raise damaged(path, "not a csyncfs store")
    if version > SCHEMA_VERSION:
        raise StoreTooNew(
            f"{path} was written by a newer csyncfs (schema {version}): install that one"
        )
    (verdict,) = (
        connection.execute("PRAGMA quick_check(1)").fetchone() if _is_small(path) else ("ok",)
    )
    if verdict != "ok":
        raise damaged(path, str(verdict).splitlines()[-1])
    for step in range(version + 1, SCHEMA_VERSION + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {_script(f'migrations/{step}.sql')}"
            f"PRAGMA user_version = {step}; COMMIT;"
        )


def make_schema(connection: sqlite3.Connection) -> None:
    """Fill an empty database."""
    connection.executescript(
        f"BEGIN IMMEDIATE; {_script('schema.sql')}"
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        "COMMIT;"
    )


def _script(name: str) -> str:
    return resources.files(__package__ or "csyncfs.store").joinpath(name).read_text()


def _is_small(path: Path) -> bool:
    # quick_check reads every page (about 1 GB/s); a large store is checked by fsck instead.
    return path.stat().st_size < 32 << 20
