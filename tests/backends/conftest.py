"""Every backend test that names a server gets one with credentials in the environment."""

from collections.abc import Callable

import pytest

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
def log_lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [record.getMessage() for record in caplog.records]
