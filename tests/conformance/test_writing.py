"""put and abandon: what every backend promises of a write."""

import os

import pytest
import trio

from csyncfs.backends.base import Source
from csyncfs.errors import (
    Ambiguous,
    CsyncError,
    NotFound,
    Retry,
    Superseded,
    Unrepresentable,
    VersionMismatch,
)
from csyncfs.types import ABSENT, Expect, Kind, Location
from tests.conformance.mount import Mount, file_of, ignore, version, writing, yes

MIB = 1 << 20


def _bytes(size: int) -> bytes:
    return os.urandom(size)


async def no() -> bool:
    return False


@pytest.mark.parametrize("size", [0, 1, 4096, 20 * MIB + 3])
async def test_a_put_appears_with_its_bytes(mount: Mount, size: int) -> None:
    content = _bytes(size)
    put = await mount.put("dir/file", content)
    assert (put.location.key, put.kind, version(put).size) == ("dir/file", Kind.FILE, size)
    found = await mount.head("dir/file")
    assert (version(found).tag, version(found).size) == (version(put).tag, size)
    assert await mount.read("dir/file") == content
    assert await mount.names("dir/") == ["dir/file"]


async def test_a_put_reads_from_offset_0_and_leaves_the_descriptor_open(mount: Mount) -> None:
    with file_of(b"content") as fd:
        os.lseek(fd, 3, os.SEEK_SET)
        await mount.backend.put(
            Location("file"),
            Source(fd, 7, yes),
            writing(),
            ABSENT,
            resume=None,
            save_resume=ignore,
        )
        assert os.fstat(fd).st_size == 7
    assert await mount.read("file") == b"content"


@pytest.mark.parametrize("sizes", [(10, 3), (3, 10), (7, 0), (0, 7), (20 * MIB, 5)])
async def test_a_put_replaces_the_whole_content(mount: Mount, sizes: tuple[int, int]) -> None:
    before, after = _bytes(sizes[0]), _bytes(sizes[1])
    first = await mount.put("file", before)
    second = await mount.put("file", after, version(first))
    assert version(second).tag != version(first).tag
    assert await mount.read("file") == after


@pytest.mark.parametrize("size", [9, 20 * MIB])
async def test_an_item_expected_absent_is_not_overwritten(
    mount: Mount, other: Mount, size: int
) -> None:
    theirs = await other.put("file", b"theirs")
    with pytest.raises(VersionMismatch) as caught:
        await mount.put("file", _bytes(size), ABSENT)
    _is_current_or_unknown(caught.value, version(theirs).tag)
    assert await mount.read("file") == b"theirs"


@pytest.mark.parametrize("size", [9, 20 * MIB])
async def test_a_stale_version_is_not_overwritten(mount: Mount, other: Mount, size: int) -> None:
    base = await mount.put("file", b"base")
    theirs = await other.put("file", b"theirs", version(base))
    with pytest.raises(VersionMismatch) as caught:
        await mount.put("file", _bytes(size), version(base))
    _is_current_or_unknown(caught.value, version(theirs).tag)
    assert await mount.read("file") == b"theirs"


def _is_current_or_unknown(error: VersionMismatch, tag: str) -> None:
    if error.current is not None:
        assert version(error.current).tag == tag


async def test_a_version_that_is_gone_is_not_made_again(mount: Mount, other: Mount) -> None:
    base = await mount.put("file", b"base")
    await other.backend.delete(base.location, Kind.FILE, base.version)
    with pytest.raises(VersionMismatch) as caught:
        await mount.put("file", b"ours", version(base))
    assert caught.value.current is None
    with pytest.raises(NotFound):
        await mount.head("file")


@pytest.mark.parametrize("expects", ["absent", "version"])
async def test_of_eight_writers_at_once_one_wins(
    mount: Mount, other: Mount, expects: str, way: tuple[str, str]
) -> None:
    if way[0] == "moto":
        pytest.skip("moto compares and stores in two steps: it may let two writers through")
    expect: Expect = ABSENT
    if expects == "version":
        expect = version(await mount.put("file", b"base"))
    contents = [f"writer {number}".encode() * 1000 for number in range(8)]
    won: list[bytes] = []
    failed: list[CsyncError] = []

    async def write(number: int) -> None:
        content, stamp = contents[number], writing()
        while True:
            try:
                await (mount, other)[number % 2].put("file", content, expect, stamp=stamp)
            except CsyncError as exc:
                # As the journal does where the store decides nothing itself: ask anew.
                if isinstance(exc, (Ambiguous, Retry)) and not mount.can.conditional_put:
                    continue
                failed.append(exc)
            else:
                won.append(content)
            return

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(write, number)
    assert len(won) + len(failed) == 8
    assert {type(exc) for exc in failed} <= {VersionMismatch}
    kept = await mount.read("file")
    if mount.can.conditional_put:
        assert [kept] == won
    else:
        # Each looks afterwards whether it is still there; all may find somebody else's.
        assert kept in (won or contents)


@pytest.mark.parametrize("size", [9, 20 * MIB])
async def test_a_lost_reply_is_no_conflict_with_oneself(mount: Mount, size: int) -> None:
    mount.needs("keeps_attributes")
    content, stamp = _bytes(size), writing()
    first = await mount.put("file", content, ABSENT, stamp=stamp)
    again = await mount.put("file", content, ABSENT, stamp=stamp)
    assert version(again).tag == version(first).tag
    changed, edit = _bytes(size), writing()
    second = await mount.put("file", changed, version(first), stamp=edit)
    again = await mount.put("file", changed, version(first), stamp=edit)
    assert version(again).tag == version(second).tag
    assert await mount.read("file") == changed


async def test_an_old_put_id_does_not_excuse_a_conflict(mount: Mount, other: Mount) -> None:
    stamp = writing()
    first = await mount.put("file", b"ours", ABSENT, stamp=stamp)
    await other.put("file", b"theirs", version(first))
    with pytest.raises(VersionMismatch):
        await mount.put("file", b"ours", ABSENT, stamp=stamp)
    assert await mount.read("file") == b"theirs"


@pytest.mark.parametrize("size", [9, 20 * MIB])
async def test_a_superseded_put_commits_nothing(mount: Mount, size: int) -> None:
    base = await mount.put("old", b"base")
    states: list[str] = []
    with pytest.raises(Superseded):
        await mount.put("new", _bytes(size), confirm=no, save_resume=states.append)
    with pytest.raises(Superseded):
        await mount.put("old", _bytes(size), version(base), confirm=no)
    assert await mount.names() == ["old"]
    assert await mount.read("old") == b"base"
    if states:
        await mount.backend.abandon(states[-1])


@pytest.mark.parametrize("size", [9, 20 * MIB])
async def test_nothing_read_after_confirm_is_committed(mount: Mount, size: int) -> None:
    content = _bytes(size)
    with file_of(content) as fd:
        asked = 0

        async def confirm() -> bool:
            nonlocal asked
            asked += 1
            assert await mount.names() == []
            os.pwrite(fd, b"\0" * size, 0)
            os.ftruncate(fd, 0)
            return True

        await mount.backend.put(
            Location("file"),
            Source(fd, size, confirm),
            writing(),
            ABSENT,
            resume=None,
            save_resume=ignore,
        )
    assert asked == 1
    assert await mount.read("file") == content


async def test_a_put_whose_confirm_fails_commits_nothing(mount: Mount) -> None:
    async def crash() -> bool:
        raise Superseded("the store is gone")

    with pytest.raises(Superseded):
        await mount.put("file", b"content", confirm=crash)
    assert await mount.names() == []


async def test_a_cancelled_put_appears_completely_or_not_at_all(mount: Mount) -> None:
    content = _bytes(20 * MIB)
    with trio.CancelScope() as scope:

        async def confirm() -> bool:
            scope.cancel()
            await trio.lowlevel.checkpoint()
            return True

        await mount.put("file", content, confirm=confirm)
    assert scope.cancelled_caught
    assert await mount.names() == []
    # The same write again finds no trace of the first.
    await mount.put("file", content)
    assert await mount.read("file") == content


async def test_a_put_goes_on_where_it_was_interrupted(mount: Mount) -> None:
    content = _bytes(48 * MIB)
    whole: list[str] = []
    await mount.put("whole", content, save_resume=whole.append)
    if len(whole) < 3:
        pytest.skip(f"{mount.can.name} sends 48 MiB in fewer than three steps")
    states: list[str] = []
    stamp = writing()
    with trio.CancelScope() as scope:

        def stop(state: str) -> None:
            states.append(state)
            if len(states) == len(whole) // 2 + 1:
                scope.cancel()

        await mount.put("file", content, stamp=stamp, save_resume=stop)
    assert scope.cancelled_caught
    assert await mount.names() == ["whole"]
    more: list[str] = []
    await mount.put("file", content, stamp=stamp, resume=states[-1], save_resume=more.append)
    assert await mount.read("file") == content
    assert len(more) < len(whole)


async def test_a_stale_resume_starts_over(mount: Mount) -> None:
    content = _bytes(20 * MIB)
    states: list[str] = []
    await mount.put("file", content, save_resume=states.append)
    for state in states[-1:]:
        await mount.backend.abandon(state)
        await mount.put("again", content, resume=state)
        await mount.put("small", b"content", resume=state)
        assert await mount.read("again") == content
        assert await mount.read("small") == b"content"
    await mount.put("other", b"content", resume="{}")
    assert await mount.read("other") == b"content"


async def test_abandon_frees_and_nothing_to_free_is_no_error(mount: Mount) -> None:
    content = _bytes(20 * MIB)
    states: list[str] = []
    with trio.CancelScope() as scope:

        def stop(state: str) -> None:
            states.append(state)
            scope.cancel()

        await mount.put("file", content, save_resume=stop)
    if not states:
        assert await mount.read("file") == content
        pytest.skip(f"{mount.can.name} sends 20 MiB in one step")
    await mount.backend.abandon(states[-1])
    await mount.backend.abandon(states[-1])
    await mount.put("file", content, resume=states[-1])
    assert await mount.read("file") == content


async def test_a_parent_must_exist_where_directories_are_real(mount: Mount) -> None:
    mount.needs("real_dirs")
    await mount.put("file", b"")
    for key in ("missing/file", "file/below"):
        with pytest.raises(NotFound), file_of(b"content") as fd:
            await mount.backend.put(
                Location(key),
                Source(fd, 7, yes),
                writing(),
                ABSENT,
                resume=None,
                save_resume=ignore,
            )
    with pytest.raises(NotFound):
        await mount.backend.make_dir(Location("missing/dir/"), writing())


async def test_a_directory_in_the_way_is_a_mismatch(mount: Mount) -> None:
    mount.needs("real_dirs")
    await mount.backend.make_dir(Location("name/"), writing())
    with pytest.raises(VersionMismatch) as caught:
        await mount.put("name", b"content")
    assert caught.value.current is not None
    assert caught.value.current.kind is Kind.DIR


async def test_what_the_store_cannot_hold_is_said_at_once(mount: Mount) -> None:
    too_long: list[str] = []
    if mount.can.real_dirs:
        too_long.append("n" * (mount.can.max_name_bytes + 1))
    if mount.can.max_key_bytes:
        too_long.append("/".join(["d" * 200] * (mount.can.max_key_bytes // 200 + 1)))
    for key in too_long:
        with pytest.raises(Unrepresentable):
            await mount.put(key, b"content")
    # What is above it may be short enough.
    assert all(key.endswith("/") for key in await mount.names())
