"""Downloads, written into the caller's file by the thread that receives them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from csyncfs.backends.base import Landed
from csyncfs.backends.landing import Gate
from csyncfs.backends.s3 import items
from csyncfs.backends.s3.wire import Reply, Wire
from csyncfs.errors import Hold, Retry, VersionMismatch
from csyncfs.types import Item, Kind, RemoteVersion, Span

# Larger reads gain nothing; 64 KiB reads cost half the throughput.
_READ_BYTES: Final = 1 << 20


async def fetch(
    wire: Wire,
    key: str,
    span: Span,
    fd: int,
    expect: RemoteVersion,
    landed: Landed,
    *,
    md5_tags: bool,
) -> Item:
    """Write the span of that version; see Backend.fetch. The span is not empty."""
    gate = Gate(fd, landed)
    full_key = wire.options.full_key(key)
    md5 = expect.md5 if span.end <= expect.size <= wire.options.whole_bytes else None
    # What is told is the checksum of the whole object.
    asked = span if md5 is None else Span(0, expect.size)
    order = _Order(span, asked, expect, md5, gate)
    params = {
        "Key": full_key,
        "Range": f"bytes={order.asked.start}-{order.asked.end - 1}",
        "IfMatch": f'"{expect.tag}"',
    }
    try:
        reply = await wire.fetches.run(
            lambda: _receive(wire, params, order), wire.deadline_s(order.asked.size_bytes)
        )
    finally:
        gate.shut()
    return items.from_head(
        key, Kind.FILE, reply, full_key=full_key, md5_tags=md5_tags, size=expect.size
    )


@dataclass(frozen=True, slots=True)
class _Order:
    """What is wanted, and what is asked for to get it."""

    span: Span
    asked: Span
    expect: RemoteVersion
    md5: str | None
    """What to check the content against, unless the reply says that it cannot be."""
    gate: Gate


def _receive(wire: Wire, params: dict[str, str], order: _Order) -> Reply:
    reply = wire.call("get_object", **params)
    body = reply.pop("Body")
    try:
        order.gate.receive_from(hanging_up(body))
        _check(reply, order)
        if order.md5 is None or items.is_opaque(reply):
            _copy(body, order, order.gate.write)
        else:
            _copy_checked(wire, params["Key"], body, order, order.md5)
    except BaseException:
        body.close()
        raise
    order.gate.finish()
    return reply


def hanging_up(body: Any) -> Callable[[], object]:
    # urllib3's shutdown may be called from another thread than the reader's.
    return getattr(getattr(body, "_raw_stream", None), "shutdown", body.close)


def _check(reply: Reply, order: _Order) -> None:
    """Not every server honours Range and If-Match; believe what the reply says only."""
    if items.tag_of(reply) != order.expect.tag:
        raise VersionMismatch("somebody else changed the item")
    asked = order.asked
    told = str(reply.get("ContentRange", ""))
    wanted = f"bytes {asked.start}-{asked.end - 1}/"
    whole = not told and asked.start == 0 and int(reply.get("ContentLength", -1)) == asked.end
    if not whole and not told.startswith(wanted):
        raise Hold("the server does not answer with the range it was asked for")


def _copy_checked(wire: Wire, key: str, body: Any, order: _Order, md5: str) -> None:
    """As ``_copy``, but nothing is announced before all of it is known to be good."""
    digest = hashlib.md5(usedforsecurity=False)
    begin = order.span.start
    _copy(body, order, lambda data, at: order.gate.keep(data, at, begin), digest.update)
    if not wire.bodies.are_right(key, md5, digest.hexdigest()):
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
        data = _read(body, min(_READ_BYTES, order.asked.end - offset))
        if not data:
            raise Retry("the server sent less than it announced")
        see(data)
        start, end = max(offset, span.start), min(offset + len(data), span.end)
        write(data[start - offset : max(end - offset, 0)], min(start, span.end))
        offset += len(data)


def _read(body: Any, size: int) -> bytes:
    from csyncfs.backends.s3.translation import translate

    try:
        return body.read(size)
    except Exception as exc:
        raise translate(exc, "get_object") from exc
