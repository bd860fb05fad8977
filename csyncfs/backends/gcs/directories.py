"""Directories: a marker object ``dir/``, children, or both; see ``looking``."""

from csyncfs.backends.base import Writing
from csyncfs.backends.gcs import items, looking, uploading
from csyncfs.backends.gcs.commit import Commits
from csyncfs.backends.gcs.uploading import object_path
from csyncfs.backends.gcs.wire import Wire
from csyncfs.errors import VersionMismatch
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
    condition = items.condition(expect)
    if expect is None:
        # An object with a body is somebody's data: only the marker looked at goes.
        found = await looking.marker_of(wire, key)
        condition = {"ifGenerationMatch": str(found["generation"])}
    await _delete(wire, wire.options.object_name(key), condition)


async def delete_file(wire: Wire, key: str, expect: RemoteVersion | None) -> None:
    """Raises Unmet, NotFound."""
    await _delete(wire, wire.options.object_name(key), items.condition(expect))


async def _delete(wire: Wire, name: str, condition: dict[str, str]) -> None:
    await wire.change("deleting", "DELETE", object_path(name), condition)
