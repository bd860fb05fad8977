"""The ``csyncfs`` command: mount, umount, fsck."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from csyncfs import __version__, config, daemon, fsck, logs, options, preflight, registry
from csyncfs.config import MountConfig
from csyncfs.errors import ConfigError, CsyncError
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
    """Mount SPEC at MOUNTPOINT: s3://BUCKET[/PREFIX], az://ACCOUNT/CONTAINER[/PREFIX],
    gs://BUCKET[/PREFIX], onedrive://me[/PATH] or file:///PATH.

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


class _FsckCommand(click.Command):
    """Exit codes of fsck(8), also for a wrong command line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as exc:
            sys.exit(fail("csyncfs", exc.format_message(), fsck.USAGE))


@cli.command("fsck", cls=_FsckCommand, short_help="Check and repair an unmounted mount's files.")
@click.argument("target", required=False)
@click.option("-o", "option_lists", multiple=True, metavar="OPTIONS", help="As given to mount.")
@click.option("--repair", is_flag=True, help="Repair what can be.")
@click.option("-n", "--dry-run", is_flag=True, help="Only report: this is the default.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def fsck_command(
    target: str | None,
    option_lists: tuple[str, ...],
    repair: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check the database, the journal and the content files of TARGET, which is not mounted.

    TARGET is a SPEC or a MOUNTPOINT; without one, -o state_dir=DIR says which. Exit code 0: all
    is well; 1: repaired; 4: something is left (5: both); 8: cannot check; 16: wrong command line.
    """
    if repair and dry_run:
        sys.exit(fail("csyncfs", "--repair and --dry-run exclude each other", fsck.USAGE))
    try:
        places = _find_places(target, option_lists)
        report = fsck.check(places, repair=repair)
    except ConfigError as exc:
        sys.exit(fail("csyncfs", daemon.one_line(exc), fsck.USAGE))
    except CsyncError as exc:
        sys.exit(fail("csyncfs", daemon.one_line(exc), fsck.TROUBLE))
    except OSError as exc:
        sys.exit(fail("csyncfs", f"{exc.filename or 'fsck'}: {exc.strerror}", fsck.TROUBLE))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        _show_report(report)
    sys.exit(report.code)


def _find_places(target: str | None, option_lists: Sequence[str]) -> fsck.Places:
    """Where a mount keeps its files: as it was last mounted, or as it would be."""
    host = config.read_host()
    known = registry.entries(host.state_base / "mounts")
    if target is not None:
        path = str(absolute(Path(target)))
        found = [entry for entry in known if entry.mountpoint == path]
        if not found or option_lists:
            parsed = config.parse(target, Path("/nowhere"), option_lists, host)
            return fsck.Places(parsed.state_dir, parsed.cache_dir)
    else:
        state_dir = options.parse_options(option_lists).maybe(options.STATE_DIR)
        if state_dir is None:
            raise ConfigError("say which mount: SPEC, MOUNTPOINT, or -o state_dir=DIR")
        found = [entry for entry in known if entry.state_dir == str(state_dir)]
        if not found:
            return fsck.Places(Path(state_dir), None)
    return fsck.Places(Path(found[0].state_dir), Path(found[0].cache_dir))


def _show_report(report: fsck.Report) -> None:
    for finding in report.findings:
        text = logs.redact(" ".join(finding.text.split()))
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
        print(f"{line}{' [repaired]' if finding.repaired else ''}")
    known = f"{report.files:,} files and directories, {report.unsent:,} changes to send"
    crash = report.left_by_crash
    known += f", {crash:,} leftovers of a crash that the next mount settles" if crash else ""
    left = sum(not finding.repaired for finding in report.findings)
    if not report.findings:
        state = "clean"
    elif not left:
        state = "repaired"
    else:
        state = f"{left:,} problem{'' if left == 1 else 's'} left"
        if not any(finding.repaired for finding in report.findings):
            state += "; --repair does what can be done"
    print(f"{report.state_dir}: {state} ({known})")


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
