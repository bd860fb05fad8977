"""The offline check of one mount's state and cache directories, and their repair.

Owns what becomes of bytes when the store and the content files do not agree. What the cloud
has can be dropped and is listed anew; what it has not goes where the store says, or to
``lost+found`` with the reason and the last known name. Nothing is checked while a mount runs.
"""

import itertools
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import msgspec

from csyncfs.cache.files import ContentFiles
from csyncfs.errors import StoreError, StoreLocked
from csyncfs.extents import Extents
from csyncfs.store import checks, contents, inodes, journal, offline, salvage, settings, wal
from csyncfs.store.checks import Flaw
from csyncfs.store.db import FILE_NAME, Store, lock, open_store
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import IntentKind
from csyncfs.types import InodeId

CLEAN: Final = 0
REPAIRED: Final = 1
LEFT: Final = 4
TROUBLE: Final = 8
USAGE: Final = 16

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


Kind = Literal["damaged", "lost", "wrong"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it must be."""

    kind: Kind
    """``lost``: bytes or changes are gone that nothing can bring back."""
    text: str
    repaired: bool


class Report(msgspec.Struct):
    """What a check found; ``code`` is the exit code, as fsck(8) has it."""

    state_dir: str
    findings: list[Finding] = []
    left_by_crash: int = 0
    """Things that are as a crash leaves them: the next mount settles them, nothing is lost."""
    files: int = 0
    """Files and directories known."""
    unsent: int = 0
    """Changes that wait to be sent."""

    @property
    def code(self) -> int:
        """The sum of 1 (something was repaired) and 4 (something is left); 0: all is well."""
        repaired = any(finding.repaired for finding in self.findings)
        left = any(not finding.repaired for finding in self.findings)
        return REPAIRED * repaired + LEFT * left


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of one mount."""

    state_dir: Path
    cache_dir: Path | None
    """None: not known; then only the state directory is checked."""


def check(places: Places, *, repair: bool = False) -> Report:
    """Check everything; without ``repair`` nothing is changed.

    Raises StoreLocked while a mount is up, StoreTooNew, StoreFull; StoreError where there is no
    store. Reads the whole database, and the lengths of content files, not their bytes.
    """
    if not (places.state_dir / FILE_NAME).exists() and not (places.state_dir / "dirty").is_dir():
        raise StoreError(f"no csyncfs store in {places.state_dir}")
    with _alone(places.state_dir) as lock_fd:
        return _Check(places, repair=repair).run(lock_fd)


@contextmanager
def _alone(state_dir: Path) -> Generator[int]:
    try:
        fd = lock(state_dir)
    except StoreLocked:
        raise StoreLocked(f"{state_dir} is in use: unmount first") from None
    try:
        yield fd
    finally:
        os.close(fd)


@dataclass
class _Check:
    """One run."""

    places: Places
    repair: bool
    report: Report = field(init=False)
    is_rebuilt: bool = False
    is_log_cut: bool = False

    def __post_init__(self) -> None:
        state_dir = self.places.state_dir
        self.report = Report(str(state_dir))
        # A place where nothing is, if the cache is not known.
        cache_dir = self.places.cache_dir or state_dir / "no-cache"
        self.files = ContentFiles(cache_dir, state_dir, only_look=not self.repair)

    def run(self, lock_fd: int) -> Report:
        state_dir = self.places.state_dir
        # Before anybody opens the store: that makes a new index of the log.
        lost_pages = wal.missing_pages(state_dir / FILE_NAME)
        if lost_pages and not self.repair:
            with wal.keeping_index(state_dir / FILE_NAME):
                return self._run(lock_fd, lost_pages)
        return self._run(lock_fd, lost_pages)

    def _run(self, lock_fd: int, lost_pages: int) -> Report:
        if offline.is_empty(self.places.state_dir) and not any(
            (self.places.state_dir / "dirty").glob("*/*")
        ):
            return self.report  # a mount that never was
        damage = self._damage()
        if damage and not self._rebuild(damage):
            self._list_unsent()
            return self.report
        with self._open(lock_fd) as store:
            if lost_pages and settings.get(store, "boot_id") in (None, _boot_id()):
                self.is_log_cut = True
                text = f"the last {lost_pages} pages of the log are missing: changes are lost"
                self.found("lost", text, repaired=self.repair)
            if not checks.is_empty(store):
                _Rows(self, store).check()
            self.report.files = inodes.count(store)
            totals = journal.totals(store)
            self.report.unsent = totals.waiting + totals.held
        return self.report

    def _damage(self) -> list[str]:
        if not (self.places.state_dir / FILE_NAME).exists():
            return ["it is missing"]
        if offline.is_empty(self.places.state_dir):
            return ["it is empty"]
        return offline.find_damage(self.places.state_dir)

    @contextmanager
    def _open(self, lock_fd: int) -> Generator[Store]:
        if not self.repair:
            with offline.open_read_only(self.places.state_dir) as store:
                yield store
            return
        store = open_store(self.places.state_dir, os.dup(lock_fd))
        try:
            yield store
        finally:
            store.close()

    def found(self, kind: Kind, text: str, *, repaired: bool) -> None:
        self.report.findings.append(Finding(kind, text, repaired))

    def _rebuild(self, damage: list[str]) -> bool:
        """Make a new database of what can be read; the old one goes to lost+found."""
        for line in damage:
            self.found("damaged", f"{FILE_NAME}: {line}", repaired=self.repair)
        if not self.repair:
            return False
        state_dir = self.places.state_dir
        saved = salvage.rebuild(state_dir)
        aside = _free_directory(state_dir / "lost+found", "store")
        (aside / "reason").write_text("\n".join(damage) + "\n")
        salvage.put_in_place(state_dir, aside)
        counted = ", ".join(f"{count} of {table}" for table, count in saved.items() if count)
        self.found(
            "damaged",
            f"{FILE_NAME} was made anew of the rows that could be read "
            f"({counted or 'none'}); the damaged one is in {aside}",
            repaired=True,
        )
        self.is_rebuilt = True
        return True

    def _list_unsent(self) -> None:
        """With a database that cannot be trusted, at least what is at stake."""
        files = self.files.lengths(dirty=True)
        if files:
            self.found(
                "damaged",
                f"{len(files)} files with {sum(files.values())} bytes that may not have been "
                f"sent are in {self.places.state_dir / 'dirty'}",
                repaired=False,
            )


class _Rows:
    """The part of a check that has a store to read."""

    def __init__(self, run: _Check, store: Store) -> None:
        self._run = run
        self._store = store
        self._files = run.files
        self._unsent = run.files.lengths(dirty=True)
        self._cached = run.files.lengths(dirty=False)

    def check(self) -> None:
        store = self._store
        if self._run.is_rebuilt:
            with store.transaction():
                checks.reserve_ids(store, max((*self._unsent, *self._cached), default=0))
        self._settle(self._lost_rows())
        self._settle(checks.root(store))
        self._settle(checks.names(store))
        self._settle(checks.unreachable(store))
        self._settle(checks.further_names(store))
        self._settle(checks.link_counts(store))
        self._settle(checks.foreign_keys(store))
        self._settle(checks.keys(store))
        self._settle(checks.extents(store))
        self._settle(checks.intents(store))
        self._settle(checks.promises(store))
        self._check_content()
        self._check_state_files()
        self._check_cache_files()

    def _settle(self, flaws: Iterator[Flaw]) -> None:
        for flaw in flaws:
            if not self._run.repair:
                self._wrong(flaw.text, repaired=False)
                continue
            done = self._repair(flaw)
            self._wrong(f"{flaw.text}{done}", repaired=done is not None)

    def _wrong(self, text: str, *, repaired: bool) -> None:
        self._run.found("wrong", text, repaired=repaired)

    def _lost(self, text: str) -> None:
        self._run.found("lost", text, repaired=self._run.repair)

    def _repair(self, flaw: Flaw) -> str | None:
        """What was done about it, for the report; None: nothing could be."""
        if flaw.repair is not None:
            with self._store.transaction():
                flaw.repair()
            return ""
        if flaw.inode is None:
            return None
        row = inodes.get(self._store, flaw.inode)
        if row is None:
            return ""
        if row.is_dir:
            return self._empty_out(row.id, flaw.text)
        return self._without_place(row, flaw.text)

    # -- names ---------------------------------------------------------------------------

    def _lost_rows(self) -> Iterator[Flaw]:
        """Names whose inode is gone, with unsent content that is not."""
        for (raw,) in self._store.all(
            "SELECT DISTINCT d.inode FROM dentry d LEFT JOIN inode i ON i.id = d.inode "
            "WHERE i.id IS NULL"
        ):
            ino, length = InodeId(raw), self._unsent.get(InodeId(raw))
            if length is None:
                continue
            path = checks.shown_path(self._store, ino)
            if not self._is_all_there(ino, length):
                yield Flaw(
                    f"{path}: its row is lost, and what is unsent of it is not all of it",
                    lambda ino=ino, path=path: self._put_aside(
                        ino, f"unsent changes of {path}, of which the rest is in the cloud"
                    ),
                )
                continue
            info = os.stat(self._run.places.state_dir)

            def revive(
                ino: InodeId = ino, length: int = length, info: os.stat_result = info
            ) -> None:
                now = info.st_mtime_ns
                checks.revive(self._store, ino, length, now, info.st_uid, info.st_gid)

            yield Flaw(f"{path}: its row is lost, its unsent content is here", revive)

    def _is_all_there(self, ino: InodeId, length: int) -> bool:
        try:
            known = contents.get(self._store, ino)
        except ValueError:
            return False
        if known is not None:
            return known[0].covers(0, length)
        return journal.find(self._store, ino, IntentKind.PUT) is None

    def _empty_out(self, directory: InodeId, why: str) -> str:
        """Let go of a directory nobody can get to, and of the files in it."""
        done = ""
        for (raw,) in self._store.all("SELECT inode FROM dentry WHERE parent = ?", (directory,)):
            row = inodes.get(self._store, InodeId(raw))
            # A directory in it is nobody's either, and comes by itself.
            if row is not None and not row.is_dir:
                done += self._without_place(row, why)
        with self._store.transaction():
            self._store.run("DELETE FROM dentry WHERE parent = ?", (directory,))
            checks.forget(self._store, directory)
        return done

    def _without_place(self, row: InodeRow, why: str) -> str:
        """Drop an inode; its unsent content goes to lost+found."""
        path = checks.shown_path(self._store, row.id) or "a file whose name is lost"
        aside = None
        if row.id in self._unsent and row.dirty:
            aside = self._put_aside(row.id, f"{path}: {why}")
        with self._store.transaction():
            checks.forget(self._store, row.id)
        return "" if aside is None else f"; its unsent content is in {aside}"

    def _put_aside(self, ino: InodeId, reason: str) -> Path | None:
        self._unsent.pop(ino, None)
        return self._files.lost_found(ino, reason)

    # -- content -------------------------------------------------------------------------

    def _check_content(self) -> None:
        """Rows of content have files that hold what they say."""
        for (raw,) in self._store.all(
            "SELECT inode FROM content UNION SELECT id FROM inode WHERE dirty = 1 ORDER BY 1"
        ):
            row = inodes.get(self._store, InodeId(raw))
            if row is None or row.nlink == 0 or not stat.S_ISREG(row.mode):
                continue
            try:
                known = contents.get(self._store, row.id)
            except ValueError:
                self._unreadable(row)
                continue
            if row.dirty:
                self._check_unsent(row, known)
            elif known is not None:
                self._check_cached(row, known[0])

    def _unreadable(self, row: InodeRow) -> None:
        """Extents that cannot be decoded; ``checks.extents`` has told."""
        if not self._run.repair:
            return
        with self._store.transaction():
            contents.forget(self._store, row.id)
        if row.dirty:
            self._check_unsent(row, None, is_row_lost=True)
        else:
            self._files.remove(row.id)

    def _check_unsent(
        self, row: InodeRow, known: tuple[Extents, Extents] | None, *, is_row_lost: bool = False
    ) -> None:
        length = self._unsent.get(row.id)
        if known is None:
            self._check_unsaved(row, length, is_row_lost=is_row_lost or self._run.is_rebuilt)
            return
        present, dirty = known
        if not dirty:
            return
        if length is None or length < dirty.end:
            self._lost_bytes(row, dirty, length)
        elif length < present.end:
            self._wrong(f"{self._path(row)}: cached content cut off", repaired=self._run.repair)
            if self._run.repair:
                with self._store.transaction():
                    contents.save(self._store, row.id, dirty, dirty, row.atime_ns)

    def _check_unsaved(self, row: InodeRow, length: int | None, *, is_row_lost: bool) -> None:
        """A file with changes and no row that says which bytes are good."""
        if length is None:
            if row.size and row.base is None:
                self._lost_bytes(row, Extents.whole(row.size), None)
            return
        if row.base is None or not is_row_lost:
            # As a crash leaves it, or as good: recovery takes a new file as it is.
            self._run.report.left_by_crash += 1
            return
        self._wrong(
            f"{self._path(row)}: which bytes are unsent is lost; the cloud's version stays",
            repaired=self._run.repair,
        )
        if self._run.repair:
            self._put_aside(row.id, f"unsent changes of {self._path(row)} in a copy with holes")
            self._revert(row)

    def _lost_bytes(self, row: InodeRow, dirty: Extents, length: int | None) -> None:
        rest = Extents() if length is None else dirty.copy()
        rest.truncate(length or 0)
        gone = dirty.total_bytes - rest.total_bytes
        how = "missing" if length is None else f"cut off at byte {length}"
        text = f"{self._path(row)}: {gone} UNSENT BYTES ARE LOST, its content file is {how}"
        if self._run.repair:
            aside = self._put_aside(row.id, f"what is left of {self._path(row)}")
            text += "" if aside is None else f"; the rest is in {aside}"
            text += "; the cloud's version stays" if row.in_cloud else "; the name is removed"
            self._revert(row)
        self._lost(text)

    def _revert(self, row: InodeRow) -> None:
        """Nothing of this side is left: what the cloud has, if it has the file, is the file."""
        with self._store.transaction():
            if not row.in_cloud or row.base is None:
                checks.forget(self._store, row.id)
                return
            journal.remove_kind(self._store, row.id, IntentKind.PUT)
            contents.forget(self._store, row.id)
            inodes.set_clean(self._store, row.id)
            inodes.set_size(self._store, row.id, row.base.size, row.base.mtime_ns)

    def _check_cached(self, row: InodeRow, present: Extents) -> None:
        length = self._cached.get(row.id, self._unsent.get(row.id))
        if length is None or length >= present.end:
            return  # a wiped cache is no fault
        self._wrong(f"{self._path(row)}: cached content cut off", repaired=self._run.repair)
        if self._run.repair:
            with self._store.transaction():
                contents.forget(self._store, row.id)
            self._files.remove(row.id)
            self._cached.pop(row.id, None)

    def _path(self, row: InodeRow) -> str:
        return checks.shown_path(self._store, row.id) or f"inode {row.id}"

    # -- files ---------------------------------------------------------------------------

    def _check_state_files(self) -> None:
        """Content files on the state side belong to a promise, or to what a crash leaves."""
        highest = checks.highest(self._store)
        is_doubtful = self._run.is_rebuilt or self._run.is_log_cut
        for ino, length in sorted(self._unsent.items()):
            row = inodes.get(self._store, ino)
            if row is not None and row.nlink and row.dirty:
                continue
            if row is None and (ino > highest or is_doubtful):
                self._unexplained(ino, length, "belongs to no file the store knows of")
            elif row is not None and row.nlink and self._run.is_log_cut:
                self._unexplained(ino, length, f"{self._path(row)} has changes the store lost")
            else:
                self._run.report.left_by_crash += 1
        for path in self._files.strangers(dirty=True):
            self._wrong(f"{path} is not from csyncfs", repaired=self._run.repair)
            if self._run.repair:
                self._files.put_aside(path, path.name, "found among the content files")

    def _unexplained(self, ino: InodeId, length: int, why: str) -> None:
        text = f"content file {ino} of {length} bytes: {why}"
        if self._run.repair:
            aside = self._files.lost_found(ino, why)
            with self._store.transaction():
                contents.forget(self._store, ino)
            text += f"; it is in {aside}"
        self._wrong(text, repaired=self._run.repair)

    def _check_cache_files(self) -> None:
        """Files on the cache side hold nothing that the cloud has not."""
        for ino in self._cached:
            if contents.is_known(self._store, ino):
                continue
            self._run.report.left_by_crash += 1
            row = inodes.get(self._store, ino)
            # One that is being written was not moved yet when it crashed.
            if self._run.repair and (row is None or not row.dirty):
                self._remove_cached(ino)

    def _remove_cached(self, ino: InodeId) -> None:
        if ino not in self._unsent:
            self._files.remove(ino)


def _free_directory(parent: Path, name: str) -> Path:
    for count in itertools.count():
        path = parent / (f"{name}.{count}" if count else name)
        try:
            path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("counted for ever")


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"
