"""The commands of csyncfs as a user types them, in a home of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from csyncfs import preflight, registry
from csyncfs.registry import Registration

BIN = Path(sys.executable).parent


@dataclass
class Shell:
    """A home with a filled store, and the commands of csyncfs."""

    home: Path
    env: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def mnt(self) -> Path:
        return self.home / "mnt"

    @property
    def store(self) -> Path:
        return self.home / "store"

    def run(self, *words: object) -> "subprocess.CompletedProcess[str]":
        command = [str(word) for word in words]
        if command[0] == "mount.csyncfs":
            command = [sys.executable, "-I", "-m", "csyncfs.mount_helper", *command[1:]]
        else:
            command[0] = str(BIN / command[0])
        return subprocess.run(
            command,
            cwd=self.home,
            env={**os.environ, **self.env, "CSYNCFS_HOME": str(self.home / "csyncfs")},
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def mount(self, *options: str) -> "subprocess.CompletedProcess[str]":
        words = [word for option in options for word in ("-o", option)]
        return self.run("mount.csyncfs", f"file://{self.store}", self.mnt, *words)

    def status_pid(self) -> int | None:
        """The process that answers for the mount; None: the store was read instead."""
        done = self.run("csyncfs-admin", "--json", "status", self.mnt)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["pid"]

    def log(self) -> str:
        return Path(self.entry().state_dir, "csyncfs.log").read_text()

    def entry(self) -> Registration:
        (entry,) = registry.entries(self.home / "csyncfs" / "state" / "mounts")
        return entry


@contextmanager
def shell_in(home: Path) -> Generator[Shell]:
    """Unmounts at the end, whatever happened."""
    made = Shell(home)
    made.mnt.mkdir()
    made.store.mkdir()
    (made.store / "a.txt").write_text("hello\n")
    try:
        yield made
    finally:
        if preflight.find_mount(made.mnt) is not None:
            subprocess.run(["umount", "-l", made.mnt], check=False, capture_output=True)


def ok(done: "subprocess.CompletedProcess[str]") -> None:
    assert (done.returncode, done.stderr) == (0, "")


def is_running(pid: int) -> bool:
    """A process that ended may stay in the table until init takes notice."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def refused(done: "subprocess.CompletedProcess[str]", code: int, says: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
