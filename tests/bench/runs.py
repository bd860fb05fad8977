"""One sitting: every workload on every contender, in turns, so that a busy moment of the
machine hits all alike."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from tests.bench.cloud import Cloud
from tests.bench.contenders import Contender
from tests.bench.measure import Usage
from tests.bench.workloads import Stage, Workload
from tests.support.servers import S3Server


@dataclass
class Outcome:
    """What one contender did in one workload."""

    samples: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Seconds of each repeat, by row key."""
    usages: list[Usage] = field(default_factory=list[Usage])
    failures: list[str] = field(default_factory=list[str])


Outcomes = dict[tuple[str, str], Outcome]
"""By the names of workload and contender."""


class Sitting:
    """Runs workloads. Owns the buckets it fills and the directories below ``work_dir``."""

    def __init__(self, server: S3Server, work_dir: Path) -> None:
        self._server = server
        self._client = server.client()
        self._work_dir = work_dir
        self._filled: dict[tuple[str, str], Cloud] = {}

    def run(
        self, workloads: Sequence[Workload], contenders: Sequence[type[Contender]], repeats: int
    ) -> Outcomes:
        outcomes: Outcomes = {}
        for workload in workloads:
            for repeat in range(repeats):
                # Each goes first now and then.
                shift = repeat % len(contenders)
                for contender in (*contenders[shift:], *contenders[:shift]):
                    outcome = outcomes.setdefault((workload.name, contender.name), Outcome())
                    told = self._once(workload, contender, outcome)
                    _tell(f"{workload.name} {repeat + 1} {contender.name}: {told}")
        return outcomes

    def _once(self, workload: Workload, kind: type[Contender], outcome: Outcome) -> str:
        """Add one run to the outcome; returns what to tell of it."""
        home = self._work_dir / f"{workload.name}-{kind.name}"
        cloud = self._cloud(workload, kind) if kind.in_cloud else None
        contender = kind(home, self._server, cloud.bucket if cloud else "")
        if cloud is None:
            _write_below(contender.path, workload)
        try:
            contender.start()
            seconds = workload.run(Stage(contender, cloud))
            outcome.usages.append(contender.usage())
        except (
            *(AssertionError, OSError, subprocess.SubprocessError),
            *(BotoCoreError, ClientError),
        ) as exc:
            # A contender that fails has lost this one; the others go on.
            outcome.failures.append(f"{type(exc).__name__}: {exc}")
            return f"failed: {outcome.failures[-1]}"
        else:
            for key, value in seconds.items():
                outcome.samples.setdefault(key, []).append(value)
            return "  ".join(f"{key} {value:.3f}" for key, value in seconds.items())
        finally:
            contender.end()
            shutil.rmtree(home)

    def _cloud(self, workload: Workload, kind: type[Contender]) -> Cloud:
        """A bucket of the contender's own with the workload's data."""
        key = workload.name, kind.name
        cloud = self._filled.get(key)
        if cloud is None or workload.changes_data:
            cloud = self._filled[key] = Cloud(self._client, self._server.make_bucket())
            cloud.put_all(workload.seed())
        return cloud


def _write_below(path: Path, workload: Workload) -> None:
    path.mkdir(parents=True)
    for key, content in workload.seed():
        file = path / key
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)


def _tell(what: str) -> None:
    """So that nobody waits in front of a silent terminal."""
    print(f"{what}  (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
