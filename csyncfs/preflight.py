"""What must hold before a mount is tried, each with the one line that says what to do.

The mountpoint, the kernel's side of FUSE, and csyncfs's own directories, which are made
here. A stuck mount somewhere must not make these checks hang: the mount table is read
before any path is touched.
"""

import errno
import os
import shutil
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

from csyncfs.config import MountConfig
from csyncfs.errors import ConfigError

_FUSE_DEVICE = Path("/dev/fuse")
_FUSE_CONF = Path("/etc/fuse.conf")
_MOUNT_TABLE = Path("/proc/self/mountinfo")

_STUCK_S = 2.0

# Exit codes of mount(8).
USAGE = 1
SYSTEM = 2
INTERNAL = 4
INTERRUPTED = 8
FAILED = 32


class MountRefused(ConfigError):
    """The mount cannot work as things are; ``code`` is the exit code of mount(8)."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Mounted:
    """A line of the mount table."""

    mountpoint: Path
    fstype: str
    source: str


def check(config: MountConfig) -> None:
    """Raises MountRefused for the first thing in the way."""
    check_mountpoint(config.mountpoint)
    _check_fuse(config)
    if config.log_file is not None and not config.log_file.parent.is_dir():
        raise MountRefused(f"log_file: {config.log_file.parent} is not a directory", USAGE)
    if (file := config.credentials_file) is not None and not os.access(file, os.R_OK):
        raise MountRefused(f"credentials_file: cannot read {file}", USAGE)


def make_directories(config: MountConfig) -> None:
    """Make state, cache and run directories, for this user only. Raises MountRefused."""
    for path in (config.state_dir, config.cache_dir, config.run_dir):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A shared /tmp may hold a directory that somebody else made for us.
            if path.stat().st_uid != os.geteuid():
                raise MountRefused(f"{path} belongs to another user", USAGE)
            path.chmod(0o700)
        except OSError as exc:
            raise MountRefused(f"cannot use directory {path}: {exc.strerror}", SYSTEM) from exc


def check_mountpoint(path: Path) -> None:
    if (mounted := find_mount(path)) is not None:
        if _is_dead(path):
            raise MountRefused(
                f"{path} is a dead mount, its file system ended without unmounting: "
                f"run 'umount -l {path}' first"
            )
        raise MountRefused(f"{path} is in use: {mounted.source} is mounted there")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise MountRefused(f"mountpoint {path} does not exist") from None
    except OSError as exc:
        raise MountRefused(f"cannot use mountpoint {path}: {exc.strerror}") from exc
    if not stat.S_ISDIR(mode):
        raise MountRefused(f"mountpoint {path} is not a directory")
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        # fusermount3 lets users mount only over what they may write
        raise MountRefused(f"no write permission for mountpoint {path}", USAGE)


def _is_dead(mountpoint: Path) -> bool:
    """Whether the process behind a FUSE mount is gone; False for one that is only stuck."""
    found: list[int | None] = []

    def look() -> None:
        try:
            # unlike stat(2), never answered from what the kernel remembers
            os.statvfs(mountpoint)
        except OSError as exc:
            found.append(exc.errno)

    # in a thread that may be left behind: a stuck file system would keep us here
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_STUCK_S)
    return found == [errno.ENOTCONN]


def find_mount(path: Path) -> Mounted | None:
    """What is mounted exactly there, the topmost; None: nothing."""
    found = [entry for entry in mount_table() if entry.mountpoint == path]
    return found[-1] if found else None


def mount_table() -> list[Mounted]:
    """This mount namespace's mounts, in the order they were made."""
    table: list[Mounted] = []
    with _MOUNT_TABLE.open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields, _, rest = line.partition(" - ")
            fstype, source = rest.split(" ")[:2]
            point = _unescape(fields.split(" ")[4])
            table.append(Mounted(Path(point), fstype, _unescape(source)))
    return table


def _unescape(text: str) -> str:
    """The kernel writes space, tab, newline and backslash as octal."""
    for char in " \t\n\\":
        text = text.replace(f"\\{ord(char):03o}", char)
    return text


def _check_fuse(config: MountConfig) -> None:
    if not _FUSE_DEVICE.exists():
        raise MountRefused(f"{_FUSE_DEVICE} does not exist: run 'modprobe fuse' as root", SYSTEM)
    if not os.access(_FUSE_DEVICE, os.R_OK | os.W_OK):
        raise MountRefused(f"no permission to use {_FUSE_DEVICE}", USAGE)
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise MountRefused("fusermount3 is missing: install the package fuse3", SYSTEM)
    if config.allow_other and not _users_may_allow_other():
        raise MountRefused(
            f"allow_other needs a line 'user_allow_other' in {_FUSE_CONF} (ask root)", USAGE
        )


def _users_may_allow_other() -> bool:
    try:
        return "user_allow_other" in _FUSE_CONF.read_text().split()
    except OSError:
        return False
