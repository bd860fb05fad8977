"""What an S3 mount is told: the store, how to reach it, and the sizes that decide the requests.

Also which key in the bucket stands for a key of the mount: the same behind the mounted prefix,
unless that is longer than S3 allows. Then the item is among the others of its directory below
``.csyncfs/long/``, under a hash of the directory's key. Whoever knows the path finds it.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from csyncfs.errors import Unrepresentable
from csyncfs.types import RESERVED_DIR

MAX_PARTS: Final = 10_000
MAX_KEY_BYTES: Final = 1024
MARKER_NAME: Final = ".csyncfs-dir"
"""The marker of a directory on servers that cannot keep ``dir/``; see directories.py."""
LONG_DIR: Final = f"{RESERVED_DIR}long/"
# A name of 255 bytes that is no UTF-8, spelled in ASCII, and the slash of a directory.
_LONGEST_SEGMENT: Final = 600
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class S3Options:
    """One mounted ``s3://bucket/prefix``. Secrets are not here: the AWS chain finds them."""

    bucket: str
    prefix: str = ""
    """Without slash at either end, or empty."""
    endpoint_url: str | None = None
    """None: AWS."""
    region: str | None = None
    profile: str | None = None
    credentials_file: str | None = None
    """Instead of ``~/.aws/credentials``."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    anonymous: bool = False
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    part_size_bytes: int = 8 * _MIB
    """Grows where an object would need more than 10,000 parts."""
    multipart_threshold_bytes: int = 16 * _MIB
    """Content up to this size is one PUT, and in memory while it is sent."""
    copy_threshold_bytes: int = 5 << 30
    """Longest CopyObject; AWS refuses more."""
    copy_part_size_bytes: int = 512 * _MIB
    requester_pays: bool = False
    sse: Literal["AES256", "aws:kms"] | None = None
    sse_kms_key_id: str | None = None

    @property
    def base(self) -> str:
        """What every key of the mount begins with: ``prefix/``, or nothing."""
        trimmed = self.prefix.strip("/")
        return f"{trimmed}/" if trimmed else ""

    @property
    def is_aws(self) -> bool:
        host = urlsplit(self.endpoint_url).hostname if self.endpoint_url else None
        return host is None or host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

    @property
    def is_https(self) -> bool:
        return self.endpoint_url is None or self.endpoint_url.lower().startswith("https:")

    @property
    def whole_bytes(self) -> int:
        """Objects up to this size are fetched whole and checked before anybody gets a byte.

        TLS protects what is on its way; there only what comes in one block anyway.
        """
        return _MIB if self.is_https else 8 * _MIB

    def part_size_for(self, size: int) -> int:
        return _grown(self.part_size_bytes, size)

    def copy_part_size_for(self, size: int) -> int:
        return _grown(self.copy_part_size_bytes, size)

    def full_key(self, key: str) -> str:
        """The key in the bucket. Raises Unrepresentable for what cannot be sent."""
        full = self.base + key
        if not full:
            raise Unrepresentable("a bucket's root is not an object")
        if _bytes(full) > MAX_KEY_BYTES:
            parent, segment = _split(key)
            full = self._long_prefix(parent) + segment
        if _bytes(full) > MAX_KEY_BYTES:
            raise Unrepresentable(f"the name is too long for S3: over {MAX_KEY_BYTES} bytes")
        return full

    def prefixes(self, directory: str) -> tuple[str, ...]:
        """What the keys in the bucket of a directory's children begin with: where these are long,
        one more prefix than the plain one, or another."""
        plain = self.base + directory
        if _bytes(plain) + _LONGEST_SEGMENT <= MAX_KEY_BYTES:
            return (plain,)
        if _bytes(plain) >= MAX_KEY_BYTES:
            return (self._long_prefix(directory),)
        return (plain, self._long_prefix(directory))

    def _long_prefix(self, directory: str) -> str:
        digest = hashlib.sha256(directory.encode()).hexdigest()[:32]
        return f"{self.base}{LONG_DIR}{digest}/"


def _bytes(key: str) -> int:
    try:
        return len(key.encode())
    except UnicodeEncodeError as exc:
        raise Unrepresentable("S3 keys are UTF-8; this name is not") from exc


def _split(key: str) -> tuple[str, str]:
    """The key of the directory, and what follows it: ``a/b/`` is ``b/`` in ``a/``."""
    # A marker inside its directory has to show up where the directory is listed.
    whole = key.removesuffix(f"/{MARKER_NAME}").removesuffix("/")
    cut = whole.rfind("/") + 1
    return key[:cut], key[cut:]


def _grown(part_size: int, size: int) -> int:
    """The part size, or the least whole MiB that keeps the object within MAX_PARTS."""
    needed = -(-size // MAX_PARTS)
    if needed <= part_size:
        return part_size
    return -(-needed // _MIB) * _MIB
