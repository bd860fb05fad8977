"""set_attributes, make_dir, copy, move, delete, space, aclose."""

import os

import pytest
import trio

from csyncfs.errors import CsyncError, NotFound, Unsupported, VersionMismatch
from csyncfs.types import ABSENT, Attributes, Kind, Location
from tests.conformance.mount import Mount, version, writing

MIB = 1 << 20
PRIVATE = Attributes(mode=0o100600, mtime_ns=1_600_000_000_123_456_789)


async def test_set_attributes_replaces_them_and_keeps_the_content(mount: Mount) -> None:
    mount.needs("keeps_attributes")
    put = await mount.put("file", b"content", stamp=writing(PRIVATE))
    new = Attributes(mode=0o100644, mtime_ns=1_500_000_000_000_000_001)
    changed = await mount.backend.set_attributes(
        put.location, Kind.FILE, writing(new), version(put)
    )
    found = await mount.head("file")
    assert version(found).tag == version(changed).tag
    assert found.attributes is not None
    assert (found.attributes.mode, found.attributes.mtime_ns) == (new.mode, new.mtime_ns)
    assert await mount.read("file", version(changed)) == b"content"


async def test_set_attributes_of_another_version(mount: Mount, other: Mount) -> None:
    mount.needs("keeps_attributes")
    base = await mount.put("file", b"base")
    await other.put("file", b"theirs", version(base), stamp=writing(PRIVATE))
    with pytest.raises(VersionMismatch):
        await mount.backend.set_attributes(
            base.location, Kind.FILE, writing(Attributes(mode=0o100777)), version(base)
        )
    found = await mount.head("file")
    assert found.attributes is not None
    assert found.attributes.mode == 0o100600
    await other.backend.delete(base.location, Kind.FILE, found.version)
    with pytest.raises((VersionMismatch, NotFound)):
        await mount.backend.set_attributes(base.location, Kind.FILE, writing(), version(base))
    assert await mount.names() == []


async def test_set_attributes_of_a_directory(mount: Mount) -> None:
    mount.needs("keeps_attributes")
    made = await mount.backend.make_dir(Location("dir/"), writing(Attributes(mode=0o40755)))
    await mount.put("dir/file", b"content")
    changed = await mount.backend.set_attributes(
        made.location, Kind.DIR, writing(Attributes(mode=0o40700)), version(made)
    )
    found = await mount.head("dir/", Kind.DIR)
    assert version(found).tag == version(changed).tag
    assert found.attributes is not None
    assert found.attributes.mode == 0o40700
    assert await mount.read("dir/file") == b"content"


async def test_make_dir_shows_up_empty_with_its_attributes(mount: Mount) -> None:
    made = await mount.backend.make_dir(Location("dir/"), writing(Attributes(mode=0o40750)))
    assert (made.location.key, made.kind) == ("dir/", Kind.DIR)
    assert await mount.names() == ["dir/"]
    assert await mount.names("dir/") == []
    found = await mount.head("dir/", Kind.DIR)
    assert version(found).tag == version(made).tag
    if mount.can.keeps_attributes:
        assert found.attributes is not None
        assert found.attributes.mode == 0o40750
    await mount.backend.make_dir(Location("dir/sub/"), writing())
    assert await mount.names("dir/") == ["dir/sub/"]


async def test_make_dir_of_one_that_exists_returns_it_as_it_is(mount: Mount) -> None:
    first = await mount.backend.make_dir(Location("dir/"), writing(Attributes(mode=0o40750)))
    again = await mount.backend.make_dir(Location("dir/"), writing(Attributes(mode=0o40700)))
    assert version(again).tag == version(first).tag
    if mount.can.keeps_attributes:
        assert again.attributes is not None
        assert again.attributes.mode == 0o40750


async def test_make_dir_of_a_prefix_makes_it_stay(mount: Mount) -> None:
    put = await mount.put("dir/file", b"")
    await mount.backend.make_dir(Location("dir/"), writing())
    await mount.backend.delete(put.location, Kind.FILE, put.version)
    assert await mount.names() == ["dir/"]


@pytest.mark.parametrize("size", [0, 9, 20 * MIB])
async def test_a_copy_has_the_content_and_new_attributes(mount: Mount, size: int) -> None:
    mount.needs("server_copy")
    content = os.urandom(size)
    put = await mount.put("file", content, stamp=writing(PRIVATE))
    stamp = writing(Attributes(mode=0o100644))
    copied = await mount.backend.copy(put.location, Location("copy"), stamp, version(put), ABSENT)
    assert (copied.location.key, version(copied).size) == ("copy", size)
    found = await mount.head("copy")
    assert version(found).tag == version(copied).tag
    if mount.can.keeps_attributes:
        assert found.attributes is not None
        assert found.attributes.mode == 0o100644
    assert await mount.read("copy") == content
    assert version(await mount.head("file")).tag == version(put).tag


async def test_a_copy_replaces_the_expected_target_only(mount: Mount, other: Mount) -> None:
    mount.needs("server_copy")
    source = await mount.put("file", b"source")
    target = await other.put("target", b"target")

    async def copy(expect: object) -> None:
        await mount.backend.copy(
            source.location,
            target.location,
            writing(),
            version(source),
            ABSENT if expect is ABSENT else version(target),
        )

    with pytest.raises(VersionMismatch):
        await copy(ABSENT)
    assert await mount.read("target") == b"target"
    await copy(target)
    assert await mount.read("target") == b"source"
    await other.put("target", b"theirs", version(await mount.head("target")))
    with pytest.raises(VersionMismatch):
        await copy(target)
    assert await mount.read("target") == b"theirs"


async def test_a_copy_of_another_version_or_of_nothing(mount: Mount, other: Mount) -> None:
    mount.needs("server_copy")
    base = await mount.put("file", b"base")
    theirs = await other.put("file", b"theirs", version(base))
    with pytest.raises(VersionMismatch) as caught:
        await mount.backend.copy(base.location, Location("copy"), writing(), version(base), ABSENT)
    assert caught.value.current is None
    await other.backend.delete(base.location, Kind.FILE, theirs.version)
    with pytest.raises((NotFound, VersionMismatch)):
        await mount.backend.copy(
            base.location, Location("copy"), writing(), version(theirs), ABSENT
        )
    assert await mount.names() == []


async def test_a_copy_whose_reply_was_lost_is_no_conflict(mount: Mount) -> None:
    mount.needs("server_copy")
    mount.needs("keeps_attributes")
    put = await mount.put("file", b"content")
    stamp = writing()
    first = await mount.backend.copy(put.location, Location("copy"), stamp, version(put), ABSENT)
    again = await mount.backend.copy(put.location, Location("copy"), stamp, version(put), ABSENT)
    assert version(again).tag == version(first).tag


async def test_move_is_refused_where_it_is_not_declared(mount: Mount) -> None:
    if mount.can.move_file:
        pytest.skip(f"{mount.can.name} declares move_file")
    put = await mount.put("file", b"content")
    with pytest.raises(Unsupported):
        await mount.backend.move(put.location, Location("moved"), Kind.FILE, version(put), ABSENT)
    assert await mount.names() == ["file"]


async def test_a_moved_file_has_its_bytes_and_attributes(mount: Mount) -> None:
    mount.needs("move_file")
    put = await mount.put("a/file", b"content", stamp=writing(PRIVATE))
    await mount.put("b/keep", b"")
    moved = await mount.backend.move(
        put.location, Location("b/moved"), Kind.FILE, version(put), ABSENT
    )
    found = await mount.head("b/moved")
    assert version(found).tag == version(moved).tag
    assert found.attributes is not None
    if mount.can.keeps_attributes:
        assert found.attributes.mode == 0o100600
    assert await mount.names("a/") == []
    assert await mount.names("b/") == ["b/keep", "b/moved"]
    assert await mount.read("b/moved") == b"content"


async def test_a_move_replaces_the_expected_target_only(mount: Mount, other: Mount) -> None:
    mount.needs("move_file")
    source = await mount.put("file", b"source")
    target = await other.put("target", b"target")
    with pytest.raises(VersionMismatch) as caught:
        await mount.backend.move(
            source.location, target.location, Kind.FILE, version(source), ABSENT
        )
    assert caught.value.current is not None
    newer = await other.put("target", b"newer", version(target))
    with pytest.raises(VersionMismatch):
        await mount.backend.move(
            source.location, target.location, Kind.FILE, version(source), version(target)
        )
    assert await mount.read("file") == b"source"
    assert await mount.read("target") == b"newer"
    source = await mount.head("file")
    await mount.backend.move(
        source.location, target.location, Kind.FILE, version(source), version(newer)
    )
    assert await mount.names() == ["target"]
    assert await mount.read("target") == b"source"


async def test_a_move_of_another_version_or_of_nothing(mount: Mount, other: Mount) -> None:
    mount.needs("move_file")
    base = await mount.put("file", b"base")
    await other.put("file", b"theirs", version(base))
    with pytest.raises(VersionMismatch) as caught:
        await mount.backend.move(base.location, Location("moved"), Kind.FILE, version(base), ABSENT)
    assert caught.value.current is None
    assert await mount.read("file") == b"theirs"
    with pytest.raises(NotFound):
        await mount.backend.move(Location("missing"), Location("moved"), Kind.FILE, None, ABSENT)
    assert await mount.names() == ["file"]


async def test_a_moved_tree_keeps_everything_below(mount: Mount) -> None:
    mount.needs("move_tree")
    for number in range(5):
        await mount.put(f"a/b/c{number}/file", str(number).encode())
    await mount.put("target/file", b"")
    with pytest.raises(VersionMismatch):
        await mount.backend.move(Location("a/"), Location("target/"), Kind.DIR, None, ABSENT)
    moved = await mount.backend.move(
        Location("a/b/"), Location("target/moved/"), Kind.DIR, None, ABSENT
    )
    assert (moved.location.key, moved.kind) == ("target/moved/", Kind.DIR)
    assert await mount.names("a/") == []
    for number in range(5):
        assert await mount.read(f"target/moved/c{number}/file") == str(number).encode()


async def test_delete_removes_the_expected_version_only(mount: Mount, other: Mount) -> None:
    base = await mount.put("file", b"base")
    theirs = await other.put("file", b"theirs", version(base))
    with pytest.raises(VersionMismatch):
        await mount.backend.delete(base.location, Kind.FILE, version(base))
    assert await mount.read("file") == b"theirs"
    await mount.backend.delete(base.location, Kind.FILE, version(theirs))
    assert await mount.names() == []


async def test_delete_of_whatever_version_and_of_nothing(mount: Mount) -> None:
    put = await mount.put("file", b"content")
    await mount.backend.delete(put.location, Kind.FILE, None)
    assert await mount.names() == []
    await mount.backend.delete(put.location, Kind.FILE, None)
    await mount.backend.delete(put.location, Kind.FILE, version(put))
    await mount.backend.delete(Location("missing/file"), Kind.FILE, version(put))
    await mount.backend.delete(Location("missing/"), Kind.DIR, None)


async def test_a_delete_against_a_write_loses_nothing(mount: Mount, other: Mount) -> None:
    mount.needs("conditional_put")
    mount.needs("conditional_delete")
    base = version(await mount.put("file", b"base"))
    results: dict[str, CsyncError | None] = {}

    async def write() -> None:
        try:
            await other.put("file", b"theirs", base)
        except CsyncError as exc:
            results["write"] = exc
        else:
            results["write"] = None

    async def delete() -> None:
        try:
            await mount.backend.delete(Location("file"), Kind.FILE, base)
        except CsyncError as exc:
            results["delete"] = exc
        else:
            results["delete"] = None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(delete)
    # One of the two came first, and the other one was told.
    if results["write"] is None:
        assert await mount.read("file") == b"theirs"
    else:
        assert isinstance(results["write"], VersionMismatch)
        assert results["delete"] is None
        assert await mount.names() == []


async def test_delete_of_a_directory(mount: Mount) -> None:
    await mount.backend.make_dir(Location("dir/"), writing())
    await mount.backend.delete(Location("dir/"), Kind.DIR, None)
    assert await mount.names() == []
    with pytest.raises(NotFound):
        await mount.head("dir/", Kind.DIR)
    made = await mount.backend.make_dir(Location("dir/"), writing())
    await mount.backend.delete(Location("dir/"), Kind.DIR, made.version)
    assert await mount.names() == []


async def test_delete_of_a_directory_keeps_what_is_in_it(mount: Mount) -> None:
    await mount.backend.make_dir(Location("dir/"), writing())
    await mount.put("dir/file", b"content")
    if mount.can.real_dirs:
        with pytest.raises(VersionMismatch):
            await mount.backend.delete(Location("dir/"), Kind.DIR, None)
        assert (await mount.head("dir/", Kind.DIR)).version is not None
    else:
        await mount.backend.delete(Location("dir/"), Kind.DIR, None)
        assert (await mount.head("dir/", Kind.DIR)).version is None
    assert await mount.read("dir/file") == b"content"


async def test_space_is_told_or_unknown(mount: Mount) -> None:
    space = await mount.backend.space()
    if space is not None:
        assert 0 <= space.free_bytes <= space.total_bytes


async def test_closing_twice_is_no_error(mount: Mount) -> None:
    await mount.put("file", b"content")
    await mount.backend.aclose()
    await mount.backend.aclose()
