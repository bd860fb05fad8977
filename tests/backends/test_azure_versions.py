"""Which version a request names, what it stamps on it, and what other tools see."""

from pathlib import Path
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError

from csyncfs.errors import Hold, NotFound, Unsupported, VersionMismatch
from csyncfs.types import ABSENT, Attributes, Kind, Location, RemoteVersion
from tests.support.azurite import Azurite, blobs, body, connected, options_for
from tests.support.uploads import Content, put, writing

NAME = "mounted/here/file"


def _version(item: Any) -> RemoteVersion:
    assert item.version is not None
    return item.version


async def test_azurite_refuses_as_the_service_does(azure: Azurite, container: str) -> None:
    blob = azure.container(container).get_blob_client("x")
    blob.upload_blob(b"one")

    with pytest.raises(HttpResponseError) as exists:
        blob.upload_blob(b"two")
    with pytest.raises(HttpResponseError) as stale:
        blob.upload_blob(
            b"two", overwrite=True, etag='"0x1"', match_condition=MatchConditions.IfNotModified
        )

    assert exists.value.status_code == 409
    assert stale.value.status_code == 412


async def test_attributes_are_words_that_other_tools_read(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    attributes = Attributes(mode=0o100640, uid=7, gid=8, mtime_ns=1_500_000_000_123_456_789)
    stamp = writing(attributes)
    async with connected(options_for(azure, container)) as backend:
        await put(backend, "file", Content(tmp_path / "c", b"x"), stamp=stamp)

    told = azure.container(container).get_blob_client(NAME).get_blob_properties().metadata
    assert told == {
        "mode": str(0o100640),
        "uid": "7",
        "gid": "8",
        "mtime": "1500000000.123456789",
        "csyncput": stamp.put_id,
        "csyncdev": "testdevice",
    }


async def test_a_listing_tells_attributes_of_files_and_directories(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    async with connected(options_for(azure, container)) as backend:
        made = await backend.make_dir(Location("dir/"), writing(Attributes(mode=0o40700)))
        file = await put(
            backend, "f", Content(tmp_path / "c", b"x"), stamp=writing(Attributes(mode=0o100600))
        )
        page = await backend.list_page(Location(""), None)

    assert {item.location.key: item for item in page.items} == {"dir/": made, "f": file}


async def test_new_attributes_keep_what_others_said(azure: Azurite, container: str) -> None:
    blob = azure.container(container).get_blob_client(NAME)
    blob.upload_blob(b"x", metadata={"colour": "red", "mode": "33188"})
    async with connected(options_for(azure, container)) as backend:
        before = _version(await backend.head(Location("file"), Kind.FILE))
        stamp = writing(Attributes(mode=0o100600))
        after = await backend.set_attributes(Location("file"), Kind.FILE, stamp, before)

    told = blob.get_blob_properties()
    assert told.metadata["colour"] == "red"
    assert told.metadata["mode"] == str(0o100600)
    assert _version(after).tag == str(told.etag).strip('"') != before.tag
    assert _version(after).md5 == before.md5 == "9dd4e461268c8034f5c8564e155c67a6"


async def test_setting_attributes_is_one_changing_request_without_the_content(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    from tests.support.proxy import Proxy

    with Proxy(azure.port) as proxy:
        options = options_for(azure, container, endpoint=azure.url(proxy.port))
        async with connected(options) as backend:
            item = await put(backend, "file", Content(tmp_path / "c", b"x" * 100_000))
            proxy.reset_counters()
            await backend.set_attributes(Location("file"), Kind.FILE, writing(), _version(item))

    assert proxy.counters.count("PUT") == 1
    assert sum(exchange.request_bytes for exchange in proxy.counters.exchanges) == 0


async def test_a_directory_is_what_blobfuse_takes_for_one(azure: Azurite, container: str) -> None:
    async with connected(options_for(azure, container)) as backend:
        await backend.make_dir(Location("dir/"), writing())

    assert blobs(azure, container) == {"mounted/here/dir": 0}
    told = azure.container(container).get_blob_client("mounted/here/dir").get_blob_properties()
    assert told.metadata["hdi_isfolder"] == "true"


@pytest.mark.parametrize("marker", ["dir", "dir/"])
async def test_directories_of_other_tools_are_read_and_removed(
    azure: Azurite, container: str, marker: str
) -> None:
    word = {} if marker.endswith("/") else {"Hdi_IsFolder": "True"}
    azure.container(container).upload_blob(f"mounted/here/{marker}", b"", metadata=word)
    async with connected(options_for(azure, container)) as backend:
        (listed,) = (await backend.list_page(Location(""), None)).items
        found = await backend.head(Location("dir/"), Kind.DIR)
        with pytest.raises(NotFound):
            await backend.head(Location("dir"), Kind.FILE)
        changed = await backend.set_attributes(
            Location("dir/"), Kind.DIR, writing(Attributes(mode=0o40711)), _version(found)
        )
        again = await backend.head(Location("dir/"), Kind.DIR)
        await backend.delete(Location("dir/"), Kind.DIR, _version(changed))

    assert (listed.location.key, listed.kind) == ("dir/", Kind.DIR)
    assert again.attributes == Attributes(mode=0o40711)
    assert blobs(azure, container) == {}


async def test_a_slashed_blob_with_a_body_stays_reachable(azure: Azurite, container: str) -> None:
    azure.container(container).upload_blob("mounted/here/dir/", b"somebody's")
    async with connected(options_for(azure, container)) as backend:
        (inside,) = (await backend.list_page(Location("dir/"), None)).items
        await backend.delete(Location("dir/"), Kind.DIR, None)

    assert (inside.location.key, inside.kind) == ("dir/", Kind.FILE)
    assert body(azure, container, "mounted/here/dir/") == b"somebody's"


async def test_of_two_markers_both_go_but_not_what_somebody_wrote(
    azure: Azurite, container: str
) -> None:
    client = azure.container(container)
    for name, content in (("two", b""), ("one", b"somebody's")):
        client.upload_blob(f"mounted/here/{name}", b"", metadata={"hdi_isfolder": "true"})
        client.upload_blob(f"mounted/here/{name}/", content)
    async with connected(options_for(azure, container)) as backend:
        for name in ("two", "one"):
            found = await backend.head(Location(f"{name}/"), Kind.DIR)
            await backend.delete(Location(f"{name}/"), Kind.DIR, found.version)

    assert blobs(azure, container) == {"mounted/here/one/": len(b"somebody's")}


async def test_a_directory_with_a_marker_is_told_once_over_many_pages(
    azure: Azurite, container: str
) -> None:
    """``a`` comes before ``a-...``, and those before ``a/``: more of them than fit on a page."""
    client = azure.container(container)
    client.upload_blob("mounted/here/a", b"", metadata={"hdi_isfolder": "true"})
    client.upload_blob("mounted/here/a/child", b"")
    for number in range(1000):
        client.upload_blob(f"mounted/here/a-{number:04}", b"")
    names: list[str] = []
    async with connected(options_for(azure, container)) as backend:
        token, pages = None, 0
        while pages == 0 or token is not None:
            page = await backend.list_page(Location(""), token)
            token, pages = page.token, pages + 1
            names += [item.location.key for item in page.items]

    assert pages == 2
    assert sorted(names) == sorted(["a/", *(f"a-{number:04}" for number in range(1000))])


async def test_a_file_and_a_directory_exclude_each_other(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    content = Content(tmp_path / "c", b"x")
    async with connected(options_for(azure, container)) as backend:
        await backend.make_dir(Location("dir/"), writing())
        await put(backend, "file", content)
        with pytest.raises(VersionMismatch) as no_file:
            await put(backend, "dir", content)
        with pytest.raises(VersionMismatch) as no_dir:
            await backend.make_dir(Location("file/"), writing())

    assert no_file.value.current is not None
    assert no_file.value.current.kind is Kind.DIR
    assert no_dir.value.current is not None
    assert no_dir.value.current.kind is Kind.FILE


async def test_a_blob_that_azure_would_not_take_from_us_is_reachable(
    azure: Azurite, container: str
) -> None:
    """Names that spell what needs no spelling, made by another tool."""
    for name in ("odd\uff050041", "dotted."):
        azure.container(container).upload_blob(f"mounted/here/{name}", name.encode())
    async with connected(options_for(azure, container)) as backend:
        items = (await backend.list_page(Location(""), None)).items
        for item in items:
            assert (await backend.head(item.location, Kind.FILE)).version == item.version
            await backend.delete(item.location, Kind.FILE, item.version)

    assert len(items) == 2
    assert blobs(azure, container) == {}


async def test_snapshots_are_not_removed_with_a_file(azure: Azurite, container: str) -> None:
    blob = azure.container(container).get_blob_client(NAME)
    blob.upload_blob(b"x")
    blob.create_snapshot()
    async with connected(options_for(azure, container)) as backend:
        found = await backend.head(Location("file"), Kind.FILE)
        with pytest.raises(Hold, match="snapshots"):
            await backend.delete(Location("file"), Kind.FILE, found.version)

    assert body(azure, container, NAME) == b"x"


async def test_a_packed_blob_is_read_as_it_is(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    import gzip

    from azure.storage.blob import ContentSettings

    packed = gzip.compress(b"content" * 1000)
    azure.container(container).upload_blob(
        NAME, packed, content_settings=ContentSettings(content_encoding="gzip")
    )
    into = Content(tmp_path / "c", b"")
    async with connected(options_for(azure, container)) as backend:
        found = _version(await backend.head(Location("file"), Kind.FILE))
        from csyncfs.types import Span

        await backend.fetch(Location("file"), Span(0, found.size), into.fd, found, lambda _: None)

    assert (tmp_path / "c").read_bytes() == packed


async def test_a_copy_has_our_words_and_keeps_those_of_others(
    azure: Azurite, container: str
) -> None:
    source = azure.container(container).get_blob_client(NAME)
    source.upload_blob(b"x", metadata={"colour": "red", "csyncput": "before"})
    stamp = writing(Attributes(mode=0o100600))
    async with connected(options_for(azure, container)) as backend:
        found = _version(await backend.head(Location("file"), Kind.FILE))
        await backend.copy(Location("file"), Location("copy"), stamp, found, ABSENT)

    told = azure.container(container).get_blob_client("mounted/here/copy").get_blob_properties()
    assert told.metadata == {
        "colour": "red",
        "mode": str(0o100600),
        "csyncput": stamp.put_id,
        "csyncdev": "testdevice",
    }


async def test_a_flat_account_renames_nothing(azure: Azurite, container: str) -> None:
    async with connected(options_for(azure, container)) as backend:
        can = await backend.connect()
        with pytest.raises(Unsupported):
            await backend.move(Location("a/"), Location("b/"), Kind.DIR, None, ABSENT)

    assert (can.real_dirs, can.move_file, can.move_tree) == (False, False, False)


async def test_xattrs_have_8_kb_and_what_does_not_fit_is_left_out_whole(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    fits = Attributes(xattrs={"user.a": b"x" * 5000})
    too_many = Attributes(mode=0o100600, xattrs={"user.a": b"x" * 5000, "user.b": b"y" * 2000})
    content = Content(tmp_path / "c", b"x")
    async with connected(options_for(azure, container)) as backend:
        first = await put(backend, "fits", content, stamp=writing(fits))
        await put(backend, "not", content, stamp=writing(too_many))
        assert await backend.head(first.location, Kind.FILE) == first
        found = await backend.head(Location("not"), Kind.FILE)

    assert first.attributes == fits
    assert found.attributes == Attributes(mode=0o100600)
