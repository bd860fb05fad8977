"""A whole mount on a drive that says "later" all the time, forgets who we are, and changes tags.

Time runs thirty times as fast for both, so that a pause of two minutes is kept in earnest.
"""

import random
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from azure.core.credentials import AccessToken
from trio.testing import MockClock

from csyncfs.backends.guard import GuardedBackend, Limits
from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import CsyncError
from tests.support import onedrive
from tests.support.engines import Machine
from tests.support.feeding import follower_of
from tests.support.graph import Action, Emulator, Rule
from tests.support.graph.clock import Clock
from tests.support.length import some

_SPEED = 30.0
_FILES = 60


@pytest.fixture
def fast_clock() -> MockClock:
    return MockClock(rate=_SPEED)


@pytest.fixture(params=some(("personal", "business", "sharepoint"), "sharepoint"))
def drive(request: pytest.FixtureRequest, fast_clock: MockClock) -> Generator[Emulator]:
    emu = Emulator(request.param, seed=5, clock=Clock(source=fast_clock.current_time))
    with emu:
        yield emu


class Renewed(onedrive.Person):
    """Gets another token whenever the last one was not taken."""

    def get_token(self, *scopes: str, claims: str | None, enable_cae: bool) -> AccessToken:
        if claims is not None:
            self.token = f"test-{self.asked}"
        return super().get_token(*scopes, claims=claims, enable_cae=enable_cae)


def throttle(emu: Emulator) -> None:
    """5 % of all requests, for as long as Graph was seen to."""
    for code, retry_after, share in (
        *((429, 1, 0.01), (429, 15, 0.01), (429, 120, 0.005)),
        *((503, 1, 0.01), (503, 30, 0.01), (503, 120, 0.005)),
    ):
        emu.faults.add(Rule(Action.status(code, retry_after=retry_after), prob=share))


@asynccontextmanager
async def mounted(emu: Emulator, home: Path) -> AsyncGenerator[Machine]:
    # Its own deadlines have to leave a busy machine some real time.
    backend = GuardedBackend(
        onedrive.backend_on(emu, person=Renewed()), Limits(call_s=600.0, feed_s=600.0)
    )
    async with trio.open_nursery() as nursery:
        machine = Machine(
            home, MemoryStore(), "a", nursery, timeout_s=600.0, slots=8, backend=backend
        )
        await machine.start()
        nursery.start_soon(keep_hearing, machine)
        yield machine
        await machine.end()
        await backend.aclose()
        nursery.cancel_scope.cancel()


async def keep_hearing(machine: Machine) -> None:
    follower = follower_of(machine)
    while machine.is_up:
        with suppress(CsyncError):
            await follower.poll()
        await trio.sleep(10)


async def test_in_bad_weather_everything_drains_and_nothing_is_taken_for_a_conflict(
    drive: Emulator, tmp_path: Path, fast_clock: MockClock
) -> None:
    for preset in ("messy_delta", "media_postproc", "sharepoint_office"):
        drive.preset(preset)
    rng, ours, theirs = random.Random(7), dict[str, bytes](), dict[str, bytes]()
    async with mounted(drive, tmp_path) as machine:
        throttle(drive)
        for directory in ("a", "b", "theirs"):
            await machine.mkdir(directory)
        for number in range(_FILES):
            path = f"{rng.choice('ab')}/f{number}{rng.choice(['', '.jpg', '.docx', '.txt'])}"
            ours[path] = rng.randbytes(rng.choice([0, 10, 5000]))
            await machine.write(path, ours[path])
            again = rng.choice(sorted(ours))
            match rng.randrange(6):
                case 0:
                    ours[again] += b"more"
                    await machine.write(again, ours[again])
                case 1:
                    new = f"{rng.choice('ab')}/moved{number}"
                    ours[new] = ours.pop(again)
                    await machine.rename(again, new)
                case 2:
                    del ours[again]
                    await machine.unlink(again)
                case _:
                    name = f"g{number}"
                    theirs[f"others/{name}"] = rng.randbytes(100)
                    drive.write(f"others/{name}", theirs[f"others/{name}"])
            if number == _FILES // 2:
                drive.revoke_tokens()
            await trio.sleep(rng.uniform(0, 6))
        await machine.rename("b", "c")
        ours = {f"c{path[1:]}" if path[0] == "b" else path: ours[path] for path in ours}
        await machine.flush()
        await trio.sleep(120)
        drive.faults.clear()
        await machine.flush()
        assert machine.intents() == []
        assert machine.conflicts() == []
        stored, shown = drive.tree(), dict[str, bytes | None]()
        for _ in range(30):
            # The last pause has to be over, and the feed to be asked.
            await trio.sleep(10)
            shown = await machine.show()
            if shown == stored:
                break
    stored = {path: content for path, content in stored.items() if content is not None}
    shown = {path: content for path, content in shown.items() if content is not None}
    expected = {**ours, **theirs}
    assert stored.keys() == shown.keys() == expected.keys()
    # A library adds something of its own to Office files.
    assert [p for p in expected if not stored[p].startswith(expected[p])] == []
    assert [p for p in expected if shown[p] != stored[p]] == []
    assert drive.finish() == []
    drive.check()
