"""Small uploads, download URLs and ranges, versions, copies, batches, and what time ends."""

from typing import Final
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.graph import Emulator
from tests.support.graph.blobs import quick_xor
from tests.support.graph.messages import byte_range
from tests.support.graph_client import Answer, Client, Json

ALL: Final = ("personal", "business", "sharepoint")
URL: Final = "@microsoft.graph.downloadUrl"


def _location(client: Client, item: str) -> str:
    answer = client.ask("GET", f"/items/{item}/content")
    assert answer.status == 302
    return answer.headers["location"]


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_content_is_elsewhere_and_wants_no_token(emu: Emulator, client: Client) -> None:
    item = emu.write("f", b"0123456789")
    url = _location(client, item)
    assert urlsplit(url).netloc != urlsplit(emu.api_url).netloc
    assert client.send("GET", url).body == b"0123456789"
    refused = client.send("GET", url, headers={"Authorization": "Bearer test"})
    assert (refused.status, refused.code) == (401, "unauthenticated")
    assert [violation.kind for violation in emu.violations] == ["authorization"]


@given(
    content=st.binary(max_size=40),
    header=st.one_of(
        st.tuples(st.integers(0, 45), st.integers(0, 45)).map(lambda t: f"bytes={t[0]}-{t[1]}"),
        st.integers(0, 45).map(lambda n: f"bytes={n}-"),
        st.integers(0, 45).map(lambda n: f"bytes=-{n}"),
        st.sampled_from(["bytes=-", "bytes=0-1,3-4", "items=0-1", "bytes=a-b"]),
    ),
)
def test_ranges_are_slices(content: bytes, header: str) -> None:
    """RFC 9110, 14.1.2, in other words than the emulator's."""
    first, dash, last = header.removeprefix("bytes=").partition("-")
    try:
        span = byte_range(header, len(content))
    except ValueError:
        assert dash
        assert (first and int(first) >= len(content)) or not first
        return
    if span is None:
        is_backwards = bool(first.isdecimal() and last.isdecimal() and int(last) < int(first))
        assert is_backwards or header in ("bytes=-", "bytes=0-1,3-4", "items=0-1", "bytes=a-b")
        return
    expected = content[int(first) :] if first else content[-int(last) :]
    if first and last:
        expected = content[int(first) : int(last) + 1]
    assert content[span[0] : span[1]] == expected
    assert expected


def test_ranges_over_the_wire(emu: Emulator, client: Client) -> None:
    url = _location(client, emu.write("f", b"0123456789"))

    def part(header: str) -> tuple[int, str, bytes]:
        answer = client.send("GET", url, headers={"Range": header})
        return answer.status, answer.headers.get("content-range", ""), answer.body

    assert part("bytes=2-4") == (206, "bytes 2-4/10", b"234")
    assert part("bytes=-3") == (206, "bytes 7-9/10", b"789")
    assert part("bytes=8-99") == (206, "bytes 8-9/10", b"89")
    assert part("bytes=10-")[:2] == (416, "bytes */10")
    assert part("bytes=0-1,3-4") == (200, "", b"0123456789")
    emu.knobs.ignore_range = True
    assert part("bytes=2-4") == (200, "", b"0123456789")
    head = client.send("HEAD", url)
    assert (head.headers["content-length"], head.body) == ("10", b"")


def test_urls_serve_what_is_there_or_what_was(emu: Emulator, client: Client) -> None:
    item = emu.write("f", b"1")
    url = _location(client, item)
    emu.knobs.pinned_downloads = True
    pinned = _location(client, item)
    emu.write("f", b"2")
    assert client.send("GET", url).body == b"2"
    assert client.send("GET", pinned).body == b"1"
    emu.delete("f")
    assert client.send("GET", url).status == 404


def test_urls_end(emu: Emulator, client: Client) -> None:
    item = emu.write("f", b"1")
    url = _location(client, item)
    base, _, query = url.partition("?")
    swapped = "&".join(reversed(query.split("&")))
    assert client.send("GET", f"{base}?{swapped}").status == 401
    emu.clock.advance(3599)
    assert client.send("GET", url).status == 200
    emu.clock.advance(1)
    assert client.send("GET", url).status == 401
    fresh = _location(client, item)
    emu.expire_urls()
    assert client.send("GET", fresh).status == 401


def test_items_show_a_url_unless_they_are_empty(emu: Emulator, client: Client) -> None:
    emu.write("f", b"1")
    emu.write("empty", b"")
    emu.mkdir("d")
    shown = {v["name"]: URL in v for v in client.listed("/root/children")[0]}
    assert shown == {"f": True, "empty": False, "d": False}
    selected = client.listed(f"/root/children?$select=name,{URL}")[0]
    assert [v["name"] for v in selected if URL in v] == ["f"]
    assert not any(URL in v for v in client.listed("/root/children?$select=name")[0])


def test_malware_is_not_handed_out(emu: Emulator, client: Client) -> None:
    item = emu.write("f", b"1")
    emu.infect("f")
    answer = client.ask("GET", f"/items/{item}/content")
    assert (answer.status, answer.code) == (403, "malwareDetected")
    assert answer.headers["x-virus-infected"]


def test_small_upload_makes_parents_unless_switched(emu: Emulator, client: Client) -> None:
    assert client.upload("a/b/c", b"1").status == 201
    emu.knobs.implicit_parents = False
    assert client.upload("x/y", b"1").status == 404
    assert emu.tree() == {"a": None, "a/b": None, "a/b/c": b"1"}


def test_folders_and_packages_are_not_overwritten(emu: Emulator, client: Client) -> None:
    emu.mkdir("d")
    emu.package("notes")
    assert client.upload("d", b"1").status == 409
    assert client.upload("notes", b"1").status == 409
    assert client.ask("PUT", "/items/root/content", b"1").status == 400


@pytest.mark.parametrize("flavour", ["business", "personal"], indirect=True)
def test_times_are_the_clients_and_business_makes_a_version_of_them(
    emu: Emulator, client: Client
) -> None:
    item = emu.write("f", b"1")
    info: Json = {"fileSystemInfo": {"lastModifiedDateTime": "2020-02-02T02:02:02.5Z"}}
    shown = client.ask("PATCH", f"/items/{item}", info).json
    assert shown["fileSystemInfo"]["lastModifiedDateTime"].startswith("2020-02-02T02:02:02")
    assert not shown["lastModifiedDateTime"].startswith("2020")
    versions = client.listed(f"/items/{item}/versions")[0]
    assert len(versions) == (1 if emu.drive.is_personal else 2)
    bad: Json = {"fileSystemInfo": {"lastModifiedDateTime": "soon"}}
    assert client.ask("PATCH", f"/items/{item}", bad).status == 400


def test_versions_come_back(emu: Emulator, client: Client) -> None:
    item = emu.write("f", b"1")
    emu.write("f", b"22")
    versions = client.listed(f"/items/{item}/versions")[0]
    assert [(v["id"], v["size"]) for v in versions] == [("2.0", 2), ("1.0", 1)]
    old = client.ask("GET", f"/items/{item}/versions/1.0/content").headers["location"]
    assert client.send("GET", old).body == b"1"
    assert client.ask("POST", f"/items/{item}/versions/1.0/restoreVersion").status == 204
    assert emu.read("f") == b"1"
    assert len(client.listed(f"/items/{item}/versions")[0]) == 3
    assert client.get("")["quota"]["used"] == 4


def test_copies_take_their_time(emu: Emulator, client: Client) -> None:
    folder = emu.mkdir("d")
    emu.write("d/f", b"1")
    root = emu.drive.root.id

    def copy(name: str) -> Answer:
        body: Json = {"name": name, "parentReference": {"id": root}}
        return client.ask("POST", f"/items/{folder}/copy", body)

    started = copy("e")
    monitor = started.headers["location"]
    assert started.status == 202
    assert client.send("GET", monitor).json["status"] == "inProgress"
    assert "e/f" not in emu.tree()
    emu.clock.advance(1)
    done = client.send("GET", monitor).json
    assert done["status"] == "completed"
    assert client.get(f"/items/{done['resourceId']}")["name"] == "e"
    assert emu.tree()["e/f"] == b"1"
    assert copy("E").status == 409
    emu.knobs.copy_clash_in_monitor = True
    late = copy("E").headers["location"]
    emu.clock.advance(1)
    assert client.send("GET", late).json["errorCode"] == "nameAlreadyExists"


def test_media_get_another_etag_and_office_files_other_bytes() -> None:
    for flavour, name in (("personal", "a.jpg"), ("sharepoint", "a.docx")):
        with Emulator(flavour) as emu:
            client = Client(emu)
            made = client.upload(name, b"content").json
            emu.clock.advance(2)
            now = client.item(name)
            assert now["eTag"] != made["eTag"]
            assert (now["cTag"] != made["cTag"]) == (flavour == "sharepoint")
            assert (now["size"] != made["size"]) == (flavour == "sharepoint")
            emu.check()
            client.close()


def test_batch_answers_in_any_order_and_knows_dependencies(emu: Emulator, client: Client) -> None:
    emu.write("f", b"1")
    base = client.drive
    steps: list[Json] = [
        {"id": "1", "method": "GET", "url": f"{base}/root:/f"},
        {"id": "2", "method": "GET", "url": f"{base}/root:/g"},
        {"id": "3", "method": "GET", "url": f"{base}/root", "dependsOn": ["2"]},
        {"id": "4", "method": "GET", "url": f"{base}/root:/f:/content"},
        {"id": "5", "method": "PATCH", "url": f"{base}/root:/f", "body": {"name": "h"}},
    ]
    url = f"{emu.api_url}/$batch"
    answer = client.ask("POST", url, {"requests": steps})
    by_id = {r["id"]: r for r in answer.json["responses"]}
    assert {k: r["status"] for k, r in by_id.items()} == {
        "1": 200,
        "2": 404,
        "3": 424,
        "4": 302,
        "5": 200,
    }
    assert client.send("GET", by_id["4"]["headers"]["Location"]).body == b"1"
    assert emu.tree() == {"h": b"1"}
    assert client.ask("POST", url, {"requests": steps[:1] * 2}).status == 400
    many: list[Json] = [{**steps[0], "id": str(n)} for n in range(21)]
    assert client.ask("POST", url, {"requests": many}).status == 400


def test_tokens_end_and_are_challenged(emu: Emulator) -> None:
    emu.knobs.static_token = False
    client = Client(emu, token=emu.token())
    assert client.ask("GET", "").status == 200
    emu.clock.advance(3600)
    expired = client.ask("GET", "")
    assert (expired.status, expired.code) == (401, "InvalidAuthenticationToken")
    client.token = emu.token()
    emu.cae_challenge()
    challenged = client.ask("GET", "")
    assert 'claims="' in challenged.headers["www-authenticate"]
    client.token = emu.token()
    assert client.ask("GET", "").status == 200
    emu.revoke_tokens()
    assert client.ask("GET", "").status == 401
    client.token = emu.token(read_only=True)
    assert client.ask("GET", "/root").status == 200
    assert client.mkdir("root", "d").status == 403
    assert client.send("GET", emu.api_url + "/me").status == 401
    client.close()


def test_fresh_items_are_not_found_at_first(emu: Emulator, client: Client) -> None:
    emu.preset("eventual")
    made = client.mkdir("root", "d").json["id"]
    assert client.ask("GET", f"/items/{made}").status == 404
    assert client.ask("GET", "/root:/d").status == 404
    assert client.mkdir(made, "e").status == 404
    emu.clock.advance(2)
    assert client.mkdir(made, "e").status == 201


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        (b"\x4a", "SgAAAAAAAAAAAAAAAQAAAAAAAAA="),
        (b"\xb5\xb4", "taAFAAAAAAAAAAAAAgAAAAAAAAA="),
    ],
)
def test_quick_xor_of_known_contents(content: bytes, expected: str) -> None:
    assert quick_xor(content) == expected


@settings(max_examples=40)
@given(st.binary(max_size=700))
def test_quick_xor_is_what_its_definition_says(content: bytes) -> None:
    bits = 0
    for index, byte in enumerate(content):
        for bit in range(8):
            if byte >> bit & 1:
                bits ^= 1 << ((11 * index + bit) % 160)
    bits ^= len(content) << 96
    import base64

    assert quick_xor(content) == base64.b64encode(bits.to_bytes(20, "little")).decode()
