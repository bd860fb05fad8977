"""Upload sessions on GCS: going on where another process stopped, and starting over."""

import json
import os
from collections.abc import Callable

import pytest
import trio

from csyncfs.backends.base import Source
from csyncfs.backends.gcs import GcsBackend
from csyncfs.errors import CsyncError, Retry, Superseded, VersionMismatch
from csyncfs.types import ABSENT, Item, Kind, Location, RemoteVersion
from tests.support.gcs import Bucket, FakeGcs
from tests.support.uploads import Content, put, writing

MIB = 1 << 20
KIB = 1 << 10
FILE = Location("file")
# Sent in four chunks of 8 MiB, the last one shorter.
SIZE = 24 * MIB + 3

Make = Callable[[bytes], Content]


@pytest.fixture
def data() -> bytes:
    return os.urandom(SIZE)


def version(item: Item) -> RemoteVersion:
    assert item.version is not None
    return item.version


def chunks(gcs: FakeGcs) -> int:
    return gcs.count("chunk")


async def test_a_chunk_that_failed_is_the_first_to_be_sent_again(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make, data: bytes
) -> None:
    content, stamp = make_content(data), writing()
    gcs.fail("chunk", "status", 503)
    with pytest.raises(Retry):
        await put(gcs_backend, "file", content, stamp=stamp)
    assert chunks(gcs) == 1
    await put(gcs_backend, "file", content, stamp=stamp, resume=content.saved[-1])

    assert gcs_bucket.contents() == {"file": data}
    assert gcs.count("begin") == 1
    assert chunks(gcs) == 1 + 4


async def test_what_arrived_of_a_broken_chunk_is_not_sent_again(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make, data: bytes
) -> None:
    content, stamp = make_content(data), writing()
    gcs.fail("chunk", "partial")
    with pytest.raises(Retry):
        await put(gcs_backend, "file", content, stamp=stamp)
    (session,) = gcs_bucket.sessions()
    assert len(session.received) == 256 * KIB
    await put(gcs_backend, "file", content, stamp=stamp, resume=content.saved[-1])

    assert gcs_bucket.contents() == {"file": data}
    assert gcs.count("progress") == 1
    # 256 KiB of 24 MiB and 3 bytes; two of 8 MiB, and less than one.
    assert chunks(gcs) == 1 + 3


async def test_a_last_chunk_whose_reply_was_lost_is_a_success_also_later(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make, data: bytes
) -> None:
    content, stamp = make_content(data), writing()
    source = content.source

    async def confirm() -> bool:
        # Neither the reply comes, nor can the store be asked afterwards.
        gcs.fail("chunk", "reset-after")
        gcs.fail("get", "status", 503)
        return True

    with pytest.raises(Retry):
        await gcs_backend.put(
            FILE,
            Source(source.fd, source.size, confirm),
            stamp,
            ABSENT,
            resume=None,
            save_resume=content.saved.append,
        )
    made = gcs_bucket.peek("file")
    assert made is not None
    found = await put(gcs_backend, "file", content, stamp=stamp, resume=content.saved[-1])
    assert version(found).tag == f"{made.generation}-1"
    assert gcs.count("begin") == 1


@pytest.mark.parametrize("how", ["expired", "cancelled", "unknown"])
async def test_a_session_that_is_gone_starts_over(
    gcs: FakeGcs,
    gcs_backend: GcsBackend,
    gcs_bucket: Bucket,
    make_content: Make,
    data: bytes,
    how: str,
) -> None:
    content, stamp = make_content(data), writing()
    gcs.fail("chunk", "status", 503)
    with pytest.raises(Retry):
        await put(gcs_backend, "file", content, stamp=stamp)
    resume = content.saved[-1]
    if how == "expired":
        gcs_bucket.expire_sessions()
    elif how == "cancelled":
        await gcs_backend.abandon(resume)
    else:
        state = json.loads(resume)
        state["session"] = state["session"].partition("upload_id=")[0] + "upload_id=unknown"
        resume = json.dumps(state)
    await put(gcs_backend, "file", content, stamp=stamp, resume=resume)

    assert gcs_bucket.contents() == {"file": data}
    assert gcs.count("begin") == 2


@pytest.mark.parametrize("changed", ["put_id", "name", "expect"])
async def test_a_session_of_another_attempt_is_not_used(
    gcs: FakeGcs,
    gcs_backend: GcsBackend,
    gcs_bucket: Bucket,
    make_content: Make,
    data: bytes,
    changed: str,
) -> None:
    """Its condition and its metadata were fixed when it began."""
    content, stamp = make_content(data), writing()
    gcs.fail("chunk", "status", 503)
    with pytest.raises(Retry):
        await put(gcs_backend, "file", content, stamp=stamp)
    key, expect = "file", ABSENT
    if changed == "put_id":
        stamp = writing()
    elif changed == "name":
        key = "other"
    else:
        expect = version(await put(gcs_backend, "file", make_content(b"theirs")))
    made = await put(gcs_backend, key, content, expect, stamp=stamp, resume=content.saved[-1])

    assert made.put_id == stamp.put_id
    assert gcs_bucket.contents()[key] == data
    # And nothing is left to be paid for.
    assert gcs_bucket.sessions() == []


async def test_content_that_changed_under_a_resumed_upload_is_never_stored(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make, data: bytes
) -> None:
    content, stamp = make_content(data), writing()
    gcs.fail("chunk", "partial")
    with pytest.raises(Retry):
        await put(gcs_backend, "file", content, stamp=stamp)
    os.pwrite(content.fd, b"changed", 0)
    with pytest.raises(Retry):
        await put(gcs_backend, "file", content, stamp=stamp, resume=content.saved[-1])
    assert gcs_bucket.contents() == {}
    # And the next attempt does not go on with it for ever.
    await put(gcs_backend, "file", content, stamp=stamp, resume=content.saved[-1])
    assert gcs_bucket.contents() == {"file": b"changed" + data[7:]}


async def test_a_chunk_damaged_on_the_way_is_never_stored(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make, data: bytes
) -> None:
    base = await put(gcs_backend, "file", make_content(b"before"))
    content, stamp = make_content(data), writing()
    gcs.fail("chunk", "damage")
    with pytest.raises(Retry) as caught:
        await put(gcs_backend, "file", content, version(base), stamp=stamp)
    assert "damaged" in str(caught.value)
    assert gcs_bucket.contents() == {"file": b"before"}
    await put(gcs_backend, "file", content, version(base), stamp=stamp, resume=content.saved[-1])
    assert gcs_bucket.contents() == {"file": data}


async def test_somebody_who_was_faster_is_noticed_at_the_end(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make, data: bytes
) -> None:
    content = make_content(data)
    source = content.source

    async def confirm() -> bool:
        gcs_bucket.insert({}, {"name": "file"}, b"theirs")
        return True

    with pytest.raises(VersionMismatch) as caught:
        await gcs_backend.put(
            FILE,
            Source(source.fd, source.size, confirm),
            writing(),
            ABSENT,
            resume=None,
            save_resume=content.saved.append,
        )
    assert caught.value.current is not None
    assert version(caught.value.current).size == 6
    assert gcs_bucket.contents() == {"file": b"theirs"}


async def test_a_conflict_known_before_moves_no_byte(
    gcs: FakeGcs, gcs_backend: GcsBackend, make_content: Make, data: bytes
) -> None:
    await put(gcs_backend, "file", make_content(b"theirs"))
    with pytest.raises(VersionMismatch):
        await put(gcs_backend, "file", make_content(data))
    assert gcs.count("begin") == chunks(gcs) == 0


async def test_all_but_the_last_chunk_is_sent_before_the_question(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make, data: bytes
) -> None:
    content = make_content(data)
    content.is_confirmed = False
    with pytest.raises(Superseded):
        await put(gcs_backend, "file", content)
    assert chunks(gcs) == 3
    assert gcs_bucket.contents() == {}
    (session,) = gcs_bucket.sessions()
    assert len(session.received) == 24 * MIB
    await gcs_backend.abandon(content.saved[-1])
    assert gcs_bucket.sessions() == []


async def test_a_put_cancelled_in_the_middle_is_gone_on_with(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make, data: bytes
) -> None:
    """The chunk that is under way when nobody waits any more is waited for, not sent twice."""
    content, stamp = make_content(data), writing()
    gcs.fail("chunk", "hang")
    with trio.move_on_after(1):
        await put(gcs_backend, "file", content, stamp=stamp)
    assert gcs_bucket.contents() == {}
    await put(gcs_backend, "file", content, stamp=stamp, resume=content.saved[-1])
    assert gcs_bucket.contents() == {"file": data}
    assert chunks(gcs) == 4


async def test_the_state_of_another_endpoint_is_left_alone(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make, data: bytes
) -> None:
    content, stamp = make_content(data), writing()
    gcs.fail("chunk", "status", 503)
    with pytest.raises(CsyncError):
        await put(gcs_backend, "file", content, stamp=stamp)
    state = json.loads(content.saved[-1])
    state["endpoint"] = "https://storage.example.org"
    state["session"] = "https://storage.example.org/upload?upload_id=1"
    await put(gcs_backend, "file", content, stamp=stamp, resume=json.dumps(state))
    await gcs_backend.abandon(json.dumps(state))
    assert gcs_bucket.contents() == {"file": data}
    assert (await gcs_backend.head(FILE, Kind.FILE)).put_id == stamp.put_id


@pytest.mark.parametrize(("kind", "size"), [("insert", 10), ("chunk", 9 * MIB)])
async def test_content_that_was_stored_damaged_is_removed_not_taken_for_ours(
    gcs: FakeGcs,
    gcs_backend: GcsBackend,
    gcs_bucket: Bucket,
    make_content: Make,
    kind: str,
    size: int,
) -> None:
    """It has our put id, so that the next attempt would call it a success."""
    content, stamp = make_content(os.urandom(size)), writing()
    gcs_bucket.checks_sums = False
    gcs.fail(kind, "damage")
    with pytest.raises(Retry) as caught:
        await put(gcs_backend, "file", content, stamp=stamp)
    assert "damaged" in str(caught.value)
    assert gcs_bucket.contents() == {}
    resume = content.saved[-1] if content.saved else None
    await put(gcs_backend, "file", content, stamp=stamp, resume=resume)
    assert gcs_bucket.contents() == {"file": os.pread(content.fd, size, 0)}
