# ruff: noqa: RUF001  (the full-width percent sign is meant)
"""What needs no server: checksums, names, times, specs, errors, and what is not loaded."""

import base64
import random
import subprocess
import sys

import httpx
import pytest

from csyncfs.backends.failures import Contended, ServerFailed, Unmet
from csyncfs.backends.onedrive import items, spelling, translation
from csyncfs.backends.onedrive.connecting import normal_id
from csyncfs.backends.onedrive.quickxor import QuickXor
from csyncfs.backends.onedrive.sessions import State, state_of
from csyncfs.backends.onedrive.spelling import Place
from csyncfs.backends.onedrive.translation import Taken
from csyncfs.config import parse_spec
from csyncfs.errors import (
    AccessDenied,
    ConfigError,
    CsyncError,
    Hold,
    NotFound,
    QuotaExceeded,
    Throttled,
    Unrepresentable,
)
from csyncfs.types import Kind
from tests.support.graph import naming

PERSONAL_TOP = Place(is_personal=True, is_top=True)
BUSINESS_TOP = Place(is_personal=False, is_top=True)
BUSINESS = Place(is_personal=False, is_top=False)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        # Microsoft's own and rclone's test vectors.
        (b"", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        (b"\x4a", "SgAAAAAAAAAAAAAAAQAAAAAAAAA="),
        (b"\xb5\xb4", "taAFAAAAAAAAAAAAAgAAAAAAAAA="),
    ],
)
def test_the_quick_xor_hash_is_microsofts(content: bytes, told: str) -> None:
    found = QuickXor()
    found.update(content)
    assert found.base64() == told


def _bit_by_bit(content: bytes) -> bytes:
    """The definition, one bit after the other."""
    cells = 0
    for at, byte in enumerate(content):
        for bit in range(8):
            if byte >> bit & 1:
                cells ^= 1 << ((at * 11 + bit) % 160)
    return (cells ^ (len(content) << 96)).to_bytes(20, "little")


@pytest.mark.parametrize("size", [1, 19, 159, 160, 161, 320, 1000, 4097])
def test_the_quick_xor_hash_is_as_defined_however_it_is_fed(size: int) -> None:

    content = random.Random(size).randbytes(size)
    found = QuickXor()
    at = 0
    for step in (1, 7, 158, 161, 5000):
        found.update(content[at : at + step])
        at += step
    assert base64.b64decode(found.base64()) == _bit_by_bit(content)


SEGMENTS = [
    *("plain", "a:b", 'x"y', "what?", "a|b", "<a>", "a*", "back\\slash", "tab\there", " led"),
    *("ends ", "ends.", "...", " ", "con", "CON.txt", "lpt1", "com0.tar.gz", "console", ".lock"),
    *("Desktop.ini", "~$word.docx", "~", "~dir", "forms", "Forms", "_vti_", "a_VTI_b", "_vti"),
    *("％", "％0041", "％003A", "％003A:", "café", "cafe\u0301", "日本", "\x7f", "a\ufffeb"),
]


@pytest.mark.parametrize("place", [PERSONAL_TOP, BUSINESS_TOP, BUSINESS])
@pytest.mark.parametrize("kind", list(Kind))
def test_every_name_has_a_spelling_the_service_takes_and_comes_back(
    kind: Kind, place: Place
) -> None:
    names = {segment: spelling.to_name(segment, kind, place) for segment in SEGMENTS}
    assert len({name.lower() for name in names.values()}) >= len(names) - 1  # forms and Forms
    for segment, name in names.items():
        naming.check_name(
            name,
            is_folder=kind is Kind.DIR,
            is_personal=place.is_personal,
            in_root=place.is_top,
        )
        assert spelling.to_segment(name, kind, place) == segment
    assert names["plain"] == "plain"
    assert names["a:b"] == "a％003Ab"


@pytest.mark.parametrize("name", ["a％0041", "％FF05x", "x％002E.d", "con"])
def test_an_item_that_needs_no_spelling_is_found_again_under_its_key(name: str) -> None:
    segment = spelling.to_segment(name, Kind.FILE, BUSINESS)
    assert segment.startswith("\0")
    assert spelling.to_name(segment, Kind.FILE, BUSINESS) == name


@pytest.mark.parametrize("segment", ["n" * 256, ":" * 52, "caf\udce9"])
def test_names_that_have_no_spelling_are_refused(segment: str) -> None:
    with pytest.raises(Unrepresentable):
        spelling.to_name(segment, Kind.FILE, BUSINESS)


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("2026-11-22T03:04:05.678Z", 1_795_316_645_678_000_000),
        ("2026-11-22T04:04:05.5+01:00", 1_795_316_645_500_000_000),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00-08:00", None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_times_are_read_as_they_come(text: str | None, time_ns: int | None) -> None:
    assert items.to_ns(text) == time_ns


def test_times_go_out_as_far_as_a_drive_keeps_them() -> None:
    assert items.to_text(1_795_316_645_678_912_345) == "2026-11-22T03:04:05.678Z"
    assert items.to_text(1_795_316_645_000_000_001) == "2026-11-22T03:04:05Z"
    assert items.to_text(-1) is None


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "pathIsTooLong", Unrepresentable),
        (400, "invalidRequest", Hold),
        (403, "accessDenied", AccessDenied),
        (403, "quotaLimitReached", QuotaExceeded),
        (403, "malwareDetected", Hold),
        (404, "itemNotFound", NotFound),
        (409, "nameAlreadyExists", Taken),
        (409, "resourceModified", Unmet),
        (412, "notAllowed", Unmet),
        (423, "notAllowed", Contended),
        (429, "activityLimitReached", Throttled),
        (500, "generalException", ServerFailed),
        (503, "serviceNotAvailable", ServerFailed),
        (507, "generalException", QuotaExceeded),
        (509, "", Throttled),
    ],
)
def test_what_a_refusal_means(status: int, code: str, kind: type[CsyncError]) -> None:
    inner = {"innererror": {"code": code}}
    body = {"error": {"code": "general", "message": "https://secret", "innerError": inner}}
    error = translation.refusal(httpx.Response(status, json=body), "doing")
    assert type(error) is kind
    assert "secret" not in str(error)


def test_retry_after_is_seconds_or_a_date() -> None:
    def told(text: str) -> float | None:
        return translation.retry_after(httpx.Response(503, headers={"Retry-After": text}))

    assert told("7") == 7.0
    assert told("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert told("soon") is None
    error = translation.refusal(httpx.Response(503, headers={"Retry-After": "7"}), "doing")
    assert isinstance(error, Throttled)
    assert error.after_s == 7.0


def test_a_resume_state_comes_back_and_nonsense_is_none() -> None:
    state = State("https://up", "a/b", 5, "id", "tag")
    assert state_of(state.to_json()) == state
    for text in (None, "", "{}", "[]", "7", '{"url": "x"}'):
        assert state_of(text) is None


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("1234567890ABCDE", "01234567890abcde"),
        ("01234567890abcde", "01234567890abcde"),
        ("b!" + "aB3-_" * 13, "b!" + "aB3-_" * 13),
    ],
)
def test_ids_of_personal_drives_are_put_right(told: str, meant: str) -> None:
    assert normal_id(told) == meant


@pytest.mark.parametrize(
    ("text", "drive", "prefix", "canonical"),
    [
        ("onedrive://me", "me", "", "onedrive://me"),
        ("onedrive://me/a b/c", "me", "a b/c/", "onedrive://me/a b/c"),
        ("onedrive://drive/b!x-_Y/a/", "drive/b!x-_Y", "a/", "onedrive://drive/b!x-_Y/a"),
        *(
            (text, "site/h.example/sites/t:", "", "onedrive://site/h.example/sites/t:")
            for text in ("onedrive://site/h.example/sites/t", "onedrive://site/h.example/sites/t:")
        ),
        (
            "onedrive://site/h.example/sites/t:Shared Documents/x/y",
            "site/h.example/sites/t:Shared Documents",
            "x/y/",
            "onedrive://site/h.example/sites/t:Shared Documents/x/y",
        ),
        ("onedrive://site/h.example/:L", "site/h.example/:L", "", "onedrive://site/h.example/:L"),
    ],
)
def test_a_spec_names_a_drive_in_one_way(
    text: str, drive: str, prefix: str, canonical: str
) -> None:
    spec = parse_spec(text)
    assert (spec.bucket, spec.prefix, str(spec)) == (drive, prefix, canonical)
    assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize("rest", ["", "you", "drive", "drive/", "drive/a b", "site", "me/../x"])
def test_what_is_no_drive_is_said(rest: str) -> None:
    with pytest.raises(ConfigError):
        parse_spec(f"onedrive://{rest}")


_LOADED = """
import sys, trio
from csyncfs.transfer.factory import make_backend
from csyncfs.transfer.messages import Start
import csyncfs.mount, csyncfs.admin.cli

async def main():
    await make_backend(Start(1, "s3://bucket", {}, None))

trio.run(main)
sdks = {"msgraph", "azure", "google", "httpx", "msal"}
print(sorted({m.partition(".")[0] for m in sys.modules} & sdks))
"""

_WITHOUT = """
import sys, trio
from csyncfs.errors import ConfigError
from csyncfs.transfer.factory import make_backend
from csyncfs.transfer.messages import Start

for name in ("msgraph", "msgraph_core", "kiota_http", "kiota_abstractions", "httpx"):
    sys.modules[name] = None

async def main():
    try:
        await make_backend(Start(1, "onedrive://me", {}, None))
    except ConfigError as exc:
        print(exc)

trio.run(main)
"""


def _said_by(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_an_s3_mount_loads_nothing_of_microsofts() -> None:
    assert _said_by(_LOADED) == "[]"


def test_without_the_extra_one_line_names_it() -> None:
    said = _said_by(_WITHOUT)
    assert said == (
        "onedrive:// stores need Microsoft's SDK:"
        " pip install 'csyncfs[onedrive]', or make install EXTRAS=onedrive"
    )
