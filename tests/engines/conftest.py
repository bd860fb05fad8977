"""Both kinds of store the engines have to serve: flat keys, and real directories."""

import pytest

from csyncfs.backends.memory import MemoryStore


@pytest.fixture(params=[False, True], ids=["flat", "real_dirs"])
def bucket(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(real_dirs=bool(request.param))


@pytest.fixture
def flat() -> MemoryStore:
    return MemoryStore()
