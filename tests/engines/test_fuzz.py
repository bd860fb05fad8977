"""Two machines, somebody else, a bad network and crashes, at random; then both must agree.

``CSYNCFS_LONG=1`` tells ten times as many stories, each twice as long. A failure names its
seed and tells its story.
"""

from pathlib import Path

import pytest

from tests.support.fuzz import live_once
from tests.support.length import IS_LONG

_STORIES = 2000 if IS_LONG else 200
_STEPS = 50 if IS_LONG else 25
_AT_ONCE = 20


@pytest.mark.parametrize("first", range(0, _STORIES, _AT_ONCE))
def test_mounts_agree_and_nothing_closed_is_lost(tmp_path: Path, first: int) -> None:
    for seed in range(first, first + _AT_ONCE):
        home = tmp_path / str(seed)
        flavour = {"real_dirs": bool(seed & 1), "content_tags": bool(seed & 2)}
        live_once(seed, home, steps=_STEPS, links=bool(seed & 4), **flavour)


# Stories of 60 steps that once ended badly.
_KEPT = (
    *(920018, 2100045, 2100049, 2100403, 2100517, 2100693, 2200209, 2200311, 2200321),
    *(2200409, 2200453, 2200507, 3100194, 3200562, 4100008, 4200052, 4200144),
)


@pytest.mark.parametrize("seed", _KEPT)
def test_a_story_that_once_ended_badly(tmp_path: Path, seed: int) -> None:
    live_once(seed, tmp_path, steps=60, real_dirs=bool(seed & 1), content_tags=bool(seed & 2))


# The same with hard links.
_KEPT_LINKED = (7110177, 7120049, 7122151, 7131398)


@pytest.mark.parametrize("seed", _KEPT_LINKED)
def test_a_story_with_links_that_once_ended_badly(tmp_path: Path, seed: int) -> None:
    flavour = {"real_dirs": bool(seed & 1), "content_tags": bool(seed & 2)}
    live_once(seed, tmp_path, steps=60, links=True, **flavour)
