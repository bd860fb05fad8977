"""How long create+write+close takes a program while csyncfs uploads.

Three situations in turns: idle; csyncfs itself uploads many small files flat out; csyncfs is
idle and an independent program uploads as many a second to the same server. The third tells
what the machine's load alone costs, with the server on the same few CPUs, which in real life
it is not: what csyncfs adds is the difference between the second and the third. The demand,
and the exit code, are about the second against the first.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from tests.bench.contenders import Csyncfs
from tests.support.mounts import Mount, mounting
from tests.support.servers import ROOT, S3Server

NAME: Final = "latency"
_P50_LIMIT: Final = 1.5
_P99_LIMIT: Final = 3.0
_ROUNDS: Final = 3
_FILES: Final = 5000
_SAMPLES: Final = 400
# A program that does something between its files; back to back would be a load of its own.
_PAUSE_S: Final = 0.005
_LOAD_S: Final = 300.0
_CONTENT: Final = os.urandom(4096)


@dataclass
class Latencies:
    """Seconds of every create+write+close, by situation."""

    idle: list[float] = field(default_factory=list[float])
    uploading: list[float] = field(default_factory=list[float])
    busy_machine: list[float] = field(default_factory=list[float])
    own_rates: list[float] = field(default_factory=list[float])
    """Files per second that csyncfs uploaded, each round."""
    other_rates: list[float] = field(default_factory=list[float])

    @property
    def is_met(self) -> bool:
        """Whether uploading costs a program no more than demanded: against idle."""
        return _keeps_limits(_ratios(self.uploading, self.idle))

    def _times_idle(self, samples: list[float]) -> tuple[float, float]:
        return _ratios(samples, self.idle)

    def _situations(self) -> dict[str, list[float]]:
        return {
            "idle": self.idle,
            f"csyncfs uploads {statistics.median(self.own_rates):.0f} files/s": self.uploading,
            f"another program uploads {statistics.median(self.other_rates):.0f} files/s, "
            "csyncfs idle": self.busy_machine,
        }

    def markdown(self) -> str:
        rows = ["| create+write+close while | n | p50 ms | p99 ms | p50 / idle | p99 / idle |"]
        rows.append("| --- " * 6 + "|")
        for title, samples in self._situations().items():
            p50, p99 = _percentiles(samples)
            x50, x99 = self._times_idle(samples)
            rows.append(
                f"| {title} | {len(samples)} | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} "
                f"| {x50:.2f} | {x99:.2f} |"
            )
        lines = [
            _verdict("idle, the machine idle as well", _ratios(self.uploading, self.idle)),
            _verdict(
                "idle, another program uploads as much",
                _ratios(self.uploading, self.busy_machine),
            ),
        ]
        return "\n".join([*rows, "", *lines])

    def as_json(self) -> dict[str, Any]:
        names = {"idle": self.idle, "uploading": self.uploading, "busy_machine": self.busy_machine}
        return {
            name: {
                "p50_s": _percentiles(samples)[0],
                "p99_s": _percentiles(samples)[1],
                "p50_times_idle": self._times_idle(samples)[0],
                "p99_times_idle": self._times_idle(samples)[1],
                "samples_s": samples,
            }
            for name, samples in names.items()
        } | {"own_rates": self.own_rates, "other_rates": self.other_rates, "met": self.is_met}


def _ratios(samples: list[float], base: list[float]) -> tuple[float, float]:
    """Of p50 and p99."""
    (p50, p99), (base_p50, base_p99) = _percentiles(samples), _percentiles(base)
    return p50 / base_p50, p99 / base_p99


def _keeps_limits(ratios: tuple[float, float]) -> bool:
    return ratios[0] <= _P50_LIMIT and ratios[1] <= _P99_LIMIT


def _verdict(base: str, ratios: tuple[float, float]) -> str:
    verdict = "met" if _keeps_limits(ratios) else "MISSED"
    return (
        f"csyncfs uploading against csyncfs {base}: p50 x {ratios[0]:.2f} (<= {_P50_LIMIT}), "
        f"p99 x {ratios[1]:.2f} (<= {_P99_LIMIT}): {verdict}.  "
    )


def measure(server: S3Server, place: Path, *, scale: int = 1) -> Latencies:
    """Sizes are divided by ``scale`` for a quick look."""
    found = Latencies()
    files, samples = _FILES // scale, _SAMPLES // scale
    options = (
        *(f"endpoint={server.endpoint_url}", *Csyncfs.settings),
        # Nothing is uploaded but when ``flush`` says so: idle is idle.
        "upload_delay=1h",
    )
    home = place / NAME
    with mounting(
        home, f"s3://{server.make_bucket()}", *options, env=server.environment()
    ) as mount:
        (mount.path / "probe").mkdir()
        mount.flush()
        for round_ in range(_ROUNDS):
            found.idle += _sample(mount, samples)
            with _own_load(mount, round_, files, samples, found.own_rates):
                found.uploading += _sample(mount, samples)
            with _other_load(server, files, found.own_rates[-1], found.other_rates):
                found.busy_machine += _sample(mount, samples)
            print(f"latency {round_ + 1}: {found.markdown()}", file=sys.stderr)
        mount.flush()
        mount.unmount()
    return found


def _sample(mount: Mount, count: int) -> list[float]:
    samples: list[float] = []
    directory = mount.path / "probe"
    for _ in range(count):
        file = directory / f"{time.monotonic_ns()}"
        begin = time.perf_counter()
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, _CONTENT)
        os.close(fd)
        samples.append(time.perf_counter() - begin)
        time.sleep(_PAUSE_S)
    return samples


@contextmanager
def _own_load(
    mount: Mount, round_: int, files: int, samples: int, rates: list[float]
) -> Generator[None, None, None]:
    """csyncfs uploads during the whole block."""
    directory = mount.path / f"load-{round_}"
    directory.mkdir()
    for i in range(files):
        (directory / f"{i:05}").write_bytes(_CONTENT)
    begin = time.monotonic()
    mount.admin("flush")
    yield
    # Probes wait for the next flush: they are no load.
    queue = cast("dict[str, int]", mount.status()["queue"])
    left = queue["waiting"] - samples
    assert left > 0, f"the load ended before the samples were taken: {queue}"
    mount.flush()
    rates.append(files / (time.monotonic() - begin))


@contextmanager
def _other_load(
    server: S3Server, files: int, rate: float, rates: list[float]
) -> Generator[None, None, None]:
    """Another program uploads during the whole block, so many files a second."""
    process = subprocess.Popen(
        [
            *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.bench.uploads"),
            *(server.endpoint_url, server.make_bucket(), str(files), str(rate)),
        ],
        cwd=ROOT,
        env={**os.environ, **server.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        yield
        assert process.poll() is None, "the load ended before the samples were taken"
        rates.append(files / float(process.communicate(timeout=_LOAD_S)[0]))
    finally:
        process.kill()
        process.wait()


def _percentiles(samples: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    cuts = statistics.quantiles(samples, n=100)
    return cuts[49], cuts[98]
