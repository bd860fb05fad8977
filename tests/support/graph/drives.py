"""Drives and what is in them: the tree, its history, the recycle bin and the quota.

Knows nothing of requests. Every change gets the next number of its drive (``seq``); the change
feed is made of these numbers and of what items were like at them.
"""

import base64
import bisect
import dataclasses
import enum
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.support.graph import naming
from tests.support.graph.blobs import EMPTY, Blob
from tests.support.graph.clock import Clock
from tests.support.graph.failures import not_found, taken
from tests.support.graph.knobs import Flavour, Knobs

_MEDIA: Final = (".jpg", ".jpeg", ".png", ".gif", ".mp3", ".mp4", ".mov", ".heic")
_OFFICE: Final = (".docx", ".xlsx", ".pptx", ".html")
_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PAST_KEPT: Final = 32
_FILETIME_1970: Final = 11_644_473_600
USER: Final = "User"
ENRICHMENT: Final = b"<!-- written by the service -->"


class Kind(enum.Enum):
    FILE = enum.auto()
    FOLDER = enum.auto()
    PACKAGE = enum.auto()
    REMOTE = enum.auto()
    """A shortcut to a folder of another drive."""


@dataclass(frozen=True, slots=True)
class Version:
    """A content the item had before."""

    number: int
    blob: Blob
    modified: float
    by: str


@dataclass(frozen=True, slots=True)
class Times:
    """What a client said about its file; None: nothing."""

    created: float | None = None
    modified: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a shortcut leads."""

    drive_id: str
    item_id: str


@dataclass(slots=True)
class Item:
    """A file or folder as it is now; ``past``: as it was, oldest first."""

    id: str
    guid: str
    name: str
    parent: str | None
    kind: Kind
    created: float
    modified: float
    fs_created: float
    fs_modified: float
    blob: Blob = EMPTY
    ev: int = 1
    cv: int = 1
    number: int = 1
    versions: tuple[Version, ...] = ()
    by: str = USER
    made_by: str = USER
    seq: int = 0
    born: int = 0
    deleted: bool = False
    batch: int = 0
    """Which deletion took it: what goes together comes back together."""
    locked_by: str = ""
    malware: str = ""
    description: str | None = None
    special: str = ""
    target: Target | None = None
    stamp: int = 0
    """Personal folders: when anything below changed, as a FILETIME."""
    past: list["Item"] = field(default_factory=list["Item"])

    @property
    def is_file(self) -> bool:
        return self.kind is Kind.FILE

    @property
    def is_folder(self) -> bool:
        return self.kind is Kind.FOLDER


class Drive:
    """One drive. Not thread-safe: whoever calls holds the world's lock."""

    def __init__(
        self,
        flavour: Flavour,
        *,
        name: str,
        clock: Clock,
        knobs: Knobs,
        rng: random.Random,
        later: Callable[[float, Callable[[], None]], None],
        quota_total: int,
        site: str = "",
    ) -> None:
        self.flavour: Final = flavour
        self.name: Final = name
        self.site: Final = site
        self.quota_total = quota_total
        self.knobs: Final = knobs
        self.seq = 0
        self.epoch = 1
        self.pruned = 0
        """Tokens from before this seq are too old."""
        self.resync = "resyncChangesApplyDifferences"
        self.used = 0
        self._clock = clock
        self._rng = rng
        self._later = later
        self._times: list[float] = []  # when seq i + 1 was given out
        self._made = 101  # the root is 101
        self.items: Final[dict[str, Item]] = {}
        self._children: dict[str, dict[str, str]] = {}
        self.id: Final = self._new_drive_id()
        self.root: Final = self._make_root()

    @property
    def is_personal(self) -> bool:
        return self.flavour.is_personal

    # ---- looking ------------------------------------------------------------------------

    def find(self, item_id: str) -> Item | None:
        """The item that is not deleted and has exactly this id."""
        if item_id == "root":
            return self.root
        item = self.items.get(item_id)
        return None if item is None or item.deleted else item

    def get(self, item_id: str) -> Item:
        item = self.find(item_id)
        if item is None:
            raise not_found()
        return item

    def child(self, parent: Item, name: str) -> Item | None:
        found = self._children.get(parent.id, {}).get(self.fold(name))
        return None if found is None else self.items[found]

    def children(self, parent: Item) -> list[Item]:
        """By folded name."""
        found = self._children.get(parent.id, {})
        return [self.items[found[key]] for key in sorted(found)]

    def walk(self, start: Item, names: Sequence[str]) -> Item | None:
        item: Item | None = start
        for name in names:
            item = None if item is None else self.child(item, name)
        return item

    def subtree(self, top: Item) -> Iterator[Item]:
        """Parents first, the top included."""
        yield top
        for child in self.children(top):
            yield from self.subtree(child)

    def ancestors(self, item: Item) -> list[Item]:
        """From the root down to the parent."""
        found: list[Item] = []
        while item.parent is not None:
            item = self.items[item.parent]
            found.insert(0, item)
        return found

    def path_of(self, item: Item) -> str:
        """Below the root, decoded; "" is the root."""
        return "/".join([*(a.name for a in self.ancestors(item)[1:]), *self._own_name(item)])

    def size_of(self, item: Item) -> int:
        if item.is_folder:
            return sum(self.size_of(child) for child in self.children(item))
        return len(item.blob)

    def fold(self, name: str) -> str:
        return naming.fold(name, nfc=self.knobs.nfc_names)

    @property
    def deleted_bytes(self) -> int:
        return sum(len(i.blob) for i in self.items.values() if i.deleted)

    @property
    def remaining(self) -> int:
        return self.quota_total - self.used

    # ---- history ------------------------------------------------------------------------

    def seq_at(self, when: float) -> int:
        """The last change made at this time or before."""
        return bisect.bisect_right(self._times, when)

    def at(self, item: Item, seq: int) -> Item | None:
        """The item as it was after this change; None: it was not there yet."""
        if item.seq <= seq:
            return item
        return next((old for old in reversed(item.past) if old.seq <= seq), None)

    # ---- changing -----------------------------------------------------------------------

    def add(
        self,
        parent: Item,
        name: str,
        kind: Kind,
        *,
        blob: Blob = EMPTY,
        times: Times | None = None,
        by: str = USER,
    ) -> Item:
        """A new item. Raises GraphError if the name is taken."""
        if self.child(parent, name) is not None:
            raise taken()
        now = self._clock.now()
        item = Item(
            self._new_id(), str(self._new_guid()), name, parent.id, kind, now, now, now, now
        )
        item.blob, item.by, item.made_by = blob, by, by
        self._set_times(item, times)
        self._number(item)
        item.born = item.seq
        item.stamp = self._filetime()
        self.items[item.id] = item
        self._link(item)
        self.used += len(blob)
        self._plan_rewrite(item)
        return item

    def put(self, item: Item, blob: Blob, *, times: Times | None = None, by: str = USER) -> None:
        """Give a file another content; the old one becomes a version."""
        double = self.knobs.double_bump and not self.is_personal
        self._touch(item, ev=2 if double else 1, cv=1, by=by)
        self._keep_version(item)
        item.blob = blob
        item.number += 1
        self.used += len(blob)
        item.fs_modified = self._clock.now()
        self._set_times(item, times)
        self._stamp_above(item)
        self._plan_rewrite(item)

    def set_times(self, item: Item, times: Times, *, by: str = USER) -> None:
        self._touch(item, by=by, server_time=not self.is_personal)
        self._set_times(item, times)
        if item.is_file and not self.is_personal:
            self._keep_version(item)
            item.number += 1
            self.used += len(item.blob)

    def describe(self, item: Item, text: str) -> None:
        self._touch(item)
        item.description = text

    def move(self, item: Item, parent: Item, name: str, *, by: str = USER) -> None:
        """Another name, another parent, or both. The place must be free."""
        there = self.child(parent, name)
        if there is not None and there is not item:
            raise taken()
        cv = 1 if self.knobs.ctag_on_rename and not self.is_personal else 0
        self._touch(item, cv=cv, by=by)
        self._stamp_above(item)
        self._unlink(item)
        item.parent, item.name = parent.id, name
        self._link(item)

    def touch(self, item: Item, *, cv: int = 0) -> None:
        """What the service does to items by itself: another eTag, perhaps another cTag."""
        self._touch(item, cv=cv, server_time=False)

    def rewrite(self, item: Item, blob: Blob) -> None:
        """The service changes the bytes."""
        self._touch(item, cv=1)
        self.used += len(blob) - len(item.blob)
        item.blob = blob

    def remove(self, item: Item, *, by: str = USER) -> None:
        """To the recycle bin, with everything below."""
        self._stamp_above(item)
        order = list(self.subtree(item))
        if self.knobs.folder_delete == "children_first":
            order.reverse()
        batch = self.seq + 1
        for one in order:
            if self.knobs.folder_delete == "top_only" and one is not item:
                self._remember(one)
            else:
                self._touch(one, by=by)
            one.deleted, one.batch = True, batch
            self.used -= self._weight(one)
        for one in order:
            self._unlink(one)

    def purge(self, item: Item) -> None:
        """For good: no way back."""
        gone = list(self.subtree(item))
        self.remove(item)
        for one in gone:
            one.batch = 0
            one.blob, one.versions = EMPTY, ()

    def restore(self, item: Item, parent: Item, name: str) -> None:
        """Back from the recycle bin, with what went with it. Raises GraphError if taken."""
        if self.child(parent, name) is not None:
            raise taken()
        batch = item.batch
        below = [one for one in self._deleted_below(item) if one.batch == batch]
        item.parent, item.name = parent.id, name
        for one in (item, *below):
            self._touch(one)
            one.deleted, one.batch = False, 0
            self.used += self._weight(one)
            self._link(one)

    def restore_version(self, item: Item, number: int) -> None:
        if number == item.number:
            return
        version = next((v for v in item.versions if v.number == number), None)
        if version is None:
            raise not_found()
        self.put(item, version.blob)

    def free_name(self, parent: Item, name: str) -> str:
        """The first of "name 1", "name 2", ... that is free; the number is before the extension."""
        stem, dot, suffix = name.rpartition(".")
        if not stem:
            stem, dot, suffix = name, "", ""
        n = 1
        while self.child(parent, other := self._numbered(stem, n) + dot + suffix) is not None:
            n += 1
        return other

    def expire_tokens(self, kind: str) -> None:
        """Every delta token so far is 410 Gone. ``kind``: apply | upload."""
        self.epoch += 1
        self.resync = f"resyncChanges{kind.capitalize()}Differences"

    # ---- what must be true --------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError if the drive contradicts itself."""
        live = [item for item in self.items.values() if not item.deleted]
        linked = [self.items[i] for names in self._children.values() for i in names.values()]
        assert {i.id for i in live} == {i.id for i in linked} | {self.root.id}
        assert len(linked) == len(live) - 1
        for item in live:
            parent = None if item.parent is None else self.items[item.parent]
            assert parent is None or (parent.is_folder and not parent.deleted), item.name
            assert item.seq <= self.seq
        assert self.used == sum(self._weight(item) for item in live)
        seqs = [item.seq for item in self.items.values() if item.seq]
        assert len(seqs) == len(set(seqs))

    # ---- inside -------------------------------------------------------------------------

    def _make_root(self) -> Item:
        now = self._clock.now()
        ids = {
            Flavour.PERSONAL: f"{self.id.upper()}!101",
        }
        item_id = ids.get(self.flavour) or self._new_id()
        if self.is_personal and self.knobs.new_ids:
            item_id = f"{self.id.upper()}!sea8cc6beffdb43d7976fbc7da445c639"
        root = Item(item_id, str(self._new_guid()), "root", None, Kind.FOLDER, now, now, now, now)
        self._number(root)
        root.born = root.seq
        root.stamp = self._filetime()
        self.items[root.id] = root
        return root

    def _own_name(self, item: Item) -> list[str]:
        return [] if item.parent is None else [item.name]

    def _numbered(self, stem: str, n: int) -> str:
        return self.knobs.rename_style.format(stem=stem, n=n)

    def _touch(
        self,
        item: Item,
        *,
        ev: int = 1,
        cv: int = 0,
        by: str | None = None,
        server_time: bool = True,
    ) -> None:
        """Give the next change to this item; the caller changes it then."""
        self._remember(item)
        self._number(item)
        item.ev += ev
        item.cv += cv
        item.by = by or item.by
        if server_time:
            item.modified = self._clock.now()

    def _remember(self, item: Item) -> None:
        item.past.append(dataclasses.replace(item, past=[]))
        del item.past[:-_PAST_KEPT]

    def _number(self, item: Item) -> None:
        self.seq += 1
        self._times.append(self._clock.now())
        item.seq = self.seq

    def _stamp_above(self, item: Item) -> None:
        for folder in self.ancestors(item):
            folder.stamp = max(self._filetime(), folder.stamp + 1)

    def _link(self, item: Item) -> None:
        assert item.parent is not None
        self._children.setdefault(item.parent, {})[self.fold(item.name)] = item.id
        self._stamp_above(item)

    def _unlink(self, item: Item) -> None:
        assert item.parent is not None
        del self._children[item.parent][self.fold(item.name)]

    def _keep_version(self, item: Item) -> None:
        old = Version(item.number, item.blob, item.modified, item.by)
        item.versions = (old, *item.versions)

    def _weight(self, item: Item) -> int:
        return len(item.blob) + sum(len(version.blob) for version in item.versions)

    def _set_times(self, item: Item, times: Times | None) -> None:
        if times is not None and times.modified is not None:
            item.fs_modified = times.modified
        if times is not None and times.created is not None:
            item.fs_created = times.created

    def _deleted_below(self, top: Item) -> Iterator[Item]:
        for item in list(self.items.values()):
            if item.parent == top.id and item.deleted:
                yield item
                yield from self._deleted_below(item)

    def _plan_rewrite(self, item: Item) -> None:
        """Media get another eTag after a while, Office files other bytes."""
        if not item.is_file:
            return
        name, number = item.name.lower(), item.number

        def still_there() -> bool:
            return not item.deleted and item.number == number

        def process() -> None:
            if still_there():
                self.touch(item, cv=int(self.knobs.postproc_ctag))

        def enrich() -> None:
            if still_there():
                self.rewrite(item, Blob(item.blob.data + ENRICHMENT))

        if self.is_personal and name.endswith(_MEDIA) and self.knobs.postproc_s is not None:
            self._later(self.knobs.postproc_s, process)
        # In an empty file is nothing to write properties into.
        is_library = self.flavour is Flavour.SHAREPOINT and bool(len(item.blob))
        if is_library and name.endswith(_OFFICE) and self.knobs.enrich_s is not None:
            self._later(self.knobs.enrich_s, enrich)

    def _filetime(self) -> int:
        return int((self._clock.now() + _FILETIME_1970) * 10_000_000)

    def _new_guid(self) -> uuid.UUID:
        return uuid.UUID(int=self._rng.getrandbits(128), version=4)

    def _new_drive_id(self) -> str:
        if self.is_personal:
            return f"0{self._rng.getrandbits(60):015x}"
        raw = self._rng.randbytes(50)
        return "b!" + base64.urlsafe_b64encode(raw).decode()[:66].rstrip("=")

    def _new_id(self) -> str:
        if not self.is_personal:
            return "01" + "".join(self._rng.choices(_BASE32, k=32))
        if self.knobs.new_ids:
            return f"{self.id.upper()}!s{self._rng.getrandbits(128):032x}"
        self._made += 1
        return f"{self.id.upper()}!{self._made}"
