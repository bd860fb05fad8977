"""Azure Blob Storage. The SDK stays unimported until ``connect``."""

from csyncfs.backends.azureblob.backend import AzureBackend
from csyncfs.backends.azureblob.options import AzureOptions

__all__ = ["AzureBackend", "AzureOptions"]
