"""A transfer process for tests: a memory backend that fails where it is told to.

Holds ``file`` (1 KiB) and ``big`` (16 MiB). Options:
``die``: kill -9 itself at this step of the memory backend.
``hang``: wait for ever at this step, but let itself be cancelled.
``block_s``: wait so long before each block of a fetch.
``stubborn_s``: fetch in a thread that cannot be cancelled and writes for so long.
``freeze``: stop answering altogether at this step.
``real_dirs``: the store has directories.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import trio

from csyncfs.backends.base import Capabilities, Landed
from csyncfs.backends.memory import MemoryBackend, MemoryStore
from csyncfs.transfer.__main__ import main
from csyncfs.transfer.messages import Start
from csyncfs.transfer.server import Hosted
from csyncfs.types import Item, Location, RemoteVersion, Span

FILE = b"0123456789abcdef" * 64
BIG = bytes(range(256)) * 65536


class FaultyBackend(MemoryBackend):
    """Its memo counts the connects, so that it can be seen to travel."""

    def __init__(self, store: MemoryStore, options: Mapping[str, Any]) -> None:
        super().__init__(store, faults=self._fault)
        self._options = options
        self.memo = ""

    async def _fault(self, step: str, _key: str) -> None:
        if step == self._options.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self._options.get("freeze"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if step == self._options.get("hang"):
            await trio.sleep_forever()
        if step == "fetch:bytes":
            await trio.sleep(self._options.get("block_s", 0))

    async def connect(self) -> Capabilities:
        self.memo = self.memo + "+"
        return await super().connect()

    async def fetch(
        self, location: Location, span: Span, fd: int, expect: RemoteVersion, landed: Landed
    ) -> Item:
        if (stubborn_s := self._options.get("stubborn_s", 0)) and location.key == "big":
            landed(Span(0, 1))
            await trio.to_thread.run_sync(_write_for, fd, stubborn_s)
        return await super().fetch(location, span, fd, expect, landed)


def _write_for(fd: int, seconds: float) -> None:
    """Change the first bytes again and again: a late writer can be seen."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        count += 1
        os.pwrite(fd, count.to_bytes(8, "little"), 0)
        time.sleep(0.001)


async def make_faulty(start: Start) -> Hosted:
    store = MemoryStore(real_dirs="real_dirs" in start.options)
    store.write("file", FILE)
    store.write("big", BIG)
    backend = FaultyBackend(store, start.options)
    backend.memo = start.memo or ""
    return Hosted(backend, lambda: backend.memo)


if __name__ == "__main__":
    main(sys.argv, make_faulty)
