"""What this process has just made: Graph may deny for some seconds that it is there."""

from typing import Final

import trio

FRESH_S: Final = 3.0
_DIRS_S: Final = 5.0
_MANY: Final = 10_000


class Fresh:
    """Keys made a moment ago, and the ids of directories. Seconds of trio's clock."""

    def __init__(self) -> None:
        self._made: dict[str, float] = {}
        self._dirs: dict[str, tuple[str, float]] = {}

    def made(self, key: str) -> None:
        if len(self._made) >= _MANY:
            self._made.clear()
        self._made[key] = trio.current_time() + FRESH_S

    def is_fresh(self, key: str) -> bool:
        """Whether "no such item" may only mean: not yet."""
        until = self._made.get(key)
        return until is not None and trio.current_time() < until

    def gone(self, key: str) -> None:
        """Removed or moved away, with everything below."""
        for known in (self._made, self._dirs):
            below = [k for k in known if k == key or (key.endswith("/") and k.startswith(key))]
            for one in below:
                del known[one]

    def note_dir(self, key: str, item_id: str) -> None:
        if len(self._dirs) >= _MANY:
            self._dirs.clear()
        self._dirs[key] = item_id, trio.current_time() + _DIRS_S

    def forget_dir(self, key: str) -> None:
        """Its id is not good any more."""
        self._dirs.pop(key, None)

    def dir_id(self, key: str) -> str | None:
        """The directory's id, if it was seen a moment ago."""
        item_id, until = self._dirs.get(key, ("", float("-inf")))
        return item_id if trio.current_time() < until else None
