"""Where log lines go and what they look like: one event, one line, no secrets.

``TIME LEVEL module: event key=value ...``. Lines are written by a thread of their own: a
full pipe or a stuck syslog daemon must not stop the file system.
"""

import logging
import logging.handlers
import os
import queue
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from csyncfs.options import LogLevel

_SYSLOG = Path("/dev/log")
_LINES_AHEAD = 10_000
_PATIENCE_S = 3.0
_FILE_BYTES = 10 << 20
_HIDDEN = "***"

_SECRETS = (
    # parameters of signed URLs and form fields
    re.compile(
        r"(?i)\b((?:X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|sig"
        r"|access_token|refresh_token|client_secret|password|aws_secret_access_key"
        r"|aws_session_token|secret(?:_access)?_key)['\"]?\s*[=:]\s*['\"]?)[^\s&'\",;]+"
    ),
    re.compile(r"(?i)\b(authorization['\"]?\s*[=:]\s*['\"]?(?:\w+\s+)?)[^\r\n'\"]+"),
    re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]+"),
    # https://user:password@host
    re.compile(r"(\w+://[^/\s:@]*:)[^/\s@]+(?=@)"),
)
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def redact(text: str) -> str:
    """The text without secrets and without the signatures of signed URLs."""
    for name in _SECRET_VARIABLES:
        if len(secret := os.environ.get(name, "")) >= 4:
            text = text.replace(secret, _HIDDEN)
    for pattern in _SECRETS:
        text = pattern.sub(rf"\1{_HIDDEN}", text)
    return text


class LineFormatter(logging.Formatter):
    """One line a record; ``with_time`` False where the receiver stamps it."""

    def __init__(self, *, with_time: bool) -> None:
        super().__init__()
        self._with_time = with_time

    def format(self, record: logging.LogRecord) -> str:
        module = record.name.removeprefix("csyncfs.")
        line = f"{record.levelname} {module}: {record.getMessage()}"
        if record.exc_info and record.exc_info[0] is not None:
            line += f" traceback={self.formatException(record.exc_info)}"
        line = redact(line).replace("\\", "\\\\") if "\n" in line else redact(line)
        line = line.replace("\n", "\\n").replace("\r", "\\r")
        return f"{_stamp(record)} {line}" if self._with_time else line


def _stamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class _Handover(logging.Handler):
    """Hands records to the writing thread without ever waiting; counts what it drops."""

    def __init__(self, waiting: "queue.Queue[logging.LogRecord | None]") -> None:
        super().__init__()
        self._waiting = waiting
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class Logging:
    """Log output of this process, from entering to leaving the ``with`` block."""

    def __init__(self, level: LogLevel, target: logging.Handler) -> None:
        self._level = level.upper()
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_LINES_AHEAD)
        self._handover = _Handover(self._waiting)
        self._target = target
        # A daemon thread: a target that never takes another byte must not keep us from ending.
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)

    def __enter__(self) -> None:
        root = logging.getLogger()
        root.addHandler(self._handover)
        # A handler that fails would report to stderr, which a daemon logs: round and round.
        logging.raiseExceptions = False
        root.setLevel(logging.WARNING)
        logging.getLogger("csyncfs").setLevel(self._level)
        self._writer.start()

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._handover)
        with suppress(queue.Full):
            self._waiting.put(None, timeout=_PATIENCE_S)
        self._writer.join(timeout=_PATIENCE_S)

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            self._target.handle(record)
        if self._handover.dropped:
            text = f"log lines were lost count={self._handover.dropped}"
            self._target.handle(
                logging.LogRecord(__name__, logging.ERROR, __file__, 0, text, None, None)
            )
        self._target.close()


def to_stderr(level: LogLevel) -> Logging:
    """For a mount in the foreground."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(with_time=True))
    return Logging(level, handler)


def to_file(level: LogLevel, path: Path) -> Logging:
    """Raises OSError if the file cannot be opened. Kept to 40 MB."""
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=_FILE_BYTES, backupCount=3, encoding="utf-8", errors="backslashreplace"
    )
    handler.setFormatter(LineFormatter(with_time=True))
    return Logging(level, handler)


def to_syslog(level: LogLevel) -> Logging:
    """Raises OSError if there is no syslog daemon."""
    if not _SYSLOG.is_socket():
        raise FileNotFoundError(f"{_SYSLOG} is not there")
    handler = logging.handlers.SysLogHandler(
        str(_SYSLOG), logging.handlers.SysLogHandler.LOG_DAEMON
    )
    handler.ident = f"csyncfs[{os.getpid()}]: "
    handler.setFormatter(LineFormatter(with_time=False))
    return Logging(level, handler)


def of_daemon(level: LogLevel, log_file: Path | None, state_dir: Path) -> Logging:
    """For a mount in the background: the file asked for, else syslog, else the state directory."""
    if log_file is not None:
        return to_file(level, log_file)
    try:
        return to_syslog(level)
    except OSError:
        return to_file(level, state_dir / "csyncfs.log")
