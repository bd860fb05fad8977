"""Fixtures of the suite: a store per test, mounted once or twice."""

from collections.abc import AsyncGenerator
from typing import Final

import pytest

from tests.conformance.factories import STORES, THROUGH_TRANSFER, Store, mounted
from tests.conformance.mount import Mount

_WAYS = [(name, "direct") for name in STORES] + [(name, "transfer") for name in THROUGH_TRANSFER]

_NAMES: Final = "test_a_name_comes_back_or_is_refused"

# What a server does wrong and no client can put right. Strict: a fixed server is noticed.
_SERVER_DEFECTS: Final = {
    f"{_NAMES}[ceph-direct-control]": "Ceph 16 fails to list a prefix with a control character",
    f"{_NAMES}[moto-direct-newline]": "moto answers 404 to a key with a newline",
    "test_names_that_differ_only_in_form_are_different[rclone-direct]": (
        "rclone's VFS takes names that differ in Unicode form for one"
    ),
    **{
        f"test_names_that_differ_only_in_form_are_different[onedrive-{flavour}-direct]": (
            "OneDrive takes names that differ in case for one"
        )
        for flavour in ("personal", "business", "sharepoint")
    },
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "conformance" and item.name in _SERVER_DEFECTS:
            item.add_marker(pytest.mark.xfail(reason=_SERVER_DEFECTS[item.name], strict=True))


@pytest.fixture(params=_WAYS, ids=[f"{name}-{via}" for name, via in _WAYS])
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def store(way: tuple[str, str], request: pytest.FixtureRequest) -> Store:
    return STORES[way[0]](request)


@pytest.fixture
async def mount(store: Store, way: tuple[str, str]) -> AsyncGenerator[Mount, None]:
    """The store, mounted."""
    async with mounted(store, way[1]) as backend:
        yield Mount(backend, await backend.connect())


@pytest.fixture
async def other(store: Store, way: tuple[str, str], mount: Mount) -> AsyncGenerator[Mount, None]:
    """The same store, mounted by somebody else."""
    if way[1] == "transfer" and not store.is_shared:
        yield mount
        return
    async with mounted(store, way[1]) as backend:
        yield Mount(backend, await backend.connect())
