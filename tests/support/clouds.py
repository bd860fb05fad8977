"""Stores of every kind behind one face: how to mount an empty one, and what others see in it."""

import base64
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, cast

import pytest

from csyncfs.types import RESERVED_DIR
from tests.support import azurite, s3
from tests.support.graph.process import GraphProcess
from tests.support.servers import S3Server


@dataclass(frozen=True, slots=True)
class Cloud:
    """One empty store, and an independent client of it."""

    spec: str
    options: tuple[str, ...]
    names: Callable[[], set[str]]
    """Of all files but those csyncfs keeps for itself."""
    bodies: Callable[[Iterable[str]], dict[str, bytes]]
    env: Mapping[str, str] = field(default_factory=dict[str, str])


def _own(names: "Mapping[str, object]") -> set[str]:
    return {name for name in names if not name.startswith(RESERVED_DIR) and name[-1] != "/"}


@contextmanager
def _seaweedfs(request: pytest.FixtureRequest) -> Generator[Cloud]:
    server: S3Server = request.getfixturevalue("seaweedfs")
    bucket = server.make_bucket()
    yield Cloud(
        f"s3://{bucket}",
        (f"endpoint={server.endpoint_url}",),
        lambda: _own(s3.objects(server, bucket)),
        lambda names: {name: s3.body(server, bucket, name) for name in names},
        server.environment(),
    )


@contextmanager
def _azurite(request: pytest.FixtureRequest) -> Generator[Cloud]:
    server: azurite.Azurite = request.getfixturevalue("azurite")
    container = server.make_container()

    def names() -> set[str]:
        found = server.container(container).list_blobs(include=["metadata"])
        return _own(
            {
                str(blob.name): blob.size
                for blob in found
                if "hdi_isfolder" not in (cast("dict[str, str] | None", blob.metadata) or {})
            }
        )

    yield Cloud(
        f"az://{azurite.ACCOUNT}/{container}",
        (f"endpoint={server.url()}",),
        names,
        lambda wanted: {name: azurite.body(server, container, name) for name in wanted},
        server.environment(),
    )


@contextmanager
def _onedrive(_: pytest.FixtureRequest) -> Generator[Cloud]:
    with GraphProcess("personal", "--sign-in") as graph:

        def files() -> dict[str, bytes]:
            tree: Mapping[str, str | None] = graph.control("tree")
            return {name: base64.b64decode(told) for name, told in tree.items() if told is not None}

        def bodies(wanted: Iterable[str]) -> dict[str, bytes]:
            found = files()
            return {name: found[name] for name in wanted}

        yield Cloud(
            f"onedrive://drive/{graph.drive_id}",
            (f"endpoint={graph.api_url}",),
            lambda: _own(files()),
            bodies,
            {
                "REQUESTS_CA_BUNDLE": graph.told["ca_file"],
                "AZURE_AUTHORITY_HOST": graph.told["authority"],
                "AZURE_TENANT_ID": "tenant",
                "AZURE_CLIENT_ID": "app",
                "AZURE_CLIENT_SECRET": "secret",
            },
        )
        assert graph.control("finish") == []


CLOUDS: Final = {"seaweedfs": _seaweedfs, "azurite": _azurite, "onedrive": _onedrive}
