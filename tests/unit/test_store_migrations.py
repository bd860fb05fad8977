"""A store that an older csyncfs wrote is taken over as it is."""

import sqlite3
from pathlib import Path

from csyncfs.store import inodes
from csyncfs.store.db import APPLICATION_ID, FILE_NAME, SCHEMA_VERSION, open_store
from csyncfs.types import ROOT, InodeId

_FIRST = Path(__file__).parents[1] / "support" / "schema_1.sql"


def _old_store(home: Path) -> None:
    home.mkdir()
    connection = sqlite3.connect(home / FILE_NAME)
    connection.executescript(
        f"{_FIRST.read_text()}PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;"
    )
    for ino, nlink in ((ROOT, 2), (2, 1)):
        connection.execute(
            "INSERT INTO inode (id, mode, nlink, uid, gid, mtime_ns, ctime_ns, atime_ns) "
            "VALUES (?, 33188, ?, 0, 0, 1, 1, 1)",
            (ino, nlink),
        )
    connection.execute("INSERT INTO dentry (parent, name, inode) VALUES (1, ?, 2)", (b"f",))
    connection.commit()
    connection.close()


def _shape(home: Path) -> dict[str, list[tuple[object, ...]]]:
    """Columns and indexes of every table."""
    connection = sqlite3.connect(home / FILE_NAME)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema ORDER BY name")]
    shape = {name: connection.execute(f"PRAGMA table_xinfo({name})").fetchall() for name in tables}
    connection.close()
    return shape


def test_a_store_of_the_first_schema_is_migrated_and_keeps_its_rows(tmp_path: Path) -> None:
    _old_store(tmp_path / "old")
    store = open_store(tmp_path / "old")
    row = inodes.lookup(store, ROOT, b"f")
    assert row is not None
    assert (row.id, row.alias_of, row.link, row.is_linked) == (InodeId(2), None, None, False)
    assert store.one("PRAGMA user_version") == (SCHEMA_VERSION,)
    store.close()
    open_store(tmp_path / "new").close()
    assert _shape(tmp_path / "old") == _shape(tmp_path / "new")
    open_store(tmp_path / "old").close()
