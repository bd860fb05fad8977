"""What a content file has of zeros that are not on the disk."""

import os
from pathlib import Path

import pytest

from csyncfs.cache.holes import Holes
from csyncfs.types import InodeId

_MIB = 1 << 20
_INO = InodeId(7)


@pytest.fixture
def fd(tmp_path: Path) -> int:
    return os.open(tmp_path / "content", os.O_RDWR | os.O_CREAT)


def test_a_hole_is_what_the_file_is_longer_than_its_blocks(fd: int) -> None:
    holes = Holes()
    os.ftruncate(fd, 100 * _MIB)
    holes.measure(_INO, fd, 100 * _MIB)
    assert (holes.of(_INO), holes.total_bytes) == (100 * _MIB, 100 * _MIB)
    os.pwrite(fd, bytes(10 * _MIB), 20 * _MIB)
    os.fsync(fd)
    holes.measure(_INO, fd, 100 * _MIB)
    assert holes.of(_INO) == pytest.approx(90 * _MIB, abs=64 << 10)
    assert holes.total_bytes == holes.of(_INO)


def test_small_holes_are_not_worth_knowing(fd: int) -> None:
    holes = Holes()
    os.ftruncate(fd, _MIB - 1)
    holes.measure(_INO, fd, _MIB - 1)
    assert _INO not in holes
    assert holes.total_bytes == 0


def test_a_hole_goes_with_its_content(fd: int) -> None:
    holes = Holes()
    os.ftruncate(fd, 50 * _MIB)
    holes.measure(_INO, fd, 50 * _MIB)
    holes.at_most(_INO, 60 * _MIB)
    assert holes.of(_INO) == 50 * _MIB
    holes.at_most(_INO, 20 * _MIB)
    assert holes.of(_INO) == 20 * _MIB
    holes.at_most(_INO, 0)
    assert (_INO in holes, holes.total_bytes) == (False, 0)
