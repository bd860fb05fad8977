"""Ordinary programs at work on an S3 mount, and what an independent client finds afterwards."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import Mount, mounting
from tests.support.servers import S3Server

LONG = os.environ.get("CSYNCFS_LONG") == "1"
# A part of Python's own library; the whole of it in the long version.
PACKAGES = ["json", "email", "asyncio", "importlib", "xml", "unittest"]


class Bucket:
    """What an independent client sees."""

    def __init__(self, server: S3Server) -> None:
        self.name = server.make_bucket()
        self._client: Any = server.client()

    def digests(self) -> dict[str, str]:
        """MD5 of every object, by key; directory markers left out."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return {
            key: hashlib.md5(
                self._client.get_object(Bucket=self.name, Key=key)["Body"].read()
            ).hexdigest()
            for key in keys
            if not key.endswith("/") and not key.startswith(".csyncfs/")
        }


@pytest.fixture(scope="module")
def bucket(seaweedfs: S3Server) -> Bucket:
    return Bucket(seaweedfs)


@pytest.fixture(scope="module")
def mount(
    bucket: Bucket, seaweedfs: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mount]:
    home = tmp_path_factory.mktemp("programs")
    options = (f"endpoint={seaweedfs.endpoint_url}", "upload_delay=0.5")
    env = dict(seaweedfs.environment())
    with mounting(home, f"s3://{bucket.name}", *options, env=env) as made:
        yield made


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _remount_cold(mount: Mount) -> None:
    assert mount.unmount() == 0
    mount.wipe_cache()
    mount.start()


def test_a_real_tree_goes_there_and_back(mount: Mount, bucket: Bucket, tmp_path: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    source = tmp_path / "lib"
    source.mkdir()
    for entry in sorted(library.iterdir()) if LONG else [library / name for name in PACKAGES]:
        if entry.name not in ("site-packages", "dist-packages"):
            _run("cp", "-a", entry, source)
    _run("cp", "-a", source, mount.path)
    _run("diff", "-r", source, mount.path / "lib")
    mount.flush()
    expected = {
        f"lib/{path.relative_to(source)}": hashlib.md5(path.read_bytes()).hexdigest()
        for path in source.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    found = bucket.digests()
    assert {key: found[key] for key in found if key in expected} == expected
    links = sum(path.is_symlink() for path in source.rglob("*"))
    assert sum(key.startswith("lib/") for key in found) == len(expected) + links
    _remount_cold(mount)
    _run("diff", "-r", source, mount.path / "lib")


def test_git(mount: Mount, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org")
    _run("git", "init", "-q", origin)
    for number in range(5):
        (origin / f"file-{number}").write_text(f"{number}\n" * 100)
        (origin / "all").open("a").write(f"{number}\n")
        _run("git", "add", "-A", cwd=origin)
        _run(*git, "commit", "-qm", f"number {number}", cwd=origin)
    clone = mount.path / "clone"
    _run("git", "clone", "-q", origin, clone)
    (clone / "all").open("a").write("edited\n")
    _run(*git, "commit", "-qam", "edit", cwd=clone)
    _run("git", "fsck", "--strict", cwd=clone)
    mount.flush()
    _remount_cold(mount)
    assert _run("git", "status", "--porcelain", cwd=clone) == ""
    assert len(_run("git", "log", "--oneline", cwd=clone).splitlines()) == 6
    _run("git", "gc", "-q", cwd=clone)
    _run("git", "fsck", "--strict", cwd=clone)


def test_rsync_transfers_nothing_the_second_time(mount: Mount) -> None:
    source = f"{Path(sysconfig.get_path('stdlib')) / 'json'}/"
    first = _run("rsync", "-a", "--stats", source, mount.path / "rsync")
    assert "Number of regular files transferred: 0" not in first
    second = _run("rsync", "-a", "--stats", source, mount.path / "rsync")
    assert "Number of regular files transferred: 0" in second


def test_tar_and_compileall(mount: Mount, tmp_path: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    _run("tar", "cf", tmp_path / "t.tar", "--exclude=__pycache__", "-C", library, "email")
    target = mount.path / "tar"
    target.mkdir()
    _run("tar", "xf", tmp_path / "t.tar", "-C", target)
    _run("diff", "-r", "--exclude=__pycache__", library / "email", target / "email")
    _run(sys.executable, "-m", "compileall", "-q", target)
    assert any(target.rglob("*.pyc"))


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite(mount: Mount, journal: str) -> None:
    path = mount.path / f"{journal}.sqlite"
    count = 1000 if LONG else 100
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("CREATE TABLE t (i INTEGER, x TEXT)")
    for number in range(count):
        connection.execute("INSERT INTO t VALUES (?, ?)", (number, "x" * 200))
        connection.commit()
    connection.close()
    mount.flush()
    _remount_cold(mount)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (count,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def _save_like_vim(path: Path, text: str) -> None:
    """vim with 'backup': the old file becomes a backup, a new one is written, fsynced."""
    backup = path.with_name(path.name + "~")
    swap = path.with_name(f".{path.name}.swp")
    swap.write_text("swap")
    path.rename(backup)
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    backup.unlink()
    swap.unlink()


def _save_like_libreoffice(path: Path, text: str) -> None:
    """A lock file beside it, a temporary file, renamed over the document."""
    lock = path.with_name(f".~lock.{path.name}#")
    lock.write_text("me")
    temporary = path.with_name("lu12345.tmp")
    temporary.write_text(text)
    shutil.copystat(path, temporary)
    temporary.rename(path)
    lock.unlink()


@pytest.mark.parametrize("save", [_save_like_vim, _save_like_libreoffice])
def test_atomic_saves_keep_one_object(mount: Mount, bucket: Bucket, save: Any) -> None:
    directory = mount.path / save.__name__.strip("_")
    directory.mkdir()
    document = directory / "document.txt"
    document.write_text("first")
    mount.flush()
    for number in range(5):
        save(document, f"version {number}")
    mount.flush()
    prefix = f"{directory.name}/"
    found = {key: value for key, value in bucket.digests().items() if key.startswith(prefix)}
    assert found == {f"{prefix}document.txt": hashlib.md5(b"version 4").hexdigest()}
    assert os.listdir(directory) == ["document.txt"]
