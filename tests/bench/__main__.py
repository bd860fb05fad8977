"""The command line: ``python -m tests.bench``.

Exit code 1 if a row that must be won is lost to a peer, or the latency demand is missed.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench import latency, report
from tests.bench.contenders import CONTENDERS, Contender
from tests.bench.runs import Sitting
from tests.bench.workloads import WORKLOADS
from tests.support.servers import ROOT, S3Server, SeaweedFS

_RESULTS: Final = ROOT / "bench-results"
_QUICK_SCALE: Final = 8


def main() -> int:
    wanted = _arguments()
    installed = [kind for kind in CONTENDERS if kind.version() is not None]
    for kind in CONTENDERS:
        if kind not in installed:
            print(f"{kind.name} is not installed: left out", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="csyncfs-bench-") as place:
        server = SeaweedFS(Path(place) / "seaweedfs").start()
        try:
            text, figures, is_good = _measure(wanted, server, Path(place), installed)
        finally:
            server.stop()
    print(text)
    _keep(text, figures, wanted.json)
    return 0 if is_good else 1


def _arguments() -> argparse.Namespace:
    names = [*(kind.name for kind in WORKLOADS), latency.NAME]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat")
    parser.add_argument(
        "--only", metavar="NAME", action="append", choices=names, help=f"of {', '.join(names)}"
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="default 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args()


def _measure(
    wanted: argparse.Namespace,
    server: S3Server,
    place: Path,
    contenders: Sequence[type[Contender]],
) -> tuple[str, dict[str, Any], bool]:
    scale = _QUICK_SCALE if wanted.quick else 1
    repeats = wanted.repeats or (1 if wanted.quick else 3)
    workloads = [kind(scale) for kind in WORKLOADS if not wanted.only or kind.name in wanted.only]
    about = _about(contenders, repeats)
    text, figures, is_good = [_preface(about)], {"about": about}, True
    if workloads:
        outcomes = Sitting(server, place).run(workloads, contenders, repeats)
        names = [kind.name for kind in contenders]
        found = report.lines(workloads, outcomes, names)
        text += [
            "Seconds: median (lowest-highest).",
            report.table(found, names),
            "CPU seconds (median) and peak RSS of each daemon with its children:",
            report.usage_table(workloads, outcomes, names),
            *report.failures(outcomes),
        ]
        figures |= report.as_json(found, outcomes)
        is_good = not any(line.is_lost for line in found)
    if not wanted.only or latency.NAME in wanted.only:
        result = latency.measure(server, place, scale=scale)
        text.append(result.markdown())
        figures[latency.NAME] = result.as_json()
        is_good = is_good and result.is_met
    about["load_after"] = os.getloadavg()[0]
    text.append(f"Load average at the end: {about['load_after']:.1f}.")
    return "\n\n".join(text) + "\n", figures, is_good


def _about(contenders: Sequence[type[Contender]], repeats: int) -> dict[str, Any]:
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "server": SeaweedFS.name,
        "repeats": repeats,
        "load_before": os.getloadavg()[0],
        "contenders": {
            kind.name: {"version": kind.version(), "settings": list(kind.settings)}
            for kind in contenders
        },
    }


def _preface(about: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} ({details['version']})" for name, details in about["contenders"].items()
    )
    return (
        f"# Benchmark of {about['when']}\n\n"
        f"{about['cpus']} CPUs, Linux {about['kernel']}, Python {about['python']}, "
        f"load average {about['load_before']:.1f}; {about['server']} on the loopback; "
        f"{about['repeats']} repeats.\n{versions}.\n"
        "Settings: `tests/bench/contenders.py`."
    )


def _keep(text: str, figures: dict[str, Any], also: Path | None) -> None:
    _RESULTS.mkdir(exist_ok=True)
    stem = _RESULTS / time.strftime("%Y%m%dT%H%M%S")
    stem.with_suffix(".md").write_text(text)
    for file in (stem.with_suffix(".json"), also):
        if file is not None:
            file.write_text(json.dumps(figures, indent=1))
    print(f"kept as {stem.with_suffix('.md').relative_to(ROOT)} and .json", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
