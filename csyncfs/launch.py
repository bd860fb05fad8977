"""Start a mount process in the background and wait until its file system answers.

The process is a session of its own and outlives the command; what it needs is on its
command line, which holds no secret.
"""

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from csyncfs import preflight
from csyncfs.config import MountConfig
from csyncfs.daemon import Report
from csyncfs.options import quote_word

# For the checks, the store and the first answer of the kernel.
_DEADLINE_S = 45.0
_GRACE_S = 5.0


def launch(config: MountConfig) -> Report:
    """Mount in the background. Returns what the mount process reports, error or not."""
    was_mounted = preflight.find_mount(config.mountpoint) is not None
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-m", "csyncfs.daemon", str(writing)]
    process = subprocess.Popen(
        [*command, config.source, str(config.mountpoint), *map(quote_word, config.options)],
        pass_fds=[writing],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(writing)
    deadline_s = _DEADLINE_S + config.connect_wait_s + config.drain_s
    try:
        report = _read_report(reading, deadline_s)
    except KeyboardInterrupt:
        _stop(process, config.mountpoint, was_mounted=was_mounted)
        return Report(error="interrupted", code=preflight.INTERRUPTED)
    finally:
        os.close(reading)
    if report is None:
        return _silent(process, config.mountpoint, was_mounted=was_mounted)
    return report


def _read_report(pipe: int, timeout_s: float) -> Report | None:
    """The line the mount process writes; None: it ended, or wrote nothing in time."""
    deadline, line = time.monotonic() + timeout_s, b""
    while not line.endswith(b"\n"):
        left = max(0.0, deadline - time.monotonic())
        if not select.select([pipe], [], [], left)[0]:
            return None
        if not (received := os.read(pipe, 65536)):
            return None
        line += received
    return msgspec.json.decode(line, type=Report)


def _silent(process: subprocess.Popen[bytes], mountpoint: Path, *, was_mounted: bool) -> Report:
    with suppress(subprocess.TimeoutExpired):
        status = process.wait(timeout=1.0)
        how = f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        return Report(error=f"the mount process ended with {how}", code=preflight.FAILED)
    _stop(process, mountpoint, was_mounted=was_mounted)
    return Report(error="no answer, given up; the log says more", code=preflight.FAILED)


def _stop(process: subprocess.Popen[bytes], mountpoint: Path, *, was_mounted: bool) -> None:
    """End it, and leave no dead mount behind."""
    process.terminate()
    try:
        process.wait(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if not was_mounted and preflight.find_mount(mountpoint) is not None:
        subprocess.run(unmount_command(mountpoint, lazy=True), check=False, capture_output=True)


def unmount_command(mountpoint: Path, *, lazy: bool) -> list[str]:
    """The system's own command to unmount as this user."""
    if os.geteuid() == 0:
        return ["umount", *(["-l"] if lazy else []), str(mountpoint)]
    return ["fusermount3", "-uz" if lazy else "-u", str(mountpoint)]
