"""Errors on their way from the transfer process to the mount process.

The class arrives as it left; a backend's private subclass arrives as its nearest
ancestor in ``csyncfs.errors``.
"""

import os
import traceback
from typing import Final, cast

import msgspec

from csyncfs import errors
from csyncfs.errors import CsyncError, FsError, Retry, VersionMismatch
from csyncfs.types import Item

_CLASSES: Final[dict[str, type[CsyncError]]] = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, CsyncError)
}


class ProtocolError(Exception):
    """The other side sent something that is no message."""


class Fault(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A CsyncError as data."""

    kind: str
    message: str
    after_s: float | None = None
    current: Item | None = None
    code: int = 0


def to_fault(error: CsyncError) -> Fault:
    kind = next(c.__name__ for c in type(error).__mro__ if _CLASSES.get(c.__name__) is c)
    message = str(error)
    match error:
        case VersionMismatch():
            return Fault(kind, message, current=error.current)
        case Retry():
            return Fault(kind, message, after_s=error.after_s)
        case FsError():
            detail = message.removeprefix(os.strerror(error.code)).removeprefix(": ")
            return Fault(kind, detail, code=error.code)
        case _:
            return Fault(kind, message)


def to_error(fault: Fault) -> CsyncError:
    """A fresh instance, to be raised once. Unknown kinds become Retry: the safe reading."""
    found = _CLASSES.get(fault.kind, Retry)
    if issubclass(found, VersionMismatch):
        return found(fault.message, fault.current)
    if issubclass(found, Retry):
        return found(fault.message, fault.after_s)
    if issubclass(found, FsError):
        return found(fault.code, fault.message)
    return found(fault.message)


def describe(exc: BaseException) -> str:
    """An unexpected exception in one line, without a foreign text: it may hold a signed URL."""
    while isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        exc = group.exceptions[0]
    frames = traceback.extract_tb(exc.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    what = f": {exc}" if isinstance(exc, ProtocolError | CsyncError) else ""
    return f"{type(exc).__name__}{what}{where}"
