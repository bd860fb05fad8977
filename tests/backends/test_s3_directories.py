"""Listings, markers, and directories that exist through their children only."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csyncfs.backends.s3 import S3Backend
from csyncfs.errors import NotFound, Unrepresentable, VersionMismatch
from csyncfs.types import Attributes, Item, Kind, Location, Page
from tests.backends.conftest import SERVERS
from tests.support.proxy import Proxy
from tests.support.s3 import body, connected, objects, options_for
from tests.support.servers import S3Server
from tests.support.uploads import Content, put, writing
from tests.support.verdicts import VERDICTS

ROOT = Location("")
all_servers = pytest.mark.parametrize("s3_server", SERVERS, indirect=True)


async def _children(backend: S3Backend, key: str) -> set[tuple[str, Kind]]:
    found: list[Item] = []
    token: str | None = None
    while True:
        page: Page = await backend.list_page(Location(key), token)
        found += page.items
        token = page.token
        if token is None:
            break
    names = [(item.location.key, item.kind) for item in found]
    assert len(names) == len(set(names))
    return set(names)


def _store(server: S3Server, bucket: str, *keys: str) -> None:
    client = server.client()

    def put_one(key: str) -> None:
        client.put_object(Bucket=bucket, Key=f"mounted/here/{key}", Body=b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put_one, keys))


@all_servers
async def test_a_listing_shows_direct_children_only(s3_server: S3Server, bucket: str) -> None:
    _store(s3_server, bucket, "a", "dir/b", "dir/sub/c", ".csyncfs/hidden", "ü &+%")
    s3_server.client().put_object(Bucket=bucket, Key="mounted/elsewhere", Body=b"x")
    async with connected(options_for(s3_server, bucket)) as backend:
        assert await _children(backend, "") == {
            ("a", Kind.FILE),
            ("dir/", Kind.DIR),
            ("ü &+%", Kind.FILE),
        }
        assert await _children(backend, "dir/") == {("dir/b", Kind.FILE), ("dir/sub/", Kind.DIR)}
        assert await _children(backend, "nothing/") == set()


async def test_a_long_listing_comes_in_pages_without_gaps(s3_server: S3Server, bucket: str) -> None:
    names = [f"many/{number:04d}" for number in range(510)]
    # One after the other: SeaweedFS can lose one of ``n`` and ``n/x`` made at the same moment.
    _store(s3_server, bucket, *names)
    _store(s3_server, bucket, *(f"{name}/x" for name in names))
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as backend:
        first = await backend.list_page(Location("many/"), None)
        children = await _children(backend, "many/")

    assert first.token is not None
    expected = {(name, Kind.FILE) for name in names} | {(f"{name}/", Kind.DIR) for name in names}
    assert children == expected


@all_servers
async def test_a_whole_bucket_can_be_mounted(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    async with connected(options_for(s3_server, bucket, prefix="")) as backend:
        await put(backend, "top", Content(tmp_path / "c", b"x"))

        assert await _children(backend, "") == {("top", Kind.FILE)}
        assert (await backend.head(ROOT, Kind.DIR)).version is None
        assert (await backend.make_dir(ROOT, writing())).kind is Kind.DIR
        await backend.delete(ROOT, Kind.DIR, None)


@all_servers
async def test_an_empty_directory_lives_and_dies(s3_server: S3Server, bucket: str) -> None:
    directory = Location("dir/")
    async with connected(options_for(s3_server, bucket)) as backend:
        with pytest.raises(NotFound):
            await backend.head(directory, Kind.DIR)

        made = await backend.make_dir(directory, writing(Attributes(mode=0o40750, mtime_ns=5)))

        assert made.version is not None
        assert await _children(backend, "") == {("dir/", Kind.DIR)}
        assert await _children(backend, "dir/") == set()
        seen = await backend.head(directory, Kind.DIR)
        assert seen.attributes == Attributes(mode=0o40750, mtime_ns=5)
        again = await backend.make_dir(directory, writing(Attributes(mode=0o40700)))
        assert again.put_id == made.put_id
        assert again.attributes == seen.attributes
        assert again.version is not None
        await backend.delete(directory, Kind.DIR, again.version)
        assert await _children(backend, "") == set()
        with pytest.raises(NotFound):
            await backend.head(directory, Kind.DIR)


@all_servers
async def test_a_directory_takes_new_attributes(s3_server: S3Server, bucket: str) -> None:
    directory = Location("dir/")
    async with connected(options_for(s3_server, bucket)) as backend:
        made = await backend.make_dir(directory, writing(Attributes(mode=0o40750)))
        assert made.version is not None
        stamp = writing(Attributes(mode=0o40700))

        await backend.set_attributes(directory, Kind.DIR, stamp, made.version)

        assert (await backend.head(directory, Kind.DIR)).attributes == Attributes(mode=0o40700)


@all_servers
async def test_a_directory_without_marker_has_no_version(s3_server: S3Server, bucket: str) -> None:
    _store(s3_server, bucket, "dir/file")
    async with connected(options_for(s3_server, bucket)) as backend:
        item = await backend.head(Location("dir/"), Kind.DIR)

        assert item == Item(Location("dir/"), Kind.DIR, None)
        await backend.delete(Location("dir/"), Kind.DIR, None)
    assert "mounted/here/dir/file" in objects(s3_server, bucket)


@all_servers
async def test_removing_a_marker_leaves_the_children(s3_server: S3Server, bucket: str) -> None:
    async with connected(options_for(s3_server, bucket)) as backend:
        made = await backend.make_dir(Location("dir/"), writing())
        _store(s3_server, bucket, "dir/file")

        await backend.delete(Location("dir/"), Kind.DIR, made.version)

        assert await _children(backend, "dir/") == {("dir/file", Kind.FILE)}
    assert body(s3_server, bucket, "mounted/here/dir/file") == b"x"


@pytest.mark.parametrize("s3_server", ["ceph", "moto"], indirect=True)
async def test_a_directory_stands_beside_a_file_of_its_name(
    s3_server: S3Server, bucket: str
) -> None:
    _store(s3_server, bucket, "name")
    async with connected(options_for(s3_server, bucket)) as backend:
        made = await backend.make_dir(Location("name/"), writing())

        assert await _children(backend, "") == {("name", Kind.FILE), ("name/", Kind.DIR)}
        await backend.delete(Location("name/"), Kind.DIR, made.version)
    assert body(s3_server, bucket, "mounted/here/name") == b"x"


@pytest.mark.parametrize("s3_server", ["seaweedfs"], indirect=True)
async def test_a_directory_never_replaces_a_file_of_its_name(
    s3_server: S3Server, bucket: str
) -> None:
    _store(s3_server, bucket, "name")
    async with connected(options_for(s3_server, bucket)) as backend:
        with pytest.raises(VersionMismatch) as caught:
            await backend.make_dir(Location("name/"), writing())

    assert caught.value.current is not None
    assert caught.value.current.kind is Kind.FILE
    assert body(s3_server, bucket, "mounted/here/name") == b"x"


async def test_a_file_made_at_the_same_moment_is_not_replaced_by_a_directory(
    s3_server: S3Server, bucket: str
) -> None:
    with Proxy(s3_server.port) as proxy:
        options = options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url)
        backend = S3Backend(options, VERDICTS["seaweedfs"])
        await backend.connect()

        def make_file() -> None:
            # With a child beside it SeaweedFS lets an unconditional PUT of ``name/`` replace it.
            _store(s3_server, bucket, "name")
            _store(s3_server, bucket, "name/child")

        proxy.before_request("PUT", make_file)
        with pytest.raises(VersionMismatch):
            await backend.make_dir(Location("name/"), writing())

    assert body(s3_server, bucket, "mounted/here/name") == b"x"


async def test_making_a_directory_that_exists_by_its_children_keeps_them(
    s3_server: S3Server, bucket: str
) -> None:
    _store(s3_server, bucket, "dir/file")
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as backend:
        made = await backend.make_dir(Location("dir/"), writing(Attributes(mode=0o40700)))
        assert await _children(backend, "dir/") == {("dir/file", Kind.FILE)}
        s3_server.client().delete_object(Bucket=bucket, Key="mounted/here/dir/file")

        assert await _children(backend, "") == {("dir/", Kind.DIR)}
    assert made.attributes == Attributes(mode=0o40700)


@all_servers
async def test_a_directory_removed_by_another_tool_is_gone_with_its_attributes(
    s3_server: S3Server, bucket: str
) -> None:
    directory = Location("dir/")
    async with connected(options_for(s3_server, bucket)) as backend:
        await backend.make_dir(directory, writing(Attributes(mode=0o40700)))
        for key in ("mounted/here/dir/.csyncfs-dir", "mounted/here/dir/"):
            s3_server.client().delete_object(Bucket=bucket, Key=key)

        with pytest.raises(NotFound):
            await backend.head(directory, Kind.DIR)
        made = await backend.make_dir(directory, writing(Attributes(mode=0o40755)))

        assert made.attributes == Attributes(mode=0o40755)
        assert (await backend.head(directory, Kind.DIR)).attributes == made.attributes


async def test_a_file_on_a_foreign_directory_of_a_tree_is_a_conflict(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    s3_server.client().put_object(Bucket=bucket, Key="mounted/here/name/", Body=b"")
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as backend:
        with pytest.raises(VersionMismatch) as caught:
            await put(backend, "name", Content(tmp_path / "c", b"ours"))

    assert caught.value.current is not None
    assert caught.value.current.kind is Kind.DIR


@pytest.mark.parametrize("s3_server", ["ceph", "moto"], indirect=True)
async def test_a_marker_with_content_is_a_file_in_its_directory(
    s3_server: S3Server, bucket: str
) -> None:
    _store(s3_server, bucket, "dir/", "dir/file")
    async with connected(options_for(s3_server, bucket)) as backend:
        assert await _children(backend, "dir/") == {("dir/", Kind.FILE), ("dir/file", Kind.FILE)}
        assert (await backend.head(Location("dir/"), Kind.FILE)).version is not None


async def test_the_name_of_our_marker_is_not_for_files(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as backend:
        with pytest.raises(Unrepresentable):
            await put(backend, "dir/.csyncfs-dir", Content(tmp_path / "c", b"x"))
