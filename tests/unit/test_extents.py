"""Extents against a plain set of byte offsets."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from csyncfs.extents import Extents
from csyncfs.types import Span

SIZE = 40
offsets = st.integers(0, SIZE)
ops = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "truncate", "clear"]), offsets, offsets),
    max_size=25,
)


def build(operations: list[tuple[str, int, int]]) -> tuple[Extents, set[int]]:
    extents = Extents()
    model: set[int] = set()
    for name, start, end in operations:
        match name:
            case "add":
                extents.add(start, end)
                model |= set(range(start, end))
            case "remove":
                extents.remove(start, end)
                model -= set(range(start, end))
            case "truncate":
                extents.truncate(start)
                model = {offset for offset in model if offset < start}
            case _:
                extents.clear()
                model = set[int]()
    return extents, model


def bytes_of(spans: list[Span]) -> set[int]:
    return {offset for span in spans for offset in range(span.start, span.end)}


def is_minimal(spans: list[Span]) -> bool:
    return all(s.start < s.end for s in spans) and all(a.end < b.start for a, b in pairwise(spans))


@given(ops)
def test_operations_agree_with_a_set_of_offsets(operations: list[tuple[str, int, int]]) -> None:
    extents, model = build(operations)
    spans = list(extents)
    assert bytes_of(spans) == model
    assert is_minimal(spans)
    assert extents.total_bytes == len(model)
    assert len(extents) == len(spans)
    assert bool(extents) == bool(model)


@given(ops, offsets, offsets)
def test_queries_agree_with_a_set_of_offsets(
    operations: list[tuple[str, int, int]], start: int, end: int
) -> None:
    extents, model = build(operations)
    asked = set(range(start, end))
    assert extents.covers(start, end) == (asked <= model)
    assert bytes_of(extents.within(start, end)) == asked & model
    assert bytes_of(extents.missing(start, end)) == asked - model
    assert is_minimal(extents.within(start, end))
    assert is_minimal(extents.missing(start, end))


@given(ops, ops)
def test_set_operations_make_new_sets(
    left: list[tuple[str, int, int]], right: list[tuple[str, int, int]]
) -> None:
    (a, a_model), (b, b_model) = build(left), build(right)
    union, rest = a.union(b), a.subtract(b)
    assert bytes_of(list(union)) == a_model | b_model
    assert bytes_of(list(rest)) == a_model - b_model
    assert union.total_bytes == len(a_model | b_model)
    assert rest.total_bytes == len(a_model - b_model)
    assert bytes_of(list(a)) == a_model
    assert bytes_of(list(b)) == b_model
    assert (a == b) == (a_model == b_model)


@given(ops)
def test_blob_restores_the_same_set(operations: list[tuple[str, int, int]]) -> None:
    extents, model = build(operations)
    restored = Extents.from_bytes(extents.to_bytes())
    assert restored == extents
    assert restored.total_bytes == len(model)


@given(st.binary(max_size=12))
@example(b"\x00")
@example(b"\x05\x00")
@example(b"\x80\x00\x01")
@example(b"\xff" * 12)
def test_blob_is_either_canonical_or_refused(blob: bytes) -> None:
    try:
        extents = Extents.from_bytes(blob)
    except ValueError:
        return
    assert extents.to_bytes() == blob
    assert is_minimal(list(extents))


@pytest.mark.parametrize(
    "blob", [b"\x05", b"\x05\x00", b"\x00\x05\x00\x05", b"\x80", b"\x80\x00\x01"]
)
def test_junk_blob_raises(blob: bytes) -> None:
    with pytest.raises(ValueError, match="extents blob"):
        Extents.from_bytes(blob)


def test_empty_set_is_an_empty_blob() -> None:
    assert Extents().to_bytes() == b""
    assert not Extents.from_bytes(b"")


def test_whole_file_of_a_terabyte_takes_few_bytes() -> None:
    whole = Extents.whole(1 << 40)
    assert list(whole) == [Span(0, 1 << 40)]
    assert len(whole.to_bytes()) <= 7


def test_whole_of_an_empty_file_is_empty_and_covers_it() -> None:
    assert not Extents.whole(0)
    assert Extents.whole(0).covers(0, 0)


def test_negative_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Extents().add(-1, 5)


def test_copy_is_independent() -> None:
    first = Extents.whole(10)
    second = first.copy()
    second.remove(2, 4)
    assert first.total_bytes == 10
    assert second.total_bytes == 8


def test_sets_are_not_hashable() -> None:
    with pytest.raises(TypeError):
        hash(Extents())
