"""Taking, giving up and moving a name on a condition.

csyncfs mounts keep out of each other's way with a lock file per group of names. Foreign
programs know nothing of it, so no check made before a rename is worth anything against
them: they may save between the two. Therefore what a name held is *swapped out*
(RENAME_EXCHANGE) and inspected afterwards. If it is not the version that was expected, it
goes back, and what was there for these microseconds was ours alone. A name to be deleted is
moved aside and inspected in the same way.

Where the file system cannot exchange, it is compare and rename, and ``connect`` warns. A
program that goes on writing through a descriptor it opened before the swap writes into
the displaced file, as with every program that saves by renaming.
"""

import errno
import fcntl
import hashlib
import logging
import os
import stat
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum

from csyncfs.backends.base import Writing
from csyncfs.backends.directory import temps as unfinished
from csyncfs.backends.directory.syscalls import rename_exchange, rename_noreplace
from csyncfs.backends.directory.temps import Content, Made
from csyncfs.backends.directory.tree import (
    LOCKS,
    PUT_XATTR,
    TEMPS,
    Entry,
    Place,
    Tree,
    identity,
    lstat,
    proc_path,
    tag_of,
    version_of,
)
from csyncfs.errors import NotFound, Retry, Unrepresentable, VersionMismatch
from csyncfs.types import ABSENT, Expect, Item, Kind, RemoteVersion

log = logging.getLogger(__name__)

_LOCK_FILES = 64
_SWAPS = 100

# What is swapped out goes by another name than an item in the making: after a crash at the
# wrong moment it may be the only name of something foreign, so nothing sweeps it up.
_SWAP = "swap-"


class CreateBy(Enum):
    """How a file takes a name that must be free."""

    NOREPLACE = "noreplace"
    LINK = "link"
    CHECK = "check"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What ``connect`` found the file system able to do."""

    create_by: CreateBy
    can_exchange: bool


class Commits:
    """Changes to names below one root. Runs in worker threads."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.abilities = Abilities(CreateBy.CHECK, can_exchange=False)

    def put(self, key: str, made: Made, writing: Writing, expect: Expect) -> Item:
        """Give the temp item its name, if the name still holds what is expected.

        On an error the temp item stays where it is.
        """
        tree = self._tree
        with tree.place(key) as place, self._own(made) as own:
            try:
                if expect is ABSENT:
                    self._create(own.place, place)
                else:
                    with self._locked(key):
                        self._replace(own.place, place, made, expect)
            except VersionMismatch:
                done = self._committed_before(place, own, writing)
                if done is None:
                    raise
                unfinished.discard(tree, made)
                return done
            _sync(place.directory)
            return self._settled(key, own.fd, made)

    @contextmanager
    def _own(self, made: Made) -> Generator["_Own"]:
        with self._tree.reserved(TEMPS) as temps:
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(made.name, flags, dir_fd=temps)
            try:
                yield _Own(Place("", temps, made.name), fd, made)
            finally:
                os.close(fd)

    def _settled(self, key: str, fd: int, made: Made) -> Item:
        """Our item under its name. The tag is made from what we wrote: if a foreign program
        has written into it already, it is the tag of a version that is gone, not of theirs."""
        st = os.fstat(fd)
        item = self._tree.item(Entry(key, fd, st))
        if item.version is None or identity(st) == made.identity:
            return item
        tag = tag_of(st, made.st.st_mtime_ns, made.st.st_size)
        version = RemoteVersion(tag, made.st.st_size, st.st_ctime_ns)
        return Item(item.location, item.kind, version, None, item.put_id, item.device)

    def _committed_before(self, place: Place, own: "_Own", writing: Writing) -> Item | None:
        """The item at the place, if it is this very write whose reply was lost."""
        item = self._tree.current(place)
        if item is None or item.kind is Kind.DIR or item.version is None:
            return None
        if item.put_id is not None:
            return item if item.put_id == writing.put_id else None
        # No stamps on this file system (or on a symlink): equal in all that was written.
        attributes, st = item.attributes, own.made.st
        if attributes is None or item.version.size != st.st_size:
            return None
        mtime_ns = writing.attributes.mtime_ns
        is_alike = attributes.mode == st.st_mode and mtime_ns in {None, attributes.mtime_ns}
        return item if is_alike and self._is_same_content(place, own) else None

    def _is_same_content(self, place: Place, own: "_Own") -> bool:
        with self._tree.entry(place) as theirs:
            if stat.S_IFMT(theirs.st.st_mode) != stat.S_IFMT(own.made.st.st_mode):
                return False
            if stat.S_ISLNK(theirs.st.st_mode):
                return os.readlink("", dir_fd=theirs.fd) == os.readlink("", dir_fd=own.fd)
            if not stat.S_ISREG(theirs.st.st_mode):
                return theirs.st.st_rdev == own.made.st.st_rdev
            with open(proc_path(theirs.fd), "rb") as a, open(proc_path(own.fd), "rb") as b:
                while (piece := a.read(unfinished.STEP_BYTES)) == b.read(unfinished.STEP_BYTES):
                    if not piece:
                        return True
            return False

    def _create(self, source: Place, target: Place) -> None:
        """Rename to a name that must be free."""
        by = self.abilities.create_by
        is_dir = stat.S_ISDIR(lstat(source.directory, source.name).st_mode)
        try:
            if by is CreateBy.NOREPLACE:
                rename_noreplace(source.directory, source.name, target.directory, target.name)
                return
            if by is CreateBy.LINK and not is_dir:
                os.link(
                    source.name,
                    target.name,
                    src_dir_fd=source.directory,
                    dst_dir_fd=target.directory,
                    follow_symlinks=False,
                )
                os.unlink(source.name, dir_fd=source.directory)
                return
        except FileExistsError:
            raise self._tree.mismatch(target) from None
        with suppress(FileNotFoundError):
            lstat(target.directory, target.name)
            raise self._tree.mismatch(target)
        _rename(source, target)

    def _replace(self, own: Place, place: Place, made: Made, expect: RemoteVersion) -> None:
        """Rename over a name that must hold the expected version."""
        before = self._expected(place, expect, Kind.FILE)
        if not self.abilities.can_exchange:
            _rename(own, place)
            return
        held = Place(place.key, own.directory, _SWAP + own.name)
        _rename(own, held)
        try:
            _exchange(held, place)
        except FileNotFoundError:
            _rename(held, own)
            raise self._tree.mismatch(place) from None
        if identity(lstat(held.directory, held.name)) == identity(before):
            os.unlink(held.name, dir_fd=held.directory)
            return
        self._put_back(held, place, made.identity)
        raise self._tree.mismatch(place)

    def _expected(self, place: Place, expect: RemoteVersion, kind: Kind) -> os.stat_result:
        try:
            with self._tree.entry(place) as entry:
                if entry.kind is kind and version_of(entry.st).tag == expect.tag:
                    return entry.st
        except FileNotFoundError:
            pass
        raise self._tree.mismatch(place)

    def _put_back(self, held: Place, place: Place, placed: tuple[int, ...]) -> None:
        """Swap back what was displaced by mistake.

        ``placed``: what we believe the name holds. If the swap brings out something else,
        somebody saved yet again, and that is the newest: it goes back in turn.
        """
        for _ in range(_SWAPS):
            ours = identity(lstat(held.directory, held.name))
            try:
                _exchange(held, place)
            except FileNotFoundError:
                # Deleted meanwhile, whatever it was; an edit beats a delete.
                with suppress(VersionMismatch):
                    self._create(held, place)
                    return
                continue
            if identity(lstat(held.directory, held.name)) == placed:
                os.unlink(held.name, dir_fd=held.directory)
                return
            placed = ours
        self._rescue(held, place)

    def _rescue(self, held: Place, place: Place) -> None:
        """Keep bytes that have no name any more where nothing deletes them."""
        name = "rescued-" + held.name.removeprefix(_SWAP)
        os.rename(held.name, name, src_dir_fd=held.directory, dst_dir_fd=held.directory)
        log.error("kept a displaced file key=%r as=%s%s", place.key, TEMPS, name)
        raise Retry(f"{place.key!r} is changing too fast")

    @contextmanager
    def _locked(self, *keys: str) -> Generator[None]:
        """Keep other csyncfs mounts off these names. Always in the same order."""
        digests = (hashlib.sha256(os.fsencode(key.removesuffix("/"))).digest() for key in keys)
        groups = sorted({digest[0] % _LOCK_FILES for digest in digests})
        with ExitStack() as stack:
            locks = stack.enter_context(self._tree.reserved(LOCKS))
            for group in groups:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(f"{group:02}", flags, 0o666, dir_fd=locks)
                stack.callback(os.close, fd)
                if stat.S_IMODE(os.fstat(fd).st_mode) != 0o666:
                    # Whatever the umask of whoever came first, other users lock here too.
                    with suppress(PermissionError):
                        os.fchmod(fd, 0o666)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX)
                except OSError as exc:
                    # No lock service: the exchange still keeps every version.
                    if exc.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:
                        raise
            yield

    def delete(self, key: str, kind: Kind, expect: RemoteVersion | None) -> None:
        try:
            with self._tree.place(key) as place, self._locked(key):
                if kind is Kind.DIR:
                    self._remove_dir(place, expect)
                else:
                    self._remove_file(place, expect)
                _sync(place.directory)
        except (FileNotFoundError, NotADirectoryError):
            return

    def _remove_dir(self, place: Place, expect: RemoteVersion | None) -> None:
        if not stat.S_ISDIR(lstat(place.directory, place.name).st_mode):
            return
        if expect is not None:
            self._expected(place, expect, Kind.DIR)
        try:
            os.rmdir(place.name, dir_fd=place.directory)
        except OSError as exc:
            if exc.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            raise self._tree.mismatch(place) from None

    def _remove_file(self, place: Place, expect: RemoteVersion | None) -> None:
        with self._tree.entry(place) as entry:
            if entry.kind is Kind.DIR:
                return
            if expect is not None and version_of(entry.st).tag != expect.tag:
                raise self._tree.mismatch(place)
            self._drop(place, None if expect is None else identity(entry.st))

    def _drop(self, place: Place, expected: tuple[int, ...] | None) -> None:
        """Unlink what a name holds, unless it is something else than expected."""
        if expected is None:
            os.unlink(place.name, dir_fd=place.directory)
            return
        with self._tree.reserved(TEMPS) as temps:
            held = Place(place.key, temps, _SWAP + unfinished.new_name())
            _rename(place, held)
            if identity(lstat(temps, held.name)) == expected:
                os.unlink(held.name, dir_fd=temps)
                return
            try:
                self._create(held, place)
            except VersionMismatch:
                self._rescue(held, place)
            raise self._tree.mismatch(place)

    def move(
        self, source: str, target: str, kind: Kind, expect: RemoteVersion | None, over: Expect
    ) -> Item:
        """Rename a file or a directory; ``over``: what the target must be."""
        tree = self._tree
        if kind is Kind.DIR and target.startswith(source):
            raise Unrepresentable(f"{source!r} cannot move below itself")
        with (
            tree.place(source) as here,
            tree.place(target) as there,
            self._locked(source, target),
            tree.entry(here) as entry,
        ):
            if entry.kind is not kind:
                raise NotFound(f"no {kind} {source!r}")
            if expect is not None and version_of(entry.st).tag != expect.tag:
                raise VersionMismatch(f"{source!r} is not the expected version")
            if over is ABSENT:
                self._move_to_free(here, there, entry.st)
            else:
                self._move_over(here, there, entry.st, over, kind)
            _sync(here.directory)
            _sync(there.directory)
            return tree.item(Entry(target, entry.fd, os.fstat(entry.fd)))

    def _move_to_free(self, here: Place, there: Place, moving: os.stat_result) -> None:
        self._create(here, there)
        if identity(lstat(there.directory, there.name)) != identity(moving):
            self._create(there, here)
            raise VersionMismatch(f"{here.key!r} is not the expected version")

    def _move_over(
        self, here: Place, there: Place, moving: os.stat_result, over: RemoteVersion, kind: Kind
    ) -> None:
        before = self._expected(there, over, kind)
        if kind is Kind.DIR or not self.abilities.can_exchange:
            try:
                _rename(here, there)
            except OSError as exc:
                if exc.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                raise self._tree.mismatch(there) from None
            return
        _exchange(here, there)
        is_ours = identity(lstat(there.directory, there.name)) == identity(moving)
        is_theirs = identity(lstat(here.directory, here.name)) == identity(before)
        if not (is_ours and is_theirs):
            _exchange(here, there)
            raise (
                self._tree.mismatch(there)
                if is_ours
                else VersionMismatch(f"{here.key!r} is not the expected version")
            )
        self._drop(here, identity(before))

    def make_dir(self, key: str, writing: Writing) -> Item:
        """A new directory with attributes, or the one that is there already."""
        tree, name = self._tree, unfinished.new_name()
        mode = writing.attributes.mode
        try:
            with tree.place(key) as place, tree.reserved(TEMPS) as temps:
                os.mkdir(name, 0o777 if mode is None else 0o700, dir_fd=temps)
                made = Place(key, temps, name)
                with tree.entry(made) as entry:
                    unfinished.stamp(tree, entry.fd, writing)
                    if mode is not None:
                        # Without write permission it could not be moved into its parent.
                        os.chmod(proc_path(entry.fd), stat.S_IMODE(mode) | 0o700)
                    self._create(made, place)
                    if mode is not None:
                        os.chmod(proc_path(entry.fd), stat.S_IMODE(mode))
                _sync(place.directory)
        except VersionMismatch as exc:
            if exc.current is None or exc.current.kind is not Kind.DIR:
                raise
        finally:
            unfinished.discard_name(tree, name)
        with tree.found(key, Kind.DIR) as entry:
            return tree.item(entry)

    def set_attributes(self, key: str, kind: Kind, writing: Writing, expect: RemoteVersion) -> Item:
        """Stamp in place.

        A foreign write between the last look at the file and setting its mtime (a few
        microseconds) would pass for the version that gets these attributes.
        """
        tree = self._tree
        with tree.place(key) as place, self._locked(key), tree.entry(place) as entry:
            if entry.kind is not kind:
                raise NotFound(f"no {kind} {key!r}")
            item = tree.item(entry)
            if version_of(entry.st).tag != expect.tag:
                # The put id is the last thing stamped: it was complete, the reply was lost.
                if item.put_id is not None and item.put_id == writing.put_id:
                    return item
                raise VersionMismatch(f"{key!r} is not the expected version", item)
            mode = writing.attributes.mode
            if mode is not None and stat.S_IFMT(mode) not in {0, stat.S_IFMT(entry.st.st_mode)}:
                raise Unrepresentable("attributes cannot turn an item into another kind")
            unfinished.stamp(tree, entry.fd, writing)
            if stat.S_ISREG(entry.st.st_mode) or kind is Kind.DIR:
                _sync_path(proc_path(entry.fd))
            return tree.item(Entry(key, entry.fd, os.fstat(entry.fd)))

    def content_of(self, entry: Entry, stack: ExitStack) -> Content:
        """What an item's content is to the cloud: a symlink's is its target."""
        if stat.S_ISREG(entry.st.st_mode):
            fd = os.open(proc_path(entry.fd), os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            return Content(entry.st.st_size, fd)
        data = b""
        if stat.S_ISLNK(entry.st.st_mode):
            data = os.fsencode(os.readlink("", dir_fd=entry.fd))
        return Content(len(data), None, data)


@dataclass(frozen=True, slots=True)
class _Own:
    """Our temp item, held open so that it can be looked at wherever it went."""

    place: Place
    fd: int
    made: Made


def _rename(source: Place, target: Place) -> None:
    os.rename(source.name, target.name, src_dir_fd=source.directory, dst_dir_fd=target.directory)


def _exchange(source: Place, target: Place) -> None:
    rename_exchange(source.directory, source.name, target.directory, target.name)


def _sync(directory: int) -> None:
    """Make the names in a directory survive power loss."""
    _sync_path(proc_path(directory))


def _sync_path(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return  # Not readable by us, so not ours to sync; the system will.
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def probe(temps: int) -> tuple[Abilities, bool]:
    """Try renames and user xattrs in the temp directory; second: xattrs work."""
    a, b = unfinished.new_name(), unfinished.new_name()
    names = (a, b)
    try:
        for name in names:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o600, dir_fd=temps))
        return Abilities(_create_by(temps, a, b), _can_exchange(temps, a, b)), _xattrs(temps, a)
    finally:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=temps)


def _create_by(temps: int, a: str, b: str) -> CreateBy:
    """Both names exist: the right answer is "exists"."""
    try:
        rename_noreplace(temps, a, temps, b)
    except FileExistsError:
        return CreateBy.NOREPLACE
    except OSError as exc:
        log.debug("no RENAME_NOREPLACE errno=%s", exc.errno)
    try:
        os.link(a, b, src_dir_fd=temps, dst_dir_fd=temps, follow_symlinks=False)
    except FileExistsError:
        return CreateBy.LINK
    except OSError as exc:
        log.debug("no hard links errno=%s", exc.errno)
    return CreateBy.CHECK


def _can_exchange(temps: int, a: str, b: str) -> bool:
    before = lstat(temps, a).st_ino
    try:
        rename_exchange(temps, a, temps, b)
    except OSError as exc:
        log.debug("no RENAME_EXCHANGE errno=%s", exc.errno)
        return False
    return lstat(temps, b).st_ino == before


def _xattrs(temps: int, name: str) -> bool:
    try:
        os.setxattr(f"{proc_path(temps)}/{name}", PUT_XATTR, b"probe")
    except OSError as exc:
        log.debug("no user xattrs errno=%s", exc.errno)
        return False
    return True
