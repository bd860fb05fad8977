"""Downloads, written into the caller's file by the thread that receives them.

By the generated layer of the SDK: the one above it returns a range when all of it is in memory.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from csyncfs.backends import metadata
from csyncfs.backends.azureblob import items
from csyncfs.backends.azureblob.wire import Wire, told
from csyncfs.backends.base import Landed
from csyncfs.backends.landing import Gate
from csyncfs.errors import Hold, NotFound, Retry, VersionMismatch
from csyncfs.types import Item, Kind, Location, RemoteVersion, Span

# Larger reads gain nothing; 64 KiB reads cost half the throughput.
_READ_BYTES: Final = 1 << 20
_META: Final = "x-ms-meta-"


async def fetch(
    wire: Wire, key: str, span: Span, fd: int, expect: RemoteVersion, landed: Landed
) -> Item:
    """Write the span of that version; see Backend.fetch. The span is not empty."""
    gate = Gate(fd, landed)
    md5 = expect.md5 if span.end <= expect.size <= wire.options.whole_bytes else None
    # What is told is the checksum of the whole blob.
    asked = span if md5 is None else Span(0, expect.size)
    order = _Order(wire.options.blob_name(key), span, asked, expect, md5, gate)
    try:
        headers = await wire.fetches.run(
            lambda: told("reading", lambda: _receive(wire, order)),
            wire.deadline_s(asked.size_bytes),
        )
    finally:
        gate.shut()
    return _item(key, order, headers)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is wanted, and what is asked for to get it."""

    name: str
    span: Span
    asked: Span
    expect: RemoteVersion
    md5: str | None
    """What to check the content against."""
    gate: Gate


def _item(key: str, order: _Order, headers: Mapping[str, str]) -> Item:
    words = {
        name[len(_META) :]: value
        for name, value in headers.items()
        if name.lower().startswith(_META)
    }
    if items.is_dir(words):
        raise NotFound("reading: no such item")
    return Item(
        Location(key),
        Kind.FILE,
        order.expect,
        metadata.decode(words, order.name),
        metadata.put_id(words),
        metadata.device(words),
    )


def _receive(wire: Wire, order: _Order) -> Mapping[str, str]:
    """In a thread: the headers of the reply, when its body is in the file."""
    response = _ask(wire, order)
    body = response.raw
    try:
        order.gate.receive_from(_hanging_up(response))
        _check(response, order)
        if order.md5 is None:
            _copy(body, order, order.gate.write)
        else:
            _copy_checked(wire, body, order, order.md5)
    except BaseException:
        response.close()
        raise
    order.gate.finish()
    # Read to its end, the connection goes back to the pool.
    body.read(0)
    response.close()
    return response.headers


def _ask(wire: Wire, order: _Order) -> Any:
    """The reply as ``requests`` has it: its body is neither read nor unpacked yet."""
    generated: Any = wire.blob(order.name)._client  # pyright: ignore
    return generated.blob.download(
        range=f"bytes={order.asked.start}-{order.asked.end - 1}",
        headers={"If-Match": f'"{order.expect.tag}"'},
        cls=_as_received,
    )


def _as_received(reply: Any, *_: object) -> Any:
    return reply.http_response.internal_response


def _hanging_up(response: Any) -> Callable[[], object]:
    # urllib3's shutdown may be called from another thread than the reader's.
    return getattr(response.raw, "shutdown", response.close)


def _check(response: Any, order: _Order) -> None:
    """Believe what the reply says only."""
    if items.tag_of(response.headers.get("etag")) != order.expect.tag:
        raise VersionMismatch("somebody else changed the item")
    asked = order.asked
    told = response.headers.get("content-range", "")
    whole = not told and asked.start == 0 and asked.end == _length(response)
    if not whole and not told.startswith(f"bytes {asked.start}-{asked.end - 1}/"):
        raise Hold("the server does not answer with the range it was asked for")


def _length(response: Any) -> int:
    return int(response.headers.get("content-length", -1))


def _copy_checked(wire: Wire, body: Any, order: _Order, md5: str) -> None:
    """As ``_copy``, but nothing is announced before all of it is known to be good."""
    digest = hashlib.md5(usedforsecurity=False)
    begin = order.span.start
    _copy(body, order, lambda data, at: order.gate.keep(data, at, begin), digest.update)
    if not wire.bodies.are_right(order.name, md5, digest.hexdigest()):
        raise Retry("the content arrived damaged")
    order.gate.announce(order.span)


def _copy(
    body: Any,
    order: _Order,
    write: Callable[[bytes, int], None],
    see: Callable[[bytes], object] = len,
) -> None:
    """Write the part of the body that is wanted; all of it is seen."""
    span, offset = order.span, order.asked.start
    while offset < order.asked.end:
        # As stored: a blob that says it is packed is not unpacked.
        data = body.read(min(_READ_BYTES, order.asked.end - offset), decode_content=False)
        if not data:
            raise Retry("the server sent less than it announced")
        see(data)
        start, end = max(offset, span.start), min(offset + len(data), span.end)
        write(data[start - offset : max(end - offset, 0)], min(start, span.end))
        offset += len(data)
