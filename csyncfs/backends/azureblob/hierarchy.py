"""Renames in accounts with a hierarchical namespace (Data Lake Storage), where they are atomic.

By the REST API of the ``dfs`` endpoint, Path Create with ``x-ms-rename-source``, through the
SDK's pipeline: the SDK for blobs has no renames. Written against the documentation and tested by
the requests it makes; Azurite has no such endpoint, so this has not been run against a server.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from azure.core.exceptions import HttpResponseError, map_error
from azure.core.rest import HttpRequest

from csyncfs.backends.azureblob.wire import Wire
from csyncfs.types import Expect, RemoteVersion

API_VERSION: Final = "2023-11-03"


def rename(
    wire: Wire,
    source: str,
    target: str,
    expect_source: RemoteVersion | None,
    expect_target: Expect,
) -> None:
    """In a thread: the blob or directory ``source`` is ``target``. Raises the SDK's errors."""
    request = rename_request(wire, source, target, expect_source, expect_target)
    pipeline: Any = wire.clients.service._pipeline  # pyright: ignore
    response = pipeline.run(request, stream=False).http_response
    if response.status_code != 201:
        map_error(response.status_code, response, {})
        raise HttpResponseError(response=response)


def rename_request(
    wire: Wire,
    source: str,
    target: str,
    expect_source: RemoteVersion | None,
    expect_target: Expect,
) -> HttpRequest:
    """As the pipeline is given it: not signed yet."""
    container = wire.options.container
    blob = urlsplit(wire.clients.service.url)
    sas = f"?{blob.query}" if blob.query else ""
    headers: dict[str, str] = {
        "x-ms-version": API_VERSION,
        # A path is percent-encoded; with a SAS token the source carries it as well.
        "x-ms-rename-source": f"/{quote(f'{container}/{source}')}{sas}",
        "Content-Length": "0",
        **_conditions(expect_source, expect_target),
    }
    place = f"{blob.scheme}://{_dfs_host(blob.netloc)}{blob.path.rstrip('/')}"
    # Without "legacy" a rename onto a directory replaces an empty one, never moves into it.
    url = f"{place}/{quote(f'{container}/{target}')}"
    query = f"{sas}&mode=posix" if sas else "?mode=posix"
    return HttpRequest("PUT", url + query, headers=headers)


def _conditions(expect_source: RemoteVersion | None, expect_target: Expect) -> Mapping[str, str]:
    conditions: dict[str, str] = {}
    if isinstance(expect_target, RemoteVersion):
        conditions["If-Match"] = f'"{expect_target.tag}"'
    else:
        conditions["If-None-Match"] = "*"
    if expect_source is not None:
        conditions["x-ms-source-if-match"] = f'"{expect_source.tag}"'
    return conditions


def _dfs_host(host: str) -> str:
    """The other endpoint of an account: ``a.blob.core.windows.net`` is ``a.dfs...``."""
    return host.replace(".blob.", ".dfs.", 1)
