"""Large objects: parts, resuming, committing."""

import json
import os
from pathlib import Path

import pytest
import trio

from csyncfs.backends.base import Writing
from csyncfs.backends.s3 import S3Backend, S3Options
from csyncfs.backends.s3.options import MAX_PARTS
from csyncfs.errors import Offline, Superseded, VersionMismatch
from csyncfs.types import ABSENT, Attributes, Kind, Location
from tests.backends.conftest import SERVERS
from tests.support.proxy import Fault, Proxy, What
from tests.support.s3 import body, connected, options_for
from tests.support.servers import S3Server
from tests.support.uploads import Content, put, writing
from tests.support.verdicts import VERDICTS

KEY = "mounted/here/big"
PART = 5 << 20
SIZES = {"part_size_bytes": PART, "multipart_threshold_bytes": 1 << 20}
DATA = os.urandom(3 * PART + 12_345)


def _uploads(server: S3Server, bucket: str) -> int:
    return len(server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", ()))


@pytest.mark.parametrize("s3_server", SERVERS, indirect=True)
async def test_a_large_object_arrives_whole_with_its_attributes(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    attributes = Attributes(mode=0o100640, uid=3, gid=4, mtime_ns=1_700_000_000_000_000_005)
    async with connected(options_for(s3_server, bucket, **SIZES)) as backend:
        content = Content(tmp_path / "c", DATA)

        item = await put(backend, "big", content, stamp=writing(attributes))

        assert item.attributes == attributes
        assert item.version is not None
        assert item.version.size == len(DATA)
        assert (await backend.head(Location("big"), Kind.FILE)).version == item.version
    assert content.confirmed == 1
    assert body(s3_server, bucket, KEY) == DATA


@pytest.mark.parametrize("s3_server", SERVERS, indirect=True)
async def test_a_large_overwrite_of_a_stale_base_is_refused(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    async with connected(options_for(s3_server, bucket, **SIZES)) as backend:
        base = (await put(backend, "big", Content(tmp_path / "a", b"base"))).version
        assert base is not None
        s3_server.client().put_object(Bucket=bucket, Key=KEY, Body=b"theirs")

        with pytest.raises(VersionMismatch) as caught:
            await put(backend, "big", Content(tmp_path / "c", DATA), base)

    assert caught.value.current is not None
    assert body(s3_server, bucket, KEY) == b"theirs"


async def test_a_new_process_sends_only_the_missing_parts(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stamp = writing()
    content = Content(tmp_path / "c", DATA)
    with Proxy(s3_server.port) as proxy:
        options = options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url, **SIZES)
        before = S3Backend(options, VERDICTS["seaweedfs"])
        await before.connect()
        proxy.set_fault(Fault(What.STALL_REQUEST, "PUT", "partNumber=3"))
        await _stop_at_part_3(before, content, stamp)
        sent = json.loads(content.saved[-1])["parts"]
        assert sent

        proxy.reset_counters()
        after = S3Backend(options, VERDICTS["seaweedfs"])
        await after.connect()
        item = await put(after, "big", content, stamp=stamp, resume=content.saved[-1])

        for number in sent:
            assert proxy.counters.count("PUT", f"partNumber={number}") == 0
        assert proxy.counters.count("PUT", "partNumber=3") == 1
    assert item.put_id == stamp.put_id
    assert body(s3_server, bucket, KEY) == DATA


async def _stop_at_part_3(backend: S3Backend, content: Content, stamp: Writing) -> None:
    """Cancel the upload when all other parts are there and saved."""
    done = trio.Event()

    def saved(state: str) -> None:
        content.saved.append(state)
        if len(json.loads(state)["parts"]) == 3:
            done.set()

    async with trio.open_nursery() as nursery:

        async def upload() -> None:
            await backend.put(
                Location("big"),
                content.source,
                stamp,
                ABSENT,
                resume=None,
                save_resume=saved,
            )

        nursery.start_soon(upload)
        with trio.fail_after(30):
            await done.wait()
        nursery.cancel_scope.cancel()


async def test_a_part_edited_since_is_sent_again(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stamp = writing()
    content = Content(tmp_path / "c", DATA)
    content.is_confirmed = False
    with Proxy(s3_server.port) as proxy:
        options = options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url, **SIZES)
        backend = S3Backend(options, VERDICTS["seaweedfs"])
        await backend.connect()
        with pytest.raises(Superseded):
            await put(backend, "big", content, stamp=stamp)
        os.pwrite(content.fd, b"edited", PART + 100)
        content.is_confirmed = True
        proxy.reset_counters()

        await put(backend, "big", content, stamp=stamp, resume=content.saved[-1])

        assert proxy.counters.count("PUT", "partNumber=") == 1
        assert proxy.counters.count("PUT", "partNumber=2") == 1
    expected = bytearray(DATA)
    expected[PART + 100 : PART + 106] = b"edited"
    assert body(s3_server, bucket, KEY) == bytes(expected)


async def test_the_state_of_an_aborted_upload_is_no_error(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stamp = writing()
    content = Content(tmp_path / "c", DATA)
    content.is_confirmed = False
    async with connected(options_for(s3_server, bucket, **SIZES)) as backend:
        with pytest.raises(Superseded):
            await put(backend, "big", content, stamp=stamp)
        assert _uploads(s3_server, bucket) == 1
        await backend.abandon(content.saved[-1])
        await backend.abandon(content.saved[-1])
        assert _uploads(s3_server, bucket) == 0
        content.is_confirmed = True

        await put(backend, "big", content, stamp=stamp, resume=content.saved[-1])

    assert body(s3_server, bucket, KEY) == DATA


@pytest.mark.parametrize("resume", ["", "not json", "{}", '{"upload_id":1}', "[]"])
async def test_a_state_nobody_understands_is_no_error(
    s3_server: S3Server, bucket: str, tmp_path: Path, resume: str
) -> None:
    content = Content(tmp_path / "c", DATA[: PART + 1])
    async with connected(options_for(s3_server, bucket, **SIZES), VERDICTS["seaweedfs"]) as backend:
        await backend.abandon(resume)

        await put(backend, "big", content, resume=resume)

    assert body(s3_server, bucket, KEY) == DATA[: PART + 1]


async def test_the_parts_of_another_attempt_are_freed(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    content = Content(tmp_path / "c", DATA)
    content.is_confirmed = False
    async with connected(options_for(s3_server, bucket, **SIZES), VERDICTS["seaweedfs"]) as backend:
        with pytest.raises(Superseded):
            await put(backend, "big", content)
        content.is_confirmed = True

        stamp = writing()
        item = await put(backend, "big", content, stamp=stamp, resume=content.saved[-1])

    assert item.put_id == stamp.put_id
    assert _uploads(s3_server, bucket) == 0


async def test_content_that_shrinks_is_not_committed(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    content = Content(tmp_path / "c", DATA)
    os.ftruncate(content.fd, PART)
    async with connected(options_for(s3_server, bucket, **SIZES), VERDICTS["seaweedfs"]) as backend:
        with pytest.raises(Superseded):
            await put(backend, "big", content)

    assert content.confirmed == 0


async def test_a_part_that_does_not_get_through_ends_the_upload_and_keeps_the_rest(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    content = Content(tmp_path / "c", DATA)
    with Proxy(s3_server.port) as proxy:
        options = options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url, **SIZES)
        backend = S3Backend(options, VERDICTS["seaweedfs"])
        await backend.connect()
        proxy.set_fault(Fault(What.CUT_REQUEST, "PUT", "partNumber=4", after_bytes=4000))

        with pytest.raises(Offline):
            await put(backend, "big", content)

    assert _uploads(s3_server, bucket) == 1
    assert json.loads(content.saved[-1])["upload_id"]


@pytest.mark.parametrize("s3_server", ["seaweedfs", "ceph", "moto"], indirect=True)
async def test_an_object_beyond_the_copy_limit_is_copied_in_parts(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    limits = {"copy_threshold_bytes": 1 << 20, "copy_part_size_bytes": PART}
    attributes = Attributes(mode=0o100600, mtime_ns=5)
    async with connected(options_for(s3_server, bucket, **SIZES, **limits)) as backend:
        source = (await put(backend, "big", Content(tmp_path / "c", DATA))).version
        assert source is not None

        item = await backend.copy(
            Location("big"), Location("copy"), writing(attributes), source, ABSENT
        )

        assert item.attributes == attributes
        with pytest.raises(VersionMismatch):
            await backend.copy(Location("big"), Location("copy"), writing(), source, ABSENT)
    assert body(s3_server, bucket, "mounted/here/copy") == DATA
    assert _uploads(s3_server, bucket) == 0


@pytest.mark.parametrize("size", [1, PART * MAX_PARTS, PART * MAX_PARTS + 1, 5 << 40])
def test_no_object_needs_more_parts_than_allowed(size: int) -> None:
    part_size = S3Options("bucket", part_size_bytes=PART).part_size_for(size)

    assert part_size >= PART
    assert -(-size // part_size) <= MAX_PARTS
