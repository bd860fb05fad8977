"""Stores of every kind behind one face: how to mount an empty one, and what others see in it."""

import base64
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, cast

import pytest

from csyncfs.types import RESERVED_DIR
from tests.support import azurite, s3
from tests.support.gcs import FakeGcs
from tests.support.graph.process import GraphProcess
from tests.support.servers import S3Server


@dataclass(frozen=True, slots=True)
class Cloud:
    """One empty store, and an independent client of it."""

    spec: str
    options: tuple[str, ...]
    names: Callable[[], set[str]]
    """Of all files but those csyncfs keeps for itself."""
    dirs: Callable[[], set[str]]
    """Of all directories that there is a marker or a folder of, likewise."""
    bodies: Callable[[Iterable[str]], dict[str, bytes]]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    excuse: Callable[..., object] = lambda *_: None
    """Conduct that is not to be blamed on csyncfs, by name; for stores that watch it."""


def _own(names: "Mapping[str, object]") -> set[str]:
    return {name for name in names if not name.startswith(RESERVED_DIR) and name[-1] != "/"}


def _own_dirs(names: Iterable[str]) -> set[str]:
    return {name.rstrip("/") for name in names if not f"{name}/".startswith(RESERVED_DIR)}


@contextmanager
def _directory(request: pytest.FixtureRequest) -> Generator[Cloud]:
    top: Path = request.getfixturevalue("tmp_path_factory").mktemp("export")

    def paths(*, are_dirs: bool) -> set[str]:
        found = (path for path in top.rglob("*") if path.is_dir() is are_dirs)
        return {str(path.relative_to(top)) for path in found}

    yield Cloud(
        f"file://{top}",
        (),
        lambda: _own(dict.fromkeys(paths(are_dirs=False))),
        lambda: _own_dirs(paths(are_dirs=True)),
        lambda names: {name: (top / name).read_bytes() for name in names},
    )


@contextmanager
def _seaweedfs(request: pytest.FixtureRequest) -> Generator[Cloud]:
    yield _s3(request.getfixturevalue("seaweedfs"))


@contextmanager
def _ceph(request: pytest.FixtureRequest) -> Generator[Cloud]:
    yield _s3(request.getfixturevalue("ceph"))


def _s3(server: S3Server) -> Cloud:
    bucket = server.make_bucket()
    return Cloud(
        f"s3://{bucket}",
        (f"endpoint={server.endpoint_url}",),
        lambda: _own(s3.objects(server, bucket)),
        lambda: _own_dirs(key for key in s3.objects(server, bucket) if key.endswith("/")),
        lambda names: {name: s3.body(server, bucket, name) for name in names},
        server.environment(),
    )


@contextmanager
def _azurite(request: pytest.FixtureRequest) -> Generator[Cloud]:
    server: azurite.Azurite = request.getfixturevalue("azurite")
    container = server.make_container()

    def blobs(*, are_dirs: bool) -> dict[str, None]:
        return {
            str(blob.name): None
            for blob in server.container(container).list_blobs(include=["metadata"])
            if ("hdi_isfolder" in (cast("dict[str, str] | None", blob.metadata) or {})) is are_dirs
        }

    yield Cloud(
        f"az://{azurite.ACCOUNT}/{container}",
        (f"endpoint={server.url()}",),
        lambda: _own(blobs(are_dirs=False)),
        lambda: _own_dirs(blobs(are_dirs=True)),
        lambda wanted: {name: azurite.body(server, container, name) for name in wanted},
        server.environment(),
    )


@contextmanager
def _gcs(request: pytest.FixtureRequest) -> Generator[Cloud]:
    fake: FakeGcs = request.getfixturevalue("gcs")
    bucket = fake.make_bucket()
    key = fake.write_key(request.getfixturevalue("tmp_path_factory").mktemp("key") / "key.json")

    def bodies(wanted: Iterable[str]) -> dict[str, bytes]:
        found = bucket.contents()
        return {name: found[name] for name in wanted}

    yield Cloud(
        f"gs://{bucket.name}",
        (f"endpoint={fake.endpoint}", f"credentials_file={key}"),
        lambda: _own(bucket.contents()),
        lambda: _own_dirs(name for name in bucket.contents() if name.endswith("/")),
        bodies,
    )


@contextmanager
def _onedrive(_: pytest.FixtureRequest, flavour: str = "personal") -> Generator[Cloud]:
    with GraphProcess(flavour, "--sign-in") as graph:

        def tree() -> Mapping[str, str | None]:
            return graph.control("tree")

        def files() -> dict[str, bytes]:
            found = tree().items()
            return {name: base64.b64decode(told) for name, told in found if told is not None}

        def bodies(wanted: Iterable[str]) -> dict[str, bytes]:
            found = files()
            return {name: found[name] for name in wanted}

        yield Cloud(
            f"onedrive://drive/{graph.drive_id}",
            (f"endpoint={graph.api_url}",),
            lambda: _own(files()),
            lambda: _own_dirs(name for name, told in tree().items() if told is None),
            bodies,
            {
                "REQUESTS_CA_BUNDLE": graph.told["ca_file"],
                "AZURE_AUTHORITY_HOST": graph.told["authority"],
                "AZURE_TENANT_ID": "tenant",
                "AZURE_CLIENT_ID": "app",
                "AZURE_CLIENT_SECRET": "secret",
            },
            lambda *kinds: graph.control("unwatch", kinds=kinds),
        )
        assert graph.control("finish") == []


CLOUDS: Final = {"seaweedfs": _seaweedfs, "azurite": _azurite, "onedrive": _onedrive}
"""What the tests with real programs run on."""
ALL: Final = {
    "directory": _directory,
    "seaweedfs": _seaweedfs,
    "ceph": _ceph,
    "azurite": _azurite,
    "gcs": _gcs,
    "onedrive-personal": _onedrive,
    "onedrive-business": partial(_onedrive, flavour="business"),
    "onedrive-sharepoint": partial(_onedrive, flavour="sharepoint"),
}
