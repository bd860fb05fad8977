"""The change feed of a machine of ``engines``, polled when a test says so."""

from csyncfs.changes import Follower
from tests.support.engines import Content_, Machine, show_bucket
from tests.support.trees import must_agree


def follower_of(machine: Machine) -> Follower:
    """As ``mount`` makes it."""
    up = machine.up
    return Follower(
        up.store,
        up.table,
        up.tree,
        up.adopter,
        up.poller,
        up.backend,
        up.ordering,
        up.clock,
        refresh_s=1.0,
    )


async def at_rest(machine: Machine, follower: Follower) -> dict[str, Content_]:
    """Everything is sent and heard of; the mount has to show what the store holds."""
    for _ in range(4):
        await machine.flush()
        await follower.poll()
    assert machine.intents() == []
    shown = show_bucket(machine.bucket)
    must_agree("here", await machine.show(), shown)
    return shown
