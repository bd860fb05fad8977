"""Downloads, written into the caller's file by the thread that receives them.

Asked for on the condition that generation and metageneration are the expected ones, and not by
``generation=``: a bucket with object versioning would go on serving what nobody sees any more.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from csyncfs.backends import metadata
from csyncfs.backends.base import Landed
from csyncfs.backends.gcs import items, looking
from csyncfs.backends.gcs.wire import Wire, told
from csyncfs.backends.landing import Gate
from csyncfs.errors import Hold, Retry, VersionMismatch
from csyncfs.types import Item, Kind, Location, RemoteVersion, Span

# Larger reads gain nothing; 64 KiB reads cost half the throughput.
_READ_BYTES: Final = 1 << 20


class _Sum(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def digest(self) -> bytes: ...


async def fetch(
    wire: Wire, key: str, span: Span, fd: int, expect: RemoteVersion, landed: Landed
) -> Item:
    """Write the span of that version; see Backend.fetch. The span is not empty."""
    gate = Gate(fd, landed)
    name = wire.options.object_name(key)
    is_checked = span.end <= expect.size <= wire.options.whole_bytes
    # What is told is the checksum of the whole object.
    asked = Span(0, expect.size) if is_checked else span
    order = _Order(name, span, asked, expect, is_checked, gate)
    words = await _words(wire, name, expect)
    try:
        await wire.fetches.run(
            lambda: told("reading", lambda: _receive(wire, order)),
            wire.deadline_s(asked.size_bytes),
        )
    finally:
        gate.shut()
    return Item(
        Location(key),
        Kind.FILE,
        expect,
        metadata.decode(words, name),
        metadata.put_id(words),
        metadata.device(words),
    )


async def _words(wire: Wire, name: str, expect: RemoteVersion) -> Mapping[str, str]:
    """The metadata of that version, which its content comes without. Raises Unmet."""
    known = wire.words.of(name, expect.tag)
    if known is not None:
        return known
    return items.words_of(await looking.resource_of(wire, name, items.condition(expect)))


@dataclass(frozen=True, slots=True)
class _Order:
    """What is wanted, and what is asked for to get it."""

    name: str
    span: Span
    asked: Span
    expect: RemoteVersion
    is_checked: bool
    """Against the checksum of the whole."""
    gate: Gate


def _receive(wire: Wire, order: _Order) -> None:
    """In a thread: return when the body is in the file."""
    response = _ask(wire, order)
    body = response.raw
    try:
        order.gate.receive_from(getattr(body, "shutdown", response.close))
        _check(response, order)
        if order.is_checked:
            _copy_checked(wire, response, order)
        else:
            _copy(body, order, order.gate.write)
    except BaseException:
        response.close()
        raise
    order.gate.finish()
    # Read to its end, the connection goes back to the pool.
    body.read(0)
    response.close()


def _ask(wire: Wire, order: _Order) -> Any:
    from csyncfs.backends.gcs.client import object_path

    return wire.client.send(
        "GET",
        wire.client.url("download", object_path(order.name)),
        params={"alt": "media", **items.condition(order.expect)},
        headers={
            "Range": f"bytes={order.asked.start}-{order.asked.end - 1}",
            # As stored: without it the server unpacks objects that say they are packed.
            "Accept-Encoding": "gzip",
            # Public objects may come out of a cache.
            "Cache-Control": "no-cache",
        },
        stream=True,
    )


def _check(response: Any, order: _Order) -> None:
    """Believe what the reply says only."""
    headers = response.headers
    tag = f"{headers.get('x-goog-generation')}-{headers.get('x-goog-metageneration')}"
    if tag != order.expect.tag:
        raise VersionMismatch("somebody else changed the item")
    asked = order.asked
    range_told = headers.get("content-range", "")
    length = int(headers.get("content-length", -1))
    whole = not range_told and asked.start == 0 and asked.end == length
    if not whole and not range_told.startswith(f"bytes {asked.start}-{asked.end - 1}/"):
        raise Hold("the server does not answer with the range it was asked for")


def _copy_checked(wire: Wire, response: Any, order: _Order) -> None:
    """As ``_copy``, but nothing is announced before all of it is known to be good."""
    checksum, right = _checksum(response, order)
    begin = order.span.start
    _copy(
        response.raw,
        order,
        lambda data, at: order.gate.keep(data, at, begin),
        checksum.update,
    )
    if not wire.bodies.are_right(order.name, right, checksum.digest().hex()):
        raise Retry("the content arrived damaged")
    order.gate.announce(order.span)


def _checksum(response: Any, order: _Order) -> tuple[_Sum, str]:
    """How to sum, and the right result: the CRC32C, which every object has, else the MD5."""
    import google_crc32c

    told_of = {
        name.strip(): value
        for name, _, value in (
            part.partition("=") for part in response.headers.get("x-goog-hash", "").split(",")
        )
    }
    if crc32c := told_of.get("crc32c"):
        return google_crc32c.Checksum(), base64.b64decode(crc32c).hex()
    if order.expect.md5 is None:
        raise Retry("the server tells no checksum")
    return hashlib.md5(usedforsecurity=False), order.expect.md5


def _copy(
    body: Any,
    order: _Order,
    write: Callable[[bytes, int], None],
    see: Callable[[bytes], object] = len,
) -> None:
    """Write the part of the body that is wanted; all of it is seen."""
    span, offset = order.span, order.asked.start
    while offset < order.asked.end:
        data = body.read(min(_READ_BYTES, order.asked.end - offset), decode_content=False)
        if not data:
            raise Retry("the server sent less than it announced")
        see(data)
        start, end = max(offset, span.start), min(offset + len(data), span.end)
        write(data[start - offset : max(end - offset, 0)], min(start, span.end))
        offset += len(data)
