"""How items enter the tree and leave it: the steps all of ``adopt``'s actions are made of.

Owns the news for the kernel: collected inside a transaction, sent after its commit.
"""

import logging
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from csyncfs import names
from csyncfs.backends.base import Backend
from csyncfs.clock import Clock
from csyncfs.content import Content
from csyncfs.errors import StoreError
from csyncfs.inode import InodeTable, LiveInode, LostName
from csyncfs.store import aliases, inodes, journal
from csyncfs.store.db import Store
from csyncfs.store.inodes import InodeRow
from csyncfs.store.journal import IntentKind
from csyncfs.tree import Notifier, Tree
from csyncfs.types import Attributes, InodeId, Item, Kind

log = logging.getLogger(__name__)

# Whoever changed a file with several names brings all its items up to date; only if that does
# not happen within this time it is done here.
FOLLOW_NS = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Defaults:
    """Attributes of items that carry none."""

    uid: int
    gid: int
    file_mode: int
    dir_mode: int


class Arrivals:
    """Inserts, replaces and orphans inodes for items; inside ``changes``."""

    def __init__(
        self,
        store: Store,
        table: InodeTable,
        tree: Tree,
        content: Content,
        backend: Backend,
        notifier: Notifier,
        clock: Clock,
        *,
        defaults: Defaults,
        device: str,
    ) -> None:
        self._store = store
        self._table = table
        self._tree = tree
        self._content = content
        self._backend = backend
        self._notifier = notifier
        self._clock = clock
        self._defaults = defaults
        self._device = device
        self._entries: list[tuple[InodeId, bytes]] = []
        self._attributes: list[InodeId] = []
        self._stale_pages: set[InodeId] = set()
        self._joined: list[InodeId] = []

    # -- transactions with news for the kernel -------------------------------------------

    @contextmanager
    def changes(self, *, tell: bool = True) -> Generator[None, None, None]:
        """One transaction; what it changed is told to the kernel after the commit.

        ``tell`` False where the kernel cannot know the names: news would only make it drop
        what it has just learnt, and with it the pages of files (``find`` took twice as long).
        """
        try:
            # What others did can be listed again when the disk has room.
            with self._store.transaction(grows=True):
                yield
        except BaseException:
            self._entries.clear()
            self._attributes.clear()
            self._joined.clear()
            raise
        joined, self._joined = self._joined, []
        for ino in joined:
            self._content.evict_now(ino)
            self._content.reap(ino)
        told, self._entries = self._entries, []
        changed, self._attributes = self._attributes, []
        for parent, name in told if tell else ():
            self._notifier.entry_changed(parent, name)
        for ino in changed if tell else ():
            self._notifier.attributes_changed(ino)

    def take_stale_pages(self, ino: InodeId) -> bool:
        """Whether the kernel may hold pages of an older version; asked once, at open."""
        if ino in self._stale_pages:
            self._stale_pages.remove(ino)
            return True
        return False

    def _replace(self, row: InodeRow, item: Item) -> None:
        is_moving = self._is_moving(row)
        journal.remove_kind(self._store, row.id, IntentKind.MOVE)
        for dentry in inodes.names_of(self._store, row.id):
            self._orphan(row, dentry.parent, dentry.name)
            ino = self._insert(dentry.parent, dentry.name, item, row.remote_key)
            others = aliases.hand_over(self._store, row.id, ino)
            if others:
                inodes.set_nlink(self._store, ino, 1 + others, self._clock.now_ns())
                self._tree.follow(ino, self._clock.now_ns(), FOLLOW_NS)
            if is_moving:
                self._tree.settle_place(ino, self._clock.now_ns())
            elif not others:
                self._join(ino)
        log.info("replaced ino=%d: changed in the cloud while open", row.id)

    def _is_promised(self, row: InodeRow) -> bool:
        return row.id in self._table.running or journal.has_any(self._store, row.id)

    def _is_moving(self, row: InodeRow) -> bool:
        """Whether the item's key is another one because the inode was renamed here; else the
        name could not be the key's."""
        return row.remote_key is not None and (
            journal.find(self._store, row.id, IntentKind.MOVE) is not None
        )

    def _has_attributes_to_send(self, row: InodeRow) -> bool:
        return journal.find(self._store, row.id, IntentKind.ATTRS) is not None

    def _orphan(self, row: InodeRow, parent: InodeId, name: bytes) -> None:
        """Take the name from an inode that no item stands behind any more."""
        live = self._table.get(row.id)
        is_in_use = live is not None and not row.is_dir
        lost = is_in_use and LostName(parent, name, self._tree.location(row).key, self._device)
        inodes.unlink(self._store, parent, name)
        inodes.set_nlink(self._store, row.id, 0, self._clock.now_ns())
        inodes.set_no_item(self._store, row.id, row.base)
        if live is not None:

            def orphaned() -> None:
                live.is_unlinked = True
                live.lost = lost or None

            self._store.after_commit(orphaned)
        self._entries.append((parent, name))

    # -- inserting -----------------------------------------------------------------------

    def _insert(
        self, parent: InodeId, name: bytes, item: Item, explicit_key: str | None
    ) -> InodeId:
        now = self._clock.now_ns()
        is_dir = item.kind is Kind.DIR
        told = item.attributes or Attributes()
        version = item.version
        mode = told.mode or self._default_mode(is_dir)
        mtime = version.mtime_ns if version else now
        # 0 is a time like any other: the first second of 1970.
        mtime = mtime if told.mtime_ns is None else told.mtime_ns
        ino = inodes.insert(
            self._store,
            mode=mode,
            uid=self._defaults.uid if told.uid is None else told.uid,
            gid=self._defaults.gid if told.gid is None else told.gid,
            now_ns=now,
            nlink=2 if is_dir else 1,
            rdev=told.rdev or 0,
            size=version.size if version and not is_dir else 0,
            mtime_ns=mtime,
            told=item.attributes is not None,
            in_cloud=True,
            base=version,
            item_id=item.location.item_id,
            remote_key=explicit_key,
            link=None if is_dir else told.link,
        )
        for xattr, value in told.xattrs.items():
            inodes.set_xattr(self._store, ino, xattr.encode(), value)
        inodes.link(self._store, parent, name, ino)
        if is_dir:
            inodes.add_nlink(self._store, parent, 1)
        self._entries.append((parent, name))
        return ino

    def _default_mode(self, is_dir: bool) -> int:
        if is_dir:
            return stat.S_IFDIR | self._defaults.dir_mode
        return stat.S_IFREG | self._defaults.file_mode

    def _insert_beside(self, parent: InodeId, shown: names.ShownName, item: Item) -> None:
        """A file object beside a directory of the same name: the directory keeps the name."""
        _, segment = names.split_key(item.location.key, item.kind)
        for is_free in (True, False):
            name = self._beside_name(segment, is_free=is_free)
            if self._tree.lookup(parent, name) is None:
                self._insert(parent, name, item, item.location.key)
                return

    def _beside_name(self, segment: str, *, is_free: bool) -> bytes:
        """What a file is called whose name a directory has; if something really has that name,
        something that nothing has."""
        utf8_only = not self._tree.policy.raw_names
        if is_free:
            return names.beside_dir(segment, utf8_only=utf8_only).name
        return names.hashed_name(f"{segment}/", utf8_only=utf8_only).name

    def _make_way(self, parent: InodeId, shown: names.ShownName, row: InodeRow) -> None:
        """A directory appeared where a file has the name."""
        now = self._clock.now_ns()
        if row.in_cloud and not self._is_moving(row):
            key = self._tree.location(row).key
            _, segment = names.split_key(key, Kind.FILE)
            new = self._beside_name(segment, is_free=True)
            if self._tree.lookup(parent, new) is not None:
                new = self._beside_name(segment, is_free=False)
            inodes.set_remote_key(self._store, row.id, key)
        else:
            new = self._free_conflict_name(parent, shown.name, now)
        inodes.unlink(self._store, parent, shown.name)
        inodes.link(self._store, parent, new, row.id)
        self._entries += [(parent, shown.name), (parent, new)]

    def _adopt_dir(self, row: InodeRow, item: Item) -> None:
        """Both sides made the directory: it is one, and has to be listed."""
        if not row.in_cloud:
            inodes.set_item(self._store, row.id, item, None)
            inodes.set_listed(self._store, row.id, None)

    # -- attributes ----------------------------------------------------------------------

    def told(self, ino: InodeId, item: Item) -> None:
        """A fetch or HEAD told attributes that the listing had not."""
        row = inodes.get(self._store, ino)
        if row is None or row.told or row.nlink == 0 or item.attributes is None:
            return
        if self._tree.location(row).key != item.location.key or self._is_promised(row):
            # Renamed while it was asked: that may be another one's by now.
            return
        with self.changes():
            self._learn_attributes(row, item)

    def fetched(self, live: LiveInode) -> None:
        """A fetch ended; it may have been the last that used the inode."""
        try:
            self._content.drop_if_idle(live)
        except StoreError as exc:
            log.warning("not let go of yet ino=%d error=%s", live.ino, exc)

    def _learn_attributes(self, row: InodeRow, item: Item) -> None:
        told = item.attributes
        if told is None or row.dirty:
            return
        row = self._tree.file_of(row)
        if row.dirty or journal.find(self._store, row.id, IntentKind.ATTRS):
            return
        self._learn_link(row, item)
        mode = told.mode or row.mode
        if stat.S_IFMT(mode) != stat.S_IFMT(row.mode):
            # The kernel cannot bear an inode that changes its type.
            if not row.is_dir and row.told == 0:
                self._replace(row, item)
            return
        uid = row.uid if told.uid is None else told.uid
        gid = row.gid if told.gid is None else told.gid
        # A directory's mtime moves with its children, here and there.
        keeps_mtime = row.is_dir and row.told
        mtime = told.mtime_ns if told.mtime_ns is not None and not keeps_mtime else row.mtime_ns
        is_same = (mode, uid, gid, mtime) == (row.mode, row.uid, row.gid, row.mtime_ns)
        if not self._learn_xattrs(row, item) and is_same:
            if not row.told:
                inodes.set_told(self._store, row.id, True)
            return
        inodes.set_attributes(
            self._store,
            row.id,
            mode=mode,
            uid=uid,
            gid=gid,
            mtime_ns=mtime,
            atime_ns=row.atime_ns,
            ctime_ns=self._clock.now_ns(),
            rdev=told.rdev or row.rdev,
        )
        live = self._table.get(row.id)
        if live is not None:
            live.mtime_ns = mtime
        # Not its names: a directory that loses its entry in the kernel has none to those in it.
        self._attributes.append(row.id)

    def _learn_xattrs(self, row: InodeRow, item: Item) -> bool:
        """Whether the item has other extended attributes than the inode had until now."""
        told = item.attributes or Attributes()
        new = {name.encode(): value for name, value in told.xattrs.items()}
        known = inodes.all_xattrs(self._store, row.id)
        # None may mean that they did not fit or cannot be kept; not if another mount says so.
        is_news = bool(new) or item.device not in (None, self._device)
        if new == known or not is_news:
            return False
        for name in known.keys() - new.keys():
            inodes.remove_xattr(self._store, row.id, name)
        for name, value in new.items():
            inodes.set_xattr(self._store, row.id, name, value)
        return True

    def _learn_link(self, row: InodeRow, item: Item) -> None:
        """What the item of a file with one name says about others: of the version known here, for
        it is about content too."""
        link = item.attributes.link if item.attributes is not None else None
        is_known = item.version is not None and item.version.tag == row.base_tag
        if row.is_dir or row.is_linked or row.link == link or not is_known:
            return
        aliases.set_link(self._store, row.id, link)
        self._join(row.id)

    def _join(self, ino: InodeId) -> None:
        """Make the inode a further name of the file of which its item says it is one; later, if
        somebody uses it now."""
        row = inodes.get(self._store, ino)
        if row is None or row.link is None or row.is_linked or row.nlink == 0 or row.dirty:
            return
        file = aliases.by_link(self._store, row.link)
        if file is None or file.id == ino or not _are_alike(file, row):
            return
        if self._table.get(ino) is not None or self._is_promised(row):
            return
        now = self._clock.now_ns()
        alias = inodes.insert(
            self._store,
            mode=row.mode,
            uid=row.uid,
            gid=row.gid,
            now_ns=now,
            in_cloud=True,
            base=row.base,
            item_id=row.item_id,
            remote_key=row.remote_key,
            alias_of=file.id,
            link=row.link,
        )
        self._notify_names(ino)
        aliases.give_name(self._store, ino, alias)
        inodes.set_nlink(self._store, ino, 0, now)
        inodes.set_no_item(self._store, ino)
        inodes.set_nlink(self._store, file.id, file.nlink + 1, now)
        self._attributes.append(file.id)
        self._joined.append(ino)
        log.debug("joined ino=%d file=%d", ino, file.id)

    def _notify_names(self, ino: InodeId) -> None:
        for dentry in aliases.all_names(self._store, ino):
            self._entries.append((dentry.parent, dentry.name))

    def _free_conflict_name(self, parent: InodeId, name: bytes, now: int) -> bytes:
        n = 0
        while True:
            aside = names.conflict_name(name, self._device, now, n)
            if self._tree.lookup(parent, aside) is None:
                return aside
            n += 1


def _are_alike(file: InodeRow, row: InodeRow) -> bool:
    """Whether two inodes can be the same file."""
    is_same_size = bool(file.dirty) or file.base_size == row.base_size
    return stat.S_IFMT(file.mode) == stat.S_IFMT(row.mode) and is_same_size
