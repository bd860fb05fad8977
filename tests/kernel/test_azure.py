"""A real mount of Azurite, and a second one that sees what the first did."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.azurite import ACCOUNT, KEY, Azurite, blobs, body
from tests.support.mounts import Mount, mounting, wait_until


@pytest.fixture
def container(azurite: Azurite) -> str:
    return azurite.make_container()


def _options(server: Azurite) -> tuple[str, ...]:
    return f"endpoint={server.url()}", "upload_delay=0.2", "refresh=1"


def _tree(path: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(path)): one.read_bytes() if one.is_file() else b""
        for one in path.rglob("*")
        if ".git" not in one.parts
    }


def _is_seen(there: Mount, here: Mount) -> bool:
    try:
        return _tree(there.path) == _tree(here.path)
    except OSError:
        return False


def test_another_mount_sees_what_one_writes_renames_and_removes(
    azurite: Azurite, container: str, tmp_path: Path
) -> None:
    spec, options, env = f"az://{ACCOUNT}/{container}/p", _options(azurite), azurite.environment()
    with (
        mounting(tmp_path / "a", spec, *options, env=env) as a,
        mounting(tmp_path / "b", spec, *options, env=env) as b,
    ):
        (a.path / "dir").mkdir(mode=0o750)
        (a.path / "dir" / "a\\b.").write_bytes(b"odd")
        (a.path / "file").write_bytes(b"one")
        os.chmod(a.path / "file", 0o640)
        large = os.urandom(12 << 20)
        (a.path / "large").write_bytes(large)
        a.flush()
        wait_until(lambda: _is_seen(b, a), "what a wrote")
        assert (b.path / "file").stat().st_mode == 0o100640
        assert (b.path / "dir").stat().st_mode == 0o40750

        (b.path / "file").write_bytes(b"two")
        os.rename(b.path / "dir", b.path / "renamed")
        with (b.path / "large").open("r+b") as file:
            file.seek(5 << 20)
            file.write(b"edited")
        b.flush()
        edited = large[: 5 << 20] + b"edited" + large[(5 << 20) + 6 :]
        assert body(azurite, container, "p/large") == edited
        wait_until(lambda: _is_seen(a, b), "what b changed")
        assert (a.path / "renamed" / "a\\b.").read_bytes() == b"odd"

        for name in ("file", "large", "renamed/a\\b."):
            (a.path / name).unlink()
        (a.path / "renamed").rmdir()
        a.flush()
        assert blobs(azurite, container) == {}
        wait_until(lambda: _is_seen(b, a), "what a removed")
        assert not any(KEY in mount.log.read_text() for mount in (a, b))
        for mount in (a, b):
            assert mount.unmount() == 0
            assert mount.fsck() == []


def test_what_is_in_the_container_survives_the_state(
    azurite: Azurite, container: str, tmp_path: Path
) -> None:
    spec, options, env = f"az://{ACCOUNT}/{container}", _options(azurite), azurite.environment()
    with mounting(tmp_path / "a", spec, *options, env=env) as a:
        git = ["git", "-C", str(a.path), "-c", "user.name=x", "-c", "user.email=x@y"]
        subprocess.run([*git, "init", "-q"], check=True)
        for number in range(20):
            (a.path / f"{number}").write_text(str(number) * 100)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", "all"], check=True)
        os.symlink("0", a.path / "link")
        os.link(a.path / "1", a.path / "again")
        expected = _tree(a.path)
        a.flush()
    with mounting(tmp_path / "b", spec, *options, env=env) as b:
        assert _tree(b.path) == expected
        assert os.readlink(b.path / "link") == "0"
        assert (b.path / "again").stat().st_nlink == 2
        checked = subprocess.run(
            ["git", "-C", str(b.path), "-c", "safe.directory=*", "fsck", "--strict"],
            check=False,
            capture_output=True,
            text=True,
        )
        assert checked.returncode == 0, checked.stderr
