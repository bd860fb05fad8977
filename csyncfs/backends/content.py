"""Content on its way up: the caller's file for threads, and what is told about it."""

import base64
import hashlib
import mimetypes
import os
from typing import Final

from csyncfs.errors import FsError, Superseded

_UNKNOWN_TYPE: Final = "application/octet-stream"


class Content:
    """The caller's descriptor for threads: it stays open until the last one lets go.

    A thread left behind may read when the caller has closed its own and the number already
    means another file.
    """

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)

    def __del__(self) -> None:
        os.close(self._fd)

    def read(self, start: int, size: int) -> tuple[bytes, bytes]:
        """The bytes and their MD5. Raises Superseded if the file has become shorter."""
        parts: list[bytes] = []
        missing = size
        try:
            while missing:
                part = os.pread(self._fd, missing, start + size - missing)
                if not part:
                    raise Superseded("the content became shorter while it was read")
                parts.append(part)
                missing -= len(part)
        except OSError as exc:
            raise FsError(exc.errno or 0, "reading content to upload") from exc
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        return content, hashlib.md5(content, usedforsecurity=False).digest()


def base64_of(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def content_type(key: str) -> str:
    """By name, as every S3 tool does, so that a browser shows the object right."""
    kind, encoding = mimetypes.guess_type(key.rpartition("/")[2])
    # ``x.tar.gz`` must not be unpacked by whoever downloads it.
    return _UNKNOWN_TYPE if kind is None or encoding else kind
