"""What a user reads when the store cannot be reached; what lets him in; what is never told."""

import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.storage.blob import ContainerSasPermissions, generate_container_sas

from csyncfs.backends.azureblob import AzureBackend, credentials
from csyncfs.errors import AccessDenied, CsyncError, NoSuchStore, Offline
from csyncfs.types import Kind, Location
from tests.support.azurite import ACCOUNT, KEY, WRONG_KEY, Azurite, connected, options_for
from tests.support.proxy import Fault, Proxy, What
from tests.support.servers import free_ports
from tests.support.uploads import Content, put


async def _failure(backend: AzureBackend, *secrets: str) -> CsyncError:
    with pytest.raises(CsyncError) as caught:
        await backend.connect()
    message = str(caught.value)
    assert "\n" not in message
    for secret in (KEY, WRONG_KEY, "sig=", *secrets):
        assert secret not in message
    return caught.value


def _sas(container: str, *, lasting_s: float = 600) -> str:
    """A token that permits all a mount needs on one container, and nothing else."""
    return generate_container_sas(
        ACCOUNT,
        container,
        account_key=KEY,
        permission=ContainerSasPermissions(
            read=True, write=True, delete=True, list=True, create=True, add=True
        ),
        expiry=datetime.now(UTC) + timedelta(seconds=lasting_s),
    )


async def test_a_container_that_does_not_exist(azure: Azurite) -> None:
    error = await _failure(AzureBackend(options_for(azure, "no-such-container")))

    assert type(error) is NoSuchStore
    assert "container does not exist" in str(error)


async def test_a_wrong_key(azure: Azurite, container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", WRONG_KEY)

    error = await _failure(AzureBackend(options_for(azure, container)))

    assert type(error) is AccessDenied
    assert "key or token is wrong" in str(error)


async def test_a_key_that_is_none(
    azure: Azurite, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", "not*base64")

    error = await _failure(AzureBackend(options_for(azure, container)), "not*base64")

    assert type(error) is AccessDenied


async def test_no_credentials_at_all(
    azure: Azurite, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY")

    error = await _failure(AzureBackend(options_for(azure, container)))

    assert type(error) is AccessDenied
    assert "AZURE_STORAGE_KEY" in str(error)


async def test_nobody_listens(azure: Azurite) -> None:
    nowhere = azure.url(free_ports(1)[0])

    error = await _failure(AzureBackend(options_for(azure, "any", endpoint=nowhere)))

    assert type(error) is Offline


async def test_a_server_that_answers_nonsense(azure: Azurite, container: str) -> None:
    with Proxy(azure.port) as proxy:
        proxy.set_fault(Fault(What.ANSWER, times=9, status=404, body=b"<html>no</html>"))
        options = options_for(azure, container, endpoint=azure.url(proxy.port))
        error = await _failure(AzureBackend(options))

    assert type(error) is NoSuchStore


async def test_a_sas_token_lets_in_and_is_never_told(
    azure: Azurite,
    container: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = _sas(container)
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"?{token}")
    caplog.set_level(logging.DEBUG)
    with Proxy(azure.port) as proxy:
        options = options_for(azure, container, endpoint=azure.url(proxy.port))
        async with connected(options) as backend:
            item = await put(backend, "file", Content(tmp_path / "c", b"x"))
            proxy.set_fault(Fault(What.REFUSE, times=2))
            with pytest.raises(Offline) as caught:
                await backend.head(Location("file"), Kind.FILE)

    assert item.version is not None
    told = [record.getMessage() for record in caplog.records] + [str(caught.value)]
    assert [line for line in told if "sig=" in line or KEY in line] == []


async def test_a_sas_token_that_has_expired(
    azure: Azurite, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = _sas(container, lasting_s=-600)
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", token)

    error = await _failure(AzureBackend(options_for(azure, container)), token)

    assert type(error) is AccessDenied


async def test_a_connection_string_names_the_endpoint_too(
    azure: Azurite, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        f"BlobEndpoint={azure.url()};",
    )

    async with connected(options_for(azure, container, endpoint=None)) as backend:
        assert (await backend.list_page(Location(""), None)).items == ()


async def test_a_file_has_them_too_and_comes_first(
    azure: Azurite, container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", WRONG_KEY)
    file = tmp_path / "keys"
    file.touch(0o600)
    file.write_text(f"# mine\nAZURE_STORAGE_KEY = {KEY}\n")

    async with connected(options_for(azure, container, credentials_file=str(file))) as backend:
        assert (await backend.list_page(Location(""), None)).items == ()


@pytest.mark.parametrize(
    ("text", "mode", "word"),
    [
        (f"AZURE_STORAGE_KEY={KEY}\n", 0o644, "chmod 600"),
        ("AZURE_STORAGE_KIE=abc\n", 0o600, "none of"),
        ("just a few words\n", 0o600, "NAME=VALUE"),
    ],
)
def test_a_file_that_is_of_no_use(tmp_path: Path, text: str, mode: int, word: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(AccessDenied, match=word) as caught:
        credentials.find(ACCOUNT, str(file), {})
    assert KEY not in str(caught.value)


def test_credentials_do_not_show_themselves() -> None:
    found = credentials.find(ACCOUNT, None, {"AZURE_STORAGE_KEY": KEY})
    assert found.key == KEY
    assert KEY not in repr(found)


def test_a_connection_string_of_another_account_is_refused() -> None:
    words = {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=other;AccountKey={KEY}"}
    with pytest.raises(AccessDenied, match="of account other, not of") as caught:
        credentials.find(ACCOUNT, None, words)
    assert KEY not in str(caught.value)


def test_a_sovereign_cloud_has_its_suffix_in_the_connection_string() -> None:
    words = {
        "AZURE_STORAGE_CONNECTION_STRING": f"AccountName={ACCOUNT};AccountKey={KEY};"
        "EndpointSuffix=core.chinacloudapi.cn"
    }
    found = credentials.find(ACCOUNT, None, words)
    assert found.endpoint == f"https://{ACCOUNT}.blob.core.chinacloudapi.cn"


def test_without_key_or_token_the_azure_tools_are_asked() -> None:
    """Managed identity, ``az login``; only then is azure.identity imported."""
    script = """
import sys
from csyncfs.backends.azureblob import AzureOptions, client
from csyncfs.backends.azureblob.credentials import Credentials
options = AzureOptions("account", "container")
client.build(options, Credentials(key="a2V5")).close()
assert "azure.identity" not in sys.modules
made = client.build(options, Credentials())
print(type(made.token).__name__, made.container.url)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [
        "DefaultAzureCredential",
        "https://account.blob.core.windows.net/container",
    ]


def test_nothing_of_azure_is_imported_before_it_is_needed() -> None:
    script = """
import sys
import csyncfs, csyncfs.cli, csyncfs.mount, csyncfs.transfer.factory
import csyncfs.backends.s3.client, csyncfs.backends.s3.translation
import csyncfs.backends.azureblob
print([name for name in sys.modules if name.split(".")[0] in ("azure", "msal", "requests")])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
