"""Whether a local file and a remote version hold the same bytes.

Equal bytes are never a conflict, so this is asked before one is made.
"""

import hashlib
import os
import stat
import tempfile

import trio

from csyncfs.backends.base import Backend
from csyncfs.inode import LiveInode
from csyncfs.store.inodes import InodeRow
from csyncfs.types import Item, RemoteVersion, Span

_STEP_BYTES = 8 << 20


async def are_equal(backend: Backend, live: LiveInode, row: InodeRow, item: Item) -> bool:
    """Compare by size, then by MD5 if the provider tells one, else by fetching.

    A local side with holes that were never fetched is not equal to anything newer.
    """
    version = item.version
    if version is None:
        return False
    if stat.S_ISLNK(row.mode):
        return await _is_target(backend, row.target or b"", item, version)
    if not stat.S_ISREG(row.mode) or live.size != version.size:
        return False
    if live.size == 0:
        return True
    if live.fd < 0 or not live.present.covers(0, live.size):
        return False
    if version.md5 is not None:
        return await trio.to_thread.run_sync(_md5, live.fd, live.size) == version.md5
    return await _fetch_and_compare(backend, live, item, version)


async def _is_target(backend: Backend, target: bytes, item: Item, version: RemoteVersion) -> bool:
    if len(target) != version.size or version.size == 0:
        return False
    fd = os.memfd_create("csyncfs-target")
    try:
        await backend.fetch(item.location, Span(0, version.size), fd, version, lambda _: None)
        return os.pread(fd, version.size, 0) == target
    finally:
        os.close(fd)


def _md5(fd: int, size: int) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, size, _STEP_BYTES):
        digest.update(os.pread(fd, min(_STEP_BYTES, size - start), start))
    return digest.hexdigest()


async def _fetch_and_compare(
    backend: Backend, live: LiveInode, item: Item, version: RemoteVersion
) -> bool:
    with tempfile.TemporaryFile() as scratch:
        fd = scratch.fileno()
        for start in range(0, version.size, _STEP_BYTES):
            span = Span(start, min(start + _STEP_BYTES, version.size))
            await backend.fetch(item.location, span, fd, version, lambda _: None)
            if not await trio.to_thread.run_sync(_same_span, live.fd, fd, span):
                return False
            os.ftruncate(fd, 0)
    return True


def _same_span(a: int, b: int, span: Span) -> bool:
    return os.pread(a, span.size_bytes, span.start) == os.pread(b, span.size_bytes, span.start)
