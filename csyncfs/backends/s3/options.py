"""What an S3 mount is told: the store, how to reach it, and the sizes that decide the requests."""

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from csyncfs.errors import Unrepresentable

MAX_PARTS: Final = 10_000
MAX_KEY_BYTES: Final = 1024
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

    def part_size_for(self, size: int) -> int:
        return _grown(self.part_size_bytes, size)

    def copy_part_size_for(self, size: int) -> int:
        return _grown(self.copy_part_size_bytes, size)

    def full_key(self, key: str) -> str:
        """The key in the bucket. Raises Unrepresentable for what cannot be sent."""
        full = self.base + key
        try:
            length = len(full.encode())
        except UnicodeEncodeError as exc:
            raise Unrepresentable("S3 keys are UTF-8; this name is not") from exc
        if not full:
            raise Unrepresentable("a bucket's root is not an object")
        if length > MAX_KEY_BYTES:
            raise Unrepresentable(f"the name is too long for S3: over {MAX_KEY_BYTES} bytes")
        return full


def _grown(part_size: int, size: int) -> int:
    """The part size, or the least whole MiB that keeps the object within MAX_PARTS."""
    needed = -(-size // MAX_PARTS)
    if needed <= part_size:
        return part_size
    return -(-needed // _MIB) * _MIB
