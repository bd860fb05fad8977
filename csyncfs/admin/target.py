"""From what a person typed to a mount: running (a client) or not (its store)."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from csyncfs import registry
from csyncfs.admin.client import Client, MountDown
from csyncfs.config import read_host
from csyncfs.errors import ConfigError
from csyncfs.registry import Registration


class NoSuchMount(ConfigError):
    """Nothing that csyncfs mounted, now or before, is at that path."""


@dataclass(frozen=True, slots=True)
class Target:
    """One mount and the part of it that is meant."""

    entry: Registration
    path: str | None
    """Relative to the mount's root; None: all of it."""
    client: Client | None
    """None: it is not mounted."""


def find_target(path: str | None, state_dir: Path | None) -> Target:
    """Raises NoSuchMount, MountSilent."""
    known = registry.entries(read_host().state_base / "mounts")
    if state_dir is not None:
        place = Path(path).absolute() if path else None
        candidates = _with_state(known, state_dir.absolute())
    else:
        place, candidates = _at(known, path)
    entry, client = _first_running(candidates)
    return Target(entry, _inside(entry, place), client)


def _with_state(known: list[Registration], state_dir: Path) -> list[Registration]:
    found = [entry for entry in known if Path(entry.state_dir) == state_dir]
    if found:
        return found
    if not state_dir.is_dir():
        raise NoSuchMount(f"no state directory at {state_dir}")
    # One that was moved here, or whose registration was lost: its store still speaks.
    text = str(state_dir)
    nowhere = Registration(
        id="", spec="?", mountpoint="", state_dir=text, cache_dir="", run_dir=text, pid=0
    )
    return [nowhere]


def _at(known: list[Registration], path: str | None) -> tuple[Path | None, list[Registration]]:
    place = Path(path).absolute() if path is not None else _current_directory()
    # As written first: resolving would touch the mount, which may be dead.
    for candidate in (Path(os.path.normpath(place)), Path(os.path.realpath(place))):
        if covering := registry.covering(known, candidate):
            return candidate, covering
    if path is not None:
        raise NoSuchMount(f"{path} is not in a csyncfs mount of yours")
    places = sorted({entry.mountpoint for entry in known})
    if len(places) == 1:
        return None, known
    if not places:
        raise NoSuchMount("no csyncfs mount is known; root's and other users' are not shown")
    raise NoSuchMount(f"which mount? give one of: {', '.join(places)}")


def _current_directory() -> Path:
    try:
        return Path.cwd()
    except OSError as exc:
        # In a directory that is gone, or in a dead mount, the shell still knows.
        if exc.errno not in (errno.ENOENT, errno.ENOTCONN, errno.EIO):
            raise
        return Path(os.environ.get("PWD", "/"))


def _first_running(candidates: list[Registration]) -> tuple[Registration, Client | None]:
    for entry in candidates:
        try:
            return entry, Client(entry.control_socket)
        except MountDown:
            continue
    return candidates[0], None


def _inside(entry: Registration, place: Path | None) -> str | None:
    if place is None or not entry.mountpoint or not place.is_relative_to(entry.mountpoint):
        return None
    inside = str(place.relative_to(entry.mountpoint))
    if not inside.isprintable() and any("\udc80" <= char <= "\udcff" for char in inside):
        raise ConfigError("a path that is not UTF-8 cannot be asked for; name its directory")
    return None if inside == "." else inside
