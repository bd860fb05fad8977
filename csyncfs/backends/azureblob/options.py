"""What an Azure mount is told: the container, how to reach it, and the sizes that decide requests.

Also which blob stands for a key of the mount: the same behind the mounted prefix, in the spelling
of ``spelling`` and, for a directory, without the slash at the end. What would be longer than Azure
allows is among the others of its directory below ``.csyncfs/long/``, under a hash of the
directory's key, as on S3.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from csyncfs.backends.azureblob import spelling
from csyncfs.errors import Unrepresentable
from csyncfs.types import RESERVED_DIR

MAX_BLOCKS: Final = 50_000
MAX_BLOCK_BYTES: Final = 4000 << 20
MAX_NAME_CHARS: Final = 1024
MAX_SEGMENTS: Final = 254
MAX_SIZE_BYTES: Final = MAX_BLOCKS * MAX_BLOCK_BYTES
LONG_DIR: Final = f"{RESERVED_DIR}long/"
PUBLIC_SUFFIX: Final = "core.windows.net"
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class AzureOptions:
    """One mounted ``az://account/container/prefix``. Secrets are not here: see ``credentials``."""

    account: str
    container: str
    prefix: str = ""
    """Without slash at either end, or empty."""
    endpoint: str | None = None
    """The blob service of the account; None: ``https://ACCOUNT.blob.core.windows.net``."""
    credentials_file: str | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    block_size_bytes: int = 4 * _MIB
    """Doubles until a blob needs no more than 50,000."""
    block_threshold_bytes: int = 8 * _MIB
    """Content up to this size is one Put Blob, and in memory while it is sent."""

    @property
    def base(self) -> str:
        """What every blob of the mount begins with: ``prefix/``, or nothing."""
        trimmed = self.prefix.strip("/")
        return f"{trimmed}/" if trimmed else ""

    @property
    def service_url(self) -> str:
        """The blob service of the account."""
        if self.endpoint is not None:
            return self.endpoint.rstrip("/")
        return f"https://{self.account}.blob.{PUBLIC_SUFFIX}"

    @property
    def is_https(self) -> bool:
        return self.service_url.lower().startswith("https:")

    @property
    def whole_bytes(self) -> int:
        """Blobs up to this size are fetched whole and checked before anybody gets a byte.

        TLS protects what is on its way; there only what comes in one block anyway.
        """
        return _MIB if self.is_https else 8 * _MIB

    def block_size_for(self, size: int) -> int:
        """Doubled as often as needed: nearly every edit of a file meets the blocks it had."""
        block = self.block_size_bytes
        while block * MAX_BLOCKS < size:
            block *= 2
        block = min(block, MAX_BLOCK_BYTES)
        if block * MAX_BLOCKS < size:
            raise Unrepresentable("too large for a blob")
        return block

    def blob_name(self, key: str) -> str:
        """The blob of a file, or the marker of a directory. Raises Unrepresentable."""
        key = key.removesuffix("/")
        if not self.base + key:
            raise Unrepresentable("a container's root is not a blob")
        if not key:
            return self.base.removesuffix("/")
        name = self.base + spelling.to_blob(key)
        if _is_too_long(name):
            parent, _, segment = key.rpartition("/")
            name = self._long_prefix(f"{parent}/" if parent else "") + spelling.to_blob(segment)
        if _is_too_long(name):
            raise Unrepresentable(
                f"the name is too long for Azure: over {MAX_NAME_CHARS} characters"
            )
        return name

    def prefixes(self, directory: str) -> tuple[str, ...]:
        """What the blobs of a directory's children begin with: where these are long, one more
        prefix than the plain one, or another."""
        plain = self.base
        if directory:
            plain += spelling.to_blob(directory.removesuffix("/")) + "/"
        if _is_too_long(plain + "x"):
            return (self._long_prefix(directory),)
        if _chars(plain) + spelling.MAX_SEGMENT_CHARS <= MAX_NAME_CHARS:
            return (plain,)
        return (plain, self._long_prefix(directory))

    def _long_prefix(self, directory: str) -> str:
        digest = hashlib.sha256(directory.encode()).hexdigest()[:32]
        return f"{self.base}{LONG_DIR}{digest}/"


def _is_too_long(name: str) -> bool:
    return _chars(name) > MAX_NAME_CHARS or name.count("/") >= MAX_SEGMENTS


def _chars(name: str) -> int:
    # Azure counts UTF-16 units, as .NET does.
    return len(name.encode("utf-16-le", "surrogatepass")) // 2
