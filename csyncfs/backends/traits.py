"""What a kind of store is like for people who choose one.

``Capabilities`` tells callers what to do; this tells readers the rest. Both are rendered as the
table of csyncfs-semantics(7) and README.md, so every value here is one the backend itself works
with, and the conformance suite holds each store to it.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traits:
    """One kind of store; for S3, one kind of server."""

    name_there: Callable[[str], str]
    """What a name is called in the store. Raises Unrepresentable."""
    plain_path_chars: int | None
    """Longest path an item can have there (S3 and Google count bytes); None: as long as here."""
    resumes_over_bytes: int
    """An upload of more than this goes on where it was interrupted, in another process, too."""
    resends_over_bytes: int | None
    """Of a file larger than this only what was edited is sent again; None: always all of it."""
    checksum: str | None
    """By what a whole file that was fetched is checked."""
    xattr_bytes: int | None
    """Extended attributes and access lists of an item fit this; None: what a file system takes."""
    keeps_mtime: bool
    lists_attributes: bool
    """A listing tells them, so that other mounts see a change without a request an item."""
    folds_case: bool
    """Names that differ in case only are one name there."""
    owner_needs_root: bool = False
    """Owner, group and devices are kept if csyncfs runs as root."""
