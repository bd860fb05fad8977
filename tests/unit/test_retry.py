"""Backoff: bounds, growth, and the server's wish."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csyncfs.retry import MAX_AFTER_S, delay_s

jitters = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("attempt", "ceiling"), [(0, 1), (1, 2), (4, 16), (8, 256), (9, 300)])
def test_ceiling_doubles_up_to_the_cap(attempt: int, ceiling: float) -> None:
    assert delay_s(attempt, jitter=lambda: 0.5) == ceiling / 2


@given(st.integers(0, 10**9), jitters)
def test_delay_is_within_the_cap_for_any_attempt(attempt: int, drawn: float) -> None:
    assert 0 <= delay_s(attempt, cap_s=60.0, jitter=lambda: drawn) <= 60


@given(st.integers(0, 100), jitters, st.floats(0, MAX_AFTER_S))
def test_never_sooner_than_the_server_asked(attempt: int, drawn: float, after_s: float) -> None:
    assert delay_s(attempt, jitter=lambda: drawn, after_s=after_s) >= after_s


def test_clients_told_the_same_come_back_spread() -> None:
    early = delay_s(0, base_s=2.0, jitter=lambda: 0.0, after_s=30)
    late = delay_s(0, base_s=2.0, jitter=lambda: 0.75, after_s=30)
    assert (early, late) == (30, 31.5)


def test_absurd_wish_of_the_server_still_ends() -> None:
    assert delay_s(0, jitter=lambda: 0.0, after_s=1e12) == MAX_AFTER_S
