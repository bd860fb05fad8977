"""The ``csyncfs`` command: mount, umount."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from csyncfs import __version__, config, daemon, logs, options, preflight, registry
from csyncfs.config import MountConfig
from csyncfs.errors import CsyncError
from csyncfs.launch import launch, unmount_command

log = logging.getLogger(__name__)

_UNMOUNT_S = 60.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", message="csyncfs %(version)s")
def cli() -> None:
    """Mount cloud storage as an ordinary folder."""


def _options_help() -> str:
    """The table of ``-o`` options, as ``csyncfs mount --help`` shows it."""
    lines: list[str] = []
    for group, members in options.GROUPS.items():
        lines += ["", f"{group}:", ""]
        for option in members:
            name = option.name if option.is_flag else f"{option.name}={option.metavar}"
            default = option.default or option.default_help
            lines.append(f"  {name}\n      {option.help} [{default}]")
            if option.aliases:
                lines.append(f"      also: {', '.join(option.aliases)}")
    kernel = ", ".join(options.KERNEL)
    return "\n".join([*lines, "", "For the kernel:", "", f"  {kernel}", ""])


class _MountCommand(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(_options_help())


@cli.command(cls=_MountCommand, short_help="Mount a bucket or directory.")
@click.argument("spec")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-o", "option_lists", multiple=True, metavar="OPTIONS", help="Comma-separated list.")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, log to stderr.")
def mount(spec: str, mountpoint: Path, option_lists: tuple[str, ...], foreground: bool) -> None:
    """Mount SPEC (s3://BUCKET[/PREFIX] or file:///PATH) at MOUNTPOINT.

    Returns when the file system answers. -o takes a list such as
    endpoint=https://s3.example.org,cache_size=20G from these options [default]:
    """
    sys.exit(run_mount("csyncfs", spec, mountpoint, option_lists, foreground=foreground))


@cli.command(short_help="Unmount.")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-l", "--lazy", is_flag=True, help="Detach now, also when in use or dead.")
def umount(mountpoint: Path, lazy: bool) -> None:
    """Unmount MOUNTPOINT and wait until its mount process ended.

    Changes not uploaded by then stay in the journal: the next mount sends them.
    """
    sys.exit(run_umount(absolute(mountpoint), lazy=lazy))


def run_mount(
    program: str,
    spec: str,
    mountpoint: Path,
    option_lists: Sequence[str],
    *,
    foreground: bool = False,
    is_fake: bool = False,
    is_sloppy: bool = False,
) -> int:
    """Mount and tell the user; returns the exit code of mount(8). ``is_fake``: only check."""
    try:
        host = config.read_host()
        parsed = config.parse(spec, absolute(mountpoint), option_lists, host, is_sloppy=is_sloppy)
        preflight.check(parsed)
        if is_fake:
            return 0
        if foreground:
            return _serve_here(program, parsed)
    except CsyncError as exc:
        return fail(program, daemon.one_line(exc), daemon.exit_code(exc))
    report = launch(parsed)
    warn(program, report.warnings)
    return fail(program, report.error, report.code) if report.error else 0


def _serve_here(program: str, parsed: MountConfig) -> int:
    log_file = parsed.log_file
    with logs.to_file(parsed.log_level, log_file) if log_file else logs.to_stderr(parsed.log_level):
        try:
            daemon.prepare(parsed)
            return daemon.serve(parsed, lambda warnings: warn(program, warnings))
        except CsyncError as exc:
            return fail(program, daemon.explain(exc, parsed), daemon.exit_code(exc))
        except Exception as exc:
            log.exception("mount process failed")
            return fail(program, f"internal error: {daemon.one_line(exc)}", preflight.INTERNAL)


def run_umount(mountpoint: Path, *, lazy: bool) -> int:
    """Unmount, wait for the mount process, and tell what is left to upload."""
    mounted = preflight.find_mount(mountpoint)
    if mounted is None:
        raise preflight.MountRefused(f"{mountpoint} is not mounted")
    if mounted.fstype != "fuse.csyncfs":
        raise preflight.MountRefused(f"{mountpoint} is {mounted.fstype}, not a csyncfs mount")
    known = registry.entries(config.read_host().state_base / "mounts")
    pids = [e.pid for e in known if e.mountpoint == str(mountpoint) and e.pid]
    done = subprocess.run(
        unmount_command(mountpoint, lazy=lazy), check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or [f"{mountpoint}: cannot unmount"]
        raise preflight.MountRefused(reason[0].removeprefix("umount: "))
    deadline = time.monotonic() + _UNMOUNT_S
    if lazy or all(daemon.wait_for_exit(p, deadline - time.monotonic()) for p in pids):
        return 0
    return fail("csyncfs", f"unmounted, but process {pids} still sends its last files", 0)


def absolute(path: Path) -> Path:
    """The path as the kernel shows it in the mount table.

    The last part is not looked at: a dead or stuck mount there must not stop us.
    """
    path = path.absolute()
    if path.name in ("", ".."):
        return path.resolve()
    return path.parent.resolve() / path.name


def warn(program: str, warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"{program}: warning: {logs.redact(warning)}", file=sys.stderr)


def fail(program: str, message: str, code: int) -> int:
    print(f"{program}: {message}", file=sys.stderr)
    return code


def main() -> None:
    """Entry point. Exit code 1 for a wrong command line, as mount(8) has it."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        sys.exit(fail("csyncfs", exc.format_message(), preflight.USAGE))
    except CsyncError as exc:
        sys.exit(fail("csyncfs", daemon.one_line(exc), daemon.exit_code(exc)))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(preflight.INTERRUPTED)
    except BrokenPipeError:
        # ``csyncfs --help | head``: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(preflight.USAGE)
