"""Lists that once showed a difference, shrunk, each with what was wrong."""

from typing import Any

import pytest

from tests.support.operations import (
    Save,
    Utime,
)
from tests.support.story import FLAVOURS, Flavour, live

_KEPT: dict[str, tuple[list[Any], Flavour]] = {
    # 0 was taken for "the item does not say", and the time of the upload shown instead.
    "the_first_second_of_1970_is_a_time": ([Save(), Utime(time=1)], Flavour()),
}


@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
@pytest.mark.parametrize("name", _KEPT)
def test_a_list_that_once_showed_a_difference(name: str, flavour: Flavour) -> None:
    operations, found_on = _KEPT[name]
    live(operations, flavour)
    live(operations, found_on)
