"""fsck: what is damaged is found, what can be repaired is, and no unsent byte is dropped."""

import copy
import errno
import hashlib
import os
import shutil
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs import fsck
from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import CsyncError, FsError, StoreDamaged, StoreLocked, StoreTooNew
from tests.support.engines import Machine, is_conflict, machines
from tests.support.length import IS_LONG

_NEVER_S = 1000.0

UNSENT = {
    "new": b"new and never sent " * 500,
    "d/sub": b"below a new directory",
    "renamed": b"written, then renamed " * 400,
}
EDITED = b"x" * 60_000 + b"edited" + b"x" * 39_994


@asynccontextmanager
async def a_machine(home: Path) -> AsyncGenerator[Machine]:
    """A mount with all kinds of promises, ended cleanly with none of them kept."""
    bucket = MemoryStore()
    bucket.write("cloud/clean", b"clean" * 3000)
    bucket.write("cloud/edited", b"x" * 100_000)
    bucket.write("cloud/gone", b"gone")
    for number in range(40):
        bucket.write(f"many/f{number:03}", b"%d" % number)
    async with machines(home, bucket, "a", upload_delay_s=_NEVER_S, refresh_s=_NEVER_S) as (a,):
        await a.show()
        await a.mkdir("d")
        await a.write("new", UNSENT["new"])
        await a.write("d/sub", UNSENT["d/sub"])
        await a.write("first", UNSENT["renamed"])
        await a.rename("first", "renamed")
        await a.patch("cloud/edited", 60_000, b"edited")
        await a.unlink("cloud/gone")
        await a.stop()
        yield a


async def check_nothing_is_lost(machine: Machine) -> None:
    """Every unsent content is where it was, or in lost+found; no file shows anything else."""
    await machine.start()
    await machine.flush()
    await machine.look()
    shown = await machine.show()
    kept = {
        path.read_bytes()
        for path in (machine.home / "state").glob("lost+found/*")
        if path.is_file()
    }
    for path, content in UNSENT.items():
        assert shown.get(path) == content or content in kept, path
    assert shown.get("cloud/edited") in (EDITED, b"x" * 100_000)
    assert EDITED in shown.values() or any(b"edited" in content for content in kept)
    assert shown["cloud/clean"] == b"clean" * 3000
    assert {path for path in shown if is_conflict(path)} == set()
    assert all(shown[f"many/f{n:03}"] == b"%d" % n for n in range(40))


def texts(report: fsck.Report) -> str:
    return "\n".join(f"{finding.kind}: {finding.text}" for finding in report.findings)


def sql(machine: Machine, *statements: str) -> None:
    db = sqlite3.connect(machine.home / "state" / "store.db", isolation_level=None)
    db.execute("PRAGMA foreign_keys = OFF")
    for statement in statements:
        db.execute(statement)
    db.close()


def inode_of(machine: Machine, name: str) -> int:
    db = sqlite3.connect(machine.home / "state" / "store.db")
    (ino,) = db.execute("SELECT inode FROM dentry WHERE name = ?", (name.encode(),)).fetchone()
    db.close()
    return ino


def content_file(machine: Machine, name: str, *, side: str = "state/dirty") -> Path:
    (path,) = (machine.home / side).glob(f"*/{inode_of(machine, name)}")
    return path


def fingerprint(home: Path) -> dict[str, str]:
    return {
        str(path): hashlib.md5(path.read_bytes()).hexdigest()
        for path in home.rglob("*")
        # SQLite makes two empty files to look at a third.
        if path.is_file() and path.name not in ("lock", "store.db-shm", "store.db-wal")
    }


async def test_a_sound_disk_is_clean_and_a_look_changes_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with a_machine(tmp_path) as a:
        before = fingerprint(a.home)
        report = a.check_disk()
        assert (report.code, report.findings, report.left_by_crash) == (0, [], 0)
        assert report.unsent == 6
        assert fingerprint(a.home) == before


async def test_a_wiped_cache_is_no_fault(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with a_machine(tmp_path) as a:
        shutil.rmtree(a.home / "cache")
        assert a.check_disk().findings == []
        await check_nothing_is_lost(a)


async def test_a_running_mount_is_left_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with a_machine(tmp_path) as a:
        await a.start()
        with pytest.raises(StoreLocked, match="unmount first"):
            a.check_disk()


async def test_a_newer_schema_is_not_touched(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with a_machine(tmp_path) as a:
        sql(a, "PRAGMA user_version = 99")
        for repair in (False, True):
            with pytest.raises(StoreTooNew, match="newer csyncfs"):
                a.check_disk(repair=repair)


# -- the database's file -----------------------------------------------------------------


async def test_a_zeroed_header_costs_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with a_machine(tmp_path) as a:
        with (a.home / "state" / "store.db").open("r+b") as file:
            file.write(bytes(4096))
        with pytest.raises(StoreDamaged, match="csyncfs fsck --repair"):
            await a.start(check=False)
        report = a.check_disk()
        assert (report.code, "not a" in texts(report)) == (fsck.LEFT, True)
        assert a.check_disk(repair=True).code == fsck.REPAIRED
        assert a.check_disk().findings == []
        await a.start()
        shown = await a.show()
        assert {path: shown[path] for path in UNSENT} == UNSENT
        assert shown["cloud/edited"] == EDITED
        assert "cloud/gone" not in shown


@pytest.mark.parametrize("how", ["removed", "emptied"])
async def test_without_a_database_unsent_content_is_kept(
    tmp_path: Path, autojump_clock: MockClock, how: str
) -> None:
    async with a_machine(tmp_path) as a:
        store = a.home / "state" / "store.db"
        store.unlink() if how == "removed" else store.write_bytes(b"")
        with pytest.raises(StoreDamaged):
            await a.start(check=False)
        assert a.check_disk().code == fsck.LEFT
        assert a.check_disk(repair=True).code == fsck.REPAIRED
        assert a.check_disk().findings == []
        await check_nothing_is_lost(a)


async def test_no_damaged_page_drops_an_unsent_byte(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Each page of the database in turn, filled with garbage."""
    async with a_machine(tmp_path / "whole") as whole:
        pages = (whole.home / "state" / "store.db").stat().st_size // 4096
        assert pages > 15
        found = 0
        for page in range(1, pages, 1 if IS_LONG else 3):
            home = tmp_path / f"page-{page}"
            async with trio.open_nursery() as nursery:
                bucket = copy.deepcopy(whole.bucket)
                broken = Machine(
                    home, bucket, "a", nursery, upload_delay_s=_NEVER_S, refresh_s=_NEVER_S
                )
                shutil.copytree(whole.home, broken.home)
                with (broken.home / "state" / "store.db").open("r+b") as file:
                    file.seek(page * 4096)
                    file.write(b"\xa5" * 4096)
                found += bool(broken.check_disk().findings)
                report = broken.check_disk(repair=True)
                assert broken.check_disk().findings == [], texts(report)
                await check_nothing_is_lost(broken)
                await broken.end()
        # Only a free page may be of no importance.
        assert found >= len(range(1, pages, 1 if IS_LONG else 3)) - 1


@pytest.mark.parametrize("cut", ["removed", "truncated"])
async def test_a_log_that_was_cut_off_is_told_and_its_content_kept(
    tmp_path: Path, autojump_clock: MockClock, cut: str
) -> None:
    async with a_machine(tmp_path) as a:
        await a.start()
        await a.write("late", b"closed before the crash")
        await a.crash()
        log = a.home / "state" / "store.db-wal"
        log.unlink() if cut == "removed" else os.truncate(log, 4096)
        for _ in range(2):  # looking at it makes nobody forget
            report = a.check_disk()
            assert "pages of the log are missing" in texts(report)
        await a.start(check=False)
        assert any("last changes before the crash are lost" in line for line in a.up.warnings)
        kept = [path.read_bytes() for path in (a.home / "state" / "lost+found").iterdir()]
        assert b"closed before the crash" in kept


async def test_a_crash_alone_is_no_cut_log(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with a_machine(tmp_path) as a:
        await a.start()
        await a.write("late", b"closed before the crash")
        a.up.store.checkpoint()
        await a.write("later", b"and after a checkpoint")
        await a.crash()
        assert a.check_disk().findings == []
        await a.start()
        assert await a.read("late") == b"closed before the crash"
        assert a.up.warnings == []


# -- content files -----------------------------------------------------------------------


async def test_lost_unsent_bytes_are_told_and_never_zeros(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with a_machine(tmp_path) as a:
        content_file(a, "new").unlink()
        os.truncate(content_file(a, "edited"), 60_003)
        report = a.check_disk()
        assert report.code == fsck.LEFT
        assert "lost: new: 9500 UNSENT BYTES ARE LOST, its content file is missing" in texts(report)
        assert "lost: cloud/edited: 3 UNSENT BYTES ARE LOST" in texts(report)
        await a.start(check=False)
        for path in ("new", "cloud/edited"):
            with pytest.raises(FsError) as caught:
                await a.read(path)
            assert caught.value.code == errno.EIO
        await a.flush()
        held = {intent.hold for intent in a.intents() if intent.hold}
        assert any("unsent bytes of new are lost" in why for why in held)
        assert not a.bucket.version("new")
        assert a.bucket.read("cloud/edited") == b"x" * 100_000
        assert a.bucket.read("d/sub") == UNSENT["d/sub"]


async def test_repair_of_lost_bytes_goes_back_to_what_the_cloud_has(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with a_machine(tmp_path) as a:
        content_file(a, "new").unlink()
        os.truncate(content_file(a, "edited"), 60_003)
        assert a.check_disk(repair=True).code == fsck.REPAIRED
        assert a.check_disk().findings == []
        await a.start()
        shown = await a.show()
        assert "new" not in shown
        assert shown["cloud/edited"] == b"x" * 100_000
        lost = (a.home / "state" / "lost+found").iterdir()
        assert any(path.read_bytes() == b"x" * 60_000 + b"edi" for path in lost)


async def test_cut_off_cached_content_is_fetched_anew(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with a_machine(tmp_path) as a:
        os.truncate(content_file(a, "clean", side="cache/content"), 10)
        assert "cloud/clean: cached content cut off" in texts(a.check_disk())
        await a.start(check=False)
        assert await a.read("cloud/clean") == b"clean" * 3000


async def test_content_nobody_knows_goes_to_lost_and_found(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with a_machine(tmp_path) as a:
        stray = a.home / "state" / "dirty" / "00" / "65600"
        stray = a.home / "state" / "dirty" / f"{65600 >> 8 & 0xFF:02x}" / "65600"
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"nobody's")
        (a.home / "state" / "dirty" / "note.txt").write_bytes(b"a user's")
        assert a.check_disk().code == fsck.LEFT
        assert a.check_disk(repair=True).code == fsck.REPAIRED
        assert (a.home / "state" / "lost+found" / "65600").read_bytes() == b"nobody's"
        assert (a.home / "state" / "lost+found" / "note.txt").read_bytes() == b"a user's"
        assert a.check_disk().findings == []
        await check_nothing_is_lost(a)


# -- rows --------------------------------------------------------------------------------

_NEW = "(SELECT inode FROM dentry WHERE name = CAST('new' AS BLOB))"
_D = "(SELECT inode FROM dentry WHERE name = CAST('d' AS BLOB))"
_CLEAN = "(SELECT inode FROM dentry WHERE name = CAST('clean' AS BLOB))"
_EDITED = "(SELECT inode FROM dentry WHERE name = CAST('edited' AS BLOB))"

FLAWS = {
    "no upload waits": (f"DELETE FROM intent WHERE inode = {_NEW}",),
    "does not know it": (f"UPDATE inode SET dirty = 0 WHERE id = {_NEW}",),
    "which has no changes": (
        "INSERT INTO intent (kind, inode, is_dir, not_before_ns, created_ns) "
        f"VALUES ('put', {_CLEAN}, 0, 1, 1)",
    ),
    "put of inode 9999, which does not exist": (
        "INSERT INTO intent (kind, inode, is_dir, created_ns) VALUES ('put', 9999, 0, 1)",
    ),
    "does not say from where": (
        f"INSERT INTO intent (kind, inode, is_dir, created_ns) VALUES ('move', {_CLEAN}, 0, 1)",
    ),
    "does not say what": (
        "INSERT INTO intent (kind, inode, is_dir, created_ns) VALUES ('delete', 3, 0, 1)",
    ),
    "leads to inode 9999, which does not exist": (
        "INSERT INTO dentry (parent, name, inode) VALUES (1, CAST('x' AS BLOB), 9999)",
    ),
    "which is no directory": (
        f"INSERT INTO dentry (parent, name, inode) VALUES ({_NEW}, CAST('y' AS BLOB), {_CLEAN})",
    ),
    "has 2 names and counts 1": (
        f"INSERT INTO dentry (parent, name, inode) VALUES (1, CAST('z' AS BLOB), {_CLEAN})",
    ),
    "has no name": (f"DELETE FROM dentry WHERE inode = {_NEW}",),
    "directories in it and counts": (f"UPDATE inode SET nlink = 7 WHERE id = {_D}",),
    "is in no directory that can be reached": (f"DELETE FROM dentry WHERE inode = {_D}",),
    "has 2 names": (
        f"INSERT INTO dentry (parent, name, inode) VALUES (1, CAST('e' AS BLOB), {_D})",
    ),
    "nobody makes it there": (f"DELETE FROM intent WHERE inode = {_D} AND kind = 'mkdir'",),
    "is neither here nor in the cloud": (
        f"DELETE FROM content WHERE inode = {_CLEAN}",
        f"UPDATE inode SET in_cloud = 0, base_tag = NULL WHERE id = {_CLEAN}",
    ),
    "take the item": (
        "UPDATE inode SET remote_key = CAST('cloud/edited' AS BLOB) "
        f"WHERE id IN ({_CLEAN}, {_EDITED})",
    ),
    "behind its end": (f"UPDATE inode SET size = 9 WHERE id = {_CLEAN}",),
    "changed bytes that are not there": (
        f"UPDATE content SET present = x'', bytes = 0 WHERE inode = {_NEW}",
    ),
    "the sums are wrong": (f"UPDATE content SET bytes = 7 WHERE inode = {_CLEAN}",),
    "extents of new cannot be read": (
        f"UPDATE content SET dirty = x'010000' WHERE inode = {_NEW}",
    ),
    "extents of cloud/edited cannot be read": (
        f"UPDATE content SET dirty = x'010000' WHERE inode = {_EDITED}",
    ),
    "content of inode 9999": ("INSERT INTO content VALUES (9999, x'', x'', 0, 0, 0)",),
    "its row is lost, its unsent content is here": (f"DELETE FROM inode WHERE id = {_NEW}",),
    "is not all of it": (
        f"UPDATE content SET present = dirty WHERE inode = {_EDITED}",
        f"DELETE FROM inode WHERE id = {_EDITED}",
    ),
    "the root directory is missing": ("DELETE FROM inode WHERE id = 1",),
}


@pytest.mark.parametrize("told", FLAWS)
async def test_a_broken_row_is_found_and_repaired(
    tmp_path: Path, autojump_clock: MockClock, told: str
) -> None:
    async with a_machine(tmp_path) as a:
        sql(a, *FLAWS[told])
        report = a.check_disk(repair=False)
        assert report.code == fsck.LEFT
        assert told in texts(report)
        report = a.check_disk(repair=True)
        assert report.code == fsck.REPAIRED, texts(report)
        assert a.check_disk().findings == [], texts(report)
        if told in ("has 2 names and counts 1", "behind its end"):
            return  # the break is to stay, or is what the cloud says otherwise
        try:
            await check_nothing_is_lost(a)
        except CsyncError as exc:
            raise AssertionError(texts(report)) from exc


async def test_lost_and_found_says_why_and_what_it_was(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with a_machine(tmp_path) as a:
        ino = inode_of(a, "edited")
        sql(a, *FLAWS["is not all of it"])
        a.check_disk(repair=True)
        reason = (a.home / "state" / "lost+found" / f"{ino}.reason").read_text()
        assert "cloud/edited" in reason
