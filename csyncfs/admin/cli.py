"""The ``csyncfs-admin`` command.

Exit codes: 0 done; 1 asked and answered, but changes are left to send; 2 wrong command
line; 3 no such mount; 4 the mount or its store cannot answer.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from csyncfs import __version__
from csyncfs.admin import show
from csyncfs.admin.client import MountDown
from csyncfs.admin.login import login
from csyncfs.admin.target import NoSuchMount, Target, find_target
from csyncfs.answers import Decided, FlushProgress, Status
from csyncfs.errors import ConfigError, CsyncError
from csyncfs.logs import redact
from csyncfs.store import conflicts, inodes, journal, overview
from csyncfs.store.offline import open_read_only

LEFT: Final = 1
USAGE: Final = 2
NO_MOUNT: Final = 3
NO_ANSWER: Final = 4

F = TypeVar("F", bound=Callable[..., Any])


class _Common:
    """Options that may stand before or behind the command's name."""

    json = False
    state_dir: Path | None = None


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    if value:
        setattr(ctx.obj, str(param.name), value)
    return value


def _common(command: F) -> F:
    as_json = click.option(
        "--json", is_flag=True, expose_value=False, callback=_keep, help="Answer in JSON."
    )
    state_dir = click.option(
        "--state-dir",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_keep,
        help="Mount with this state directory.",
    )
    return state_dir(as_json(command))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", message="csyncfs-admin %(version)s")
@_common
def cli() -> None:
    """Look into csyncfs mounts and steer them.

    PATH is a mountpoint or anything below it; without one, the mount of the current
    directory is meant, or the only one there is.
    """


@cli.command()
@click.argument("path", required=False)
@_common
@click.pass_obj
def status(common: _Common, path: str | None) -> None:
    """Show whether all is well: store, changes to send, cache, conflicts."""
    target = find_target(path, common.state_dir)
    answer = _stored_status(target) if target.client is None else target.client.status()
    show.as_json(answer) if common.json else show.status(answer)


@cli.command()
@click.argument("path", required=False)
@click.option("--wait", is_flag=True, help="Return when everything is in the cloud.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Wait at most so many seconds.")
@_common
@click.pass_obj
def flush(common: _Common, path: str | None, wait: bool, timeout: float | None) -> None:
    """Send all changes of a mount now, without their delay.

    Exit code 1: changes are left (--wait), or the mount is down.
    """
    target = find_target(path, common.state_dir)
    wait = wait or timeout is not None
    if target.client is None:
        sys.exit(_flush_unmounted(target, as_json=common.json))
    with _ProgressBar(visible=wait and not common.json) as advance:
        answer = target.client.flush(wait=wait, timeout_s=timeout, on_progress=advance)
    show.as_json(answer) if common.json else show.flushed(answer, waited=wait)
    sys.exit(LEFT if wait and (answer.remaining or answer.held) else 0)


cli.add_command(login)


@cli.group()
@_common
def cache() -> None:
    """Content of files kept on this machine."""


@cache.command("ls")
@click.argument("path", required=False)
@_common
@click.pass_obj
def cache_ls(common: _Common, path: str | None) -> None:
    """List files with content on this machine: full, partial, or dirty (not yet sent)."""
    target = find_target(path, common.state_dir)
    if target.client is not None:
        rows = target.client.cache_ls(target.path)
    else:
        _say_unmounted(target)
        with open_read_only(Path(target.entry.state_dir)) as store:
            rows = overview.cache_rows(store, target.path)
    show.as_json(rows) if common.json else show.cache_rows(rows)


@cache.command("evict")
@click.argument("path", required=False)
@_common
@click.pass_obj
def cache_evict(common: _Common, path: str | None) -> None:
    """Free the space of cached content; never of what is not yet in the cloud."""
    target = find_target(path, common.state_dir)
    if target.client is None:
        where = target.entry.cache_dir or "its cache directory"
        raise MountDown(f"not mounted; while it is not, you may remove {where}")
    answer = target.client.cache_evict(target.path)
    show.as_json(answer) if common.json else show.evicted(answer)


@cli.group("conflicts")
@_common
def conflicts_group() -> None:
    """Files that two sides changed: both versions are kept."""


@conflicts_group.command("ls")
@click.argument("path", required=False)
@_common
@click.pass_obj
def conflicts_ls(common: _Common, path: str | None) -> None:
    """List files set aside as .conflict and not yet removed."""
    target = find_target(path, common.state_dir)
    if target.client is not None:
        rows = target.client.conflicts(target.path)
    else:
        _say_unmounted(target)
        with open_read_only(Path(target.entry.state_dir)) as store:
            rows = overview.conflict_rows(store, target.path)
    if common.json:
        show.as_json(rows)
    elif rows:
        show.conflict_rows(rows)
    else:
        print("no conflicts")


@cli.group("held")
@_common
def held_group() -> None:
    """What was removed on one side: too much at once to go on the other without being told."""


@held_group.command("ls")
@click.argument("path", required=False)
@_common
@click.pass_obj
def held_ls(common: _Common, path: str | None) -> None:
    """List what was removed on one side and stays on the other."""
    target = find_target(path, common.state_dir)
    if target.client is not None:
        rows = target.client.held()
    else:
        _say_unmounted(target)
        with open_read_only(Path(target.entry.state_dir)) as store:
            rows = overview.held_rows(store)
    if common.json:
        show.as_json(rows)
    elif rows:
        show.held_rows(rows)
    else:
        print("nothing is held")


@held_group.command("accept")
@click.argument("path", required=False)
@_common
@click.pass_obj
def held_accept(common: _Common, path: str | None) -> None:
    """Remove all of it on the other side, too."""
    _decide(common, path, accept=True)


@held_group.command("reject")
@click.argument("path", required=False)
@_common
@click.pass_obj
def held_reject(common: _Common, path: str | None) -> None:
    """Undo it: show again what was removed here, and send again what is gone in the store."""
    _decide(common, path, accept=False)


def _decide(common: _Common, path: str | None, *, accept: bool) -> None:
    target = find_target(path, common.state_dir)
    if target.client is None:
        raise MountDown("not mounted; mount it first")
    answer: Decided = target.client.decide_held(accept=accept)
    done = "removed" if accept else "kept"
    show.as_json(answer) if common.json else print(f"{done}: {answer.count}")


def _stored_status(target: Target) -> Status:
    """The status of a mount that is down, as its store has it."""
    entry = target.entry
    with open_read_only(Path(entry.state_dir)) as store:
        return Status(
            spec=entry.spec,
            mountpoint=entry.mountpoint,
            version=__version__,
            mounted=False,
            last_error=journal.first_error(store),
            queue=overview.queue(store, time.time_ns()),
            cache=overview.cache(store, None),
            inodes=inodes.count(store),
            conflicts=conflicts.count_open(store),
        )


def _flush_unmounted(target: Target, *, as_json: bool) -> int:
    with open_read_only(Path(target.entry.state_dir)) as store:
        queue = overview.queue(store, time.time_ns())
    if as_json:
        show.as_json(FlushProgress(queue.waiting, queue.bytes, 0, queue.held))
    elif queue.total:
        left = f"{show.number(queue.total, 'change')} ({show.size(queue.bytes)})"
        print(f"not mounted; {left} safe in {target.entry.state_dir}, sent when mounted again")
    else:
        print("not mounted; nothing left to send")
    return LEFT if queue.total else 0


def _say_unmounted(target: Target) -> None:
    place = target.entry.mountpoint or target.entry.state_dir
    print(f"csyncfs-admin: {place} is not mounted; this is what its store says", file=sys.stderr)


class _ProgressBar:
    """A bar on standard error while the block runs; calling it moves the bar."""

    def __init__(self, *, visible: bool) -> None:
        columns = (TextColumn("sending"), BarColumn(), TextColumn("{task.fields[left]}"))
        self._bar = Progress(
            *columns,
            TimeElapsedColumn(),
            console=show.error_console(),
            transient=True,
            disable=not (visible and sys.stderr.isatty()),
        )
        self._task = self._bar.add_task("", total=None, left="")

    def __enter__(self) -> "_ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, at: FlushProgress) -> None:
        left = f"{show.number(at.remaining, 'change')}, {show.size(at.remaining_bytes)} left"
        total = at.done + at.remaining
        self._bar.update(self._task, total=total or 1, completed=at.done, left=left)


def main() -> None:
    """Entry point: every failure is one line and an exit code."""
    try:
        cli(standalone_mode=False, obj=_Common())
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        sys.exit(_fail(exc.format_message(), USAGE))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except NoSuchMount as exc:
        sys.exit(_fail(str(exc), NO_MOUNT))
    except ConfigError as exc:
        sys.exit(_fail(str(exc), USAGE))
    except CsyncError as exc:
        sys.exit(_fail(str(exc), NO_ANSWER))
    except BrokenPipeError:
        # ``csyncfs-admin cache ls | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(LEFT)
    except OSError as exc:
        sys.exit(_fail(f"{exc.filename or 'error'}: {exc.strerror}", NO_ANSWER))
    except Exception as exc:  # noqa: BLE001 - the user gets a line, not a traceback
        sys.exit(_fail(f"internal error: {type(exc).__name__}: {exc}", NO_ANSWER))


def _fail(message: str, code: int) -> int:
    print(f"csyncfs-admin: {redact(' '.join(message.split()))}", file=sys.stderr)
    return code
