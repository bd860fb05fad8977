# ruff: noqa: RUF001  (the full-width percent sign is meant)
"""The naming scheme: what a program sees, and the way back to the key."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from csyncfs import names
from csyncfs.errors import Unrepresentable
from csyncfs.names import ShownName
from csyncfs.types import Kind

MAX = names.MAX_NAME_BYTES
WHEN_NS = 1_767_323_045_000_000_000  # 2026-01-02T03:04:05Z

# A small alphabet, so that escapes of escapes and half-valid forms really turn up.
odd_text = st.text(st.sampled_from("％bf~.\0A2E5FC3é"), max_size=12)
nested_escapes = st.recursive(
    odd_text, lambda inner: inner.map(lambda s: "％" + s.encode().hex().upper()), max_leaves=4
)
raw_forms = st.recursive(
    st.binary(max_size=6).map(lambda raw: "％b" + raw.hex().upper()),
    lambda inner: inner.map(lambda s: "％b" + s.encode().hex().upper()),
    max_leaves=4,
)
text_segments = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), max_size=90),
    odd_text,
    nested_escapes,
    raw_forms,
)


def is_legal(name: bytes) -> bool:
    return 0 < len(name) <= MAX and name not in (b".", b"..") and not set(name) & {0, 0x2F}


local_names = st.one_of(
    st.binary(min_size=1, max_size=MAX),
    text_segments.map(str.encode),
    raw_forms.map(str.encode),
).filter(is_legal)


@given(text_segments)
@example("")
@example(".")
@example("..")
@example("a\0b")
@example("％")
@example("％2E")
@example("％b")
@example("％bFF")
@example("％bFF00")
@example("％bFF2F")
@example("％b41")
def test_every_text_segment_has_a_legal_name_that_leads_back(segment: str) -> None:
    shown = names.to_name(segment, utf8_only=True)
    assert is_legal(shown.name)
    if shown.is_exact:
        assert names.to_segment(shown.name, utf8_only=True) == segment
    else:
        assert len(segment.encode().hex()) > MAX - 20


@given(local_names)
@example(b"\xff")
@example("％".encode())
@example("％2E".encode())
@example("％41".encode())
@example("％612F00".encode())
@example("％bFF".encode())
@example(b"\xff" * 255)
def test_every_local_name_is_the_exact_name_of_its_segment(name: bytes) -> None:
    segment = names.to_segment(name, utf8_only=True)
    segment.encode()
    assert "/" not in segment
    assert names.to_name(segment, utf8_only=True) == ShownName(name, is_exact=True)


@given(local_names)
def test_file_system_store_keeps_every_name_as_fsdecode_gives_it(name: bytes) -> None:
    segment = names.to_segment(name, utf8_only=False)
    assert segment == name.decode(errors="surrogateescape")
    assert names.to_name(segment, utf8_only=False) == ShownName(name, is_exact=True)


@given(st.text(max_size=300).map(lambda s: s.replace("/", "")), st.booleans())
@example("\ud800", True)
@example("\udcff", True)
@example("\udcc3\udca9", False)
@example("", False)
@example("..", False)
@example("\0", False)
@example("\0" * 300, True)
def test_any_string_at_all_gets_a_legal_name(segment: str, utf8_only: bool) -> None:
    shown = names.to_name(segment, utf8_only=utf8_only)
    assert is_legal(shown.name)
    if shown.is_exact:
        assert names.to_segment(shown.name, utf8_only=utf8_only) == segment
    for other in (
        names.beside_dir(segment, utf8_only=utf8_only),
        names.hashed_name(segment, utf8_only=utf8_only),
    ):
        assert is_legal(other.name)
        assert not other.is_exact
        assert other.name != shown.name or not shown.is_exact


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("report.txt", "report.txt"),
        ("Grüße", "Grüße"),
        ("", "％"),
        (".", "％2E"),
        ("..", "％2E2E"),
        ("a\0b", "％610062"),
        ("％2E", "％EFBC853245"),
        ("％41", "％41"),
        ("100％", "100％"),
        ("％b41", "％b41"),
        ("％bEFBC85624646", "％bFF"),
        ("％bFF2F", "％bFF2F"),
    ],
)
def test_documented_names(segment: str, name: str) -> None:
    assert names.to_name(segment, utf8_only=True) == ShownName(name.encode(), is_exact=True)
    assert names.to_segment(name.encode(), utf8_only=True) == segment


def test_bytes_that_are_not_utf8_become_text_in_a_text_store() -> None:
    assert names.to_segment(b"caf\xe9", utf8_only=True) == "％b636166E9"
    assert names.to_name("％b636166E9", utf8_only=True) == ShownName(b"caf\xe9", is_exact=True)


def test_name_of_255_bytes_is_exact_and_256_is_shortened() -> None:
    assert names.to_name("x" * 255, utf8_only=True) == ShownName(b"x" * 255, is_exact=True)
    long = names.to_name("x" * 256, utf8_only=True)
    assert not long.is_exact
    assert len(long.name) == MAX
    assert long.name.startswith(b"x" * 235 + "％~".encode())


def test_shortened_names_end_at_a_character_and_differ() -> None:
    first = names.to_name("é" * 200 + "1", utf8_only=True)
    second = names.to_name("é" * 200 + "2", utf8_only=True)
    assert first.name != second.name
    assert first.name.decode().startswith("é" * 117 + "％~")


def test_file_beside_a_directory_is_shown_with_a_suffix() -> None:
    assert names.beside_dir("a", utf8_only=True) == ShownName("a％f".encode(), is_exact=False)


def test_long_file_beside_a_directory_differs_from_the_directory() -> None:
    for length in (253, 255, 300):
        directory = names.to_name("d" * length, utf8_only=True)
        beside = names.beside_dir("d" * length, utf8_only=True)
        assert len(beside.name) <= MAX
        assert beside.name != directory.name
        assert not beside.is_exact


def test_segment_with_a_slash_is_refused() -> None:
    with pytest.raises(ValueError, match="segment"):
        names.to_name("a/b", utf8_only=True)


def test_conflict_name_tells_device_and_time() -> None:
    name = names.conflict_name(b"thesis.tex", "laptop", WHEN_NS)
    assert name == b"thesis.tex.laptop-20260102T030405Z.conflict"
    assert names.conflict_parts(name) == (b"thesis.tex", "laptop", WHEN_NS)


def test_second_conflict_of_the_same_second_is_numbered() -> None:
    name = names.conflict_name(b"a", "pc", WHEN_NS, 2)
    assert name == b"a.pc-20260102T030405Z-2.conflict"
    assert names.conflict_parts(name) == (b"a", "pc", WHEN_NS)


@given(local_names, st.text(max_size=100), st.integers(0, 2**62), st.integers(0, 10**6))
@example(b"a" * 255, "", 0, 1)
@example(b"a.pc-20260102T030405Z.conflict", "pc", WHEN_NS, 0)
@example(b"a", "x-20260101T000000Z", WHEN_NS, 3)
def test_conflict_name_is_legal_and_readable(name: bytes, device: str, when: int, n: int) -> None:
    conflict = names.conflict_name(name, device, when, n)
    assert is_legal(conflict)
    assert names.is_conflict_name(conflict)
    parts = names.conflict_parts(conflict)
    assert parts is not None
    original, said_device, said_when = parts
    assert name.startswith(original)
    assert said_when == when // 10**9 * 10**9
    assert said_device
    assert not names.is_conflict_name(original)


@given(local_names, st.text(max_size=20), st.text(max_size=20))
def test_conflict_of_a_conflict_is_one_of_the_original(name: bytes, one: str, two: str) -> None:
    first = names.conflict_name(name, one, WHEN_NS)
    second = names.conflict_name(first, two, WHEN_NS)
    parts = names.conflict_parts(first)
    assert parts is not None
    assert second == names.conflict_name(parts[0], two, WHEN_NS)


def test_long_conflict_name_is_cut_at_a_character() -> None:
    name = names.conflict_name("é".encode() * 127, "pc", WHEN_NS)
    assert len(name) in (MAX, MAX - 1)
    name.decode()
    assert name.endswith(b".pc-20260102T030405Z.conflict")


@pytest.mark.parametrize(
    "name",
    [
        b"a.conflict",
        b".pc-20260102T030405Z.conflict",
        b"a.pc-20261302T030405Z.conflict",
        b"a.pc-20260102T030405Z.conflict.txt",
        b"a.-20260102T030405Z.conflict",
        b"a.pc-20260102T030405Z-.conflict",
    ],
)
def test_other_names_are_no_conflicts(name: bytes) -> None:
    assert not names.is_conflict_name(name)


@pytest.mark.parametrize(
    ("directory", "segment", "kind", "key"),
    [
        ("", "a", Kind.FILE, "a"),
        ("", "a", Kind.DIR, "a/"),
        ("a/", "b", Kind.FILE, "a/b"),
        ("a/", "", Kind.DIR, "a//"),
        ("", "", Kind.DIR, "/"),
        ("a//", "b", Kind.FILE, "a//b"),
        ("a/../", ".", Kind.DIR, "a/.././"),
    ],
)
def test_keys_are_joined_and_split(directory: str, segment: str, kind: Kind, key: str) -> None:
    assert names.child_key(directory, segment, kind) == key
    assert names.split_key(key, kind) == (directory, segment)


def test_file_without_a_name_would_be_the_directory_itself() -> None:
    with pytest.raises(Unrepresentable):
        names.child_key("a/", "", Kind.FILE)


@pytest.mark.parametrize(("key", "kind"), [("", Kind.DIR), ("", Kind.FILE), ("a/", Kind.FILE)])
def test_keys_that_are_no_child_cannot_be_split(key: str, kind: Kind) -> None:
    with pytest.raises(ValueError, match="not the key"):
        names.split_key(key, kind)
