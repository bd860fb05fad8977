"""The same generated lists on a mount, on an ordinary file system and in the oracle.

So the oracle is right where the kernel and ext4 agree with it, and csyncfs where it does what
ext4 does. ``CSYNCFS_LONG=1`` runs hundreds of lists, and S3 beside a directory as the store.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from csyncfs.vfs import Vfs
from tests.support.batches import draw_and_run
from tests.support.drawn import lists
from tests.support.length import IS_LONG
from tests.support.mounts import Mount, mounting
from tests.support.oracle import Seen
from tests.support.real import RealTree, SideBySide, same_tree

_LISTS = 300 if IS_LONG else 25


@pytest.fixture(params=["directory", "seaweedfs"] if IS_LONG else ["directory"])
def mount(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mount]:
    with ExitStack() as stack:
        mask = os.umask(0)
        stack.callback(os.umask, mask)
        options, env = ["upload_delay=0.2", "refresh=1"], {}
        if request.param == "directory":
            store = tmp_path / "store"
            store.mkdir()
            spec = f"file://{store}"
        else:
            server = request.getfixturevalue(request.param)
            spec, env = f"s3://{server.make_bucket()}", dict(server.environment())
            options.append(f"endpoint={server.endpoint_url}")
        yield stack.enter_context(mounting(tmp_path / "m", spec, *options, env=env))


def test_a_mount_does_what_ext4_does(mount: Mount, tmp_path: Path) -> None:
    left: dict[Path, dict[str, Seen]] = {}
    number = count()

    def run(operations: list[Any]) -> None:
        name = str(next(number))
        trees = [RealTree(tmp_path / "ext4" / name), RealTree(mount.path / name)]
        for tree in trees:
            tree.root.mkdir(parents=True)
        beside = SideBySide(trees, links=hasattr(Vfs, "link"))
        beside.live(operations)
        left[trees[1].root] = beside.oracle.show()

    draw_and_run(lists(surroundings=False), run, 1, _LISTS)
    mount.flush()
    assert mount.unmount() == 0
    mount.wipe_cache()
    mount.start()
    for root, shown in left.items():
        same_tree(RealTree(root), shown)
