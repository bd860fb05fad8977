"""Fixtures every test may ask for, and the order in which the workers get their modules."""

import pytest

pytest_plugins = ["tests.support.fixtures_s3", "tests.support.gcs.fixtures"]

# Few tests, and long ones: begun last, one of them would keep all but one worker waiting.
_FIRST = (
    *("kernel/test_programs", "kernel/test_lazy", "crash/", "faults/", "kernel/test_bad_days"),
    *("kernel/test_two_mounts", "kernel/"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((n for n, part in enumerate(_FIRST) if part in item.nodeid), len(_FIRST))

    items.sort(key=rank)
