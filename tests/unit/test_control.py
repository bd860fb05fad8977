"""The control socket, over a real one: answers, progress, errors, clients that go away."""

import os
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from csyncfs.answers import FlushProgress
from csyncfs.control import ControlServer, short_address
from tests.support.steer import FakeSteer


@asynccontextmanager
async def serving(path: Path, steer: FakeSteer) -> AsyncGenerator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, steer).run)
        with trio.fail_after(20):
            yield
        nursery.cancel_scope.cancel()


async def connect(path: Path) -> trio.SocketStream:
    directory = os.open(path.parent, os.O_PATH)
    try:
        return await trio.open_unix_socket(short_address(directory, path.name))
    finally:
        os.close(directory)


async def ask(path: Path, *requests: object) -> list[dict[str, Any]]:
    """Send the requests at once, close our side, and collect every line."""
    lines = b"".join(
        r if isinstance(r, bytes) else msgspec.json.encode(r) + b"\n" for r in requests
    )
    stream = await connect(path)
    async with stream:
        await stream.send_all(lines)
        await stream.send_eof()
        received = b"".join([part async for part in stream])
    return [msgspec.json.decode(line) for line in received.splitlines()]


async def test_status_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path / "run" / "s", FakeSteer()):
        (answer,) = await ask(tmp_path / "run" / "s", {"id": 7, "method": "status"})
    assert answer["id"] == 7
    assert answer["result"]["online"] is True
    assert answer["result"]["queue"] == {
        "waiting": 3,
        "running": 0,
        "held": 0,
        "bytes": 5 << 20,
        "oldest_age_s": 75.0,
    }


async def test_flush_tells_progress_then_the_result(tmp_path: Path) -> None:
    steer = FakeSteer(pending=2)
    async with serving(tmp_path / "run" / "s", steer):
        answers = await ask(
            tmp_path / "run" / "s",
            {"id": 1, "method": "flush", "params": {"wait": True, "timeout_s": 5}},
        )
    assert [a["progress"]["remaining"] for a in answers[:-1]] == [2, 1]
    assert msgspec.convert(answers[-1]["result"], FlushProgress) == FlushProgress(0, 0, 2, 0)
    assert steer.asked == [("flush", True, 5.0)]


async def test_requests_of_one_client_are_answered_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path / "run" / "s", FakeSteer()):
        answers = await ask(
            tmp_path / "run" / "s",
            {"id": 1, "method": "cache_ls", "params": {"path": "a"}},
            {"id": 2, "method": "cache_evict", "params": {}},
            {"id": 3, "method": "conflicts", "params": {"path": None}},
        )
    assert [a["id"] for a in answers] == [1, 2, 3]
    assert answers[1]["result"] == {"files": 2, "freed_bytes": 4096, "kept": 1}
    assert answers[2]["result"][0]["original"] == "a.txt"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"not json\n", "bad-request"),
        (b'{"id": 4}\n', "bad-request"),
        (b'{"id": 4, "method": "flush", "params": {"wait": "maybe"}}\n', "bad-request"),
        (b'{"id": 4, "method": "status", "params": {"x": 1}}\n', "bad-request"),
        (b'{"id": 4, "method": "reboot"}\n', "unknown-method"),
        (b'{"id": 4, "method": "cache_ls", "params": {"path": "absent"}}\n', "no-such-path"),
        (b"\xff\xfe\n", "bad-request"),
    ],
)
async def test_a_bad_request_gets_its_code_and_the_next_one_its_answer(
    tmp_path: Path, request_: bytes, code: str
) -> None:
    async with serving(tmp_path / "run" / "s", FakeSteer()):
        bad, good = await ask(tmp_path / "run" / "s", request_, {"id": 5, "method": "status"})
    assert bad["error"]["code"] == code
    assert bad["error"]["message"]
    assert good["result"]["spec"] == "s3://bucket"


async def test_errors_of_the_mount_do_not_end_the_server(tmp_path: Path) -> None:
    steer = FakeSteer(error=RuntimeError("a bug"))
    async with serving(tmp_path / "run" / "s", steer):
        bug, failed = await ask(
            tmp_path / "run" / "s", {"id": 1, "method": "status"}, {"id": 2, "method": "conflicts"}
        )
    assert bug["error"] == {"code": "internal", "message": "RuntimeError: a bug"}
    assert failed["error"] == {"code": "failed", "message": "no route"}


async def test_a_client_that_goes_away_ends_its_flush(tmp_path: Path) -> None:
    steer = FakeSteer(is_stuck=True)
    async with serving(tmp_path / "run" / "s", steer):
        stream = await connect(tmp_path / "run" / "s")
        await stream.send_all(b'{"id": 1, "method": "flush", "params": {"wait": true}}\n')
        await stream.receive_some()
        await stream.aclose()
        await steer.cancelled.wait()
        (answer,) = await ask(tmp_path / "run" / "s", {"id": 2, "method": "status"})
    assert answer["result"]["pid"] == 42


async def test_an_endless_line_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path / "run" / "s", FakeSteer()):
        stream = await connect(tmp_path / "run" / "s")
        async with stream:
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"x" * (8 << 20))


async def test_only_the_owner_may_connect_and_nothing_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    path.parent.mkdir()
    path.write_text("left by a dead mount")
    async with serving(path, FakeSteer()):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not path.parent.exists()


async def test_a_path_longer_than_a_socket_address_serves(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with serving(deep / "control.sock", FakeSteer()):
        (answer,) = await ask(deep / "control.sock", {"id": 1, "method": "status"})
    assert answer["result"]["version"] == "9.9"
