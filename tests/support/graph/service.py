"""From a request to its reply: who may ask, which operation it is, how a refusal looks."""

import dataclasses
from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from tests.support.graph import content, delta, extras, items, sessions
from tests.support.graph.call import Call, Handler, check_query
from tests.support.graph.failures import GraphError, Json, bad_request, error_body, not_found
from tests.support.graph.messages import Host, Reply, Request
from tests.support.graph.routes import PREFIX, parse
from tests.support.graph.throttle import cost
from tests.support.graph.world import World

BATCH_MAX: Final = 20


def route_name(world: World, request: Request) -> str:
    """What rules and the journal call it; "unknown" for what is no address."""
    if request.host is Host.API:
        try:
            return parse(request.raw_path, plus_as_space=world.knobs.plus_as_space).op
        except GraphError:
            return "unknown"
    if request.host is Host.UPLOAD:
        return _UPLOAD_NAMES.get(request.method, "unknown")
    if request.host is Host.CONTENT:
        return "monitor" if request.raw_path.startswith("/monitor/") else "download"
    return "imds"


def answer(world: World, request: Request) -> Reply:
    """The reply, whatever the request. The world's lock is held."""
    world.settle()
    try:
        reply = _HOSTS[request.host](world, request)
    except GraphError as error:
        reply = refusal(world, request, error)
    _complete(world, request, reply)
    return reply


def refusal(world: World, request: Request, error: GraphError) -> Reply:
    known_as = request.headers.get("client-request-id") or world.new_id()
    body = error_body(
        error,
        date=world.stamp(world.clock.now())[:19],
        request_id=known_as,
        lower=world.knobs.innererror_lower,
    )
    reply = Reply.of(error.status, body)
    reply.headers.update(dict(error.headers))
    return reply


def _complete(world: World, request: Request, reply: Reply) -> None:
    """The headers every answer has."""
    request_id = world.new_id()
    own = {
        "request-id": request_id,
        "client-request-id": request.headers.get("client-request-id", request_id),
        "Date": world.http_date(),
    }
    if request.host is Host.API:
        own |= {"Cache-Control": "private", "OData-Version": "4.0"}
        own |= world.throttle.headers()
    for name, value in own.items():
        reply.headers.setdefault(name, value)


# ---- the API host -----------------------------------------------------------------------


def _api(world: World, request: Request) -> Reply:
    world.throttle.check()
    if not request.inner:
        writes = request.method not in ("GET", "HEAD")
        world.tokens.check(request.headers.get("authorization"), writes=writes)
    route = parse(request.raw_path, plus_as_space=world.knobs.plus_as_space)
    if route.op == "batch":
        return _batch(world, request)
    units = cost(request.method, route.op, has_token="token" in request.query)
    world.throttle.charge(units)
    check_query(request)
    handler = _TABLE.get((request.method, route.op))
    if handler is None:
        raise GraphError(405, "notAllowed", "Method not allowed")
    return handler(Call(world, request, route))


def _batch(world: World, request: Request) -> Reply:
    asked = request.json().get("requests")
    if request.method != "POST" or not isinstance(asked, list) or not asked:
        raise bad_request("'requests' is missing.", code="BadRequest")
    parts = cast("list[Json]", asked)
    if len(parts) > BATCH_MAX:
        raise bad_request("Number of batch request steps exceeds 20.", code="BadRequest")
    ids = [str(part.get("id")) for part in parts]
    if len(set(ids)) != len(ids) or not all(p.get("method") and p.get("url") for p in parts):
        raise bad_request("A batch step is malformed.", code="BadRequest")
    statuses: dict[str, int] = {}
    responses: list[Json] = []
    for part in parts:
        response = _step(world, request, part, statuses)
        statuses[response["id"]] = response["status"]
        responses.append(response)
    world.rng.shuffle(responses)
    return Reply.of(200, {"responses": responses})


def _step(world: World, request: Request, part: Json, statuses: dict[str, int]) -> Json:
    needed: list[Any] = part.get("dependsOn") or part.get("depends_on") or []
    if any(statuses.get(str(other), 424) >= 400 for other in needed):
        return {"id": str(part["id"]), "status": 424, "headers": {}, "body": {}}
    reply = answer(world, inner_request(request, part))
    body = reply.payload
    headers = {k: v for k, v in reply.headers.items() if k in ("Location", "Retry-After", "ETag")}
    response: Json = {"id": str(part["id"]), "status": reply.status, "headers": headers}
    return response if body is None else {**response, "body": body}


def inner_request(request: Request, part: Json) -> Request:
    """One request of a batch, as if it had come alone."""
    url = urlsplit(str(part["url"]))
    path = url.path if url.path.startswith(PREFIX) else PREFIX + "/" + url.path.lstrip("/")
    target = f"{path}?{url.query}" if url.query else path
    headers = {str(k).lower(): str(v) for k, v in dict(part.get("headers") or {}).items()}
    body = part.get("body")
    data = b"" if body is None else _json_bytes(body)
    return dataclasses.replace(
        request,
        method=str(part["method"]).upper(),
        target=target,
        headers=headers,
        body=data,
        inner=True,
    )


def _json_bytes(body: object) -> bytes:
    return Reply.of(200, cast("Json", body)).body


# ---- the other hosts --------------------------------------------------------------------


def _upload(world: World, request: Request) -> Reply:
    _refuse_authorization(request)
    handler = _UPLOADS.get(request.method)
    if handler is None:
        raise GraphError(405, "notAllowed", "Method not allowed")
    return handler(world, request)


def _content(world: World, request: Request) -> Reply:
    _refuse_authorization(request)
    if request.method not in ("GET", "HEAD"):
        raise GraphError(405, "notAllowed", "Method not allowed")
    if request.raw_path.startswith("/monitor/"):
        return extras.monitor(world, request)
    if request.raw_path.startswith("/dl/"):
        return content.download(world, request)
    raise not_found()


def _imds(world: World, request: Request) -> Reply:
    """The instance metadata service of a virtual machine."""
    if not unquote(request.raw_path).startswith("/metadata/identity/oauth2/token"):
        raise not_found()
    if request.headers.get("metadata", "").lower() != "true":
        return Reply.of(400, {"error": "invalid_request", "error_description": "Metadata"})
    life = int(world.knobs.token_life_s)
    expires = int(world.clock.now()) + life
    body = {
        "access_token": world.tokens.issue(),
        "client_id": "00000000-0000-0000-0000-000000000000",
        "expires_in": str(life),
        "expires_on": str(expires),
        "not_before": str(int(world.clock.now())),
        "resource": request.query.get("resource", ""),
        "token_type": "Bearer",
    }
    return Reply.of(200, body)


def _refuse_authorization(request: Request) -> None:
    if "authorization" in request.headers:
        raise GraphError(401, "unauthenticated", "Authorization is not allowed here.")


_TABLE: Final[dict[tuple[str, str], Handler]] = {
    **items.TABLE,
    **content.TABLE,
    **sessions.TABLE,
    **delta.TABLE,
    **extras.TABLE,
}
_UPLOADS: Final[dict[str, Callable[[World, Request], Reply]]] = {
    "PUT": sessions.put_fragment,
    "GET": sessions.get_status,
    "DELETE": sessions.cancel,
    "POST": sessions.post_commit,
}
_UPLOAD_NAMES: Final = {
    "PUT": "fragment",
    "GET": "sessionStatus",
    "DELETE": "sessionCancel",
    "POST": "sessionCommit",
}
_HOSTS: Final[dict[Host, Callable[[World, Request], Reply]]] = {
    Host.API: _api,
    Host.UPLOAD: _upload,
    Host.CONTENT: _content,
    Host.IMDS: _imds,
}
