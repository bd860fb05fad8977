"""POSIX access control lists: their form as extended attributes, and what they do to modes.

The mode is the last word on what it says: the owner's permissions, the mask (or, without one,
the owning group's) and everybody else's. A list adds named users and groups, and what the
owning group may do below the mask. All of it as acl(5) says and the kernel does it.
"""

import struct
from typing import Final, NamedTuple

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"

USER_OBJ: Final = 0x01
USER: Final = 0x02
GROUP_OBJ: Final = 0x04
GROUP: Final = 0x08
MASK: Final = 0x10
OTHER: Final = 0x20

_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_VERSION: Final = 2
_NO_ID: Final = 0xFFFFFFFF
# Every list has these once, in the order of their tags.
_ALWAYS: Final = (USER_OBJ, GROUP_OBJ, OTHER)
_ONCE: Final = (USER_OBJ, GROUP_OBJ, MASK, OTHER)


class Entry(NamedTuple):
    """What somebody may do (a digit of the mode); ``id`` counts for named ones only."""

    tag: int
    permissions: int
    id: int = _NO_ID


Acl = tuple[Entry, ...]


def parse(raw: bytes) -> Acl:
    """Raises ValueError for what acl(5) does not allow. No entries: no list at all."""
    size = len(raw) - _HEADER.size
    if size < 0 or size % _ENTRY.size or _HEADER.unpack_from(raw)[0] != _VERSION:
        raise ValueError("not an access control list")
    entries = tuple(Entry(*fields) for fields in _ENTRY.iter_unpack(raw[_HEADER.size :]))
    if entries and not _is_valid(entries):
        raise ValueError("not a valid access control list")
    return entries


def _is_valid(entries: Acl) -> bool:
    tags = [entry.tag for entry in entries]
    has_names = USER in tags or GROUP in tags
    return (
        tags == sorted(tags)
        and {*tags} <= {*_ONCE, USER, GROUP}
        and all(tags.count(tag) == 1 for tag in _ALWAYS)
        and tags.count(MASK) in ((1,) if has_names else (0, 1))
        and all(entry.permissions <= 0o7 for entry in entries)
    )


def encode(acl: Acl) -> bytes:
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def permissions(acl: Acl) -> int:
    """The nine bits of the mode that stand for the list."""
    found = {entry.tag: entry.permissions for entry in acl}
    group = found.get(MASK, found[GROUP_OBJ])
    return found[USER_OBJ] << 6 | group << 3 | found[OTHER]


def is_minimal(acl: Acl) -> bool:
    """Whether the mode says all that the list says."""
    return len(acl) == len(_ALWAYS)


def with_mode(acl: Acl, mode: int) -> Acl:
    """The list of something whose mode is this: what chmod(2) makes of it."""
    has_mask = any(entry.tag == MASK for entry in acl)
    told = {
        USER_OBJ: mode >> 6 & 7,
        MASK if has_mask else GROUP_OBJ: mode >> 3 & 7,
        OTHER: mode & 7,
    }
    return tuple(
        entry._replace(permissions=told.get(entry.tag, entry.permissions)) for entry in acl
    )


def inherit(default: Acl, mode: int) -> tuple[int, Acl | None]:
    """Mode and list of something made with this mode (the umask does not count) where this is
    the default. None: the mode says it all."""
    mode = mode & ~0o777 | mode & permissions(default)
    return mode, None if is_minimal(default) else with_mode(default, mode)
