"""Access control lists on real mounts: the kernel enforces them, here and on other mounts."""

import errno
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from csyncfs import acl
from tests.support.calls import refuses
from tests.support.mounts import Mount, mounting, wait_until
from tests.support.servers import S3Server

_BOB, _TEAM = 12345, 23456


@pytest.fixture(scope="module", params=["directory", "seaweedfs"])
def shared(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[Mount, Callable[[], Mount]]]:
    """A mount, and what makes another one of the same store."""
    # Not below pytest's own directory, which lets nobody else in.
    with tempfile.TemporaryDirectory(prefix="csyncfs-lists-") as name:
        home = Path(name)
        home.chmod(0o755)
        with _two_mounts(request, home) as made:
            yield made


@contextmanager
def _two_mounts(
    request: pytest.FixtureRequest, home: Path
) -> Generator[tuple[Mount, Callable[[], Mount]]]:
    options, env = ["allow_other", "upload_delay=0.2", "refresh=1"], {}
    if request.param == "directory":
        (home / "store").mkdir()
        spec = f"file://{home}/store"
    else:
        server: S3Server = request.getfixturevalue("seaweedfs")
        spec = f"s3://{server.make_bucket()}"
        options.append(f"endpoint={server.endpoint_url}")
        env = dict(server.environment())
    with (
        mounting(home / "a", spec, *options, "device=anna", env=env) as mount,
        mounting(home / "b", spec, *options, "device=ben", env=env, start=False) as other,
    ):
        mount.path.chmod(0o755)

        def second() -> Mount:
            return other if other.process is not None else other.start()

        yield mount, second


@pytest.fixture
def mount(shared: tuple[Mount, Callable[[], Mount]]) -> Mount:
    return shared[0]


def _setfacl(*words: "str | Path") -> None:
    subprocess.run(["setfacl", *words], check=True, capture_output=True)


def _getfacl(path: Path) -> list[str]:
    command = ["getfacl", "--omit-header", "--numeric", "--absolute-names", "--no-effective", path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.split()


def _may(path: Path, access: str, *, uid: int = _BOB, gid: int = _BOB) -> bool:
    """Whether somebody else may really do it; access(2) is asked, and open(2)."""
    tests = {"r": ["cat", path], "w": ["dd", "if=/dev/null", f"of={path}", "conv=notrunc"]}
    done = subprocess.run(
        tests[access], user=uid, group=gid, extra_groups=[], check=False, capture_output=True
    )
    return done.returncode == 0


def test_named_users_and_groups_get_what_the_list_says(mount: Mount) -> None:
    path = mount.path / "named"
    path.write_bytes(b"x")
    path.chmod(0o600)
    assert not _may(path, "r")
    _setfacl("-m", f"u:{_BOB}:r,g:{_TEAM}:rw", path)
    assert _may(path, "r")
    assert not _may(path, "w")
    assert _may(path, "w", uid=_BOB + 1, gid=_TEAM)
    assert not _may(path, "r", uid=_BOB + 1)
    assert _getfacl(path) == [
        *("user::rw-", f"user:{_BOB}:r--", "group::---", f"group:{_TEAM}:rw-"),
        *("mask::rw-", "other::---"),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    _setfacl("-b", path)
    assert not _may(path, "r")
    assert _getfacl(path) == ["user::rw-", "group::---", "other::---"]
    assert os.listxattr(path) == []


def test_chmod_changes_the_mask(mount: Mount) -> None:
    path = mount.path / "mask"
    path.write_bytes(b"x")
    _setfacl("-m", f"u:{_BOB}:rw", path)
    assert _may(path, "w")
    path.chmod(0o640)
    assert _may(path, "r")
    assert not _may(path, "w")
    assert "mask::r--" in _getfacl(path)
    assert f"user:{_BOB}:rw-" in _getfacl(path)
    path.chmod(0o600)
    assert not _may(path, "r")
    assert "mask::---" in _getfacl(path)


def test_a_list_that_a_mode_can_say_is_a_mode(mount: Mount) -> None:
    path = mount.path / "minimal"
    path.touch()
    _setfacl("--set", "u::rw,g::r,o::-", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listxattr(path) == []


def test_what_is_made_inherits_the_default_and_not_the_umask(mount: Mount) -> None:
    top = mount.path / "default"
    top.mkdir()
    _setfacl("-d", "-m", f"u::rwx,g::rx,o::-,g:{_TEAM}:rwx", top)
    old = os.umask(0o077)
    try:
        (top / "file").touch()
        (top / "private").touch(0o600)
        (top / "dir").mkdir()
        os.mkfifo(top / "fifo", 0o666)
        (top / "link").symlink_to("file")
        (mount.path / "without").touch()
    finally:
        os.umask(old)
    assert stat.S_IMODE((top / "file").stat().st_mode) == 0o660
    assert _may_write_as_team(top / "file")
    assert stat.S_IMODE((top / "private").stat().st_mode) == 0o600
    assert not _may_write_as_team(top / "private")
    assert stat.S_IMODE((top / "fifo").stat().st_mode) == 0o660
    assert stat.S_IMODE((top / "dir").stat().st_mode) == 0o770
    assert "default:mask::rwx" in _getfacl(top / "dir")
    assert f"group:{_TEAM}:rwx" in _getfacl(top / "dir")
    (top / "dir" / "deeper").touch(0o666)
    assert f"group:{_TEAM}:rwx" in _getfacl(top / "dir" / "deeper")
    assert stat.S_IMODE((mount.path / "without").stat().st_mode) == 0o600
    _setfacl("-k", top)
    (top / "after").touch()
    assert f"group:{_TEAM}:rwx" not in _getfacl(top / "after")


def _may_write_as_team(path: Path) -> bool:
    # The directory itself lets nobody else in.
    path.parent.chmod(0o755)
    return _may(path, "w", uid=_BOB + 1, gid=_TEAM)


def test_what_must_be_refused(mount: Mount) -> None:
    path = mount.path / "refused"
    path.touch()
    path.chmod(0o666)
    name = acl.ACCESS.decode()
    refuses(errno.EINVAL, os.setxattr, path, name, acl.encode(_TWO[1:]))
    refuses(errno.EACCES, os.setxattr, path, acl.DEFAULT.decode(), acl.encode(_TWO))
    for foreign in ("trusted.x", "security.x"):
        refuses(errno.EOPNOTSUPP, os.setxattr, path, foreign, b"")
    command = ["setfacl", "-m", f"u:{_BOB}:rw", path]
    done = subprocess.run(command, user=_BOB, group=_BOB, check=False, capture_output=True)
    assert done.returncode != 0
    assert os.listxattr(path) == []


_TWO = (acl.Entry(acl.USER_OBJ, 6), acl.Entry(acl.GROUP_OBJ, 6), acl.Entry(acl.OTHER, 6))


def test_setgid_goes_when_a_stranger_to_the_group_sets_a_list(mount: Mount) -> None:
    path = mount.path / "setgid"
    path.touch()
    os.chown(path, _BOB, _TEAM)
    for bits, groups, stays in (("rw", [_TEAM], True), ("rwx", [], False)):
        path.chmod(0o2771)
        command = ["setfacl", "-m", f"u:{_BOB + 1}:{bits}", path]
        subprocess.run(command, user=_BOB, group=_BOB, extra_groups=groups, check=True)
        assert bool(path.stat().st_mode & stat.S_ISGID) == stays


def test_lists_survive_a_remount_and_count_on_another_mount(
    shared: tuple[Mount, Callable[[], Mount]],
) -> None:
    mount, second = shared
    path, directory = mount.path / "kept", mount.path / "kept.d"
    path.write_bytes(b"x")
    path.chmod(0o600)
    directory.mkdir()
    _setfacl("-m", f"u:{_BOB}:r", path)
    _setfacl("-m", f"d:u:{_BOB}:rwx,u:{_BOB}:rx", directory)
    masked = directory / "masked"
    masked.touch()
    _setfacl("-m", f"u:{_BOB}:rw", masked)
    masked.chmod(0o640)
    lists = _getfacl(path), _getfacl(directory), _getfacl(masked)
    mount.flush()
    other = second()
    there, directory_there = other.path / "kept", other.path / "kept.d"
    wait_until(lambda: there.exists() and _getfacl(there) == lists[0], "the file's list")
    wait_until(lambda: _getfacl(directory_there) == lists[1], "the directory's list")
    wait_until(lambda: _getfacl(directory_there / "masked") == lists[2], "the masked list")
    assert _may(there, "r")
    assert not _may(there, "w")
    # A change there is one here, also one that leaves the mode as it is, and so is the end.
    _setfacl("-m", f"u:{_BOB}:-,u:{_BOB + 1}:r", there)
    other.flush()
    mount.refresh_wait(lambda: f"user:{_BOB + 1}:r--" in _getfacl(path), "the change")
    assert not _may(path, "r")
    # Nothing but the time of an object tells of new attributes, and S3 counts it in seconds.
    time.sleep(1.1)
    _setfacl("-b", there)
    other.flush()
    mount.refresh_wait(lambda: "mask::r--" not in _getfacl(path), "the end of the list")
    assert os.listxattr(path) == []
    assert mount.unmount() == 0
    mount.wipe_cache()
    mount.start()
    assert _getfacl(directory) == lists[1]


def test_without_permission_checks_of_the_kernel_there_are_no_lists(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with mounting(tmp_path / "m", f"file://{tmp_path}/store", "nodefault_permissions") as mount:
        path = mount.path / "f"
        path.touch()
        refuses(errno.EOPNOTSUPP, os.setxattr, path, acl.ACCESS.decode(), acl.encode(_TWO))
