"""Between the sockets and the service: the journal, the faults, and what clients do wrong."""

from dataclasses import dataclass
from typing import Final

from tests.support.graph import sessions
from tests.support.graph.conduct import Conduct
from tests.support.graph.failures import GraphError
from tests.support.graph.faults import Action, What
from tests.support.graph.messages import Host, Reply, Request
from tests.support.graph.service import answer, refusal, route_name
from tests.support.graph.world import Exchange, World

_BODY_KEPT: Final = 4096


@dataclass(slots=True)
class Visit:
    """A request between its head and the end of its reply."""

    request: Request
    exchange: Exchange
    action: Action | None
    is_fragment: bool = False


class Gate:
    """What the servers call, from any thread."""

    def __init__(self, world: World) -> None:
        self.world: Final = world
        self.conduct: Final = Conduct(world)

    def arrive(self, request: Request) -> Visit:
        """Its head is here: it counts from now on."""
        world = self.world
        with world.lock:
            world.settle()
            request.number = len(world.journal) + 1
            route = route_name(world, request)
            exchange = Exchange(
                world.clock.now(),
                request.host.value,
                request.method,
                route,
                request.target,
                dict(request.headers),
                int(request.headers.get("content-length", "0")),
            )
            world.journal.append(exchange)
            action = world.faults.pick(request.method, route, request.path, request.number)
            exchange.fault = action.what.value if action is not None else ""
            visit = Visit(request, exchange, action, is_fragment=route == "fragment")
            if visit.is_fragment:
                sessions.begin(world, request)
            return visit

    def carry_out(self, visit: Visit) -> Reply:
        """Its body is here, as far as it came."""
        with self.world.lock:
            visit.exchange.body = visit.request.body[:_BODY_KEPT]
            visit.exchange.request_bytes = len(visit.request.body)
            self.conduct.observe(visit.request, visit.exchange)
            reply = answer(self.world, visit.request)
            self._note(visit, reply)
            return reply

    def refuse(self, visit: Visit, action: Action) -> Reply:
        """The reply a rule asks for."""
        world = self.world
        with world.lock:
            headers: tuple[tuple[str, str], ...] = ()
            if action.retry_after is not None:
                headers = (("Retry-After", f"{action.retry_after:g}"),)
                world.throttle.told(action.retry_after, enforce=action.enforce)
            message = "The service said so, because a test wants it to."
            error = GraphError(
                action.code, action.error, message, inner=action.inner, headers=headers
            )
            if action.what is What.STATUS:
                visit.exchange.body = visit.request.body[:_BODY_KEPT]
                self.conduct.observe(visit.request, visit.exchange)
            reply = refusal(world, visit.request, error)
            if action.html:
                reply = Reply(action.code, b"<html>busy</html>", {"Content-Type": "text/html"})
                reply.headers.update(dict(headers))
            self._note(visit, reply)
            return reply

    def leave(self, visit: Visit, *, sent: int, is_whole: bool) -> None:
        """The reply went out, or as much of it as was to go out; -1: nothing did."""
        with self.world.lock:
            if visit.is_fragment:
                sessions.end(self.world, visit.request)
            if sent < 0:
                visit.exchange.status = 0
            visit.exchange.reply_bytes = max(sent, 0)
            self.conduct.finished(visit.request, visit.exchange, is_whole=is_whole)

    def _note(self, visit: Visit, reply: Reply) -> None:
        visit.exchange.status = reply.status
        visit.exchange.payload = reply.payload
        visit.exchange.reply_headers = dict(reply.headers)
        if visit.request.host is Host.API:
            self.conduct.learn(reply)
