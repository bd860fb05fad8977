"""Wrong buckets, wrong keys, no network, a full disk: one clear line each, and nothing lost."""

import contextlib
import errno
import os
import re
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from csyncfs import preflight
from csyncfs.store import settings
from csyncfs.store.db import open_store
from tests.support.servers import S3Server, free_ports
from tests.support.shell import Shell, ok, refused, shell_in


@pytest.fixture
def shell(tmp_path: Path) -> Generator[Shell]:
    with shell_in(tmp_path) as made:
        made.env |= {"AWS_CONFIG_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true"}
        yield made


def mount_s3(
    shell: Shell, server: S3Server, bucket: str, *options: str
) -> "subprocess.CompletedProcess[str]":
    given = ",".join((f"endpoint={server.endpoint_url}", "path_style", *options))
    return shell.run("mount.csyncfs", f"s3://{bucket}", shell.mnt, "-o", given)


def test_wrong_bucket(shell: Shell, seaweedfs: S3Server) -> None:
    shell.env |= seaweedfs.environment()
    refused(mount_s3(shell, seaweedfs, "no-such-bucket"), 32, "no-such-bucket")
    assert preflight.find_mount(shell.mnt) is None


def test_wrong_key(shell: Shell, seaweedfs: S3Server) -> None:
    bucket = seaweedfs.make_bucket()
    secret = "wrong-secret-0123456789"
    shell.env |= {**seaweedfs.environment(), "AWS_SECRET_ACCESS_KEY": secret}
    done = mount_s3(shell, seaweedfs, bucket)
    refused(done, 32, bucket)
    assert secret not in done.stderr
    assert preflight.find_mount(shell.mnt) is None


def test_no_credentials(shell: Shell, seaweedfs: S3Server) -> None:
    bucket = seaweedfs.make_bucket()
    shell.env |= {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    refused(mount_s3(shell, seaweedfs, bucket), 32, "redentials")


def test_a_store_never_reached_mounts_offline_and_says_so(shell: Shell) -> None:
    (port,) = free_ports(1)
    shell.env |= {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    options = f"endpoint=http://127.0.0.1:{port},path_style,connect_wait=1,timeout=1,drain=0"
    done = shell.run("mount.csyncfs", "s3://bucket", shell.mnt, "-o", options)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("mount.csyncfs: warning: mounted offline")
    # Not an empty directory: what is there is not known.
    with pytest.raises(TimeoutError):
        os.listdir(shell.mnt)
    os.statvfs(shell.mnt)
    ok(shell.run("csyncfs", "umount", shell.mnt))


def test_a_known_store_works_without_a_network(shell: Shell, seaweedfs: S3Server) -> None:
    bucket = seaweedfs.make_bucket()
    shell.env |= seaweedfs.environment()
    ok(mount_s3(shell, seaweedfs, bucket))
    (shell.mnt / "known").write_text("known")
    assert os.listdir(shell.mnt) == ["known"]
    ok(shell.run("csyncfs-admin", "flush", "--wait", shell.mnt))
    ok(shell.run("csyncfs", "umount", shell.mnt))
    seaweedfs.pause()
    try:
        ok(mount_s3(shell, seaweedfs, bucket, "timeout=2", "drain=0"))
        assert (shell.mnt / "known").read_text() == "known"
        (shell.mnt / "new").write_text("new")
        ok(shell.run("csyncfs", "umount", shell.mnt))
        left = shell.run("csyncfs-admin", "flush", shell.mnt)
        assert (left.returncode, "1 change" in left.stdout) == (1, True)
    finally:
        seaweedfs.resume()
    ok(mount_s3(shell, seaweedfs, bucket))
    ok(shell.run("csyncfs-admin", "flush", "--wait", shell.mnt))
    listed = seaweedfs.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert {"known", "new"} <= {item["Key"] for item in listed}
    ok(shell.run("csyncfs", "umount", shell.mnt))


def test_secrets_are_in_no_command_line_no_log_and_no_file(
    shell: Shell, seaweedfs: S3Server
) -> None:
    bucket = seaweedfs.make_bucket()
    shell.env |= seaweedfs.environment()
    ok(mount_s3(shell, seaweedfs, bucket, "log_level=debug"))
    (shell.mnt / "x").write_text("x")
    ok(shell.run("csyncfs-admin", "flush", "--wait", shell.mnt))
    pid = shell.entry().pid
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    ok(shell.run("csyncfs", "umount", shell.mnt))
    secret = seaweedfs.environment()["AWS_SECRET_ACCESS_KEY"].encode()
    assert secret not in arguments
    for path in (shell.home / "csyncfs").rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes()


def damage_pages_with(database: Path, words: bytes) -> int:
    """Fill every page of the database that has these bytes with garbage; how many it were."""
    content = database.read_bytes()
    pages = {match.start() // 4096 for match in re.finditer(re.escape(words), content)}
    with database.open("r+b") as file:
        for page in pages:
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)
    return len(pages)


def test_damage_met_by_a_running_mount_ends_writing_and_is_told(shell: Shell) -> None:
    for number in range(600):
        (shell.store / f"there{number:03}").write_bytes(b"%d" % number)
    ok(shell.mount("upload_delay=3600,drain=0"))
    os.listdir(shell.mnt)
    (shell.mnt / "unsent").write_bytes(b"not sent yet")
    ok(shell.run("csyncfs", "umount", shell.mnt))
    state_dir = Path(shell.entry().state_dir)
    with contextlib.closing(open_store(state_dir)) as store, store.transaction():
        # More than is looked at when it is opened.
        settings.put(store, "filler", "x" * (33 << 20))
    assert damage_pages_with(state_dir / "store.db", b"there100") >= 2
    ok(shell.mount("upload_delay=3600,drain=0"))
    with pytest.raises(OSError, match="Input/output error"):
        (shell.mnt / "there100").read_bytes()
    with pytest.raises(OSError, match="Input/output error"):
        (shell.mnt / "more").write_bytes(b"more")
    assert (shell.mnt / "unsent").read_bytes() == b"not sent yet"
    status = shell.run("csyncfs-admin", "--json", "status", shell.mnt).stdout
    assert "csyncfs fsck --repair" in status
    ok(shell.run("csyncfs", "umount", shell.mnt))
    assert shell.run("csyncfs", "fsck", shell.mnt).returncode == 4
    assert shell.run("csyncfs", "fsck", "--repair", shell.mnt).returncode == 1
    ok(shell.run("csyncfs", "fsck", shell.mnt))
    ok(shell.mount())
    assert (shell.mnt / "unsent").read_bytes() == b"not sent yet"
    assert (shell.mnt / "there100").read_bytes() == b"100"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a small disk, as only root can")
class TestSmallDisk:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Generator[Path]:
        place = tmp_path / "disk"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", place], check=True)
        yield place
        subprocess.run(["umount", "-l", place], check=True)

    def test_no_room_for_the_store(self, shell: Shell, disk: Path) -> None:
        with pytest.raises(OSError, match="No space"):
            (disk / "filler").write_bytes(bytes(8 << 20))
        refused(shell.mount(f"state_dir={disk}/state"), 32, "full")
        assert preflight.find_mount(shell.mnt) is None

    def test_a_write_that_finds_no_room_is_told_and_the_mount_lives(
        self, shell: Shell, disk: Path
    ) -> None:
        places = f"state_dir={disk}/state,cache_dir={disk}/cache,cache_size=100M,min_free=1M"
        ok(shell.mount(places, "upload_delay=60"))
        with pytest.raises(OSError, match="No space") as caught:
            (shell.mnt / "big").write_bytes(os.urandom(16 << 20))
        assert caught.value.errno == errno.ENOSPC
        assert (shell.mnt / "a.txt").read_text() == "hello\n"
        (shell.mnt / "big").unlink()
        (shell.mnt / "small").write_text("fits")
        ok(shell.run("csyncfs-admin", "flush", "--wait", shell.mnt))
        assert (shell.store / "small").read_text() == "fits"
