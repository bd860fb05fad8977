"""How long after the command a program has the first byte of a file, and what the mount needs.

Everything is cold: no cache, no knowledge of the store, a process that has just started. With
``-s`` it prints a line; ``CSYNCFS_LONG=1`` has every kind of store.
"""

import statistics
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.clouds import ALL
from tests.support.length import IS_LONG
from tests.support.mounts import mounting

REPEATS = 5 if IS_LONG else 1
CONTENT = b"first" * 200_000


class _Figures(NamedTuple):
    first_byte_s: float
    mount_kib: int
    transfer_kib: int


def _cold(home: Path, spec: str, options: tuple[str, ...], env: dict[str, str]) -> _Figures:
    began = time.monotonic()
    with mounting(home, spec, *options, env=env) as mount:
        with (mount.path / "d" / "file").open("rb", buffering=0) as file:
            assert file.read(1) == b"f"
            took_s = time.monotonic() - began
            assert file.read() == CONTENT[1:]
        transfer = Path(f"/proc/{mount.transfer_pid()}/status").read_text().splitlines()
        (used,) = (int(line.split()[1]) for line in transfer if line.startswith("VmRSS"))
        return _Figures(took_s, mount.memory_kib("VmRSS"), used)


@pytest.mark.parametrize("kind", ALL if IS_LONG else ["seaweedfs", "onedrive-business"])
def test_a_cold_mount_gives_the_first_byte(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with ALL[kind](request) as cloud:
        env = dict(cloud.env)
        with mounting(tmp_path / "writer", cloud.spec, *cloud.options, env=env) as writer:
            (writer.path / "d").mkdir()
            (writer.path / "d" / "file").write_bytes(CONTENT)
            writer.flush()
        found = [
            _cold(tmp_path / f"cold{n}", cloud.spec, cloud.options, env) for n in range(REPEATS)
        ]
    first_byte_s, mount_kib, transfer_kib = (
        statistics.median(column) for column in zip(*found, strict=True)
    )
    print(
        f"\n{kind}: first byte after {first_byte_s:.2f} s;"
        f" {mount_kib / 1024:.0f} MiB, transfer {transfer_kib / 1024:.0f} MiB"
    )
    assert first_byte_s < 30
    # DESIGN's ceiling for the whole daemon, with 1,000,000 files known.
    assert mount_kib < 200 << 10
