"""A reply lost on the way is neither a conflict with ourselves nor a lost write."""

from pathlib import Path

import pytest

from csyncfs.backends.s3 import S3Backend
from csyncfs.errors import Ambiguous, Offline, Retry, Throttled, VersionMismatch
from csyncfs.types import ABSENT, Attributes, Kind, Location, RemoteVersion
from tests.support.proxy import Fault, Proxy, What
from tests.support.s3 import body, connected, options_for
from tests.support.servers import S3Server
from tests.support.uploads import Content, put, writing
from tests.support.verdicts import VERDICTS

KEY = "mounted/here/file"
SMALL = {"part_size_bytes": 5 << 20, "multipart_threshold_bytes": 1 << 20}


def _backend(server: S3Server, bucket: str, proxy: Proxy, **changed: object) -> S3Backend:
    options = options_for(server, bucket, endpoint_url=proxy.endpoint_url, **changed)
    return S3Backend(options, VERDICTS["seaweedfs"])


async def test_a_put_whose_reply_is_lost_has_succeeded(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stamp = writing()
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy)
        await backend.connect()
        proxy.set_fault(Fault.lose_reply("PUT"))

        item = await put(backend, "file", Content(tmp_path / "c", b"ours"), stamp=stamp)

    assert item.put_id == stamp.put_id
    assert item.version is not None
    assert item.version.size == 4
    assert body(s3_server, bucket, KEY) == b"ours"


async def test_an_overwrite_whose_reply_is_lost_has_succeeded(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy)
        await backend.connect()
        first = await put(backend, "file", Content(tmp_path / "a", b"first"))
        assert first.version is not None
        proxy.set_fault(Fault.lose_reply("PUT"))

        second = await put(backend, "file", Content(tmp_path / "b", b"second"), first.version)

    assert second.version is not None
    assert second.version.tag != first.version.tag
    assert body(s3_server, bucket, KEY) == b"second"


async def test_without_an_answer_at_all_the_put_is_ambiguous_and_its_repetition_succeeds(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stamp = writing()
    content = Content(tmp_path / "c", b"ours")
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy)
        await backend.connect()
        proxy.set_fault(Fault.lose_reply("PUT"))
        proxy.set_fault(Fault(What.REFUSE, "HEAD", times=2))
        with pytest.raises(Ambiguous):
            await put(backend, "file", content, stamp=stamp)

        item = await put(backend, "file", content, stamp=stamp)

    assert item.put_id == stamp.put_id


async def test_another_process_repeating_the_put_is_no_conflict(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stamp = writing()
    content = Content(tmp_path / "c", b"ours")
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as before:
        await put(before, "file", content, stamp=stamp)

    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as after:
        item = await put(after, "file", content, stamp=stamp)

    assert item.put_id == stamp.put_id


async def test_a_lost_reply_and_somebody_elses_version_is_a_conflict(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stamp = writing()
    content = Content(tmp_path / "c", b"ours")
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy)
        await backend.connect()
        proxy.set_fault(Fault(What.REFUSE, "PUT"))
        with pytest.raises(Ambiguous):
            await put(backend, "file", content, stamp=stamp)
        s3_server.client().put_object(Bucket=bucket, Key=KEY, Body=b"theirs")

        with pytest.raises(VersionMismatch) as caught:
            await put(backend, "file", content, stamp=stamp)

    assert caught.value.current is not None
    assert caught.value.current.version is not None
    assert caught.value.current.version.size == len(b"theirs")
    assert body(s3_server, bucket, KEY) == b"theirs"


async def test_a_multipart_commit_whose_reply_is_lost_has_succeeded(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stamp = writing()
    data = bytes(range(256)) * (6 << 12)
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy, **SMALL)
        await backend.connect()
        proxy.set_fault(Fault.lose_reply("POST", "uploadId="))

        item = await put(backend, "file", Content(tmp_path / "c", data), stamp=stamp)

    assert item.put_id == stamp.put_id
    assert body(s3_server, bucket, KEY) == data


async def test_a_commit_lost_with_the_process_is_found_by_the_next_one(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stamp = writing()
    content = Content(tmp_path / "c", b"x" * (6 << 20))
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy, **SMALL)
        await backend.connect()
        proxy.set_fault(Fault.lose_reply("POST", "uploadId="))
        proxy.set_fault(Fault(What.REFUSE, "HEAD", times=2))
        with pytest.raises(Ambiguous):
            await put(backend, "file", content, stamp=stamp)

        proxy.reset_counters()
        after = _backend(s3_server, bucket, proxy, **SMALL)
        await after.connect()
        item = await put(after, "file", content, stamp=stamp, resume=content.saved[-1])

        assert item.put_id == stamp.put_id
        assert proxy.counters.count("PUT") == 0


async def test_a_copy_whose_reply_is_lost_has_succeeded(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stamp = writing(Attributes(mode=0o100600))
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy)
        await backend.connect()
        source = (await put(backend, "file", Content(tmp_path / "c", b"copied"))).version
        assert source is not None
        proxy.set_fault(Fault.lose_reply("PUT", "target"))

        item = await backend.copy(Location("file"), Location("target"), stamp, source, ABSENT)

    assert item.put_id == stamp.put_id
    assert body(s3_server, bucket, "mounted/here/target") == b"copied"


async def test_new_attributes_whose_reply_is_lost_are_set_once(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stamp = writing(Attributes(mode=0o100600))
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy)
        await backend.connect()
        before = (await put(backend, "file", Content(tmp_path / "c", b"kept"))).version
        assert before is not None
        proxy.set_fault(Fault.lose_reply("PUT"))
        proxy.set_fault(Fault(What.REFUSE, "HEAD", "/nothing"))
        item = await backend.set_attributes(Location("file"), Kind.FILE, stamp, before)
        proxy.reset_counters()

        again = await backend.set_attributes(Location("file"), Kind.FILE, stamp, before)

        assert proxy.counters.count("PUT") == 0
    assert again.attributes == item.attributes == Attributes(mode=0o100600)


async def test_a_directory_whose_reply_is_lost_exists(s3_server: S3Server, bucket: str) -> None:
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy)
        await backend.connect()
        proxy.set_fault(Fault.lose_reply("PUT"))

        item = await backend.make_dir(Location("dir/"), writing())

    assert item.kind is Kind.DIR
    assert item.version is not None


async def test_a_request_that_never_left_is_offline_and_nothing_is_asked(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy)
        await backend.connect()
        proxy.refuse()

        with pytest.raises(Offline):
            await put(backend, "file", Content(tmp_path / "c", b"x"))


async def test_slow_down_tells_when_to_come_back(s3_server: S3Server, bucket: str) -> None:
    slow_down = b"<Error><Code>SlowDown</Code><Message>slow</Message></Error>"
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy)
        await backend.connect()
        proxy.set_fault(Fault(What.ANSWER, headers=(("Retry-After", "7"),), body=slow_down))

        with pytest.raises(Throttled) as caught:
            await backend.list_page(Location(""), None)

    assert caught.value.after_s == 7.0


async def test_a_concurrent_write_is_tried_again_and_no_conflict(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    busy = b"<Error><Code>ConditionalRequestConflict</Code><Message>busy</Message></Error>"
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy)
        await backend.connect()
        proxy.set_fault(Fault(What.ANSWER, "PUT", status=409, body=busy))

        with pytest.raises(Retry) as caught:
            await put(backend, "file", Content(tmp_path / "c", b"x"))

    assert not isinstance(caught.value, Ambiguous)


async def test_a_read_survives_an_idle_connection_that_was_closed(
    s3_server: S3Server, bucket: str
) -> None:
    with Proxy(s3_server.port) as proxy:
        backend = _backend(s3_server, bucket, proxy)
        await backend.connect()
        proxy.set_fault(Fault(What.REFUSE, "GET"))

        page = await backend.list_page(Location(""), None)

    assert page.items == ()


async def test_a_stale_base_is_a_conflict_that_shows_the_current_version(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    stale = RemoteVersion("0" * 32, 1, 0)
    s3_server.client().put_object(Bucket=bucket, Key=KEY, Body=b"theirs")
    async with connected(options_for(s3_server, bucket), VERDICTS["seaweedfs"]) as backend:
        with pytest.raises(VersionMismatch) as caught:
            await put(backend, "file", Content(tmp_path / "c", b"ours"), stale)

    assert caught.value.current is not None
    assert body(s3_server, bucket, KEY) == b"theirs"
