"""Many generated lists from one seed; a failing one is shrunk to what is worth keeping."""

from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.support.drawn import lists
from tests.support.story import FLAVOURS, Flavour, live

Story = tuple[list[Any], Flavour]


def run_batch(seed: int, count: int, *, shrink: bool = True) -> int:
    """Live through ``count`` lists; how many those were. Fails with the smallest list found
    that shows the difference, in a form that can be pasted into ``test_regressions``."""
    stories = st.tuples(lists(surroundings=True), st.sampled_from(FLAVOURS))
    return draw_and_run(stories, lambda story: live(*story), seed, count, shrink=shrink)


def draw_and_run(
    stories: st.SearchStrategy[Any],
    run: Callable[[Any], None],
    seed: int,
    count: int,
    *,
    shrink: bool = True,
) -> int:
    """The same for anything that can be drawn and run."""
    done = 0
    smallest: list[Any] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        print_blob=False,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @hypothesis.given(stories)
    def go(story: Any) -> None:
        nonlocal done
        done += not smallest
        try:
            run(story)
        except BaseException:
            smallest[:] = [story]
            raise

    try:
        go()
    except BaseException as exc:
        exc.add_note(f"seed {seed}, list {done}; the smallest:\n  {smallest[0]}")
        raise
    return done
