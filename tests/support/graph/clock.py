"""The emulator's time: every expiry, lag and job goes by it."""

import datetime
import re
import threading
import time
from collections.abc import Callable
from typing import Final

from tests.support.graph.failures import bad_request

_STAMP: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")
NEVER: Final = "0001-01-01T00:00:00Z"


class Clock:
    """Seconds since 1970: real time, or a time that stands still, plus what was ``advance``d."""

    def __init__(self, *, frozen: bool = False, source: Callable[[], float] | None = None) -> None:
        """``source``: another clock that counts seconds, such as trio's."""
        start = time.time()
        begin = time.monotonic() if source is None else source()
        if frozen:
            self._elapsed = lambda: 0.0
        elif source is None:
            self._elapsed = lambda: time.monotonic() - begin
        else:
            self._elapsed = lambda: source() - begin
        self._start = start
        self._advanced = 0.0  # guarded by: _lock
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._start + self._elapsed() + self._advanced

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._advanced += seconds


def text_of(when: float, *, ms: bool = False) -> str:
    """ISO 8601 in UTC."""
    if when <= -62135596800:
        return NEVER
    moment = datetime.datetime.fromtimestamp(when, datetime.UTC)
    if not ms:
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def time_of(text: object) -> float:
    """Seconds since 1970. Raises GraphError if it is no time."""
    match = _STAMP.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise bad_request(f"Cannot convert the literal {text!r} to the type 'Edm.DateTimeOffset'.")
    zone = "+00:00" if match[8] == "Z" else match[8]
    try:
        whole = datetime.datetime.fromisoformat(str(text)[:19] + zone)
    except ValueError as exc:
        raise bad_request(f"{text!r} is not a time") from exc
    return whole.timestamp() + float(match[7] or 0)


def http_date(when: float) -> str:
    return datetime.datetime.fromtimestamp(when, datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
