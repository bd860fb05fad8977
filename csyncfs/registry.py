"""Which mounts this user has or had: one small file each below the state directory.

Written when a mount answers and kept after it ended, so that ``csyncfs-admin`` finds the
store and its journal from a path alone. Holds no secret.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from csyncfs.config import MountConfig


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """One mount, running or not."""

    id: str
    spec: str
    mountpoint: str
    state_dir: str
    cache_dir: str
    run_dir: str
    pid: int
    """Of the mount process; 0: it ended by itself."""
    options: list[str] = []

    @property
    def control_socket(self) -> Path:
        return Path(self.run_dir) / "control.sock"


def registration(config: MountConfig, pid: int) -> Registration:
    return Registration(
        id=config.id,
        spec=str(config.spec),
        mountpoint=str(config.mountpoint),
        state_dir=str(config.state_dir),
        cache_dir=str(config.cache_dir),
        run_dir=str(config.run_dir),
        pid=pid,
        options=list(config.options),
    )


def write(registry_dir: Path, entry: Registration) -> None:
    """Replace the entry of this id, whole or not at all. Raises OSError."""
    registry_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=registry_dir, prefix=".new-", delete=False) as new:
        new.write(msgspec.json.format(msgspec.json.encode(entry)) + b"\n")
    os.replace(new.name, registry_dir / f"{entry.id}.json")


def read(registry_dir: Path, mount_id: str) -> Registration | None:
    """The entry of one id; None where there is none or it cannot be read."""
    try:
        data = (registry_dir / f"{mount_id}.json").read_bytes()
        return msgspec.json.decode(data, type=Registration)
    except (OSError, msgspec.MsgspecError):
        return None


def entries(registry_dir: Path) -> list[Registration]:
    """All that can be read, the one written last first."""
    paths = sorted(registry_dir.glob("*.json"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
    return [entry for path in paths if (entry := read(registry_dir, path.stem)) is not None]


def covering(known: Iterable[Registration], path: Path) -> list[Registration]:
    """The mounts whose mountpoint is this path or the closest one above it."""
    above = [e for e in known if path.is_relative_to(e.mountpoint)]
    longest = max((len(e.mountpoint) for e in above), default=0)
    return [e for e in above if len(e.mountpoint) == longest]
