"""Google Cloud Storage. The SDK stays unimported until ``connect``."""

from csyncfs.backends.gcs.backend import GcsBackend
from csyncfs.backends.gcs.options import GcsOptions

__all__ = ["GcsBackend", "GcsOptions"]
