"""Every error csyncfs raises, as one tree, and its errno.

CsyncError
+-- FsError                    a POSIX answer; carries its errno
|   +-- ContentLost          bytes that were only here are gone
+-- BackendError
|   +-- NotFound               the item does not exist (a fact, not a failed lookup)
|   +-- VersionMismatch        a precondition failed: somebody else changed the item
|   +-- Superseded             the local side changed meanwhile; nothing was committed
|   +-- Retry                  failed for now; try again after ``after_s``
|   |   +-- Offline            the store did not answer at all
|   |   +-- Throttled          the store asked for less
|   |   +-- Ambiguous          the request may or may not have taken effect
|   +-- Hold                   will not get better without the user
|   |   +-- AccessDenied
|   |   +-- NoSuchStore        bucket, container or directory does not exist
|   |   +-- QuotaExceeded
|   |   +-- Unrepresentable    the provider cannot hold this name, size or kind
|   +-- Unsupported            the backend does not declare this capability
|   +-- CursorExpired          the change feed has to be read from its start
+-- StoreError
|   +-- StoreDamaged
|   +-- StoreTooNew          written by a newer csyncfs
|   +-- StoreLocked            another mount uses the same state directory
|   +-- StoreFull
+-- ConfigError                bad options or spec; the message is for the user
"""

import errno
import os

from csyncfs.types import Item


class CsyncError(Exception):
    """Root of the tree."""


class FsError(CsyncError):
    """A POSIX answer to one file system call."""

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(f"{os.strerror(code)}{': ' if detail else ''}{detail}")
        self.code = code


class ContentLost(FsError):
    """Bytes the cloud has not are missing from their content file (EIO)."""


class BackendError(CsyncError):
    """The cloud side did not do what was asked. ``str()`` is one line without secrets."""


class NotFound(BackendError):
    """The item does not exist: the store said so."""


class VersionMismatch(BackendError):
    """A precondition failed. ``current`` is what is there now, None if not known."""

    def __init__(self, message: str, current: Item | None = None) -> None:
        super().__init__(message)
        self.current = current


class Superseded(BackendError):
    """The local source changed before the commit; nothing was committed."""


class Retry(BackendError):
    """Failed for now. ``after_s``: do not come back sooner; None: use own backoff."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Offline(Retry):
    """The store did not answer: no route, refused, timed out, or the transfer process died."""


class Throttled(Retry):
    """The store asked for fewer requests."""


class Ambiguous(Retry):
    """The request was sent, the reply was lost; repeat it with the same put id."""


class Hold(BackendError):
    """Will not get better by trying again; needs the user."""


class AccessDenied(Hold):
    """Credentials are missing, wrong or not sufficient."""


class NoSuchStore(Hold):
    """The bucket, container or root directory does not exist."""


class QuotaExceeded(Hold):
    """The store is full."""


class Unrepresentable(Hold):
    """The provider cannot hold this name, size or kind of file."""


class Unsupported(BackendError):
    """The backend does not declare the capability this call needs."""


class CursorExpired(BackendError):
    """The change feed does not go on from there: everything has to be told anew."""


class StoreError(CsyncError):
    """The local SQLite store failed."""


class StoreDamaged(StoreError):
    """The store's file is not a sound csyncfs database."""


class StoreTooNew(StoreError):
    """A newer csyncfs has written the store; this one cannot understand it."""


class StoreLocked(StoreError):
    """Another mount uses the same state directory."""


class StoreFull(StoreError):
    """The disk below the store is full; nothing was committed."""


class ConfigError(CsyncError):
    """Bad options, spec or environment; the message is one line for the user."""


_ERRNO: tuple[tuple[type[CsyncError], int], ...] = (
    (NotFound, errno.ENOENT),
    (VersionMismatch, errno.ESTALE),
    (Offline, errno.ETIMEDOUT),
    (Throttled, errno.EAGAIN),
    (Retry, errno.EIO),
    (AccessDenied, errno.EACCES),
    (QuotaExceeded, errno.EDQUOT),
    (Unrepresentable, errno.EINVAL),
    (Unsupported, errno.EOPNOTSUPP),
    (StoreFull, errno.ENOSPC),
)


def to_errno(error: CsyncError) -> int:
    """The errno a program sees for this error; EIO where none fits better."""
    if isinstance(error, FsError):
        return error.code
    for kind, code in _ERRNO:
        if isinstance(error, kind):
            return code
    return errno.EIO
