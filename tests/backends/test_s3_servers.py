"""The servers of the tests must not outlive them, whatever ends the test run."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.s3 import objects
from tests.support.servers import NotInstalled, Rclone, S3Server

_STARTER = """
import sys, pathlib, signal
from tests.support.servers import Rclone
print(Rclone(pathlib.Path(sys.argv[1])).start().pid, flush=True)
signal.pause()
"""


def test_a_server_dies_with_a_killed_test_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _STARTER, str(tmp_path / "data")]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=servers.ROOT)
    assert starter.stdout is not None
    server = os.pidfd_open(int(starter.stdout.readline()))
    try:
        starter.kill()
        starter.wait()

        ended, _, _ = select.select([server], [], [], 10)
        assert ended == [server]
    finally:
        starter.stdout.close()
        os.close(server)


@pytest.mark.parametrize("s3_server", ["seaweedfs"], indirect=True)
def test_a_paused_server_goes_on_where_it_stopped(s3_server: S3Server, bucket: str) -> None:
    s3_server.pause()
    s3_server.resume()

    assert objects(s3_server, bucket) == {}


def test_a_restarted_server_has_its_data_and_its_address(tmp_path: Path) -> None:
    server = Rclone(tmp_path / "data").start()
    try:
        bucket, before = server.make_bucket(), server.endpoint_url
        server.client().put_object(Bucket=bucket, Key="kept", Body=b"x")
        server.stop()
        server.start()

        assert server.endpoint_url == before
        assert objects(server, bucket) == {"kept": 1}
    finally:
        server.stop()


def test_a_server_that_is_not_installed_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "TOOLS", tmp_path)

    with pytest.raises(NotInstalled, match="scripts/test-servers rclone"):
        Rclone(tmp_path / "data").start()
