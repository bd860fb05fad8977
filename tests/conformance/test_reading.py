"""connect, list_page, head, fetch: what every backend answers."""

import os

import pytest
import trio

from csyncfs.errors import BackendError, NotFound, VersionMismatch
from csyncfs.types import Attributes, Kind, Location, Span
from tests.conformance.factories import Store
from tests.conformance.mount import Mount, file_of, ignore, version, writing

MIB = 1 << 20
CONTENT = os.urandom(3 * MIB + 5)


async def test_connect_is_repeatable_and_finds_the_same(mount: Mount) -> None:
    await mount.put("file", b"content")
    assert await mount.backend.connect() == mount.can
    assert await mount.read("file") == b"content"


async def test_connect_says_why_it_cannot(store: Store, way: tuple[str, str]) -> None:
    if way[1] == "transfer":
        pytest.skip("the mounts that cannot connect are made directly")
    for error, make in store.broken.items():
        backend = await make()
        with pytest.raises(error) as caught:
            await backend.connect()
        assert "\n" not in str(caught.value)
        await backend.aclose()


async def test_a_listing_has_the_direct_children_once_per_kind(mount: Mount) -> None:
    for key in ("a", "b/one", "b/two", "b/c/deep", "d/e/f/deeper"):
        await mount.put(key, key.encode())
    listed = await mount.listed()
    assert sorted((i.location.key, i.kind) for i in listed) == [
        ("a", Kind.FILE),
        ("b/", Kind.DIR),
        ("d/", Kind.DIR),
    ]
    assert await mount.names("b/") == ["b/c/", "b/one", "b/two"]
    assert await mount.names("d/") == ["d/e/"]


async def test_a_listing_tells_the_versions_a_head_tells(mount: Mount) -> None:
    put = await mount.put("file", b"content")
    (listed,) = await mount.listed()
    assert version(listed).tag == version(put).tag == version(await mount.head("file")).tag
    assert version(listed).size == 7
    assert version(listed).mtime_ns > 0


async def test_what_a_listing_tells_of_attributes_is_what_a_head_tells(mount: Mount) -> None:
    mount.needs("keeps_attributes")
    attributes = Attributes(mode=0o100640, xattrs={"user.a": b"b"})
    await mount.put("file", b"content", stamp=writing(attributes))
    (listed,) = await mount.listed()
    if listed.attributes is not None:
        assert listed == await mount.head("file")


async def test_a_long_listing_comes_in_pages(mount: Mount) -> None:
    count = 1005
    await mount.parents("many/file")
    limiter = trio.CapacityLimiter(8)

    async def put(number: int) -> None:
        async with limiter:
            await mount.put(f"many/{number:05}", b"")

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(put, number)
    first = await mount.backend.list_page(Location("many/"), None)
    assert first.token is not None
    assert await mount.names("many/") == [f"many/{n:05}" for n in range(count)]
    # A token stays good while the directory changes, and shows nothing twice.
    gone = first.items[0]
    await mount.backend.delete(gone.location, Kind.FILE, gone.version)
    await mount.put("many/00000x", b"")
    rest = await mount.backend.list_page(Location("many/"), first.token)
    assert rest.token is None
    keys = [item.location.key for item in first.items + rest.items]
    expected = {f"many/{n:05}" for n in range(count)}
    assert expected <= set(keys)
    assert len(keys) == len(set(keys))


async def test_the_reserved_prefix_is_hidden_at_the_root_only(mount: Mount) -> None:
    await mount.put(".csyncfs/devices/desk", b"ours")
    await mount.put("a/.csyncfs/b", b"theirs")
    await mount.put(".csyncfsx", b"theirs")
    assert await mount.names() == [".csyncfsx", "a/"]
    assert await mount.names("a/") == ["a/.csyncfs/"]
    assert await mount.read(".csyncfs/devices/desk") == b"ours"


async def test_a_directory_does_not_list_itself(mount: Mount) -> None:
    await mount.backend.make_dir(Location("empty/"), writing())
    assert await mount.names() == ["empty/"]
    assert await mount.names("empty/") == []


async def test_a_directory_that_is_not_there(mount: Mount) -> None:
    await mount.put("file", b"")
    for key in ("missing/", "missing/deeper/"):
        if mount.can.real_dirs:
            with pytest.raises(NotFound):
                await mount.listed(key)
        else:
            assert await mount.listed(key) == []


async def test_a_file_and_a_prefix_of_the_same_name(mount: Mount) -> None:
    if mount.can.real_dirs:
        pytest.skip(f"{mount.can.name} declares real_dirs")
    await mount.put("name", b"file")
    try:
        await mount.put("name/child", b"child")
    except BackendError:
        # Some servers keep files below; then it must be refused, and the file intact.
        assert await mount.read("name") == b"file"
        assert await mount.names() == ["name"]
        return
    assert await mount.names() == ["name", "name/"]
    assert await mount.read("name") == b"file"
    assert await mount.read("name/child") == b"child"
    assert (await mount.head("name/", Kind.DIR)).kind is Kind.DIR


async def test_head_shows_what_put_made(mount: Mount) -> None:
    stamp = writing(Attributes(mode=0o100600))
    put = await mount.put("file", b"content", stamp=stamp)
    found = await mount.head("file")
    assert version(found).tag == version(put).tag
    assert (found.kind, found.location.key, version(found).size) == (Kind.FILE, "file", 7)
    assert found.attributes is not None
    if mount.can.keeps_attributes and found.put_id is not None:
        assert (found.put_id, found.device) == (stamp.put_id, "desk")
        assert put.put_id in {None, stamp.put_id}


async def test_the_put_id_is_visible_where_attributes_are_kept(mount: Mount) -> None:
    mount.needs("keeps_attributes")
    if any("xattrs" in warning for warning in mount.can.warnings):
        pytest.skip(f"{mount.can.name} warns that it keeps no xattrs")
    stamp = writing()
    await mount.put("file", b"content", stamp=stamp)
    found = await mount.head("file")
    assert (found.put_id, found.device) == (stamp.put_id, "desk")


async def test_head_of_what_is_not_there(mount: Mount) -> None:
    await mount.put("dir/file", b"")
    for key, kind in (
        ("missing", Kind.FILE),
        ("missing/", Kind.DIR),
        ("dir", Kind.FILE),
        ("dir/file/", Kind.DIR),
        ("dir/missing", Kind.FILE),
        ("missing/deeper", Kind.FILE),
        ("di", Kind.FILE),
        ("di/", Kind.DIR),
    ):
        with pytest.raises(NotFound):
            await mount.head(key, kind)


async def test_head_of_a_directory_that_is_only_a_prefix(mount: Mount) -> None:
    await mount.put("dir/sub/file", b"")
    found = await mount.head("dir/", Kind.DIR)
    assert (found.kind, found.location.key) == (Kind.DIR, "dir/")
    if not mount.can.real_dirs:
        assert (found.version, found.attributes) == (None, None)
    assert (await mount.head("", Kind.DIR)).kind is Kind.DIR


@pytest.mark.parametrize(
    "span",
    [
        Span(0, 1),
        Span(0, MIB),
        Span(MIB - 1, 2 * MIB + 1),
        Span(len(CONTENT) - 1, len(CONTENT)),
        Span(2 * MIB, len(CONTENT)),
        Span(0, len(CONTENT)),
        Span(5, 5),
    ],
    ids=lambda s: f"{s.start}-{s.end}",
)
async def test_fetch_writes_the_span_and_nothing_else(mount: Mount, span: Span) -> None:
    put = await mount.put("file", CONTENT)
    landed: list[Span] = []
    with file_of(b"x" * (len(CONTENT) + 1)) as fd:
        item = await mount.backend.fetch(Location("file"), span, fd, version(put), landed.append)
        got = os.pread(fd, len(CONTENT) + 1, 0)
    assert got[span.start : span.end] == CONTENT[span.start : span.end]
    assert set(got[: span.start] + got[span.end :]) <= {ord("x")}
    # Ascending, and together the span.
    at = span.start
    for piece in landed:
        assert piece.start == at
        at = piece.end
    assert at == span.end
    assert version(item).tag == version(put).tag
    assert item.attributes is not None


@pytest.mark.parametrize("start", [0, 4, 7, 100])
async def test_fetch_past_the_end_is_an_error(mount: Mount, start: int) -> None:
    put = await mount.put("file", b"content")
    landed: list[Span] = []
    with file_of() as fd:
        with pytest.raises(BackendError):
            await mount.backend.fetch(
                Location("file"), Span(start, start + 50), fd, version(put), landed.append
            )
        got = os.pread(fd, 200, 0)
    assert all(span.end <= 7 for span in landed)
    for span in landed:
        assert got[span.start : span.end] == b"content"[span.start : span.end]


async def test_fetch_of_another_version_gives_no_bytes(mount: Mount, other: Mount) -> None:
    put = await mount.put("file", b"before")
    await other.put("file", b"after!", version(put))
    landed: list[Span] = []
    with file_of(b"xxxxxx") as fd:
        with pytest.raises(VersionMismatch):
            await mount.backend.fetch(Location("file"), Span(0, 6), fd, version(put), landed.append)
        assert landed == []
        with pytest.raises(VersionMismatch):
            await mount.backend.fetch(Location("file"), Span(0, 0), fd, version(put), landed.append)


async def test_fetch_of_what_is_gone(mount: Mount) -> None:
    put = await mount.put("file", b"before")
    await mount.backend.delete(put.location, Kind.FILE, put.version)
    with file_of() as fd, pytest.raises(NotFound):
        await mount.backend.fetch(Location("file"), Span(0, 6), fd, version(put), ignore)


async def test_a_cancelled_fetch_writes_nothing_more(mount: Mount) -> None:
    content = os.urandom(20 * MIB)
    put = await mount.put("file", content)
    landed: list[Span] = []
    with file_of() as fd:
        with trio.CancelScope() as scope:

            def stop(span: Span) -> None:
                landed.append(span)
                scope.cancel()

            await mount.backend.fetch(
                Location("file"), Span(0, len(content)), fd, version(put), stop
            )
        count = len(landed)
        for span in landed:
            piece = os.pread(fd, span.size_bytes, span.start)
            assert piece == content[span.start : span.end]
        os.ftruncate(fd, 0)
        # As much again, so that a writer left behind has every opportunity.
        assert await mount.read("file", version(put)) == content
        assert os.fstat(fd).st_size == 0
        assert len(landed) == count


async def test_many_fetches_at_once(mount: Mount) -> None:
    put = await mount.put("file", CONTENT)
    with file_of() as fd:
        async with trio.open_nursery() as nursery:
            for start in range(0, len(CONTENT), MIB // 2):
                span = Span(start, min(start + MIB // 2, len(CONTENT)))
                nursery.start_soon(
                    mount.backend.fetch, Location("file"), span, fd, version(put), ignore
                )
        assert os.pread(fd, len(CONTENT) + 1, 0) == CONTENT


async def test_who_connects_again_disturbs_nobody(mount: Mount) -> None:
    content = b"content" * 1000
    put = await mount.put("file", content)
    is_over = False

    async def keep_looking() -> None:
        while not is_over:
            assert await mount.names() == ["file"]
            assert (await mount.head("file")).version == put.version

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(keep_looking)
        for _ in range(3):
            await trio.sleep(0.05)
            await mount.backend.connect()
        is_over = True
    assert (await mount.read("file")) == content
