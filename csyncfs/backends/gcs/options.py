"""What a GCS mount is told: the bucket, how to reach it, and the sizes that decide requests.

Also which object stands for a key of the mount: the same behind the mounted prefix, in the
spelling of ``spelling``. What would be longer than Google allows is among the others of its
directory below ``.csyncfs/long/``, under a hash of the directory's key, as on S3.
"""

import hashlib
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from csyncfs.backends.gcs import spelling
from csyncfs.errors import Unrepresentable
from csyncfs.types import RESERVED_DIR

MAX_NAME_BYTES: Final = 1024
MAX_SIZE_BYTES: Final = 5 << 40
CHUNK_BYTES: Final = 256 << 10
"""Every chunk of a resumable upload but the last is a multiple of this."""
LONG_DIR: Final = f"{RESERVED_DIR}long/"
PUBLIC_ENDPOINT: Final = "https://storage.googleapis.com"
_CHALLENGE_DIR: Final = ".well-known/acme-challenge/"
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class GcsOptions:
    """One mounted ``gs://bucket/prefix``. Secrets are not here: see ``credentials``."""

    bucket: str
    prefix: str = ""
    """Without slash at either end, or empty."""
    endpoint: str | None = None
    """None: Google's, or what the SDK finds in the environment."""
    credentials_file: str | None = None
    """The key of a service account, as JSON; None: application default credentials."""
    anonymous: bool = False
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    part_size_bytes: int = 8 * _MIB
    """Of a resumable upload, one after the other; rounded up to a multiple of 256 KiB."""
    single_bytes: int = 8 * _MIB
    """Content up to this size is one request, and in memory while it is sent."""

    @property
    def base(self) -> str:
        """What every object of the mount begins with: ``prefix/``, or nothing."""
        trimmed = self.prefix.strip("/")
        return f"{trimmed}/" if trimmed else ""

    @property
    def is_https(self) -> bool:
        return urlsplit(self.endpoint or PUBLIC_ENDPOINT).scheme.lower() == "https"

    @property
    def whole_bytes(self) -> int:
        """Objects up to this size are fetched whole and checked before anybody gets a byte.

        TLS protects what is on its way; there only what comes in one block anyway.
        """
        return _MIB if self.is_https else 8 * _MIB

    @property
    def chunk_bytes(self) -> int:
        return max(1, -(-self.part_size_bytes // CHUNK_BYTES)) * CHUNK_BYTES

    def object_name(self, key: str) -> str:
        """The object of a file, or the marker of a directory (``dir/``). Raises
        Unrepresentable."""
        if not self.base + key:
            raise Unrepresentable("a bucket's root is not an object")
        name = self.base + spelling.to_object(key)
        if _bytes(name) > MAX_NAME_BYTES:
            parent, segment = _split(key)
            name = self._long_prefix(parent) + spelling.to_object(segment)
        if _bytes(name) > MAX_NAME_BYTES:
            raise Unrepresentable(f"the name is too long for GCS: over {MAX_NAME_BYTES} bytes")
        if name.startswith(_CHALLENGE_DIR) or name in (".", ".."):
            raise Unrepresentable(f"Google reserves this name, as all in {_CHALLENGE_DIR}")
        return name

    def prefixes(self, directory: str) -> tuple[str, ...]:
        """What the objects of a directory's children begin with: where these are long, one more
        prefix than the plain one, or another."""
        plain = self.base + spelling.to_object(directory)
        if _bytes(plain) >= MAX_NAME_BYTES:
            return (self._long_prefix(directory),)
        # And the slash of a directory.
        if _bytes(plain) + spelling.MAX_SEGMENT_BYTES + 1 <= MAX_NAME_BYTES:
            return (plain,)
        return (plain, self._long_prefix(directory))

    def _long_prefix(self, directory: str) -> str:
        digest = hashlib.sha256(directory.encode()).hexdigest()[:32]
        return f"{self.base}{LONG_DIR}{digest}/"


def _bytes(name: str) -> int:
    return len(name.encode())


def _split(key: str) -> tuple[str, str]:
    """The key of the directory, and what follows it: ``a/b/`` is ``b/`` in ``a/``."""
    cut = key.removesuffix("/").rfind("/") + 1
    return key[:cut], key[cut:]
