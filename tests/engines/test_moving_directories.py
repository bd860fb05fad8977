"""A directory is on its way, which takes several requests, and what happens meanwhile."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from csyncfs.backends.memory import MemoryStore
from csyncfs.errors import Ambiguous
from tests.support.engines import agree, machines
from tests.support.invariants import check_machine


@pytest.mark.parametrize("is_reply_lost", [False, True], ids=["reply", "no reply"])
async def test_an_upload_that_ends_while_its_directory_moves_is_known_where_it_went(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock, is_reply_lost: bool
) -> None:
    """Sent before the rename, it arrives after everything in the directory had been told to
    move, and before the new directory is there."""
    bucket.write("d/")
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.show()

        async def network(step: str, key: str) -> None:
            if (step, key) == ("put", "d/f"):
                await trio.sleep(3)
            if key in ("e/", "d/") and step in ("make_dir", "move"):
                await trio.sleep(5)
            if is_reply_lost and (step, key) == ("make_dir:done", "e/"):
                raise Ambiguous("the reply was lost")

        a.on_step = network
        await a.write("d/f", b"one")
        await trio.sleep(1)
        await a.rename("d", "e")
        await trio.sleep(10)
        a.on_step = None
        await a.patch("e/f", 0, b"O")
        assert await agree(a, b) == {"e": None, "e/f": b"One"}
        assert a.conflicts() == []
        check_machine(a)


async def test_a_directory_renamed_again_while_it_is_listed_leaves_its_name_to_another(
    tmp_path: Path, bucket: MemoryStore, autojump_clock: MockClock
) -> None:
    """A rename first asks what is in the directory; by then a new one has the name."""
    bucket.write("d/")
    bucket.write("d/f", b"one")
    async with machines(tmp_path, bucket, "a", "b", upload_delay_s=0.0) as (a, b):
        await a.show()

        async def slow(step: str, key: str) -> None:
            if step == "list_page" and key == "d/":
                await trio.sleep(5)

        a.on_step = slow
        await a.rename("d", "e")
        await trio.sleep(1)
        await a.rename("e", "g")
        await a.mkdir("e")
        await trio.sleep(10)
        a.on_step = None
        assert await agree(a, b) == {"e": None, "g": None, "g/f": b"one"}
        assert a.conflicts() == []
        check_machine(a)
