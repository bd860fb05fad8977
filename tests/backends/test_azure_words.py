# ruff: noqa: RUF001  (the full-width percent sign is meant)
"""Keys and names, the sizes of requests to a hierarchical account: what needs no server."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from csyncfs.backends.azureblob import client, hierarchy, spelling
from csyncfs.backends.azureblob.credentials import Credentials
from csyncfs.backends.azureblob.options import AzureOptions
from csyncfs.backends.azureblob.translation import SourceUnmet
from csyncfs.backends.azureblob.wire import Wire, told
from csyncfs.backends.failures import ServerFailed, Unmet
from csyncfs.errors import AccessDenied, CsyncError, NotFound, Throttled, Unrepresentable
from csyncfs.types import ABSENT, Expect, RemoteVersion

_LETTERS = st.text(alphabet="a.\\％0D5CF\x01\x7f\x85\uffff\0 é", max_size=12)


@pytest.mark.parametrize(
    ("key", "blob"),
    [
        ("plain", "plain"),
        ("a b/c+d%", "a b/c+d%"),
        ("a\\b", "a％005Cb"),
        ("v1./x", "v1％002E/x"),
        ("..", ".％002E"),
        ("a.b", "a.b"),
        ("tab\there", "tab％0009here"),
        ("a％005Cb", "a％FF05005Cb"),
        ("50％", "50％"),
    ],
)
def test_what_azure_cannot_hold_is_spelled(key: str, blob: str) -> None:
    assert spelling.to_blob(key) == blob
    assert "/".join(spelling.to_segment(segment) for segment in blob.split("/")) == key


@given(_LETTERS)
@example("％FF05005C")
@example("\0a％0041")
def test_every_segment_comes_back(segment: str) -> None:
    assert spelling.to_segment(spelling.to_blob(segment)) == segment


@given(_LETTERS.filter(lambda text: "\0" not in text))
@example("a％0041")
@example("％002E")
def test_every_blob_has_one_key(blob: str) -> None:
    assert spelling.to_blob(spelling.to_segment(blob)) == blob


@given(_LETTERS)
def test_what_is_sent_azure_can_hold(segment: str) -> None:
    if segment.startswith("\0"):
        return  # a name another tool has put there
    sent = spelling.to_blob(segment)
    assert not sent.endswith(".")
    assert "\\" not in sent
    assert all(character >= " " and character != "\x7f" for character in sent)


def test_a_name_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(Unrepresentable):
        spelling.to_blob("caf\udce9")


def test_a_name_that_spells_out_too_long_is_refused() -> None:
    assert len(spelling.to_blob("\\" * 120)) == 600
    with pytest.raises(Unrepresentable):
        spelling.to_blob("\\" * 121)


@pytest.mark.parametrize("depth", [1, 100, 253, 254, 1000])
def test_names_keep_to_azures_limits(depth: int) -> None:
    options = AzureOptions("account", "container", "prefix")
    directory = "d/" * depth
    name = options.blob_name(f"{directory}file")
    assert name.count("/") <= 253
    assert len(name) <= 1024
    assert any(name == f"{prefix}file" for prefix in options.prefixes(directory))


def test_long_names_are_listed_where_they_are() -> None:
    options = AzureOptions("account", "container")
    directory = "d" * 250 + "/" + "e" * 250 + "/" + "f" * 250 + "/" + "g" * 100 + "/"
    for segment in ("short", "l" * 255):
        prefix, _, rest = options.blob_name(directory + segment).rpartition("/")
        assert rest == segment
        assert f"{prefix}/" in options.prefixes(directory)
    assert len(options.prefixes(directory)) == 2


# Renames in a hierarchical account --------------------------------------------------------


def _request(
    options: AzureOptions,
    found: Credentials,
    expect_source: RemoteVersion | None,
    expect_target: Expect,
) -> Any:
    wire = cast("Any", object.__new__(Wire))
    wire.options, wire.clients = options, client.build(options, found)
    return hierarchy.rename_request(wire, "a/old é", "b/new", expect_source, expect_target)


def test_a_rename_names_both_versions() -> None:
    options = AzureOptions("account", "container")
    source, target = RemoteVersion("0x1", 3, 0), RemoteVersion("0x2", 4, 0)
    request = _request(options, Credentials(key="a2V5"), source, target)

    assert request.method == "PUT"
    assert request.url == "https://account.dfs.core.windows.net/container/b/new?mode=posix"
    assert request.headers["x-ms-rename-source"] == "/container/a/old%20%C3%A9"
    assert request.headers["x-ms-source-if-match"] == '"0x1"'
    assert request.headers["If-Match"] == '"0x2"'
    assert "If-None-Match" not in request.headers


def test_a_rename_to_a_free_name_overwrites_nothing() -> None:
    request = _request(AzureOptions("account", "c"), Credentials(key="a2V5"), None, ABSENT)

    assert request.headers["If-None-Match"] == "*"
    assert "If-Match" not in request.headers
    assert "x-ms-source-if-match" not in request.headers


def test_a_rename_with_a_token_carries_it_on_both_sides() -> None:
    request = _request(AzureOptions("account", "c"), Credentials(sas="sv=1&sig=x"), None, ABSENT)

    assert request.url == ("https://account.dfs.core.windows.net/c/b/new?sv=1&sig=x&mode=posix")
    assert request.headers["x-ms-rename-source"].endswith("?sv=1&sig=x")


class _Dfs(BaseHTTPRequestHandler):
    """Answers one rename as the documentation says."""

    answer: ClassVar[tuple[int, str]] = (201, "")
    got: ClassVar[list[dict[str, str]]] = []

    def do_PUT(self) -> None:
        self.got.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        status, code = self.answer
        self.send_response(status)
        if code:
            self.send_header("x-ms-error-code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((201, ""), None),
        ((409, "PathAlreadyExists"), Unmet),
        ((412, "ConditionNotMet"), Unmet),
        ((412, "SourceConditionNotMet"), SourceUnmet),
        ((404, "SourcePathNotFound"), NotFound),
        ((404, "RenameDestinationParentPathNotFound"), NotFound),
        ((403, "AuthorizationPermissionMismatch"), AccessDenied),
        ((503, "ServerBusy"), Throttled),
        ((500, "InternalError"), ServerFailed),
    ],
)
def test_a_rename_is_signed_and_its_refusals_are_understood(
    answer: tuple[int, str], error: type[CsyncError] | None
) -> None:
    _Dfs.answer, _Dfs.got = answer, []
    server = HTTPServer(("127.0.0.1", 0), _Dfs)
    threading.Thread(target=server.handle_request, daemon=True).start()
    options = AzureOptions(
        "account", "c", endpoint=f"http://127.0.0.1:{server.server_port}/account"
    )
    wire = cast("Any", object.__new__(Wire))
    wire.options, wire.clients = options, client.build(options, Credentials(key="a2V5"))

    def rename() -> None:
        told("renaming", lambda: hierarchy.rename(wire, "a", "b", None, ABSENT))

    if error is None:
        rename()
    else:
        with pytest.raises(error) as caught:
            rename()
        assert type(caught.value) is error
    server.server_close()

    (request,) = _Dfs.got
    assert request["path"] == "/account/c/b?mode=posix"
    assert request["authorization"].startswith("SharedKey account:")
    assert request["x-ms-rename-source"] == "/c/a"
