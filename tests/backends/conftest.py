"""Every backend test that names a server gets one with credentials in the environment."""

import os
from collections.abc import Callable

import pytest

from tests.support.azurite import Azurite
from tests.support.s3 import use_credentials
from tests.support.servers import S3Server

SERVERS = ("seaweedfs", "ceph", "rclone_s3", "moto")


@pytest.fixture
def s3_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server a test is parametrised with, SeaweedFS by default."""
    name = getattr(request, "param", "seaweedfs")
    server: S3Server = request.getfixturevalue(name)
    use_credentials(server, monkeypatch)
    return server


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket()


@pytest.fixture
def azure(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Azurite:
    """Azurite, with its key in the environment and nothing else of Azure."""
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    for name, value in azurite.environment().items():
        monkeypatch.setenv(name, value)
    return azurite


@pytest.fixture
def container(azure: Azurite) -> str:
    return azure.make_container()


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [record.getMessage() for record in caplog.records]
