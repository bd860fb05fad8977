"""The fake of Google Cloud Storage does what Google's documentation says: above all, preconditions.

Asked by plain HTTP, so that nothing here depends on what csyncfs or the SDK make of it.
"""

import base64
import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest

from tests.support.gcs import GOOD, READER, Bucket, FakeGcs
from tests.support.gcs.store import crc32c_of, md5_of

# The check value of CRC-32C (Castagnoli) and the MD5 of RFC 1321, of known inputs.
CRC_INPUT, CRC32C = b"123456789", bytes.fromhex("e3069283")
MD5_OF_ABC = bytes.fromhex("900150983cd24fb0d6963f7d28e17f72")
CHUNK = 256 * 1024


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class Caller:
    """Plain requests to one bucket."""

    def __init__(self, fake: FakeGcs, bucket: Bucket) -> None:
        self.fake = fake
        self.bucket = bucket

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        account: str | None = GOOD,
        **query: Any,
    ) -> Reply:
        parts = urlsplit(self.fake.endpoint)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        told = {**(headers or {})}
        if account is not None:
            told["Authorization"] = f"Bearer token-of-{account}"
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            connection.request(method, target, body, told)
            reply = connection.getresponse()
            found = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, found, reply.read())
        finally:
            connection.close()

    def path(self, name: str | None = None) -> str:
        below = "" if name is None else f"/{quote(name, safe='')}"
        return f"/storage/v1/b/{self.bucket.name}/o{below}"

    def insert(
        self, name: str, content: bytes, told: dict[str, Any] | None = None, **query: Any
    ) -> Reply:
        described = json.dumps({"name": name, **(told or {})}).encode()
        body = b"--xx\r\n\r\n" + described + b"\r\n--xx\r\n\r\n" + content + b"\r\n--xx--"
        return self.ask(
            "POST",
            f"/upload{self.path()}",
            body,
            {"Content-Type": "multipart/related; boundary=xx"},
            uploadType="multipart",
            **query,
        )

    def get(self, name: str, **query: Any) -> Reply:
        return self.ask("GET", self.path(name), **query)

    def begin(self, name: str, **query: Any) -> str:
        body = json.dumps({"name": name}).encode()
        reply = self.ask("POST", f"/upload{self.path()}", body, uploadType="resumable", **query)
        assert reply.status == 200
        parts = urlsplit(reply.headers["location"])
        return f"{parts.path}?{parts.query}"

    def chunk(self, session: str, content: bytes, span: str, **headers: str) -> Reply:
        told = {"Content-Range": f"bytes {span}", **headers}
        return self.ask("PUT", session, content, told, account=None)


@pytest.fixture
def caller(fake_gcs: FakeGcs) -> Caller:
    return Caller(fake_gcs, fake_gcs.make_bucket())


def reason(reply: Reply) -> str:
    return reply.json["error"]["errors"][0]["reason"]


# -- preconditions --------------------------------------------------------------------------------


def test_generation_0_creates_once(caller: Caller) -> None:
    assert caller.insert("a", b"first", ifGenerationMatch=0).status == 200
    again = caller.insert("a", b"second", ifGenerationMatch=0)

    assert (again.status, reason(again)) == (412, "conditionNotMet")
    assert caller.get("a", alt="media").body == b"first"


def test_only_the_named_generation_is_overwritten(caller: Caller) -> None:
    first = caller.insert("a", b"first").json["generation"]
    assert caller.insert("a", b"second", ifGenerationMatch=first).status == 200

    assert caller.insert("a", b"third", ifGenerationMatch=first).status == 412
    assert caller.insert("missing", b"", ifGenerationMatch=first).status == 412
    assert caller.get("a", alt="media").body == b"second"


def test_an_overwrite_has_a_larger_generation_and_metageneration_1(caller: Caller) -> None:
    first = caller.insert("a", b"first").json
    caller.ask("PATCH", caller.path("a"), b'{"metadata": {"k": "v"}}')
    second = caller.insert("a", b"second").json

    assert int(second["generation"]) > int(first["generation"])
    assert second["metageneration"] == "1"


def test_a_patch_has_a_new_metageneration_of_the_same_generation(caller: Caller) -> None:
    made = caller.insert("a", b"x", {"metadata": {"kept": "1", "gone": "2"}}).json
    body = b'{"metadata": {"gone": null, "new": "3"}}'
    patched = caller.ask("PATCH", caller.path("a"), body, ifMetagenerationMatch=1)

    assert patched.json["generation"] == made["generation"]
    assert patched.json["metageneration"] == "2"
    assert patched.json["metadata"] == {"kept": "1", "new": "3"}
    assert caller.ask("PATCH", caller.path("a"), body, ifMetagenerationMatch=1).status == 412
    assert caller.insert("a", b"y", ifMetagenerationMatch=1).status == 412
    assert caller.ask("DELETE", caller.path("a"), ifMetagenerationMatch=1).status == 412


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_what_is_missing_is_404_before_it_is_412(caller: Caller, method: str) -> None:
    reply = caller.ask(method, caller.path("missing"), b"{}", ifGenerationMatch=5)

    assert (reply.status, reason(reply)) == (404, "notFound")
    assert reply.json["error"]["message"].startswith("No such object: ")


def test_a_read_of_what_it_was_not_to_match_is_304(caller: Caller) -> None:
    made = caller.insert("a", b"x").json

    same = caller.get("a", ifGenerationNotMatch=made["generation"])
    assert (same.status, same.body) == (304, b"")
    assert caller.get("a", ifMetagenerationNotMatch=1).status == 304
    assert caller.get("a", ifGenerationNotMatch=5).status == 200
    # Of a write it is an unmet condition.
    assert caller.insert("a", b"y", ifGenerationNotMatch=made["generation"]).status == 412


def test_reads_have_conditions_too(caller: Caller) -> None:
    made = caller.insert("a", b"first").json
    caller.insert("a", b"second")

    assert caller.get("a", alt="media", ifGenerationMatch=made["generation"]).status == 412
    assert caller.get("a", alt="media", generation=made["generation"]).status == 404


def test_a_delete_is_of_the_named_generation(caller: Caller) -> None:
    first = caller.insert("a", b"first").json["generation"]
    second = caller.insert("a", b"second").json["generation"]

    assert caller.ask("DELETE", caller.path("a"), ifGenerationMatch=first).status == 412
    assert caller.ask("DELETE", caller.path("a"), ifGenerationMatch=second).status == 204
    assert caller.get("a").status == 404


def test_a_rewrite_has_conditions_on_both_sides(caller: Caller) -> None:
    source = caller.insert("a", b"content").json["generation"]
    path = f"{caller.path('a')}/rewriteTo/b/{caller.bucket.name}/o/b"

    assert caller.ask("POST", path, ifSourceGenerationMatch=int(source) + 1).status == 412
    assert caller.ask("POST", path, ifGenerationMatch=5).status == 412
    done = caller.ask("POST", path, ifSourceGenerationMatch=source, ifGenerationMatch=0)
    assert done.json["done"] is True
    assert caller.ask("POST", path, ifGenerationMatch=0).status == 412


def test_a_long_rewrite_takes_several_calls(caller: Caller) -> None:
    caller.insert("a", b"x" * 25)
    caller.bucket.rewrite_bytes = 10
    path = f"{caller.path('a')}/rewriteTo/b/{caller.bucket.name}/o/b"
    first = caller.ask("POST", path).json
    assert (first["done"], first["totalBytesRewritten"]) == (False, "10")
    second = caller.ask("POST", path, rewriteToken=first["rewriteToken"]).json
    assert second["done"] is False
    assert caller.get("b").status == 404
    assert caller.ask("POST", path, rewriteToken=first["rewriteToken"]).json["done"] is True


# -- checksums ------------------------------------------------------------------------------------


def test_checksums_are_those_of_the_standards() -> None:
    assert base64.b64decode(crc32c_of(CRC_INPUT)) == CRC32C
    assert base64.b64decode(md5_of(b"abc")) == MD5_OF_ABC


@pytest.mark.parametrize("name", ["md5Hash", "crc32c"])
def test_content_that_is_not_what_was_told_is_refused(caller: Caller, name: str) -> None:
    told = {"md5Hash": md5_of(b"right"), "crc32c": crc32c_of(b"right")}
    wrong = caller.insert("a", b"wrong", {name: told[name]})

    assert (wrong.status, reason(wrong)) == (400, "invalid")
    assert "doesn't match calculated" in wrong.json["error"]["message"]
    assert caller.get("a").status == 404
    assert caller.insert("a", b"right", {name: told[name]}).status == 200


# -- content --------------------------------------------------------------------------------------


def test_a_range_of_content(caller: Caller) -> None:
    made = caller.insert("a", b"0123456789").json
    part = caller.ask("GET", caller.path("a"), b"", {"Range": "bytes=2-4"}, alt="media")

    assert (part.status, part.body) == (206, b"234")
    assert part.headers["content-range"] == "bytes 2-4/10"
    assert part.headers["x-goog-generation"] == made["generation"]
    # Of the whole object, whatever was asked for.
    assert f"crc32c={crc32c_of(b'0123456789')}" in part.headers["x-goog-hash"]
    beyond = caller.ask("GET", caller.path("a"), b"", {"Range": "bytes=10-"}, alt="media")
    assert beyond.status == 416


# -- resumable uploads ----------------------------------------------------------------------------


def test_a_session_says_how_far_it_is(caller: Caller) -> None:
    session = caller.begin("a")
    nothing = caller.chunk(session, b"", f"*/{CHUNK + 5}")
    assert (nothing.status, "range" in nothing.headers) == (308, False)
    first = caller.chunk(session, b"a" * CHUNK, f"0-{CHUNK - 1}/{CHUNK + 5}")
    assert (first.status, first.headers["range"]) == (308, f"bytes=0-{CHUNK - 1}")
    assert caller.get("a").status == 404
    last = caller.chunk(session, b"b" * 5, f"{CHUNK}-{CHUNK + 4}/{CHUNK + 5}")
    assert (last.status, last.json["size"]) == (200, str(CHUNK + 5))
    # Asked again, it tells the object.
    assert caller.chunk(session, b"", f"*/{CHUNK + 5}").json == last.json
    assert caller.get("a", alt="media").body == b"a" * CHUNK + b"b" * 5


def test_chunks_are_multiples_of_256_kib(caller: Caller) -> None:
    session = caller.begin("a")
    assert caller.chunk(session, b"a" * 1000, "0-999/2000").status == 400


def test_the_condition_of_a_session_counts_at_its_end(caller: Caller) -> None:
    session = caller.begin("a", ifGenerationMatch=0)
    caller.insert("a", b"theirs")
    late = caller.chunk(session, b"ours", "0-3/4")

    assert late.status == 412
    assert caller.get("a", alt="media").body == b"theirs"


def test_the_checksum_of_the_whole_may_come_with_the_last_chunk(caller: Caller) -> None:
    session = caller.begin("a")
    told = {"X-Goog-Hash": f"crc32c={crc32c_of(b'right')}"}
    assert caller.chunk(session, b"wrong", "0-4/5", **told).status == 400
    assert caller.get("a").status == 404


def test_sessions_that_are_gone(caller: Caller) -> None:
    session = caller.begin("a")
    assert caller.ask("DELETE", session, account=None).status == 499
    assert caller.chunk(session, b"x", "0-0/1").status == 499
    other = caller.begin("a")
    caller.bucket.expire_sessions()
    assert caller.chunk(other, b"", "*/1").status == 410
    unknown = f"/upload{caller.path()}?upload_id=unknown"
    assert caller.chunk(unknown, b"", "*/1").status == 404


# -- listings -------------------------------------------------------------------------------------


def test_a_listing_with_a_delimiter(caller: Caller) -> None:
    for name in ("a", "d/", "d/x", "d/y/z", "e/x", "\u00e9"):
        caller.insert(name, b"")
    found = caller.ask("GET", caller.path(), delimiter="/").json
    assert [one["name"] for one in found["items"]] == ["a", "\u00e9"]
    assert found["prefixes"] == ["d/", "e/"]
    marked = caller.ask("GET", caller.path(), delimiter="/", includeTrailingDelimiter="true").json
    assert [one["name"] for one in marked["items"]] == ["a", "d/", "\u00e9"]
    below = caller.ask("GET", caller.path(), delimiter="/", prefix="d/").json
    assert [one["name"] for one in below["items"]] == ["d/", "d/x"]
    assert below["prefixes"] == ["d/y/"]


def test_pages_tell_everything_once(caller: Caller) -> None:
    for name in ("a", "b/1", "b/2", "c"):
        caller.insert(name, b"")
    names: list[str] = []
    query: dict[str, Any] = {"delimiter": "/", "maxResults": 1}
    while True:
        page = caller.ask("GET", caller.path(), **query).json
        names += [one["name"] for one in page.get("items", ())] + page.get("prefixes", [])
        if "nextPageToken" not in page:
            break
        query["pageToken"] = page["nextPageToken"]
    assert names == ["a", "b/", "c"]


def test_only_the_fields_asked_for_are_told(caller: Caller) -> None:
    caller.insert("a", b"x")
    page = caller.ask("GET", caller.path(), fields="items(name,size)").json
    assert page == {"items": [{"name": "a", "size": "1"}]}


# -- names and access -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a\nb", "a\rb", ".", "..", "x" * 1025, ".well-known/acme-challenge/x"]
)
def test_names_that_google_refuses(caller: Caller, name: str) -> None:
    assert caller.insert(name, b"").status == 400


def test_who_is_let_in(caller: Caller) -> None:
    caller.insert("a", b"x")
    assert caller.ask("GET", caller.path("a"), account=None).status == 401
    assert caller.ask("GET", caller.path("a"), account="nobody").status == 401
    assert caller.ask("GET", caller.path("a"), account=READER).status == 200
    assert caller.ask("DELETE", caller.path("a"), account=READER).status == 403
    gone = caller.ask("GET", "/storage/v1/b/no-such-bucket/o/a")
    assert gone.status == 404
    assert gone.json["error"]["message"] == "The specified bucket does not exist."
