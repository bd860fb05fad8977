"""Two mounts of a bucket for an hour, in a bad network, killed and evicted: ``make soak``.

On each of them programs write down outside what they were promised, and a third reads what
never changes. One mount is killed every now and then, the transfer processes of both are, the
caches are emptied, requests fail at 2 %. In the end both mounts, a third one without a cache and
the bucket have to agree with what was promised; the mount that was never killed may not have
grown. ``CSYNCFS_SOAK_S`` says how long, ``CSYNCFS_SEED`` repeats the mixture.
"""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.mounts import Mount, mounting
from tests.support.promises import DIR, Program, Tree, look
from tests.support.servers import SeaweedFS
from tests.support.storm import Storm

SOAK_S: Final = float(os.environ.get("CSYNCFS_SOAK_S", "3600"))
SEED: Final = int(os.environ.get("CSYNCFS_SEED", "0")) or time.time_ns() % 1_000_000
_FAULTS: Final = 0.02
_PROGRAMS: Final = 2
_CORPUS: Final = 40
_KILL_S: Final = (5.0, 40.0)
# What a mount may grow by, once it has worked for a tenth of the time.
_GROWTH: Final = 1.25


@dataclass
class Desk:
    """One of the mounts, and the programs on it."""

    name: str
    mount: Mount
    programs: list[Program]
    rss_kib: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def start(self) -> None:
        self._stop.clear()
        self._threads = [
            threading.Thread(target=one.run, args=(self.mount.path, self._stop), daemon=True)
            for one in self.programs
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=120)
            assert not thread.is_alive(), f"{self.name}: a program hangs"
        self._threads = []

    def no_program_failed(self) -> None:
        failed = [(p.name, p.doing, p.trouble) for p in self.programs if p.trouble is not None]
        assert not failed, (failed, self.mount.trouble())

    def check(self, root: Path) -> None:
        for program in self.programs:
            program.check(look(root / program.name) if (root / program.name).exists() else {})

    def kill(self) -> None:
        """kill -9, a look at what is left, and mount again."""
        mount = self.mount
        assert mount.process is not None
        mount.process.kill()
        mount.process.wait(timeout=20)
        self.end()
        mount.take_down()
        self.fsck()
        mount.start()
        self.check(mount.path)
        self.start()

    def fsck(self) -> None:
        found = self.mount.fsck()
        assert found == [], found

    def kill_transfer(self) -> None:
        pid = self.mount.transfer_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def sample(self, began: float) -> None:
        self.rss_kib.append((time.monotonic() - began, self.mount.memory_kib("VmRSS")))


@dataclass
class Reader:
    """Reads files that nobody changes; gets their bytes, or a network error, in time."""

    root: Path
    hashes: dict[str, str]
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])

    def run(self, stop: threading.Event) -> None:
        names = sorted(self.hashes)
        while not stop.wait(0.02):
            name = self.rng.choice(names)
            try:
                found = (self.root / "corpus" / name).read_bytes()
            except OSError as exc:
                self.counts[exc.strerror or "?"] += 1
                continue
            self.counts["read"] += 1
            if hashlib.sha256(found).hexdigest() != self.hashes[name]:
                self.wrong.append(name)


def _make_corpus(client: Any, bucket: str, rng: random.Random) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for number in range(_CORPUS):
        # Ranges of larger objects carry no checksum, and the network here spoils replies.
        content = rng.randbytes(rng.choice([1000, 100_000, 3_000_000, 8_000_000]))
        hashes[f"c{number}"] = hashlib.sha256(content).hexdigest()
        client.put_object(Bucket=bucket, Key=f"corpus/c{number}", Body=content)
    return hashes


def _soak(desks: tuple[Desk, Desk], rng: random.Random) -> Counter[str]:
    """Trouble, until the time is over."""
    done: Counter[str] = Counter()
    began = time.monotonic()
    steady, shaken = desks
    next_kill = began + rng.uniform(*_KILL_S)
    told = began
    while (now := time.monotonic()) - began < SOAK_S:
        time.sleep(rng.uniform(0.5, 2.0))
        desk = rng.choice(desks)
        if now > next_kill:
            shaken.kill()
            done["mount killed"] += 1
            next_kill = time.monotonic() + rng.uniform(*_KILL_S)
        elif rng.random() < 0.1:
            desk.kill_transfer()
            done["transfer killed"] += 1
        elif rng.random() < 0.3:
            desk.mount.admin("cache", "evict", check=False)
            done["evicted"] += 1
        for one in desks:
            one.no_program_failed()
        steady.sample(began)
        if now - told > 60:
            told = now
            calls = sum(program.done for one in desks for program in one.programs)
            print(
                f"{now - began:.0f} s: {calls} calls, {dict(done)}, "
                f"RSS {steady.rss_kib[-1][1] >> 10} MiB, queue {steady.mount.status()['queue']}",
                flush=True,
            )
    return done


def _flat(desk: Desk) -> str:
    """Fails if the process grew after it had warmed up."""
    early = [rss for when, rss in desk.rss_kib if SOAK_S * 0.1 < when < SOAK_S * 0.3]
    late = [rss for when, rss in desk.rss_kib if when > SOAK_S * 0.8]
    told = f"RSS at most {max(early) >> 10} MiB early, {max(late) >> 10} MiB late"
    assert max(late) < max(early) * _GROWTH, told
    return told


def _stored(client: Any, bucket: str) -> Tree:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    stored: Tree = {}
    for key in keys:
        if key.startswith((".csyncfs/", "corpus/")):
            continue
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        stored[key.rstrip("/")] = DIR if key.endswith("/") else body
    return stored


def _expected(desks: tuple[Desk, Desk]) -> Tree:
    every = [program for desk in desks for program in desk.programs]
    return {f"{p.name}/{path}": content for p in every for path, content in p.model.items()}


def _agree(desks: tuple[Desk, Desk], client: Any, bucket: str, home: Path) -> None:
    """Every mount, one without a cache, and the bucket."""
    for desk in desks:
        desk.mount.flush(1800)
    for desk in desks:
        desk.check(desk.mount.path)
        status = desk.mount.status()
        assert (status["conflicts"], status["warnings"]) == (0, []), status
    expected = _expected(desks)
    stored = _stored(client, bucket)
    files = {path for path in stored if stored[path] != DIR}
    assert files == {path for path in expected if expected[path] != DIR}
    assert [path for path in files if stored[path] != expected[path]] == []
    known = expected.keys() | {program.name for desk in desks for program in desk.programs}
    ghosts = stored.keys() - known
    assert not ghosts, ghosts
    first, second = desks
    deadline = time.monotonic() + 120
    for desk, root in ((first, second.mount.path), (second, first.mount.path)):
        while True:
            # The other one's changes show after its refresh.
            try:
                desk.check(root)
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                break
    for desk in desks:
        assert desk.mount.unmount() == 0
        desk.fsck()
    mount = first.mount
    with mounting(home, mount.spec, *mount.options, env=mount.env) as third:
        for desk in desks:
            desk.check(third.path)


@contextlib.contextmanager
def _reading(readers: list[Reader]) -> Generator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=r.run, args=(stop,), daemon=True) for r in readers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=120)


def _run(place: Path, server: SeaweedFS) -> None:
    rng = random.Random(SEED)
    client, bucket = server.client(), server.make_bucket()
    hashes = _make_corpus(client, bucket, rng)
    options = ("upload_delay=0.2", "refresh=2", "timeout=60", "drain=0", "cache_size=64M")
    options += ("log_level=debug",)
    spec, env = f"s3://{bucket}", dict(server.environment())
    with Storm(server.port, rate=_FAULTS, seed=SEED) as storm:
        options = (f"endpoint={storm.endpoint_url}", *options)
        with (
            mounting(place / "a", spec, *options, env=env) as a,
            mounting(place / "b", spec, *options, env=env) as b,
        ):
            desks = tuple(
                Desk(
                    name,
                    mount,
                    [Program(f"{name}{n}", random.Random(rng.random())) for n in range(_PROGRAMS)],
                )
                for name, mount in (("a", a), ("b", b))
            )
            assert len(desks) == 2
            readers = [Reader(d.mount.path, hashes, random.Random(SEED)) for d in desks]
            for desk in desks:
                desk.start()
            try:
                with _reading(readers):
                    done = _soak(desks, rng)
            finally:
                for desk in desks:
                    desk.end()
                    for program in desk.programs:
                        told = place / f"history-{program.name}"
                        told.write_text("\n".join([*program.history, str(program.trouble), ""]))
            print(f"{dict(done)}, struck {dict(storm.struck)}")
            print(f"readers: {[dict(r.counts) for r in readers]}")
            wrong = [r.wrong for r in readers]
            assert wrong == [[], []], wrong
            print(_flat(desks[0]), flush=True)
            storm.rate = 0.0
            _agree(desks, client, bucket, place / "c")


def main() -> int:
    print(f"seed={SEED}, {SOAK_S:.0f} s", flush=True)
    root = Path(tempfile.mkdtemp(prefix="csyncfs-soak-"))
    server = SeaweedFS(root / "server")
    server.start()
    try:
        _run(root, server)
    except BaseException:
        print(f"logs, journals and the bucket are kept in {root}", flush=True)
        raise
    finally:
        server.stop()
    shutil.rmtree(root)
    print("every promise is kept; both mounts, a third one and the bucket agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
