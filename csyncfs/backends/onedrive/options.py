"""What a OneDrive mount is told: which drive, which part of it, how to reach it."""

from dataclasses import dataclass
from typing import Final

GRAPH: Final = "https://graph.microsoft.com"
VERSION: Final = "v1.0"
FRAGMENT_UNIT: Final = 320 << 10
MAX_SIZE_BYTES: Final = 250 << 30
DELETE_GUARD: Final = 1000
"""What abraunegg's client asks about, too (``classify_as_big_delete``)."""


@dataclass(frozen=True, slots=True)
class OneDriveOptions:
    """One mounted ``onedrive://DRIVE/PREFIX``. Secrets are not here: see ``signin``."""

    drive: str
    """``me``, ``drive/ID``, or ``site/HOST/PATH:LIBRARY`` (either may be empty)."""
    prefix: str = ""
    """Without slash at either end, or empty."""
    endpoint: str | None = None
    """Of Graph, where it is not public: ``https://graph.microsoft.us``."""
    login_dir: str | None = None
    """Where ``csyncfs-admin login`` leaves who signed in; None: only the environment counts."""
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    fragment_bytes: int = 32 * FRAGMENT_UNIT
    """Of an upload; a multiple of 320 KiB."""
    whole_bytes: int = 8 << 20
    """Files up to this size are fetched whole and checked before anybody gets a byte."""

    @property
    def api_url(self) -> str:
        """Of Graph, with its version."""
        url = (self.endpoint or GRAPH).rstrip("/")
        return url if url.endswith(f"/{VERSION}") else f"{url}/{VERSION}"

    @property
    def is_https(self) -> bool:
        return self.api_url.lower().startswith("https:")
