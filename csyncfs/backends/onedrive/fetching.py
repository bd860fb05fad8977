"""Downloads: from an address that is good for anybody, for some minutes.

The address is of the item, not of a version. Bytes are announced as they come only when the reply
names the version (its ETag); else when the item was looked at again behind the last one. Small
files are always fetched whole, and a whole file is announced when its QuickXorHash is right.
"""

import contextlib
import logging
import os
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Final

import httpx

from csyncfs.backends.base import Landed
from csyncfs.backends.onedrive import items, looking, translation
from csyncfs.backends.onedrive.quickxor import QuickXor
from csyncfs.backends.onedrive.translation import Json
from csyncfs.backends.onedrive.wire import Wire
from csyncfs.errors import CsyncError, FsError, Hold, Retry, VersionMismatch
from csyncfs.types import Item, Kind, RemoteVersion, Span

log = logging.getLogger(__name__)

_SELECT: Final = f"{looking.SELECT},malware,{looking.DOWNLOAD_URL}"
_READ_BYTES: Final = 1 << 18
_EXPIRED: Final = (401, 403, 404, 410)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_REMEMBERED: Final = 1000


@dataclass(slots=True)
class _Fetch:
    """What is wanted, what is asked for to get it, and how far it has come."""

    key: str
    span: Span
    asked: Span
    fd: int
    expect: RemoteVersion
    landed: Landed
    body: Json
    at: int
    """The next byte to come."""
    is_checked: bool
    """All of the file comes, and is to have the right hash."""
    announced: int
    """Up to here the bytes are known to be good."""
    quick_xor: QuickXor = field(default_factory=QuickXor)


async def fetch(
    wire: Wire, key: str, span: Span, fd: int, expect: RemoteVersion, landed: Landed
) -> Item:
    """See Backend.fetch."""
    body = await _expected(wire, key, expect)
    if span.end > expect.size:
        current = looking.item_of(wire, key, Kind.FILE, body)
        raise VersionMismatch("the item is shorter than expected", current)
    if span.size_bytes > 0:
        is_whole = expect.size <= wire.options.whole_bytes or span == Span(0, expect.size)
        asked = Span(0, expect.size) if is_whole else span
        is_checked = is_whole and bool(items.quick_xor(body))
        order = _Fetch(
            key, span, asked, fd, expect, landed, body, asked.start, is_checked, span.start
        )
        await _receive_all(wire, order)
        body = order.body
    item = looking.item_of(wire, key, Kind.FILE, body)
    return Item(item.location, item.kind, expect, item.attributes, item.put_id, item.device)


async def _expected(wire: Wire, key: str, expect: RemoteVersion) -> Json:
    body = await looking.look(wire, key, Kind.FILE, _SELECT)
    if not items.is_same(expect, body):
        current = looking.item_of(wire, key, Kind.FILE, body)
        raise VersionMismatch("somebody else changed the item", current)
    return body


async def _receive_all(wire: Wire, order: _Fetch) -> None:
    """Write the span and announce it. Raises VersionMismatch, Retry."""
    for is_last in (False, False, True):
        try:
            await _receive(wire, order)
        except _Stale as exc:
            # Expired, or not good yet.
            if is_last:
                raise Retry("reading: the server gives addresses that are not good") from exc
            order.body = await _expected(wire, order.key, order.expect)
            continue
        if order.at >= order.asked.end:
            break
        if is_last:
            raise Retry("reading: the server sent less than it announced")
    if order.announced < order.span.end:
        if order.is_checked:
            _check(wire, order)
        # A version may have ended while its bytes came.
        order.body = await _expected(wire, order.key, order.expect)
        order.landed(Span(order.announced, order.span.end))


class _Stale(Retry):
    """The address is not good, or not any more."""


async def _receive(wire: Wire, order: _Fetch) -> None:
    """Write what comes."""
    if "malware" in order.body:
        raise Hold("reading: the server takes the file for malware and does not give it away")
    url = str(order.body.get(looking.DOWNLOAD_URL) or "")
    if not url:
        raise _Stale("reading: the server gave no address for the content")
    headers = {"Range": f"bytes={order.at}-{order.asked.end - 1}", "Accept-Encoding": "identity"}
    began = order.at
    try:
        async with _reply(wire, url, headers) as reply:
            skip = _begins_at(reply, order)
            is_named = _names_version(reply, order.body)
            await _copy(reply, order, skip, is_announced=is_named and not order.is_checked)
    except (httpx.HTTPError, OSError) as exc:
        error = translation.broken(exc, "reading")
        # What has come is good; the rest is asked for anew.
        if order.at == began:
            raise error from exc
        log.debug("download broke off at=%d error=%s", order.at, error)


@contextlib.asynccontextmanager
async def _reply(wire: Wire, url: str, headers: dict[str, str]) -> AsyncGenerator[httpx.Response]:
    async with wire.download(url, headers) as reply:
        if reply.status_code in _EXPIRED:
            raise _Stale("reading: the address is not good any more")
        if reply.status_code not in (200, 206):
            await reply.aread()
            raise _refused(reply)
        yield reply


def _refused(reply: httpx.Response) -> CsyncError:
    if reply.status_code == 416:
        return VersionMismatch("the item is shorter than expected")
    return translation.refusal(reply, "reading")


def _begins_at(reply: httpx.Response, order: _Fetch) -> int:
    """How many bytes to skip. Raises VersionMismatch for a file of another size."""
    size = reply.headers.get("Content-Length")
    if reply.status_code == 200:
        if size is not None and int(size) != order.expect.size:
            raise VersionMismatch("somebody else changed the item")
        return order.at
    told = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if told is None or int(told[1]) != order.at:
        raise Retry("reading: the server sent another range")
    if told[3] != "*" and int(told[3]) != order.expect.size:
        raise VersionMismatch("somebody else changed the item")
    return 0


def _names_version(reply: httpx.Response, body: Json) -> bool:
    tag = reply.headers.get("ETag", "").removeprefix("W/").strip('"')
    return bool(tag) and tag == str(body.get("eTag") or "").strip('"')


async def _copy(reply: httpx.Response, order: _Fetch, skip: int, *, is_announced: bool) -> None:
    async for chunk in reply.aiter_raw(_READ_BYTES):
        data = chunk
        if skip:
            data, skip = data[skip:], max(0, skip - len(data))
        data = data[: order.asked.end - order.at]
        if not data:
            continue
        if order.is_checked:
            order.quick_xor.update(data)
        start = max(order.at, order.span.start)
        end = min(order.at + len(data), order.span.end)
        if end > start:
            _write(order.fd, data[start - order.at : end - order.at], start)
        order.at += len(data)
        if is_announced and end > start == order.announced:
            order.announced = end
            order.landed(Span(start, end))
        else:
            # Keeps the deadline away.
            order.landed(Span(order.announced, order.announced))
        if order.at >= order.asked.end:
            return


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    try:
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written
    except OSError as exc:
        raise FsError(exc.errno or 0, "writing fetched bytes") from exc


def _check(wire: Wire, order: _Fetch) -> None:
    """Raises Retry for content that is not what Graph told.

    Damage does not strike twice alike: the same wrong bytes a second time are what the drive has
    (SharePoint rewrites files and tells the hash of what they were).
    """
    told, found = items.quick_xor(order.body), order.quick_xor.base64()
    about = f"{order.body['id']} {order.expect.tag}"
    before = wire.damaged.pop(about, None)
    if found == told:
        return
    if found == before:
        log.warning("the drive tells a wrong hash of the content key=%r", order.key)
        return
    if len(wire.damaged) >= _REMEMBERED:
        wire.damaged.clear()
    wire.damaged[about] = found
    log.warning("a download arrived damaged, it is fetched again key=%r", order.key)
    raise Retry("the content arrived damaged")
