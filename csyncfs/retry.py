"""How long to wait before trying again."""

from collections.abc import Callable
from typing import Final

MAX_AFTER_S: Final = 3600.0
"""A server that asks for more is asked again after this: every wait ends."""

# Doublings beyond this pass any cap; it keeps the power a small number.
_MAX_DOUBLINGS: Final = 32


def delay_s(
    attempt: int,
    *,
    base_s: float = 1.0,
    cap_s: float = 300.0,
    jitter: Callable[[], float],
    after_s: float | None = None,
) -> float:
    """Full-jitter exponential backoff: anything from 0 to the doubled, capped base.

    ``attempt``: failures before this one. ``jitter`` draws from [0, 1). ``after_s``: the
    server's wish; never sooner, and spread over another ``base_s`` so that those told the
    same do not come back as one.
    """
    drawn = jitter()
    backoff = drawn * min(cap_s, base_s * 2.0 ** min(attempt, _MAX_DOUBLINGS))
    if after_s is None:
        return backoff
    return max(backoff, min(after_s, MAX_AFTER_S) + drawn * base_s)
