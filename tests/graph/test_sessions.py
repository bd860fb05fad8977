"""Upload sessions, in order and out of it."""

import contextlib
import http.client
import random
import threading
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.graph import Action, Emulator, Rule, What
from tests.support.graph_client import BEHAVIOUR, UNIT, Answer, Client, Json

ALL: Final = ("personal", "business", "sharepoint")
DATA: Final = random.Random(1).randbytes(2 * UNIT + 1000)
TOTAL: Final = len(DATA)


def _url(client: Client, path: str = "f", behaviour: str = "fail", **item: object) -> str:
    answer = client.session(path, behaviour, **item)
    assert answer.status == 200, answer
    return answer.json["uploadUrl"]


def _all(client: Client, url: str, data: bytes = DATA) -> Answer:
    """Every fragment in order; the last one's answer."""
    answer = None
    for start in range(0, len(data), UNIT):
        answer = client.fragment(url, data[start : start + UNIT], start, len(data))
    assert answer is not None
    return answer


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_new_file_in_fragments(emu: Emulator, client: Client) -> None:
    info: Json = {"lastModifiedDateTime": "2020-02-02T02:02:02Z"}
    url = _url(client, "d.bin", fileSystemInfo=info, name="d.bin")
    first = client.fragment(url, DATA[:UNIT], 0, TOTAL)
    assert (first.status, first.json["nextExpectedRanges"]) == (202, [f"{UNIT}-"])
    assert emu.tree() == {}
    client.fragment(url, DATA[UNIT : 2 * UNIT], UNIT, TOTAL)
    last = client.fragment(url, DATA[2 * UNIT :], 2 * UNIT, TOTAL)
    assert last.status == 201
    assert last.json["fileSystemInfo"]["lastModifiedDateTime"].startswith("2020-02-02T02:02:02")
    assert emu.tree() == {"d.bin": DATA}
    assert client.send("GET", url).status == 404
    assert emu.finish() == []


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_replacing_keeps_the_id_and_minds_the_tag_at_the_end(emu: Emulator, client: Client) -> None:
    item = emu.write("f", b"1")
    tag = client.item("f")["eTag"]
    path = f"/items/{item}/createUploadSession"
    url = client.ask("POST", path, {}, If_Match=tag).json["uploadUrl"]
    assert _all(client, url).status == 200
    assert client.item("f")["id"] == item
    tag = client.item("f")["eTag"]
    url = client.ask("POST", path, {}, If_Match=tag).json["uploadUrl"]
    emu.write("f", b"theirs")
    assert _all(client, url).status == 412
    assert emu.tree() == {"f": b"theirs"}


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_taken_name_is_told_early_on_business_and_late_on_personal(
    emu: Emulator, client: Client
) -> None:
    emu.write("f", b"1")
    answer = client.session("F", "fail")
    if not emu.drive.is_personal:
        assert answer.status == 409
        return
    url = answer.json["uploadUrl"]
    assert _all(client, url).status == 409
    assert emu.tree() == {"f": b"1"}
    body: Json = {"name": "g", BEHAVIOUR: "fail", "@microsoft.graph.sourceUrl": url}
    assert client.ask("PUT", "/root:/g", body).status == 201
    assert emu.tree() == {"f": b"1", "g": DATA}


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_somebody_takes_the_name_meanwhile(emu: Emulator, client: Client) -> None:
    for behaviour, status in (("fail", 409), ("replace", 200), ("rename", 201)):
        url = _url(client, "f", behaviour)
        emu.write("f", b"theirs")
        assert _all(client, url).status == status, behaviour
        client.send("DELETE", url)
        tree = emu.tree()
        assert tree["f"] == (DATA if behaviour == "replace" else b"theirs")
        assert tree.get("f 1") == (DATA if behaviour == "rename" else None)
        emu.delete("f")


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_second_session_for_a_name(emu: Emulator, client: Client) -> None:
    first = _url(client)
    second = client.session("F", "replace")
    assert second.status == (200 if emu.drive.is_personal else 409)
    assert client.send("DELETE", first).status == 204
    assert client.session("f").status == 200
    assert client.send("GET", first).status == 404


def test_fragments_that_do_not_fit(emu: Emulator, client: Client) -> None:
    url = _url(client)

    def put(data: bytes, span: str) -> tuple[int, str]:
        answer = client.send("PUT", url, data, {"Content-Range": span} if span else {})
        return answer.status, answer.inner

    assert put(DATA[:UNIT], "") == (400, "")
    assert put(DATA[:UNIT], "bytes 0-9/100") == (400, "")
    assert put(b"", "bytes 0-0/1") == (400, "")
    assert put(DATA[UNIT : 2 * UNIT], f"bytes {UNIT}-{2 * UNIT - 1}/{TOTAL}") == (
        *(416, "fragmentOutOfOrder"),
    )
    assert client.fragment(url, DATA[:UNIT], 0, TOTAL).status == 202
    assert client.fragment(url, DATA[:UNIT], 0, TOTAL).inner == "fragmentOverlap"
    assert client.fragment(url, DATA[UNIT:], UNIT, TOTAL + 1).status == 400
    again = client.fragment(url, DATA[UNIT : 2 * UNIT], UNIT, TOTAL + 1)
    assert (again.status, again.inner) == (400, "fragmentLengthMismatch")
    assert client.send("GET", url).json["nextExpectedRanges"] == [f"{UNIT}-"]


def test_odd_fragment_is_found_out_at_the_end(emu: Emulator, client: Client) -> None:
    url = _url(client)
    assert client.fragment(url, DATA[:1000], 0, TOTAL).status == 202
    last = client.fragment(url, DATA[1000:], 1000, TOTAL)
    assert (last.status, last.inner) == (400, "uploadSessionFailed")
    assert emu.tree() == {}
    assert [violation.kind for violation in emu.violations] == ["fragment"]


def test_two_fragments_at_a_time(emu: Emulator, client: Client) -> None:
    url = _url(client)
    emu.faults.add(Rule(Action(What.DELAY, seconds=0.3), route="fragment", nth=1))
    slow = threading.Thread(target=client.fragment, args=(url, DATA[:UNIT], 0, TOTAL))
    slow.start()
    other = Client(emu)
    while not emu.count(route="fragment"):
        pass
    answer = other.fragment(url, DATA[:UNIT], 0, TOTAL)
    slow.join()
    other.close()
    assert answer.status == 416
    assert "concurrency" in answer.json["error"]["message"]


@pytest.mark.parametrize("flavour", ["personal", "business"], indirect=True)
def test_deferred_commit(emu: Emulator, client: Client) -> None:
    body: Json = {"item": {BEHAVIOUR: "fail"}, "deferCommit": True}
    url = client.ask("POST", "/root:/f:/createUploadSession", body).json["uploadUrl"]
    last = _all(client, url)
    assert (last.status, last.json["nextExpectedRanges"]) == (202, [])
    assert emu.tree() == {}
    status = client.send("POST", url, b"").status
    assert status == (400 if emu.drive.is_personal else 201)


@pytest.mark.parametrize("flavour", ["personal", "business"], indirect=True)
def test_sessions_end(emu: Emulator, client: Client) -> None:
    url = _url(client)
    life = 7 * 86400 if emu.drive.is_personal else 900
    emu.clock.advance(600)
    client.fragment(url, DATA[:UNIT], 0, TOTAL)
    emu.knobs.session_tempauth_s = 700
    emu.clock.advance(100)
    refused = client.send("GET", url)
    assert refused.status == (401 if emu.drive.is_personal else 403)
    emu.knobs.session_tempauth_s = 1e9
    assert client.send("GET", url).status == 200
    emu.clock.advance(life)
    assert client.send("GET", url).status == 404


def test_names_of_url_and_body_agree(emu: Emulator, client: Client) -> None:
    assert client.session("f", name="g").status == 400
    assert client.session("f", **{"@odata.type": "x"}).status == 400
    assert client.session("nothing/f").status == 404
    folder = emu.mkdir("d")
    assert client.ask("POST", f"/items/{folder}/createUploadSession", {}).status == 400


@pytest.mark.parametrize("knob", ["empty_commit_reply", "session_in_commit_reply"])
def test_strange_replies_to_the_last_fragment(emu: Emulator, client: Client, knob: str) -> None:
    setattr(emu.knobs, knob, True)
    answer = _all(client, _url(client))
    assert answer.status == 201
    assert b'"id"' not in answer.body
    assert emu.tree() == {"f": DATA}


def test_session_that_is_left_is_told(emu: Emulator, client: Client) -> None:
    _url(client)
    assert [violation.kind for violation in emu.finish()] == ["session_left"]


@pytest.mark.parametrize("keeps", [False, True])
def test_cut_fragment_is_kept_in_part_or_not_at_all(
    emu: Emulator, client: Client, keeps: bool
) -> None:
    emu.knobs.keep_partial = keeps
    url = _url(client)
    emu.faults.add(Rule(Action(What.DROP_MID_REQUEST, count=1000), route="fragment", nth=1))
    with pytest.raises(OSError):
        client.fragment(url, DATA[:UNIT], 0, TOTAL)
    have = 1000 if keeps else 0
    assert client.send("GET", url).json["nextExpectedRanges"] == [f"{have}-"]
    rest = DATA[have : have + UNIT]
    assert client.fragment(url, rest, have, TOTAL).status == 202
    have += len(rest)
    assert client.fragment(url, DATA[have:], have, TOTAL).status == 201
    assert emu.tree() == {"f": DATA}


_FAULTS: Final = st.sampled_from(
    [
        Action(What.DROP_MID_REQUEST, count=1000),
        Action(What.DROP_MID_REQUEST, count=UNIT // 2),
        Action(What.DROP_AFTER_COMMIT),
        Action(What.RESET),
        Action.status(503, retry_after=0.0),
        Action.status(500, after=True),
        Action.status(416),
        Action(What.EMPTY_BODY),
        None,
        None,
    ]
)


def _stubborn(client: Client, url: str) -> bool:
    """Upload DATA whatever happens; False: the session is over without a word of success."""
    offset = 0
    for _ in range(40):
        stop = min(offset + UNIT, TOTAL)
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = client.fragment(url, DATA[offset:stop], offset, TOTAL)
            if answer.status in (200, 201):
                return True
        status = client.send("GET", url)
        if status.status == 404:
            return False
        offset = int(status.json["nextExpectedRanges"][0].partition("-")[0])
    raise AssertionError("it never ends")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(faults=st.lists(_FAULTS, max_size=8), keeps=st.booleans())
def test_drops_leave_identical_content_or_nothing(faults: list[Action | None], keeps: bool) -> None:
    with Emulator("business") as emu:
        client = Client(emu)
        emu.knobs.keep_partial = keeps
        url = _url(client)
        for nth, action in enumerate(faults, 1):
            if action is not None:
                emu.faults.add(Rule(action, route="fragment", nth=nth))
        is_done = _stubborn(client, url)
        assert emu.tree() == {"f": DATA}, "a session that is over was committed"
        assert is_done or emu.count(route="fragment") > 1
        emu.check()
        client.close()
