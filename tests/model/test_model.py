"""Generated lists of operations: after each one the mount shows what POSIX says.

Local calls, time, crashes, a bad network, eviction and a wiped cache against an oracle; in the
end the bucket, and another machine that mounts it, have to hold the same. ``make model`` runs
20,000 lists; ``CSYNCFS_MODEL_LISTS`` says how many run here.
"""

import os

import pytest

from tests.support.batches import run_batch

_LISTS = int(os.environ.get("CSYNCFS_MODEL_LISTS", "200"))
_AT_ONCE = 50


@pytest.mark.parametrize("seed", range(max(1, _LISTS // _AT_ONCE)))
def test_a_mount_does_what_posix_says_whatever_happens(seed: int) -> None:
    assert run_batch(seed, _AT_ONCE) == _AT_ONCE
