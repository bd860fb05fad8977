"""mount(2) as root, without libfuse.

For one flag that libfuse cannot pass: MS_POSIXACL tells the kernel to leave the umask to us. Where
a directory has a default access control list the umask must not count, and only we know that.
"""

import ctypes
import logging
import os
import select
from collections.abc import Iterable
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH: Final = 2
_POSIXACL: Final = 1 << 16
# From <sys/mount.h>; a word that takes a flag away has it negative.
_FLAGS: Final = {
    "ro": 1,
    "nosuid": 2,
    "suid": -2,
    "nodev": 4,
    "dev": -4,
    "noexec": 8,
    "exec": -8,
    "sync": 16,
    "async": -16,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
    "rw": -1,
}
# What libfuse begins with.
_BEGIN: Final = _FLAGS["nosuid"] | _FLAGS["nodev"]
_DATA: Final = ("allow_other", "default_permissions")


class Attached:
    """A FUSE mount made here; the session takes the descriptor over."""

    def __init__(self, mountpoint: Path, fd: int) -> None:
        self._mountpoint = mountpoint
        self._fd = fd

    @property
    def name(self) -> str:
        """What libfuse takes for a mountpoint that is mounted already."""
        return f"/dev/fd/{self._fd}"

    @property
    def is_mounted(self) -> bool:
        """Whether nobody has unmounted it. Only while the session has the descriptor."""
        poll = select.poll()
        poll.register(self._fd, 0)
        return not any(event & select.POLLERR for _, event in poll.poll(0))

    def detach(self) -> None:
        """Take it down, after the session closed the descriptor."""
        _LIBC.umount2(os.fsencode(self._mountpoint), _MNT_DETACH)


def attach(mountpoint: Path, source: str, words: Iterable[str]) -> Attached | None:
    """Mount; None where that is not allowed and libfuse has to try it another way."""
    words = frozenset(words)
    if os.geteuid() != 0:
        return None
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    flags = _BEGIN
    for word in words & _FLAGS.keys():
        flags = flags | _FLAGS[word] if _FLAGS[word] > 0 else flags & ~-_FLAGS[word]
    data = ["rootmode=40000", f"user_id={os.getuid()}", f"group_id={os.getgid()}"]
    data += [f"fd={fd}", *(word for word in _DATA if word in words)]
    done = _LIBC.mount(
        os.fsencode(source),
        os.fsencode(mountpoint),
        b"fuse.csyncfs",
        ctypes.c_ulong(flags | _POSIXACL),
        ",".join(data).encode(),
    )
    if done == 0:
        return Attached(mountpoint, fd)
    log.info("mounted by libfuse error=%s", os.strerror(ctypes.get_errno()))
    os.close(fd)
    return None
