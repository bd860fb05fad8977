"""The child as a process: what it is given, what it shows, when it goes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from csyncfs.types import Kind, Location
from tests.support.transfer import TEST_CHILD, through_transfer

MOUNT = """
import sys, trio
from csyncfs.transfer.client import TransferClient
from csyncfs.types import *

async def main():
    client = TransferClient("memory:", {options}, command={command!r})
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        await client.connect()
        version = (await client.head(Location("big"), Kind.FILE)).version
        with open({path!r}, "wb") as file:
            landed = lambda span: print(client.pid, flush=True)
            await client.fetch(Location("big"), Span(0, 16 << 20), file.fileno(), version, landed)

trio.run(main)
"""


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("options", [{"block_s": 0.2}, {"stubborn_s": 3600}])
def test_the_child_is_gone_soon_after_a_killed_mount(
    tmp_path: Path, options: dict[str, float]
) -> None:
    """Also while a thread writes that cannot be cancelled."""
    script = MOUNT.format(options=options, command=TEST_CHILD, path=str(tmp_path / "big"))
    mount = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with mount:
        # Some bytes have landed, so the fetch is under way.
        assert mount.stdout is not None
        child = int(mount.stdout.readline())
        assert is_running(child)
        mount.kill()
        deadline = time.monotonic() + 2
        while is_running(child):
            assert time.monotonic() < deadline, "the child outlives its mount"
            time.sleep(0.01)


async def test_the_child_shows_no_secret_and_holds_nothing_it_needs_not() -> None:
    env = {**os.environ, "AWS_SECRET_ACCESS_KEY": "s3cr3t"}
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    async with through_transfer("memory:", {}, env=env, command=TEST_CHILD) as client:
        await client.connect()
        proc = Path(f"/proc/{client.pid}")
        assert b"s3cr3t" not in (proc / "cmdline").read_bytes()
        assert b"s3cr3t" in (proc / "environ").read_bytes()
        assert (proc / "comm").read_text() == "csyncfs-xfer\n"
        assert os.readlink(proc / "cwd") == "/"
        child, mine = open_files(proc), open_files(Path("/proc/self"))
        assert os.readlink(f"/proc/self/fd/{write_end}") in mine
        kept = {"/dev/null", os.readlink("/proc/self/fd/2"), "anon_inode:[eventpoll]"}

        assert child & mine <= kept
    os.close(read_end)
    os.close(write_end)


def open_files(proc: Path) -> set[str]:
    found: set[str] = set()
    for fd in os.listdir(proc / "fd"):
        # The descriptor of this very listing is gone by now.
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(proc / "fd" / fd))
    return found


async def test_the_environment_is_the_one_given() -> None:
    async with through_transfer("memory:", {}, env={"ONLY": "this"}, command=TEST_CHILD) as client:
        await client.connect()
        environ = Path(f"/proc/{client.pid}/environ").read_bytes()

        assert environ == b"ONLY=this\0"


async def test_ctrl_c_leaves_the_child_alone_and_sigterm_ends_it() -> None:
    with trio.fail_after(20):
        async with through_transfer("memory:", {}, command=TEST_CHILD) as client:
            await client.connect()
            pid = client.pid
            assert pid is not None
            assert os.getpgid(pid) == pid
            os.kill(pid, signal.SIGINT)
            await client.head(Location("file"), Kind.FILE)
            assert client.pid == pid
            os.kill(pid, signal.SIGTERM)
            while client.restarts == 0:
                await trio.sleep(0.01)

        assert not is_running(pid)


async def test_signals_blocked_in_the_mount_are_not_blocked_in_the_child() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        async with through_transfer("memory:", {}, command=TEST_CHILD) as client:
            await client.connect()
            status = Path(f"/proc/{client.pid}/status").read_text()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    assert "SigBlk:\t0000000000000000" in status


def test_the_client_imports_no_sdk_and_no_backend() -> None:
    script = "import sys, csyncfs.transfer.client\nprint('\\n'.join(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()

    assert "csyncfs.transfer.client" in found
    assert "csyncfs.backends.base" in found
    foreign = [
        name
        for name in found
        if name.partition(".")[0] in {"boto3", "botocore", "urllib3", "msgraph", "azure"}
        or (name.startswith("csyncfs.backends.") and name != "csyncfs.backends.base")
        or name in {"csyncfs.transfer.server", "csyncfs.transfer.factory"}
    ]
    assert foreign == []


def test_a_failure_to_start_is_one_line() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    process = subprocess.run(
        [*TEST_CHILD, str(theirs), "name"],
        pass_fds=(theirs,),
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(theirs)

    assert process.returncode == 1
    assert process.stdout == ""
    assert len(process.stderr.splitlines()) == 1
    assert process.stderr.startswith("name[")
