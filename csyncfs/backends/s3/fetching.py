"""Downloads, written into the caller's file by the thread that receives them."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import trio

from csyncfs.backends.base import Landed
from csyncfs.backends.s3 import items
from csyncfs.backends.s3.wire import Reply, Wire
from csyncfs.errors import FsError, Hold, Retry, VersionMismatch
from csyncfs.types import Item, Kind, RemoteVersion, Span

# Larger reads gain nothing; 64 KiB reads cost half the throughput.
_READ_BYTES: Final = 1 << 20


class _Closed(Exception):
    """The caller no longer waits; nothing may be written any more."""


class Gate:
    """The only way to the caller's file, until it is shut.

    After ``shut`` returns nothing is written: the same bytes may then belong to a local
    writer, and the descriptor to somebody else. It waits for at most one pwrite.
    """

    def __init__(self, fd: int, landed: Landed) -> None:
        self._fd = fd
        self._landed = landed
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._is_open = True  # guarded by: _lock
        self._hang_up: Callable[[], object] | None = None  # guarded by: _lock

    def receive_from(self, hang_up: Callable[[], object]) -> None:
        """``hang_up`` wakes the thread that reads from the connection."""
        with self._lock:
            self._require_open()
            self._hang_up = hang_up

    def write(self, data: bytes, offset: int) -> None:
        self._write(data, offset)
        self.announce(Span(offset, offset + len(data)))

    def keep(self, data: bytes, offset: int, begin: int) -> None:
        """As ``write``, but only ``announce`` says that the bytes are good; nothing of what
        begins there is yet."""
        self._write(data, offset)
        self.announce(Span(begin, begin))

    def announce(self, span: Span) -> None:
        """These bytes are good; an empty span only tells that something came."""
        # Does not wait for the loop; calls arrive in order and before the thread's result.
        self._token.run_sync_soon(self._announce, span)

    def _write(self, data: bytes, offset: int) -> None:
        with self._lock:
            self._require_open()
            self._pwrite(data, offset)

    def shut(self) -> None:
        with self._lock:
            self._is_open = False
            hang_up, self._hang_up = self._hang_up, None
        if hang_up is not None:
            # The response has just ended: urllib3 tells that in any of these ways.
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                hang_up()

    def finish(self) -> None:
        """The thread is done with the connection: it may go back to the pool."""
        with self._lock:
            self._hang_up = None

    def _require_open(self) -> None:
        if not self._is_open:
            raise _Closed

    def _announce(self, span: Span) -> None:
        if self._is_open:
            self._landed(span)

    def _pwrite(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
        except OSError as exc:
            raise FsError(exc.errno or 0, "writing fetched bytes") from exc


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
