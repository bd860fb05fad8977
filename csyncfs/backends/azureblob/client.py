"""The SDK's clients, made in a worker thread: imports take most of a second.

Retries are off: a conditional write repeated behind our back after a lost reply meets its own
result and reports a conflict. So is all logging of requests, whose URLs may carry a signature.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from azure.storage.blob import BlobServiceClient, ContainerClient

from csyncfs.backends.azureblob.credentials import Credentials
from csyncfs.backends.azureblob.options import AzureOptions
from csyncfs.errors import AccessDenied

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

POOL_SIZE: Final = 24
_LOUD: Final = ("azure", "msal", "urllib3")


@dataclass(frozen=True, slots=True)
class Clients:
    """May be shared by threads."""

    service: BlobServiceClient
    container: ContainerClient
    credentials: Credentials
    token: "TokenCredential | None"
    """Where neither key nor SAS was found."""

    def close(self) -> None:
        self.container.close()
        self.service.close()
        if self.token is not None and hasattr(self.token, "close"):
            self.token.close()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def build(options: AzureOptions, credentials: Credentials) -> Clients:
    """Raises ValueError for an endpoint the SDK cannot use, and AccessDenied."""
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    url = options.endpoint or credentials.endpoint or options.service_url
    token = None
    credential: Any
    if credentials.key is not None:
        credential = {"account_name": options.account, "account_key": credentials.key}
    elif credentials.sas is not None:
        credential = credentials.sas
    else:
        if urlsplit(url).scheme != "https":
            raise AccessDenied(
                "no Azure credentials were found, and signing in needs an endpoint with https:"
                " set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or credentials_file"
            )
        credential = token = _signed_in()
    service = BlobServiceClient(
        _with_account(url, options.account),
        credential=credential,
        retry_total=0,
        connection_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        transport=_transport(options),
    )
    return Clients(service, service.get_container_client(options.container), credentials, token)


def _signed_in() -> "TokenCredential":
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError as exc:
        raise AccessDenied("signing in to Azure needs azure-identity, of csyncfs[azure]") from exc
    return DefaultAzureCredential(exclude_interactive_browser_credential=True, process_timeout=20)


def _with_account(url: str, account: str) -> str:
    """Azurite, and whatever has no host name for each account, has it in the path."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host.split(".")[0] == account or parts.path.strip("/") == account:
        return url
    return f"{url.rstrip('/')}/{account}"


def _transport(options: AzureOptions) -> Any:
    import requests
    from azure.core.pipeline.transport import RequestsTransport
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    # Proxies from the environment, but no ~/.netrc: it would overrule the signature.
    session.auth = _no_auth
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=POOL_SIZE, max_retries=0))
    return RequestsTransport(
        session=session,
        session_owner=True,
        connection_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
    )


def _no_auth(request: Any) -> Any:
    return request
