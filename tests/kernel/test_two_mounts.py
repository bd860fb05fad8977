"""Two mounts of one bucket: what one does the other sees, and nobody's edit is lost."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import Mount, mounting, wait_until
from tests.support.servers import S3Server


class Pair:
    """Two computers."""

    def __init__(self, a: Mount, b: Mount, client: Any, bucket: str) -> None:
        self.a, self.b = a, b
        self._client, self._bucket = client, bucket

    def keys(self) -> set[str]:
        found = self._client.list_objects_v2(Bucket=self._bucket).get("Contents", [])
        return {entry["Key"] for entry in found}

    def stored(self) -> dict[str, bytes]:
        found = self._client.list_objects_v2(Bucket=self._bucket).get("Contents", [])
        return {
            entry["Key"]: self._client.get_object(Bucket=self._bucket, Key=entry["Key"])[
                "Body"
            ].read()
            for entry in found
            if not entry["Key"].endswith("/") and not entry["Key"].startswith(".csyncfs/")
        }


@pytest.fixture
def pair(seaweedfs: S3Server, tmp_path: Path) -> Iterator[Pair]:
    bucket = seaweedfs.make_bucket()
    env = dict(seaweedfs.environment())
    options = (f"endpoint={seaweedfs.endpoint_url}", "refresh=1", "upload_delay=0.2")
    spec = f"s3://{bucket}"
    with (
        mounting(tmp_path / "a", spec, *options, "device=anna", env=env) as a,
        mounting(tmp_path / "b", spec, *options, "device=ben", env=env) as b,
    ):
        yield Pair(a, b, seaweedfs.client(), bucket)


def contents(mount: Mount) -> dict[str, bytes]:
    """What one sees of the files at the top, right now."""
    found: dict[str, bytes] = {}
    for name in os.listdir(mount.path):
        try:
            found[name] = (mount.path / name).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            continue
    return found


def test_names_sizes_and_deletions_follow(pair: Pair) -> None:
    (pair.a.path / "d").mkdir()
    (pair.a.path / "d" / "f").write_text("one")
    (pair.a.path / "top").write_text("top")
    pair.a.flush()
    wait_until(lambda: contents(pair.b) == {"top": b"top"}, "b sees the new file")
    assert (pair.b.path / "d" / "f").read_text() == "one"
    (pair.a.path / "d" / "f").write_text("two, and longer")
    (pair.a.path / "top").unlink()
    pair.a.flush()

    def has_followed() -> bool:
        os.listdir(pair.b.path / "d")
        return contents(pair.b) == {} and (
            (pair.b.path / "d" / "f").read_text() == "two, and longer"
        )

    wait_until(has_followed, "b sees the change and the deletion")


def test_both_edit_while_apart(pair: Pair) -> None:
    (pair.a.path / "f").write_text("base")
    pair.a.flush()
    wait_until(lambda: contents(pair.b) == {"f": b"base"}, "b sees the file")
    # Apart: neither can send or see anything.
    pids = [mount.status()["transfer"] for mount in (pair.a, pair.b)]
    stopped: list[Any] = [status["pid"] for status in pids]  # type: ignore[index]
    for pid in stopped:
        os.kill(pid, 19)
    (pair.a.path / "f").write_text("anna's")
    (pair.b.path / "f").write_text("ben's")
    for pid in stopped:
        os.kill(pid, 18)
    pair.a.flush()
    pair.b.flush()

    def agree() -> bool:
        seen = contents(pair.a)
        return len(seen) == 2 and seen == contents(pair.b) == pair.stored()

    wait_until(agree, "both files are in the bucket and in both mounts", 60)
    seen = contents(pair.a)
    assert sorted(seen.values()) == [b"anna's", b"ben's"]
    (aside,) = [name for name in seen if name != "f"]
    assert aside.startswith(("f.anna-", "f.ben-"))
    assert aside.endswith(".conflict")
    listed = pair.a.admin("conflicts", "ls") + pair.b.admin("conflicts", "ls")
    assert aside in listed


def test_failed_is_not_gone(pair: Pair, seaweedfs: S3Server) -> None:
    (pair.a.path / "f").write_text("there")
    pair.a.flush()
    wait_until(lambda: contents(pair.b) == {"f": b"there"}, "b sees the file")
    os.kill(seaweedfs.pid, 19)
    try:
        for _ in range(5):
            listing = subprocess.run(
                ["ls", str(pair.b.path)], check=True, capture_output=True, timeout=5
            )
            assert listing.stdout == b"f\n"
            assert (pair.b.path / "f").read_text() == "there"
    finally:
        os.kill(seaweedfs.pid, 18)


def test_a_renamed_directory_leaves_nothing_behind(pair: Pair) -> None:
    """Neither the one who made it nor one who only listed it, where listings tell no more of a
    directory than its name."""
    for name in ("mine", "known"):
        (pair.a.path / name).mkdir()
        (pair.a.path / name / "f").write_text(name)
    pair.a.flush()
    for mount in (pair.a, pair.b):
        mount.refresh_wait((mount.path / "known" / "f").exists, "the directories")
    # Listed again, after what was made here has come back as news.
    for _ in range(3):
        time.sleep(1.1)
        os.listdir(pair.a.path)
    (pair.a.path / "mine").rename(pair.a.path / "mine2")
    (pair.b.path / "known").rename(pair.b.path / "known2")
    pair.a.flush()
    pair.b.flush()
    keys = pair.keys()
    assert {key for key in keys if not key.startswith(".csyncfs/")} == {
        *("mine2/", "mine2/f", "known2/", "known2/f"),
    }


def test_a_working_directory_stays_one_while_its_attributes_change(tmp_path: Path) -> None:
    """The kernel must not lose its name: getcwd(2) would fail in every shell that is in it."""
    store = tmp_path / "store"
    (store / "d").mkdir(parents=True)
    (store / "d" / "f").touch()
    shell = "while sleep 0.1; do touch x && rm x || exit 1; done"
    options = ("refresh=1", "upload_delay=0.2")
    with (
        mounting(tmp_path / "m", f"file://{store}", *options) as mount,
        subprocess.Popen(["sh", "-c", shell], cwd=mount.path / "d") as process,
    ):
        opened = os.open(mount.path / "d", os.O_RDONLY)

        def has(mode: int) -> bool:
            # Makes the mount look at its root again, but does not name "d" to the kernel.
            assert not (mount.path / "absent").exists()
            return os.stat(opened).st_mode & 0o777 == mode

        try:
            for mode in (0o700, 0o750, 0o711):
                (store / "d").chmod(mode)
                wait_until(lambda mode=mode: has(mode), f"mode {mode:o}")
                assert os.readlink(f"/proc/{process.pid}/cwd") == str(mount.path / "d")
            assert process.poll() is None
        finally:
            os.close(opened)
            process.kill()
