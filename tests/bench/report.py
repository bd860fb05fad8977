"""Figures become a table, ratios and a verdict."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.contenders import Csyncfs, Native
from tests.bench.runs import Outcome, Outcomes
from tests.bench.workloads import Row, Workload

_MIB: Final = 1 << 20
_OWN: Final = Csyncfs.name
_LIMIT: Final = Native.name


@dataclass(frozen=True, slots=True)
class Line:
    """One row with everybody's samples."""

    workload: str
    row: Row
    samples: dict[str, list[float]]

    def median(self, contender: str) -> float | None:
        values = self.samples.get(contender)
        return statistics.median(values) if values else None

    @property
    def best_peer(self) -> str | None:
        peers = [name for name in self.samples if name not in (_OWN, _LIMIT)]
        return min(peers, key=lambda name: self.median(name) or 0.0, default=None)

    @property
    def gain(self) -> float | None:
        """How many times faster than the best peer; below 1: lost."""
        return _ratio(self.median(self.best_peer or ""), self.median(_OWN))

    @property
    def distance(self) -> float | None:
        """How many times the native file system's time."""
        return _ratio(self.median(_OWN), self.median(_LIMIT))

    @property
    def is_lost(self) -> bool:
        """A row that must be won, and was not."""
        if not self.row.must_win:
            return False
        own, gain = self.median(_OWN), self.gain
        return own is None or (gain is not None and gain < 1)


def lines(workloads: Sequence[Workload], outcomes: Outcomes, names: Sequence[str]) -> list[Line]:
    return [
        Line(
            workload.name,
            row,
            {
                name: samples
                for name in names
                if (samples := _outcome(outcomes, workload, name).samples.get(row.key))
            },
        )
        for workload in workloads
        for row in workload.rows
    ]


def table(found: Sequence[Line], names: Sequence[str]) -> str:
    """Markdown: medians and spread in seconds, and the two ratios."""
    head = ["workload", "state", *names, "faster than the best peer", f"times {_LIMIT}'s time"]
    body = [
        [
            line.row.title + (" **(must win)**" if line.row.must_win else ""),
            line.row.state,
            *(_cell(line, name) for name in names),
            _gain(line),
            "" if line.distance is None else f"{_short(line.distance)}",
        ]
        for line in found
    ]
    return _markdown(head, body)


def usage_table(workloads: Sequence[Workload], outcomes: Outcomes, names: Sequence[str]) -> str:
    """Markdown: CPU seconds and peak memory of each daemon with its children."""
    head = ["workload", *names]
    body: list[list[str]] = []
    for workload in workloads:
        cells = [_usage_cell(_outcome(outcomes, workload, name)) for name in names]
        body.append([workload.name, *cells])
    return _markdown(head, body)


def failures(outcomes: Outcomes) -> list[str]:
    return [
        f"{contender} failed in {workload}: {failure}"
        for (workload, contender), outcome in outcomes.items()
        for failure in outcome.failures
    ]


def as_json(found: Sequence[Line], outcomes: Outcomes) -> dict[str, Any]:
    return {
        "rows": [
            {
                "workload": line.workload,
                "key": line.row.key,
                "title": line.row.title,
                "state": line.row.state,
                "must_win": line.row.must_win,
                "seconds": line.samples,
                "medians": {name: line.median(name) for name in line.samples},
                "best_peer": line.best_peer,
                "faster_than_best_peer": line.gain,
                "times_native": line.distance,
            }
            for line in found
        ],
        "daemons": [
            {
                "workload": workload,
                "contender": contender,
                "cpu_s": [usage.cpu_s for usage in outcome.usages],
                "peak_rss_bytes": [usage.peak_rss_bytes for usage in outcome.usages],
                "failures": outcome.failures,
            }
            for (workload, contender), outcome in outcomes.items()
        ],
    }


def _outcome(outcomes: Outcomes, workload: Workload, name: str) -> Outcome:
    return outcomes.get((workload.name, name), Outcome())


def _ratio(over: float | None, under: float | None) -> float | None:
    return over / under if over is not None and under else None


def _gain(line: Line) -> str:
    if line.gain is None:
        return "LOST" if line.is_lost else ""
    lost = " LOST" if line.is_lost else ""
    return f"{_short(line.gain)} ({line.best_peer}){lost}"


def _cell(line: Line, name: str) -> str:
    values, median = line.samples.get(name), line.median(name)
    if not values or median is None:
        return "-" if line.row.in_cloud_only and name == _LIMIT else "failed"
    spread = f" ({_seconds(min(values))}-{_seconds(max(values))})" if len(values) > 1 else ""
    return f"{_seconds(median)}{spread}"


def _usage_cell(outcome: Outcome) -> str:
    if not any(usage.peak_rss_bytes for usage in outcome.usages):
        return "-"
    cpu_s = statistics.median(usage.cpu_s for usage in outcome.usages)
    peak = max(usage.peak_rss_bytes for usage in outcome.usages)
    return f"{cpu_s:.2f} s, {peak / _MIB:.0f} MiB"


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}" if value >= 0.001 else f"{value:.5f}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
