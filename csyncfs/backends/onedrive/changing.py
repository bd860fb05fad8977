"""Directories, renames, removals, times: one request each, for the version that is expected.

A rename is one PATCH, of a tree as well. Where it replaces a file, Graph compares the source's tag
only: the target's is compared just before, and what goes is in the recycle bin. Removed items are
there too. Whether a directory is empty is looked at just before: DELETE takes everything below.
"""

from dataclasses import dataclass
from typing import Final

import trio

from csyncfs.backends.base import Writing
from csyncfs.backends.failures import Unmet, may_have_happened
from csyncfs.backends.onedrive import items, looking
from csyncfs.backends.onedrive.client import BEHAVIOUR, Ask
from csyncfs.backends.onedrive.translation import Json
from csyncfs.backends.onedrive.wire import Wire
from csyncfs.errors import (
    Ambiguous,
    BackendError,
    Hold,
    NotFound,
    Retry,
    Unrepresentable,
    VersionMismatch,
)
from csyncfs.types import ABSENT, Expect, Item, Kind, Location, RemoteVersion

_TRIES: Final = 5
_PAUSE_S: Final = 0.2


# -- directories --------------------------------------------------------------------------


async def make_dir(wire: Wire, key: str, writing: Writing) -> Item:
    """See Backend.make_dir."""
    name = looking.name_of(wire, key, Kind.DIR)
    looking.path_of(wire, key, Kind.DIR)
    above = looking.parent_of(key)
    for tried in range(_TRIES):
        parent = await looking.directory_id(wire, above)
        described: Json = {"name": name, "folder": {}, BEHAVIOUR: "fail"}
        described |= items.times(writing.attributes.mtime_ns)
        try:
            body = await wire.change(
                "making a directory", Ask("POST", wire.item(parent).children, described)
            )
        except NotFound:
            wire.fresh.forget_dir(above)
            if not wire.fresh.is_fresh(above):
                raise
        except Hold as exc:
            # What had the id is a file, or the name is not possible.
            if isinstance(exc, Unrepresentable) or "HTTP 400" not in str(exc):
                raise
            raise NotFound("making a directory: no such directory") from exc
        except BackendError as exc:
            if not isinstance(exc, Unmet) and not may_have_happened(exc):
                raise
            # Never again without a look: a second POST is a second directory somewhere.
            found = await _existing_dir(wire, key)
            if found is not None:
                return found
            if not isinstance(exc, Unmet):
                raise
        else:
            wire.fresh.made(key)
            if "id" not in body:
                body = await looking.look(wire, key, Kind.DIR)
            wire.fresh.note_dir(key, str(body["id"]))
            return looking.item_of(wire, key, Kind.DIR, body)
        await trio.sleep(_PAUSE_S * 2**tried)
    raise Retry("making a directory: the server neither makes nor shows it")


async def _existing_dir(wire: Wire, key: str) -> Item | None:
    """Raises VersionMismatch if it is a file."""
    body = await looking.in_the_way(wire, key, Kind.DIR)
    if body is None:
        return None
    if items.kind_of(body) is Kind.DIR:
        return looking.item_of(wire, key, Kind.DIR, body)
    current = looking.item_of(wire, key.removesuffix("/"), Kind.FILE, body)
    raise VersionMismatch("a file has this name", current)


# -- renames ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Move:
    """What is wanted."""

    source: Location
    target: Location
    kind: Kind
    expect_source: RemoteVersion | None
    expect_target: Expect


async def move(wire: Wire, order: Move) -> Item:
    """See Backend.move."""
    name = looking.name_of(wire, order.target.key, order.kind)
    looking.path_of(wire, order.target.key, order.kind)
    if order.kind is Kind.DIR and order.target.key.startswith(order.source.key):
        raise Unrepresentable("a directory cannot move below itself")
    for tried in range(_TRIES):
        body = await looking.find(wire, order.source.key, order.kind)
        if body is None or items.kind_of(body) is not order.kind:
            return await _moved_before(wire, order)
        _require_source(order, body)
        there = await _target(wire, order, body)
        parent = await looking.directory_id(wire, looking.parent_of(order.target.key))
        replaces = "fail" if there is None or order.kind is Kind.DIR else "replace"
        described = {
            "name": name,
            "parentReference": {"id": parent},
            BEHAVIOUR: replaces,
            **items.kept_times(body),
        }
        if there is not None and order.kind is Kind.DIR:
            await _remove_empty(wire, there)
        ask = Ask("PATCH", wire.item(str(body["id"])), described, _unchanged(order.kind, body))
        try:
            moved = await wire.change("renaming", ask)
        except (Unmet, NotFound):
            # Looked at again: the source, the target or a directory is not what it was.
            wire.fresh.forget_dir(looking.parent_of(order.target.key))
            await trio.sleep(_PAUSE_S * 2**tried)
            continue
        except Retry as exc:
            if may_have_happened(exc):
                raise Ambiguous("the reply to a rename was lost") from exc
            raise
        return await _moved(wire, order, moved)
    raise Retry("renaming: the server refuses it, although everything is as expected")


async def _moved(wire: Wire, order: Move, body: Json) -> Item:
    wire.fresh.gone(order.source.key)
    wire.fresh.gone(order.target.key)
    wire.fresh.made(order.target.key)
    if "id" not in body:
        body = await looking.look(wire, order.target.key, order.kind)
    return looking.item_of(wire, order.target.key, order.kind, body)


async def _moved_before(wire: Wire, order: Move) -> Item:
    """The item at its target, if an earlier request brought it there. Raises NotFound."""
    found = await looking.find(wire, order.target.key, order.kind)
    if (
        found is not None
        and order.source.item_id is not None
        and str(found["id"]) == order.source.item_id
    ):
        return looking.item_of(wire, order.target.key, order.kind, found)
    raise NotFound("renaming: no such item")


def _require_source(order: Move, body: Json) -> None:
    expect = order.expect_source
    if expect is None or order.kind is Kind.DIR:
        return
    if not items.is_same(expect, body):
        raise VersionMismatch("somebody else changed the source")


async def _target(wire: Wire, order: Move, source: Json) -> Json | None:
    """What the rename replaces; None: nothing. Raises VersionMismatch, Unrepresentable."""
    key = order.target.key
    try:
        body = await looking.in_the_way(wire, key, order.kind)
    except Unrepresentable:
        body = await looking.find(wire, order.source.key, order.kind)
        # Another spelling of its own name is no other item.
        if body is not None and key.lower() == order.source.key.lower():
            return None
        raise
    if body is None or body["id"] == source["id"]:
        if order.expect_target is not ABSENT:
            raise VersionMismatch("the item is gone")
        return None
    found = items.kind_of(body) or order.kind
    plain = key.removesuffix("/")
    own = f"{plain}/" if found is Kind.DIR else plain
    current = looking.item_of(wire, own, found, body)
    if order.expect_target is ABSENT or found is not order.kind:
        raise VersionMismatch("somebody else has made the item", current)
    if order.kind is Kind.FILE and not looking.is_expected(wire, order.expect_target, body):
        raise VersionMismatch("somebody else changed the item", current)
    if order.kind is Kind.DIR and not await looking.is_empty(wire, str(body["id"])):
        raise VersionMismatch("the directory is not empty", current)
    return body


async def _remove_empty(wire: Wire, body: Json) -> None:
    ask = Ask("DELETE", wire.item(str(body["id"])), if_match=str(body.get("eTag") or "*"))
    await wire.change("removing", ask)


# -- removals -----------------------------------------------------------------------------


async def delete(wire: Wire, key: str, kind: Kind, expect: RemoteVersion | None) -> None:
    """See Backend.delete."""
    for tried in range(_TRIES):
        try:
            body = await looking.find(wire, key, kind)
        except Unrepresentable:
            return
        if body is None or items.kind_of(body) is not kind:
            return
        if kind is Kind.FILE and expect and not looking.is_expected(wire, expect, body):
            current = looking.item_of(wire, key, kind, body)
            raise VersionMismatch("somebody else changed the item", current)
        if kind is Kind.DIR and not await looking.is_empty(wire, str(body["id"])):
            current = looking.item_of(wire, key, kind, body)
            raise VersionMismatch("the directory is not empty", current)
        if_match = _unchanged(kind, body)
        try:
            await wire.change("removing", Ask("DELETE", wire.item(str(body["id"])), None, if_match))
        except NotFound:
            pass
        except Unmet:
            # The tag changed, and perhaps nothing else.
            await trio.sleep(_PAUSE_S * 2**tried)
            continue
        wire.fresh.gone(key)
        return
    raise Retry("removing: the server refuses it, although the item is as expected")


def _unchanged(kind: Kind, body: Json) -> str:
    """What If-Match has to say. Of a directory its own tag: the other one is its content's."""
    return items.condition(body) if kind is Kind.FILE else str(body.get("eTag") or "*")


# -- times --------------------------------------------------------------------------------


async def set_time(
    wire: Wire, key: str, kind: Kind, writing: Writing, expect: RemoteVersion
) -> Item:
    """The time of change is all that a drive keeps of attributes."""
    for tried in range(_TRIES):
        body = await looking.look(wire, key, kind)
        if kind is Kind.FILE and not items.is_same(expect, body):
            current = looking.item_of(wire, key, kind, body)
            if items.is_retimed(expect, body, writing.attributes.mtime_ns):
                return current
            raise VersionMismatch("somebody else changed the item", current)
        described = items.times(writing.attributes.mtime_ns)
        if not described:
            return looking.item_of(wire, key, kind, body)
        ask = Ask("PATCH", wire.item(str(body["id"])), described, _unchanged(kind, body))
        try:
            changed = await wire.change("setting the time", ask)
        except Unmet:
            await trio.sleep(_PAUSE_S * 2**tried)
            continue
        if "id" not in changed:
            changed = await looking.look(wire, key, kind)
        return looking.item_of(wire, key, kind, changed)
    raise Retry("setting the time: the server refuses it, although the item is as expected")
