"""Backends through the real transfer process."""

import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from csyncfs.transfer.client import TransferClient
from csyncfs.transfer.link import COMMAND
from csyncfs.transfer.messages import Options

TEST_CHILD = (sys.executable, str(Path(__file__).with_name("transfer_child.py")))
"""A child that hosts a memory backend with faults; see there for its options."""


@asynccontextmanager
async def through_transfer(
    spec: str,
    options: Options,
    *,
    env: Mapping[str, str] | None = None,
    memo: str | None = None,
    command: Sequence[str] = COMMAND,
) -> AsyncGenerator[TransferClient, None]:
    """A running client, not connected yet; its child is gone afterwards.

    ``memory:`` lives and dies with the child: after ``kill`` the store is empty.
    """
    client = TransferClient(spec, options, env=env, memo=memo, command=command)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        try:
            yield client
        finally:
            with trio.CancelScope(shield=True):
                await client.aclose()
            nursery.cancel_scope.cancel()
