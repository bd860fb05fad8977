"""What no well-behaved client does, whatever the service answers."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from tests.support.graph import naming
from tests.support.graph.drives import Item
from tests.support.graph.failures import GraphError, Json
from tests.support.graph.knobs import MIB
from tests.support.graph.messages import Host, Reply, Request
from tests.support.graph.routes import Route, parse
from tests.support.graph.service import BATCH_MAX, inner_request
from tests.support.graph.sessions import FRAGMENT_MAX, UNIT
from tests.support.graph.world import Exchange, World

AUTHORIZATION: Final = "authorization"
"""A token sent to the content or upload host."""
IMPATIENT: Final = "impatient"
"""A request before Retry-After was over."""
FRAGMENT: Final = "fragment"
"""Unaligned, 60 MiB or more, or two at a time."""
SESSION_LEFT: Final = "session_left"
"""An upload session neither finished nor cancelled."""
BLIND_RETRY: Final = "blind_retry"
"""A POST again after an answer that says nothing, without a look at what the first one did."""
UNCONDITIONAL: Final = "unconditional"
"""A change of something that is there, without If-Match."""
NO_BEHAVIOUR: Final = "no_behaviour"
"""Something made without conflictBehavior."""
LINK: Final = "link"
"""A nextLink or deltaLink that is not the one given."""
PATH: Final = "path"
"""A path where the id is known. Off unless asked for."""
NAME: Final = "name"
"""A name the service cannot take."""
BATCH: Final = "batch"
"""More than twenty requests in a batch."""
RESTARTED: Final = "restarted"
"""A download from the start again, where a range would have done."""
TOKEN: Final = "token_in_url"

ALL: Final = frozenset(
    {
        *(AUTHORIZATION, IMPATIENT, FRAGMENT, SESSION_LEFT, BLIND_RETRY, UNCONDITIONAL),
        *(NO_BEHAVIOUR, LINK, NAME, BATCH, RESTARTED, TOKEN),
    }
)
_WORTH_A_RANGE: Final = 64 * 1024
_TOKEN: Final = re.compile(r"(?:access_token|authorization|bearer)[=%]", re.IGNORECASE)
_MAKERS: Final = frozenset({"children", "copy"})


@dataclass(frozen=True, slots=True)
class Violation:
    """``kind`` is one of this module's; ``number`` that of the request in the journal."""

    kind: str
    detail: str
    number: int


class Conduct:
    """Watches requests. Called with the world's lock held."""

    def __init__(self, world: World) -> None:
        self.violations: Final[list[Violation]] = []
        self.watched: Final[set[str]] = set(ALL)
        self._world = world
        self._links: set[str] = set()
        self._shown_ids: set[str] = set()
        self._doubtful: dict[tuple[str, bytes], str] = {}
        self._cut: dict[str, int] = {}
        self._checks: Final[dict[Host, tuple[Callable[[Request, Exchange], None], ...]]] = {
            Host.API: (self._check_api,),
            Host.UPLOAD: (self._check_authorization, self._check_fragment),
            Host.CONTENT: (self._check_authorization, self._check_restart),
            Host.IMDS: (),
        }

    def observe(self, request: Request, exchange: Exchange) -> None:
        """Before it is carried out: what is there now is what the client acts on."""
        for check in self._checks[request.host]:
            check(request, exchange)
        if request.host is not Host.CONTENT and self._world.throttle.is_ignored:
            self._blame(IMPATIENT, exchange.target, request)

    def learn(self, reply: Reply) -> None:
        """The links and items a client was given."""
        body = reply.payload or {}
        links = [body.get("@odata.nextLink"), body.get("@odata.deltaLink")]
        self._links |= {_target(link) for link in links if isinstance(link, str)}
        location = reply.headers.get("Location")
        if location is not None and reply.status == 410:
            self._links.add(_target(location))
        values: list[Json] = [v for v in body.get("value", []) if isinstance(v, dict)]
        self._shown_ids |= {str(v.get("id")) for v in (body, *values) if "id" in v}

    def finished(self, request: Request, exchange: Exchange, *, is_whole: bool) -> None:
        key = (request.raw_path, request.body)
        if exchange.route in _MAKERS and request.method == "POST":
            is_doubtful = exchange.status == 0 or exchange.status >= 500 or not is_whole
            if is_doubtful:
                self._doubtful[key] = request.raw_path
            else:
                self._doubtful.pop(key, None)
        if exchange.route == "download" and not is_whole and exchange.status in (200, 206):
            item = request.raw_path.partition("?")[0]
            self._cut[item] = max(self._cut.get(item, 0), exchange.reply_bytes)

    def end(self) -> None:
        """The client says it is done."""
        for session in self._world.open_sessions():
            self._blame(SESSION_LEFT, session.name, None)

    # ---- the API host -------------------------------------------------------------------

    def _check_api(self, request: Request, exchange: Exchange) -> None:
        if _TOKEN.search(request.raw_query):
            self._blame(TOKEN, exchange.target, request)
        try:
            route = parse(request.raw_path)
            body = request.json()
        except GraphError:
            return
        self._check_links(request)
        self._check_retry(request, route)
        self._check_write(request, route, body)
        if route.op == "batch":
            self._check_batch(request, exchange, body)
        if route.names and PATH in self.watched:
            self._check_path(request, route)

    def _check_batch(self, request: Request, exchange: Exchange, body: Json) -> None:
        parts: list[Json] = body.get("requests") or []
        if len(parts) > BATCH_MAX:
            self._blame(BATCH, str(len(parts)), request)
        for part in parts:
            if part.get("method") and part.get("url"):
                self._check_api(inner_request(request, part), exchange)

    def _check_links(self, request: Request) -> None:
        has_token = bool({"token", "$token", "skiptoken", "$skiptoken"} & set(request.query))
        is_latest = request.query.get("token") == "latest"
        if has_token and not is_latest and request.target not in self._links:
            self._blame(LINK, request.target, request)

    def _check_retry(self, request: Request, route: Route) -> None:
        if request.method == "GET":
            self._doubtful.clear()  # a look of some kind
            return
        if (request.raw_path, request.body) in self._doubtful and route.op in _MAKERS:
            self._blame(BLIND_RETRY, f"{request.method} {request.path}", request)

    def _check_write(self, request: Request, route: Route, body: Json) -> None:
        method, op = request.method, route.op
        if (method, op) == ("POST", "children"):
            self._check_behaviour(request, body)
            self._check_name(request, body.get("name"))
        elif (method, op) == ("POST", "createUploadSession"):
            self._check_upload(request, route, body.get("item") or {})
        elif (method, op) == ("PUT", "content"):
            self._check_upload(request, route, {})
        elif op == "item" and method in ("PATCH", "DELETE"):
            self._check_condition(request, route)
            if "name" in body:
                self._check_name(request, body["name"])

    def _check_upload(self, request: Request, route: Route, item: Json) -> None:
        if route.names is None:
            self._check_condition(request, route)
            return
        self._check_name(request, route.names[-1] if route.names else None)
        self._check_behaviour(request, item)

    def _check_behaviour(self, request: Request, body: Json) -> None:
        name = "@microsoft.graph.conflictBehavior"
        if name not in body and name not in request.query:
            self._blame(NO_BEHAVIOUR, f"{request.method} {request.path}", request)
            return
        behaviour = body.get(name) or request.query.get(name)
        has_condition = {"if-match", "if-none-match"} & set(request.headers)
        if behaviour == "replace" and not has_condition:
            self._blame(UNCONDITIONAL, f"{request.method} {request.path}", request)

    def _check_condition(self, request: Request, route: Route) -> None:
        if "if-match" in request.headers:
            return
        item = self._addressed(route)
        if item is None or not item.is_file:
            return  # what is in a folder has no part in the folder's tags
        self._blame(UNCONDITIONAL, f"{request.method} {request.path}", request)

    def _check_name(self, request: Request, name: object) -> None:
        if not isinstance(name, str) or not naming.is_valid(name):
            self._blame(NAME, repr(name), request)

    def _check_path(self, request: Request, route: Route) -> None:
        item = self._addressed(route)
        if item is not None and item.id in self._shown_ids:
            self._blame(PATH, request.path, request)

    def _addressed(self, route: Route) -> Item | None:
        drive = self._world.drives.get(route.drive) or self._world.drive
        start = drive.find(route.item)
        return None if start is None else drive.walk(start, route.names or ())

    # ---- the other hosts ----------------------------------------------------------------

    def _check_authorization(self, request: Request, exchange: Exchange) -> None:
        if "authorization" in request.headers:
            self._blame(AUTHORIZATION, f"{exchange.host} {exchange.route}", request)

    def _check_fragment(self, request: Request, exchange: Exchange) -> None:
        if exchange.route != "fragment":
            return
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", request.headers.get("content-range", ""))
        if match is None:
            self._blame(FRAGMENT, "no Content-Range", request)
            return
        start, stop, total = int(match[1]), int(match[2]) + 1, int(match[3])
        if stop < total and (stop - start) % UNIT:
            self._blame(FRAGMENT, f"{stop - start} bytes are no multiple of 320 KiB", request)
        if stop - start >= FRAGMENT_MAX:
            self._blame(FRAGMENT, f"{(stop - start) // MIB} MiB at a time", request)
        if request.overlaps:
            self._blame(FRAGMENT, "two at a time", request)

    def _check_restart(self, request: Request, exchange: Exchange) -> None:
        had = self._cut.pop(request.raw_path, 0)
        starts_over = request.headers.get("range", "bytes=0-").startswith("bytes=0-")
        if exchange.route == "download" and had >= _WORTH_A_RANGE and starts_over:
            self._blame(RESTARTED, f"{had} bytes had come", request)

    def _blame(self, kind: str, detail: str, request: Request | None) -> None:
        if kind in self.watched or kind == PATH:
            number = 0 if request is None else request.number
            self.violations.append(Violation(kind, unquote(detail), number))


def _target(url: str) -> str:
    """What the request line of this link says."""
    scheme, _, rest = url.partition("://")
    return "/" + rest.partition("/")[2] if scheme and rest else url
