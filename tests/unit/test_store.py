"""The store's file: transactions and what follows them, damage, the reserve."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from csyncfs.errors import StoreDamaged, StoreFull
from csyncfs.store import settings
from csyncfs.store.db import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "state")
    yield store
    store.close()


def test_memory_changes_after_the_commit(store: Store) -> None:
    order: list[str] = []
    with store.transaction():
        with store.transaction():
            store.after_commit(lambda: order.append("changed"))
        settings.put(store, "a", "1")
        order.append("inside")
    assert order == ["inside", "changed"]
    store.after_commit(lambda: order.append("at once"))
    assert order[-1] == "at once"


def test_memory_stays_when_a_transaction_fails(store: Store) -> None:
    order: list[str] = []

    def fail() -> None:
        with store.transaction():
            store.after_commit(lambda: order.append("changed"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with store.transaction():
        settings.put(store, "a", "1")
    assert order == []


def test_memory_stays_when_the_disk_is_full(store: Store) -> None:
    (pages,) = store.one("PRAGMA page_count") or (0,)
    store.one(f"PRAGMA max_page_count = {pages}")
    order: list[str] = []

    def grow() -> None:
        with store.transaction():
            store.after_commit(lambda: order.append("changed"))
            settings.put(store, "a", "1" * 100_000)

    with pytest.raises(StoreFull):
        grow()
    assert order == []


def test_a_damaged_page_met_later_ends_all_writing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with store.transaction():
        for number in range(20_000):
            settings.put(store, f"name {number}", "x" * 2000)
    store.close()
    path = tmp_path / "store.db"
    # Beyond the size that is looked at when it is opened.
    assert path.stat().st_size > 32 << 20
    with path.open("r+b") as file:
        for page in range(200, 8000, 2):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)
    store = open_store(tmp_path)
    assert store.damage is None
    with pytest.raises(StoreDamaged, match="csyncfs fsck --repair -o state_dir="):
        store.all("SELECT count(value) FROM setting WHERE value <> ''")
    assert store.damage is not None
    with pytest.raises(StoreDamaged), store.transaction():
        settings.put(store, "a", "1")
    with pytest.raises(StoreDamaged):
        store.run("DELETE FROM intent")
    store.close()


def test_when_the_reserve_is_given_back_nothing_may_grow(store: Store) -> None:
    reserve = store.path.parent / "reserve"
    assert reserve.stat().st_size == store.reserve_bytes
    assert reserve.stat().st_blocks * 512 >= store.reserve_bytes
    assert store.give_way()
    assert not store.give_way()
    assert reserve.stat().st_blocks == 0
    with pytest.raises(StoreFull), store.transaction(grows=True):
        settings.put(store, "a", "1")
    with store.transaction():
        settings.put(store, "b", "1")
    store.retake_reserve()
    assert reserve.stat().st_size == store.reserve_bytes
    with store.transaction(grows=True):
        settings.put(store, "a", "1")


def test_the_reserve_outlives_the_mount(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    before = os.stat(tmp_path / "reserve")
    store = open_store(tmp_path)
    assert not store.is_tight
    assert os.stat(tmp_path / "reserve").st_ino == before.st_ino
    store.close()


def test_an_emptied_store_beside_unsent_content_is_damage(tmp_path: Path) -> None:
    (tmp_path / "dirty" / "00").mkdir(parents=True)
    (tmp_path / "dirty" / "00" / "7").write_bytes(b"unsent")
    with pytest.raises(StoreDamaged, match="not sent"):
        open_store(tmp_path)


def test_a_database_of_something_else_is_not_touched(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "store.db")
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = (tmp_path / "store.db").read_bytes()
    with pytest.raises(StoreDamaged, match="not a csyncfs store"):
        open_store(tmp_path)
    assert (tmp_path / "store.db").read_bytes()[100:] == before[100:]
