# ruff: noqa: RUF001  (the full-width percent sign is meant)
"""Reading and changing on bad days: throttling, lost replies, delays, odd names, other items."""

import os
import time
from collections.abc import AsyncGenerator

import pytest
import trio

from csyncfs.backends.onedrive import OneDriveBackend
from csyncfs.backends.onedrive.account import Account
from csyncfs.errors import (
    AccessDenied,
    CsyncError,
    Hold,
    NoSuchStore,
    NotFound,
    Retry,
    Throttled,
    Unrepresentable,
    VersionMismatch,
)
from csyncfs.types import ABSENT, Attributes, Kind, Location, Span
from tests.conformance.mount import Mount, file_of, ignore, version, writing
from tests.support import onedrive
from tests.support.graph import Action, Emulator, Rule, What

MIB = 1 << 20
MTIME_NS = 1_600_000_000_000_000_000
DATED = Attributes(mtime_ns=MTIME_NS)


@pytest.fixture(params=["personal", "business"])
def emu(request: pytest.FixtureRequest) -> Emulator:
    return onedrive.started(request, request.param)


@pytest.fixture
async def mount(emu: Emulator) -> AsyncGenerator[Mount]:
    backend = onedrive.backend_on(emu)
    yield Mount(backend, await backend.connect())
    await backend.aclose()


# -- throttling ---------------------------------------------------------------------------


async def test_everybody_waits_when_one_is_told_to(emu: Emulator, mount: Mount) -> None:
    emu.write("a", b"a")
    emu.faults.add(Rule(Action.status(429, retry_after=1, enforce=True), route="item", nth=1))
    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mount.head, "a")
        await trio.sleep(0.3)
        nursery.start_soon(lambda: mount.put("b", b"content", stamp=writing(DATED)))
    assert time.monotonic() - began >= 1.0
    # Whoever asks too early is reported by the emulator.
    assert emu.violations == []
    assert sorted(emu.tree()) == ["a", "b"]


async def test_a_throttled_account_still_gets_everything_done(emu: Emulator, mount: Mount) -> None:
    emu.preset("throttle_storm")
    with trio.fail_after(120):
        for number in range(4):
            # As the uploader does: one put id a content, and what an earlier try has come to.
            stamp, states = writing(DATED), list[str]()
            while True:
                resume = states[-1] if states else None
                try:
                    await mount.put(
                        f"f{number}",
                        b"content",
                        stamp=stamp,
                        resume=resume,
                        save_resume=states.append,
                    )
                except Retry as exc:
                    await trio.sleep(exc.after_s or 1)
                else:
                    break
    emu.faults.clear()
    assert sorted(emu.tree()) == [f"f{number}" for number in range(4)]


async def test_a_long_pause_is_told_instead_of_waited_for(autojump_clock: object) -> None:
    account = Account()
    account.close(100)
    with pytest.raises(Throttled) as caught:
        async with account.request():
            raise AssertionError
    assert caught.value.after_s is not None
    assert caught.value.after_s >= 99
    await trio.sleep(101)
    async with account.request():
        pass


async def test_no_more_than_eight_requests_run_at_once(autojump_clock: object) -> None:
    account, running, most = Account(), 0, 0

    async def ask() -> None:
        nonlocal running, most
        async with account.request():
            running += 1
            most = max(most, running)
            await trio.sleep(1)
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert most == 8


# -- lost replies and delays --------------------------------------------------------------


async def test_looks_are_repeated_and_changes_are_not(emu: Emulator, mount: Mount) -> None:
    emu.write("a", b"a")
    emu.faults.add(Rule(Action.status(500), method="GET", route="item", times=2))
    assert (await mount.head("a")).kind is Kind.FILE
    emu.faults.add(Rule(Action.status(500), method="DELETE", times=1))
    with pytest.raises(Retry):
        await mount.backend.delete(Location("a"), Kind.FILE, None)
    assert emu.count(method="DELETE") == 1


@pytest.mark.parametrize("what", [Action(What.DROP_AFTER_COMMIT), Action.status(504, after=True)])
async def test_a_directory_whose_reply_was_lost_is_found(
    emu: Emulator, mount: Mount, what: Action
) -> None:
    emu.faults.add(Rule(what, method="POST", route="children", times=1))
    made = await mount.backend.make_dir(Location("dir/"), writing())
    assert made.location.key == "dir/"
    assert emu.tree() == {"dir": None}
    assert emu.count(method="POST", route="children") == 1


async def test_a_directory_made_without_a_reply_body_is_found(emu: Emulator, mount: Mount) -> None:
    emu.knobs.empty_mkdir_reply = True
    made = await mount.backend.make_dir(Location("dir/"), writing())
    assert made.location.item_id is not None


async def test_a_rename_whose_reply_was_lost_is_known(emu: Emulator, mount: Mount) -> None:
    put = await mount.put("old", b"content", stamp=writing(DATED))
    emu.faults.add(Rule(Action(What.DROP_AFTER_COMMIT), method="PATCH", times=1))
    target = Location("new")
    with pytest.raises(CsyncError):
        await mount.backend.move(put.location, target, Kind.FILE, version(put), ABSENT)
    moved = await mount.backend.move(put.location, target, Kind.FILE, version(put), ABSENT)
    assert moved.location.item_id == put.location.item_id
    assert emu.tree() == {"new": b"content"}


async def test_what_was_just_made_is_waited_for(emu: Emulator, mount: Mount) -> None:
    emu.knobs.not_found_s = 1.0
    await mount.backend.make_dir(Location("dir/"), writing())
    await mount.backend.make_dir(Location("dir/sub/"), writing())
    put = await mount.put("dir/sub/file", b"content", stamp=writing(DATED))
    assert version(await mount.head("dir/sub/file")).tag == version(put).tag
    assert await mount.names("dir/") == ["dir/sub/"]


async def test_a_flaky_service_loses_nothing(emu: Emulator, mount: Mount) -> None:
    emu.preset("flaky")
    # Sessions whose making was not answered are nobody's.
    emu.unwatch("session_left")
    contents = {f"f{number}": os.urandom(2000 + number) for number in range(12)}
    for key, content in contents.items():
        stamp, states = writing(DATED), list[str]()
        for _ in range(8):
            try:
                await mount.put(
                    key,
                    content,
                    stamp=stamp,
                    resume=states[-1] if states else None,
                    save_resume=states.append,
                )
                break
            except Retry:
                for open_one in emu.sessions():
                    open_one.state = "cancelled"
    emu.faults.clear()
    assert emu.tree() == contents


# -- downloads ----------------------------------------------------------------------------


async def test_an_address_that_expired_is_asked_for_again(emu: Emulator, mount: Mount) -> None:
    content = os.urandom(MIB)
    emu.write("file", content)
    emu.faults.add(Rule(Action.status(401), route="download", nth=1))
    assert await mount.read("file") == content


@pytest.mark.parametrize("size", [MIB, 12 * MIB])
async def test_a_download_that_breaks_off_goes_on_where_it_was(
    emu: Emulator, mount: Mount, size: int
) -> None:
    content = os.urandom(size)
    emu.write("file", content)
    emu.faults.add(Rule(Action(What.DROP_MID_BODY, count=size // 2), route="download", nth=1))
    assert await mount.read("file") == content
    # "restarted" is one of the emulator's complaints.
    assert emu.violations == []


async def test_a_server_that_ignores_ranges_is_understood(emu: Emulator, mount: Mount) -> None:
    emu.knobs.ignore_range = True
    content = os.urandom(10 * MIB)
    emu.write("file", content)
    item = await mount.head("file")
    with file_of(b"x" * 100) as fd:
        span = Span(9 * MIB, 9 * MIB + 50)
        await mount.backend.fetch(item.location, span, fd, version(item), ignore)
        assert os.pread(fd, 50, 9 * MIB) == content[9 * MIB : 9 * MIB + 50]
        assert os.pread(fd, 100, 0) == b"x" * 100


async def test_damage_is_noticed_before_a_byte_is_announced(emu: Emulator, mount: Mount) -> None:
    content = os.urandom(MIB)
    emu.write("file", content)
    item = await mount.head("file")
    emu.faults.add(Rule(Action(What.CORRUPT, count=777), route="download", nth=1))
    landed: list[Span] = []
    with file_of() as fd:
        span = Span(0, 1000)
        with pytest.raises(Retry):
            await mount.backend.fetch(item.location, span, fd, version(item), landed.append)
        assert [one for one in landed if one.size_bytes] == []
    assert await mount.read("file") == content


async def test_a_file_that_changes_under_a_download_gives_no_mixture(
    emu: Emulator, mount: Mount
) -> None:
    before, after = os.urandom(10 * MIB), os.urandom(10 * MIB)
    emu.write("file", before)
    item = await mount.head("file")
    landed: list[Span] = []
    with file_of() as fd:

        def overwrite(span: Span) -> None:
            if not landed:
                emu.write("file", after)
            landed.append(span)

        emu.faults.add(Rule(Action(What.DROP_MID_BODY, count=MIB), route="download", nth=1))
        with pytest.raises((VersionMismatch, Retry)):
            await mount.backend.fetch(item.location, Span(0, 9 * MIB), fd, version(item), overwrite)
        for span in landed:
            got = os.pread(fd, span.size_bytes, span.start)
            assert got == before[span.start : span.end]


async def test_malware_is_held_and_said(emu: Emulator, mount: Mount) -> None:
    emu.write("file", b"content")
    item = await mount.head("file")
    emu.infect("file")
    with file_of() as fd, pytest.raises(Hold):
        await mount.backend.fetch(item.location, Span(0, 7), fd, version(item), ignore)


# -- names and other items ----------------------------------------------------------------


async def test_a_name_that_differs_in_case_is_another_file(emu: Emulator, mount: Mount) -> None:
    emu.write("Readme", b"theirs")
    emu.write("Dir/file", b"theirs")
    for key, kind in (("README", Kind.FILE), ("dir/", Kind.DIR), ("dir/file", Kind.FILE)):
        with pytest.raises(NotFound):
            await mount.head(key, kind)
    with pytest.raises(NotFound):
        await mount.names("dir/")
    with pytest.raises(Unrepresentable):
        await mount.put("README", b"ours", stamp=writing(DATED))
    with pytest.raises(Unrepresentable):
        await mount.put("README", b"")
    with pytest.raises(Unrepresentable):
        await mount.backend.make_dir(Location("DIR/"), writing())
    await mount.backend.delete(Location("README"), Kind.FILE, None)
    assert emu.tree() == {"Readme": b"theirs", "Dir": None, "Dir/file": b"theirs"}


async def test_a_file_is_renamed_to_another_case(emu: Emulator, mount: Mount) -> None:
    put = await mount.put("readme", b"content", stamp=writing(DATED))
    target = Location("README")
    moved = await mount.backend.move(put.location, target, Kind.FILE, version(put), ABSENT)
    assert moved.location.item_id == put.location.item_id
    assert emu.tree() == {"README": b"content"}


async def test_a_rename_keeps_the_time(mount: Mount) -> None:
    put = await mount.put("old", b"content", stamp=writing(DATED))
    await mount.backend.move(put.location, Location("new"), Kind.FILE, version(put), ABSENT)
    assert (await mount.head("new")).attributes == DATED


async def test_names_in_two_unicode_forms_are_two(emu: Emulator, mount: Mount) -> None:
    names = ["caf\u00e9", "cafe\u0301"]
    for name in names:
        await mount.put(name, name.encode(), stamp=writing(DATED))
    assert set(await mount.names()) == set(names)
    emu.delete(names[1])
    emu.knobs.nfc_names = True
    with pytest.raises(NotFound):
        await mount.head(names[1])


async def test_odd_names_are_spelled_and_come_back(emu: Emulator, mount: Mount) -> None:
    for key in ("a:b", "con", "ends."):
        await mount.put(key, key.encode(), stamp=writing(DATED))
    assert sorted(emu.tree()) == ["a％003Ab", "ends％002E", "％0063on"]
    assert await mount.names() == ["a:b", "con", "ends."]


async def test_notebooks_and_shortcuts_are_not_shown_nor_overwritten(
    emu: Emulator, mount: Mount
) -> None:
    emu.package("Notebook")
    emu.write("file", b"content")
    assert await mount.names() == ["file"]
    with pytest.raises(NotFound):
        await mount.head("Notebook")
    with pytest.raises(Unrepresentable):
        await mount.put("Notebook", b"ours", stamp=writing(DATED))
    # It counts where a directory has to be empty.
    emu.mkdir("dir")
    emu.package("dir/Notebook")
    with pytest.raises(VersionMismatch):
        await mount.backend.delete(Location("dir/"), Kind.DIR, None)


# -- drives -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["me", "drive", "site", "library"])
async def test_every_way_to_name_a_drive_leads_to_it(emu: Emulator, place: str) -> None:
    emu.write("sub/file", b"content")
    site = emu.add_drive("sharepoint", name="Documents", site="sites/team")
    drives = {
        "me": "me",
        "drive": f"drive/{emu.drive_id}",
        "site": "site/contoso.sharepoint.com/sites/team:",
        "library": "site/contoso.sharepoint.com/sites/team:Documents",
    }
    backend = onedrive.backend_on(emu, drive=drives[place])
    can = await backend.connect()
    is_library = place in ("site", "library")
    assert ("SharePoint" in can.name) is is_library
    page = await backend.list_page(Location(""), None)
    assert [item.location.key for item in page.items] == ([] if is_library else ["sub/"])
    assert site != emu.drive_id
    await backend.aclose()


@pytest.mark.parametrize(
    ("drive", "prefix"),
    [
        ("drive/b!nowhere", ""),
        ("me", "missing"),
        ("me", "file"),
        ("site/contoso.sharepoint.com/sites/none:", ""),
        ("site/contoso.sharepoint.com/sites/team:None", ""),
    ],
)
async def test_what_is_not_there_is_said(emu: Emulator, drive: str, prefix: str) -> None:
    emu.write("file", b"")
    emu.add_drive("sharepoint", name="Documents", site="sites/team")
    backend = onedrive.backend_on(emu, drive=drive, prefix=prefix)
    with pytest.raises(NoSuchStore):
        await backend.connect()
    await backend.aclose()


async def test_a_directory_of_a_drive_is_mounted(emu: Emulator) -> None:
    emu.write("a b/c/file", b"content")
    emu.write("outside", b"")
    backend = onedrive.backend_on(emu, prefix="a b/c")
    mount = Mount(backend, await backend.connect())
    assert await mount.names() == ["file"]
    await mount.put("dir/new", b"new", stamp=writing(DATED))
    assert emu.tree()["a b/c/dir/new"] == b"new"
    await backend.aclose()


@pytest.mark.parametrize("shown", ["drop_zero", "upper"])
async def test_ids_that_are_told_wrongly_still_work(
    request: pytest.FixtureRequest, shown: str
) -> None:
    emu = onedrive.started(request, "personal")
    emu.knobs.drive_id = shown
    backend = onedrive.backend_on(emu, drive="me")
    mount = Mount(backend, await backend.connect())
    await mount.put("dir/file", b"content", stamp=writing(DATED))
    assert await mount.read("dir/file") == b"content"
    await backend.aclose()


@pytest.mark.parametrize(
    ("view", "is_known"), [("full", True), ("missing", False), ("zeros", False)]
)
async def test_the_quota_is_told_or_unknown(
    emu: Emulator, mount: Mount, view: str, is_known: bool
) -> None:
    emu.knobs.quota_view = view
    space = await mount.backend.space()
    assert (space is not None) is is_known
    if space is not None:
        assert space.total_bytes == emu.drive.quota_total


async def test_who_may_only_read_is_told(emu: Emulator) -> None:
    emu.knobs.static_token = False
    emu.write("file", b"content")
    backend = onedrive.backend_on(emu, token=emu.token(read_only=True))
    mount = Mount(backend, await backend.connect())
    assert await mount.read("file") == b"content"
    with pytest.raises(AccessDenied):
        await mount.put("new", b"content", stamp=writing(DATED))
    assert isinstance(backend, OneDriveBackend)
    await backend.aclose()
