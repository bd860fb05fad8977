"""The watchman: one line for a slow call and one for its end, and who is let go."""

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from csyncfs import waits
from csyncfs.errors import FsError
from csyncfs.waits import Caller, waiting

SLOW_S = 5.0


def described(thread: int = 0) -> Caller:
    return Caller("read", "ino=7 path='d/f'", (thread,))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def _all_lines(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO):
        yield


async def call(seconds: float, thread: int = 0, *, can_end: bool = True) -> None:
    """A handler that waits for the store."""
    noted = waits.begin(lambda: described(thread))
    try:
        with waiting("bytes from the store", can_end=can_end):
            await trio.sleep(seconds)
    finally:
        waits.end(noted)


async def watched(nursery: trio.Nursery, *, is_over: bool = False) -> None:
    await nursery.start(waits.watch, SLOW_S, lambda: is_over)


async def test_a_slow_call_is_told_once_and_then_that_it_ended(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await watched(nursery)
        await call(60)
        nursery.cancel_scope.cancel()
    told, ended = lines(caplog)
    what = "call=read ino=7 path='d/f'"
    assert told.startswith(f"call is slow {what} waits_for=bytes from the store for_s=5.")
    assert ended == f"slow call ended {what} after_s=60.0"


async def test_a_quick_call_is_not_worth_a_line(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await watched(nursery)
        await call(SLOW_S - 1)
        nursery.cancel_scope.cancel()
    assert lines(caplog) == []


async def test_a_call_that_was_slow_elsewhere_is_told_when_it_ends(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await watched(nursery)
        noted = waits.begin(described)
        await trio.sleep(SLOW_S + 1)
        waits.end(noted)
        nursery.cancel_scope.cancel()
    assert lines(caplog) == ["slow call ended call=read ino=7 path='d/f' after_s=6.0"]


async def test_when_the_kernel_is_gone_nobody_waits(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        await watched(nursery, is_over=True)
        with pytest.raises(FsError) as caught:
            await call(60)
        assert caught.value.code == errno.ECONNABORTED
        assert trio.current_time() < 2
        nursery.cancel_scope.cancel()


async def test_what_cannot_end_is_left_alone(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        await watched(nursery, is_over=True)
        began = trio.current_time()
        await call(60, can_end=False)
        assert trio.current_time() - began == 60
        nursery.cancel_scope.cancel()


async def test_work_that_a_call_began_for_all_is_not_ended_with_it(
    autojump_clock: MockClock,
) -> None:
    """It has the call's context, but waits for itself."""
    has_ended = False

    async def download() -> None:
        nonlocal has_ended
        with waiting("room in the cache"):
            await trio.sleep(60)
        has_ended = True

    async with trio.open_nursery() as nursery:
        await watched(nursery, is_over=True)
        waits.begin(described)
        nursery.start_soon(download)
        with pytest.raises(FsError), waiting("bytes from the store"):
            await trio.sleep(60)
        await trio.sleep(61)
        assert has_ended
        nursery.cancel_scope.cancel()


def test_a_program_that_runs_is_not_told_to_stop() -> None:
    """Signals are pending for a moment in every program; only one that waits cannot take them."""
    code = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not waits.is_told_to_stop(process.pid)
        process.send_signal(signal.SIGKILL)
    assert not waits.is_told_to_stop(process.pid)
    assert waits.threads_of(process.pid) == ()


def test_threads_of_a_process_are_found_by_any_of_them() -> None:
    assert os.getpid() in waits.threads_of(os.getpid())
