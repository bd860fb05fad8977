"""Single requests that make a version: small content, directory markers."""

import base64
import hashlib
import mimetypes
import os
from dataclasses import dataclass
from typing import Any, Final

from csyncfs.backends.base import Source, Writing
from csyncfs.backends.s3 import items, metadata
from csyncfs.backends.s3.commit import Attempt, Commits
from csyncfs.backends.s3.wire import Reply, Wire
from csyncfs.errors import FsError, Superseded
from csyncfs.types import Expect, Item, Kind

DIR_TYPE: Final = "application/x-directory"
_UNKNOWN_TYPE: Final = "application/octet-stream"
# Up to here reading (from the page cache, as a rule) takes less than going to a thread: 100 us.
_INLINE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """The object to be made, and the item it stands for."""

    object_key: str
    key: str
    kind: Kind


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


async def put_small(
    wire: Wire, commits: Commits, key: str, source: Source, writing: Writing, expect: Expect
) -> Item:
    """One PutObject of bytes held in memory."""
    file = Content(source.fd)
    if source.size <= _INLINE:
        content, digest = file.read(0, source.size)
    else:
        content, digest = await wire.uploads.run(
            lambda: file.read(0, source.size), wire.deadline_s(source.size)
        )
    if not await source.confirm():
        raise Superseded("the content changed before it was sent")
    target = Target(key, key, Kind.FILE)
    return await put_bytes(wire, commits, target, content, digest, writing, expect)


async def put_empty(
    wire: Wire, commits: Commits, target: Target, writing: Writing, expect: Expect
) -> Item:
    digest = hashlib.md5(usedforsecurity=False).digest()
    return await put_bytes(wire, commits, target, b"", digest, writing, expect)


def base64_of(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def content_type(key: str) -> str:
    """By name, as every S3 tool does, so that a browser shows the object right."""
    kind, encoding = mimetypes.guess_type(key.rpartition("/")[2])
    # ``x.tar.gz`` must not be unpacked by whoever downloads it.
    return _UNKNOWN_TYPE if kind is None or encoding else kind


async def put_bytes(
    wire: Wire,
    commits: Commits,
    target: Target,
    content: bytes,
    digest: bytes,
    writing: Writing,
    expect: Expect,
) -> Item:
    """One PutObject, on the condition of ``expect``. ``digest`` is the content's MD5."""
    key, kind, size = target.key, target.kind, len(content)
    full_key = wire.options.full_key(target.object_key)
    params: dict[str, Any] = {
        "Key": full_key,
        "Body": content,
        "ContentMD5": base64_of(digest),
        "ContentType": DIR_TYPE if kind is Kind.DIR else content_type(key),
        "Metadata": metadata.encode(writing, full_key),
        **wire.stamps(),
    }

    async def send(conditions: dict[str, str]) -> Reply:
        return await wire.uploads.run(
            lambda: wire.call("put_object", **params, **conditions), wire.deadline_s(size)
        )

    attempt = Attempt(key, kind, "put", expect, writing.put_id, size, digest.hex())
    return await commits.make(
        attempt,
        send,
        lambda reply: items.from_put(
            *(key, kind, reply, writing, size, digest.hex()),
            full_key=full_key,
            md5_tags=commits.verdict.md5_tags,
        ),
    )
