"""Directories in a flat store: a marker blob, children, or both; see ``looking``."""

from csyncfs.backends.azureblob import looking, uploading
from csyncfs.backends.azureblob.commit import Commits, condition
from csyncfs.backends.azureblob.items import tag_of
from csyncfs.backends.azureblob.wire import Wire
from csyncfs.backends.base import Writing
from csyncfs.backends.failures import Unmet
from csyncfs.errors import NotFound, VersionMismatch
from csyncfs.types import ABSENT, Item, Kind, RemoteVersion


async def make(wire: Wire, commits: Commits, key: str, writing: Writing) -> Item:
    """See Backend.make_dir."""
    try:
        return await uploading.put_marker(wire, commits, key, writing, ABSENT)
    except VersionMismatch as exc:
        if exc.current is None or exc.current.kind is not Kind.DIR:
            raise
        return exc.current


async def delete(wire: Wire, key: str, expect: RemoteVersion | None) -> None:
    """Remove the marker; what is in the directory stays. Raises Unmet, NotFound."""
    name = wire.options.blob_name(key)
    if expect is None:
        # Without a condition only what is known to be a directory.
        name, _ = await looking.find_marker(wire, key)
    try:
        await delete_blob(wire, name, expect)
    except (NotFound, Unmet):
        if expect is None or wire.is_hierarchical:
            raise
        name, _ = await looking.find_marker(wire, key)
        if not name.endswith("/"):
            raise
        await delete_blob(wire, name, expect)
    if not name.endswith("/") and not wire.is_hierarchical:
        await _delete_slashed(wire, f"{name}/")


async def _delete_slashed(wire: Wire, name: str) -> None:
    """The marker of another tool, so that the directory goes as a whole."""
    try:
        found = await looking.properties_of(wire, name)
        if not found.size:
            # What somebody puts there meanwhile stays.
            await delete_blob(wire, name, RemoteVersion(tag_of(found.etag), 0, 0))
    except (NotFound, Unmet):
        return


async def delete_blob(wire: Wire, name: str, expect: RemoteVersion | None) -> None:
    """Raises Unmet, NotFound."""
    await wire.change("deleting", lambda: wire.blob(name).delete_blob(**condition(expect)))
