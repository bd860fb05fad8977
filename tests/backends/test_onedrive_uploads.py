"""Uploads as Graph wants them: one version each, conditions, sessions, replies that got lost."""

import json
import logging
import os
from collections.abc import Callable, Generator

import pytest
import trio

from csyncfs.backends.base import Writing
from csyncfs.backends.onedrive import OneDriveBackend
from csyncfs.errors import (
    BackendError,
    CsyncError,
    QuotaExceeded,
    Retry,
    Superseded,
    VersionMismatch,
)
from csyncfs.types import ABSENT, Attributes, Expect, Item, Kind, Location
from tests.conformance.mount import Mount, version, writing
from tests.support import onedrive
from tests.support.graph import Action, Emulator, Rule, What

KIB = 1 << 10
UNIT = 320 * KIB
MTIME_NS = 1_600_000_000_000_000_000
OTHER_NS = 1_600_000_777_000_000_000


@pytest.fixture(params=["personal", "business", "sharepoint"])
def emu(request: pytest.FixtureRequest) -> Emulator:
    return onedrive.started(request, request.param)


@pytest.fixture
async def mount(emu: Emulator) -> Mount:
    return await connected(emu)


async def connected(emu: Emulator) -> Mount:
    backend = onedrive.backend_on(emu, fragment_bytes=UNIT)
    return Mount(backend, await backend.connect())


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Generator[pytest.LogCaptureFixture]:
    """Everything is logged, and no address that lets anybody in."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    assert not [r for r in caplog.records if "tempauth" in r.getMessage()]


def dated(time_ns: int = MTIME_NS) -> Writing:
    return writing(Attributes(mode=0o100600, mtime_ns=time_ns))


def content_of(emu: Emulator, path: str) -> bytes | None:
    return emu.tree().get(path)


def versions_of(emu: Emulator, path: str) -> int:
    item = emu.drive.walk(emu.drive.root, path.split("/"))
    assert item is not None
    return len(item.versions) + 1


@pytest.mark.parametrize("size", [1, UNIT, UNIT + 1, 3 * UNIT + 7])
async def test_content_and_time_come_in_one_version(emu: Emulator, mount: Mount, size: int) -> None:
    first = await mount.put("file", os.urandom(size), stamp=dated())
    assert versions_of(emu, "file") == 1
    content = os.urandom(size)
    second = await mount.put("file", content, version(first), stamp=dated(OTHER_NS))
    assert versions_of(emu, "file") == 2
    assert second.location.item_id == first.location.item_id
    found = await mount.head("file")
    assert found.attributes == Attributes(mtime_ns=OTHER_NS)
    assert content_of(emu, "file") == content


async def test_an_empty_file_has_its_time(emu: Emulator, mount: Mount) -> None:
    await mount.put("empty", b"", stamp=dated())
    found = await mount.head("empty")
    assert found.attributes == Attributes(mtime_ns=MTIME_NS)
    assert emu.count(route="createUploadSession") == 0


async def test_every_change_names_the_version_and_nothing_else_is_changed(
    emu: Emulator, mount: Mount
) -> None:
    put = await mount.put("file", b"one", stamp=dated())
    put = await mount.put("file", b"two", version(put), stamp=dated())
    target = Location("moved")
    moved = await mount.backend.move(put.location, target, Kind.FILE, version(put), ABSENT)
    await mount.backend.delete(target, Kind.FILE, version(moved))
    # The emulator's watch (UNCONDITIONAL, NO_BEHAVIOUR) would have complained.
    assert emu.violations == []
    assert emu.tree() == {}


async def test_a_tag_that_changed_by_itself_is_no_conflict(emu: Emulator, mount: Mount) -> None:
    put = await mount.put("file", b"one", stamp=dated())
    emu.touch_etag("file", ctag=True)
    put = await mount.put("file", b"two", version(put), stamp=dated())
    emu.touch_etag("file")
    await mount.backend.delete(put.location, Kind.FILE, version(put))
    assert emu.tree() == {}


async def test_a_tag_that_changes_when_the_session_starts_is_no_conflict(
    emu: Emulator, mount: Mount
) -> None:
    emu.knobs.etag_moves_on_session = True
    put = await mount.put("file", b"one", stamp=dated())
    await mount.put("file", b"two", version(put), stamp=dated())
    assert content_of(emu, "file") == b"two"


async def test_a_conflict_told_as_409_is_one(emu: Emulator, mount: Mount) -> None:
    emu.knobs.changed_as_409 = True
    put = await mount.put("file", b"one", stamp=dated())
    await mount.put("file", b"theirs", version(put), stamp=dated(OTHER_NS))
    with pytest.raises(VersionMismatch) as caught:
        await mount.put("file", b"ours", version(put), stamp=dated())
    assert caught.value.current is not None
    assert content_of(emu, "file") == b"theirs"


@pytest.mark.parametrize("knob", ["empty_commit_reply", "session_in_commit_reply", "omit_ranges"])
async def test_replies_that_say_less_are_enough(emu: Emulator, mount: Mount, knob: str) -> None:
    setattr(emu.knobs, knob, True)
    content = os.urandom(2 * UNIT)
    put = await mount.put("file", content, stamp=dated())
    assert version(put).tag == version(await mount.head("file")).tag
    assert content_of(emu, "file") == content


CUTS = {
    "dropped-before": Rule(Action(What.DROP_AFTER_COMMIT), route="fragment", nth=1),
    "dropped-last": Rule(Action(What.DROP_AFTER_COMMIT), route="fragment", nth=3),
    "failed-last": Rule(Action.status(504, after=True), route="fragment", nth=3),
    "refused": Rule(Action.status(503), route="fragment", nth=2),
    "out-of-range": Rule(Action.status(416), route="fragment", nth=2),
    "not-there-yet": Rule(Action.status(404), route="fragment", nth=1),
    "half": Rule(Action(What.DROP_MID_REQUEST, count=100_000), route="fragment", nth=2),
    "expired": Rule(Action.status(403), route="fragment", nth=2),
}


@pytest.mark.parametrize("rule", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("replaces", [False, True])
async def test_an_upload_survives_what_happens_on_the_way(
    emu: Emulator, mount: Mount, rule: Rule, replaces: bool
) -> None:
    expect: Expect = ABSENT
    if replaces:
        expect = version(await mount.put("file", b"", stamp=dated(OTHER_NS)))
    emu.faults.add(rule)
    emu.knobs.keep_partial = True
    # What an expired session holds nobody can free any more.
    emu.unwatch(*(["session_left"] if rule is CUTS["expired"] else []))
    content = os.urandom(3 * UNIT - 5)
    stamp, states = dated(), list[str]()
    put = await _until_done(mount, content, expect, stamp, states)
    assert content_of(emu, "file") == content
    assert versions_of(emu, "file") == (2 if not replaces or emu.drive.is_personal else 3) - (
        0 if replaces else 1
    )
    assert version(put).tag == version(await mount.head("file")).tag


async def _until_done(
    mount: Mount, content: bytes, expect: Expect, stamp: Writing, states: list[str]
) -> Item:
    """As the uploader: again with the same put id, and what was saved."""
    for _ in range(5):
        try:
            return await mount.put(
                "file",
                content,
                expect,
                stamp=stamp,
                resume=states[-1] if states else None,
                save_resume=states.append,
            )
        except Retry:
            await trio.sleep(0.1)
    raise AssertionError("never done")


async def test_a_lost_commit_is_known_as_ours_by_the_next_process(emu: Emulator) -> None:
    first = await connected(emu)
    states: list[str] = []
    stamp, content = dated(), b"content"
    emu.faults.add(Rule(Action(What.DROP_AFTER_COMMIT), route="fragment", nth=1))
    # The process ends before it can look.
    emu.faults.add(Rule(Action.status(500), method="GET"))
    with pytest.raises(BackendError):
        await first.put("file", content, stamp=stamp, save_resume=states.append)
    emu.faults.clear()
    second = await connected(emu)
    put = await second.put("file", content, stamp=stamp, resume=states[-1])
    assert version(put).tag == version(await second.head("file")).tag
    assert versions_of(emu, "file") == 1


@pytest.mark.parametrize("size", [0, 7, 3 * UNIT + 7])
async def test_what_a_lost_commit_made_is_known_by_what_was_saved(emu: Emulator, size: int) -> None:
    first, stamp, states = await connected(emu), dated(), list[str]()
    route = "fragment" if size else "content"
    emu.faults.add(Rule(Action(What.DROP_AFTER_COMMIT), route=route, nth=-(-size // UNIT) or 1))
    # The process ends before it can look.
    emu.faults.add(Rule(Action.status(500), method="GET", path_re="file"))
    with pytest.raises(BackendError):
        await first.put("file", b"x" * size, stamp=stamp, save_resume=states.append)
    emu.faults.clear()
    second = (await connected(emu)).backend
    assert (await second.head(Location("file"), Kind.FILE)).put_id is None
    found = await second.head(Location("file"), Kind.FILE, states[-1])
    assert found.put_id == stamp.put_id
    emu.write("file", b"somebody else's", mtime=MTIME_NS / 1e9)
    assert (await second.head(Location("file"), Kind.FILE, states[-1])).put_id is None


@pytest.mark.parametrize("is_next_process", [False, True])
async def test_a_lost_commit_is_ours_after_its_directory_was_renamed_and_a_library_wrote_into_it(
    emu: Emulator, is_next_process: bool
) -> None:
    mount = await connected(emu)
    states: list[str] = []
    stamp, content = dated(), b"content"
    await mount.backend.make_dir(Location("old/"), writing())
    emu.faults.add(Rule(Action(What.DROP_AFTER_COMMIT), route="fragment", nth=1))
    emu.faults.add(Rule(Action.status(500), method="GET", path_re="file"))
    with pytest.raises(BackendError):
        await mount.put("old/file.docx", content, stamp=stamp, save_resume=states.append)
    emu.faults.clear()
    emu.rename("old", "new")
    if emu.world.flavour.drive_type == "documentLibrary":
        emu.enrich("new/file.docx")
    if is_next_process:
        mount = await connected(emu)
    found = await mount.backend.head(Location("new/file.docx"), Kind.FILE, states[-1])
    # What the library wrote is news, and not what was sent.
    assert (found.put_id, version(found).size) == (stamp.put_id, len(content))
    put = await mount.put("new/file.docx", content, stamp=stamp, resume=states[-1])
    assert put.version is not None
    assert put.version.size == len(content)
    assert versions_of(emu, "new/file.docx") == 1
    assert (content_of(emu, "new/file.docx") or b"").startswith(content)
    # Somebody else's put of the same is none of ours.
    emu.write("new/other.docx", content, mtime=MTIME_NS / 1e9)
    with pytest.raises(VersionMismatch):
        await mount.put("new/other.docx", content, stamp=dated())


async def test_what_is_found_carries_the_id_of_the_put_that_made_it(
    emu: Emulator, mount: Mount
) -> None:
    stamp = dated()
    await mount.put("file", b"content", stamp=stamp)
    found = await mount.head("file")
    assert (found.put_id, found.device) == (stamp.put_id, "desk")
    # The same bytes, but somebody else's version.
    emu.write("file", b"content")
    assert (await mount.head("file")).put_id is None


async def test_somebody_elses_equal_file_is_not_ours_unless_a_reply_was_lost(
    emu: Emulator, mount: Mount
) -> None:
    emu.write("file", b"x" * 320, mtime=MTIME_NS / 1e9)
    with pytest.raises(VersionMismatch):
        # Same size, same hash (both cancel out), same time.
        await mount.put("file", b"y" * 320, stamp=dated())
    assert content_of(emu, "file") == b"x" * 320


async def test_a_resumed_upload_sends_only_what_is_missing(
    emu: Emulator, logged: pytest.LogCaptureFixture
) -> None:
    mount = await connected(emu)
    content, stamp, states = os.urandom(6 * UNIT), dated(), list[str]()
    with trio.CancelScope() as scope:

        def stop(state: str) -> None:
            states.append(state)
            if len(states) == 4:
                scope.cancel()

        await mount.put("file", content, stamp=stamp, save_resume=stop)
    assert json.loads(states[-1])["url"].startswith(emu.upload_url)
    before = emu.count(route="fragment")
    later = await connected(emu)
    await later.put("file", content, stamp=stamp, resume=states[-1])
    assert emu.count(route="fragment") - before == 3
    assert emu.count(route="createUploadSession") == 1
    assert content_of(emu, "file") == content


async def test_the_last_fragment_waits_for_the_answer(emu: Emulator, mount: Mount) -> None:
    sent: list[int] = []

    async def no() -> bool:
        sent.append(emu.count(route="fragment"))
        return False

    with pytest.raises(Superseded):
        await mount.put("file", os.urandom(3 * UNIT), stamp=dated(), confirm=no)
    assert sent == [2]
    assert emu.tree() == {}
    assert emu.sessions() == []


async def test_a_full_drive_is_said(emu: Emulator, mount: Mount) -> None:
    emu.set_quota(0)
    with pytest.raises(QuotaExceeded):
        await mount.put("file", b"content", stamp=dated())
    with pytest.raises(QuotaExceeded):
        await mount.put("file", b"content")


async def test_a_file_open_in_office_is_tried_later(emu: Emulator, mount: Mount) -> None:
    put = await mount.put("file", b"content", stamp=dated())
    emu.lock("file")
    calls: list[Callable[[], object]] = [
        lambda: mount.put("file", b"other", version(put), stamp=dated()),
        lambda: mount.backend.delete(put.location, Kind.FILE, version(put)),
        lambda: mount.backend.move(
            put.location, Location("moved"), Kind.FILE, version(put), ABSENT
        ),
    ]
    for call in calls:
        with pytest.raises(Retry) as caught:
            await call()  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
        assert caught.value.after_s is not None
    assert content_of(emu, "file") == b"content"


async def test_nothing_said_holds_an_address(
    emu: Emulator, logged: pytest.LogCaptureFixture
) -> None:
    mount = await connected(emu)
    emu.faults.add(Rule(Action.status(500), route="fragment"))
    states: list[str] = []
    with pytest.raises(CsyncError) as caught:
        await mount.put("file", b"content", stamp=dated(), save_resume=states.append)
    assert "tempauth" in states[-1]
    assert "tempauth" not in str(caught.value)
    emu.faults.clear()
    backend = mount.backend
    assert isinstance(backend, OneDriveBackend)
    await backend.abandon(states[-1])
    await backend.abandon(states[-1])
