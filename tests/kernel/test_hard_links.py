"""Files with several names, on a real mount of a real S3 server."""

import errno
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import mounting
from tests.support.servers import S3Server


class Shared:
    """Two mounts of one bucket, and what other tools see in it."""

    def __init__(self, home: Path, server: S3Server, bucket: str) -> None:
        self.home = home
        self.server = server
        self.bucket = bucket
        self.client: Any = server.client()

    def mounted(self, name: str, *options: str) -> Any:
        home = self.home / name
        home.mkdir(exist_ok=True)
        options = (
            f"endpoint={self.server.endpoint_url}",
            "upload_delay=0.2",
            "refresh=1",
            *options,
        )
        return mounting(home, f"s3://{self.bucket}", *options, env=self.server.environment())

    def stored(self) -> dict[str, bytes]:
        """Every file object as boto3 reads it."""
        found = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        keys = [entry["Key"] for entry in found]
        return {
            key: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            for key in keys
            if not key.endswith("/") and not key.startswith(".csyncfs/")
        }


@pytest.fixture
def shared(tmp_path: Path, seaweedfs: S3Server) -> Shared:
    return Shared(tmp_path, seaweedfs, seaweedfs.make_bucket())


def _same(*paths: Path) -> Callable[[], bool]:
    def are() -> bool:
        found = [os.lstat(path) for path in paths]
        return len({st.st_ino for st in found}) == 1 and found[0].st_nlink == len(paths)

    return are


def test_two_names_are_one_file_and_two_objects(shared: Shared) -> None:
    with shared.mounted("a") as a:
        f, g = a.path / "f", a.path / "d" / "g"
        g.parent.mkdir()
        f.write_bytes(b"one")
        os.link(f, g)
        assert _same(f, g)()
        with g.open("ab") as file:
            file.write(b" more")
        assert f.read_bytes() == b"one more"
        os.chmod(f, 0o640)
        assert stat.S_IMODE(g.stat().st_mode) == 0o640
        a.flush()
        assert shared.stored() == {"f": b"one more", "d/g": b"one more"}
        f.unlink()
        assert g.stat().st_nlink == 1
        a.flush()
        assert shared.stored() == {"d/g": b"one more"}


def test_links_survive_a_remount_and_are_seen_by_another_machine(shared: Shared) -> None:
    with shared.mounted("a") as a:
        (a.path / "f").write_bytes(b"one")
        (a.path / "f").chmod(0o600)
        os.link(a.path / "f", a.path / "g")
        os.symlink("there", a.path / "s")
        os.link(a.path / "s", a.path / "t", follow_symlinks=False)
        os.mkfifo(a.path / "p")
        os.link(a.path / "p", a.path / "q")
        a.flush()
        assert a.unmount() == 0
        a.wipe_cache()
        a.start()
        for pair in ("fg", "st", "pq"):
            assert _same(*(a.path / name for name in pair))(), pair
        with shared.mounted("b") as b:
            for pair in ("fg", "st", "pq"):
                b.refresh_wait(_same(*(b.path / name for name in pair)), f"{pair} are one file")
            assert stat.S_ISFIFO(os.lstat(b.path / "q").st_mode)
            assert os.readlink(b.path / "t") == "there"
            (b.path / "g").write_bytes(b"written by b")
            b.flush()
            a.refresh_wait(lambda: (a.path / "f").read_bytes() == b"written by b", "b's edit")
            a.refresh_wait(_same(a.path / "f", a.path / "g"), "still one file")
    stored = shared.stored()
    assert stored["f"] == stored["g"] == b"written by b"


def test_a_copy_made_in_the_bucket_is_another_file(shared: Shared) -> None:
    """``aws s3 cp`` copies metadata too. An edit must not reach the backup."""
    with shared.mounted("a") as a:
        (a.path / "f").write_bytes(b"one")
        os.link(a.path / "f", a.path / "g")
        a.flush()
        source = {"Bucket": shared.bucket, "Key": "f"}
        shared.client.copy_object(Bucket=shared.bucket, Key="backup", CopySource=source)
        a.refresh_wait((a.path / "backup").exists, "the copy")
        with shared.mounted("b") as b:
            b.refresh_wait(_same(b.path / "f", b.path / "g"), "one file")
            (b.path / "f").write_bytes(b"two")
            b.flush()
        assert (a.path / "backup").read_bytes() == b"one"
        assert (a.path / "backup").stat().st_nlink == 1
    assert shared.stored() == {"f": b"two", "g": b"two", "backup": b"one"}


def test_what_programs_do_with_links(shared: Shared) -> None:
    """git clones locally by them, cp -al makes snapshots, rsync -H and tar keep them."""
    with shared.mounted("a") as a:
        tree = a.path / "tree"
        tree.mkdir()
        for number in range(20):
            (tree / f"f{number}").write_text(f"{number}")
        run = ["git", "-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run([*run, "init", "-q"], cwd=tree, check=True)
        subprocess.run([*run, "add", "."], cwd=tree, check=True)
        subprocess.run([*run, "commit", "-qm", "first"], cwd=tree, check=True)
        subprocess.run(["git", "clone", "-q", "--local", tree, a.path / "clone"], check=True)
        subprocess.run(["git", "fsck", "--strict"], cwd=a.path / "clone", check=True)
        subprocess.run(["cp", "-al", tree, a.path / "snapshot"], check=True)
        assert (a.path / "snapshot" / "f7").stat().st_nlink == 2
        subprocess.run(["cp", "-a", a.path / "snapshot", a.path / "tree2"], check=True)
        archive = shared.home / "links.tar"
        command = ["tar", "cf", archive, "-C", a.path, "tree", "snapshot"]
        subprocess.run(command, check=True)
        out = a.path / "out"
        out.mkdir()
        subprocess.run(["tar", "xf", archive, "-C", out], check=True)
        assert _same(out / "tree" / "f7", out / "snapshot" / "f7")()
        shutil.rmtree(tree)
        assert (a.path / "snapshot" / "f7").read_text() == "7"
        a.flush()
        subprocess.run(["diff", "-r", a.path / "snapshot", a.path / "tree2"], check=True)
        subprocess.run(["git", "fsck", "--strict"], cwd=a.path / "clone", check=True)
    stored = shared.stored()
    assert stored["snapshot/f7"] == stored["out/tree/f7"] == b"7"
    assert "tree/f7" not in stored


def test_what_cannot_be_linked(shared: Shared) -> None:
    with shared.mounted("a") as a:
        (a.path / "f").touch()
        (a.path / "g").touch()
        (a.path / "d").mkdir()
        for number, source, target in (
            (errno.EEXIST, "f", "g"),
            (errno.EPERM, "d", "d2"),
            (errno.ENOENT, "none", "h"),
            (errno.ENAMETOOLONG, "f", "n" * 256),
        ):
            with pytest.raises(OSError) as caught:
                os.link(a.path / source, a.path / target)
            assert caught.value.errno == number, (source, target)
        with pytest.raises(OSError) as caught:
            os.open(a.path, os.O_TMPFILE | os.O_RDWR)
        assert caught.value.errno == errno.EOPNOTSUPP


def test_paths_as_long_as_linux_allows(shared: Shared) -> None:
    """4,095 bytes; a key of S3 has 1,024. Every call, a rename of the whole, another machine."""
    parts = [f"{number:0199d}" for number in range(19)]
    deep = "/".join(parts) + "/"
    name = "n" * 60
    with shared.mounted("a") as a:
        here = os.open(".", os.O_RDONLY)
        try:
            os.chdir(a.path)
            for part in parts:
                os.mkdir(part)
                os.chdir(part)
            Path(name).write_bytes(b"deep")
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("socket")
            os.link(name, "link")
            os.chdir(a.path)
            assert Path(deep + name).read_bytes() == b"deep"
            os.rename(parts[0], "renamed")
            moved = deep.replace(parts[0], "renamed", 1)
            a.flush(120)
        finally:
            os.chdir(here)
            os.close(here)
        with shared.mounted("b") as b:
            os.chdir(b.path)
            try:
                assert Path(moved + name).read_bytes() == b"deep"
                assert sorted(os.listdir(moved)) == ["link", name, "socket"]
                b.refresh_wait(_same(Path(moved + name), Path(moved + "link")), "one file")
                shutil.rmtree("renamed")
                b.flush(120)
            finally:
                os.chdir("/")
        a.refresh_wait(lambda: not list(a.path.iterdir()), "all is gone")
    _nothing_left(shared)


def _nothing_left(shared: Shared) -> None:
    found = shared.client.list_objects_v2(Bucket=shared.bucket).get("Contents", [])
    assert [entry["Key"] for entry in found if "long/" in entry["Key"]] == []
