"""csyncfs from the command line on a real mount: background, remount, failures, unmount."""

import os
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from csyncfs import preflight
from tests.support.mounts import wait_until
from tests.support.shell import BIN, Shell, is_running, ok, refused, shell_in


@pytest.fixture
def shell(tmp_path: Path) -> Generator[Shell]:
    with shell_in(tmp_path) as made:
        yield made


def test_mount_answers_when_it_returns_and_umount_ends_the_process(shell: Shell) -> None:
    ok(shell.mount("refresh=1", "noexec"))
    assert (shell.mnt / "a.txt").read_text() == "hello\n"
    mounted = preflight.find_mount(shell.mnt)
    assert mounted is not None
    assert (mounted.fstype, mounted.source) == ("fuse.csyncfs", f"file://{shell.store}")
    pid = shell.entry().pid
    assert shell.status_pid() == pid, shell.log()
    # a session of its own, with nothing of the caller's left open
    assert os.getsid(pid) == pid
    ok(shell.run("csyncfs", "umount", shell.mnt))
    assert not is_running(pid)
    assert shell.entry().pid == 0
    assert list(shell.mnt.iterdir()) == []
    assert not Path(shell.entry().run_dir).exists()


def test_umount_and_mount_again_in_one_breath(shell: Shell) -> None:
    # long enough that the first process still waits for its uploads
    ok(shell.mount("upload_delay=1.5", "drain=20"))
    first = shell.entry().pid
    (shell.mnt / "new").write_text("to be sent")
    subprocess.run(["umount", shell.mnt], check=True)
    ok(shell.mount())
    assert shell.entry().pid != first
    assert (shell.mnt / "new").read_text() == "to be sent"
    assert shell.status_pid() == shell.entry().pid, shell.log()
    ok(shell.run("csyncfs", "umount", shell.mnt))
    assert (shell.store / "new").read_text() == "to be sent"


def test_a_second_mount_of_the_same_state_is_refused(shell: Shell) -> None:
    ok(shell.mount())
    refused(shell.mount(), 32, "is in use")
    (shell.home / "other").mkdir()
    done = shell.run("mount.csyncfs", f"file://{shell.store}", shell.home / "other")
    refused(done, 32, "in use by another mount")
    assert preflight.find_mount(shell.home / "other") is None
    assert (shell.mnt / "a.txt").read_text() == "hello\n"
    # what the refused one wrote did not take the registration away
    ok(shell.run("csyncfs-admin", "status", shell.mnt))


def test_two_mounts_of_one_store_with_a_state_each(shell: Shell) -> None:
    ok(shell.mount("refresh=0.2"))
    other = shell.home / "other"
    other.mkdir()
    state = f"state_dir={shell.home}/state2"
    ok(shell.run("mount.csyncfs", f"file://{shell.store}", other, "-o", f"refresh=0.2,{state}"))
    (other / "b.txt").write_text("from the other")
    ok(shell.run("csyncfs-admin", "flush", "--wait", other))
    wait_until(lambda: "b.txt" in os.listdir(shell.mnt), "the file in the first mount")
    ok(shell.run("csyncfs", "umount", other))
    ok(shell.run("csyncfs", "umount", shell.mnt))


def test_a_missing_store_is_told_and_nothing_is_left_mounted(shell: Shell) -> None:
    done = shell.run("mount.csyncfs", "file:///no/such/directory", shell.mnt)
    refused(done, 32, "/no/such/directory")
    assert preflight.find_mount(shell.mnt) is None


def test_a_damaged_store_is_told(shell: Shell) -> None:
    ok(shell.mount())
    ok(shell.run("csyncfs", "umount", shell.mnt))
    Path(shell.entry().state_dir, "store.db").write_bytes(b"not a database" * 1000)
    refused(shell.mount(), 32, "store.db")
    assert preflight.find_mount(shell.mnt) is None


def test_a_killed_mount_is_dead_until_it_is_taken_down(shell: Shell) -> None:
    ok(shell.mount())
    pid = shell.entry().pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "the end of the process")
    refused(shell.mount(), 32, f"umount -l {shell.mnt}")
    done = shell.run("csyncfs-admin", "status", shell.mnt)
    assert (done.returncode, "not mounted" in done.stdout) == (0, True)
    ok(shell.run("csyncfs", "umount", "--lazy", shell.mnt))
    ok(shell.mount())
    assert (shell.mnt / "a.txt").read_text() == "hello\n"


def test_umount_of_a_mount_in_use_is_refused(shell: Shell) -> None:
    ok(shell.mount())
    with (shell.mnt / "a.txt").open():
        refused(shell.run("csyncfs", "umount", shell.mnt), 32, "busy")
    ok(shell.run("csyncfs", "umount", shell.mnt))


def test_sigterm_is_a_clean_end(shell: Shell) -> None:
    ok(shell.mount("upload_delay=0"))
    (shell.mnt / "late").write_text("late")
    pid = shell.entry().pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_running(pid), "the end of the process")
    assert preflight.find_mount(shell.mnt) is None
    assert (shell.store / "late").read_text() == "late"
    assert shell.entry().pid == 0


def test_log_file_has_the_life_of_the_mount_and_no_traceback(shell: Shell) -> None:
    ok(shell.mount(f"log_file={shell.home}/log", "log_level=debug"))
    (shell.mnt / "x").write_text("x")
    ok(shell.run("csyncfs", "umount", shell.mnt))
    text = (shell.home / "log").read_text()
    assert f"INFO daemon: mounted spec=file://{shell.store}" in text
    assert "traceback" not in text


def test_foreground_mount_ends_with_its_terminal(shell: Shell) -> None:
    process = subprocess.Popen(
        [BIN / "csyncfs", "mount", "--foreground", f"file://{shell.store}", shell.mnt],
        env={**os.environ, "CSYNCFS_HOME": str(shell.home / "csyncfs")},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: preflight.find_mount(shell.mnt) is not None, "the mount")
    assert (shell.mnt / "a.txt").read_text() == "hello\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "INFO daemon: mounted" in err
    assert preflight.find_mount(shell.mnt) is None


def test_mounting_takes_seconds_at_most(shell: Shell) -> None:
    started = time.monotonic()
    ok(shell.mount())
    assert time.monotonic() - started < 15
