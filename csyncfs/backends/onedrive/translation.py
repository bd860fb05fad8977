"""From what Graph and httpx say to csyncfs's errors.

Messages name the operation, never a URL (they let anybody in), a name or what a server wrote.
"""

import email.utils
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import httpx

from csyncfs.backends.failures import Contended, LostReply, ServerFailed, Unmet, nature
from csyncfs.errors import (
    AccessDenied,
    BackendError,
    CsyncError,
    Hold,
    NotFound,
    Offline,
    QuotaExceeded,
    Retry,
    Throttled,
    Unrepresentable,
    Unsupported,
)

Json = dict[str, Any]

SIGN_IN_AGAIN: Final = "sign in again: csyncfs-admin login onedrive"
_LOCKED_S: Final = 30.0


class SignedOut(Offline):
    """Nobody is signed in (any more). Heals by itself after ``csyncfs-admin login``, so that it
    is told like a network that is down: what has to go up waits."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; {SIGN_IN_AGAIN}")


class Taken(Unmet):
    """The name has an item, or an upload of somebody else's."""


class Expired(NotFound):
    """What was asked for was there once, and is not kept any longer (HTTP 410)."""


_KINDS: Final[Mapping[str, tuple[type[BackendError], str]]] = {
    "nameAlreadyExists": (Taken, "the name is taken"),
    "resourceModified": (Unmet, "somebody else changed the item"),
    "entityTagDoesNotMatch": (Unmet, "somebody else changed the item"),
    "quotaLimitReached": (QuotaExceeded, "the drive is full"),
    "activityLimitReached": (Throttled, "the server asks for fewer requests"),
    "throttledRequest": (Throttled, "the server asks for fewer requests"),
    "resourceLocked": (Contended, "somebody has the file open for editing"),
    "lockMismatch": (Contended, "somebody has the file open for editing"),
    "malwareDetected": (Hold, "the server takes the file for malware and does not give it away"),
    "virusSuspicious": (Hold, "the server takes the file for malware and does not give it away"),
    "pathIsTooLong": (Unrepresentable, "the path is too long for OneDrive: over 400 characters"),
    "pathTooDeep": (Unrepresentable, "the path is too deep for OneDrive"),
    "invalidPath": (Unrepresentable, "OneDrive cannot hold this name"),
    "maxFileSizeExceeded": (Unrepresentable, "too large for OneDrive"),
    "childItemCountExceeded": (Hold, "the directory has as many items as OneDrive allows"),
    "accessRestricted": (AccessDenied, "the owner restricted access to the item"),
}
_STATUSES: Final[Mapping[int, tuple[type[BackendError], str]]] = {
    403: (AccessDenied, "the account is not permitted to do this"),
    404: (NotFound, "no such item"),
    405: (Unsupported, "the drive does not know this request"),
    408: (LostReply, "the server waited too long"),
    409: (Taken, "the name is taken"),
    410: (Expired, "no such item any more"),
    412: (Unmet, "somebody else changed the item"),
    413: (Unrepresentable, "too large for OneDrive"),
    414: (Unrepresentable, "the path is too long for OneDrive"),
    416: (Retry, "the server has other bytes than expected"),
    423: (Contended, "somebody has the file open for editing"),
    429: (Throttled, "the server asks for fewer requests"),
    501: (Unsupported, "the drive does not know this request"),
    507: (QuotaExceeded, "the drive is full"),
    509: (Throttled, "the server asks for less traffic"),
}


def refusal(reply: httpx.Response, doing: str) -> CsyncError:
    """The error a reply of 400 or more stands for."""
    status = reply.status_code
    if status == 503 and retry_after(reply) is not None:
        return Throttled(f"{doing}: the server asks for fewer requests", retry_after(reply))
    found = next((_KINDS[code] for code in codes(reply) if code in _KINDS), None)
    # A code in the body of a refused precondition may say less than the status.
    if found is None or status in (412, 423, 429, 507):
        found = _STATUSES.get(status, found)
    if found is None and status == 400 and _is_about_name(reply):
        found = _KINDS["invalidPath"]
    if found is None:
        if status >= 500:
            return ServerFailed(f"{doing}: the server failed (HTTP {status})")
        return Hold(f"{doing}: the server refused the request (HTTP {status})")
    kind, text = found
    if kind is Contended:
        return Contended(f"{doing}: {text}", retry_after(reply) or _LOCKED_S)
    if issubclass(kind, Retry):
        return kind(f"{doing}: {text}", retry_after(reply))
    return kind(f"{doing}: {text}")


def broken(error: Exception, doing: str) -> CsyncError:
    """The error for what kept a reply from coming."""
    match error:
        case CsyncError():
            return error
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
            return Offline(f"{doing}: OneDrive cannot be reached ({type(error).__name__})")
        case httpx.HTTPError() | OSError():
            return LostReply(f"{doing}: the connection broke ({type(error).__name__})")
        case _:
            return Hold(f"{doing}: {nature(error)}")


def retry_after(reply: httpx.Response) -> float | None:
    """Seconds, as a number or as a date."""
    text = reply.headers.get("Retry-After", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def body_of(reply: httpx.Response) -> Json:
    """Its JSON object; empty where it has none."""
    try:
        found: object = reply.json() if reply.content else None
    except ValueError:
        return {}
    return cast("Json", found) if isinstance(found, dict) else {}


def codes(reply: httpx.Response) -> list[str]:
    """What the reply calls its error, the innermost and most exact one first."""
    return list(reversed(list(_nested(body_of(reply).get("error")))))


def _nested(error: object) -> Iterator[str]:
    if not isinstance(error, dict):
        return
    values = cast("Json", error)
    if isinstance(values.get("code"), str):
        yield values["code"]
    for name in ("innerError", "innererror"):
        yield from _nested(values.get(name))


def _is_about_name(reply: httpx.Response) -> bool:
    told: object = body_of(reply).get("error")
    message = str(cast("Json", told).get("message")).lower() if isinstance(told, dict) else ""
    return any(word in message for word in ("illegal character", "reserved", "invalid trailing"))
