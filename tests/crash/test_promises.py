"""kill -9 under mixed load, at named points and at random, of either process or both.

What every returned call promised is checked after each remount, and in the end in the bucket,
without the cache, and on a second machine. fsck is clean after every kill.

``CSYNCFS_CRASH_ROUNDS`` says how many kills (``make crash``: 1,000), ``CSYNCFS_CRASH_SEED``
which ones, ``CSYNCFS_CRASH_STORES`` on which stores (``make crash-stores``: all, 200 times each).
"""

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import killing
from tests.support.clouds import ALL, Cloud
from tests.support.mounts import Mount, mounting, wait_until
from tests.support.promises import DIR, Program, look

ROUNDS = int(os.environ.get("CSYNCFS_CRASH_ROUNDS", "4"))
STORES = os.environ.get("CSYNCFS_CRASH_STORES", "seaweedfs").split()
SEED = int(os.environ.get("CSYNCFS_CRASH_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
_PROGRAMS = 3
_DIE_S = 6.0


@dataclass
class Bench:
    """A mount that dies again and again, the programs on it, and its store from outside."""

    mount: Mount
    cloud: Cloud
    rng: random.Random
    programs: list[Program] = field(default_factory=list[Program])
    kills: Counter[str] = field(default_factory=Counter[str])
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    # -- the mount ---------------------------------------------------------------------------

    def mount_to_die(self, point: str, n: int) -> bool:
        """Mount with a point armed; False: it died before it answered."""
        self.mount.program = killing.command(point, n)
        try:
            self.mount.start()
        except AssertionError:
            if self.is_alive():
                raise
            return False
        finally:
            self.mount.program = Mount.program
        return True

    def is_alive(self) -> bool:
        process = self.mount.process
        return process is not None and process.poll() is None

    def take_down(self) -> None:
        """Kill what is left of it, if anything is, and its mountpoint."""
        assert self.mount.process is not None
        if self.is_alive():
            self.mount.process.kill()
        self.mount.process.wait(timeout=20)
        self.end_programs()
        self.mount.take_down()

    def kill_transfer(self) -> None:
        pid = self.mount.transfer_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            self.kills["transfer"] += 1

    # -- the programs ------------------------------------------------------------------------

    def start_programs(self) -> None:
        self._stop.clear()
        self._threads = [
            threading.Thread(target=program.run, args=(self.mount.path, self._stop), daemon=True)
            for program in self.programs
        ]
        for thread in self._threads:
            thread.start()

    def end_programs(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)
            assert not thread.is_alive(), "a program hangs"
        self._threads = []

    def no_program_failed(self) -> None:
        """While the mount lived no call may have failed."""
        failed = [(p.name, p.doing, p.trouble) for p in self.programs if p.trouble is not None]
        assert not failed or not self.is_alive() or self._dies_soon(), failed

    def _dies_soon(self) -> bool:
        assert self.mount.process is not None
        try:
            self.mount.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return False
        return True

    # -- checks ------------------------------------------------------------------------------

    def fsck(self) -> None:
        found = self.mount.fsck()
        assert found == [], f"{found} {self.context()}"
        lost = self.mount.state_dir() / "lost+found"
        assert not lost.exists() or self._lost() == [], self.context()

    def _lost(self) -> list[str]:
        """Unexplained content; what an unclosed edit left may be there."""
        reasons = (self.mount.state_dir() / "lost+found").glob("*.reason")
        return [text for p in reasons if "in the place of" not in (text := p.read_text())]

    def check(self, root: Path | None = None) -> None:
        """All promises, as the mount shows them."""
        for program in self.programs:
            place = (root or self.mount.path) / program.name
            # Killed before it had made its directory.
            program.check(look(place) if program.done or place.exists() else {})
        names = sorted(os.listdir(root or self.mount.path))
        assert set(names) <= {program.name for program in self.programs}, names

    def check_bucket(self) -> None:
        stored = self.cloud.bodies(self.cloud.names())
        expected = {
            f"{program.name}/{path}": content
            for program in self.programs
            for path, content in program.model.items()
            if content != DIR
        }
        assert stored.keys() == expected.keys()
        known = {p.name for p in self.programs} | {
            f"{program.name}/{path}"
            for program in self.programs
            for path, content in program.model.items()
            if content == DIR
        }
        assert self.cloud.dirs() <= known
        assert [key for key in stored if stored[key] != expected[key]] == []

    def check_everywhere(self) -> None:
        """In the bucket, without the cache, and on another machine."""
        self.mount.flush(900)
        self.check()
        self.check_bucket()
        assert self.mount.unmount() == 0
        self.fsck()
        self.mount.wipe_cache()
        self.mount.start()
        self.check()
        status = self.mount.status()
        assert (status["conflicts"], status["warnings"]) == (0, [])
        with mounting(
            self.mount.home / "second", self.mount.spec, *self.mount.options, env=self.mount.env
        ) as second:
            self.check(second.path)

    def context(self) -> str:
        return f"seed={SEED} kills={dict(self.kills)} {[p.doing for p in self.programs]}"


@pytest.fixture(params=STORES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    rng = random.Random(SEED)
    with ALL[request.param](request) as cloud:
        # Who is killed leaves things behind, asks again, and does not know that it should wait.
        cloud.excuse("session_left", "blind_retry", "impatient", "restarted")
        options = (*cloud.options, "upload_delay=0.1", "drain=0", "delete_guard=0")
        with mounting(tmp_path, cloud.spec, *options, env=dict(cloud.env), start=False) as mount:
            yield from _working(Bench(mount, cloud, rng), tmp_path)


def _working(bench: Bench, home: Path) -> Iterator[Bench]:
    for number in range(_PROGRAMS):
        program = Program(f"p{number}", random.Random(bench.rng.random()))
        program.full_history = home / f"history-{program.name}"
        bench.programs.append(program)
    try:
        yield bench
    finally:
        bench.end_programs()


def die_at_random(bench: Bench) -> None:
    """Work for a while; the transfer process dies now and then, and in the end the mount."""
    if not bench.is_alive():
        bench.mount.start()
        bench.check()
    bench.start_programs()
    until = time.monotonic() + bench.rng.uniform(0.05, 1.2)
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, bench.rng.uniform(0.05, 0.8)))
        if bench.rng.random() < 0.3:
            bench.kill_transfer()
    bench.no_program_failed()
    if bench.rng.random() < 0.2:
        bench.kill_transfer()  # both at once
    bench.kills["mount"] += 1
    bench.take_down()


def die_at(bench: Bench, point: str, n: int) -> None:
    """Work until the armed point is passed; if that does not happen, the mount is killed."""
    is_up = bench.mount_to_die(point, n)
    if is_up:
        bench.start_programs()
        is_transfer = point.partition(":")[0] in killing.TRANSFER_POINTS
        first = bench.mount.transfer_pid()
        deadline = time.monotonic() + (_DIE_S / 4 if is_transfer else _DIE_S)
        while bench.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
            if is_transfer and bench.mount.transfer_pid() != first:
                bench.kills[point] += 1
                time.sleep(bench.rng.uniform(0, 0.3))
                break
        bench.no_program_failed()
    reached = not bench.is_alive()
    bench.kills[point if reached else "mount"] += 1
    bench.take_down()


def check_after_a_kill(bench: Bench) -> None:
    try:
        bench.fsck()
        bench.mount.start()
        bench.check()
    except AssertionError as exc:
        raise AssertionError(f"{bench.context()}: {exc}\n{bench.mount.trouble()}") from exc


def test_every_promise_is_kept_whenever_it_is_killed(bench: Bench) -> None:
    """Half of the kills at random, half at a named point."""
    bench.mount.start()
    points = list(killing.POINTS)
    bench.rng.shuffle(points)
    began = time.monotonic()
    while bench.kills.total() < ROUNDS:
        if not bench.is_alive() or bench.rng.random() < 0.5:
            die_at_random(bench)
        else:
            bench.kills["mount"] += 1
            bench.take_down()
            bench.fsck()
            point = points[bench.kills.total() % len(points)]
            die_at(bench, point, bench.rng.choice([1, 1, 2, 5, 20]))
        check_after_a_kill(bench)
        if ROUNDS > 50 and bench.kills.total() % 10 < 2:
            done = sum(program.done for program in bench.programs)
            print(f"{bench.kills.total()} kills, {done} calls, {time.monotonic() - began:.0f} s")
    print(bench.context())
    bench.check_everywhere()


@pytest.mark.skipif(ROUNDS < 20, reason="only with many rounds: test_kills has the plain case")
def test_the_transfer_process_may_die_at_any_time(bench: Bench) -> None:
    bench.mount.start()
    bench.start_programs()
    for _ in range(ROUNDS // 10):
        time.sleep(bench.rng.uniform(0.1, 0.4))
        bench.kill_transfer()
    wait_until(lambda: bench.mount.transfer_pid() is not None, "there is another one")
    bench.no_program_failed()
    bench.end_programs()
    bench.check_everywhere()
