"""Reach the store, and learn whether it has real directories."""

import logging

import trio

from csyncfs.backends.azureblob import credentials
from csyncfs.backends.azureblob.options import AzureOptions
from csyncfs.backends.azureblob.wire import CONTROL_SLOTS, Wire
from csyncfs.backends.lanes import Lane
from csyncfs.errors import Hold, NoSuchStore, NotFound, Unsupported

log = logging.getLogger(__name__)

_BUILD_S = 60.0


async def reach(options: AzureOptions) -> Wire:
    """Clients for a container that exists and lets us in.

    Raises NoSuchStore, AccessDenied, Offline.
    """
    found = credentials.find(options.account, options.credentials_file)
    lane = Lane("control", CONTROL_SLOTS)
    wire = await lane.run(lambda: _build(options, found), _BUILD_S)
    try:
        # By what is needed anyway: a SAS token may not permit to look at the container itself.
        await wire.look("listing", lambda: _first_of(wire))
    except NotFound as exc:
        raise NoSuchStore("the account or container does not exist") from exc
    is_hierarchical = await _is_hierarchical(wire)
    return Wire(options, wire.clients, is_hierarchical=is_hierarchical)


def _build(options: AzureOptions, found: credentials.Credentials) -> Wire:
    from csyncfs.backends.azureblob import client

    try:
        clients = client.build(options, found)
    except ValueError as exc:
        raise NoSuchStore(f"the Azure endpoint is not usable: {options.service_url}") from exc
    return trio.from_thread.run_sync(lambda: Wire(options, clients, is_hierarchical=False))


def _first_of(wire: Wire) -> None:
    blobs = wire.container.list_blobs(
        name_starts_with=wire.options.base or None, results_per_page=1
    )
    next(blobs.by_page(), None)


async def _is_hierarchical(wire: Wire) -> bool:
    try:
        told = await wire.look("looking", wire.container.get_account_information)
    except (Unsupported, Hold, NotFound) as exc:
        # Not everybody may ask. Without it nothing is wrong, only renames are slower.
        log.info("whether the namespace is hierarchical is not told why=%s", exc)
        return False
    return bool(told.get("is_hns_enabled"))
