"""Directories in a flat store: a marker object, children, or both.

The marker is ``dir/``, empty, as the AWS console, s3fs and others make it, with the
directory's attributes as its metadata. Two kinds of servers that keep a tree inside handle
that key by rules of their own. SeaweedFS makes a directory of it and drops the metadata: there
the attributes are on an object of their own below the reserved prefix. rclone stores a file
``dir``: there the marker is an object in the directory, ``dir/.csyncfs-dir``.
"""

import hashlib
from typing import Final

from csyncfs.backends.base import Writing
from csyncfs.backends.failures import Unmet, may_have_happened
from csyncfs.backends.s3 import items, listing, uploading
from csyncfs.backends.s3.commit import Commits
from csyncfs.backends.s3.dialect import Verdict
from csyncfs.backends.s3.options import MARKER_NAME
from csyncfs.backends.s3.wire import Reply, Wire
from csyncfs.errors import NotFound, Retry, VersionMismatch
from csyncfs.types import ABSENT, RESERVED_DIR, Expect, Item, Kind, Location

_TREE_TYPES: Final = (uploading.DIR_TYPE, "httpd/unix-directory")


def marker_key(key: str, verdict: Verdict) -> str:
    """The object that carries the directory's attributes."""
    if verdict.dir_markers:
        return key
    if verdict.tree_dirs:
        return f"{RESERVED_DIR}dirs/{hashlib.sha256(key.encode()).hexdigest()}"
    return key + MARKER_NAME


async def head(wire: Wire, verdict: Verdict, key: str) -> Item:
    """The directory; version None where there are only children. Raises NotFound."""
    if not wire.options.base + key:
        return Item(Location(key), Kind.DIR, None)
    try:
        if key and verdict.tree_dirs and not verdict.dir_markers:
            await _require_tree_entry(wire, key)
        return await head_marker(wire, verdict, key)
    except NotFound:
        # The root of a mount exists, whether or not anything is in it yet.
        if not key or await _has_children(wire, key) or await _is_in_tree(wire, verdict, key):
            return Item(Location(key), Kind.DIR, None)
        raise


async def head_marker(wire: Wire, verdict: Verdict, key: str) -> Item:
    """The directory by its marker. Raises NotFound, also where there are children."""
    return await listing.head_object(
        wire, marker_key(key, verdict), key, Kind.DIR, md5_tags=verdict.md5_tags
    )


async def make(wire: Wire, verdict: Verdict, key: str, writing: Writing) -> Item:
    """See Backend.make_dir."""
    is_new = False
    if verdict.tree_dirs and not verdict.dir_markers:
        is_new = await _make_in_tree(wire, verdict, key)
    try:
        return await put_marker(wire, verdict, key, writing, ABSENT)
    except VersionMismatch as exc:
        if exc.current is None:
            raise
        if is_new and exc.current.version is not None:
            # Left over from a directory somebody else removed.
            return await put_marker(wire, verdict, key, writing, exc.current.version)
        return exc.current


async def _make_in_tree(wire: Wire, verdict: Verdict, key: str) -> bool:
    """Make the directory itself; False if it is there already.

    Conditional, since SeaweedFS would put it in the place of a file of the same name.
    """
    arguments = {"Key": wire.options.full_key(key), "Body": b"", "ContentType": uploading.DIR_TYPE}
    try:
        await wire.ask("put_object", **arguments, IfNoneMatch="*")
        return True
    except (Unmet, Retry) as exc:
        if not isinstance(exc, Unmet) and not may_have_happened(exc):
            raise
        failure = exc
    found = await _tree_entry(wire, key)
    if found is None:
        await _raise_for_file(wire, verdict, key.removesuffix("/"))
        raise Retry("the directory could not be made") from failure
    if items.tag_of(found).endswith("-0"):
        # It came with its children and would go with them; now no file can be replaced.
        await wire.ask("put_object", **arguments)
    return False


async def _raise_for_file(wire: Wire, verdict: Verdict, key: str) -> None:
    """Raises VersionMismatch if there is a file ``key``."""
    try:
        file = await listing.head_object(wire, key, key, Kind.FILE, md5_tags=verdict.md5_tags)
    except NotFound:
        return
    raise VersionMismatch("a file has the directory's name", file)


async def put_marker(
    wire: Wire, verdict: Verdict, key: str, writing: Writing, expect: Expect
) -> Item:
    """Create the marker, or give it these attributes."""

    async def head_it(_key: str, _kind: Kind) -> Item:
        return await head_marker(wire, verdict, key)

    commits = Commits(verdict, head_it)
    target = uploading.Target(marker_key(key, verdict), key, Kind.DIR)
    return await uploading.put_empty(wire, commits, target, writing, expect)


async def delete(wire: Wire, verdict: Verdict, key: str, condition: dict[str, str]) -> None:
    """Remove the marker; what is in the directory stays."""
    full = wire.options.full_key(marker_key(key, verdict))
    try:
        await wire.ask("delete_object", Key=full, **condition)
    except (NotFound, Unmet):
        if await _exists(wire, full):
            raise
        # By a request whose reply was lost: then only half of it was done.
    await _delete_from_tree(wire, verdict, key)


async def _exists(wire: Wire, full_key: str) -> bool:
    try:
        await wire.ask("head_object", Key=full_key)
    except NotFound:
        return False
    return True


async def _is_in_tree(wire: Wire, verdict: Verdict, key: str) -> bool:
    """True if a server that keeps a tree has this directory in it, empty or not."""
    return not verdict.dir_markers and await _tree_entry(wire, key) is not None


async def _require_tree_entry(wire: Wire, key: str) -> None:
    """Attributes outlive a directory that another tool removes. Raises NotFound."""
    if await _tree_entry(wire, key) is None:
        raise NotFound("no such directory")


async def _tree_entry(wire: Wire, key: str) -> Reply | None:
    """The directory in the server's tree; ``dir/`` may also mean the file ``dir`` there."""
    try:
        reply = await wire.ask("head_object", Key=wire.options.full_key(key))
    except NotFound:
        return None
    is_dir = str(reply.get("ContentType")) in _TREE_TYPES and not reply.get("ContentLength")
    return reply if is_dir else None


async def _delete_from_tree(wire: Wire, verdict: Verdict, key: str) -> None:
    """A tree goes on showing a directory that has become empty; with children it stays."""
    if await _is_in_tree(wire, verdict, key):
        try:
            await wire.ask("delete_object", Key=wire.options.full_key(key))
        except Unmet:
            if not await _has_children(wire, key):
                raise


async def _has_children(wire: Wire, key: str) -> bool:
    for prefix in wire.options.prefixes(key):
        reply = await wire.ask("list_objects_v2", Prefix=prefix, MaxKeys=1)
        if reply.get("Contents"):
            return True
    return False
