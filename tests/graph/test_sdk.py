"""Microsoft's own libraries, under trio, take the emulator for the service."""

import importlib
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
import trio

from tests.support.graph import Action, Emulator, Rule
from tests.support.graph_client import BEHAVIOUR, UNIT

pytest.importorskip("msgraph")
pytest.importorskip("azure.identity")

# The library warns of its own classes.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ALL: Final = ("personal", "business", "sharepoint")
_MODELS: Final = "msgraph.generated.models"


def _load(name: str) -> Any:
    """Untyped on purpose: the library may be absent."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


class _Credential:
    """A token without anybody asking for one."""

    async def get_token(self, *_: str, **__: Any) -> Any:
        return _load("azure.core.credentials.AccessToken")("test", 2**40)

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def sdk(emu: Emulator) -> Iterator[Any]:
    httpx: Any = importlib.import_module("httpx")
    http = httpx.AsyncClient(base_url=emu.api_url, http2=False, timeout=10)
    factory = _load("msgraph_core.GraphClientFactory")
    redirect = _load("kiota_http.middleware.RedirectHandler")
    decode = _load("kiota_http.middleware.ParametersNameDecodingHandler")
    factory.create_with_custom_middleware([redirect(), decode()], client=http)
    provider = _load(
        "kiota_authentication_azure.azure_identity_authentication_provider."
        "AzureIdentityAuthenticationProvider"
    )
    auth = provider(_Credential(), scopes=["https://graph.microsoft.com/.default"])
    adapter = _load("msgraph.GraphRequestAdapter")(auth, client=http)
    adapter.base_url = emu.api_url
    return _load("msgraph.GraphServiceClient")(request_adapter=adapter)


@pytest.mark.parametrize("flavour", ALL, indirect=True)
async def test_library_end_to_end(emu: Emulator, sdk: Any) -> None:
    emu.write("d/a b#c.txt", b"hello")
    drive = sdk.drives.by_drive_id(emu.drive_id)
    root = await drive.root.get()
    below = await drive.items.by_drive_item_id(root.id).children.get()
    assert [item.name for item in below.value] == ["d"]
    by_path = await drive.items.by_drive_item_id("root:/d/a b#c.txt:").get()
    assert (by_path.name, by_path.size) == ("a b#c.txt", 5)
    item = drive.items.by_drive_item_id(by_path.id)
    assert await item.content.get() == b"hello"
    put = await item.content.put(b"changed")
    assert put.size == 7
    model = _load(f"{_MODELS}.drive_item.DriveItem")
    assert (await item.patch(model(name="renamed"))).name == "renamed"
    folder = model(name="made", folder=_load(f"{_MODELS}.folder.Folder")())
    folder.additional_data = {BEHAVIOUR: "fail"}
    made = await drive.items.by_drive_item_id(root.id).children.post(folder)
    assert made.folder.child_count == 0
    await item.delete()
    assert emu.tree() == {"d": None, "made": None}
    assert (await sdk.drives.by_drive_id(emu.drive_id).get()).drive_type.lower() == (
        emu.drive.flavour.drive_type.lower()
    )


@pytest.mark.parametrize("flavour", ALL, indirect=True)
async def test_library_follows_the_feed(emu: Emulator, sdk: Any) -> None:
    for number in range(5):
        emu.write(f"f{number}", b"1")
    root = sdk.drives.by_drive_id(emu.drive_id).items.by_drive_item_id(emu.drive.root.id)
    page = await root.delta.get()
    while page.odata_next_link:
        page = await root.delta.with_url(page.odata_next_link).get()
    link = page.odata_delta_link
    emu.delete("f0")
    changes = await root.delta.with_url(link).get()
    assert [item.deleted.state for item in changes.value if item.deleted] == ["deleted"]
    emu.expire_delta()
    error = _load(f"{_MODELS}.o_data_errors.o_data_error.ODataError")
    with pytest.raises(error) as caught:
        await root.delta.with_url(link).get()
    assert caught.value.response_status_code == 410
    assert caught.value.error.code == "resyncRequired"


async def test_library_opens_a_session(emu: Emulator, sdk: Any) -> None:
    body = _load(
        "msgraph.generated.drives.item.items.item.create_upload_session."
        "create_upload_session_post_request_body.CreateUploadSessionPostRequestBody"
    )()
    uploadable = _load(f"{_MODELS}.drive_item_uploadable_properties.DriveItemUploadableProperties")
    body.item = uploadable(additional_data={BEHAVIOUR: "fail"})
    body.item.odata_type = None
    place = sdk.drives.by_drive_id(emu.drive_id).items.by_drive_item_id("root:/large:")
    session = await place.create_upload_session.post(body)
    data = bytes(2 * UNIT)
    httpx: Any = importlib.import_module("httpx")
    async with httpx.AsyncClient() as plain:
        for start in (0, UNIT):
            span = f"bytes {start}-{start + UNIT - 1}/{len(data)}"
            answer = await plain.put(
                session.upload_url, content=data[:UNIT], headers={"Content-Range": span}
            )
    assert answer.status_code == 201
    assert emu.tree() == {"large": data}
    assert emu.finish() == []


async def test_library_understands_refusals(emu: Emulator, sdk: Any) -> None:
    error = _load(f"{_MODELS}.o_data_errors.o_data_error.ODataError")
    items = sdk.drives.by_drive_id(emu.drive_id).items
    with pytest.raises(error) as caught:
        await items.by_drive_item_id("nothing").get()
    assert (caught.value.response_status_code, caught.value.error.code) == (404, "itemNotFound")
    emu.faults.add(Rule(Action.status(429, retry_after=7), times=1))
    with pytest.raises(error) as caught:
        await items.by_drive_item_id(emu.drive.root.id).get()
    assert caught.value.response_headers["retry-after"] == "7"


async def test_credentials_sign_in(emu: Emulator) -> None:
    emu.knobs.static_token = False
    sign_in = emu.sign_in()
    secret = _load("azure.identity.ClientSecretCredential")
    known = {
        "authority": sign_in.url,
        "disable_instance_discovery": True,
        "connection_verify": sign_in.ca_file,
    }
    credential = secret("tenant", "app", "secret", **known)
    scope = "https://graph.microsoft.com/.default"
    token = await trio.to_thread.run_sync(credential.get_token, scope)
    emu.world.tokens.check(f"Bearer {token.token}", writes=True)
    prompts: list[str] = []

    def prompt(_: str, code: str, __: object) -> None:
        prompts.append(code)

    device = _load("azure.identity.DeviceCodeCredential")(
        "app", tenant_id="common", prompt_callback=prompt, **known
    )
    token = await trio.to_thread.run_sync(device.get_token, scope)
    emu.world.tokens.check(f"Bearer {token.token}", writes=True)
    assert prompts == ["ABCD-EFGH"]
    assert json.dumps(sign_in.requests).count("device_code") >= 2


async def test_managed_identity(emu: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    emu.knobs.static_token = False
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", emu.imds())
    credential = _load("azure.identity.ManagedIdentityCredential")()
    scope = "https://graph.microsoft.com/.default"
    token = await trio.to_thread.run_sync(credential.get_token, scope)
    emu.world.tokens.check(f"Bearer {token.token}", writes=True)
