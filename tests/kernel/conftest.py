"""One mount of each kind of store a module; every test works in a directory of its own."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.length import some
from tests.support.mounts import Mount, mounting
from tests.support.trees import Entry, look


class Place:
    """A directory of a mount, and the store behind it as an independent client sees it."""

    def __init__(self, mount: Mount, name: str, store: "Path | Any", bucket: str) -> None:
        self.mount = mount
        self.path = mount.path / name
        self.path.mkdir()
        self._name = name
        self._store = store
        self._bucket = bucket

    @property
    def is_directory(self) -> bool:
        return isinstance(self._store, Path)

    def add_to_store(self, names: Iterable[str]) -> None:
        """Put empty files there behind the mount's back, where the store is a directory."""
        for name in names:
            path = self._store / self._name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def stored(self) -> dict[str, bytes]:
        """Every object below the directory, by its path there; flushes first."""
        self.mount.flush()
        if isinstance(self._store, Path):
            root = self._store / self._name
            return {
                str(path.relative_to(root)): path.read_bytes()
                for path in root.rglob("*")
                if path.is_file() and not path.is_symlink()
            }
        prefix = f"{self._name}/"
        pages = self._store.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return {
            key[len(prefix) :]: self._store.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            for key in keys
            if not key.endswith("/")
        }


@pytest.fixture(scope="module", params=some(("directory", "seaweedfs"), "seaweedfs"))
def mounted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Mount, Any, str]]:
    home = tmp_path_factory.mktemp("mount")
    if request.param == "directory":
        store = home / "store"
        store.mkdir()
        with mounting(home / "m", f"file://{store}", "upload_delay=0.2", "refresh=1") as mount:
            yield mount, store, ""
        return
    server = request.getfixturevalue(request.param)
    bucket = server.make_bucket()
    options = (f"endpoint={server.endpoint_url}", "upload_delay=0.2")
    with mounting(home / "m", f"s3://{bucket}", *options, env=dict(server.environment())) as mount:
        yield mount, server.client(), bucket


@pytest.fixture
def place(mounted: tuple[Mount, Any, str], request: pytest.FixtureRequest) -> Place:
    mount, store, bucket = mounted
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:80]
    return Place(mount, name, store, bucket)


@pytest.fixture(scope="module")
def left_behind(mounted: tuple[Mount, Any, str]) -> Iterator[dict[str, dict[bytes, Entry]]]:
    """What each test left in its directory; all must be there again without the cache."""
    left: dict[str, dict[bytes, Entry]] = {}
    yield left
    mount = mounted[0]
    mount.flush()
    assert mount.unmount() == 0
    mount.wipe_cache()
    mount.start()
    for name, entries in left.items():
        assert look(mount.path / name) == entries, name


@pytest.fixture
def settled(place: Place, left_behind: dict[str, dict[bytes, Entry]]) -> Iterator[None]:
    """After the test, what the mount shows is what the store has; and see ``left_behind``."""
    yield
    stored = {os.fsencode(name): content for name, content in place.stored().items()}
    entries = look(place.path)
    files = {name: e.content for name, e in entries.items() if stat.S_ISREG(e.mode)}
    assert {
        name: hashlib.md5(content, usedforsecurity=False).hexdigest()
        for name, content in stored.items()
        if name in files
    } == files
    left_behind[place.path.name] = entries
