"""The directory backend on bad days: missing roots, odd file systems, what a crash left."""

import errno
import json
import os
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio

from csyncfs.backends.base import Source
from csyncfs.backends.directory import DirectoryBackend, commit, temps, tree
from csyncfs.errors import (
    AccessDenied,
    BackendError,
    NoSuchStore,
    Offline,
    QuotaExceeded,
    Superseded,
    Unrepresentable,
)
from csyncfs.types import ABSENT, Attributes, Kind, Location
from tests.conformance.mount import Mount, file_of, ignore, version, writing, yes
from tests.support.directory import before

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
async def mount(root: Path) -> AsyncGenerator[Mount, None]:
    backend = DirectoryBackend(root, page_items=10, resume_bytes=2 * MIB)
    yield Mount(backend, await backend.connect())
    leftovers = root / ".csyncfs" / "tmp"
    if leftovers.is_dir():
        assert list(leftovers.iterdir()) == []


async def test_an_unmounted_root_is_no_empty_store(mount: Mount, root: Path) -> None:
    await mount.put("file", b"content")
    away = root.rename(root.with_name("away"))
    with pytest.raises(NoSuchStore):
        await mount.listed()
    root.mkdir()
    for attempt in (mount.listed, lambda: mount.head("file"), mount.backend.connect):
        with pytest.raises(NoSuchStore):
            await attempt()
    # A later process knows it from the memo.
    memo = mount.backend.memo if isinstance(mount.backend, DirectoryBackend) else None
    successor = DirectoryBackend(root)
    successor.memo = memo
    with pytest.raises(NoSuchStore):
        await successor.connect()
    assert list(root.iterdir()) == []
    root.rmdir()
    away.rename(root)
    assert await mount.names() == ["file"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, QuotaExceeded),
        (errno.EDQUOT, QuotaExceeded),
        (errno.EACCES, AccessDenied),
        (errno.EROFS, AccessDenied),
        (errno.ESTALE, Offline),
        (errno.EIO, Offline),
        (errno.ENOTCONN, Offline),
        (errno.EFBIG, Unrepresentable),
    ],
)
async def test_what_the_file_system_says_has_its_domain_error(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, code: int, error: type[BackendError]
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", fail)
    with pytest.raises(error) as caught:
        await mount.put("file", b"content")
    assert str(caught.value) == f"{os.strerror(code)}: 'file'"
    assert await mount.names() == []


async def test_bytes_are_copied_where_the_kernel_cannot(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", cannot)
    content = os.urandom(3 * MIB + 1)
    await mount.put("file", content)
    assert await mount.read("file") == content


async def test_a_source_that_became_shorter_is_superseded(mount: Mount) -> None:
    with file_of(b"short") as fd, pytest.raises(Superseded):
        await mount.backend.put(
            Location("file"), Source(fd, 5 * MIB, yes), writing(), ABSENT,
            resume=None, save_resume=ignore,
        )  # fmt: skip
    assert await mount.names() == []


async def test_a_readonly_root_can_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").write_bytes(b"content")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refuse)
    backend = DirectoryBackend(root)
    mount = Mount(backend, await backend.connect())
    assert any("read-only" in warning for warning in mount.can.warnings)
    assert await mount.read("file") == b"content"
    base = version(await mount.head("file"))
    with pytest.raises(AccessDenied):
        await mount.put("new", b"content")
    with pytest.raises(AccessDenied):
        await mount.put("file", b"content", base)
    with pytest.raises(AccessDenied):
        await mount.backend.delete(Location("file"), Kind.FILE, base)
    assert (root / "file").read_bytes() == b"content"


async def test_a_file_system_without_exchange_is_warned_about(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(commit, "rename_exchange", cannot)
    can = await DirectoryBackend(root).connect()
    assert not can.conditional_put
    assert any("exchange" in warning for warning in can.warnings)


# Unfinished items ---------------------------------------------------------------------


async def test_a_resumed_put_copies_only_the_rest(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(9 * MIB)
    states: list[str] = []
    with trio.CancelScope() as scope:

        def stop(state: str) -> None:
            states.append(state)
            scope.cancel()

        await mount.put("file", content, save_resume=stop)
    assert scope.cancelled_caught
    done = json.loads(states[-1])["done"]
    copied: list[int] = []
    real = os.copy_file_range

    def counting(source: int, target: int, count: int, at: int, to: int) -> int:
        copied.append(at)
        return real(source, target, count, at, to)

    monkeypatch.setattr(os, "copy_file_range", counting)
    await mount.put("file", content, resume=states[-1])
    assert min(copied) == done
    assert await mount.read("file") == content


async def test_a_finished_temp_item_of_an_interrupted_put_is_used_again(mount: Mount) -> None:
    content = os.urandom(9 * MIB)
    stamp = writing(Attributes(mode=0o100400))
    states: list[str] = []
    with trio.CancelScope() as scope:

        async def stop() -> bool:
            scope.cancel()
            await trio.lowlevel.checkpoint()
            return True

        await mount.put("file", content, stamp=stamp, confirm=stop, save_resume=states.append)
    assert scope.cancelled_caught
    more: list[str] = []
    await mount.put("file", content, stamp=stamp, resume=states[-1], save_resume=more.append)
    assert more == []
    assert await mount.read("file") == content


async def test_a_put_cancelled_in_its_commit_leaves_nothing_to_resume(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(9 * MIB)
    states: list[str] = []
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        before(monkeypatch, "rename_noreplace", lambda: token.run_sync_soon(scope.cancel))
        await mount.put("file", content, save_resume=states.append)
    await mount.put("again", content, resume=states[-1])
    assert (root / "again").read_bytes() == content
    if (root / "file").exists():
        assert (root / "file").read_bytes() == content


async def test_what_a_crash_left_is_swept_after_a_week(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = root / ".csyncfs" / "tmp"
    old, swapped = place / temps.new_name(), place / f"swap-{temps.new_name()}"
    for path in (old, swapped):
        path.write_bytes(b"bytes")
    await mount.backend.connect()
    assert old.exists()
    real = tree.lstat

    class LaterStat:
        """The same file a week ago."""

        def __init__(self, st: os.stat_result) -> None:
            self.st_mode, self.st_ino = st.st_mode, st.st_ino
            self.st_ctime_ns = st.st_ctime_ns - 8 * 24 * 3600 * 10**9

    def a_week_ago(directory: int, name: str) -> LaterStat:
        return LaterStat(real(directory, name))

    monkeypatch.setattr(temps, "lstat", a_week_ago)
    await mount.backend.connect()
    assert not old.exists()
    assert swapped.exists()
    swapped.unlink()


async def test_the_reserved_directory_serves_several_users(mount: Mount, root: Path) -> None:
    await mount.put("file", b"")
    for name in ("tmp", "locks"):
        assert stat.S_IMODE((root / ".csyncfs" / name).stat().st_mode) == 0o1777
    base = await mount.head("file")
    await mount.put("file", b"changed", version(base))
    for lock in (root / ".csyncfs" / "locks").iterdir():
        assert stat.S_IMODE(lock.stat().st_mode) == 0o666


async def test_a_directory_without_write_permission_can_be_made(mount: Mount, root: Path) -> None:
    await mount.backend.make_dir(Location("dir/"), writing(Attributes(mode=0o40555)))
    assert stat.S_IMODE((root / "dir").stat().st_mode) == 0o555
