"""What a mount does with what the last one left behind, before anything else runs.

After a clean stop that is nothing. After a crash every promise is in the journal; what was
being written is taken as far as it is known to be good. Bytes nobody can explain are moved
to ``lost+found`` and reported, never deleted.
"""

import logging
import os
import stat
from pathlib import Path

from csyncfs.cache.files import ContentFiles
from csyncfs.clock import Clock
from csyncfs.errors import FsError
from csyncfs.extents import Extents
from csyncfs.store import attempts, contents, inodes, journal, settings
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.types import InodeId

log = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ORPHANS = 100_000


def recover(store: Store, files: ContentFiles, clock: Clock) -> list[str]:
    """Bring store and content files together; returns what the user should know."""
    was_clean = settings.get(store, "clean_stop") == "1"
    boot_id = _boot_id()
    warnings: list[str] = []
    was_power_lost = settings.get(store, "boot_id") not in (None, boot_id)
    is_log_cut = store.lost_pages > 0 and not was_power_lost
    with store.transaction():
        if not was_clean and was_power_lost:
            # Power was lost: clean bytes may never have reached the disk.
            contents.forget_clean(store)
        settings.put(store, "boot_id", boot_id)
        settings.put(store, "clean_stop", "0")
        attempts.forget_void(store)
    if is_log_cut:
        log.error("LAST CHANGES LOST: the log lacks pages=%d", store.lost_pages)
        warnings.append(
            f"the end of {store.path}-wal is missing: the last changes before the crash are lost"
        )
    if not was_clean or is_log_cut:
        warnings += _recover_dirty(store, files, is_log_cut=is_log_cut)
        with store.transaction():
            journal.release_held_back(store, clock.now_ns())
    _remove_orphans(store, files)
    return warnings


def note_clean_stop(store: Store) -> None:
    """Everything is saved; the next start has nothing to recover."""
    with store.transaction():
        settings.put(store, "clean_stop", "1")


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


def _recover_dirty(store: Store, files: ContentFiles, *, is_log_cut: bool) -> list[str]:
    """Every content file on the state side has to belong to a promise.

    Where the end of the log is missing, nothing in the store says that bytes there are known
    elsewhere: they are kept.
    """
    lost: list[Path] = []
    for ino in list(files.ids(dirty=True)):
        row = inodes.get(store, ino)
        if row is None:
            # Ids are never reused: one that was given out and is gone was unlinked.
            if ino <= _highest(store) and not is_log_cut:
                files.remove(ino)
            elif (path := files.lost_found(ino, "no inode of this id")) is not None:
                lost.append(path)
        elif row.dirty and row.nlink:
            _recover_file(store, files, row)
        elif is_log_cut:
            name = inodes.path_of(store, ino)
            reason = f"changes of {name!r} that the store does not know of any more"
            if (path := files.lost_found(ino, reason)) is not None:
                lost.append(path)
                _forget_clean(store, ino)
        elif row.nlink and contents.is_known(store, ino):
            # Uploaded, but the crash came before the file was moved to the cache side.
            _as_clean(files, ino)
    for path in lost:
        log.error("content nobody knows moved path=%s", path)
    return [f"{len(lost)} unexplained files were moved to {lost[0].parent}"] if lost else []


def _forget_clean(store: Store, ino: InodeId) -> None:
    with store.transaction():
        contents.forget(store, ino)


def _as_clean(files: ContentFiles, ino: InodeId) -> None:
    try:
        files.make_clean(ino)
    except FsError as exc:
        log.warning("content file not moved ino=%d error=%s", ino, exc)


def _recover_file(store: Store, files: ContentFiles, row: InodeRow) -> None:
    """A file that was being written: a new one is good as far as it goes, of an older one
    what was saved. Its generation moves on, so that no upload of before goes on."""
    intents = journal.of_inode(store, row.id)
    was_open = any(i.kind == "put" and i.not_before_ns is None for i in intents)
    if not was_open and contents.is_known(store, row.id):
        return
    fd = files.open(row.id, dirty=True)
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    with store.transaction():
        size = row.size
        if row.base is None and stat.S_ISREG(row.mode):
            size = found.st_size
            contents.save(
                store, row.id, Extents.whole(size), Extents.whole(size), found.st_mtime_ns
            )
        inodes.set_content_shape(
            store,
            row.id,
            size=size,
            mtime_ns=max(row.mtime_ns, found.st_mtime_ns) if was_open else row.mtime_ns,
            ctime_ns=row.ctime_ns,
            generation=row.generation + (1 << 32),
        )
    log.info("recovered ino=%d size=%d", row.id, size)


def _highest(store: Store) -> int:
    row = store.one("SELECT seq FROM sqlite_sequence WHERE name = 'inode'")
    return row[0] if row else 0


def _remove_orphans(store: Store, files: ContentFiles) -> None:
    """Inodes that were unlinked while open: nobody has them open any more."""
    for ino in inodes.orphans(store, _ORPHANS):
        if journal.has_any(store, ino):
            continue
        with store.transaction():
            contents.forget(store, ino)
            inodes.delete(store, ino)
        files.remove(ino)
