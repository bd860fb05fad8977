"""The process boundary stays cheap. Bounds are five times what a quiet 2-core VM shows, and of
what other work on the machine does not change: the best of many, and CPU time.
"""

import time

import trio

from csyncfs.transfer.client import TransferClient
from csyncfs.transfer.messages import HEADER, GotPage, encode, to_client
from csyncfs.types import Item, Kind, Location, Page, RemoteVersion
from tests.support.transfer import through_transfer

ROOT = Location("")


async def test_one_call_at_a_time_is_quick() -> None:
    async with through_transfer("memory:", {}) as client:
        await client.connect()
        times: list[float] = []
        for _ in range(500):
            began = time.perf_counter()
            await client.head(ROOT, Kind.DIR)
            times.append(time.perf_counter() - began)

    assert min(times) < 0.0015


async def test_many_calls_at_a_time_cost_little() -> None:
    async def heads(client: TransferClient) -> None:
        for _ in range(50):
            await client.head(ROOT, Kind.DIR)

    async with through_transfer("memory:", {}) as client:
        await client.connect()
        began = time.process_time()
        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(heads, client)
        spent = time.process_time() - began

    assert spent / 3200 < 0.0002


def test_a_full_page_is_decoded_within_a_few_milliseconds() -> None:
    items = tuple(
        Item(
            Location(f"photos/2024/IMG_{n:05d}.jpeg"),
            Kind.FILE,
            RemoteVersion(f"{n:032x}", n, 1_700_000_000_000_000_000 + n, f"{n:032x}"),
        )
        for n in range(1000)
    )
    frame = encode(GotPage(1, Page(items, None)))
    (header,) = HEADER.unpack_from(frame)
    times: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        to_client.decode(header, memoryview(frame)[HEADER.size :])
        times.append(time.perf_counter() - began)

    assert min(times) < 0.004
