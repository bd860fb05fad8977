"""What lets a mount in: the key of a service account, else Google's application default
credentials (``GOOGLE_APPLICATION_CREDENTIALS``, ``gcloud auth application-default login``, the
machine's own account), or nothing for public buckets.

Imports the SDK: load it in a worker thread. Nothing of a key is ever part of a message.
"""

import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import google.auth
from google.auth import exceptions
from google.auth.credentials import AnonymousCredentials
from google.oauth2 import service_account

from csyncfs.backends.gcs.options import GcsOptions
from csyncfs.errors import AccessDenied

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.read_write",)
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def find(options: GcsOptions) -> "Credentials":
    """Raises AccessDenied for what is missing, or there but not usable."""
    if options.anonymous:
        return AnonymousCredentials()  # pyright: ignore[reportUnknownVariableType, reportReturnType, reportNoUntypedCall]
    _require_safe(options)
    if options.credentials_file is not None:
        return _of_service_account(Path(options.credentials_file))
    auth: Any = google.auth
    try:
        return cast("Credentials", auth.default(scopes=_SCOPES)[0])
    except exceptions.DefaultCredentialsError:
        # Its message may quote the file.
        raise AccessDenied(
            "no usable Google credentials were found: give credentials_file, run"
            " gcloud auth application-default login, or mount public buckets with anonymous"
        ) from None


def _require_safe(options: GcsOptions) -> None:
    """A token in clear text opens the bucket to whoever is on the way."""
    host = urlsplit(options.endpoint or "").hostname
    if not options.is_https and host not in _LOOPBACK:
        raise AccessDenied("signing in needs an endpoint with https: or the option anonymous")


def _of_service_account(file: Path) -> "Credentials":
    try:
        mode = file.stat().st_mode
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise AccessDenied(f"the credentials file cannot be read: {file}") from exc
    if stat.S_IMODE(mode) & 0o007:
        raise AccessDenied(f"others can read the credentials file; chmod 600 {file}")
    load: Any = service_account.Credentials.from_service_account_info  # pyright: ignore
    try:
        return cast("Credentials", load(json.loads(text), scopes=_SCOPES))
    except (ValueError, TypeError, LookupError, AttributeError, exceptions.GoogleAuthError):
        # Their messages quote the key.
        raise AccessDenied(
            f"the credentials file is not the key of a service account as JSON: {file}"
        ) from None
