"""An emulator, and a plain client of it, for every test that asks."""

from collections.abc import Iterator

import pytest

from tests.support.graph import Clock, Emulator
from tests.support.graph_client import Client


@pytest.fixture
def flavour(request: pytest.FixtureRequest) -> str:
    """Business unless the test is parametrised."""
    return str(getattr(request, "param", "business"))


@pytest.fixture
def emu(flavour: str) -> Iterator[Emulator]:
    """Its clock stands still. Checked for contradictions at the end."""
    with Emulator(flavour, seed=7, clock=Clock(frozen=True)) as emu:
        yield emu
        emu.check()


@pytest.fixture
def client(emu: Emulator) -> Iterator[Client]:
    client = Client(emu)
    yield client
    client.close()
