"""Two mounts of one store, of each kind, take turns: together they do what the oracle does.

So everything one of them does is, to the other, done by somebody else. Attributes are left to
``test_differential``: not every store keeps them. ``CSYNCFS_MODEL_STORES`` says on which stores,
``CSYNCFS_MODEL_TURNS`` how many lists on each (``make model-stores``: all of them, 150).
"""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.batches import draw_and_run
from tests.support.clouds import ALL
from tests.support.drawn import turns
from tests.support.mounts import Mount, mounting, wait_until
from tests.support.operations import Turn
from tests.support.oracle import Seen
from tests.support.real import RealTree, SideBySide, same_content
from tests.support.story import Difference

STORES = os.environ.get("CSYNCFS_MODEL_STORES", "azurite onedrive-business").split()
LISTS = int(os.environ.get("CSYNCFS_MODEL_TURNS", "3"))


class TakingTurns(SideBySide):
    """One list, lived through by two mounts, never at the same time."""

    def __init__(self, mounts: list[Mount], name: str) -> None:
        super().__init__([RealTree(mounts[0].path / name)], links=False, same=same_content)
        self._mounts = mounts
        self._name = name

    def step(self, operation: Any) -> None:
        if isinstance(operation, Turn):
            self.turn()
        else:
            super().step(operation)

    def turn(self) -> None:
        """Here everything is sent, and there it is seen; then they change places."""
        self.told.append("turn")
        self._mounts[0].flush()
        self._mounts.reverse()
        self.trees = [RealTree(self._mounts[0].path / self._name)]
        expected = self.oracle.show()
        try:
            wait_until(lambda: self._is_seen(expected), "what the other one did", 30)
        except AssertionError:
            same_content(self.trees[0], expected)

    def _is_seen(self, expected: dict[str, Seen]) -> bool:
        try:
            same_content(self.trees[0], expected)
        except (Difference, OSError):
            # It may change while it is looked at.
            return False
        return True


@pytest.fixture(params=STORES)
def mounts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Mount]]:
    with ALL[request.param](request) as cloud:
        options = (*cloud.options, "upload_delay=0.1", "refresh=0.2")
        env = dict(cloud.env)
        with (
            mounting(tmp_path / "one", cloud.spec, *options, "device=one", env=env) as one,
            mounting(tmp_path / "two", cloud.spec, *options, "device=two", env=env) as two,
        ):
            yield [one, two]


def test_two_machines_that_take_turns_do_what_one_would(mounts: list[Mount]) -> None:
    number = count()

    def run(operations: list[Any]) -> None:
        name = str(next(number))
        (mounts[0].path / name).mkdir()
        pair = TakingTurns([*mounts], name)
        pair.turn()
        pair.live(operations)
        pair.turn()

    draw_and_run(turns(), run, int(os.environ.get("CSYNCFS_MODEL_SEED", "1")), LISTS)
    for mount in mounts:
        status = mount.status()
        assert (status["conflicts"], mount.unmount()) == (0, 0)
        assert mount.fsck() == []
