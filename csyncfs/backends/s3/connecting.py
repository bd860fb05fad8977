"""Reach the store, and learn its dialect."""

import logging

import trio

from csyncfs.backends.lanes import Lane
from csyncfs.backends.s3.dialect import Support, Verdict, assumed
from csyncfs.backends.s3.options import S3Options
from csyncfs.backends.s3.wire import CONTROL_SLOTS, Wire
from csyncfs.errors import AccessDenied, ConfigError, NoSuchStore, NotFound

log = logging.getLogger(__name__)

_BUILD_S = 60.0
_PROBE_S = 120.0


async def reach(options: S3Options) -> Wire:
    """Clients for a bucket that exists and lets us in.

    Raises NoSuchStore, AccessDenied, Offline, ConfigError.
    """
    lane = Lane("control", CONTROL_SLOTS)
    wire = await lane.run(lambda: _build(options), _BUILD_S)
    try:
        # Not HeadBucket: its refusals have no body, so a wrong secret looks like a wrong bucket.
        await wire.ask("list_objects_v2", Prefix=options.base, MaxKeys=1)
    except NotFound as exc:
        raise NoSuchStore("the bucket does not exist") from exc
    return wire


async def find_verdict(wire: Wire) -> Verdict:
    """The dialect of the server, tried out on a scratch object where we may write."""
    try:
        return await wire.controls.run(lambda: _probe(wire), _PROBE_S)
    except AccessDenied:
        log.warning("no permission to write: the server's dialect is not probed")
        is_aws = wire.options.is_aws
        name = "Amazon S3" if is_aws else "unknown S3 server"
        return assumed(name, Support.YES if is_aws else Support.IGNORED)


def _build(options: S3Options) -> Wire:
    try:
        from csyncfs.backends.s3 import client, translation
    except ImportError as exc:
        raise ConfigError(f"boto3 cannot be imported: {exc}") from exc
    try:
        clients = client.build(options)
    except ValueError as exc:
        raise ConfigError(f"the S3 endpoint is not usable: {options.endpoint_url}") from exc
    except Exception as exc:
        raise translation.translate(exc, "connect") from exc
    return trio.from_thread.run_sync(Wire, options, clients)


def _probe(wire: Wire) -> Verdict:
    from csyncfs.backends.s3.probe import probe

    return probe(wire)
