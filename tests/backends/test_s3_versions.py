"""Conditions: one winner, nobody's bytes overwritten, on servers good and bad."""

from pathlib import Path

import pytest
import trio

from csyncfs.backends.s3 import S3Backend
from csyncfs.errors import Ambiguous, Superseded, Unrepresentable, VersionMismatch
from csyncfs.types import (
    ABSENT,
    Attributes,
    Expect,
    Item,
    Kind,
    Location,
    RemoteVersion,
)
from tests.backends.conftest import SERVERS
from tests.support.proxy import Proxy
from tests.support.s3 import body, connected, objects, options_for
from tests.support.servers import S3Server
from tests.support.uploads import Content, put, writing
from tests.support.verdicts import VERDICTS

KEY = "mounted/here/file"
all_servers = pytest.mark.parametrize("s3_server", SERVERS, indirect=True)
conditional = pytest.mark.parametrize("s3_server", ["seaweedfs", "ceph", "moto"], indirect=True)
# moto compares and stores in two steps: of writers at once it may let two through.
atomic = pytest.mark.parametrize("s3_server", ["seaweedfs", "ceph"], indirect=True)


def _version(item: Item) -> RemoteVersion:
    assert item.version is not None
    return item.version


@all_servers
async def test_what_is_put_is_what_is_read(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    attributes = Attributes(0o100755, 10, 20, 1_700_000_000_123_456_789, None, {"user.a": b"\0b"})
    stamp = writing(attributes)
    async with connected(options_for(s3_server, bucket)) as backend:
        made = await put(backend, "dir/ä b+%&.txt", Content(tmp_path / "c", b"hello"), stamp=stamp)
        read = await backend.head(Location("dir/ä b+%&.txt"), Kind.FILE)
        page = await backend.list_page(Location("dir/"), None)

    assert made.attributes == read.attributes == attributes
    assert made.put_id == read.put_id == stamp.put_id
    assert made.device == read.device == "testdevice"
    assert _version(made).tag == _version(read).tag == _version(page.items[0]).tag
    assert _version(made).md5 == _version(page.items[0]).md5 == "5d41402abc4b2a76b9719d911017c592"
    assert abs(_version(made).mtime_ns - _version(read).mtime_ns) <= 2 * 10**9


@all_servers
async def test_creating_what_exists_is_a_conflict(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    s3_server.client().put_object(Bucket=bucket, Key=KEY, Body=b"theirs")
    async with connected(options_for(s3_server, bucket)) as backend:
        with pytest.raises(VersionMismatch) as caught:
            await put(backend, "file", Content(tmp_path / "c", b"ours"))

    assert caught.value.current is not None
    assert _version(caught.value.current).size == len(b"theirs")
    assert body(s3_server, bucket, KEY) == b"theirs"


@all_servers
async def test_overwriting_what_is_gone_is_a_conflict_without_a_version(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    async with connected(options_for(s3_server, bucket)) as backend:
        base = _version(await put(backend, "file", Content(tmp_path / "a", b"base")))
        s3_server.client().delete_object(Bucket=bucket, Key=KEY)

        with pytest.raises(VersionMismatch) as caught:
            await put(backend, "file", Content(tmp_path / "c", b"ours"), base)

    assert caught.value.current is None
    assert KEY not in objects(s3_server, bucket)


@all_servers
async def test_overwriting_the_expected_version_succeeds(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    async with connected(options_for(s3_server, bucket)) as backend:
        base = _version(await put(backend, "file", Content(tmp_path / "a", b"base")))

        item = await put(backend, "file", Content(tmp_path / "c", b"ours"), base)

    assert _version(item).tag != base.tag
    assert body(s3_server, bucket, KEY) == b"ours"


@atomic
async def test_of_many_that_create_at_once_one_wins(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    await _race(s3_server, bucket, tmp_path, ABSENT)


@atomic
async def test_of_many_that_overwrite_at_once_one_wins(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    async with connected(options_for(s3_server, bucket)) as backend:
        base = _version(await put(backend, "file", Content(tmp_path / "a", b"base")))
    await _race(s3_server, bucket, tmp_path, base)


async def _race(server: S3Server, bucket: str, tmp_path: Path, expect: Expect) -> None:
    won: list[bytes] = []
    lost: list[VersionMismatch] = []
    async with connected(options_for(server, bucket)) as backend:

        async def write(data: bytes) -> None:
            content, stamp = Content(tmp_path / data.hex(), data), writing()
            while True:
                try:
                    await put(backend, "file", content, expect, stamp=stamp)
                except VersionMismatch as exc:
                    lost.append(exc)
                except Ambiguous:  # Ceph answers some of the losers with 500
                    continue
                else:
                    won.append(data)
                return

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(write, b"writer %d" % number)

    assert len(won) == 1
    assert len(lost) == 5
    assert body(server, bucket, KEY) == won[0]


@pytest.mark.parametrize("s3_server", ["rclone_s3"], indirect=True)
async def test_a_server_that_ignores_conditions_is_checked_before_and_after(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    with Proxy(s3_server.port) as proxy:
        backend = S3Backend(options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url))
        capabilities = await backend.connect()
        proxy.reset_counters()

        await put(backend, "file", Content(tmp_path / "c", b"ours"))

        assert [e.method for e in proxy.counters.exchanges] == ["HEAD", "PUT", "HEAD"]
    assert not capabilities.conditional_put
    assert len(capabilities.warnings) == 4


@pytest.mark.parametrize("s3_server", ["rclone_s3"], indirect=True)
async def test_somebody_overwriting_in_between_is_noticed(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    with Proxy(s3_server.port) as proxy:
        backend = S3Backend(options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url))
        await backend.connect()

        def overwrite() -> None:
            s3_server.client().put_object(Bucket=bucket, Key=KEY, Body=b"theirs")

        proxy.after_reply("PUT", overwrite)
        with pytest.raises(VersionMismatch) as caught:
            await put(backend, "file", Content(tmp_path / "c", b"ours"))

    assert caught.value.current is not None
    assert body(s3_server, bucket, KEY) == b"theirs"


async def test_content_that_changed_is_not_sent(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    content = Content(tmp_path / "c", b"ours")
    content.is_confirmed = False
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as backend:
        with pytest.raises(Superseded):
            await put(backend, "file", content)

    assert objects(s3_server, bucket) == {}


@all_servers
async def test_new_attributes_keep_the_content_and_what_others_stored(
    s3_server: S3Server, bucket: str
) -> None:
    s3_server.client().put_object(
        Bucket=bucket,
        Key=KEY,
        Body=b"page",
        ContentType="text/html",
        CacheControl="max-age=7",
        Metadata={"project": "apollo", "file-permissions": "0100600"},
    )
    attributes = Attributes(mode=0o100644, mtime_ns=7)
    async with connected(options_for(s3_server, bucket)) as backend:
        base = _version(await backend.head(Location("file"), Kind.FILE))

        item = await backend.set_attributes(Location("file"), Kind.FILE, writing(attributes), base)

        assert item.attributes == attributes
        stale = RemoteVersion("0" * 32, 4, 0)
        with pytest.raises(VersionMismatch):
            await backend.set_attributes(Location("file"), Kind.FILE, writing(), stale)
    seen = s3_server.client().head_object(Bucket=bucket, Key=KEY)
    told = {name.lower(): value for name, value in seen["Metadata"].items()}
    assert body(s3_server, bucket, KEY) == b"page"
    assert told["project"] == "apollo"
    assert "file-permissions" not in told
    if s3_server.name not in ("rclone",):  # which keeps no headers
        assert (seen["ContentType"], seen["CacheControl"]) == ("text/html", "max-age=7")


@all_servers
async def test_a_copy_has_the_bytes_and_new_attributes(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    attributes = Attributes(mode=0o100600, mtime_ns=8)
    async with connected(options_for(s3_server, bucket)) as backend:
        source = _version(await put(backend, "file", Content(tmp_path / "c", b"bytes")))

        item = await backend.copy(
            Location("file"), Location("ü/copy"), writing(attributes), source, ABSENT
        )

        assert item.attributes == attributes
        assert item.location == Location("ü/copy")
        assert body(s3_server, bucket, "mounted/here/ü/copy") == b"bytes"
        with pytest.raises(VersionMismatch) as caught:
            await backend.copy(Location("file"), Location("ü/copy"), writing(), source, ABSENT)
        assert caught.value.current is not None
        s3_server.client().put_object(Bucket=bucket, Key=KEY, Body=b"newer")
        with pytest.raises(VersionMismatch) as caught:
            await backend.copy(Location("file"), Location("other"), writing(), source, ABSENT)
        assert caught.value.current is None
    assert "mounted/here/other" not in objects(s3_server, bucket)


@all_servers
async def test_delete_removes_the_expected_version_only(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    async with connected(options_for(s3_server, bucket)) as backend:
        base = _version(await put(backend, "file", Content(tmp_path / "c", b"base")))
        s3_server.client().put_object(Bucket=bucket, Key=KEY, Body=b"theirs")
        with pytest.raises(VersionMismatch) as caught:
            await backend.delete(Location("file"), Kind.FILE, base)
        assert caught.value.current is not None
        assert body(s3_server, bucket, KEY) == b"theirs"

        await backend.delete(Location("file"), Kind.FILE, caught.value.current.version)
        await backend.delete(Location("file"), Kind.FILE, caught.value.current.version)
        await backend.delete(Location("file"), Kind.FILE, None)

    assert KEY not in objects(s3_server, bucket)


@pytest.mark.parametrize("key", ["a//b", "a/../b", "./b", "/b", "a/.", "a\\b"])
async def test_a_key_the_server_would_rewrite_is_refused(
    s3_server: S3Server, bucket: str, tmp_path: Path, key: str
) -> None:
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as backend:
        with pytest.raises(Unrepresentable):
            await put(backend, key, Content(tmp_path / "c", b"x"))

    assert objects(s3_server, bucket) == {}


@pytest.mark.parametrize("s3_server", ["ceph", "moto"], indirect=True)
@pytest.mark.parametrize("key", ["a//b", "a/./b", "trailing ", "a\\b", "\U0001f600"])
async def test_odd_keys_are_other_objects_where_the_server_keeps_them(
    s3_server: S3Server, bucket: str, tmp_path: Path, key: str
) -> None:
    async with connected(options_for(s3_server, bucket)) as backend:
        await put(backend, key, Content(tmp_path / "c", b"odd"))

        item = await backend.head(Location(key), Kind.FILE)

    assert item.location.key == key
    assert f"mounted/here/{key}" in objects(s3_server, bucket)


async def test_a_name_that_is_not_text_is_refused(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as backend:
        with pytest.raises(Unrepresentable):
            await put(backend, "bad\udcff", Content(tmp_path / "c", b"x"))
