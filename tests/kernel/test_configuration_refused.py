"""What only the user can mend: told at once by a first mount, by a later one in its status."""

import json
from pathlib import Path
from typing import Any

import pytest

from csyncfs import preflight
from tests.support.mounts import wait_until
from tests.support.servers import S3Server
from tests.support.shell import Shell, ok, refused, shell_in


def _credentials(server: S3Server, profile: str) -> str:
    return (
        f"[{profile}]\naws_access_key_id = {server.access_key}\n"
        f"aws_secret_access_key = {server.secret_key}\n"
    )


def _status(shell: Shell) -> dict[str, Any]:
    done = shell.run("csyncfs-admin", "--json", "status", shell.mnt)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_profile_that_does_not_exist_ends_a_first_mount_at_once(tmp_path: Path) -> None:
    with shell_in(tmp_path) as shell:
        options = "endpoint=http://127.0.0.1:9,path_style,profile=nosuch"
        done = shell.run("mount.csyncfs", "s3://bucket-of-tests", shell.mnt, "-o", options)

        refused(done, preflight.USAGE, "nosuch")
        assert preflight.find_mount(shell.mnt) is None


def test_a_profile_that_is_gone_is_told_by_the_status_and_healed_without_a_remount(
    tmp_path: Path, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "aws"
    file.write_text(_credentials(seaweedfs, "work"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = f"endpoint={seaweedfs.endpoint_url},path_style,profile=work,upload_delay=0"
    spec = f"s3://{seaweedfs.make_bucket()}"
    with shell_in(tmp_path) as shell:
        ok(shell.run("mount.csyncfs", spec, shell.mnt, "-o", options))
        assert list(shell.mnt.iterdir()) == []
        ok(shell.run("csyncfs", "umount", shell.mnt))
        file.write_text(_credentials(seaweedfs, "other"))

        ok(shell.run("mount.csyncfs", spec, shell.mnt, "-o", options))
        (shell.mnt / "new").write_text("kept here")
        wait_until(lambda: bool(_status(shell)["warnings"]), "the warning", timeout_s=30)
        status = _status(shell)
        assert not status["online"]
        assert "cannot be used until somebody mends this" in status["warnings"][0]
        assert "work" in status["warnings"][0]

        file.write_text(_credentials(seaweedfs, "work"))
        ok(shell.run("csyncfs-admin", "flush", "--wait", "--timeout", "60", shell.mnt))
        assert _status(shell)["warnings"] == []
        ok(shell.run("csyncfs", "umount", shell.mnt))
