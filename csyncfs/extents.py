"""Sets of byte ranges: which bytes of a content file are present, and which are dirty.

Owns the representation (one flat sorted list of edges) and its stored form, a blob of
varints. Ranges are half-open; neighbours that touch are one extent. A range whose end is
not beyond its start is empty: adding or removing it does nothing, and it is covered.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Self

from csyncfs.types import Span

_MAX_VARINT_BITS = 70


class Extents:
    """A mutable set of bytes, kept as the fewest possible ranges."""

    __slots__ = ("_edges", "_total")

    def __init__(self) -> None:
        # start, end, start, end, ... strictly ascending: an even index is a start.
        self._edges: list[int] = []
        self._total = 0

    @classmethod
    def whole(cls, size: int) -> Self:
        """Every byte of a file of this size."""
        extents = cls()
        extents.add(0, size)
        return extents

    @property
    def total_bytes(self) -> int:
        return self._total

    @property
    def end(self) -> int:
        """Behind the last byte that is in; 0 for none."""
        return self._edges[-1] if self._edges else 0

    def add(self, start: int, end: int) -> None:
        """Put the bytes in; those that are in already stay. Raises ValueError below 0."""
        if start < 0:
            raise ValueError(f"negative offset {start}")
        if start >= end:
            return
        edges = self._edges
        if not edges or start > edges[-1]:
            edges += (start, end)
            self._total += end - start
        elif start >= edges[-2]:
            if end > edges[-1]:
                self._total += end - edges[-1]
                edges[-1] = end
        else:
            # An odd index lies inside an extent (or at its end): that edge is no longer one.
            first, last = bisect_left(edges, start), bisect_right(edges, end)
            self._splice(first, last, start if first % 2 == 0 else None, end, last % 2 == 0)

    def remove(self, start: int, end: int) -> None:
        """Take the bytes out; those that are not in are no error."""
        edges = self._edges
        if start >= end or not edges or start >= edges[-1] or end <= edges[0]:
            return
        first, last = bisect_left(edges, start), bisect_right(edges, end)
        self._splice(first, last, start if first % 2 == 1 else None, end, last % 2 == 1)

    def truncate(self, size: int) -> None:
        """Take out every byte at or beyond ``size``."""
        if self._edges and size < self._edges[-1]:
            self.remove(size, self._edges[-1])

    def clear(self) -> None:
        self._edges.clear()
        self._total = 0

    def covers(self, start: int, end: int) -> bool:
        """Whether every byte of the range is in."""
        if start >= end:
            return True
        edges = self._edges
        if len(edges) == 2:
            return edges[0] <= start and end <= edges[1]
        index = bisect_right(edges, start)
        return index % 2 == 1 and end <= edges[index]

    def within(self, start: int, end: int) -> list[Span]:
        """The parts of the range that are in."""
        edges = self._edges
        found: list[Span] = []
        # The extent around ``start``, or the first one behind it.
        for index in range(bisect_right(edges, start) & ~1, len(edges), 2):
            low, high = max(edges[index], start), min(edges[index + 1], end)
            if low >= end:
                break
            if low < high:
                found.append(Span(low, high))
        return found

    def missing(self, start: int, end: int) -> list[Span]:
        """The parts of the range that are not in."""
        gaps: list[Span] = []
        position = start
        for span in self.within(start, end):
            if position < span.start:
                gaps.append(Span(position, span.start))
            position = span.end
        if position < end:
            gaps.append(Span(position, end))
        return gaps

    def union(self, other: "Extents") -> "Extents":
        """Bytes in either, as a new set."""
        small, large = sorted((self, other), key=len)
        result = large.copy()
        for span in small:
            result.add(span.start, span.end)
        return result

    def subtract(self, other: "Extents") -> "Extents":
        """Bytes in this set and not in ``other``, as a new set."""
        result = self.copy()
        for span in other:
            result.remove(span.start, span.end)
        return result

    def copy(self) -> "Extents":
        twin = Extents()
        twin._edges = self._edges.copy()
        twin._total = self._total
        return twin

    def to_bytes(self) -> bytes:
        """The stored form: the distances from edge to edge as varints; empty for no bytes."""
        blob = bytearray()
        previous = 0
        for edge in self._edges:
            _put_varint(blob, edge - previous)
            previous = edge
        return bytes(blob)

    @classmethod
    def from_bytes(cls, blob: bytes) -> Self:
        """The set ``to_bytes`` made this of. Raises ValueError for anything else."""
        extents = cls()
        edges = extents._edges
        position = 0
        for distance in _varints(blob):
            if distance == 0 and edges:
                raise ValueError("extents blob has an empty range")
            position += distance
            edges.append(position)
        if len(edges) % 2:
            raise ValueError("extents blob ends inside a range")
        extents._total = sum(edges[1::2]) - sum(edges[::2])
        return extents

    def __iter__(self) -> Iterator[Span]:
        edges = self._edges
        return (Span(edges[i], edges[i + 1]) for i in range(0, len(edges), 2))

    def __len__(self) -> int:
        """How many ranges."""
        return len(self._edges) // 2

    def __bool__(self) -> bool:
        return bool(self._edges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and self._edges == other._edges

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Extents({', '.join(f'{s.start}-{s.end}' for s in self)})"

    def _splice(self, first: int, last: int, start: int | None, end: int, keep_end: bool) -> None:
        """Replace edges[first:last] by the given new edges and correct the total."""
        edges = self._edges
        total = self._total - _signed_sum(edges[first:last], first)
        fresh = [] if start is None else [start]
        if keep_end:
            fresh.append(end)
        self._total = total + _signed_sum(fresh, first)
        edges[first:last] = fresh


def _signed_sum(edges: list[int], index: int) -> int:
    """Ends minus starts of a run of edges whose first has this index."""
    odd = index % 2
    return sum(edges[1 - odd :: 2]) - sum(edges[odd::2])


def _put_varint(blob: bytearray, number: int) -> None:
    while number > 0x7F:
        blob.append(number & 0x7F | 0x80)
        number >>= 7
    blob.append(number)


def _varints(blob: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in blob:
        if shift >= _MAX_VARINT_BITS:
            raise ValueError("extents blob has a number out of range")
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte & 0x80:
            continue
        if byte == 0 and shift > 7:
            raise ValueError("extents blob is not in its shortest form")
        yield number
        number = shift = 0
    if shift:
        raise ValueError("extents blob is cut short")
