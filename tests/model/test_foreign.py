"""Somebody else changes the same files meanwhile: the merge is the one the decisions say."""

from typing import Any

import pytest
from hypothesis import strategies as st

from tests.support.batches import draw_and_run
from tests.support.foreign import play, rounds
from tests.support.length import IS_LONG
from tests.support.story import FLAVOURS

_LISTS = 2000 if IS_LONG else 20
_AT_ONCE = 10


@pytest.mark.parametrize("seed", range(_LISTS // _AT_ONCE))
def test_both_sides_changes_come_together_as_decided(seed: int) -> None:
    stories: st.SearchStrategy[Any] = st.tuples(rounds, st.sampled_from(FLAVOURS[:7]))
    assert draw_and_run(stories, lambda story: play(*story), seed, _AT_ONCE) == _AT_ONCE
