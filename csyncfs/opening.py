"""Content files as they are found: opened, compared with what the store says, and emptied.

Owns the answer to a content file that is missing or too short: what is clean is fetched
again, what the cloud has not is lost and said to be, and zeros stand for neither.
"""

import errno
import logging
import os
from typing import NoReturn

from csyncfs.cache.files import ContentFiles, ContentMissing
from csyncfs.cache.holes import WORTH_BYTES, Holes
from csyncfs.cache.space import Space
from csyncfs.errors import ContentLost, FsError
from csyncfs.extents import Extents
from csyncfs.inode import LiveInode
from csyncfs.store import contents, inodes
from csyncfs.store.db import Store

log = logging.getLogger(__name__)


def open_file(store: Store, files: ContentFiles, space: Space, live: LiveInode) -> None:
    """Open the content file the store knows of; a wiped cache only costs a fetch.

    Raises ContentLost where bytes are gone that were only there.
    """
    try:
        fd = files.open(live.ino, dirty=live.is_dirty_file)
    except ContentMissing:
        if live.dirty:
            _lost(store, live, "missing")
        _distrust(store, space, live)
        return
    length = os.fstat(fd).st_size
    if length < live.dirty.end:
        os.close(fd)
        _lost(store, live, f"cut off at byte {length}")
    if length < live.present.end:
        # Cut off from outside, or by a power loss: what is behind would read as zeros.
        _distrust(store, space, live)
    live.fd = fd
    if live.is_dirty and length > live.size:
        # Left by a crash: written, but never saved. A file that grows must find zeros.
        os.ftruncate(fd, live.size)


def _lost(store: Store, live: LiveInode, how: str) -> NoReturn:
    path = inodes.path_of(store, live.ino)
    log.error("UNSENT BYTES LOST path=%r ino=%d: its content file is %s", path, live.ino, how)
    shown = "?" if path is None else path.decode(errors="backslashreplace")
    raise ContentLost(
        errno.EIO, f"unsent bytes of {shown} are lost: content file {live.ino} is {how}"
    )


def _distrust(store: Store, space: Space, live: LiveInode) -> None:
    """What is clean can be fetched again. Written down at once: else it would be found, and its
    space given back, once more."""
    kept = live.dirty.copy()
    with store.transaction():
        if kept:
            contents.save(store, live.ino, kept, live.dirty, live.used_ns)
        else:
            contents.forget(store, live.ino)
    space.release(live.present.total_bytes - live.dirty.total_bytes)
    space.holes.at_most(live.ino, kept.total_bytes)
    live.present = kept


def reopen(files: ContentFiles, live: LiveInode, *, dirty: bool) -> None:
    """The content file was copied. The descriptor keeps its number: threads read from it."""
    fd = files.open(live.ino, dirty=dirty)
    try:
        os.dup2(fd, live.fd, inheritable=False)
    finally:
        os.close(fd)


def close(live: LiveInode) -> None:
    """Let go of the content file, if it is open."""
    if live.fd >= 0:
        os.close(live.fd)
        live.fd = -1


def measure_holes(store: Store, files: ContentFiles, holes: Holes) -> None:
    """At mount: which of the files that wait for upload are not wholly on the disk."""
    for cached in contents.unsent_of_size(store, WORTH_BYTES):
        try:
            fd = files.open(cached.inode, dirty=True)
        except FsError:
            # Found, and told, when it is needed.
            continue
        try:
            holes.measure(cached.inode, fd, cached.bytes)
        finally:
            os.close(fd)


def empty_file(files: ContentFiles, live: LiveInode, clean: Extents) -> None:
    """Give the space of the clean ranges back; what stays is as long as the file is."""
    fd = live.fd
    if fd < 0:
        try:
            fd = files.open(live.ino, dirty=live.is_dirty_file)
        except ContentMissing:
            return
    try:
        if not live.dirty:
            os.ftruncate(fd, 0)
            return
        for span in clean:
            files.punch(fd, span.start, span.end)
        if os.fstat(fd).st_size < live.dirty.end:
            os.ftruncate(fd, live.dirty.end)
    finally:
        if live.fd < 0:
            os.close(fd)
