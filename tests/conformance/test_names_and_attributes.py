"""Odd names and POSIX attributes survive the way to the store and back."""

import os
import stat

import pytest

from csyncfs.errors import Unrepresentable
from csyncfs.types import ABSENT, Attributes, Kind, Location
from tests.conformance.mount import Mount, version, writing

NAMES = {
    "nfc": "caf\u00e9",
    "nfd": "cafe\u0301",
    "space": "two words",
    "edge-spaces": " x ",
    "quotes": 'it\'s "quoted" `so`',
    "plus": "a+b",
    "percent": "100%25%2Fx",
    "ampersand": "a&b=c;d",
    "question": "what?#hash",
    "leading-dot": ".hidden",
    "trailing-dot": "dot.",
    "trailing-space": "space ",
    "backslash": "a\\b",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 ok",
    "markup": "<a>&amp;]]>",
    "colon-star": 'c:*|"x',
    "dashes": "--rf",
    "upper": "FILE",
    "255-bytes": "n" * 255,
    "255-bytes-utf8": "\u00e9" * 127 + "n",
    "newline": "a\nb",
    "control": "a\x01b",
    "not-utf8": os.fsdecode(b"caf\xe9"),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
async def test_a_name_comes_back_or_is_refused(mount: Mount, name: str) -> None:
    # A neighbour, so that a listing which one odd name breaks is noticed.
    await mount.put("dir/neighbour", b"neighbour")
    key = f"dir/{name}"
    is_short = len(os.fsencode(name)) < 250
    try:
        put = await mount.put(key, b"content")
        if is_short:
            await mount.put(f"{key}.d/{name}", b"below")
    except Unrepresentable:
        assert await mount.names("dir/") == ["dir/neighbour"]
        return
    assert put.location.key == key
    expected = {key, "dir/neighbour"}
    if is_short:
        expected.add(f"{key}.d/")
        assert await mount.names(f"{key}.d/") == [f"{key}.d/{name}"]
        assert await mount.read(f"{key}.d/{name}") == b"below"
    assert set(await mount.names("dir/")) == expected
    assert await mount.read(key) == b"content"
    changed = await mount.put(key, b"changed", version(put))
    if mount.can.server_copy:
        copied = await mount.backend.copy(
            Location(key), Location("copy"), writing(), version(changed), ABSENT
        )
        assert await mount.read("copy", version(copied)) == b"changed"
    await mount.backend.delete(Location(key), Kind.FILE, version(changed))
    assert key not in await mount.names("dir/")


async def test_a_path_as_long_as_linux_allows(mount: Mount) -> None:
    """PATH_MAX is 4,096 bytes; a key of S3 has 1,024. Short and long names side by side."""
    if mount.can.max_key_bytes:
        pytest.skip(f"{mount.can.name} has keys of {mount.can.max_key_bytes} bytes at most")
    parts = [f"{number:0199d}/" for number in range(20)]
    for depth in range(1, 21):
        await mount.backend.make_dir(Location("".join(parts[:depth])), writing())
    above, deep = "".join(parts[:4]), "".join(parts)
    await mount.put(f"{above}short", b"short")
    await mount.put(f"{above}{'l' * 250}", b"long")
    put = await mount.put(f"{deep}f", b"deep")
    assert (await mount.head(deep, Kind.DIR)).kind is Kind.DIR
    assert await mount.read(f"{deep}f") == b"deep"
    assert await mount.names(deep) == [f"{deep}f"]
    copied = await mount.backend.copy(
        Location(f"{deep}f"), Location(f"{above}{'c' * 250}"), writing(), version(put), ABSENT
    )
    assert set(await mount.names(above)) == {
        *(f"{above}short", f"{above}{'l' * 250}"),
        *(f"{above}{parts[4]}", copied.location.key),
    }
    await mount.backend.delete(Location(f"{deep}f"), Kind.FILE, version(put))
    await mount.backend.delete(Location(deep), Kind.DIR, None)
    assert await mount.names("".join(parts[:19])) == []


async def test_raw_names_are_kept_or_refused_as_declared(mount: Mount) -> None:
    if mount.can.raw_names:
        await mount.put(NAMES["not-utf8"], b"content")
        assert await mount.names() == [NAMES["not-utf8"]]
    else:
        with pytest.raises(Unrepresentable):
            await mount.put(NAMES["not-utf8"], b"content")


async def test_names_that_differ_only_in_form_are_different(mount: Mount) -> None:
    names = [NAMES["nfc"], NAMES["nfd"], "file", "FILE", "a", "a ", "a."]
    for name in names:
        await mount.put(name, name.encode())
    assert set(await mount.names()) == set(names)
    for name in names:
        assert await mount.read(name) == name.encode()


async def test_attributes_come_back_to_the_nanosecond(mount: Mount) -> None:
    mount.needs("keeps_attributes")
    attributes = Attributes(mode=0o100741, mtime_ns=1_234_567_890_123_456_789)
    put = await mount.put("file", b"content", stamp=writing(attributes))
    for item in (put, await mount.head("file")):
        if item.attributes is not None:
            assert item.attributes.mode == 0o100741
            assert item.attributes.mtime_ns == 1_234_567_890_123_456_789
    assert (await mount.head("file")).attributes is not None


async def test_a_time_before_1970_comes_back(mount: Mount) -> None:
    mount.needs("keeps_attributes")
    await mount.put("file", b"", stamp=writing(Attributes(mtime_ns=-1_500_000_000)))
    found = await mount.head("file")
    assert found.attributes is not None
    assert found.attributes.mtime_ns == -1_500_000_000


async def test_the_owner_comes_back(mount: Mount) -> None:
    mount.needs("keeps_attributes")
    if any("owner" in warning for warning in mount.can.warnings):
        pytest.skip(f"{mount.can.name} warns that it keeps no owner")
    owner = Attributes(uid=12345, gid=54321)
    await mount.put("file", b"content", stamp=writing(owner))
    await mount.backend.make_dir(Location("dir/"), writing(owner))
    for found in (await mount.head("file"), await mount.head("dir/", Kind.DIR)):
        assert found.attributes is not None
        assert (found.attributes.uid, found.attributes.gid) == (12345, 54321)


async def test_xattrs_come_back_and_are_replaced(mount: Mount) -> None:
    mount.needs("keeps_attributes")
    if any("xattrs" in warning for warning in mount.can.warnings):
        pytest.skip(f"{mount.can.name} warns that it keeps no xattrs")
    xattrs = {"user.text": b"value", "user.binary": bytes(range(256)), "user.empty": b""}
    put = await mount.put("file", b"content", stamp=writing(Attributes(xattrs=xattrs)))
    found = await mount.head("file")
    assert found.attributes is not None
    assert dict(found.attributes.xattrs) == xattrs
    await mount.backend.set_attributes(
        put.location,
        Kind.FILE,
        writing(Attributes(xattrs={"user.text": b"other"})),
        version(found),
    )
    found = await mount.head("file")
    assert found.attributes is not None
    assert dict(found.attributes.xattrs) == {"user.text": b"other"}


async def test_a_symlink_comes_back_with_its_target(mount: Mount) -> None:
    mount.needs("keeps_attributes")
    link = Attributes(mode=stat.S_IFLNK | 0o777, mtime_ns=1_600_000_000_000_000_001)
    target = "../caf\u00e9/target file".encode()
    put = await mount.put("link", target, stamp=writing(link))
    found = await mount.head("link")
    assert (found.kind, version(found).size) == (Kind.FILE, len(target))
    assert found.attributes is not None
    assert found.attributes.mode == stat.S_IFLNK | 0o777
    assert found.attributes.mtime_ns == link.mtime_ns
    assert await mount.read("link") == target
    again = await mount.put("link", b"elsewhere", version(put), stamp=writing(link))
    assert await mount.read("link", version(again)) == b"elsewhere"


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
async def test_a_special_file_comes_back(mount: Mount, kind: int) -> None:
    mount.needs("keeps_attributes")
    is_device = kind in {stat.S_IFCHR, stat.S_IFBLK}
    rdev = os.makedev(1, 3) if is_device else None
    try:
        await mount.put("node", b"", stamp=writing(Attributes(mode=kind | 0o640, rdev=rdev)))
    except Unrepresentable:
        assert is_device
        return
    found = await mount.head("node")
    assert (found.kind, version(found).size) == (Kind.FILE, 0)
    assert found.attributes is not None
    assert (found.attributes.mode, found.attributes.rdev) == (kind | 0o640, rdev)
    assert await mount.read("node") == b""


async def test_attributes_that_were_not_given_are_not_invented(mount: Mount) -> None:
    mount.needs("keeps_attributes")
    if mount.can.real_dirs:
        pytest.skip(f"{mount.can.name} declares real_dirs: every file has attributes there")
    await mount.put("file", b"content", stamp=writing(Attributes(mode=0o100644)))
    found = await mount.head("file")
    assert found.attributes == Attributes(mode=0o100644)
