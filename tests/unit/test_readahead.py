"""Read plans: enough ahead for a stream, next to nothing for random reads."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csyncfs.extents import Extents
from csyncfs.readahead import ALIGN, FIRST_WINDOW, MAX_WINDOW, TOLERANCE, ReadPlan
from csyncfs.types import Span

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Reader:
    """A handle on a file in the cloud: what it plans is present at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.plan = ReadPlan()
        self.present = Extents()
        self.planned: list[Span] = []
        self.cold_reads = 0

    def read(self, start: int, length: int) -> None:
        end = min(start + length, self.size)
        if not self.present.covers(start, end):
            self.cold_reads += 1
            span = self.plan.next(start, end, self.size)
            assert span.start <= start
            assert span.end >= end
            self._fetch(span)
        ahead = self.plan.ahead(start, end, self.size)
        if ahead is not None:
            self._fetch(ahead)

    def read_range(self, start: int, length: int, step: int = ALIGN) -> None:
        for offset in range(start, start + length, step):
            self.read(offset, min(step, start + length - offset))

    def _fetch(self, span: Span) -> None:
        assert 0 <= span.start < span.end <= self.size
        self.planned.append(span)
        self.present.add(span.start, span.end)

    @property
    def planned_bytes(self) -> int:
        return sum(span.size_bytes for span in self.planned)


@pytest.mark.parametrize("step", [4 * KIB, 100_000, ALIGN, MIB])
def test_sequential_read_plans_each_byte_once_in_few_windows(step: int) -> None:
    reader = Reader(GIB)
    reader.read_range(0, GIB, step)
    assert reader.planned_bytes == GIB
    assert reader.present == Extents.whole(GIB)
    assert len(reader.planned) <= 40
    assert max(span.size_bytes for span in reader.planned) == MAX_WINDOW


@pytest.mark.parametrize("step", [4 * KIB, ALIGN, MIB])
def test_sequential_reader_waits_only_for_its_first_bytes(step: int) -> None:
    reader = Reader(GIB)
    reader.read_range(0, GIB, step)
    assert reader.cold_reads <= 2


def test_next_window_is_asked_for_while_half_of_the_last_is_unread() -> None:
    reader = Reader(GIB)
    for offset in range(0, 512 * MIB, ALIGN):
        before = reader.present.total_bytes
        reader.read(offset, ALIGN)
        if offset > 100 * MIB and reader.present.total_bytes > before:
            assert before - offset >= MAX_WINDOW // 2 - ALIGN


def test_one_mebibyte_in_the_middle_of_a_large_file_costs_little() -> None:
    for start in (512 * MIB, 512 * MIB + 77_777):
        reader = Reader(GIB)
        reader.read_range(start, MIB)
        assert reader.planned_bytes < 8 * MIB


def test_first_read_fetches_about_a_mebibyte() -> None:
    assert ReadPlan().next(5 * MIB + 5, 5 * MIB + 4101, GIB) == Span(5 * MIB, 6 * MIB)
    assert FIRST_WINDOW == MIB


def test_random_small_reads_soon_fetch_only_their_own_unit() -> None:
    rng = random.Random(1)
    reader = Reader(100 * GIB)
    for _ in range(1000):
        reader.read(rng.randrange(reader.size // 4096) * 4096, 4096)
    assert reader.planned_bytes <= 2 * MIB + 1000 * ALIGN
    assert all(span.size_bytes == ALIGN for span in reader.planned[3:])


@pytest.mark.parametrize("block", [ALIGN, 256 * KIB, MIB, 2 * MIB, 4 * MIB])
def test_random_block_reads_fetch_at_most_twice_what_is_read(block: int) -> None:
    rng = random.Random(2)
    reader = Reader(1000 * GIB)
    for _ in range(100):
        reader.read_range(rng.randrange(reader.size // block) * block, block)
    assert reader.planned_bytes <= 100 * 2 * block + 8 * MIB


def test_random_reader_that_turns_sequential_gets_windows_again() -> None:
    rng = random.Random(3)
    reader = Reader(100 * GIB)
    for _ in range(50):
        reader.read(rng.randrange(reader.size // 4096) * 4096, 4096)
    reader.planned.clear()
    reader.cold_reads = 0
    reader.read_range(50 * GIB, 256 * MIB)
    assert max(span.size_bytes for span in reader.planned) == MAX_WINDOW
    assert reader.cold_reads <= 6
    assert reader.planned_bytes <= (256 + 64) * MIB


def test_requests_the_kernel_reorders_are_one_stream() -> None:
    rng = random.Random(4)
    offsets = list(range(0, 256 * MIB, ALIGN))
    for group in range(0, len(offsets), 8):
        part = offsets[group : group + 8]
        rng.shuffle(part)
        offsets[group : group + 8] = part
    reader = Reader(256 * MIB)
    for offset in offsets:
        reader.read(offset, ALIGN)
    assert reader.planned_bytes <= 256 * MIB + 4 * TOLERANCE
    assert len(reader.planned) <= 20
    assert reader.cold_reads <= 4


def test_small_jump_forward_is_filled_not_taken_for_random() -> None:
    plan = ReadPlan()
    first = plan.next(0, 7 * ALIGN, GIB)
    second = plan.next(first.end + 512 * KIB, first.end + 640 * KIB, GIB)
    assert second == Span(first.end, first.end + 2 * MIB)


def test_present_bytes_are_followed_until_they_end() -> None:
    plan = ReadPlan()
    spans = [plan.ahead(offset, offset + ALIGN, GIB) for offset in range(0, MIB, ALIGN)]
    assert spans[:3] == [None] * 3
    assert next(span for span in spans if span) == Span(512 * KIB, 512 * KIB + MIB)


def test_single_reads_of_present_bytes_prefetch_nothing() -> None:
    plan = ReadPlan()
    for offset in (0, 300 * MIB, 20 * MIB):
        assert plan.ahead(offset, offset + MIB, GIB) is None


def test_evicted_bytes_of_a_stream_are_fetched_again() -> None:
    reader = Reader(GIB)
    reader.read_range(0, 64 * MIB)
    span = reader.plan.next(63 * MIB, 63 * MIB + ALIGN, GIB)
    assert span.start == 63 * MIB
    assert span.size_bytes >= MIB


def test_nothing_is_planned_beyond_the_end() -> None:
    reader = Reader(3 * MIB + 12_345)
    reader.read_range(0, reader.size)
    assert reader.planned_bytes == reader.size
    assert reader.plan.ahead(reader.size - 10, reader.size, reader.size) is None


def test_read_beyond_the_end_plans_nothing() -> None:
    assert ReadPlan().next(10 * MIB, 11 * MIB, MIB).size_bytes == 0


@given(
    st.integers(1, 20 * MIB),
    st.lists(st.tuples(st.integers(0, 20 * MIB), st.integers(1, 2 * MIB)), max_size=30),
)
def test_plan_contains_the_read_whatever_came_before(
    size: int, reads: list[tuple[int, int]]
) -> None:
    reader = Reader(size)
    for start, length in reads:
        if start < size:
            reader.read(start, length)


def test_noting_a_read_twice_is_noting_it_once() -> None:
    plan = ReadPlan()
    rng = random.Random(5)
    for _ in range(3):
        start = rng.randrange(GIB)
        plan.next(start, start + 8 * MIB, 10 * GIB)
        plan.next(start, start + 8 * MIB, 10 * GIB)
    # Two jumps so far: one more would make the handle random and this window exact.
    assert plan.next(5 * GIB + 16 * MIB, 5 * GIB + 17 * MIB, 10 * GIB).size_bytes == MIB
