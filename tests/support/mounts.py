"""Real kernel mounts for tests: made through the command line, as a user makes them.

Each has directories of its own below one temporary home, so that several mounts of one store
live side by side; every one is ended with the test, whatever happened to it.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from csyncfs import fsck

_BIN = Path(sys.executable).parent
_PROGRAM = [str(_BIN / "csyncfs")]
_ADMIN = [str(_BIN / "csyncfs-admin")]
_START_S = 60.0
_END_S = 30.0
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Poll a condition of another process's making; fails with ``what`` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(0.02)


def is_mounted(path: Path) -> bool:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return any(line.split()[1] == str(path) for line in lines)


@dataclass
class Mount:
    """One mount of a store, which can be killed, unmounted and mounted again."""

    home: Path
    spec: str
    options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict[str, str])
    process: "subprocess.Popen[bytes] | None" = None
    program: tuple[str, ...] = tuple(_PROGRAM)
    """What is run as ``csyncfs``."""

    @property
    def path(self) -> Path:
        """The mountpoint."""
        return self.home / "mnt"

    @property
    def log(self) -> Path:
        return self.home / "log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.env, "CSYNCFS_HOME": str(self.home)}

    def start(self, *extra: str) -> "Mount":
        """Mount in the foreground of a child process; returns once the kernel has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        options = [f"log_file={self.log}", "log_level=debug", *self.options, *extra]
        command = [*self.program, "mount", "--foreground", self.spec, str(self.path)]
        for option in options:
            command += ["-o", option]
        with (self.home / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 (one thread, one call)
            )
        deadline = time.monotonic() + _START_S
        while not is_mounted(self.path) or not self._answers():
            assert self.process.poll() is None, self.trouble()
            assert time.monotonic() < deadline, f"not mounted in time: {self.trouble()}"
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            os.statvfs(self.path)
        except OSError:
            return False
        return True

    def trouble(self) -> str:
        """What the mount said, for a failing assertion."""
        logged = self.log.read_text()[-4000:] if self.log.exists() else ""
        return (self.home / "stderr").read_text()[-4000:] + logged

    def unmount(self) -> int:
        """umount(8), and wait for the daemon to end; its exit code."""
        assert self.process is not None
        subprocess.run(["umount", str(self.path)], check=True, timeout=_END_S)
        return self.process.wait(timeout=_END_S)

    def kill(self) -> None:
        """kill -9 of the mount process; the dead mountpoint is taken down."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=_END_S)
        self.take_down()

    def take_down(self) -> None:
        """Remove the mountpoint of a process that is dead; some call may hold on to it."""
        while is_mounted(self.path):
            subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)

    def end(self) -> None:
        """Leave nothing behind, in whatever state it is."""
        if is_mounted(self.path):
            subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=_END_S)

    def transfer_pid(self) -> int | None:
        """The transfer process, which any thread may have started; None: there is none now."""
        children: list[str] = []
        for thread in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with suppress(OSError):
                children += thread.read_text().split()
        return int(children[0]) if children else None

    def memory_kib(self, field_name: str) -> int:
        """Of the mount process, as /proc/PID/status calls it: VmRSS, VmHWM."""
        assert self.process is not None
        assert self.process.poll() is None, self.trouble()
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field_name))

    def state_dir(self) -> Path:
        (found,) = [p for p in (self.home / "state").iterdir() if p.name != "mounts"]
        return found

    def fsck(self) -> list[fsck.Finding]:
        """What csyncfs fsck finds; only while it is not mounted."""
        state_dir = self.state_dir()
        return fsck.check(fsck.Places(state_dir, self.home / "cache" / state_dir.name)).findings

    def wipe_cache(self) -> None:
        """What a user may do to the cache directory at any time."""
        shutil.rmtree(self.home / "cache", ignore_errors=True)

    def admin(self, *words: str, check: bool = True, timeout_s: float = 120.0) -> str:
        """csyncfs-admin on this mount; its standard output."""
        done = subprocess.run(
            [*_ADMIN, *words],
            env=self._environment(),
            cwd=self.home,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0 or not check, done.stderr + self.trouble()
        return done.stdout

    def status(self) -> dict[str, object]:
        return msgspec.json.decode(self.admin("--json", "status"))

    def flush(self, timeout_s: float = 170.0) -> None:
        """Wait until everything is in the store."""
        self.admin("flush", "--wait", "--timeout", str(timeout_s), timeout_s=timeout_s + 20)

    def refresh_wait(self, condition: Callable[[], bool], what: str) -> None:
        """Look at the root again and again until a remote change shows."""

        def look() -> bool:
            os.listdir(self.path)
            return condition()

        wait_until(look, what)


@contextmanager
def mounting(
    home: Path, spec: str, *options: str, env: dict[str, str] | None = None, start: bool = True
) -> Generator[Mount, None, None]:
    """A mount that ends with the block."""
    home.mkdir(parents=True, exist_ok=True)
    mount = Mount(home, spec, options, env or {})
    try:
        if start:
            mount.start()
        yield mount
    finally:
        mount.end()
