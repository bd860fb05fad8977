"""PUT: a new file, or a new version of the one that is expected there.

Content and time of change come in one request, an upload session, so that they make one version;
an empty file has to have its time set afterwards. A new file is made with ``fail``, a version
replaces the one whose tag is named; what the server refuses is looked at before it is believed,
because its tags change by themselves.

Graph has no place for the id of a put. After a lost reply our own success is known by what is
there: same size, QuickXorHash and time of change (whole seconds). What remains: somebody else's
file that agrees in all three is taken for ours then; a file that was unlinked here after its reply
was lost, and after this process ended, is not known as ours any more and comes back; and a session
whose making was not answered keeps others from the name on a business drive until it expires, a
quarter of an hour later.
"""

import logging
from dataclasses import dataclass, replace
from typing import Final

import trio

from csyncfs.backends.base import SaveResume, Source, Writing
from csyncfs.backends.failures import LostReply, NoUpload, Unmet, may_have_happened
from csyncfs.backends.onedrive import items, looking, sessions
from csyncfs.backends.onedrive.client import BEHAVIOUR, Ask
from csyncfs.backends.onedrive.options import MAX_SIZE_BYTES
from csyncfs.backends.onedrive.sending import Sending
from csyncfs.backends.onedrive.sessions import State
from csyncfs.backends.onedrive.translation import Json
from csyncfs.backends.onedrive.wire import Sent, Wire
from csyncfs.errors import (
    BackendError,
    CsyncError,
    NotFound,
    Retry,
    Superseded,
    Unrepresentable,
    VersionMismatch,
)
from csyncfs.types import ABSENT, Expect, Item, Kind, RemoteVersion

log = logging.getLogger(__name__)

_TRIES: Final = 7
_PAUSE_S: Final = 0.2
_NEW_SESSIONS: Final = 3
_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Put:
    """What is wanted."""

    key: str
    writing: Writing
    expect: Expect
    sending: Sending
    save_resume: SaveResume

    @property
    def base(self) -> str:
        return "" if self.expect is ABSENT else self.expect.tag


@dataclass(frozen=True, slots=True)
class _Target:
    """Where it goes: a name that is free, or an item as it is now."""

    address: str
    name: str
    if_match: str | None
    """None: nothing may be there."""


async def put(
    wire: Wire,
    key: str,
    source: Source,
    writing: Writing,
    expect: Expect,
    resume: str | None,
    save_resume: SaveResume,
) -> Item:
    """See Backend.put."""
    if source.size > MAX_SIZE_BYTES:
        raise Unrepresentable("too large for OneDrive")
    looking.path_of(wire, key, Kind.FILE)
    state: State | None = None

    def progress() -> None:
        if state is not None:
            save_resume(state.to_json())

    sending = Sending(source, wire.options.fragment_bytes, progress)
    order = Put(key, writing, expect, sending, save_resume)
    begun = sessions.state_of(resume)
    state = await _open_session(wire, order, begun)
    # Also before a rename of the file, or of a directory above.
    was_begun = begun is not None and begun.put_id == writing.put_id
    uploading = _Uploading(wire, order, state, was_begun or wire.has_sent(writing.put_id))
    try:
        # The session in use is the one progress tells of.
        sending.progress = uploading.save
        sending.before_commit = uploading.foretell
        return await uploading.run()
    except Retry:
        # What is in the session is still good.
        raise
    except CsyncError:
        await uploading.drop()
        raise


async def head(wire: Wire, key: str, kind: Kind, resume: str | None) -> Item:
    """See Backend.head."""
    item, body = await looking.seen(wire, key, kind)
    state = sessions.state_of(resume)
    if kind is not Kind.FILE or state is None or item.put_id is not None:
        return item
    if not _is_made_by(wire, state, body):
        return item
    if items.quick_xor(body) == state.quick_xor:
        return replace(item, put_id=state.put_id)
    # A library has written into it since, which is news.
    version = items.as_sent(body, state.quick_xor, state.size)
    return replace(item, version=version, put_id=state.put_id)


def _is_made_by(wire: Wire, state: State, body: Json) -> bool:
    """Whether the file is what the upload was about to make. An empty one perhaps did not get its
    time any more."""
    if not state.quick_xor:
        return False
    tag = f"{state.quick_xor} {state.size} {state.time_s}"
    is_empty = not state.size and not items.size_of(body)
    return is_empty or looking.is_expected(wire, RemoteVersion(tag, state.size, 0), body)


async def _open_session(wire: Wire, order: Put, found: State | None) -> State | None:
    """The unfinished upload to go on with; any other one of the key is freed."""
    is_good = found is not None and (found.key, found.size, found.put_id, found.base) == (
        order.key,
        order.sending.size,
        order.writing.put_id,
        order.base,
    )
    await sessions.cancel_left(wire, shield=False)
    left = wire.sessions.get(order.key)
    if found is not None and found.url and not is_good:
        await sessions.cancel_quietly(wire, found.key, found.url)
    if left is not None and (found is None or left != found.url):
        await sessions.cancel_quietly(wire, order.key, left)
    if not is_good or found is None or not found.url:
        return None
    wire.sessions[order.key] = found.url
    return found


class _Uploading:
    """One put under way."""

    def __init__(self, wire: Wire, order: Put, state: State | None, is_doubtful: bool) -> None:
        self._wire = wire
        self._order = order
        self._state = state
        self._is_doubtful = is_doubtful
        """A request of this put was sent and not answered, now or before: what is there may be
        ours. Never asked otherwise: the hash cannot tell files that repeat themselves apart."""

    def save(self) -> None:
        if self._state is not None:
            self._order.save_resume(self._state.to_json())

    async def foretell(self) -> None:
        """Save what the file will be known by, in case no reply comes; before the confirmation,
        which makes sure that it is saved."""
        order = self._order
        state = self._state or State(
            "", order.key, order.sending.size, order.writing.put_id, order.base
        )
        digest, time_ns = await order.sending.quick_xor(), order.writing.attributes.mtime_ns
        state = replace(state, quick_xor=digest, time_s=(time_ns or 0) // _S)
        if self._state is not None:
            self._state = state
        order.save_resume(state.to_json())

    async def drop(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            await sessions.cancel_quietly(self._wire, state.key, state.url)

    async def run(self) -> Item:
        for tried in range(_TRIES):
            try:
                return await self._once()
            except Unmet as exc:
                await self.drop()
                item = await self._why(exc)
                if item is not None:
                    return item
                if self._order.sending.is_confirmed and not self._order.sending.is_small:
                    raise Retry("the file's tag changed while it was uploaded") from exc
            except NoUpload:
                self._is_doubtful = True
                self._forget()
                item = await self._made()
                if item is not None:
                    return item
                if tried >= _NEW_SESSIONS:
                    raise Retry("the server forgets the upload again and again") from None
            await trio.sleep(_PAUSE_S * 2**tried)
        raise Retry("somebody else is uploading a file of this name")

    async def _once(self) -> Item:
        """One try. Raises Unmet, NoUpload, VersionMismatch, NotFound."""
        target = await self._target()
        if isinstance(target, Item):
            return target
        order = self._order
        is_timeless = order.writing.attributes.mtime_ns is None
        if not order.sending.size or (is_timeless and order.sending.is_small):
            return await self._put_content(target)
        start = 0
        if self._state is None:
            self._state = await self._begin(target)
            self._wire.sessions[order.key] = self._state.url
            self.save()
        else:
            start = await sessions.next_byte(self._wire, self._state.url, order.sending.size)
        if start >= order.sending.size:
            raise NoUpload("uploading: all was sent, and it is not known what became of it")
        await self._note_sent()
        try:
            body = await sessions.send(self._wire, self._state.url, order.sending, start)
        except BackendError as exc:
            if not may_have_happened(exc):
                raise
            return await self._made_after(exc)
        self._forget()
        return await self._finished(body)

    async def _target(self) -> "_Target | Item":
        """Where to put it; the item, if it is there already. Raises VersionMismatch, NotFound."""
        wire, key, expect = self._wire, self._order.key, self._order.expect
        name = looking.name_of(wire, key, Kind.FILE)
        if expect is ABSENT:
            parent = await looking.directory_id(wire, looking.parent_of(key))
            return _Target(f"{parent}:/{name}:", name, None)
        body = await looking.find(wire, key, Kind.FILE)
        if body is None:
            raise VersionMismatch("the item is gone")
        if items.kind_of(body) is Kind.FILE and looking.is_expected(wire, expect, body):
            return _Target(str(body["id"]), name, items.condition(body))
        item = await self._if_ours(body)
        if item is None:
            raise self._mismatch(body)
        return item

    async def _begin(self, target: _Target) -> State:
        order = self._order
        described: Json = items.times(order.writing.attributes.mtime_ns)
        if target.if_match is None:
            described = {BEHAVIOUR: "fail", "name": target.name, **described}
        else:
            described = {BEHAVIOUR: "replace", **described}
        builder = self._wire.item(target.address).create_upload_session
        ask = Ask("POST", builder, {"item": described}, if_match=target.if_match)
        body = await self._change("uploading", ask, target)
        url = str(body.get("uploadUrl") or "")
        if not url:
            raise Retry("uploading: the server gave no address for the content")
        return State(url, order.key, order.sending.size, order.writing.put_id, order.base)

    async def _change(self, doing: str, ask: Ask, target: _Target) -> Json:
        """Raises NotFound when the directory is gone, VersionMismatch when the file is."""
        wire, above = self._wire, looking.parent_of(self._order.key)
        try:
            return await wire.change(doing, ask)
        except NotFound:
            if target.if_match is not None:
                raise Unmet("the item is gone") from None
            wire.fresh.forget_dir(above)
            if above and wire.fresh.is_fresh(above):
                # Just made, and not yet known everywhere.
                raise Unmet("the directory is not there yet") from None
            raise

    async def _put_content(self, target: _Target) -> Item:
        """All in one request; the time of change, if it has one, after it."""
        wire, order = self._wire, self._order
        data = await order.sending.fragment(0) if order.sending.size else b""
        await self.foretell()
        await order.sending.confirm()
        await self._note_sent()
        behaviour = "fail" if target.if_match is None else None
        ask = Ask("PUT", wire.item(target.address).content, data, target.if_match)
        if behaviour is not None:
            ask = Ask("PUT", ask.builder, data, behaviour=behaviour)
        try:
            body = await self._change("uploading", ask, target)
        except BackendError as exc:
            if not may_have_happened(exc):
                raise
            return await self._made_after(exc)
        time_ns = order.writing.attributes.mtime_ns
        if time_ns is not None and "id" in body:
            body = await _with_time(wire, body, time_ns)
        return await self._finished(body)

    async def _finished(self, body: Json) -> Item:
        """The item the reply tells of, or the one that is there."""
        wire, order = self._wire, self._order
        wire.fresh.made(order.key)
        if "id" not in body:
            lost = LostReply("uploading: the server does not tell what became of the file")
            return await self._made_after(lost)
        told, sent = items.quick_xor(body), await order.sending.quick_xor()
        if (told and told != sent) or items.size_of(body) != order.sending.size:
            if wire.drive.kind != "documentLibrary":
                raise Retry("the content arrived damaged")
            log.info("the library changed the file as it arrived key=%r", order.key)
            return self._rewritten(body, sent)
        await self._note_sent(items.condition(body))
        return looking.item_of(wire, order.key, Kind.FILE, body)

    def _rewritten(self, body: Json, sent: str) -> Item:
        item = looking.item_of(self._wire, self._order.key, Kind.FILE, body)
        return replace(item, version=items.as_sent(body, sent, self._order.sending.size))

    # -- after a refusal -----------------------------------------------------------------

    async def _why(self, refusal: Unmet) -> Item | None:
        """What a refused precondition means: the item if it is ours, None to try again.

        Raises VersionMismatch and Unrepresentable.
        """
        order = self._order
        body = await looking.in_the_way(self._wire, order.key, Kind.FILE)
        if body is None:
            if order.expect is not ABSENT:
                raise VersionMismatch("the item is gone") from refusal
            return None
        item = await self._if_ours(body)
        if item is not None:
            return item
        is_file = items.kind_of(body) is Kind.FILE
        expect = order.expect
        if expect is not ABSENT and is_file and looking.is_expected(self._wire, expect, body):
            return None
        raise self._mismatch(body) from refusal

    def _mismatch(self, body: Json) -> VersionMismatch:
        key, kind = self._order.key, items.kind_of(body)
        if kind is None:
            return VersionMismatch("OneDrive has a notebook or a shortcut of this name")
        own = f"{key}/" if kind is Kind.DIR else key
        current = looking.item_of(self._wire, own, kind, body)
        return VersionMismatch("somebody else changed the item", current)

    async def _made_after(self, error: CsyncError) -> Item:
        """The item, if the request without a good reply made it; else raises the error."""
        self._is_doubtful = True
        item = await self._made()
        if item is None:
            raise error
        return item

    async def _made(self) -> Item | None:
        """The item, if it is what we sent."""
        body = await looking.find(self._wire, self._order.key, Kind.FILE)
        return None if body is None else await self._if_ours(body)

    async def _if_ours(self, body: Json) -> Item | None:
        order = self._order
        if not self._is_doubtful or items.kind_of(body) is not Kind.FILE:
            return None
        sent = await order.sending.quick_xor()
        size, time_ns = order.sending.size, order.writing.attributes.mtime_ns
        if self._wire.drive.kind == "documentLibrary" and time_ns is not None:
            expect = RemoteVersion(f"{sent} {size} {time_ns // _S}", size, 0)
            if items.is_rewritten(expect, body) and items.quick_xor(body) != sent:
                if not order.sending.is_confirmed:
                    await order.sending.confirm()
                self._forget()
                return self._rewritten(body, sent)
        if items.size_of(body) != order.sending.size:
            return None
        if order.sending.size and not _has_time(body, order.writing.attributes.mtime_ns):
            return None
        if items.quick_xor(body) != sent:
            return None
        await self._note_sent(items.condition(body))
        if not order.sending.is_confirmed:
            await order.sending.confirm()
        self._forget()
        return looking.item_of(self._wire, order.key, Kind.FILE, body)

    async def _note_sent(self, tag: str = "") -> None:
        order, writing = self._order, self._order.writing
        if order.sending.is_small:
            digest = await order.sending.quick_xor()
            sent = Sent(writing.put_id, writing.device, order.sending.size, digest, tag)
            self._wire.note_sent(order.key, sent)

    def _forget(self) -> None:
        if self._state is not None:
            self._wire.sessions.pop(self._state.key, None)
            self._state = None


def _has_time(body: Json, time_ns: int | None) -> bool:
    """Whether the item has this time of change, as far as a drive keeps it."""
    if time_ns is None or items.to_text(time_ns) is None:
        return True
    found_ns = items.mtime_ns(body)
    return found_ns is not None and found_ns // _S == time_ns // _S


async def _with_time(wire: Wire, body: Json, time_ns: int) -> Json:
    """The item with its time of change; as it is, if the server does not take it."""
    described = items.times(time_ns)
    if not described:
        return body
    ask = Ask("PATCH", wire.item(str(body["id"])), described, items.condition(body))
    try:
        changed = await wire.change("setting the time", ask)
    except (Superseded, CsyncError) as exc:
        log.info("the time of change was not set error=%s", exc)
        return body
    return changed if "id" in changed else body
