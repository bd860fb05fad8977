"""Private subclasses of csyncfs's errors: what this package has to know beyond the tree."""

import traceback
from pathlib import PurePath

from csyncfs.errors import CsyncError, NotFound, Offline, Retry, VersionMismatch


class Unmet(VersionMismatch):
    """The server said: precondition failed."""


class NoUpload(NotFound):
    """The multipart upload is gone: completed, aborted or expired."""


class Contended(Retry):
    """Another write of the same key was under way; nothing happened."""


class BadParts(Retry):
    """The server does not have the parts we believe it has; nothing happened."""


class LostReply(Offline):
    """Sent, at least in part, and not answered: a write may have taken effect."""


class ServerFailed(Retry):
    """The server failed in the middle: a write may have taken effect."""


def may_have_happened(error: CsyncError) -> bool:
    return isinstance(error, (LostReply, ServerFailed))


def nature(error: BaseException) -> str:
    """Of an error that nobody foresaw: what it is and where it came from, which is all that may be
    told; its text may quote what was sent."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    place = PurePath(frames[-1].filename)
    return f"{type(error).__name__} in {place.parent.name}/{place.name}:{frames[-1].lineno}"
