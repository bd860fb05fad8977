"""The sign-in authority, the metadata service, and the emulator as a process."""

import base64
import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import trio
import trio.testing

from tests.support.graph import Clock, Emulator
from tests.support.graph.process import GraphProcess
from tests.support.graph.signin import SignIn
from tests.support.graph_client import Client, Json


@pytest.fixture
def sign_in(emu: Emulator) -> SignIn:
    emu.knobs.static_token = False
    return emu.sign_in()


@pytest.fixture
def connection(sign_in: SignIn) -> Iterator[http.client.HTTPSConnection]:
    context = ssl.create_default_context(cafile=sign_in.ca_file)
    connection = http.client.HTTPSConnection(f"127.0.0.1:{sign_in.port}", context=context)
    yield connection
    connection.close()


def _post(connection: http.client.HTTPSConnection, path: str, **form: str) -> tuple[int, Json]:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", path, urlencode(form), kind)
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def _token(connection: http.client.HTTPSConnection, **form: str) -> tuple[int, Json]:
    return _post(connection, "/common/oauth2/v2.0/token", client_id="app", **form)


def test_nobody_else_trusts_it(sign_in: SignIn) -> None:
    connection = http.client.HTTPSConnection(f"127.0.0.1:{sign_in.port}")
    with pytest.raises(ssl.SSLCertVerificationError):
        connection.request("GET", "/")


def test_where_its_endpoints_are(sign_in: SignIn, connection: http.client.HTTPSConnection) -> None:
    connection.request("GET", "/common/v2.0/.well-known/openid-configuration")
    told = json.loads(connection.getresponse().read())
    assert told["token_endpoint"] == f"{sign_in.url}/common/oauth2/v2.0/token"
    assert set(told) >= {"issuer", "authorization_endpoint", "device_authorization_endpoint"}


def test_secret_gets_a_token_that_works_until_it_is_old(
    emu: Emulator, sign_in: SignIn, connection: http.client.HTTPSConnection
) -> None:
    sign_in.client_secret = "right"
    grant = "client_credentials"
    assert _token(connection, grant_type=grant, client_secret="wrong")[0] == 401
    status, told = _token(connection, grant_type=grant, client_secret="right", scope="s")
    assert (status, told["expires_in"]) == (200, 3600)
    client = Client(emu, token=told["access_token"])
    assert client.ask("GET", "").status == 200
    emu.clock.advance(3600)
    assert client.ask("GET", "").status == 401
    client.close()


def test_device_code_waits_for_the_person(
    emu: Emulator, sign_in: SignIn, connection: http.client.HTTPSConnection
) -> None:
    sign_in.pending_polls = -1
    _, told = _post(connection, "/common/oauth2/v2.0/devicecode", client_id="app")
    grant = "urn:ietf:params:oauth:grant-type:device_code"

    def poll() -> tuple[int, Json]:
        return _token(connection, grant_type=grant, device_code=told["device_code"])

    assert poll()[1]["error"] == "authorization_pending"
    sign_in.approve()
    status, tokens = poll()
    assert status == 200
    claims = json.loads(base64.urlsafe_b64decode(tokens["id_token"].split(".")[1] + "=="))
    assert claims["aud"] == "app"
    assert Client(emu, token=tokens["access_token"]).ask("GET", "").status == 200
    assert poll()[1]["error"] == "expired_token"
    refresh = tokens["refresh_token"]
    status, again = _token(connection, grant_type="refresh_token", refresh_token=refresh)
    assert status == 200
    assert again["access_token"] != tokens["access_token"]
    sign_in.fail_next("interaction_required")
    status, refused = _token(connection, grant_type="refresh_token", refresh_token=refresh)
    assert (status, refused["error"]) == (400, "interaction_required")
    sign_in.revoke_refresh_tokens()
    _, refused = _token(connection, grant_type="refresh_token", refresh_token=refresh)
    assert refused["error"] == "invalid_grant"


def test_person_says_no(sign_in: SignIn, connection: http.client.HTTPSConnection) -> None:
    _, told = _post(connection, "/common/oauth2/v2.0/devicecode", client_id="app")
    sign_in.deny()
    _, refused = _token(connection, grant_type="device_code", device_code=told["device_code"])
    assert refused["error"] == "authorization_declined"


def test_metadata_service_of_a_virtual_machine(emu: Emulator) -> None:
    emu.knobs.static_token = False
    connection = http.client.HTTPConnection(urlsplit(emu.imds()).netloc)
    target = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fr"
    connection.request("GET", target)
    refused = connection.getresponse()
    assert refused.status == 400
    refused.read()
    connection.request("GET", target, headers={"Metadata": "true"})
    told: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    assert told["resource"] == "https://r"
    assert Client(emu, token=told["access_token"]).ask("GET", "").status == 200


def test_process_keeps_its_state_between_clients() -> None:
    with GraphProcess("personal", "--sign-in", "--imds") as graph:
        assert graph.told["authority"].startswith("https://127.0.0.1:")
        graph.control("write", path="d/f", content=b"hello")
        graph.control("knobs", session_behaviour="replace")
        graph.control("fault", what="status", code=503, route="children", times=1)
        statuses = [_children(graph) for _ in range(2)]
        assert statuses == [503, 200]
        assert base64.b64decode(graph.control("read", path="d/f")) == b"hello"
        assert graph.control("count", route="children") == 2
        assert graph.control("finish") == []
        with pytest.raises(RuntimeError, match="FileNotFoundError"):
            graph.control("read", path="nothing")


def _children(graph: GraphProcess) -> int:
    """As a client that lives for one request."""
    where = urlsplit(graph.api_url)
    connection = http.client.HTTPConnection(where.netloc)
    target = f"{where.path}/drives/{graph.drive_id}/root/children"
    connection.request("GET", target, headers={"Authorization": "Bearer x"})
    status = connection.getresponse().status
    connection.close()
    return status


def test_clock_may_be_somebody_elses() -> None:
    now = 0.0
    with Emulator(clock=Clock(source=lambda: now)) as emu:
        emu.write("f", b"1")
        client = Client(emu)
        url = client.item("f")["@microsoft.graph.downloadUrl"]
        now = 3599.0
        assert client.send("GET", url).status == 200
        now = 3601.0
        assert client.send("GET", url).status == 401
        client.close()


async def test_clock_may_be_trios(mock_clock: trio.testing.MockClock) -> None:
    with Emulator(clock=Clock(source=mock_clock.current_time)) as emu:
        emu.write("f", b"1")
        client = Client(emu)
        item = await trio.to_thread.run_sync(client.item, "f")
        url = item["@microsoft.graph.downloadUrl"]
        assert (await trio.to_thread.run_sync(client.send, "GET", url)).status == 200
        mock_clock.jump(3600)
        assert (await trio.to_thread.run_sync(client.send, "GET", url)).status == 401
        client.close()


def test_outage_loses_nothing(emu: Emulator) -> None:
    emu.write("f", b"1")
    url = emu.api_url
    client = Client(emu)
    assert client.ask("GET", "/root").status == 200
    emu.stop()
    with pytest.raises(OSError):
        client.ask("GET", "/root")
    with pytest.raises(ConnectionRefusedError):
        client.ask("GET", "/root")
    emu.start()
    assert emu.api_url == url
    assert client.item("f")["size"] == 1
    client.close()


def test_special_folders_are_made_when_asked_for(emu: Emulator) -> None:
    client = Client(emu)
    assert client.get("/special/approot")["name"] == "csyncfs"
    assert client.get("/special/approot:/")["specialFolder"]["name"] == "approot"
    assert emu.tree() == {"Apps": None, "Apps/csyncfs": None}
    assert client.ask("GET", "/special/nothing").status == 404
    client.close()
