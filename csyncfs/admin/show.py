"""How answers look: for people with rich, for programs as JSON."""

import sys
from collections.abc import Iterable
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from csyncfs.answers import (
    CacheRow,
    ConflictRow,
    Evicted,
    FlushProgress,
    HeldRow,
    QueueStatus,
    Side,
    Status,
)

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STATE_STYLES = {"full": "green", "partial": "yellow", "none": "dim", "dirty": "bold magenta"}


def console() -> Console:
    """Standard output. In a pipe: no colours, and no line is cut to a terminal's width."""
    is_terminal = sys.stdout.isatty()
    return Console(highlight=False, markup=False, width=None if is_terminal else 4096)


def emit(answer: RenderableType) -> None:
    """Print it; in a pipe without the blanks that fill up columns."""
    out = console()
    if out.is_terminal:
        out.print(answer)
        return
    with out.capture() as captured:
        out.print(answer)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def error_console() -> Console:
    """Standard error: for what is no part of the answer."""
    return Console(stderr=True, highlight=False, markup=False)


def as_json(answer: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(answer)).decode())


def size(count: int) -> str:
    """Bytes for people: three digits or so, powers of 1024."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def span(seconds: float) -> str:
    """A time for people: the two largest units."""
    left, parts = int(seconds), list[str]()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def printable(text: str) -> Text:
    """A name that cannot speak to the terminal."""
    clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return Text(clean, overflow="fold")


def number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def queue_line(queue: QueueStatus) -> str:
    if not queue.total:
        return "nothing: all is in the cloud"
    parts = [number(queue.total, "change"), size(queue.bytes)]
    if queue.oldest_age_s is not None:
        parts.append(f"oldest {span(queue.oldest_age_s)}")
    if queue.running:
        parts.append(f"{queue.running} running")
    return ", ".join(parts)


def status(answer: Status) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in _status_rows(answer):
        grid.add_row(name, value)
    emit(grid)


def _status_rows(answer: Status) -> Iterable[tuple[str, Text]]:
    yield "Mount", printable(f"{answer.spec} on {answer.mountpoint or '?'}")
    yield "Runs", _running(answer)
    if answer.online is not None:
        yield "Store", _store(answer)
    yield "To send", Text(queue_line(answer.queue))
    if answer.queue.held:
        held = f"{number(answer.queue.held, 'change')} cannot be sent without you"
        yield "Held", Text(held, style="bold red")
    if answer.last_error:
        yield "Last error", Text.assemble((printable(answer.last_error).plain, "red"))
    cache = answer.cache
    limit = f" of {size(cache.limit_bytes)}" if cache.limit_bytes is not None else ""
    unsent = f", {size(cache.dirty_bytes)} only here" if cache.dirty_bytes else ""
    yield "Cache", Text(f"{size(cache.used_bytes)}{limit} in {number(cache.files, 'file')}{unsent}")
    yield "Known", Text(number(answer.inodes, "file") + " and directories")
    if answer.conflicts:
        text = f"{answer.conflicts:,} (see: csyncfs-admin conflicts ls)"
        yield "Conflicts", Text(text, style="bold yellow")
    else:
        yield "Conflicts", Text("none")
    for warning in answer.warnings:
        yield "Warning", Text(printable(warning).plain, style="yellow")


def _running(answer: Status) -> Text:
    if not answer.mounted:
        return Text("not mounted", style="bold yellow")
    up = f", for {span(answer.uptime_s)}" if answer.uptime_s is not None else ""
    restarts = answer.transfer.restarts
    again = f", transfer process restarted {number(restarts, 'time')}" if restarts else ""
    return Text(f"csyncfs {answer.version}, process {answer.pid}{up}{again}")


def _store(answer: Status) -> Text:
    what = f", {answer.backend}" if answer.backend else ""
    return Text.assemble(("online", "green") if answer.online else ("offline", "bold red"), what)


def cache_rows(rows: list[CacheRow]) -> None:
    table = _table(("STATE", "left"), ("HERE", "right"), ("SIZE", "right"), ("PATH", "left"))
    for row in rows:
        state = Text(row.state, style=_STATE_STYLES[row.state])
        table.add_row(state, size(row.present_bytes), size(row.size), printable(row.path))
    emit(table)


def conflict_rows(rows: list[ConflictRow]) -> None:
    columns = (("TIME", "left"), ("DEVICE", "left"), ("SIZE", "right"), ("SET ASIDE AS", "left"))
    table = _table(*columns)
    for row in rows:
        table.add_row(row.time, printable(row.device), size(row.size), printable(row.path))
    emit(table)


def _table(*columns: tuple[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, side in columns:
        table.add_column(name, justify=side, overflow="fold", no_wrap=name != columns[-1][0])
    return table


def evicted(answer: Evicted) -> None:
    line = f"freed {size(answer.freed_bytes)} of {number(answer.files, 'file')}"
    if answer.kept:
        line += f"; left {number(answer.kept, 'file')} in use or not yet uploaded"
    emit(line)


def flushed(answer: FlushProgress, *, waited: bool) -> None:
    left = f"{number(answer.remaining, 'change')} ({size(answer.remaining_bytes)})"
    if answer.remaining:
        line = f"{left} still to send" if waited else f"sending {left}"
        if waited and answer.error:
            line += f": {printable(answer.error).plain}"
    else:
        line = "nothing left to send"
    if answer.held:
        line += f"; {answer.held} held, they need you: see csyncfs-admin status"
    emit(line)


def held_rows(rows: list[HeldRow]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("PATH", "ITEMS", "REMOVED", "SINCE"):
        table.add_column(title)
    for row in rows:
        where = "here" if row.removed is Side.HERE else "in the store"
        table.add_row(printable(row.path), f"{row.items:,}", where, row.time)
    emit(table)
