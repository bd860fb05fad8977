"""A network that misbehaves on request: an HTTP/1.1 proxy in front of one local server.

    with Proxy(server.port) as proxy:
        proxy.set_fault(Fault.lose_reply("PUT"))

Reads requests and replies well enough to count them by method and path, with the bytes of
their bodies. One thread per connection, one request at a time on each, as clients do.
"""

import contextlib
import enum
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Self
from urllib.parse import unquote, urlsplit

_BLOCK: Final = 1 << 16
_HEAD_END: Final = b"\r\n\r\n"
_IDLE_S: Final = 60.0


class What(enum.Enum):
    """What goes wrong."""

    LOSE_REPLY = enum.auto()
    """The server gets and answers the request; the client's connection ends instead."""
    REFUSE = enum.auto()
    """The connection ends before the request reaches the server."""
    CUT_REPLY = enum.auto()
    """The connection is reset after so many bytes of the reply's body."""
    CUT_REQUEST = enum.auto()
    """Both connections are reset after so many bytes of the request's body."""
    STALL_REPLY = enum.auto()
    """Nothing more comes after so many bytes of the reply's body, until ``release``."""
    STALL_REQUEST = enum.auto()
    """The request is held before it reaches the server, until ``release``."""
    ANSWER = enum.auto()
    """The proxy answers with this status itself."""
    END_REPLY = enum.auto()
    """The connection ends, in good order, before the body is as long as announced."""
    SPOIL_REPLY = enum.auto()
    """One byte of the reply's body is another one, where the head tells the MD5 of an object."""
    SPOIL_REQUEST = enum.auto()
    """One byte of the request's body is another one."""
    WRONG_TAG = enum.auto()
    """The reply's ETag is that of nothing."""
    REPLAY = enum.auto()
    """The server's first reply gets lost and the proxy sends the request again, as some do."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, with which requests, and how often."""

    what: What
    method: str = ""
    path: str = ""
    """Part of the decoded target, query included; "": any."""
    times: int = 1
    after_bytes: int = 0
    status: int = 503
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    share: float | None = None
    """Instead of ``after_bytes``: this part of the body."""
    stall_s: float = _IDLE_S
    """At most; then it goes on."""

    def position(self, head: bytes) -> int:
        """The byte of the body behind this head where it strikes."""
        if self.share is None:
            return self.after_bytes
        return int(self.share * int(_headers(head).get("content-length", "0")))

    def matches(self, method: str, target: str) -> bool:
        return self.method in ("", method) and self.path in unquote(target)

    @classmethod
    def lose_reply(cls, method: str = "", path: str = "", *, times: int = 1) -> Self:
        return cls(What.LOSE_REPLY, method, path, times)

    @classmethod
    def answer(cls, status: int, method: str = "", path: str = "", *, times: int = 1) -> Self:
        return cls(What.ANSWER, method, path, times, status=status)


@dataclass(slots=True)
class Exchange:
    """One request and its reply, as far as they got."""

    method: str
    target: str
    status: int = 0
    """0: no reply was passed on."""
    request_bytes: int = 0
    reply_bytes: int = 0
    """Of the bodies."""

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)


@dataclass(slots=True)
class Counters:
    """What passed so far."""

    exchanges: list[Exchange] = field(default_factory=list[Exchange])
    connections: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    """Everything on the client's side of the proxy, heads included."""

    def count(self, method: str = "", path: str = "") -> int:
        """Requests with this method and this text in the decoded target."""
        return sum(
            1 for e in self.exchanges if method in ("", e.method) and path in unquote(e.target)
        )

    def reply_bytes(self, method: str = "", path: str = "") -> int:
        return sum(
            e.reply_bytes
            for e in self.exchanges
            if method in ("", e.method) and path in unquote(e.target)
        )


class Proxy:
    """Listens on a port of its own while the context is open."""

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port: Final = upstream_port
        self.counters = Counters()
        self.latency_s = 0.0
        """Waited before each request is passed on."""
        self.stalled: Final = threading.Event()
        """Set while something is held back."""
        self._faults: list[Fault] = []  # guarded by: _lock
        self._acts: list[tuple[str, Callable[[], None]]] = []  # guarded by: _lock
        self._early_acts: list[tuple[str, Callable[[], None]]] = []  # guarded by: _lock
        self._sockets: set[socket.socket] = set()  # guarded by: _lock
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._listener = _listen(0)
        self._is_listening = True
        self.port: Final[int] = self._listener.getsockname()[1]

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._serve()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.release()

    def set_fault(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)
            self._released.clear()
            self.stalled.clear()

    def clear(self) -> None:
        """No more faults; what is stalled goes on."""
        with self._lock:
            self._faults.clear()
        self.release()

    def deny_writes(self) -> None:
        """Credentials that may only read."""
        refusal = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        for method in ("PUT", "POST", "DELETE"):
            self.set_fault(Fault(What.ANSWER, method, times=1000, status=403, body=refusal))

    def release(self) -> None:
        self._released.set()

    def reset_counters(self) -> None:
        with self._lock:
            self.counters = Counters()

    def refuse(self) -> None:
        """The host is down: open connections are reset, new ones are refused."""
        if self._is_listening:
            self._is_listening = False
            # shutdown wakes the thread in accept; close alone does not.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            _reset(one)

    def accept(self) -> None:
        """The host is back, on the same port."""
        if not self._is_listening:
            self._listener = _listen(self.port)
            self._is_listening = True
            self._serve()

    def after_reply(self, method: str, act: Callable[[], None]) -> None:
        """Once: between the server's next reply to such a request and the client's seeing it."""
        with self._lock:
            self._acts.append((method, act))

    def before_request(self, method: str, act: Callable[[], None]) -> None:
        """Once: before the server sees the next such request."""
        with self._lock:
            self._early_acts.append((method, act))

    def next_act(self, method: str, *, early: bool) -> Callable[[], None] | None:
        with self._lock:
            acts = self._early_acts if early else self._acts
            for index, (wanted, act) in enumerate(acts):
                if wanted == method:
                    del acts[index]
                    return act
        return None

    def next_fault(self, method: str, target: str) -> Fault | None:
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.matches(method, target):
                    del self._faults[index]
                    if fault.times > 1:
                        self._faults.insert(index, _once_less(fault))
                    return fault
        return None

    def note(self, exchange: Exchange) -> None:
        with self._lock:
            self.counters.exchanges.append(exchange)

    def count_bytes(self, *, up: int = 0, down: int = 0) -> None:
        with self._lock:
            self.counters.bytes_up += up
            self.counters.bytes_down += down

    def stall(self, at_most_s: float) -> None:
        self.stalled.set()
        self._released.wait(at_most_s)

    def track(self, one: socket.socket) -> None:
        with self._lock:
            self._sockets.add(one)

    def forget(self, one: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(one)
        one.close()

    def _serve(self) -> None:
        threading.Thread(target=self._accept_all, args=(self._listener,), daemon=True).start()

    def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.counters.connections += 1
            threading.Thread(target=_Connection(self, client).run, daemon=True).start()


class _End(Exception):
    """This connection is over."""


class _Stream:
    """One side of a connection: a socket and what was read from it too early."""

    def __init__(self, one: socket.socket) -> None:
        self.socket = one
        self._rest = b""

    def head(self) -> bytes:
        """Up to and with the empty line. Raises _End at the end of the stream."""
        while _HEAD_END not in self._rest:
            self._fill()
        head, _, self._rest = self._rest.partition(_HEAD_END)
        return head + _HEAD_END

    def line(self) -> bytes:
        while b"\r\n" not in self._rest:
            self._fill()
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line + b"\r\n"

    def some(self, limit: int) -> bytes:
        if not self._rest:
            self._fill()
        data, self._rest = self._rest[:limit], self._rest[limit:]
        return data

    def _fill(self) -> None:
        data = self.socket.recv(_BLOCK)
        if not data:
            raise _End
        self._rest += data


class _Connection:
    """One client connection and its own connection to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = _Stream(client)
        self._server: _Stream | None = None
        self._stalled: list[Exchange] = []
        """Those that were held back once; that is enough."""

    def run(self) -> None:
        client = self._client.socket
        self._proxy.track(client)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                self._exchange()
        except (OSError, _End):
            pass
        finally:
            if self._server is not None:
                self._proxy.forget(self._server.socket)
            self._proxy.forget(client)

    def _exchange(self) -> None:
        head = self._client.head()
        method, target = head.split(b" ", 2)[:2]
        exchange = Exchange(method.decode(), target.decode())
        fault = self._proxy.next_fault(exchange.method, exchange.target)
        self._proxy.note(exchange)
        if self._proxy.latency_s:
            time.sleep(self._proxy.latency_s)  # the latency asked for
        if (act := self._proxy.next_act(exchange.method, early=True)) is not None:
            act()
        what = fault.what if fault is not None else None
        if what is What.REFUSE:
            raise _End
        if fault is not None and what is What.STALL_REQUEST:
            self._proxy.stall(fault.stall_s)
        head = self._without_expect(head)
        if fault is not None and what is What.ANSWER:
            self._answer(head, exchange, fault)
            return
        sent = self._pass_request(head, exchange, fault)
        if what is What.REPLAY:
            self._lose_reply(exchange)
            assert self._server is not None
            self._server.socket.sendall(sent)
        self._pass_reply(exchange, fault)

    def _lose_reply(self, exchange: Exchange) -> None:
        assert self._server is not None
        head = self._server.head()
        while head.split(b" ", 2)[1].startswith(b"1"):
            head = self._server.head()
        if exchange.method != "HEAD" and head.split(b" ", 2)[1] not in (b"204", b"304"):
            self._pass_body(self._server, head, lambda _: None)

    def _without_expect(self, head: bytes) -> bytes:
        """Promise to take the body ourselves: interim replies would be requests of their own."""
        lines = head.split(b"\r\n")
        kept = [line for line in lines if not line.lower().startswith(b"expect:")]
        if len(kept) < len(lines):
            self._client.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return b"\r\n".join(kept)

    def _answer(self, head: bytes, exchange: Exchange, fault: Fault) -> None:
        self._pass_body(self._client, head, lambda data: _count(exchange, up=len(data)))
        headers = "".join(f"{name}: {value}\r\n" for name, value in fault.headers)
        reply = (
            f"HTTP/1.1 {fault.status} Made Up\r\n{headers}Content-Length: {len(fault.body)}\r\n\r\n"
        ).encode() + fault.body
        exchange.status = fault.status
        self._proxy.count_bytes(down=len(reply))
        self._client.socket.sendall(reply)

    def _pass_request(self, head: bytes, exchange: Exchange, fault: Fault | None) -> bytes:
        """What was sent to the server, where it has to be sent again."""
        what = fault.what if fault is not None else None
        position = fault.position(head) if fault is not None else 0
        limit = position if what is What.CUT_REQUEST else None
        sent = bytearray(head)
        if self._server is None:
            upstream = socket.create_connection(("127.0.0.1", self._proxy.upstream_port))
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._proxy.track(upstream)
            self._server = _Stream(upstream)
        server = self._server
        server.socket.sendall(head)
        self._proxy.count_bytes(up=len(head))

        def send(data: bytes) -> None:
            if limit is not None and exchange.request_bytes + len(data) > limit:
                server.socket.sendall(data[: limit - exchange.request_bytes])
                _reset(server.socket)
                self._cut()
            if what is What.SPOIL_REQUEST:
                data = _spoilt(data, position - exchange.request_bytes)
            if what is What.REPLAY:
                sent.extend(data)
            _count(exchange, up=len(data))
            self._proxy.count_bytes(up=len(data))
            server.socket.sendall(data)

        self._pass_body(self._client, head, send)
        return bytes(sent)

    def _pass_reply(self, exchange: Exchange, fault: Fault | None) -> None:
        assert self._server is not None
        head = self._server.head()
        while head.split(b" ", 2)[1].startswith(b"1"):
            head = self._server.head()
        if (act := self._proxy.next_act(exchange.method, early=False)) is not None:
            act()
        what = fault.what if fault is not None else None
        is_lost = what is What.LOSE_REPLY
        if what is What.WRONG_TAG:
            head = _with_wrong_tag(head)
        if not is_lost:
            exchange.status = int(head.split(b" ", 2)[1])
            self._proxy.count_bytes(down=len(head))
            self._client.socket.sendall(head)
        position = fault.position(head) if fault is not None else 0
        limit = position if what in _INTERRUPTIONS else None

        def send(data: bytes) -> None:
            if is_lost:
                return
            if limit is not None and exchange.reply_bytes + len(data) > limit:
                data = self._interrupt(data, limit - exchange.reply_bytes, exchange, fault)
            if what is What.SPOIL_REPLY and _MD5.search(head):
                data = _spoilt(data, position - exchange.reply_bytes)
            _count(exchange, down=len(data))
            self._proxy.count_bytes(down=len(data))
            self._client.socket.sendall(data)

        if exchange.method != "HEAD" and head.split(b" ", 2)[1] not in (b"204", b"304"):
            self._pass_body(self._server, head, send)
        if is_lost:
            self._cut()
        if b"connection: close" in head.lower():
            raise _End

    def _interrupt(
        self, data: bytes, allowed: int, exchange: Exchange, fault: Fault | None
    ) -> bytes:
        """Send what the limit allows, then stall or end; the rest of ``data`` if it goes on."""
        before, after = data[: max(allowed, 0)], data[max(allowed, 0) :]
        self._client.socket.sendall(before)
        _count(exchange, down=len(before))
        assert fault is not None
        if fault.what is What.CUT_REPLY:
            self._cut()
        if fault.what is What.END_REPLY:
            raise _End
        if exchange not in self._stalled:
            self._stalled.append(exchange)
            self._proxy.stall(fault.stall_s)
        return after

    def _cut(self) -> None:
        _reset(self._client.socket)
        raise _End

    def _pass_body(self, stream: _Stream, head: bytes, send: Callable[[bytes], None]) -> None:
        headers = _headers(head)
        if "chunked" in headers.get("transfer-encoding", ""):
            _pass_chunks(stream, send)
            return
        missing = int(headers.get("content-length", "0"))
        while missing:
            data = stream.some(min(missing, _BLOCK))
            missing -= len(data)
            send(data)


def _pass_chunks(stream: _Stream, send: Callable[[bytes], None]) -> None:
    while True:
        line = stream.line()
        send(line)
        missing = int(line.split(b";")[0], 16)
        if not missing:
            break
        missing += 2
        while missing:
            data = stream.some(missing)
            missing -= len(data)
            send(data)
    while (line := stream.line()) != b"\r\n":
        send(line)
    send(line)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip().lower() for name, _, value in pairs}


def _count(exchange: Exchange, *, up: int = 0, down: int = 0) -> None:
    exchange.request_bytes += up
    exchange.reply_bytes += down


_INTERRUPTIONS: Final = (What.CUT_REPLY, What.END_REPLY, What.STALL_REPLY)
_TAG: Final = re.compile(rb"(?im)^(etag: *\"?)([0-9a-f]{32})(?=[\"\r])")
_MD5: Final = re.compile(_TAG.pattern + rb"|^x-ms-blob-content-md5:")


def _with_wrong_tag(head: bytes) -> bytes:
    return _TAG.sub(lambda found: found[1] + found[2][::-1].translate(_OTHER_DIGITS), head)


_OTHER_DIGITS: Final = bytes.maketrans(b"0123456789abcdef", b"123456789abcdef0")


def _spoilt(data: bytes, position: int) -> bytes:
    """The data with one bit of the byte at ``position`` turned, if that is in it."""
    if not 0 <= position < len(data):
        return data
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def _once_less(fault: Fault) -> Fault:
    return replace(fault, times=fault.times - 1)


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


def _reset(one: socket.socket) -> None:
    """End with RST, and wake whoever reads."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.shutdown(socket.SHUT_RDWR)
