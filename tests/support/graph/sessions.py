"""Upload sessions: made on the API host, fed on the upload host, committed by the last byte."""

import re
from typing import Final

from tests.support.graph import tags
from tests.support.graph.blobs import Blob
from tests.support.graph.call import (
    SOURCE_URL,
    Call,
    Table,
    object_in,
    refuse_full,
    times_in,
)
from tests.support.graph.drives import Drive, Item, Kind, Times
from tests.support.graph.failures import (
    GraphError,
    Json,
    bad_request,
    changed,
    not_found,
    not_supported,
    taken,
)
from tests.support.graph.knobs import MIB
from tests.support.graph.messages import Reply, Request
from tests.support.graph.shapes import item_json
from tests.support.graph.world import GIB, Session, World

UNIT: Final = 320 * 1024
FRAGMENT_MAX: Final = 60 * MIB
_FILE_MAX: Final = 250 * GIB
_BUSINESS_LIFE_S: Final = 900.0
_PERSONAL_LIFE_S: Final = 7 * 86400.0
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


# ---- on the API host --------------------------------------------------------------------


def create_session(call: Call) -> Reply:
    body = call.request.json()
    item_body = object_in(body, "item") or {}
    if "@odata.type" in item_body and not call.drive.is_personal:
        raise bad_request("Bad Argument")
    call.refuse_full(_size_said(item_body))
    behaviour = call.behaviour(item_body, call.world.knobs.session_behaviour)
    if call.route.names is None:
        parent, name, target = _file_addressed(call)
        there = target
    else:
        parent, name = _place_addressed(call)
        target, there = None, call.drive.child(parent, name)
        _check_place(call, parent, there, behaviour)
    if item_body.get("name", name) != name:
        raise bad_request("Name from path does not match name from body")
    _refuse_second(call, parent, name)
    session = _new_session(call, parent, name, target, behaviour, body, item_body)
    if there is not None and call.world.knobs.etag_moves_on_session:
        call.drive.touch(there)
    context = f"{call.world.urls.api}/$metadata#microsoft.graph.uploadSession"
    shown = {"@odata.context": context, "uploadUrl": _url(call.world, session)}
    shown["expirationDateTime"] = call.world.stamp(session.expires, call.drive, ms=True)
    if call.world.knobs.omit_ranges:
        return Reply.of(200, shown)
    return Reply.of(200, {**shown, "nextExpectedRanges": ["0-"]})


def commit_by_source(call: Call, body: Json) -> Reply:
    """``PUT item`` with sourceUrl: the bytes of a session under another name. Personal only."""
    if not call.drive.is_personal:
        raise not_supported("sourceUrl is not supported.")
    session = call.world.session(_id_in(str(body[SOURCE_URL])))
    if session.total is None or len(session.data) != session.total:
        raise bad_request("The upload session is not complete.", inner="uploadSessionIncomplete")
    parent, name = call.place()
    session.parent, session.name = parent, call.check_name(name, parent, is_folder=False)
    session.target = None
    session.behaviour = call.behaviour(body, "fail")
    there = call.drive.child(parent, name)
    call.check_absent(there)
    if there is not None:
        call.check_if_match(there)
    status, item = _commit(call.world, session)
    return call.reply_item(status, item)


def _size_said(item_body: Json) -> int:
    size = item_body.get("fileSize", item_body.get("size", 0))
    if not isinstance(size, int) or size < 0:
        raise bad_request("fileSize must be a number")
    if size > _FILE_MAX:
        raise bad_request("The file is too large.", inner="maxFileSizeExceeded")
    return size


def _file_addressed(call: Call) -> tuple[Item, str, Item]:
    item = call.item()
    if not item.is_file or item.parent is None:
        raise bad_request("File name not provided in url.")
    call.check_if_match(item)
    call.refuse_locked(item)
    return call.drive.items[item.parent], item.name, item


def _place_addressed(call: Call) -> tuple[Item, str]:
    parent, name = call.place()
    call.refuse_hidden(parent)
    if not parent.is_folder:
        raise bad_request("The parent is not a folder.")
    return parent, call.check_name(name, parent, is_folder=False)


def _check_place(call: Call, parent: Item, there: Item | None, behaviour: str) -> None:
    """The real service compares If-Match with the *parent* here, so a file's own tag fails."""
    call.check_absent(there)
    if there is None:
        return
    call.check_if_match(there if call.world.knobs.if_match_path_ok else parent)
    call.refuse_locked(there)
    is_late = call.drive.is_personal and there.is_file
    if behaviour == "fail" and not is_late:
        raise taken()
    if behaviour == "replace" and not there.is_file:
        raise taken()


def _refuse_second(call: Call, parent: Item, name: str) -> None:
    """Business knows one session per name."""
    drive = call.drive
    if drive.is_personal:
        return
    for other in call.world.open_sessions():
        same = drive.fold(other.name) == drive.fold(name)
        if other.drive is drive and other.parent is parent and same:
            raise taken("A file with the same name is currently being uploaded.")


def _new_session(
    call: Call,
    parent: Item,
    name: str,
    target: Item | None,
    behaviour: str,
    body: Json,
    item_body: Json,
) -> Session:
    world, now = call.world, call.world.clock.now()
    times = times_in(item_body.get("fileSystemInfo"))
    life = _PERSONAL_LIFE_S if call.drive.is_personal else _BUSINESS_LIFE_S
    session = Session(
        world.new_id(),
        call.drive,
        parent,
        name,
        target,
        behaviour,
        call.request.headers.get("if-match", "") if target is not None else "",
        (times.created, times.modified),
        bool(body.get("deferCommit")),
        now,
        now + life,
    )
    world.sessions[session.id] = session
    return session


# ---- on the upload host -----------------------------------------------------------------


def begin(world: World, request: Request) -> None:
    """A fragment's head is here; its body comes."""
    session = world.sessions.get(_id_in(request.target))
    if session is not None:
        session.in_flight += 1
        request.overlaps = session.in_flight > 1


def end(world: World, request: Request) -> None:
    session = world.sessions.get(_id_in(request.target))
    if session is not None:
        session.in_flight -= 1


def put_fragment(world: World, request: Request) -> Reply:
    """Raises GraphError."""
    session = _usable(world, request)
    if world.clock.now() - session.created < world.knobs.session_visible_s:
        raise not_found("The upload session was not found")
    start, stop, total = _content_range(request)
    _check_fragment(session, request, start, stop, total)
    if request.overlaps:
        message = "Optimistic concurrency failure during fragmented upload"
        raise GraphError(416, "invalidRange", message)
    have = len(session.data)
    if start < have:
        raise _out_of_order("fragmentOverlap")
    if start > have:
        raise _out_of_order("fragmentOutOfOrder")
    session.total = total
    if not request.is_complete:
        if world.knobs.keep_partial:
            session.data += request.body
        raise bad_request("The body is shorter than announced.")
    session.data += request.body
    if not session.drive.is_personal:
        session.expires = max(session.expires, world.clock.now() + _BUSINESS_LIFE_S)
    if stop < total:
        session.is_poisoned |= (stop - start) % UNIT != 0
        return Reply.of(202, _status_json(world, session))
    if session.is_poisoned:
        session.state = "cancelled"
        raise bad_request("A fragment's size was wrong.", inner="uploadSessionFailed")
    if session.deferred:
        return Reply.of(202, _status_json(world, session))
    return _committed(world, session)


def get_status(world: World, request: Request) -> Reply:
    session = _usable(world, request)
    body = _status_json(world, session)
    if world.knobs.rotate_upload_url:
        body["uploadUrl"] = _url(world, session, world.rng.randrange(1 << 30))
    return Reply.of(200, body)


def cancel(world: World, request: Request) -> Reply:
    session = _usable(world, request)
    session.state = "cancelled"
    session.data.clear()
    return Reply(204)


def post_commit(world: World, request: Request) -> Reply:
    """``POST uploadUrl`` without a body ends a session with deferCommit, on business."""
    session = _usable(world, request)
    if session.drive.is_personal or request.body:
        raise not_supported("Operation not supported")
    if session.total is None or len(session.data) != session.total:
        raise bad_request("The upload session is not complete.", inner="uploadSessionIncomplete")
    return _committed(world, session)


def _usable(world: World, request: Request) -> Session:
    session = world.session(_id_in(request.target))
    if world.clock.now() - session.created < world.knobs.session_tempauth_s:
        return session
    if session.drive.is_personal:
        raise GraphError(401, "unauthenticated", "The token has expired.", inner="expiredToken")
    raise GraphError(403, "accessDenied", "The token has expired.")


def _content_range(request: Request) -> tuple[int, int, int]:
    """[start, stop) and the total."""
    if "content-length" not in request.headers:
        raise GraphError(411, "invalidRequest", "Content-Length is required.")
    match = _CONTENT_RANGE.fullmatch(request.headers.get("content-range", ""))
    if match is None:
        raise bad_request("The Content-Range header is missing or malformed.")
    return int(match[1]), int(match[2]) + 1, int(match[3])


def _check_fragment(session: Session, request: Request, start: int, stop: int, total: int) -> None:
    length = int(request.headers["content-length"])
    if length >= FRAGMENT_MAX:
        inner = "maxFragmentLengthExceeded"
        raise GraphError(413, "invalidRequest", "The fragment is too large.", inner=inner)
    if total == 0 or stop <= start or stop > total or length != stop - start:
        raise bad_request("The Content-Range does not fit the body.")
    if session.total not in (None, total):
        raise bad_request("The total size changed.", inner="fragmentLengthMismatch")


def _out_of_order(inner: str) -> GraphError:
    return GraphError(416, "invalidRange", "The uploaded fragment is not expected.", inner=inner)


def _status_json(world: World, session: Session) -> Json:
    when = world.stamp(session.expires, session.drive, ms=True)
    return {"expirationDateTime": when, "nextExpectedRanges": _ranges(world, session)}


def _ranges(world: World, session: Session) -> list[str]:
    have, total = len(session.data), session.total
    if total is None or world.knobs.ranges_form == "open":
        return [] if have == total else [f"{have}-"]
    if have == total:
        return []
    middle = have + (total - have) // 2
    if world.knobs.ranges_form == "closed" or middle == have:
        return [f"{have}-{total - 1}"]
    return [f"{have}-{middle - 1}", f"{middle}-{total - 1}"]


def _committed(world: World, session: Session) -> Reply:
    status, item = _commit(world, session)
    if world.knobs.empty_commit_reply:
        return Reply(status)
    if world.knobs.session_in_commit_reply:
        return Reply.of(status, _status_json(world, session))
    body = item_json(world, session.drive, item)
    return Reply.of(status, body, ETag=tags.etag(session.drive, item))


def _commit(world: World, session: Session) -> tuple[int, Item]:
    """All of it or nothing; the bytes are kept when it is refused. Raises GraphError."""
    drive = session.drive
    item = session.target or drive.child(session.parent, session.name)
    if session.parent.deleted or (session.target is not None and session.target.deleted):
        raise not_found()
    name = session.name
    if session.target is None and item is not None:
        if session.behaviour == "fail" or (session.behaviour == "replace" and not item.is_file):
            raise taken()
        if session.behaviour == "rename":
            name, item = drive.free_name(session.parent, name), None
    blob, times = Blob(bytes(session.data)), Times(*session.times)
    _check_commit(drive, session, item, len(blob))
    if item is None:
        status = 201
        item = drive.add(session.parent, name, Kind.FILE, blob=blob, times=times)
    else:
        status = 200
        drive.put(item, blob, times=times)
    session.state = "done"
    session.data.clear()
    return status, item


def _check_commit(drive: Drive, session: Session, item: Item | None, size: int) -> None:
    if item is not None and session.if_match and not tags.names(session.if_match, drive, item):
        raise changed()
    if item is not None and item.locked_by:
        message = f"The file is locked for editing by {item.locked_by}."
        raise GraphError(423, "notAllowed", message, inner="resourceLocked")
    refuse_full(drive, size)


def _url(world: World, session: Session, turn: int = 0) -> str:
    return f"{world.urls.upload}/up/{session.id}?tempauth={world.sign(session.id)}&t={turn}"


def _id_in(url: str) -> str:
    return url.partition("?")[0].rpartition("/up/")[2]


TABLE: Final[Table] = {("POST", "createUploadSession"): create_session}
