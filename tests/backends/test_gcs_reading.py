"""Content and listings on GCS: checksums, conditions, names, markers, pages."""

import gzip
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from csyncfs.backends.gcs import GcsBackend, GcsOptions, looking, spelling
from csyncfs.errors import NotFound, Retry, Unrepresentable, VersionMismatch
from csyncfs.types import ABSENT, Attributes, Item, Kind, Location, RemoteVersion, Span
from tests.support.gcs import Bucket, FakeGcs, connected, options_for
from tests.support.uploads import Content, put, writing

MIB = 1 << 20
FILE = Location("file")
Make = Callable[[bytes], Content]


@pytest.fixture
def fd() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def version(item: Item) -> RemoteVersion:
    assert item.version is not None
    return item.version


# -- content --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_composite", [False, True])
async def test_small_content_that_arrives_damaged_is_not_announced(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, fd: int, is_composite: bool
) -> None:
    """By the CRC32C: composed objects have no MD5."""
    content = os.urandom(MIB)
    gcs_bucket.insert({}, {"name": "file"}, content).is_composite = is_composite
    expect = version(await gcs_backend.head(FILE, Kind.FILE))
    assert (expect.md5 is None) == is_composite
    landed: list[Span] = []
    # The last byte is damaged, which is not even in the span.
    gcs.fail("media", "damage")
    with pytest.raises(Retry):
        await gcs_backend.fetch(FILE, Span(0, 10), fd, expect, landed.append)
    assert [span for span in landed if span.size_bytes] == []
    await gcs_backend.fetch(FILE, Span(0, 10), fd, expect, landed.append)
    assert os.pread(fd, 100, 0) == content[:10]
    assert Span(0, 10) in landed


async def test_large_content_is_fetched_by_ranges(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, fd: int
) -> None:
    content = os.urandom(9 * MIB)
    gcs_bucket.insert({}, {"name": "file"}, content)
    expect = version(await gcs_backend.head(FILE, Kind.FILE))
    gcs.seen.clear()
    span = Span(3 * MIB + 1, 4 * MIB)
    await gcs_backend.fetch(FILE, span, fd, expect, lambda _: None)
    assert os.pread(fd, 9 * MIB, 0)[span.start :] == content[span.start : span.end]
    # Its metadata was told by the head.
    assert [kind for kind, _, _ in gcs.seen] == ["media"]


async def test_a_broken_download_is_an_error_and_what_came_is_good(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, fd: int
) -> None:
    content = os.urandom(10 * MIB)
    gcs_bucket.insert({}, {"name": "file"}, content)
    expect = version(await gcs_backend.head(FILE, Kind.FILE))
    landed: list[Span] = []
    gcs.fail("media", "reset-after")
    with pytest.raises(Retry):
        await gcs_backend.fetch(FILE, Span(0, 10 * MIB), fd, expect, landed.append)
    assert landed
    for span in landed:
        assert os.pread(fd, span.size_bytes, span.start) == content[span.start : span.end]


async def test_a_version_that_is_gone_is_a_mismatch_with_the_one_there_is(
    gcs_backend: GcsBackend, gcs_bucket: Bucket, fd: int
) -> None:
    gcs_bucket.insert({}, {"name": "file"}, b"before")
    before = version(await gcs_backend.head(FILE, Kind.FILE))
    after = gcs_bucket.insert({}, {"name": "file"}, b"after!")
    with pytest.raises(VersionMismatch) as caught:
        await gcs_backend.fetch(FILE, Span(0, 6), fd, before, lambda _: None)
    assert caught.value.current is not None
    assert version(caught.value.current).tag == f"{after.generation}-1"
    assert os.fstat(fd).st_size == 0


async def test_another_state_of_the_attributes_is_another_version(
    gcs_backend: GcsBackend, gcs_bucket: Bucket, fd: int
) -> None:
    gcs_bucket.insert({}, {"name": "file"}, b"before")
    before = version(await gcs_backend.head(FILE, Kind.FILE))
    gcs_bucket.patch("file", {}, {"metadata": {"mode": "33188"}})
    with pytest.raises(VersionMismatch):
        await gcs_backend.fetch(FILE, Span(0, 6), fd, before, lambda _: None)


async def test_packed_content_comes_as_it_is_stored(
    gcs_backend: GcsBackend, gcs_bucket: Bucket, fd: int
) -> None:
    packed = gzip.compress(b"text " * 1000)
    gcs_bucket.insert({}, {"name": "file", "contentEncoding": "gzip"}, packed)
    expect = version(await gcs_backend.head(FILE, Kind.FILE))
    assert expect.size == len(packed)
    await gcs_backend.fetch(FILE, Span(0, expect.size), fd, expect, lambda _: None)
    assert os.pread(fd, 10_000, 0) == packed


async def test_content_damaged_on_its_way_up_is_refused(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make
) -> None:
    gcs.fail("insert", "damage")
    with pytest.raises(Retry) as caught:
        await put(gcs_backend, "file", make_content(b"content"))
    assert "damaged" in str(caught.value)
    assert gcs_bucket.contents() == {}


# -- listings -------------------------------------------------------------------------------------


async def test_a_listing_tells_attributes_of_files_and_directories(
    gcs: FakeGcs, gcs_backend: GcsBackend, make_content: Make
) -> None:
    stamp = writing(Attributes(mode=0o100600))
    await put(gcs_backend, "file", make_content(b"x"), stamp=stamp)
    await gcs_backend.make_dir(Location("dir/"), writing(Attributes(mode=0o40700)))
    await put(gcs_backend, "prefix/file", make_content(b"x"))
    gcs.seen.clear()
    page = await gcs_backend.list_page(Location(""), None)
    modes = {
        item.location.key: item.attributes.mode if item.attributes else None for item in page.items
    }
    assert modes == {"file": 0o100600, "dir/": 0o40700, "prefix/": None}
    assert [kind for kind, _, _ in gcs.seen] == ["list"]


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_pages_tell_each_child_once_wherever_they_end(
    gcs_backend: GcsBackend, gcs_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for name in ("a", "a/", "a/x", "a-b/", "a-b/y", "b/z", "c/", "d"):
        gcs_bucket.insert({}, {"name": name}, b"")
    monkeypatch.setattr(looking, "_PAGE_SIZE", size)
    keys: list[str] = []
    token: str | None = None
    while True:
        page = await gcs_backend.list_page(Location(""), token)
        keys += [item.location.key for item in page.items]
        if page.token is None:
            break
        token = page.token
    assert sorted(keys) == ["a", "a-b/", "a/", "b/", "c/", "d"]


async def test_a_marker_with_a_body_stays_reachable(
    gcs_backend: GcsBackend, gcs_bucket: Bucket
) -> None:
    gcs_bucket.insert({}, {"name": "dir/"}, b"somebody's data")
    await gcs_backend.delete(Location("dir/"), Kind.DIR, None)
    with pytest.raises(NotFound):
        await gcs_backend.head(Location("missing/"), Kind.DIR)
    assert gcs_bucket.contents() == {"dir/": b"somebody's data"}
    (inside,) = (await gcs_backend.list_page(Location("dir/"), None)).items
    assert (inside.location.key, inside.kind) == ("dir/", Kind.FILE)


async def test_xattrs_may_have_8_kb(gcs_backend: GcsBackend, make_content: Make) -> None:
    """Base64 and percent signs are counted as Google counts them: 5,000 bytes fit, 8,000 do not."""
    for size, fits in ((5000, True), (8000, False)):
        attributes = Attributes(xattrs={"user.x": bytes(size)})
        made = await put(gcs_backend, f"file{size}", make_content(b""), stamp=writing(attributes))
        assert made.attributes is not None
        assert bool(made.attributes.xattrs) == fits


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("plain", "plain"),
        ("a\nb", "a\uff05000Ab"),
        ("a\rb", "a\uff05000Db"),
        ("\uff05000A", "\uff05FF05000A"),
        ("50\uff05", "50\uff05"),
        ("tab\t\x7f\\", "tab\t\x7f\\"),
    ],
)
def test_names_are_spelled_and_read_back(segment: str, name: str) -> None:
    assert spelling.to_object(segment) == name
    assert spelling.to_segment(name) == segment


@pytest.mark.parametrize("name", ["a\uff050041", "\uff05000a", "a\uff05000Ab\uff050041"])
def test_every_object_has_one_key(name: str) -> None:
    assert spelling.to_object(spelling.to_segment(name)) == name


async def test_an_object_that_spells_too_much_is_reachable(
    gcs_backend: GcsBackend, gcs_bucket: Bucket
) -> None:
    gcs_bucket.insert({}, {"name": "a\uff050041"}, b"1")
    gcs_bucket.insert({}, {"name": "aA"}, b"2")
    page = await gcs_backend.list_page(Location(""), None)
    assert len({item.location.key for item in page.items}) == 2
    for item in page.items:
        assert await gcs_backend.head(item.location, Kind.FILE) == item


@pytest.mark.parametrize("key", [".well-known/acme-challenge/x", ".well-known/acme-challenge/"])
async def test_what_google_reserves_is_refused_at_the_top_of_a_bucket_only(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make, key: str
) -> None:
    with pytest.raises(Unrepresentable):
        await put(gcs_backend, key, make_content(b""))
    assert gcs.count("insert") == 0
    below = GcsOptions(gcs_bucket.name, prefix="site")
    assert below.object_name(key) == f"site/{key}"


def test_names_longer_than_1024_bytes_are_kept_under_shorter_ones() -> None:
    options = GcsOptions("bucket")
    parent = "d" * 200 + "/"
    deep = parent * 5
    assert options.object_name(deep + "x" * 19) == deep + "x" * 19
    name = options.object_name(deep + "x" * 20)
    assert len(name.encode()) <= 1024
    assert name.startswith(options.prefixes(deep)[1])
    # The same name elsewhere is another object.
    assert name != options.object_name(parent * 4 + "e" * 200 + "/" + "x" * 20)


# -- hierarchical namespaces ----------------------------------------------------------------------


async def test_a_hierarchical_namespace_is_told_and_used_flat(
    gcs: FakeGcs, tmp_path: Path, make_content: Make
) -> None:
    key = gcs.write_key(tmp_path / "key.json")
    bucket = gcs.make_bucket(is_hierarchical=True)
    backend = GcsBackend(options_for(gcs, bucket.name, credentials_file=str(key), prefix=""))
    can = await backend.connect()
    assert can.name == "gcs (hierarchical namespace)"
    assert any("used as a flat one" in warning for warning in can.warnings)
    assert not can.real_dirs
    assert not can.move_tree
    await put(backend, "dir/file", make_content(b"x"), ABSENT)
    assert (await backend.head(Location("dir/"), Kind.DIR)).version is None
    await backend.aclose()


async def test_a_flat_one_warns_of_nothing(gcs: FakeGcs, tmp_path: Path) -> None:
    key = gcs.write_key(tmp_path / "key.json")
    options = options_for(gcs, gcs.make_bucket().name, credentials_file=str(key))
    async with connected(options) as backend:
        can = await backend.connect()
    assert (can.name, can.warnings) == ("gcs (flat namespace)", ())
