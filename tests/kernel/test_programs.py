"""Ordinary programs work on a mount, and the store holds what they made of it.

All of them on S3; those whose ways of writing differ most on every other kind of store, too.

The short run copies a part of CPython's standard library and makes few transactions; CSYNCFS_LONG=1
all of it, and 1,000.
"""

import hashlib
import mmap
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.clouds import CLOUDS, Cloud
from tests.support.length import IS_LONG
from tests.support.mounts import Mount, mounting
from tests.support.trees import look, md5

_STDLIB = Path(sysconfig.get_path("stdlib"))
_FEW = ("json", "collections")
_PACKAGES = ("json", "email", "collections", "test/test_json")
# Not the user's own settings: the commands have to do the same everywhere.
_GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


class Desk:
    """A mounted store, and the store as an independent client sees it."""

    def __init__(self, mount: Mount, cloud: Cloud, packages: Sequence[str]) -> None:
        self.mount = mount
        self.packages = packages
        """As much of the library as the short run copies there."""
        self.path = mount.path
        self._cloud = cloud

    def names(self) -> set[str]:
        """Every file but what csyncfs keeps about directories; flushes first."""
        self.mount.flush()
        return self._cloud.names()

    def digests(self, keys: Iterable[str]) -> dict[str, str]:
        """The MD5 of each."""
        return {
            key: hashlib.md5(body, usedforsecurity=False).hexdigest()
            for key, body in self._cloud.bodies(keys).items()
        }

    def body(self, key: str) -> bytes:
        self.mount.flush()
        return self._cloud.bodies([key])[key]

    def remount_empty(self) -> None:
        """As on a machine that never saw the content."""
        self.mount.flush()
        assert self.mount.unmount() == 0
        self.mount.wipe_cache()
        self.mount.start()

    def run(self, *command: "str | Path", cwd: Path | None = None) -> str:
        done = subprocess.run(
            command,
            cwd=cwd or self.path,
            env={**os.environ, **_GIT},
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """On the store a test is parametrised with, SeaweedFS by default."""
    kind = getattr(request, "param", "seaweedfs")
    with CLOUDS[kind](request) as cloud:
        options = (*cloud.options, "upload_delay=0.2")
        with mounting(tmp_path / "m", cloud.spec, *options, env=dict(cloud.env)) as mount:
            yield Desk(mount, cloud, _PACKAGES if kind == "seaweedfs" else _FEW)


def on_clouds(*short: str) -> pytest.MarkDecorator:
    """Every kind of store, in the short run those named."""
    return pytest.mark.parametrize("desk", CLOUDS if IS_LONG else short, indirect=True)


def _copied_library(target: Path, packages: Sequence[str] = _PACKAGES) -> Path:
    """A real tree on a local disk: CPython's own, or a part of it."""
    if IS_LONG:
        ignore = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__")
        return Path(shutil.copytree(_STDLIB, target, symlinks=True, ignore=ignore))
    target.mkdir()
    for package in packages:
        shutil.copytree(_library(package), target / package, symlinks=True)
    return target


def _library(package: str) -> Path:
    """Some systems leave the library's tests out; then there is nothing of that name to copy."""
    found = _STDLIB / package
    return found if found.is_dir() else _STDLIB / "json"


def _repository(path: Path, desk: Desk) -> Path:
    """A local repository with some history, packed and loose objects, a branch and a tag."""
    path.mkdir()
    desk.run("git", "init", "-q", "-b", "main", cwd=path)
    for number in range(12):
        for name in (f"module{number}.py", "shared.py", f"sub/deep{number % 3}/x.txt"):
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as opened:
                opened.write(f"line {number} of {name}\n" * 50)
        desk.run("git", "add", "-A", cwd=path)
        desk.run("git", "commit", "-q", "-m", f"change {number}", cwd=path)
        if number == 6:
            desk.run("git", "gc", "-q", cwd=path)
            desk.run("git", "tag", "-a", "-m", "half", "half", cwd=path)
    desk.run("git", "branch", "side", "HEAD~3", cwd=path)
    return path


@on_clouds("seaweedfs", "azurite")
def test_git(desk: Desk, tmp_path: Path) -> None:
    origin = _repository(tmp_path / "origin", desk)
    clone = desk.path / "clone"
    desk.run("git", "clone", "-q", "--no-local", origin, clone)
    (clone / "shared.py").write_text("edited\n")
    (clone / "new.py").write_text("new\n")
    desk.run("git", "mv", "module3.py", "renamed.py", cwd=clone)
    desk.run("git", "add", "-A", cwd=clone)
    desk.run("git", "commit", "-q", "-m", "on the mount", cwd=clone)
    desk.run("git", "checkout", "-q", "-b", "topic", "origin/side", cwd=clone)
    desk.run("git", "merge", "-q", "-m", "merge", "main", cwd=clone)
    desk.run("git", "gc", "-q", cwd=clone)
    assert desk.run("git", "status", "--porcelain", cwd=clone) == ""
    desk.remount_empty()
    assert desk.run("git", "status", "--porcelain", cwd=clone) == ""
    desk.run("git", "fsck", "--full", "--strict", "--no-dangling", cwd=clone)
    assert desk.run("git", "log", "--oneline", "main", cwd=clone).count("\n") == 13
    desk.run("git", "push", "-q", "origin", "topic", cwd=clone)
    stray = [key for key in desk.names() if key.endswith(".lock") or "tmp_obj" in key]
    assert not stray


# Not on OneDrive, which keeps milliseconds of a time.
@pytest.mark.parametrize("desk", ["seaweedfs", "azurite"], indirect=True)
def test_rsync_transfers_nothing_the_second_time(desk: Desk, tmp_path: Path) -> None:
    source = _copied_library(tmp_path / "source")
    (source / "link").symlink_to("json")
    # rsync compares whole seconds only: of another one it has to carry the time over.
    os.utime(source / "link", ns=(1, 1_300_000_000_444_555_666), follow_symlinks=False)
    os.utime(source / "json" / "decoder.py", ns=(1, 1_400_000_000_111_222_333))
    command = ("rsync", "-a", "--itemize-changes", f"{source}/", f"{desk.path}/copy/")
    assert desk.run(*command).count("\n") > 100
    assert desk.run(*command) == ""
    assert look(desk.path / "copy") == look(source)
    desk.remount_empty()
    assert desk.run(*command) == ""
    assert not [key for key in desk.names() if "/." in key]


_BUILDS = """
set -e
for round in 1 2 3 4 5 6; do
    rm -rf build
    mkdir build
    cp -r "$SOURCE" build/json
    echo "$round" > build/stamp
    [ -d old ] && rm -rf old
    mv build old
    mkdir -p build/json
    cp old/stamp build/stamp
    echo "$round" > build/json/decoder.py
    mkdir wrap && mv build wrap/build && mv wrap build
    sleep 0.7
done
"""


def test_a_build_tree_is_removed_and_made_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again, faster than it can be uploaded, names changing places all the while."""
    monkeypatch.setenv("SOURCE", str(_STDLIB / "json"))
    desk.run("sh", "-c", _BUILDS, cwd=desk.path)
    here = {
        str(path.relative_to(desk.path)): path.read_bytes()
        for path in desk.path.rglob("*")
        if path.is_file()
    }
    assert here["build/build/json/decoder.py"] == here["old/stamp"] == b"6\n"
    assert desk.names() == set(here)
    assert all(desk.body(name) == content for name, content in here.items())
    desk.remount_empty()
    assert all((desk.path / name).read_bytes() == content for name, content in here.items())


def test_tar_and_compileall(desk: Desk, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for package in ("json", "email"):
        shutil.copytree(_STDLIB / package, source / package)
    archive = tmp_path / "archive.tar"
    desk.run("tar", "cf", archive, "-C", tmp_path, "source")
    desk.run("tar", "xpf", archive)
    assert look(desk.path / "source") == look(source)
    for compiled in (desk.path / "source").rglob("__pycache__"):
        shutil.rmtree(compiled)
    command = (sys.executable, "-m", "compileall", "-q", "source/json", "source/email")
    desk.run(*command)
    desk.run("tar", "cf", "again.tar", "source/json")
    desk.remount_empty()
    desk.run("tar", "df", "again.tar")
    compiled = sorted((desk.path / "source" / "json").rglob("*.pyc"))
    assert len(compiled) == len(list((source / "json").glob("*.py")))
    # Up to date in the eyes of the compiler: times and sizes are those it wrote down.
    before = [path.stat().st_mtime_ns for path in compiled]
    desk.run(*command)
    assert [path.stat().st_mtime_ns for path in compiled] == before


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite(desk: Desk, journal: str) -> None:
    path = desk.path / "data.db"
    with sqlite3.connect(path, isolation_level=None) as database:
        assert database.execute(f"PRAGMA journal_mode = {journal}").fetchone() == (journal,)
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB)")
        for number in range(1000 if IS_LONG else 250):
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO t (x) VALUES (?)", (os.urandom(200),))
            database.execute("UPDATE t SET x = zeroblob(100) WHERE id = ?", (number // 2,))
            database.execute("COMMIT")
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        digest = database.execute("SELECT count(*), sum(length(x)) FROM t").fetchone()
    database.close()
    assert desk.names() == {"data.db"}
    desk.remount_empty()
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*), sum(length(x)) FROM t").fetchone() == digest
    database.close()
    assert desk.names() == {"data.db"}


# -- saves as programs make them -------------------------------------------------------------------


def _save_like_vim(path: Path, text: str) -> None:
    """Swap file, probe for a writable directory, backup by rename, new file, backup away."""
    swap = path.with_name(f".{path.name}.swp")
    fd = os.open(swap, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, b"b0VIM" + bytes(4091))
    probe = path.with_name("4913")
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    os.chown(probe, path.stat().st_uid, path.stat().st_gid)
    os.unlink(probe)
    backup = path.with_name(f"{path.name}~")
    os.rename(path, backup)
    saved = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(saved, text.encode())
    os.fsync(saved)
    os.close(saved)
    os.chmod(path, backup.stat().st_mode & 0o7777)
    os.unlink(backup)
    os.close(fd)
    os.unlink(swap)


def _save_like_libreoffice(path: Path, text: str) -> None:
    """Lock file, the document copied away, a temporary file beside it renamed over it."""
    lock = path.with_name(f".~lock.{path.name}#")
    lock.write_text(",user,host,21.11.2026 12:00,file:///;")
    temporary = path.with_name("lu12345abcd.tmp")
    with temporary.open("xb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, path.stat().st_mode & 0o7777)
    os.rename(temporary, path)
    lock.unlink()


def _save_like_word(path: Path, text: str) -> None:
    """Two renames: the old file out of the way, the new one in; then the old one goes."""
    temporary, old = path.with_name("~WRD0001.tmp"), path.with_name("~WRL0002.tmp")
    temporary.write_text(text)
    os.chmod(temporary, path.stat().st_mode & 0o7777)
    os.rename(path, old)
    os.rename(temporary, path)
    os.unlink(old)


@on_clouds("seaweedfs", "azurite")
@pytest.mark.parametrize("save", [_save_like_vim, _save_like_libreoffice, _save_like_word])
def test_atomic_saves_leave_one_object(desk: Desk, save: object) -> None:
    document = desk.path / "document.odt"
    document.write_text("first")
    document.chmod(0o640)
    assert desk.names() == {"document.odt"}
    for number in range(12):
        assert callable(save)
        save(document, f"version {number}")
        assert document.read_text() == f"version {number}"
        if number % 4 == 3:
            assert desk.names() == {"document.odt"}
            assert desk.body("document.odt") == f"version {number}".encode()
    assert document.stat().st_mode & 0o7777 == 0o640
    assert desk.mount.admin("--json", "conflicts", "ls").strip() == "[]"
    desk.remount_empty()
    assert os.listdir(desk.path) == ["document.odt"]
    assert document.read_text() == "version 11"


@pytest.mark.skipif(not shutil.which("vim"), reason="vim is not installed")
def test_vim_itself(desk: Desk) -> None:
    document = desk.path / "notes.txt"
    document.write_text("one\ntwo\n")
    desk.mount.flush()
    for word in ("three", "four"):
        desk.run("vim", "-Nu", "NONE", "-es", "-c", f"normal Go{word}", "-c", "x", document)
    assert document.read_text() == "one\ntwo\nthree\nfour\n"
    assert desk.names() == {"notes.txt"}
    assert desk.body("notes.txt") == b"one\ntwo\nthree\nfour\n"


def test_a_program_writes_through_a_map(desk: Desk) -> None:
    path = desk.path / "mapped"
    program = (
        "import mmap,os,sys\nfd=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT)\n"
        "os.ftruncate(fd,4<<20)\nm=mmap.mmap(fd,0)\n"
        "for i in range(0,4<<20,4096): m[i:i+8]=i.to_bytes(8,'little')\n"
        "m.flush()\nm.close()\nos.close(fd)"
    )
    desk.run(sys.executable, "-c", program, path)
    expected = b"".join(i.to_bytes(8, "little") + bytes(4088) for i in range(0, 4 << 20, 4096))
    assert path.read_bytes() == expected
    assert desk.body("mapped") == expected
    desk.remount_empty()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == expected


# -- a real tree -----------------------------------------------------------------------------------


@on_clouds("seaweedfs", "onedrive")
def test_the_standard_library_arrives_whole_and_comes_back(desk: Desk, tmp_path: Path) -> None:
    source = _copied_library(tmp_path / "source", desk.packages)
    desk.run("cp", "-a", source, desk.path / "lib")
    desk.run("diff", "-r", "--no-dereference", source, "lib")
    wanted = {
        f"lib/{path.relative_to(source)}": md5(path)
        for path in source.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    links = {f"lib/{p.relative_to(source)}" for p in source.rglob("*") if p.is_symlink()}
    assert desk.names() == set(wanted) | links
    assert desk.digests(wanted) == wanted
    desk.remount_empty()
    desk.run("diff", "-r", "--no-dereference", source, "lib")
    assert look(desk.path / "lib") == look(source)
