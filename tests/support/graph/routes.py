"""What a target addresses: parsed after the percent-encoding is gone, as the service does."""

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, unquote_plus

from tests.support.graph.failures import bad_request

PREFIX: Final = "/v1.0"
_OWNER: Final = r"(?:me|users/[^/]+|groups/[^/]+|sites/[^/]+)"
_DRIVE: Final = re.compile(
    rf"/(?:drives/(?P<id>[^/]+)|(?P<owner>{_OWNER})/drive(?:s/(?P<id2>[^/]+))?)"
)
_ITEM: Final = re.compile(
    r"/(?:root|items/(?P<id>[^/:]+)|special/(?P<special>[^/:]+))"
    r"(?P<path>:/[^:]*(?::|$)|:$)?(?P<op>/.*)?"
)
_OPS: Final[dict[str, str]] = {
    "": "item",
    "/children": "children",
    "/content": "content",
    "/createUploadSession": "createUploadSession",
    "/copy": "copy",
    "/restore": "restore",
    "/permanentDelete": "permanentDelete",
    "/checkout": "checkout",
    "/checkin": "checkin",
    "/delta": "delta",
    "/delta()": "delta",
    "/microsoft.graph.delta": "delta",
    "/microsoft.graph.delta()": "delta",
    "/versions": "versions",
    "/subscriptions/socketIo": "socketIo",
}
_CALLS: Final = (
    (re.compile(r"/(?:microsoft\.graph\.)?delta\(token='([^']*)'\)"), "delta", "token"),
    (re.compile(r"/(?:microsoft\.graph\.)?search\(q='([^']*)'\)"), "search", "q"),
    (re.compile(r"/versions/([^/]+)"), "version", "version"),
    (re.compile(r"/versions/([^/]+)/content"), "versionContent", "version"),
    (re.compile(r"/versions/([^/]+)/restoreVersion"), "restoreVersion", "version"),
)
_NAMED_CHILD: Final = re.compile(r"/children/([^/]+)(/content)?")
_OTHER: Final = (
    (re.compile(rf"/(?P<owner>{_OWNER})/drives"), "drives"),
    (re.compile(r"/drives/(?P<drive>[^/]+)"), "drive"),
    (re.compile(rf"/(?P<owner>{_OWNER})/drive"), "drive"),
    (re.compile(rf"/(?P<owner>{_OWNER})/drives/(?P<drive>[^/]+)"), "drive"),
    (re.compile(r"/(?P<owner>me|users/[^/]+)"), "user"),
    (re.compile(r"/sites"), "sites"),
    (re.compile(r"/sites/[^/]+/getByPath\(path='(?P<path>[^']*)'\)"), "site"),
    (re.compile(r"/sites/(?P<host>[^/:]+):/(?P<path>[^:]+?)(?::?)"), "site"),
    (re.compile(r"/sites/(?P<site>[^/:]+)"), "site"),
    (re.compile(r"/subscriptions"), "subscriptions"),
    (re.compile(r"/subscriptions/(?P<subscription>[^/]+)"), "subscription"),
    (re.compile(r"/\$batch"), "batch"),
)


@dataclass(frozen=True, slots=True)
class Route:
    """``op`` on an item (``drive``, ``item``, ``names`` below it), or on something else."""

    op: str
    drive: str = ""
    """An id, or the owner's segment(s) whose only drive it is."""
    item: str = ""
    special: str = ""
    names: tuple[str, ...] | None = None
    """None: addressed by id."""
    arguments: dict[str, str] = field(default_factory=dict[str, str])


def parse(raw_path: str, *, plus_as_space: bool = False) -> Route:
    """The route of a path behind the host. Raises GraphError for what is no address."""
    decode = unquote_plus if plus_as_space else unquote
    path = "/".join(decode(part) for part in raw_path.split("/"))
    if not path.startswith(PREFIX + "/"):
        raise _unknown(path)
    path = path.removeprefix(PREFIX)
    for pattern, op in _OTHER:
        match = pattern.fullmatch(path)
        if match is not None:
            found = {k: v for k, v in match.groupdict().items() if v is not None}
            return Route(op, drive=found.get("drive") or found.get("owner", ""), arguments=found)
    start = _DRIVE.match(path)
    if start is None:
        raise _unknown(path)
    drive = start["id"] or start["id2"] or start["owner"]
    return _item_route(drive, path[start.end() :])


def _item_route(drive: str, rest: str) -> Route:
    named = re.fullmatch(r"/(?:microsoft\.graph\.)?search\(q='([^']*)'\)", rest)
    if named is not None:
        return Route("search", drive, "root", arguments={"q": named[1]})
    match = _ITEM.fullmatch(rest)
    if match is None:
        raise _unknown(rest)
    names = None
    if match["path"]:
        names = tuple(name for name in match["path"].strip(":").split("/") if name)
    op, arguments = match["op"] or "", dict[str, str]()
    if op != "/":
        op = op.rstrip("/")
    child = _NAMED_CHILD.fullmatch(op)
    if child is not None:
        names = (*(names or ()), child[1])
        op = child[2] or ""
    name = _OPS.get(op, "")
    for pattern, call, argument in _CALLS:
        called = pattern.fullmatch(op)
        if called is not None:
            name, arguments = call, {argument: called[1]}
    if not name:
        raise _unknown(op)
    return Route(name, drive, match["id"] or "root", match["special"] or "", names, arguments)


def _unknown(path: str) -> Exception:
    segment = path.strip("/").rpartition("/")[2]
    message = f"Resource not found for the segment '{segment}'."
    return bad_request(message, code="BadRequest")
