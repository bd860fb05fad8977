"""csyncfs-admin as a person uses it: against a served socket, and against a store alone."""

import json
import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from csyncfs import registry
from csyncfs.admin import cli, client, show
from csyncfs.control import ControlServer
from csyncfs.extents import Extents
from csyncfs.registry import Registration
from csyncfs.store import conflicts, contents, inodes, journal
from csyncfs.store.db import Store, open_store
from csyncfs.store.journal import IntentKind
from csyncfs.types import ROOT, InodeId
from tests.support.steer import FakeSteer

Admin = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CSYNCFS_HOME", str(tmp_path / "home"))
    (tmp_path / "mnt").mkdir()
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    return tmp_path


@pytest.fixture
def admin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Admin:
    """Run the command in this process: (exit code, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["csyncfs-admin", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as exc:
            code = int(exc.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def register(home: Path, name: str = "s3-bucket-1", mountpoint: str = "mnt") -> Registration:
    entry = Registration(
        id=name,
        spec="s3://bucket",
        mountpoint=str(home / mountpoint),
        state_dir=str(home / f"state-{name}"),
        cache_dir=str(home / f"cache-{name}"),
        run_dir=str(home / f"run-{name}"),
        pid=os.getpid(),
    )
    registry.write(home / "home" / "state" / "mounts", entry)
    Path(entry.run_dir).mkdir(exist_ok=True)
    return entry


@contextmanager
def mounted(entry: Registration, steer: FakeSteer) -> Generator[FakeSteer]:
    """Serve the entry's socket from another thread."""
    ready = threading.Event()
    scope = trio.CancelScope()
    token: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        token.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(ControlServer(entry.control_socket, steer).run)
                ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(timeout=20)
    try:
        yield steer
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=token[0])
        thread.join(timeout=20)


@pytest.fixture
def fake(home: Path) -> Generator[FakeSteer]:
    entry = register(home)
    with mounted(entry, FakeSteer(mountpoint=entry.mountpoint)) as steer:
        yield steer


def test_status_tells_a_person_all_that_matters(admin: Admin, fake: FakeSteer) -> None:
    code, out, err = admin("status")
    assert (code, err) == (0, "")
    for part in (
        f"s3://bucket on {fake.mountpoint}",
        "process 42, for 1 h 1 min",
        "online, s3 (test dialect)",
        "3 changes, 5.0 MiB, oldest 1 min 15 s",
        "3.0 GiB of 10.0 GiB in 12 files",
        "12,345 files",
        "1 (see: csyncfs-admin conflicts ls)",
        "deletes are not conditional",
    ):
        assert part in out
    assert "\x1b" not in out


@pytest.mark.parametrize("words", [["--json", "status"], ["status", "--json"]])
def test_status_as_json(admin: Admin, fake: FakeSteer, words: list[str]) -> None:
    code, out, _ = admin(*words)
    assert code == 0
    told = json.loads(out)
    assert (told["mounted"], told["online"], told["queue"]["waiting"]) == (True, True, 3)
    assert fake.asked == [("status",)]


def test_any_path_inside_the_mount_names_it(
    admin: Admin, fake: FakeSteer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(home, "s3-other-2", "other")
    (home / "mnt" / "sub").mkdir()
    (home / "link").symlink_to(home / "mnt")
    assert admin("status", home / "mnt")[0] == 0
    assert admin("status", home / "mnt" / "a" / "b")[0] == 0
    assert admin("status", home / "link" / "a")[0] == 0
    monkeypatch.chdir(home / "mnt" / "sub")
    assert admin("status", "../x")[0] == 0
    admin("cache", "ls")
    assert fake.asked[-1] == ("cache_ls", "sub")
    assert len(fake.asked) == 5


def test_several_mounts_and_no_path_is_a_question(
    admin: Admin, fake: FakeSteer, home: Path
) -> None:
    register(home, "s3-other-2", "other")
    code, out, err = admin("status")
    assert (code, out) == (cli.NO_MOUNT, "")
    assert str(home / "other") in err
    assert fake.mountpoint in err


def test_path_outside_every_mount(admin: Admin, fake: FakeSteer, home: Path) -> None:
    code, out, err = admin("status", home / "away")
    assert (code, out) == (cli.NO_MOUNT, "")
    assert err == f"csyncfs-admin: {home / 'away'} is not in a csyncfs mount of yours\n"
    assert fake.asked == []


def test_a_name_that_begins_like_the_mountpoint_is_not_in_it(admin: Admin, fake: FakeSteer) -> None:
    assert admin("status", f"{fake.mountpoint}2")[0] == cli.NO_MOUNT


def test_nothing_was_ever_mounted(admin: Admin) -> None:
    code, _, err = admin("status")
    assert code == cli.NO_MOUNT
    assert err.count("\n") == 1


def test_flush_starts_and_leaves(admin: Admin, fake: FakeSteer) -> None:
    code, out, _ = admin("flush")
    assert code == 0
    assert "sending 3 changes" in out
    assert fake.asked == [("flush", False, None)]


def test_flush_waits_until_all_is_sent(admin: Admin, fake: FakeSteer) -> None:
    code, out, _ = admin("flush", "--wait")
    assert (code, out) == (0, "nothing left to send\n")
    assert fake.pending == 0


def test_flush_that_runs_out_of_time_says_what_is_left(admin: Admin, fake: FakeSteer) -> None:
    fake.is_stuck = True
    code, out, _ = admin("flush", "--timeout", "0.1")
    assert (code, out) == (cli.LEFT, "3 changes (300 B) still to send\n")
    fake.trouble = "no route to \x1b[31mthere"
    _, out, _ = admin("flush", "--timeout", "0.1")
    assert out == r"3 changes (300 B) still to send: no route to \x1b[31mthere" + "\n"
    code, out, _ = admin("--json", "flush", "--timeout", "0.1")
    assert (code, json.loads(out)["remaining"]) == (cli.LEFT, 3)


def test_flush_with_held_changes_is_not_done(admin: Admin, fake: FakeSteer) -> None:
    fake.held = 1
    code, out, _ = admin("flush", "--wait")
    assert code == cli.LEFT
    assert "1 held" in out


def test_lists(admin: Admin, fake: FakeSteer, home: Path) -> None:
    code, out, _ = admin("cache", "ls", home / "mnt" / "a")
    assert code == 0
    assert fake.asked == [("cache_ls", "a")]
    assert "full   10 B  10 B  a/full.txt" in out
    # a name must not steer the terminal
    assert "b\\x1b[31m" in out
    code, out, _ = admin("conflicts", "ls")
    assert code == 0
    assert "a.txt.desk-20261121T101500Z.conflict" in out
    code, out, _ = admin("cache", "evict", "--json")
    assert json.loads(out) == {"files": 2, "freed_bytes": 4096, "kept": 1}


def test_what_is_held_is_listed_and_decided(admin: Admin, fake: FakeSteer) -> None:
    code, out, _ = admin("held", "ls")
    assert code == 0
    assert "photos  12,345  in the store  2026-11-21T10:15:00Z" in out
    assert admin("held", "accept")[:2] == (0, "removed: 1\n")
    assert json.loads(admin("held", "reject", "--json")[1]) == {"count": 1}
    assert fake.asked[-2:] == [("decide_held", True), ("decide_held", False)]


def test_held_of_a_mount_that_is_down(admin: Admin, unmounted: Registration) -> None:
    assert admin("held", "ls")[:2] == (0, "nothing is held\n")
    assert admin("held", "accept")[0] == cli.NO_ANSWER


def test_a_path_the_mount_does_not_know(admin: Admin, fake: FakeSteer, home: Path) -> None:
    code, out, err = admin("cache", "ls", home / "mnt" / "absent")
    assert (code, out) == (cli.NO_ANSWER, "")
    assert "No such file or directory" in err
    assert err.count("\n") == 1


def test_an_error_of_the_mount_is_one_line(admin: Admin, fake: FakeSteer) -> None:
    fake.error = RuntimeError("two\nlines")
    code, _, err = admin("status")
    assert (code, err) == (cli.NO_ANSWER, "csyncfs-admin: RuntimeError: two lines\n")


@pytest.mark.parametrize(
    "words",
    [
        ["stauts"],
        ["status", "a", "b"],
        ["flush", "--timeout", "soon"],
        ["flush", "--timeout", "-1"],
        ["cache", "rm"],
        ["--jason", "status"],
        [],
    ],
)
def test_wrong_command_lines(admin: Admin, words: list[str]) -> None:
    code, _, err = admin(*words)
    assert code == cli.USAGE
    assert err


def test_a_mount_that_hangs_is_given_up(
    admin: Admin, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = register(home)
    silent = socket.socket(socket.AF_UNIX)
    silent.bind(str(entry.control_socket))
    silent.listen(1)
    monkeypatch.setattr(client, "_ANSWER_S", 0.2)
    code, _, err = admin("status")
    assert (code, err) == (cli.NO_ANSWER, "csyncfs-admin: the mount does not answer\n")
    silent.close()


# -- not mounted ---------------------------------------------------------------------------


def make_store(entry: Registration) -> Store:
    """Two files: one half here, one changed here and set aside from the first."""
    store = open_store(Path(entry.state_dir))
    with store.transaction():
        inodes.insert_root(store, mode=0o040755, uid=0, gid=0, now_ns=1)
        clean = _file(store, b"clean", size=10)
        contents.save(store, clean, extents(0, 5), Extents(), 1)
        dirty = _file(store, b"clean.desk-1.conflict", size=7)
        contents.save(store, dirty, extents(0, 7), extents(0, 7), 2)
        journal.add(store, IntentKind.PUT, dirty, is_dir=False, not_before_ns=1, now_ns=1)
        conflicts.add(
            store,
            inode=dirty,
            original=clean,
            path=b"clean",
            conflict_name=b"clean.desk-1.conflict",
            device="desk",
            other_device=None,
            size=7,
            ancestor_tag=None,
            remote=None,
            now_ns=1_763_718_900_000_000_000,
        )
    return store


def extents(start: int, end: int) -> Extents:
    made = Extents()
    made.add(start, end)
    return made


def _file(store: Store, name: bytes, size: int) -> InodeId:
    ino = inodes.insert(store, mode=0o100644, uid=0, gid=0, now_ns=1, size=size)
    inodes.link(store, ROOT, name, ino)
    return ino


@pytest.fixture
def unmounted(home: Path) -> Registration:
    entry = register(home)
    make_store(entry).close()
    return entry


def test_status_of_a_mount_that_is_down(admin: Admin, unmounted: Registration) -> None:
    code, out, _ = admin("status", unmounted.mountpoint)
    assert code == 0
    assert "not mounted" in out
    assert "1 change, 7 B" in out
    told = json.loads(admin("--json", "status")[1])
    assert (told["mounted"], told["online"], told["conflicts"]) == (False, None, 1)
    assert told["cache"] == {
        "used_bytes": 12,
        "limit_bytes": None,
        "dirty_bytes": 7,
        "files": 2,
    }


def test_lists_of_a_mount_that_is_down(admin: Admin, unmounted: Registration, home: Path) -> None:
    code, out, err = admin("--json", "cache", "ls")
    assert code == 0
    assert "is not mounted" in err
    assert [(row["path"], row["state"]) for row in json.loads(out)] == [
        ("clean", "partial"),
        ("clean.desk-1.conflict", "dirty"),
    ]
    (row,) = json.loads(admin("conflicts", "ls", "--json")[1])
    assert (row["path"], row["original"]) == ("clean.desk-1.conflict", "clean")
    assert row["time"] == "2025-11-21T09:55:00Z"
    code, out, _ = admin("conflicts", "ls", home / "mnt" / "clean")
    assert (code, out) == (0, "no conflicts\n")


def test_flush_of_a_mount_that_is_down_says_what_stays(
    admin: Admin, unmounted: Registration
) -> None:
    code, out, _ = admin("flush", "--wait")
    assert code == cli.LEFT
    assert out == (
        f"not mounted; 1 change (7 B) safe in {unmounted.state_dir}, sent when mounted again\n"
    )


def test_evict_of_a_mount_that_is_down_says_how(admin: Admin, unmounted: Registration) -> None:
    code, _, err = admin("cache", "evict")
    assert code == cli.NO_ANSWER
    assert unmounted.cache_dir in err


def test_looking_changes_nothing(admin: Admin, unmounted: Registration) -> None:
    database = Path(unmounted.state_dir) / "store.db"
    before = database.read_bytes()
    for words in (["status"], ["cache", "ls"], ["conflicts", "ls"], ["flush"]):
        admin(*words)
    assert database.read_bytes() == before
    open_store(Path(unmounted.state_dir)).close()


def test_a_store_is_read_while_another_process_writes_it(admin: Admin, home: Path) -> None:
    store = make_store(register(home))
    code, out, _ = admin("--json", "status")
    assert (code, json.loads(out)["inodes"]) == (0, 3)
    store.close()


def test_state_dir_names_a_store_nobody_registered(
    admin: Admin, unmounted: Registration, home: Path
) -> None:
    moved = home / "moved"
    Path(unmounted.state_dir).rename(moved)
    code, out, _ = admin("--state-dir", moved, "status", "--json")
    assert (code, json.loads(out)["queue"]["waiting"]) == (0, 1)
    code, _, err = admin("status")
    assert (code, "no csyncfs store" in err) == (cli.NO_ANSWER, True)
    code, _, err = admin("status", "--state-dir", home / "nowhere")
    assert code == cli.NO_MOUNT


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b""])
def test_a_damaged_store_is_one_line(admin: Admin, unmounted: Registration, content: bytes) -> None:
    (Path(unmounted.state_dir) / "store.db").write_bytes(content)
    code, _, err = admin("status")
    assert code == cli.NO_ANSWER
    assert err.count("\n") == 1


def test_a_broken_registration_is_as_none(admin: Admin, home: Path) -> None:
    register(home)
    (home / "home" / "state" / "mounts" / "s3-bucket-1.json").write_text("{")
    assert admin("status")[0] == cli.NO_MOUNT


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (5 << 20, "5.0 MiB"), (1 << 60, "1024.0 PiB")],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert show.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (3600, "1 h"), (90061, "1 d 1 h")]
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert show.span(seconds) == text
