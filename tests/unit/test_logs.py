"""Log lines: one event one line, and never a secret."""

import logging
import threading
from pathlib import Path

import pytest

from csyncfs import logs
from csyncfs.options import LogLevel

log = logging.getLogger("csyncfs.test")


@pytest.mark.parametrize(
    "text",
    [
        "GET https://b.s3/k?X-Amz-Signature=SECRET&x=1",
        "GET https://b.s3/k?X-Amz-Credential=SECRET%2F2026&x=1",
        "GET https://acct.blob/k?sv=1&sig=SECRET%3D",
        "Authorization: AWS4-HMAC-SHA256 Credential=SECRET, Signature=SECRET",
        "{'Authorization': 'Bearer SECRET'}",
        "aws_secret_access_key = SECRET",
        '{"refresh_token": "SECRET", "x": 1}',
        "http://user:SECRET@proxy:3128/",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    assert "SECRET" not in logs.redact(text)
    assert "***" in logs.redact(text)


def test_secrets_of_the_environment_are_hidden_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    assert logs.redact("key wJalrXUtnFEMI/K7MDENG is wrong") == "key *** is wrong"


@pytest.mark.parametrize(
    "text", ["uploaded ino=5 key=a/b.txt bytes=10", "s3://bucket/signature=1 x", "a@b.c: d"]
)
def test_ordinary_lines_stay(text: str) -> None:
    assert logs.redact(text).startswith(text[:10])


def test_a_traceback_is_one_line(tmp_path: Path) -> None:
    with logs.to_file(LogLevel.INFO, tmp_path / "log"):
        error = ValueError("first\nsecond")
        log.error("went wrong seq=%d", 3, exc_info=error)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "ERROR test: went wrong seq=3 traceback=ValueError: first\\nsecond" in line


def test_level_decides_and_everything_is_written_at_exit(tmp_path: Path) -> None:
    with logs.to_file(LogLevel.WARNING, tmp_path / "log"):
        log.info("quiet")
        for number in range(500):
            log.warning("loud n=%d", number)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == [f"n={n}" for n in range(500)]


def test_a_stuck_target_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LINES_AHEAD", 3)
    stuck = _Stuck()
    with logs.Logging(LogLevel.INFO, stuck):
        for number in range(100):
            log.info("n=%d", number)
        stuck.release()
    lines = stuck.text.splitlines()
    assert lines[0] == "n=0"
    assert lines[-1].startswith("log lines were lost count=")


class _Stuck(logging.Handler):
    """A target that writes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self._gate = threading.Event()
        self.text = ""

    def release(self) -> None:
        self._gate.set()

    def emit(self, record: logging.LogRecord) -> None:
        self._gate.wait(timeout=30)
        self.text += f"{record.getMessage()}\n"


def test_without_syslog_the_log_is_in_the_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_SYSLOG", tmp_path / "no-socket")
    with logs.of_daemon(LogLevel.INFO, None, tmp_path):
        log.info("here")
    assert "here" in (tmp_path / "csyncfs.log").read_text()
