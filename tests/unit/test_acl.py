"""Access control lists as acl(5) has them."""

import itertools
import os
import struct

import pytest

from csyncfs import acl
from csyncfs.acl import Acl, Entry

MINIMAL: Acl = (
    Entry(acl.USER_OBJ, 6),
    Entry(acl.GROUP_OBJ, 4),
    Entry(acl.OTHER, 0),
)
NAMED: Acl = (
    Entry(acl.USER_OBJ, 7),
    Entry(acl.USER, 6, 1000),
    Entry(acl.GROUP_OBJ, 5),
    Entry(acl.GROUP, 7, 2000),
    Entry(acl.MASK, 6),
    Entry(acl.OTHER, 1),
)


def test_the_form_is_the_kernels() -> None:
    raw = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in ((1, 6, 0xFFFFFFFF), (4, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
    )
    assert acl.parse(raw) == MINIMAL
    assert acl.encode(MINIMAL) == raw
    assert acl.parse(acl.encode(NAMED)) == NAMED
    assert acl.parse(acl.encode(())) == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x02",
        struct.pack("<I", 1),
        acl.encode(NAMED)[:-1],
        # named ones without a mask, an entry twice, none for others, the wrong order
        acl.encode(tuple(entry for entry in NAMED if entry.tag != acl.MASK)),
        acl.encode((MINIMAL[0], *MINIMAL)),
        acl.encode(MINIMAL[:-1]),
        acl.encode(MINIMAL[::-1]),
        acl.encode((Entry(acl.USER_OBJ, 8), *MINIMAL[1:])),
        acl.encode((*MINIMAL, Entry(0x40, 1))),
    ],
)
def test_nonsense_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="access control list"):
        acl.parse(raw)


def test_any_bytes_are_a_list_or_refused() -> None:
    for size in range(60):
        for raw in (os.urandom(size), struct.pack("<I", 2) + os.urandom(size)):
            try:
                assert acl.encode(acl.parse(raw)) == raw
            except ValueError:
                continue


def test_the_group_of_the_mode_is_the_mask() -> None:
    assert acl.permissions(MINIMAL) == 0o640
    assert acl.permissions(NAMED) == 0o761
    assert acl.is_minimal(MINIMAL)
    assert not acl.is_minimal(NAMED)


def test_chmod_changes_mask_owner_and_others_only() -> None:
    changed = acl.with_mode(NAMED, 0o100425)
    assert acl.permissions(changed) == 0o425
    assert [entry.permissions for entry in changed] == [4, 6, 5, 7, 2, 5]
    assert acl.permissions(acl.with_mode(MINIMAL, 0o751)) == 0o751


@pytest.mark.parametrize(("asked", "mode"), [(0o666, 0o660), (0o600, 0o600), (0o777, 0o761)])
def test_what_is_made_gets_no_more_than_asked_and_the_default(asked: int, mode: int) -> None:
    made, access = acl.inherit(NAMED, 0o100000 | asked)
    assert made == 0o100000 | mode
    assert access is not None
    assert acl.permissions(access) == mode
    assert [e for e in access if e.tag in (acl.USER, acl.GROUP, acl.GROUP_OBJ)] == [
        e for e in NAMED if e.tag in (acl.USER, acl.GROUP, acl.GROUP_OBJ)
    ]


def test_a_default_that_a_mode_can_say_makes_no_list() -> None:
    for asked in itertools.product(range(8), repeat=3):
        mode = asked[0] << 6 | asked[1] << 3 | asked[2]
        assert acl.inherit(MINIMAL, mode) == (mode & 0o640, None)
