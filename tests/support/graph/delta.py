"""The change feed: pages, tokens, tombstones, and all that clients stumble over."""

import base64
import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from tests.support.graph.call import Call, Table, page_size
from tests.support.graph.clock import time_of
from tests.support.graph.drives import Drive, Item
from tests.support.graph.failures import GraphError, Json, bad_request, not_supported
from tests.support.graph.messages import Reply
from tests.support.graph.shapes import View, item_json, tombstone


@dataclass(frozen=True, slots=True)
class _Token:
    """Where a client is. ``listing``: in a full enumeration, at ``index`` of it."""

    drive: str
    top: str
    epoch: int
    since: int
    """Changes behind this one are still to be told."""
    cursor: int = 0
    """In an incremental round: told up to here."""
    listing: str = ""
    index: int = 0
    deaf_to: int = 0
    """Deletions up to here are never told (the switch ``lose_deletes``)."""
    select: str = ""
    size: int = 0


def get_delta(call: Call) -> Reply:
    drive, top = call.drive, call.item()
    if not drive.is_personal and top is not drive.root:
        raise not_supported("view.delta can only be called on the root.", 501)
    text = call.query.get("token") or call.route.arguments.get("token")
    if text == "latest":
        return _answer(call, [], "deltaLink", _start(call, top, call.world.visible(drive)))
    token = _first(call, top) if not text else _read(call, top, text)
    if token.epoch != drive.epoch or (not token.listing and token.since < drive.pruned):
        raise _gone(call, top)
    if call.world.knobs.empty_page and call.world.rng.random() < 0.25:
        return _answer(call, [], "nextLink", token)
    return _full_page(call, token) if token.listing else _changes_page(call, top, token)


# ---- full enumeration -------------------------------------------------------------------


def _first(call: Call, top: Item) -> _Token:
    """Which items there are is settled now; what they are like when their page is made."""
    world, drive = call.world, call.drive
    order = [item.id for item in drive.subtree(top)]
    if world.knobs.delta_shuffle:
        world.rng.shuffle(order)
    listing = world.new_id()
    world.enumerations[listing] = order
    token = _start(call, top, world.visible(drive))
    return dataclasses.replace(token, listing=listing)


def _full_page(call: Call, token: _Token) -> Reply:
    world, drive = call.world, call.drive
    order = world.enumerations[token.listing]
    end = token.index + _size(call, token)
    page: list[Item] = []
    for item_id in order[token.index : end]:
        item = drive.at(drive.items[item_id], world.visible(drive))
        if item is not None and not drive.items[item_id].deleted:
            page.append(item)
    values = _shown(call, token, page)
    if end < len(order):
        return _answer(call, values, "nextLink", dataclasses.replace(token, index=end))
    deaf_to = drive.seq if world.knobs.lose_deletes else 0
    done = dataclasses.replace(token, listing="", index=0, cursor=token.since, deaf_to=deaf_to)
    return _answer(call, values, "deltaLink", done)


# ---- what changed -----------------------------------------------------------------------


def _changes_page(call: Call, top: Item, token: _Token) -> Reply:
    visible = call.world.visible(call.drive)
    cursor = max(token.cursor, token.since)
    waiting = _changed(call, top, token, cursor, visible)
    size = _size(call, token)
    page, rest = waiting[:size], waiting[size:]
    values = _shown(call, token, page)
    if rest:
        further = dataclasses.replace(token, cursor=page[-1].seq)
        return _answer(call, values, "nextLink", further)
    deaf_to = token.deaf_to if visible < token.deaf_to else 0
    since = max(visible, token.since)
    done = dataclasses.replace(token, since=since, cursor=0, deaf_to=deaf_to)
    return _answer(call, values, "deltaLink", done)


def _changed(call: Call, top: Item, token: _Token, cursor: int, visible: int) -> list[Item]:
    """Latest states the feed knows, by seq."""
    drive, knobs = call.drive, call.world.knobs
    found: list[Item] = []
    for item in drive.items.values():
        state = drive.at(item, visible)
        if state is None or state.seq <= cursor or not _is_below(drive, state, top):
            continue
        if state.deleted and state.seq <= token.deaf_to:
            continue
        if state.deleted and knobs.omit_made_and_gone and item.born > token.since:
            continue
        found.append(state)
    return sorted(found, key=lambda state: state.seq)


def _is_below(drive: Drive, item: Item, top: Item) -> bool:
    """Also if it was there before: what left the folder is told, too."""
    if top is drive.root or item.id == top.id:
        return True
    states = [item, *drive.items[item.id].past]
    return any(top in drive.ancestors(state) for state in states)


# ---- pages ------------------------------------------------------------------------------


def _shown(call: Call, token: _Token, page: list[Item]) -> list[Json]:
    world, drive = call.world, call.drive
    view = View(tuple(token.select.split(",")) if token.select else None, is_delta=True)

    def show(item: Item) -> Json:
        top = drive.items[token.top]
        is_outside = top is not drive.root and top.id != item.id
        is_gone = item.deleted or (is_outside and top not in drive.ancestors(item))
        if is_gone:
            return tombstone(world, drive, item, view)
        return item_json(world, drive, item, view)

    values = [show(item) for item in page]
    if world.knobs.create_before_delete:
        values.sort(key=lambda value: "deleted" in value)
    if world.knobs.dup_items:
        stale = [drive.items[i.id].past[-1] for i in page if _has_past(drive, i)]
        values = [show(item) for item in stale if world.rng.random() < 0.5] + values
    return [item_json(world, drive, item, view) for item in _above(call, page)] + values


def _has_past(drive: Drive, item: Item) -> bool:
    past = drive.items[item.id].past
    return bool(past) and not past[-1].deleted and not item.deleted


def _above(call: Call, page: Iterable[Item]) -> list[Item]:
    """Business: every ancestor of what changed, each once a page, the root first."""
    drive = call.drive
    if drive.is_personal:
        return []
    page = list(page)
    if "deltaexcludeparent" in call.request.prefer:
        return [drive.root] if page else []
    found: dict[str, Item] = {}
    for item in page:
        for folder in drive.ancestors(item):
            if not folder.deleted:
                found[folder.id] = folder
    shown = (drive.at(folder, call.world.visible(drive)) for folder in found.values())
    return [folder for folder in shown if folder is not None and not folder.deleted]


def _size(call: Call, token: _Token) -> int:
    return page_size(call) if "top" in call.query or not token.size else token.size


def _answer(call: Call, values: list[Json], link: str, token: _Token) -> Reply:
    url = f"{_address(call, token.top)}?token={quote(_packed(call, token))}"
    return call.reply_list(values, **{link: url})


def _address(call: Call, top: str) -> str:
    drive = call.drive
    origin = call.world.urls.api
    place = "root" if top == drive.root.id else f"items/{quote(top)}"
    return f"{origin}/drives/{quote(drive.id)}/{place}/delta"


# ---- tokens -----------------------------------------------------------------------------


def _start(call: Call, top: Item, since: int) -> _Token:
    size = page_size(call) if "top" in call.query else 0
    select = call.query.get("select", "")
    return _Token(call.drive.id, top.id, call.drive.epoch, since, select=select, size=size)


def _packed(call: Call, token: _Token) -> str:
    text = json.dumps(dataclasses.astuple(token))
    packed = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return f"{packed}.{call.world.sign(packed)}"


def _read(call: Call, top: Item, text: str) -> _Token:
    """Raises GraphError for what is no token of ours."""
    packed, _, signature = text.partition(".")
    if not signature and not call.drive.is_personal and "T" in text:
        return _start(call, top, call.drive.seq_at(time_of(text)))
    if not signature or signature != call.world.sign(packed):
        raise bad_request("The delta token is invalid.")
    values: list[Any] = json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
    token = _Token(*values)
    if token.drive != call.drive.id or token.top != top.id:
        raise bad_request("The delta token is for something else.")
    return token


def _gone(call: Call, top: Item) -> GraphError:
    fresh = f"{_address(call, top.id)}?token="
    return GraphError(
        410,
        "resyncRequired",
        "Resync required. Replace any local items with the server's version.",
        inner=call.drive.resync,
        headers=(("Location", fresh),),
    )


TABLE: Final[Table] = {("GET", "delta"): get_delta}
