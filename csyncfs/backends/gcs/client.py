"""The SDK's client, made in a worker thread: imports take most of a second.

Its retries are off: a conditional write repeated behind our back after a lost reply meets its own
result and reports a conflict. So is all logging of requests, whose URLs may carry an upload
session. What it asks is asked through its JSON connection, content through its HTTP session:
nothing above these keeps to a precondition, a range and a session that outlives the process.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage  # pyright: ignore
from requests.adapters import HTTPAdapter

from csyncfs.backends.gcs import credentials
from csyncfs.backends.gcs.options import GcsOptions
from csyncfs.backends.gcs.translation import Refused

POOL_SIZE: Final = 24
_LOUD: Final = ("google", "google.auth", "google.cloud.storage", "urllib3")


@dataclass(frozen=True, slots=True)
class Client:
    """May be shared by threads."""

    session: Any
    connection: Any
    endpoint: str
    bucket: str
    timeout: tuple[float, float]

    def ask(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """One JSON request below the bucket. Raises the SDK's errors."""
        reply: Any = self.connection.api_request(
            method=method,
            path=f"/b/{_quoted(self.bucket)}{path}",
            query_params=query,
            data=body,
            timeout=self.timeout if timeout_s is None else (self.timeout[0], timeout_s),
            retry=None,
        )
        return reply if isinstance(reply, dict) else {}  # pyright: ignore[reportUnknownVariableType]

    def send(self, method: str, url: str, **arguments: Any) -> Any:
        """One request with content, and its reply as ``requests`` has it. Raises Refused."""
        reply = self.session.request(
            method, url, timeout=self.timeout, allow_redirects=False, **arguments
        )
        # 308 is how an upload session asks for more.
        if not 200 <= reply.status_code < 300 and reply.status_code != 308:
            with reply:
                raise Refused.read(reply)
        return reply

    def url(self, kind: str, path: str) -> str:
        """``kind``: upload or download."""
        return f"{self.endpoint}/{kind}/storage/v1/b/{_quoted(self.bucket)}{path}"

    def close(self) -> None:
        self.session.close()


def object_path(name: str) -> str:
    return f"/o/{_quoted(name)}"


def _quoted(name: str) -> str:
    return quote(name, safe="~")


def build(options: GcsOptions) -> Client:
    """Raises ValueError for an endpoint the SDK cannot use, and AccessDenied."""
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    found: Any = credentials.find(options)
    session: Any = AuthorizedSession(found)  # pyright: ignore[reportNoUntypedCall]
    # Proxies from the environment, but no ~/.netrc: it would overrule the token.
    session.auth = _no_auth
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=POOL_SIZE, max_retries=0))
    chosen = {} if options.endpoint is None else {"api_endpoint": options.endpoint.rstrip("/")}
    make: Any = storage.Client  # pyright: ignore
    # A project is needed to make buckets only; None stops the search for one.
    client: Any = make(project=None, credentials=found, _http=session, client_options=chosen)
    connection = client._connection
    return Client(
        session,
        connection,
        str(connection.API_BASE_URL).rstrip("/"),
        options.bucket,
        (options.connect_timeout_s, options.read_timeout_s),
    )


def _no_auth(request: Any) -> Any:
    return request
