"""What the fake takes for granted, asked of the fake and, where there is one, of a real bucket.

With CSYNCFS_TEST_GCS_BUCKET=BUCKET and application default credentials that may read and write
there, this module and the whole suite (as ``gcs-live``) also run against Google. Everything is
below a prefix of its own, which is cleared afterwards:

    CSYNCFS_TEST_GCS_BUCKET=... .venv/bin/pytest tests/conformance -k "gcs_live or gcs-live"
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csyncfs.backends.gcs import GcsOptions
from csyncfs.backends.gcs.client import Client, build, object_path
from csyncfs.backends.gcs.translation import Refused, translate
from tests.support.gcs import LIVE_BUCKET, FakeGcs, clear, live_options, options_for

CHUNK = 256 << 10
_NEEDS_BUCKET = pytest.mark.skipif(LIVE_BUCKET not in os.environ, reason=f"no {LIVE_BUCKET}")


@pytest.fixture(params=["fake", pytest.param("live", marks=_NEEDS_BUCKET)])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GcsOptions]:
    if request.param == "live":
        found = live_options()
        yield found
        clear(found)
        return
    fake: FakeGcs = request.getfixturevalue("gcs")
    key = fake.write_key(tmp_path / "key.json")
    yield options_for(fake, fake.make_bucket().name, credentials_file=str(key))


@pytest.fixture
def client(options: GcsOptions) -> Iterator[Client]:
    made = build(options)
    yield made
    made.close()


@pytest.fixture
def name(options: GcsOptions) -> str:
    return f"{options.base}name"


def insert(client: Client, name: str, content: bytes = b"x", **query: str) -> dict[str, Any]:
    """By a session of one chunk: no other way needs a body of two parts."""
    return chunk(client, begin(client, name, **query), content, len(content)).json()


def begin(client: Client, name: str, **query: str) -> str:
    asked = {"uploadType": "resumable", **query}
    reply = client.send("POST", client.url("upload", "/o"), params=asked, json={"name": name})
    return str(reply.headers["location"])


def chunk(client: Client, session: str, data: bytes, total: int, **headers: str) -> Any:
    told = {"Content-Range": f"bytes 0-{len(data) - 1}/{total}", **headers}
    return client.send("PUT", session, data=data, headers=told)


def refusal(work: Callable[[], object]) -> Refused:
    """How the server refuses, in JSON or in plain text."""
    with pytest.raises(Exception) as caught:
        work()
    error: Any = caught.value
    assert translate(error, "asking")
    if isinstance(error, Refused):
        return error
    return Refused.of(error.response.status_code, error.response.headers, error.response.content)


def test_generation_0_is_for_what_does_not_exist(client: Client, name: str) -> None:
    insert(client, name, ifGenerationMatch="0")
    refused = refusal(lambda: insert(client, name, ifGenerationMatch="0"))
    assert refused.status == 412


def test_a_generation_of_nothing_is_never_met(client: Client, name: str) -> None:
    assert refusal(lambda: insert(client, name, ifGenerationMatch="5")).status == 412


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_change_of_what_is_missing_is_refused(client: Client, name: str, method: str) -> None:
    path = object_path(name)
    refused = refusal(
        lambda: client.ask(method, path, {"ifGenerationMatch": "5"}, {"metadata": {}})
    )
    assert refused.status in (404, 412)


def test_what_is_missing_is_called_an_object(client: Client, name: str) -> None:
    """A bucket that is gone is 404, too, and must not be taken for a file that is."""
    refused = refusal(lambda: client.ask("GET", object_path(name), {}))
    assert (refused.status, refused.told[:14]) == (404, "No such object")


def test_metadata_changes_the_metageneration_only(client: Client, name: str) -> None:
    made = insert(client, name)
    body = {"metadata": {"kept": "1", "gone": "2"}}
    client.ask("PATCH", object_path(name), {}, body)
    query = {"ifGenerationMatch": made["generation"], "ifMetagenerationMatch": "2"}
    again = client.ask("PATCH", object_path(name), query, {"metadata": {"gone": None}})
    assert (again["generation"], again["metageneration"]) == (made["generation"], "3")
    assert again["metadata"] == {"kept": "1"}
    assert refusal(lambda: insert(client, name, ifMetagenerationMatch="1")).status == 412


def test_a_wrong_checksum_with_the_last_chunk_stores_nothing(client: Client, name: str) -> None:
    session = begin(client, name)
    refused = refusal(
        lambda: chunk(client, session, b"content", 7, **{"X-Goog-Hash": "crc32c=AAAAAA=="})
    )
    assert refused.status == 400
    assert "doesn't match calculated" in refused.told
    assert refusal(lambda: client.ask("GET", object_path(name), {})).status == 404


def test_a_session_tells_how_far_it_is_and_may_be_cancelled(client: Client, name: str) -> None:
    session = begin(client, name)
    first = chunk(client, session, bytes(CHUNK), CHUNK + 1)
    assert (first.status_code, first.headers["range"]) == (308, f"bytes=0-{CHUNK - 1}")
    asked = client.send("PUT", session, headers={"Content-Range": f"bytes */{CHUNK + 1}"})
    assert (asked.status_code, asked.headers["range"]) == (308, f"bytes=0-{CHUNK - 1}")
    cancelled = refusal(lambda: client.send("DELETE", session, headers={"Content-Length": "0"}))
    assert cancelled.status == 499
    gone = refusal(lambda: chunk(client, session, bytes(CHUNK), CHUNK + 1))
    assert gone.status in (404, 410, 499)


def test_content_tells_generation_and_checksum(client: Client, name: str) -> None:
    made = insert(client, name, b"0123456789")
    reply = client.send(
        "GET",
        client.url("download", object_path(name)),
        params={"alt": "media", "ifGenerationMatch": made["generation"]},
        headers={"Range": "bytes=2-4"},
    )
    assert (reply.status_code, reply.content) == (206, b"234")
    assert reply.headers["content-range"] == "bytes 2-4/10"
    assert reply.headers["x-goog-generation"] == made["generation"]
    assert reply.headers["x-goog-metageneration"] == "1"
    assert f"crc32c={made['crc32c']}" in reply.headers["x-goog-hash"]


def test_a_listing_tells_markers_and_prefixes(client: Client, options: GcsOptions) -> None:
    for key in ("dir/", "dir/file", "file"):
        insert(client, options.base + key)
    query = {
        "prefix": options.base,
        "delimiter": "/",
        "includeTrailingDelimiter": "true",
        "fields": "nextPageToken,prefixes,items(name,metageneration)",
    }
    found = client.ask("GET", "/o", query)
    assert found["prefixes"] == [f"{options.base}dir/"]
    assert found["items"] == [
        {"name": f"{options.base}dir/", "metageneration": "1"},
        {"name": f"{options.base}file", "metageneration": "1"},
    ]


def test_a_rewrite_has_conditions_on_both_sides(client: Client, name: str) -> None:
    made = insert(client, name)
    path = f"{object_path(name)}/rewriteTo/b/{client.bucket}{object_path(name + '-copy')}"
    wrong = {"ifSourceGenerationMatch": "5", "ifGenerationMatch": "0"}
    assert refusal(lambda: client.ask("POST", path, wrong, {})).status == 412
    right = {
        "ifSourceGenerationMatch": made["generation"],
        "ifSourceMetagenerationMatch": "1",
        "ifGenerationMatch": "0",
    }
    done = client.ask("POST", path, right, {"metadata": {"k": "v"}})
    assert (done["done"], done["resource"]["metadata"]) == (True, {"k": "v"})
    assert refusal(lambda: client.ask("POST", path, right, {})).status == 412


def test_error_bodies_are_understood(client: Client, name: str) -> None:
    refused = refusal(lambda: insert(client, name, ifGenerationMatch="5"))
    assert refused.reason == "conditionNotMet"
