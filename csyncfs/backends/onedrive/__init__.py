"""OneDrive and SharePoint libraries, by Microsoft Graph. Only ``backend`` is for others."""

from csyncfs.backends.onedrive.backend import OneDriveBackend
from csyncfs.backends.onedrive.options import OneDriveOptions

__all__ = ["OneDriveBackend", "OneDriveOptions"]
