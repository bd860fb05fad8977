"""Microsoft's SDK, as far as it is used, made in a worker thread: imports take half a second.

Its request builders, adapter and sign-in, natively on trio. Not its retries (they want asyncio),
not its models (6 ms for each item), not HTTP/2 (a fifth of the throughput). Replies come as they
are; what they mean is decided in ``translation``. Content goes through a second client, which knows
no token: its addresses let anybody in, and servers refuse a token there.
"""

import json
from dataclasses import dataclass
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import httpx
from kiota_abstractions.base_request_builder import BaseRequestBuilder
from kiota_abstractions.method import Method
from kiota_abstractions.native_response_handler import NativeResponseHandler
from kiota_abstractions.request_information import RequestInformation
from kiota_authentication_azure.azure_identity_authentication_provider import (
    AzureIdentityAuthenticationProvider,
)
from kiota_http.middleware import (
    ParametersNameDecodingHandler,
    RedirectHandler,
    UrlReplaceHandler,
)
from kiota_http.middleware.options import (
    RedirectHandlerOption,
    ResponseHandlerOption,
    UrlReplaceHandlerOption,
)
from msgraph.graph_request_adapter import GraphRequestAdapter
from msgraph.graph_service_client import GraphServiceClient
from msgraph_core import GraphClientFactory  # pyright: ignore[reportMissingTypeStubs]

from csyncfs import __version__
from csyncfs.backends.onedrive import signin
from csyncfs.backends.onedrive.credential import ThreadCredential
from csyncfs.backends.onedrive.options import OneDriveOptions
from csyncfs.backends.onedrive.translation import Json

Verb = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

BEHAVIOUR: Final = "@microsoft.graph.conflictBehavior"
_AGENT: Final = f"NONISV|csyncfs|csyncfs/{__version__}"
_ME: Final = "/users/me-token-to-replace"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the API: what its builder addresses, and what is said to it."""

    verb: Verb
    builder: BaseRequestBuilder | str
    """Or a whole link that Graph gave."""
    body: Json | bytes | None = None
    if_match: str | None = None
    query: dict[str, str] | None = None
    behaviour: str | None = None
    """In the query, where the SDK's templates have no place for it."""


class Client:
    """Both ways to Graph."""

    def __init__(self, options: OneDriveOptions, credential: ThreadCredential) -> None:
        signin.quieten()
        self.credential: Final = credential
        timeout = httpx.Timeout(options.read_timeout_s, connect=options.connect_timeout_s)
        limits = httpx.Limits(max_connections=24, max_keepalive_connections=16)
        headers = {"User-Agent": _AGENT}
        self._api = httpx.AsyncClient(
            base_url=options.api_url, http2=False, timeout=timeout, limits=limits, headers=headers
        )
        self.content: Final = httpx.AsyncClient(
            http2=False, timeout=timeout, limits=limits, headers=headers, trust_env=True
        )
        self._adapter: Any = _adapter(self._api, credential, options.api_url)
        self.graph: Final = GraphServiceClient(request_adapter=self._adapter)

    async def send(self, ask: Ask) -> httpx.Response:
        """The reply, whatever it says. Raises what httpx raises, and SignedOut."""
        information = _information(ask)
        handler = ResponseHandlerOption(NativeResponseHandler())
        information.add_request_options([handler])
        reply = await self._adapter.send_primitive_async(information, "bytes", {})
        return cast("httpx.Response", reply)

    async def aclose(self) -> None:
        await self._api.aclose()
        await self.content.aclose()


def _adapter(http: httpx.AsyncClient, credential: ThreadCredential, url: str) -> Any:
    middleware: Any = [
        RedirectHandler(RedirectHandlerOption(should_redirect=False)),
        ParametersNameDecodingHandler(),
        UrlReplaceHandler(UrlReplaceHandlerOption(enabled=True, replacement_pairs={_ME: "/me"})),
    ]
    GraphClientFactory.create_with_custom_middleware(middleware, client=http)
    host = (urlsplit(url).hostname or "").lower()
    # Without a list of hosts the token would go wherever a link leads.
    provider = AzureIdentityAuthenticationProvider(
        cast("Any", credential), scopes=list(credential.scopes), allowed_hosts=[host]
    )
    adapter = GraphRequestAdapter(provider, client=http)
    adapter.base_url = url
    return adapter


def _information(ask: Ask) -> RequestInformation:
    method = Method[ask.verb]
    if isinstance(ask.builder, str):
        information = RequestInformation()
        information.url = ask.builder
        information.http_method = method
    else:
        parts: Any = ask.builder
        template: str = parts.url_template
        if ask.behaviour is not None:
            template = f"{template.partition('{?')[0]}?{BEHAVIOUR}={ask.behaviour}"
        information = RequestInformation(method, template, dict(parts.path_parameters))
        for name, value in (ask.query or {}).items():
            information.query_parameters[f"%24{name}"] = value
    information.headers.try_add("Accept", "application/json")
    if ask.if_match is not None:
        information.headers.try_add("If-Match", ask.if_match)
    if isinstance(ask.body, bytes):
        information.set_stream_content(ask.body, "application/octet-stream")
    elif ask.body is not None:
        information.set_stream_content(json.dumps(ask.body).encode(), "application/json")
    return information
