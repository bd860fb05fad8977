"""The directory backend against programs that know nothing of csyncfs."""

import errno
import os
import socket
import stat
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from csyncfs.backends.base import Source
from csyncfs.backends.directory import DirectoryBackend, commit
from csyncfs.errors import (
    BackendError,
    NotFound,
    Offline,
    Unrepresentable,
    VersionMismatch,
)
from csyncfs.types import ABSENT, Attributes, Kind, Location, Span
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


def _save_over(path: Path, content: bytes) -> None:
    """What an editor does: write beside, rename over."""
    beside = path.with_name(path.name + ".editor")
    beside.write_bytes(content)
    beside.rename(path)


def _rewrite_with_old_mtime(path: Path) -> None:
    st = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


# Writers that come in between ---------------------------------------------------------


@pytest.mark.parametrize("how", ["rename", "in place"])
async def test_a_foreign_save_during_a_replace_survives(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    base = await mount.put("file", b"base")

    def save() -> None:
        if how == "rename":
            _save_over(root / "file", b"theirs")
        else:
            (root / "file").write_bytes(b"theirs")

    before(monkeypatch, "rename_exchange", save)
    with pytest.raises(VersionMismatch) as caught:
        await mount.put("file", b"ours", version(base))
    assert (root / "file").read_bytes() == b"theirs"
    assert caught.value.current is not None
    assert await mount.read("file", version(caught.value.current)) == b"theirs"


async def test_the_newest_of_two_foreign_saves_survives(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await mount.put("file", b"base")
    saves = iter([b"first", b"second", b"third"])
    real = commit.rename_exchange
    calls = 0

    def busy(*args: int | str) -> None:
        nonlocal calls
        calls += 1
        if (content := next(saves, None)) is not None:
            _save_over(root / "file", content)
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(commit, "rename_exchange", busy)
    with pytest.raises(VersionMismatch):
        await mount.put("file", b"ours", version(base))
    assert (root / "file").read_bytes() == b"third"
    assert calls >= 4


async def test_a_foreign_delete_after_a_foreign_save_brings_the_save_back(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await mount.put("file", b"base")
    before(monkeypatch, "rename_exchange", lambda: _save_over(root / "file", b"theirs"))
    before(monkeypatch, "rename_exchange", (root / "file").unlink, call=2)
    with pytest.raises(VersionMismatch):
        await mount.put("file", b"ours", version(base))
    assert (root / "file").read_bytes() == b"theirs"


async def test_a_file_deleted_during_a_replace_stays_deleted(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await mount.put("file", b"base")
    before(monkeypatch, "rename_exchange", (root / "file").unlink)
    with pytest.raises(VersionMismatch) as caught:
        await mount.put("file", b"ours", version(base))
    assert caught.value.current is None
    assert not (root / "file").exists()


async def test_a_store_that_never_rests_keeps_the_bytes_aside(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await mount.put("file", b"base")
    real = commit.rename_exchange
    count = 0

    def busy(*args: int | str) -> None:
        nonlocal count
        count += 1
        _save_over(root / "file", f"save {count}".encode())
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(commit, "rename_exchange", busy)
    with pytest.raises(BackendError):
        await mount.put("file", b"ours", version(base))
    (rescued,) = (root / ".csyncfs" / "tmp").iterdir()
    kept = {rescued.read_bytes(), (root / "file").read_bytes()}
    assert kept == {f"save {count}".encode(), f"save {count - 1}".encode()}
    await mount.backend.connect()
    assert rescued.exists()
    rescued.unlink()


async def test_an_error_in_the_middle_of_a_swap_deletes_nothing(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await mount.put("file", b"base")
    real = commit.rename_exchange
    calls = 0

    def failing(*args: int | str) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.EIO, "Input/output error")
        _save_over(root / "file", b"theirs")
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(commit, "rename_exchange", failing)
    with pytest.raises(Offline):
        await mount.put("file", b"ours", version(base))
    (held,) = (root / ".csyncfs" / "tmp").iterdir()
    assert {held.read_bytes(), (root / "file").read_bytes()} == {b"theirs", b"ours"}
    held.unlink()


async def test_a_foreign_save_during_a_delete_survives(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await mount.put("file", b"base")
    before(monkeypatch, "_rename", lambda: _save_over(root / "file", b"theirs"))
    with pytest.raises(VersionMismatch):
        await mount.backend.delete(Location("file"), Kind.FILE, version(base))
    assert (root / "file").read_bytes() == b"theirs"


@pytest.mark.parametrize("changed", ["source", "target"])
async def test_a_foreign_save_during_a_move_survives(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    source = await mount.put("source", b"source")
    target = await mount.put("target", b"target")
    before(monkeypatch, "rename_exchange", lambda: _save_over(root / changed, b"theirs"))
    with pytest.raises(VersionMismatch):
        await mount.backend.move(
            source.location, target.location, Kind.FILE, version(source), version(target)
        )
    found = {name: (root / name).read_bytes() for name in ("source", "target")}
    assert found == {"source": b"source", "target": b"target"} | {changed: b"theirs"}


async def test_a_foreign_save_during_a_move_to_a_free_name_stays(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await mount.put("source", b"source")
    before(monkeypatch, "rename_noreplace", lambda: _save_over(root / "source", b"theirs"))
    with pytest.raises(VersionMismatch):
        await mount.backend.move(
            source.location, Location("moved"), Kind.FILE, version(source), ABSENT
        )
    assert (root / "source").read_bytes() == b"theirs"
    assert not (root / "moved").exists()


async def test_what_a_foreign_program_writes_into_our_new_file_is_not_ours(
    mount: Mount, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = commit.rename_noreplace

    def then_written(*args: int | str) -> None:
        real(*args)  # type: ignore[arg-type]
        (root / "file").write_bytes(b"theirs")

    monkeypatch.setattr(commit, "rename_noreplace", then_written)
    put = await mount.put("file", b"ours")
    assert version(await mount.head("file")).tag != version(put).tag
    with pytest.raises(VersionMismatch):
        await mount.put("file", b"edit", version(put))
    assert (root / "file").read_bytes() == b"theirs"


async def test_a_write_in_place_during_a_fetch_is_noticed(mount: Mount, root: Path) -> None:
    put = await mount.put("file", b"a" * (64 * MIB))
    pieces: list[Span] = []
    with file_of() as fd:

        def write(span: Span) -> None:
            pieces.append(span)
            with (root / "file").open("r+b") as file:
                file.seek(63 * MIB)
                file.write(b"theirs")

        with pytest.raises(VersionMismatch):
            await mount.backend.fetch(Location("file"), Span(0, 64 * MIB), fd, version(put), write)
        assert pieces
        for span in pieces:
            assert set(os.pread(fd, span.size_bytes, span.start)) == {ord("a")}


@pytest.mark.parametrize(
    "change",
    [
        partial(Path.write_bytes, data=b"CONTENT"),
        partial(_save_over, content=b"CONTENT"),
        partial(Path.write_bytes, data=b"longer content"),
        _rewrite_with_old_mtime,
    ],
    ids=["in-place", "rename", "longer", "mtime-restored"],
)
async def test_every_foreign_change_changes_the_tag(
    mount: Mount, root: Path, change: Callable[[Path], object]
) -> None:
    put = await mount.put("file", b"content")
    change(root / "file")
    assert version(await mount.head("file")).tag != version(put).tag


async def test_a_directorys_tag_does_not_change_with_its_children(mount: Mount) -> None:
    made = await mount.backend.make_dir(Location("dir/"), writing())
    await mount.put("dir/file", b"")
    assert (await mount.head("dir/", Kind.DIR)).version == made.version


# Kinds --------------------------------------------------------------------------------


async def test_a_symlink_is_a_real_one(mount: Mount, root: Path) -> None:
    link = Attributes(mode=stat.S_IFLNK | 0o777)
    await mount.put("link", b"../target", stamp=writing(link))
    assert (root / "link").readlink() == Path("../target")
    (root / "theirs").symlink_to("/nowhere")
    found = await mount.head("theirs")
    assert found.kind is Kind.FILE
    assert found.attributes is not None
    assert stat.S_ISLNK(found.attributes.mode or 0)
    assert await mount.read("theirs") == b"/nowhere"


async def test_a_lost_reply_of_a_symlink_is_told_by_its_target(mount: Mount) -> None:
    link = writing(Attributes(mode=stat.S_IFLNK | 0o777, mtime_ns=10**18))
    first = await mount.put("link", b"target", stamp=link)
    again = await mount.put("link", b"target", stamp=link)
    assert version(again).tag == version(first).tag
    with pytest.raises(VersionMismatch):
        await mount.put("link", b"TARGET", stamp=link)


async def test_no_symlink_leads_out_of_the_root(mount: Mount, root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(outside)
    with pytest.raises(NotFound):
        await mount.head("link/secret")
    with pytest.raises(NotFound):
        await mount.listed("link/")
    with pytest.raises(NotFound), file_of(b"") as fd:
        await mount.backend.put(
            Location("link/new"), Source(fd, 0, yes), writing(), ABSENT,
            resume=None, save_resume=ignore,
        )  # fmt: skip
    assert [path.name for path in outside.iterdir()] == ["secret"]


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "./a", "a//b", "a/./b", "/"])
async def test_no_key_leads_out_of_the_root(mount: Mount, root: Path, key: str) -> None:
    (root / "a").mkdir()
    (root.parent / "outside").write_bytes(b"")
    with pytest.raises(Unrepresentable):
        await mount.head(key)


async def test_a_fifo_is_listed_and_never_opened(mount: Mount, root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    # An open for writing without waiting fails exactly while nobody has it open to read.
    (fifo, sock) = await mount.listed()
    for item, kind in ((fifo, stat.S_IFIFO), (sock, stat.S_IFSOCK)):
        assert item.kind is Kind.FILE
        assert version(item).size == 0
        assert item.attributes is not None
        assert stat.S_IFMT(item.attributes.mode or 0) == kind
        with trio.fail_after(5):
            assert await mount.read(item.location.key) == b""
            copied = await mount.backend.copy(
                item.location,
                Location("copy"),
                writing(item.attributes),
                version(item),
                ABSENT,
            )
            await mount.put("copy", b"file now", version(copied))
            await mount.backend.delete(Location("copy"), Kind.FILE, None)
            changed = await mount.backend.set_attributes(
                item.location, Kind.FILE, writing(Attributes(mode=kind | 0o600)), version(item)
            )
            await mount.put(item.location.key, b"file now", version(changed))
    assert (root / "fifo").read_bytes() == b"file now"


async def test_names_that_are_no_utf8_survive(mount: Mount, root: Path) -> None:
    raw = b"caf\xe9"
    (Path(os.fsdecode(os.fsencode(root) + b"/" + raw))).write_bytes(b"content")
    (item,) = await mount.listed()
    assert os.fsencode(item.location.key) == raw
    assert await mount.read(item.location.key) == b"content"


async def test_foreign_attributes_are_in_the_listing(mount: Mount, root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"content")
    path.chmod(0o640)
    os.utime(path, ns=(0, 1_234_567_890_987_654_321))
    os.setxattr(path, "user.theirs", b"value")
    (item,) = await mount.listed()
    assert item.attributes == Attributes(
        mode=stat.S_IFREG | 0o640,
        uid=os.getuid(),
        gid=os.getgid(),
        mtime_ns=1_234_567_890_987_654_321,
        xattrs={"user.theirs": b"value"},
    )
    assert (item.put_id, item.device) == (None, None)
    assert item == await mount.head("file")


async def test_a_path_longer_than_path_max_works(mount: Mount) -> None:
    key = "/".join(["d" * 200] * 30) + "/file"
    await mount.put(key, b"deep")
    assert await mount.read(key) == b"deep"


# Listing ------------------------------------------------------------------------------


async def test_a_listing_goes_on_in_another_process(mount: Mount, root: Path) -> None:
    for number in range(25):
        (root / f"{number:02}").touch()
    first = await mount.backend.list_page(Location(""), None)
    assert first.token is not None
    successor = DirectoryBackend(root, page_items=100)
    await successor.connect()
    rest = await successor.list_page(Location(""), first.token)
    keys = [item.location.key for item in first.items + rest.items]
    assert keys == [f"{number:02}" for number in range(25)]


async def test_a_listing_while_files_come_and_go(mount: Mount, root: Path) -> None:
    for number in range(25):
        (root / f"{number:02}").touch()
    first = await mount.backend.list_page(Location(""), None)
    for name in ("03", "15"):
        (root / name).unlink()
    (root / "00a").touch()
    seen = {item.location.key for item in first.items}
    token = first.token
    while token is not None:
        page = await mount.backend.list_page(Location(""), token)
        keys = {item.location.key for item in page.items}
        assert not keys & seen
        seen |= keys
        token = page.token
    assert seen - {"00a", "03"} == {f"{n:02}" for n in range(25)} - {"03", "15"}


# The root, and failures ---------------------------------------------------------------
