"""What a directory tree looks like to programs, to be compared before and after."""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One file, directory or other thing."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    """0 for directories: theirs move with their entries."""
    size: int
    content: str
    """MD5 of a file, target of a symlink."""
    xattrs: tuple[tuple[str, bytes], ...]


def look(root: Path) -> dict[bytes, Entry]:
    """Everything below a directory by its path there."""
    found: dict[bytes, Entry] = {}
    top = bytes(root)
    for directory, dirs, files in os.walk(top):
        for name in dirs + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, top)] = _entry(path)
    return found


def _entry(path: bytes) -> Entry:
    status = os.lstat(path)
    content = ""
    if stat.S_ISREG(status.st_mode):
        content = md5(path)
    elif stat.S_ISLNK(status.st_mode):
        content = os.fsdecode(os.readlink(path))
    xattrs = () if stat.S_ISLNK(status.st_mode) else tuple(sorted(_xattrs(path)))
    is_dir = stat.S_ISDIR(status.st_mode)
    return Entry(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        0 if is_dir else status.st_mtime_ns,
        0 if is_dir else status.st_size,
        content,
        xattrs,
    )


def _xattrs(path: bytes) -> list[tuple[str, bytes]]:
    return [(name, os.getxattr(path, name)) for name in os.listxattr(path)]


def md5(path: "bytes | Path") -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def must_agree(
    where: str, found: Mapping[str, bytes | None], expected: Mapping[str, bytes | None]
) -> None:
    """Fails with what differs between a mount and what others see in its store."""
    differs = {
        path: (found.get(path, "absent"), expected.get(path, "absent"))
        for path in found.keys() | expected.keys()
        if found.get(path, "absent") != expected.get(path, "absent")
    }
    assert not differs, f"({where}, in the store): {differs}"
