"""From what the SDK raises to csyncfs's errors.

Messages name the operation, never a URL, a key or what a server wrote: those may carry secrets.
Imports the SDK: load it in a worker thread.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import requests.exceptions
import urllib3.exceptions
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from csyncfs.backends.failures import Contended, LostReply, NoUpload, ServerFailed, Unmet, nature
from csyncfs.errors import (
    AccessDenied,
    BackendError,
    CsyncError,
    Hold,
    NoSuchStore,
    NotFound,
    Offline,
    QuotaExceeded,
    Retry,
    Throttled,
    Unrepresentable,
    Unsupported,
)


class Damaged(Retry):
    """The server got other content than was sent, and threw it away."""


class Refused(Exception):
    """A reply that is no success."""

    def __init__(self, status: int, reason: str, told: str, retry_after: str) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.reason = reason
        """As Google calls it: ``conditionNotMet``."""
        self.told = told
        """What the server wrote; only to be looked at."""
        self.retry_after = retry_after

    @classmethod
    def read(cls, reply: Any) -> "Refused":
        return cls.of(reply.status_code, reply.headers, bytes(reply.content))

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes) -> "Refused":
        text = body.decode(errors="replace")
        reason = ""
        try:
            error: Any = json.loads(text)["error"]
            text = str(error.get("message", ""))
            reason = str(error["errors"][0]["reason"])
        except (ValueError, LookupError, TypeError, AttributeError):
            # Media requests are refused in plain text.
            pass
        return cls(int(status), reason, text, str(headers.get("retry-after", "")))


def translate(error: Exception, doing: str) -> CsyncError:
    """The csyncfs error for anything an SDK call raised."""
    match error:
        case CsyncError():
            return error
        case Refused():
            return _of_reply(error, doing)
        case api.GoogleAPICallError() if _reply(error) is not None:
            reply = _reply(error)
            return _of_reply(Refused.of(reply.status_code, reply.headers, reply.content), doing)
        case auth.TransportError() | auth.TimeoutError():
            # While a token was fetched: the request itself was never sent.
            return Offline(f"{doing}: Google's sign-in cannot be reached")
        case auth.GoogleAuthError() if not getattr(error, "retryable", False):
            return AccessDenied("Google does not accept the credentials, or this machine's clock")
        case auth.GoogleAuthError():
            return Offline(f"{doing}: Google's sign-in failed for now")
        case requests.exceptions.RequestException() | urllib3.exceptions.HTTPError() | OSError():
            if _never_sent(error):
                return Offline(f"{doing}: the GCS endpoint cannot be reached ({_cause(error)})")
            if isinstance(
                error, (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema)
            ):
                return Hold(f"{doing}: {nature(error)}")
            return LostReply(f"{doing}: the connection broke ({_cause(error)})")
        case _:
            return Hold(f"{doing}: {nature(error)}")


def _reply(error: Any) -> Any:
    return error.response


_NEVER_SENT: Final = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.NameResolutionError,
    urllib3.exceptions.ProxyError,
    urllib3.exceptions.SSLError,
    requests.exceptions.ConnectTimeout,
    requests.exceptions.ProxyError,
    requests.exceptions.SSLError,
)


def _never_sent(error: BaseException) -> bool:
    return any(isinstance(cause, _NEVER_SENT) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it stands for; requests and urllib3 wrap in several ways."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (getattr(one, "reason", None), one.__cause__, one.__context__, *one.args)
        waiting += [e for e in inner if isinstance(e, BaseException)]


def _cause(error: BaseException) -> str:
    return type(next((c for c in _causes(error) if isinstance(c, _NEVER_SENT)), error)).__name__


def is_stale_connection(error: Exception) -> bool:
    """True if an idle connection may have been closed under the request."""
    return isinstance(error, requests.exceptions.ConnectionError) and any(
        isinstance(cause, (ConnectionResetError, BrokenPipeError, urllib3.exceptions.ProtocolError))
        for cause in _causes(error)
    )


_Told = tuple[type[BackendError], str]
_SLOW: Final[_Told] = (Throttled, "the server asks for fewer requests")
_CHANGED: Final[_Told] = (Unmet, "somebody else changed the item")
_DENIED: Final[_Told] = (AccessDenied, "the credentials do not permit this")

_BY_REASON: Final[Mapping[str, _Told]] = {
    "rateLimitExceeded": _SLOW,
    "userRateLimitExceeded": _SLOW,
    "quotaExceeded": _SLOW,
    "conditionNotMet": _CHANGED,
    "accountDisabled": (Hold, "the project's billing account is disabled"),
    "retentionPolicyNotMet": (Hold, "a retention policy forbids to change the item"),
    "objectUnderActiveHold": (Hold, "a hold forbids to change the item"),
    "storageQuotaExceeded": (QuotaExceeded, "the store is full"),
    "uploadBrokenConnection": (LostReply, "the content did not arrive"),
}
_BY_STATUS: Final[Mapping[int, _Told]] = {
    304: _CHANGED,
    401: (AccessDenied, "the credentials are missing or wrong"),
    403: _DENIED,
    404: (NotFound, "no such item"),
    405: (Unsupported, "the server does not allow this request"),
    408: (LostReply, "the server waited too long for the content"),
    409: (Contended, "somebody else is changing the item"),
    410: (NoUpload, "the upload is gone"),
    412: _CHANGED,
    413: (Unrepresentable, "too large for this store"),
    # Nobody asks for bytes beyond the size of the version he expects.
    416: (Unmet, "the item is shorter than expected"),
    429: _SLOW,
    499: (NoUpload, "the upload is gone"),
    501: (Unsupported, "the server does not know this request"),
}
_BY_WORDS: Final[Mapping[str, _Told]] = {
    # 400, and for an object of a bucket that is gone a 404 like any other.
    "doesn't match calculated": (Damaged, "the content arrived damaged"),
    "bucket does not exist": (NoSuchStore, "the bucket does not exist"),
    "Invalid bucket name": (NoSuchStore, "the bucket does not exist"),
    "name cannot": (Unrepresentable, "the store cannot hold this name"),
    "metadata is too large": (Unrepresentable, "the attributes are too large for this store"),
}


def _of_reply(error: Refused, doing: str) -> CsyncError:
    status = error.status
    found: _Told | None = None
    if status in (400, 404) and not error.told.startswith("No such object"):
        found = next((told for words, told in _BY_WORDS.items() if words in error.told), None)
    found = found or _BY_REASON.get(error.reason) or _BY_STATUS.get(status)
    if found is None:
        if status >= 500 or status < 400:
            return ServerFailed(f"{doing}: the server failed (HTTP {status})", _after(error))
        return Hold(f"{doing}: the server refused the request (HTTP {status})")
    kind, text = found
    message = text if kind is NoSuchStore else f"{doing}: {text}"
    if issubclass(kind, Retry):
        return kind(message, _after(error))
    return kind(message)


def _after(error: Refused) -> float | None:
    return float(error.retry_after) if error.retry_after.isdecimal() else None
