"""OneDrive's change feed through the kernel: two mounts of one drive, and bad days of the drive."""

import os
import shutil
import time
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.graph import Action, Emulator, Rule
from tests.support.length import IS_LONG, some
from tests.support.mounts import Mount, mounting, wait_until

MANY = 100_000 if IS_LONG else 2_000


@pytest.fixture(params=some(("personal", "business", "sharepoint"), "business"))
def drive(request: pytest.FixtureRequest) -> Generator[Emulator]:
    with Emulator(request.param, seed=3) as emu:
        emu.sign_in()
        yield emu
        assert emu.finish() == []
        emu.check()


def mounted(emu: Emulator, home: Path, device: str, *options: str) -> AbstractContextManager[Mount]:
    authority = emu.sign_in()
    env = {
        "REQUESTS_CA_BUNDLE": str(authority.ca_file),
        "AZURE_AUTHORITY_HOST": authority.url,
        "AZURE_TENANT_ID": "tenant",
        "AZURE_CLIENT_ID": "app",
        "AZURE_CLIENT_SECRET": "secret",
    }
    spec = f"onedrive://drive/{emu.drive_id}"
    usual = (f"endpoint={emu.api_url}", "upload_delay=200ms", "refresh=0.2", f"device={device}")
    return mounting(home, spec, *usual, *options, env=env)


def is_following(mount: Mount) -> bool:
    return "following the store's change feed" in mount.log.read_text()


def follows(*mounts: Mount, timeout_s: float = 30.0) -> None:
    wait_until(lambda: all(map(is_following, mounts)), "the feed", timeout_s)


def conflicts(mount: Mount) -> list[str]:
    return [str(path) for path in mount.path.rglob("*.conflict")]


def test_what_others_do_is_seen_by_the_feed_and_nothing_is_listed_again(
    drive: Emulator, tmp_path: Path
) -> None:
    drive.write("dir/sub/file", b"first")
    with (
        mounted(drive, tmp_path / "one", "one") as one,
        mounted(drive, tmp_path / "two", "two") as two,
    ):
        follows(one, two)
        listed = drive.count(route="children", method="GET")
        inode = (two.path / "dir" / "sub" / "file").stat().st_ino
        (one.path / "dir" / "new").write_text("made")
        (one.path / "dir" / "sub" / "file").write_text("second")
        one.flush()
        (one.path / "dir").rename(one.path / "moved")
        one.flush()
        moved = two.path / "moved"
        wait_until((moved / "new").exists, "the rename")
        wait_until(lambda: (moved / "sub" / "file").read_text() == "second", "the edit")
        assert (moved / "sub" / "file").stat().st_ino == inode
        assert sorted(os.listdir(two.path)) == ["moved"]
        drive.delete("moved/sub")
        wait_until(lambda: os.listdir(one.path / "moved") == ["new"], "the removal")
        assert drive.count(route="children", method="GET") == listed
        assert conflicts(one) == conflicts(two) == []
        for mount in (one, two):
            assert mount.unmount() == 0
            assert mount.fsck() == []


@pytest.mark.parametrize("kind", ["apply", "upload"])
def test_when_the_drive_forgets_where_we_were_everything_is_told_anew(
    drive: Emulator, tmp_path: Path, kind: str
) -> None:
    for n in range(30):
        drive.write(f"d{n % 3}/f{n}", b"%d" % n)
    with mounted(drive, tmp_path / "one", "one") as one:
        follows(one)
        assert one.unmount() == 0
        drive.delete("d0")
        drive.delete("d1/f1")
        drive.write("d1/f4", b"other")
        drive.write("d2/new", b"new")
        drive.expire_delta(kind)
        one.start()
        (one.path / "d2" / "ours").write_text("ours")
        wait_until((one.path / "d2" / "new").exists, "what is new")
        wait_until(lambda: sorted(os.listdir(one.path)) == ["d1", "d2"], "what is gone")
        wait_until(lambda: not (one.path / "d1" / "f1").exists(), "what is gone")
        assert (one.path / "d1" / "f4").read_bytes() == b"other"
        one.flush()
        assert drive.tree()["d2/ours"] == b"ours"
        assert conflicts(one) == []


def test_bad_days_of_the_drive_lose_nothing_and_make_no_conflicts(
    drive: Emulator, tmp_path: Path
) -> None:
    with mounted(drive, tmp_path / "one", "one") as one:
        follows(one)
        # Less than the pauses below: who does not keep them is still found.
        drive.knobs.on_its_way_s = 1.5
        for preset in ("messy_delta", "media_postproc", "sharepoint_office"):
            drive.preset(preset)
        drive.faults.add(Rule(Action.status(429, retry_after=3), prob=0.03))
        drive.faults.add(Rule(Action.status(503, retry_after=3), prob=0.02))
        ours: dict[str, bytes] = {}
        for n in range(30):
            name = f"f{n}{('', '.jpg', '.docx')[n % 3]}"
            (one.path / "ours").mkdir(exist_ok=True)
            ours[name] = b"%d" % n * 1000
            (one.path / "ours" / name).write_bytes(ours[name])
            drive.write(f"theirs/{name}", ours[name])
            if n == 15:
                drive.revoke_tokens()
            if n % 5 == 4:
                time.sleep(0.3)
        one.flush()
        for name in ours:
            wait_until((one.path / "theirs" / name).exists, name, 60)
        drive.faults.clear()
        for name, content in ours.items():
            # The library may have added something of its own to Office files.
            stored = drive.tree()[f"ours/{name}"]
            assert stored is not None
            assert stored.startswith(content), name
            assert (one.path / "theirs" / name).read_bytes().startswith(content), name
        assert conflicts(one) == []


def test_a_large_drive_answers_at_once_and_costs_one_request_from_then_on(
    tmp_path: Path,
) -> None:
    with Emulator("personal", seed=3) as drive:
        for n in range(MANY // 100):
            for m in range(99):
                drive.write(f"d{n:04}/f{m}", b"x")
        with mounted(drive, tmp_path / "one", "one", "refresh=1") as one:
            began = time.monotonic()
            assert len(os.listdir(one.path)) == MANY // 100
            assert time.monotonic() - began < 10
            # It answered before all was told.
            assert not (IS_LONG and is_following(one))
            follows(one, timeout_s=1200)
            assert one.memory_kib("VmRSS") < 250 << 10
            before = len(drive.journal)
            listed = drive.count(route="children", method="GET")
            assert len(list((one.path / "d0007").iterdir())) == 99
            time.sleep(5)
            routes = [request.route for request in drive.journal[before:]]
            assert set(routes) == {"delta"}
            assert 3 <= len(routes) <= 7
            assert drive.count(route="children", method="GET") == listed
        assert drive.finish() == []


def test_a_time_that_a_program_sets_after_the_upload_reaches_the_drive(
    drive: Emulator, tmp_path: Path
) -> None:
    drive.write("theirs", b"theirs")
    with mounted(drive, tmp_path / "one", "one") as one:
        (one.path / "ours").write_bytes(b"ours")
        one.flush()
        before = drive.item("ours")
        for n, name in enumerate(("ours", "theirs")):
            os.utime(one.path / name, (1_500_000_000 + n, 1_500_000_000 + n))
        one.flush()
        after = drive.item("ours")
        assert before is not None
        assert after is not None
        assert after["id"] == before["id"]
        told = [drive.item(name) for name in ("ours", "theirs")]
        times = [item["fileSystemInfo"]["lastModifiedDateTime"] for item in told if item]
        assert [time[:19] for time in times] == ["2017-07-14T02:40:00", "2017-07-14T02:40:01"]
        follows(one)
        assert (one.path / "ours").read_bytes() == b"ours"
        assert conflicts(one) == []


def test_a_save_that_was_uploaded_before_its_rename_keeps_the_item_and_makes_one_version(
    drive: Emulator, tmp_path: Path
) -> None:
    with mounted(drive, tmp_path / "one", "one") as one:
        file, draft = one.path / "document.odt", one.path / ".document.tmp"
        file.write_bytes(b"first")
        one.flush()
        before = drive.item("document.odt")
        draft.write_bytes(b"second, longer")
        one.flush()
        assert sorted(drive.tree()) == [".document.tmp", "document.odt"]
        draft.rename(file)
        one.flush()
        after = drive.item("document.odt")
        assert before is not None
        assert after is not None
        assert after["id"] == before["id"]
        assert len(drive.drive.items[after["id"]].versions) == 1
        assert drive.tree() == {"document.odt": b"second, longer"}
        assert file.read_bytes() == b"second, longer"


def test_a_wrong_rm_does_not_empty_the_drive_and_can_be_undone(
    drive: Emulator, tmp_path: Path
) -> None:
    for n in range(30):
        drive.write(f"team/sub{n % 3}/f{n}", b"%d" % n)
    everything = drive.tree()
    with mounted(drive, tmp_path / "one", "one", "delete_guard=8") as one:
        follows(one)
        shutil.rmtree(one.path / "team")
        assert os.listdir(one.path) == []
        assert "held" in one.admin("flush", "--wait", "--timeout", "60", check=False)
        left = drive.tree()
        assert len(everything) - len(left) <= 8
        assert "csyncfs-admin held" in one.log.read_text()
        assert "stay in the store" in one.admin("status")
        assert "team" in one.admin("held", "ls")
        # Another mount sees what the drive has, and so does this one again.
        one.admin("held", "reject")
        one.flush()
        assert {path: content for path, content in left.items() if content is not None} == {
            str(path.relative_to(one.path)): path.read_bytes()
            for path in one.path.rglob("*")
            if path.is_file()
        }
        shutil.rmtree(one.path / "team")
        wait_until(lambda: "team" in one.admin("held", "ls"), "it is held again")
        one.admin("held", "accept")
        one.flush()
        assert drive.tree() == {}
        assert conflicts(one) == []
