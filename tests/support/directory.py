"""Somebody else, at the worst moment: code run right before a step of the directory backend."""

from collections.abc import Callable

import pytest

from csyncfs.backends.directory import commit


def before(
    patch: pytest.MonkeyPatch, name: str, act: Callable[[], None], *, call: int = 1
) -> list[None]:
    """Let a foreign program act right before the n-th use of ``commit.name``."""
    real = getattr(commit, name)
    calls: list[None] = []

    def acting(*args: object) -> object:
        calls.append(None)
        if len(calls) == call:
            act()
        return real(*args)

    patch.setattr(commit, name, acting)
    return calls
