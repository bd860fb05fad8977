"""Attributes to user metadata and back, in everybody's conventions."""

import base64
import json
import stat
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csyncfs.backends import metadata
from csyncfs.backends.base import Writing
from csyncfs.types import Attributes

KEY = "prefix/dir/file"
_TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR)


def _mode(kind: int, permissions: int) -> int:
    return kind | permissions


_modes = st.builds(_mode, st.sampled_from(_TYPES), st.integers(0, 0o7777))
_names = st.text(min_size=1, max_size=8).filter(str.isprintable).map(lambda name: f"user.{name}")
_attributes = st.builds(
    Attributes,
    mode=st.none() | _modes,
    uid=st.none() | st.integers(0, 2**32 - 2),
    gid=st.none() | st.integers(0, 2**32 - 2),
    mtime_ns=st.none() | st.integers(-(2**62), 2**62),
    rdev=st.none() | st.integers(0, 2**64 - 1),
    xattrs=st.dictionaries(_names, st.binary(max_size=32), max_size=4),
    link=st.none() | st.from_regex(r"[0-9a-f]{16}\.[0-9a-f]{16}", fullmatch=True),
)
_writings = st.builds(
    Writing, _attributes, st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20)
)


@given(_writings)
def test_attributes_survive_the_round_trip(writing: Writing) -> None:
    told = metadata.encode(writing, KEY)

    assert metadata.decode(told, KEY) == writing.attributes
    assert metadata.put_id(told) == writing.put_id
    assert metadata.device(told) == writing.device


@given(_writings)
def test_a_copy_made_by_another_tool_is_no_name_of_the_file(writing: Writing) -> None:
    told = metadata.encode(writing, KEY)

    assert metadata.decode(told, "prefix/dir/backup").link is None


@given(_writings)
def test_every_name_and_value_survives_every_server(writing: Writing) -> None:
    for name, value in metadata.encode(writing, KEY).items():
        assert name.isascii()
        assert name.isalnum()
        assert name.islower()
        assert value.isascii()
        assert value.isprintable()
        assert value.strip() == value != ""


_text = st.text(max_size=30) | st.from_regex(r"-?[0-9a-fx.]{1,40}(ns)?", fullmatch=True)


@given(st.dictionaries(st.sampled_from(sorted(metadata.KNOWN)), _text))
def test_broken_metadata_is_never_an_error(told: dict[str, str]) -> None:
    attributes = metadata.decode(told, KEY)

    assert attributes.mode is None or 0 <= attributes.mode <= 0o177777
    assert attributes.uid is None or 0 <= attributes.uid < 2**32
    assert attributes.mtime_ns is None or abs(attributes.mtime_ns) < 2**63


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            {"mode": "33188", "uid": "1000", "gid": "100", "mtime": "1700000000"},
            Attributes(0o100644, 1000, 100, 1_700_000_000 * 10**9),
        ),
        ({"mtime": "1700000000.123456789"}, Attributes(mtime_ns=1_700_000_000_123_456_789)),
        ({"Mtime": "1.5", "Mode": "16877"}, Attributes(mode=0o40755, mtime_ns=1_500_000_000)),
        (
            {
                "file-permissions": "0100600",
                "file-owner": "7",
                "file-group": "8",
                "file-mtime": "1595002920000000001ns",
            },
            Attributes(0o100600, 7, 8, 1_595_002_920_000_000_001),
        ),
        ({"file-mtime": "1595002920123"}, Attributes(mtime_ns=1_595_002_920_123_000_000)),
        (
            {"goog-reserved-posix-mode": "644", "goog-reserved-file-mtime": "12"},
            Attributes(mode=0o644, mtime_ns=12 * 10**9),
        ),
        ({"permissions": "33188", "owner": "3", "group": "4"}, Attributes(0o100644, 3, 4)),
        ({"mode": "33188", "file-permissions": "0100600"}, Attributes(mode=0o100644)),
        ({"mode": "rw-r--r--", "file-permissions": "0100600"}, Attributes(mode=0o100600)),
        ({"mtime": "-1.5"}, Attributes(mtime_ns=-1_500_000_000)),
        ({"uid": "-1", "gid": "1e3", "mtime": "nan", "mode": "9999999"}, Attributes()),
        ({"xattr": quote(json.dumps({"user.a": base64.b64encode(b"v").decode()}))},
         Attributes(xattrs={"user.a": b"v"})),
        ({"xattr": "%7Bbroken"}, Attributes()),
        ({"xattr": "[1]"}, Attributes()),
    ],
)  # fmt: skip
def test_conventions_of_other_tools_are_read(told: dict[str, str], expected: Attributes) -> None:
    assert metadata.decode(told, KEY) == expected


def test_xattrs_that_do_not_fit_are_left_out_whole() -> None:
    attributes = Attributes(mode=0o100644, mtime_ns=1, xattrs={"user.big": b"x" * 2000})

    told = metadata.encode(Writing(attributes, "id", "device"), KEY)

    assert "xattr" not in told
    assert metadata.decode(told, KEY) == Attributes(mode=0o100644, mtime_ns=1)
    assert sum(len(name) + len(value) for name, value in told.items()) <= 2048


def test_foreign_metadata_is_kept_and_old_attributes_are_not() -> None:
    kept = {"Project": "apollo", "File-Permissions": "0100600", "mode": "1", "csyncput": "old"}

    merged = metadata.merge(kept, {"mode": "33188", "csyncput": "new"})

    assert merged == {"Project": "apollo", "mode": "33188", "csyncput": "new"}


def test_foreign_metadata_that_is_not_ascii_can_be_sent_again() -> None:
    arrived = "Übung".encode().decode("latin-1")

    merged = metadata.merge({"title": arrived}, {})

    assert merged == {"title": f"=?UTF-8?B?{base64.b64encode('Übung'.encode()).decode()}?="}
