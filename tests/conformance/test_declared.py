"""Stores are as their traits declare them to people: see ``csyncfs.backends.traits``."""

import pytest

from csyncfs.backends import azureblob, gcs, onedrive, s3
from csyncfs.backends.azureblob import traits as azure_traits
from csyncfs.backends.directory import traits as directory_traits
from csyncfs.backends.gcs import traits as gcs_traits
from csyncfs.backends.onedrive import traits as onedrive_traits
from csyncfs.backends.s3 import traits as s3_traits
from csyncfs.backends.traits import Traits
from csyncfs.errors import CsyncError, Unrepresentable
from csyncfs.types import Attributes, Item, Kind, Location
from tests.conformance.mount import Mount, writing
from tests.support.verdicts import VERDICTS

NAMES = ("a\\b", 'a"*:<>?|b', "a\x01b", "a.", "a ", "con", "~$a", "a\uff050041", "b")
MTIME_NS = 1_600_000_000_000_000_000


@pytest.fixture
def traits(way: tuple[str, str]) -> Traits:
    kind = way[0]
    if kind.startswith("memory"):
        pytest.skip("memory is nobody's store")
    if kind.startswith("directory"):
        return directory_traits.traits()
    if kind.startswith("onedrive"):
        options = onedrive.OneDriveOptions("me")
        return onedrive_traits.traits(options, is_personal=kind.endswith("personal"))
    if kind.startswith("gcs"):
        return gcs_traits.traits(gcs.GcsOptions("bucket"))
    if kind == "azurite":
        return azure_traits.traits(azureblob.AzureOptions("account", "container"))
    verdict = VERDICTS["rclone_s3" if kind == "rclone" else kind]
    return s3_traits.traits(verdict, s3.S3Options("bucket"))


async def test_case_counts_as_declared(mount: Mount, traits: Traits) -> None:
    await mount.put("dir/name", b"lower")
    if traits.folds_case:
        with pytest.raises(CsyncError):
            await mount.put("dir/NAME", b"upper")
        return
    await mount.put("dir/NAME", b"upper")
    assert await mount.read("dir/name") == b"lower"
    assert await mount.read("dir/NAME") == b"upper"


async def test_names_are_spelled_as_declared(mount: Mount, traits: Traits) -> None:
    await mount.parents("dir/x")
    kept = list[str]()
    for name in NAMES:
        is_refused = _is_refused(traits, name)
        try:
            await mount.put(f"dir/{name}", b"content")
        except Unrepresentable:
            # rclone itself refuses some more names than it rewrites.
            assert is_refused or mount.can.name == "s3 (unknown S3 server)", name
            continue
        assert not is_refused, name
        kept.append(f"dir/{name}")
    assert sorted(await mount.names("dir/")) == sorted(kept)


def _is_refused(traits: Traits, name: str) -> bool:
    try:
        traits.name_there(name)
    except Unrepresentable:
        return True
    return False


async def test_times_of_change_are_kept_as_declared(mount: Mount, traits: Traits) -> None:
    await mount.put("file", b"content", stamp=writing(Attributes(mtime_ns=MTIME_NS)))
    found = (await mount.head("file")).attributes
    assert (found is not None and found.mtime_ns == MTIME_NS) == traits.keeps_mtime


async def test_listings_tell_attributes_as_declared(mount: Mount, traits: Traits) -> None:
    stamp = writing(Attributes(mode=0o100741, mtime_ns=MTIME_NS))
    await mount.put("dir/file", b"content", stamp=stamp)
    items: list[Item] = [
        item
        for item in (await mount.backend.list_page(Location("dir/"), None)).items
        if item.kind is Kind.FILE
    ]
    assert [item.attributes is not None for item in items] == [traits.lists_attributes]
