"""The mount process itself, in the foreground or behind a command that waits for it.

``python -m csyncfs.daemon FD SPEC MOUNTPOINT OPTIONS...`` is what ``launch`` starts. The one
line of JSON it writes to FD says whether the file system answers; after that only the log
speaks.
"""

import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from csyncfs import config as configs
from csyncfs import logs, preflight, registry
from csyncfs.config import MountConfig
from csyncfs.errors import BackendError, ConfigError, CsyncError, StoreLocked

# Not __name__: started with -m this is __main__.
log = logging.getLogger("csyncfs.daemon")

# How long a mount that was just unmounted may take to end, beyond its drain time.
_SUCCESSION_S = 10.0

OnReady = Callable[[list[str]], None]


class Report(msgspec.Struct, frozen=True):
    """What the mount process tells the command that started it. ``error`` None: it answers."""

    warnings: list[str] = []
    error: str | None = None
    code: int = 0


def prepare(config: MountConfig) -> None:
    """Check that the mount can work and make its directories. Raises MountRefused."""
    preflight.check(config)
    preflight.make_directories(config)


def serve(config: MountConfig, on_ready: OnReady) -> int:
    """Mount and serve until unmounted; returns the exit code. After ``prepare``.

    Raises CsyncError where the file system cannot be mounted.
    """
    # These imports (pyfuse3, trio) cost more than all the checks before.
    from csyncfs import mount

    def answers(warnings: list[str]) -> None:
        _register(config, os.getpid())
        log.info("mounted spec=%s mountpoint=%s", config.spec, config.mountpoint)
        on_ready(warnings)

    try:
        return mount.run(config, answers)
    except StoreLocked:
        if not _wait_for_predecessor(config):
            raise
        return mount.run(config, answers)
    finally:
        if (entry := registry.read(config.registry_dir, config.id)) and entry.pid == os.getpid():
            _register(config, 0)


def explain(error: CsyncError, config: MountConfig) -> str:
    """The error for the user; what a store says is told with the store's name."""
    line = one_line(error)
    return f"{config.source}: {line}" if isinstance(error, BackendError) else line


def exit_code(error: CsyncError) -> int:
    """The exit code of mount(8) for a mount that failed."""
    if isinstance(error, preflight.MountRefused):
        return error.code
    return preflight.USAGE if isinstance(error, ConfigError) else preflight.FAILED


def one_line(error: BaseException) -> str:
    """The error for the user: one line, no secrets."""
    text = str(error) if isinstance(error, CsyncError) else f"{type(error).__name__}: {error}"
    return logs.redact(" ".join(text.split()))


def _register(config: MountConfig, pid: int) -> None:
    try:
        registry.write(config.registry_dir, registry.registration(config, pid))
    except OSError as exc:
        log.warning("mount not registered, csyncfs-admin will not find it error=%s", exc.strerror)


def _wait_for_predecessor(config: MountConfig) -> bool:
    """Wait for a mount of the same state that was unmounted and still sends its last files.

    ``umount /mnt && mount /mnt`` then works. False: it is a live mount, or does not end.
    """
    entry = registry.read(config.registry_dir, config.id)
    if entry is None:
        return False
    if entry.pid in (0, os.getpid()):
        return True  # it has just ended
    if preflight.find_mount(Path(entry.mountpoint)) is not None:
        return False
    return wait_for_exit(entry.pid, config.drain_s + _SUCCESSION_S)


def wait_for_exit(pid: int, timeout_s: float) -> bool:
    """Whether the process is gone, waiting that long for it."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], timeout_s)[0])
    finally:
        os.close(process)


class _Reporter:
    """The pipe to the command that waits; only the first report counts."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, report: Report) -> None:
        if self._fd < 0:
            return
        # It may have given up on us, or been killed: then nobody wants to know.
        with suppress(BrokenPipeError):
            os.write(self._fd, msgspec.json.encode(report) + b"\n")
        os.close(self._fd)
        self._fd = -1


def _main(argv: list[str]) -> int:
    report_fd, source, mountpoint, *option_lists = argv
    report = _Reporter(int(report_fd))
    try:
        config = configs.parse(source, Path(mountpoint), option_lists, configs.read_host())
        prepare(config)
        log_output = logs.of_daemon(config.log_level, config.log_file, config.state_dir)
    except CsyncError as exc:
        report(Report(error=one_line(exc), code=exit_code(exc)))
        return exit_code(exc)
    except OSError as exc:
        report(Report(error=f"cannot write a log: {exc.strerror}", code=preflight.SYSTEM))
        return preflight.SYSTEM
    with log_output, _logged_stderr():
        return _serve_in_background(config, report)


def _serve_in_background(config: MountConfig, report: _Reporter) -> int:
    os.chdir("/")
    try:
        return serve(config, lambda warnings: report(Report(warnings=warnings)))
    except CsyncError as exc:
        log.warning("mount failed error=%s", one_line(exc))
        report(Report(error=explain(exc, config), code=exit_code(exc)))
        return exit_code(exc)
    except BaseException as exc:
        log.exception("mount process failed")
        report(Report(error=f"internal error: {one_line(exc)}", code=preflight.INTERNAL))
        return preflight.INTERNAL


@contextmanager
def _logged_stderr() -> Generator[None]:
    """What libraries and child processes print goes to the log: nobody reads it otherwise."""
    reading, writing = os.pipe()
    before = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)

    def copy() -> None:
        with os.fdopen(reading, errors="backslashreplace") as lines:
            for line in lines:
                log.warning("stderr: %s", line.rstrip())

    copier = threading.Thread(target=copy, name="stderr", daemon=True)
    copier.start()
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        # A child that outlives us may keep the pipe open: wait for what is there, no longer.
        copier.join(timeout=1.0)


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(_main(sys.argv[1:]))
