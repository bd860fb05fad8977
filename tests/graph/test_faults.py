"""Faults do what they say, and what clients should not do is noticed."""

import contextlib
import http.client
import time

import pytest

from tests.support.graph import PRESETS, Action, Clock, Emulator, Rule, What
from tests.support.graph_client import BEHAVIOUR, UNIT, Answer, Client, Json


def _try(client: Client, method: str, path: str, body: Json | None = None) -> Answer | None:
    """None: the connection ended."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return client.ask(method, path, body)
    return None


def _kinds(emu: Emulator) -> list[str]:
    return [violation.kind for violation in emu.violations]


def test_status_before_and_after(emu: Emulator, client: Client) -> None:
    emu.faults.add(Rule(Action.status(503, retry_after=0), route="children", times=1))
    assert client.mkdir("root", "a").status == 503
    assert emu.tree() == {}
    emu.faults.clear()
    emu.faults.add(Rule(Action.status(500, after=True), route="children", times=1))
    assert client.mkdir("root", "a").status == 500
    assert emu.tree() == {"a": None}
    assert [e.fault for e in emu.journal] == ["status", "status_after"]


@pytest.mark.parametrize(
    ("what", "is_done"),
    [
        (What.DROP_BEFORE_HEADERS, False),
        (What.RESET, False),
        (What.DROP_AFTER_COMMIT, True),
    ],
)
def test_connections_end(emu: Emulator, client: Client, what: What, is_done: bool) -> None:
    emu.faults.add(Rule(Action(what), method="POST", times=1))
    body: Json = {"name": "a", "folder": {}, BEHAVIOUR: "fail"}
    assert _try(client, "POST", "/root/children", body) is None
    assert emu.tree() == ({"a": None} if is_done else {})
    assert emu.journal[-1].status == 0
    assert _try(client, "GET", "/root/children") is not None


def test_replies_are_spoiled(emu: Emulator, client: Client) -> None:
    emu.write("f", bytes(1000))
    url = client.item("f")["@microsoft.graph.downloadUrl"]

    def download(action: Action) -> bytes | None:
        emu.faults.clear()
        emu.faults.add(Rule(action, route="download"))
        try:
            return client.send("GET", url).body
        except http.client.IncompleteRead:
            return None

    assert download(Action(What.DROP_MID_BODY, count=300)) is None
    assert download(Action(What.TRUNCATE_BODY, count=10)) == bytes(990)
    assert download(Action(What.CORRUPT, count=3)) == bytes(3) + b"\x01" + bytes(996)
    assert download(Action(What.EMPTY_BODY)) == b""
    began = time.monotonic()
    assert download(Action(What.SLOW, count=5000)) == bytes(1000)
    assert time.monotonic() - began > 0.15
    emu.faults.clear()
    emu.faults.add(Rule(Action(What.BAD_JSON), nth=1), Rule(Action(What.REDIRECT), nth=2))
    with pytest.raises(ValueError):
        client.get("/root")
    redirect = client.ask("GET", "/root")
    assert (redirect.status, redirect.headers.get("location")) == (308, None)


def test_old_states_are_shown(emu: Emulator, client: Client) -> None:
    emu.write("f", b"1")
    emu.write("f", b"22")
    emu.faults.add(Rule(Action(What.STALE, count=1), nth=1))
    assert client.item("f")["size"] == 1
    assert client.item("f")["size"] == 2


def test_rules_choose(emu: Emulator, client: Client) -> None:
    emu.faults.add(Rule(Action.status(500), method="GET", path_re="/items/", every=2, times=2))
    statuses = [client.ask("GET", "/items/root").status for _ in range(6)]
    assert statuses == [200, 500, 200, 500, 200, 200]
    assert client.ask("GET", "/root").status == 200


def test_pause_is_enforced_and_grows(emu: Emulator, client: Client) -> None:
    emu.faults.add(Rule(Action.status(429, retry_after=10, enforce=True), nth=1))
    assert client.ask("GET", "/root").headers["retry-after"] == "10"
    emu.clock.advance(9)
    assert client.ask("GET", "/root").status == 429
    emu.clock.advance(9)
    time.sleep(0.3)  # what is sent at once may have been on its way
    assert client.ask("GET", "/root").status == 429
    emu.clock.advance(10)
    assert client.ask("GET", "/root").status == 200
    assert _kinds(emu) == ["impatient"]


def test_units_of_a_minute(emu: Emulator, client: Client) -> None:
    emu.knobs.units_per_minute = 10
    for _ in range(4):
        assert client.ask("GET", "/root/children").status == 200
    told = client.ask("GET", "/root").headers
    assert (told["ratelimit-limit"], told["ratelimit-remaining"]) == ("10", "1")
    assert client.ask("GET", "/root/children").status == 429
    emu.clock.advance(61)
    assert client.ask("GET", "/root/children").status == 200


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_patient_client_gets_through_every_preset(name: str) -> None:
    flavour = "personal" if name in ("old_personal_ids", "media_postproc") else "sharepoint"
    with Emulator(flavour, clock=Clock(frozen=True)) as emu:
        emu.write("here", b"1")
        emu.preset(name)
        client = Client(emu)
        names: list[str] = []
        for _ in range(60):
            answer = _try(client, "GET", "/root/children")
            if answer is not None and answer.status == 200:
                names = [value["name"] for value in answer.json["value"]]
            if "here" in names:
                break
            emu.clock.advance(5)
        assert "here" in names
        emu.check()
        client.close()


def test_presets_bite() -> None:
    with Emulator("sharepoint", clock=Clock(frozen=True)) as emu:
        client = Client(emu)
        emu.write("f", b"1")
        emu.preset("locked")
        emu.preset("case_clash")
        assert client.ask("DELETE", "/root:/f").status == 423
        assert client.mkdir("root", "STRAßE").status == 409
        assert client.mkdir("root", "daten").status == 409
        emu.preset("full_quota")
        assert client.upload("g", b"1").status == 507
        emu.preset("throttle_storm")
        statuses = {client.ask("GET", "/root").status for _ in range(10)}
        assert statuses == {200, 429}
        client.close()


# ---- conduct ------------------------------------------------------------------------------


def test_good_conduct_is_no_violation(emu: Emulator, client: Client) -> None:
    made = client.mkdir("root", "d").json
    item = client.upload("d/f", b"1", "fail").json
    emu.unwatch("path")
    put = client.ask("PUT", f"/items/{item['id']}/content", b"2", If_Match=item["eTag"]).json
    name: Json = {"name": "g"}
    patched = client.ask("PATCH", f"/items/{item['id']}", name, If_Match=put["eTag"]).json
    _, link = client.listed("/root/delta?$top=1")
    client.listed(link)
    client.ask("DELETE", f"/items/{item['id']}", If_Match=patched["eTag"])
    client.ask("DELETE", f"/items/{made['id']}", If_Match=made["eTag"])
    assert emu.finish() == []


@pytest.mark.parametrize(
    ("kind", "method", "path", "body"),
    [
        ("unconditional", "DELETE", "/root:/f", None),
        ("unconditional", "PATCH", "/root:/f", {"name": "g"}),
        ("unconditional", "PUT", f"/root:/f:/content?{BEHAVIOUR}=replace", {}),
        ("no_behaviour", "PUT", "/root:/g:/content", {}),
        ("no_behaviour", "POST", "/root:/g:/createUploadSession", {}),
        ("name", "POST", "/root/children", {"name": "a:b", "folder": {}, BEHAVIOUR: "fail"}),
        ("link", "GET", "/root/delta?token=made-up", None),
        ("link", "GET", "/root/children?$skiptoken=made-up", None),
        ("token_in_url", "GET", "/root?access_token=secret", None),
    ],
)
def test_misconduct_is_noticed(
    emu: Emulator, client: Client, kind: str, method: str, path: str, body: Json | None
) -> None:
    emu.write("f", b"1")
    client.ask(method, path, body)
    assert _kinds(emu) == [kind]


def test_links_are_to_be_used_as_they_are(emu: Emulator, client: Client) -> None:
    for name in "abc":
        emu.write(name, b"1")
    link = client.get("/root/children?$top=2")["@odata.nextLink"]
    client.get(link)
    assert _kinds(emu) == []
    client.get(link + "&$select=id")
    assert _kinds(emu) == ["link"]


def test_blind_retry_is_noticed(emu: Emulator, client: Client) -> None:
    body: Json = {"name": "a", "folder": {}, BEHAVIOUR: "fail"}
    rule = Rule(Action(What.DROP_AFTER_COMMIT), method="POST", times=2)
    emu.faults.add(rule)
    _try(client, "POST", "/root/children", body)
    client.get("/root/children")
    _try(client, "POST", "/root/children", body)
    assert _kinds(emu) == []
    client.ask("POST", "/root/children", body)
    assert _kinds(emu) == ["blind_retry"]


def test_restarted_download_is_noticed(emu: Emulator, client: Client) -> None:
    emu.write("f", bytes(4 * UNIT))
    url = client.item("f")["@microsoft.graph.downloadUrl"]
    emu.faults.add(Rule(Action(What.DROP_MID_BODY, count=UNIT), route="download", times=2))
    for headers in ({}, {"Range": f"bytes={UNIT}-"}, {}):
        with contextlib.suppress(http.client.IncompleteRead):
            client.send("GET", url, headers=headers)
    assert _kinds(emu) == ["restarted"]


def test_known_ids_are_better_than_paths_if_that_is_asked_for(
    emu: Emulator, client: Client
) -> None:
    emu.watch("path")
    emu.write("f", b"1")
    client.item("f")
    assert _kinds(emu) == []
    client.item("f")
    assert _kinds(emu) == ["path"]


def test_batches_are_looked_into(emu: Emulator, client: Client) -> None:
    emu.write("f", b"1")
    step: Json = {"id": "1", "method": "DELETE", "url": f"{client.drive}/root:/f"}
    client.ask("POST", f"{emu.api_url}/$batch", {"requests": [step]})
    assert _kinds(emu) == ["unconditional"]
    emu.violations.clear()
    many: list[Json] = [{"id": str(n), "method": "GET", "url": "/me"} for n in range(21)]
    client.ask("POST", f"{emu.api_url}/$batch", {"requests": many})
    assert _kinds(emu) == ["batch"]
