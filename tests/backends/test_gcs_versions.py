"""Versions on GCS: what a tag stands for, races, lost replies, server-side copies."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from csyncfs.backends.base import Source
from csyncfs.backends.gcs import GcsBackend
from csyncfs.errors import Ambiguous, CsyncError, NoSuchStore, NotFound, Retry, VersionMismatch
from csyncfs.types import ABSENT, Attributes, Item, Kind, Location, RemoteVersion
from tests.support.gcs import Bucket, FakeGcs, connected, options_for
from tests.support.gcs.server import What
from tests.support.uploads import Content, put, writing

MIB = 1 << 20
FILE = Location("file")
MODE = Attributes(mode=0o100600)


Make = Callable[[bytes], Content]


def version(item: Item) -> RemoteVersion:
    assert item.version is not None
    return item.version


# -- tags -----------------------------------------------------------------------------------------


async def test_a_tag_is_generation_and_metageneration(
    gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make
) -> None:
    made = await put(gcs_backend, "file", make_content(b"x"))
    stored = gcs_bucket.peek("file")
    assert stored is not None
    assert version(made).tag == f"{stored.generation}-1"

    changed = await gcs_backend.set_attributes(FILE, Kind.FILE, writing(MODE), version(made))
    assert version(changed).tag == f"{stored.generation}-2"


async def test_a_change_of_attributes_is_a_change_for_every_write(
    gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make
) -> None:
    made = await put(gcs_backend, "file", make_content(b"theirs"))
    await gcs_backend.set_attributes(FILE, Kind.FILE, writing(MODE), version(made))

    with pytest.raises(VersionMismatch):
        await put(gcs_backend, "file", make_content(b"ours"), version(made))
    with pytest.raises(VersionMismatch):
        await gcs_backend.delete(FILE, Kind.FILE, version(made))
    with pytest.raises(VersionMismatch):
        await gcs_backend.set_attributes(FILE, Kind.FILE, writing(), version(made))
    with pytest.raises(VersionMismatch):
        await gcs_backend.copy(FILE, Location("copy"), writing(), version(made), ABSENT)
    assert gcs_bucket.contents() == {"file": b"theirs"}


async def test_a_tag_of_another_store_matches_nothing(
    gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make
) -> None:
    await put(gcs_backend, "file", make_content(b"theirs"))
    foreign = RemoteVersion("d41d8cd98f00b204e9800998ecf8427e", 6, 0)

    with pytest.raises(VersionMismatch):
        await put(gcs_backend, "file", make_content(b"ours"), foreign)
    with pytest.raises(VersionMismatch):
        await gcs_backend.delete(FILE, Kind.FILE, foreign)
    assert gcs_bucket.contents() == {"file": b"theirs"}


async def test_foreign_metadata_stays_when_attributes_change(
    gcs_backend: GcsBackend, gcs_bucket: Bucket
) -> None:
    told = {"name": "file", "metadata": {"project": "caf\u00e9", "goog-reserved-posix-mode": "755"}}
    gcs_bucket.insert({}, told, b"x")
    found = await gcs_backend.head(FILE, Kind.FILE)
    assert found.attributes is not None
    assert found.attributes.mode == 0o755

    await gcs_backend.set_attributes(FILE, Kind.FILE, writing(MODE), version(found))
    stored = gcs_bucket.peek("file")
    assert stored is not None
    words = stored.settings["metadata"]
    assert words["project"] == "caf\u00e9"
    assert "goog-reserved-posix-mode" not in words
    assert words["mode"] == str(0o100600)


# -- races ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 9 * MIB])
async def test_of_six_writers_one_wins(
    gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make, size: int
) -> None:
    contents = [bytes([number]) * size for number in range(6)]
    won: list[bytes] = []
    lost: list[CsyncError] = []

    async def write(data: bytes) -> None:
        try:
            await put(gcs_backend, "file", make_content(data))
            won.append(data)
        except CsyncError as exc:
            lost.append(exc)

    async with trio.open_nursery() as nursery:
        for data in contents:
            nursery.start_soon(write, data)
    assert {type(exc) for exc in lost} == {VersionMismatch}
    assert len(won) == 1
    assert gcs_bucket.contents() == {"file": won[0]}


async def test_every_change_names_its_condition(
    gcs: FakeGcs, gcs_backend: GcsBackend, make_content: Make
) -> None:
    made = await put(gcs_backend, "file", make_content(b"x"))
    large = await put(gcs_backend, "large", make_content(bytes(9 * MIB)))
    copied = await gcs_backend.copy(FILE, Location("copy"), writing(), version(made), ABSENT)
    made = await gcs_backend.set_attributes(FILE, Kind.FILE, writing(MODE), version(made))
    await gcs_backend.make_dir(Location("dir/"), writing())
    await gcs_backend.delete(Location("dir/"), Kind.DIR, None)
    for item in (made, large, copied):
        await gcs_backend.delete(item.location, Kind.FILE, item.version)

    changes = {"insert", "begin", "rewrite", "patch", "delete"}
    seen = [(kind, query) for kind, _, query in gcs.seen if kind in changes]
    assert {kind for kind, _ in seen} == changes
    assert all("ifGenerationMatch" in query for _, query in seen)
    assert all("ifSourceGenerationMatch" in q for kind, q in seen if kind == "rewrite")
    assert all("ifMetagenerationMatch" in q for kind, q in seen if kind == "patch")


# -- lost replies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["reset-after", "status-after"])
@pytest.mark.parametrize(("kind", "size"), [("insert", 10), ("chunk", 9 * MIB)])
async def test_a_put_whose_reply_is_lost_is_a_success(
    gcs: FakeGcs,
    gcs_backend: GcsBackend,
    gcs_bucket: Bucket,
    make_content: Make,
    kind: str,
    size: int,
    what: What,
) -> None:
    data = os.urandom(size)
    if kind == "chunk":
        first = make_content(data)
        made = await _put_with_lost_last(gcs, gcs_backend, first, what)
    else:
        gcs.fail("insert", what)
        made = await put(gcs_backend, "file", make_content(data))
    stored = gcs_bucket.peek("file")
    assert stored is not None
    assert stored.content == data
    assert version(made).tag == f"{stored.generation}-1"
    assert gcs.count("insert") + gcs.count("begin") == 1


async def _put_with_lost_last(
    gcs: FakeGcs, gcs_backend: GcsBackend, content: Content, what: What
) -> Item:
    """The fault strikes when all but the last chunk is sent."""
    source = content.source

    async def confirm() -> bool:
        gcs.fail("chunk", what)
        return True

    return await gcs_backend.put(
        FILE,
        Source(source.fd, source.size, confirm),
        writing(),
        ABSENT,
        resume=None,
        save_resume=content.saved.append,
    )


async def test_a_put_that_did_not_arrive_is_ambiguous_and_may_be_repeated(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make
) -> None:
    stamp = writing()
    gcs.fail("insert", "reset")
    with pytest.raises(Ambiguous):
        await put(gcs_backend, "file", make_content(b"x"), stamp=stamp)
    assert gcs_bucket.contents() == {}
    await put(gcs_backend, "file", make_content(b"x"), stamp=stamp)
    assert gcs_bucket.contents() == {"file": b"x"}


async def test_a_put_that_arrives_after_its_deadline_is_found(
    gcs: FakeGcs, gcs_bucket: Bucket, make_content: Make, tmp_path: Path
) -> None:
    key = gcs.write_key(tmp_path / "key.json")
    options = options_for(
        gcs, gcs_bucket.name, credentials_file=str(key), prefix="", read_timeout_s=0.5
    )
    stamp = writing()
    async with connected(options) as gcs_backend:
        gcs.fail("insert", "hang")
        with pytest.raises(Ambiguous), trio.fail_after(2.5):
            await put(gcs_backend, "file", make_content(b"x"), stamp=stamp)
        with trio.fail_after(10):
            while not gcs_bucket.contents():
                await trio.sleep(0.05)
        found = await put(gcs_backend, "file", make_content(b"x"), stamp=stamp)
    assert found.put_id == stamp.put_id
    assert gcs.count("insert") == 2


async def test_a_conflict_is_not_excused_by_a_lost_reply(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make
) -> None:
    theirs = await put(gcs_backend, "file", make_content(b"theirs"))
    gcs.fail("insert", "reset")
    with pytest.raises(VersionMismatch) as caught:
        await put(gcs_backend, "file", make_content(b"ours"))
    assert caught.value.current is not None
    assert version(caught.value.current) == version(theirs)
    assert gcs_bucket.contents() == {"file": b"theirs"}


async def test_attributes_and_copies_whose_reply_is_lost_are_a_success(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make
) -> None:
    made = await put(gcs_backend, "file", make_content(b"x"))
    gcs.fail("rewrite", "reset-after")
    copied = await gcs_backend.copy(FILE, Location("copy"), writing(), version(made), ABSENT)
    stored = gcs_bucket.peek("copy")
    assert stored is not None
    assert version(copied).tag == f"{stored.generation}-1"

    gcs.fail("patch", "reset-after")
    changed = await gcs_backend.set_attributes(FILE, Kind.FILE, writing(MODE), version(made))
    assert version(changed).tag.endswith("-2")
    assert gcs.count("rewrite") == gcs.count("patch") == 1


async def test_a_delete_whose_reply_is_lost_may_be_repeated(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make
) -> None:
    made = await put(gcs_backend, "file", make_content(b"x"))
    gcs.fail("delete", "reset-after")
    with pytest.raises(Retry):
        await gcs_backend.delete(FILE, Kind.FILE, made.version)
    assert gcs_bucket.contents() == {}
    await gcs_backend.delete(FILE, Kind.FILE, made.version)


# -- copies ---------------------------------------------------------------------------------------


async def test_a_long_copy_goes_on_until_it_is_done(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make
) -> None:
    data = os.urandom(5 * MIB)
    made = await put(gcs_backend, "file", make_content(data))
    gcs_bucket.rewrite_bytes = 2 * MIB
    copied = await gcs_backend.copy(FILE, Location("copy"), writing(MODE), version(made), ABSENT)

    # 2 MiB, 4 MiB, done.
    assert gcs.count("rewrite") == 3
    assert gcs_bucket.contents()["copy"] == data
    assert copied.attributes is not None
    assert copied.attributes.mode == 0o100600


async def test_a_copy_keeps_what_others_see_of_the_object(
    gcs_backend: GcsBackend, gcs_bucket: Bucket
) -> None:
    kept = {"contentType": "text/x-odd", "cacheControl": "no-store", "contentLanguage": "de"}
    gcs_bucket.insert({}, {"name": "file", **kept, "metadata": {"project": "p", "mode": "1"}}, b"x")
    found = await gcs_backend.head(FILE, Kind.FILE)
    await gcs_backend.copy(FILE, Location("copy"), writing(MODE), version(found), ABSENT)

    stored = gcs_bucket.peek("copy")
    assert stored is not None
    assert {name: stored.settings[name] for name in kept} == kept
    assert stored.settings["metadata"]["project"] == "p"
    assert stored.settings["metadata"]["mode"] == str(0o100600)


# -- what must not be mistaken --------------------------------------------------------------------


async def test_a_bucket_that_went_away_is_no_file_that_did(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make
) -> None:
    made = await put(gcs_backend, "file", make_content(b"x"))
    del gcs.buckets[gcs_bucket.name]
    with pytest.raises(NoSuchStore):
        await gcs_backend.head(FILE, Kind.FILE)
    with pytest.raises(NoSuchStore):
        await gcs_backend.list_page(Location(""), None)
    with pytest.raises(NoSuchStore):
        await gcs_backend.delete(FILE, Kind.FILE, made.version)
    gcs.buckets[gcs_bucket.name] = gcs_bucket
    with pytest.raises(NotFound):
        await gcs_backend.head(Location("missing"), Kind.FILE)


@pytest.mark.parametrize("kind", ["get", "list"])
async def test_a_server_that_fails_says_nothing_about_the_file(
    gcs: FakeGcs, gcs_backend: GcsBackend, kind: str
) -> None:
    gcs.fail(kind, "status", 503)
    asks = {
        "get": lambda: gcs_backend.head(Location("missing"), Kind.FILE),
        "list": lambda: gcs_backend.list_page(Location(""), None),
    }
    with pytest.raises(Retry):
        await asks[kind]()


async def test_too_many_requests_changed_nothing(
    gcs: FakeGcs, gcs_backend: GcsBackend, gcs_bucket: Bucket, make_content: Make
) -> None:
    gcs.fail("insert", "status", 429)
    with pytest.raises(Retry) as caught:
        await put(gcs_backend, "file", make_content(b"x"))
    assert "fewer requests" in str(caught.value)
    # Known for sure: nobody asks what became of it.
    assert gcs.count("get") == 0
    assert gcs_bucket.contents() == {}
