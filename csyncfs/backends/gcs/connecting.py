"""Reach the bucket, and learn whether it has a hierarchical namespace."""

import logging
from dataclasses import dataclass
from typing import Any, Final

import trio

from csyncfs.backends.gcs import looking
from csyncfs.backends.gcs.options import GcsOptions
from csyncfs.backends.gcs.wire import CONTROL_SLOTS, Wire, told
from csyncfs.backends.lanes import Lane
from csyncfs.errors import Hold, NoSuchStore, NotFound, Retry, Unsupported

log = logging.getLogger(__name__)

_BUILD_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Reached:
    """A bucket that lets us in."""

    wire: Wire
    is_hierarchical: bool


async def reach(options: GcsOptions) -> Reached:
    """Raises NoSuchStore, AccessDenied, Offline."""
    lane = Lane("control", CONTROL_SLOTS)
    wire = await lane.run(lambda: told("connecting", lambda: _build(options)), _BUILD_S)
    try:
        # By what is needed anyway: not everybody may look at the bucket itself.
        await looking.is_any(wire, options.base)
        return Reached(wire, await _is_hierarchical(wire))
    except BaseException:
        await trio.to_thread.run_sync(wire.client.close)
        raise


def _build(options: GcsOptions) -> Wire:
    from csyncfs.backends.gcs import client

    try:
        made = client.build(options)
    except ValueError as exc:
        raise NoSuchStore("the GCS endpoint is not usable") from exc
    return trio.from_thread.run_sync(lambda: Wire(options, made))


async def _is_hierarchical(wire: Wire) -> bool:
    try:
        found = await wire.look("looking", "/storageLayout", {})
    except (Unsupported, Hold, NotFound, Retry) as exc:
        log.info("whether the namespace is hierarchical is not told why=%s", exc)
        return False
    told: Any = found.get("hierarchicalNamespace")
    return bool(told and told.get("enabled"))
