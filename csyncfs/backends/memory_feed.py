"""The change feed of a memory store: ids of its items, and which of them changed when.

As forgetful as a real one: of an item only the latest state is told, a renamed directory comes
without what is in it, and ``expire`` makes every cursor bad.
"""

import itertools
import json
from collections.abc import Callable, Iterable
from typing import Literal, cast

from csyncfs.errors import CursorExpired
from csyncfs.types import RESERVED_DIR, Change, ChangePage, Item

Look = Callable[[str], Item | None]


class Feed:
    """Told of everything that happens to a key."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._keys: dict[str, str | None] = {}
        """Where each item is; None: gone."""
        self._moments: dict[str, int] = {}
        self._ticks = itertools.count(1)
        self._epoch = 0
        self._now = 0
        self.order: Literal["usual", "backwards"] = "usual"
        """Backwards: children before parents, what came last first."""

    def id_of(self, key: str) -> str | None:
        return self._ids.get(key)

    def expire(self) -> None:
        self._epoch += 1

    def made(self, key: str) -> None:
        item_id = self._ids.get(key) or f"id{next(self._ticks)}"
        self._note(item_id, key)

    def gone(self, key: str) -> None:
        item_id = self._ids.pop(key, None)
        if item_id is not None:
            self._note(item_id, None)

    def renamed(self, source: str, target: str, key: str) -> None:
        """One of the keys that move; only the top of a tree is told."""
        new = target + key[len(source) :]
        if new == key:
            return
        self.gone(new)
        item_id = self._ids.pop(key, None)
        if item_id is None:
            return
        self._ids[new], self._keys[item_id] = item_id, new
        if key == source:
            self._note(item_id, new)

    def _note(self, item_id: str, key: str | None) -> None:
        self._keys[item_id] = key
        if key is not None:
            self._ids[key] = item_id
        self._now = self._moments[item_id] = next(self._ticks)

    def page(self, cursor: str | None, size: int, look: Look) -> ChangePage:
        """Raises CursorExpired."""
        if cursor is None:
            since, after = self._now, ""
        else:
            epoch, since, after = cast("tuple[int, int, str | None]", json.loads(cursor))
            if epoch != self._epoch:
                raise CursorExpired("the change feed starts over")
        if after is not None:
            return self._everything(since, after, size, look)
        told = sorted((when, item) for item, when in self._moments.items() if when > since)
        changes = [self._change(item, look) for _, item in told[:size]]
        last = told[:size][-1][0] if told else since
        return self._page(changes, (last, None), is_last=len(told) <= size)

    def _everything(self, since: int, after: str, size: int, look: Look) -> ChangePage:
        rest = sorted(key for key in self._ids if key > after)
        changes = [self._change(self._ids[key], look) for key in rest[:size]]
        if len(rest) > size:
            return self._page(changes, (since, rest[size - 1]), is_last=False)
        return self._page(changes, (since, None), is_last=True)

    def _page(
        self, changes: Iterable[Change], place: tuple[int, str | None], *, is_last: bool
    ) -> ChangePage:
        shown = tuple(changes)
        if self.order == "backwards":
            shown = shown[::-1]
        return ChangePage(shown, json.dumps((self._epoch, *place)), is_last)

    def _change(self, item_id: str, look: Look) -> Change:
        key = self._keys[item_id]
        item = None if key is None else look(key)
        if key is None or item is None or key == RESERVED_DIR:
            return Change(item_id, None)
        above, _, segment = key.removesuffix("/").rpartition("/")
        parent_id = self._ids.get(f"{above}/", "unknown") if above else ""
        return Change(item_id, parent_id, segment, item.kind, item.version, item.attributes)
