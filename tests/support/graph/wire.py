"""The servers: HTTP/1.1 on 127.0.0.1, a thread for each connection, and broken ones on request."""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, cast

from tests.support.graph.failures import Json
from tests.support.graph.faults import Action, What
from tests.support.graph.gate import Gate, Visit
from tests.support.graph.messages import Host, Reply, Request

CONTROL: Final = "/__emu__/"
_BLOCK: Final = 1 << 18
_NO_BODY: Final = frozenset({204, 304})
_ABORTS: Final = frozenset({What.DROP_BEFORE_HEADERS, What.RESET})
_SILENT: Final = frozenset({What.DROP_AFTER_COMMIT, What.DROP_MID_REQUEST})

Control = Callable[[str, Json], Any]


class _Gone(Exception):
    """The connection is over."""


class Server(ThreadingHTTPServer):
    """One host on a port of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: Host, gate: Gate, *, port: int = 0, control: Control) -> None:
        self.host: Final = host
        self.gate: Final = gate
        self.control: Final = control
        self.stopping: Final = threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)
        self._open: set[socket.socket] = set()  # guarded by: _open_lock
        self._open_lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        name = f"graph-{self.host.value}"
        threading.Thread(target=self._accept_all, name=name, daemon=True).start()

    def _accept_all(self) -> None:
        """Without the polls of serve_forever: those are 20 ms at the end of every test."""
        while not self.stopping.is_set():
            with contextlib.suppress(OSError):
                self.process_request(*self.get_request())

    def stop(self) -> None:
        """Connections end, too."""
        self.stopping.set()
        # shutdown wakes the thread in accept; close alone does not.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.server_close()
        with self._open_lock:
            sockets = list(self._open)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._open_lock:
                self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are what this is about; anything else is told."""
        import sys

        error = sys.exception()
        if not isinstance(error, OSError | _Gone):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, has it carried out, and sends or spoils the reply."""

    protocol_version = "HTTP/1.1"
    # Without these every call waits 40 ms for a delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = 65536
    server_version = "csyncfs-graph"

    def log_message(self, format: str, *args: Any) -> None:
        """The journal is the log."""

    @property
    def _place(self) -> Server:
        return cast("Server", self.server)

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self._place.host, self.command, self.path, headers)
        if self.path.startswith(CONTROL):
            self._control(request)
            return
        visit = self._place.gate.arrive(request)
        sent, is_whole = -1, False
        try:
            sent, is_whole = self._run(visit)
        except (OSError, _Gone):
            self.close_connection = True
        finally:
            self._place.gate.leave(visit, sent=sent, is_whole=is_whole)
        if not request.is_complete:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    # ---- carrying out -------------------------------------------------------------------

    def _run(self, visit: Visit) -> tuple[int, bool]:
        """Bytes of the reply's body that were sent, and whether the reply is a whole one."""
        action, request = visit.action, visit.request
        what = None if action is None else action.what
        if what in _ABORTS:
            self._abort()
        limit = action.count if action and what is What.DROP_MID_REQUEST else None
        request.body, request.is_complete = self._read_body(limit)
        if action and what is What.DELAY:
            self._sleep(action.seconds)
        if action and what is What.STALE:
            request.stale = action.count
        if action and what is What.STATUS:
            return self._send(self._place.gate.refuse(visit, action)), True
        reply = self._place.gate.carry_out(visit)
        if what in _SILENT or not request.is_complete:
            self._abort()
        if action and what is What.STATUS_AFTER:
            return self._send(self._place.gate.refuse(visit, action)), False
        if action is None or request.method == "HEAD":
            return self._send(reply), True
        return self._send_spoiled(reply, action)

    def _read_body(self, limit: int | None) -> tuple[bytes, bool]:
        """The body, as far as it comes or is wanted; False: there was to be more."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._read_chunks()
        length = int(self.headers.get("Content-Length") or 0)
        wanted = length if limit is None else min(limit, length)
        parts: list[bytes] = []
        while wanted > 0:
            try:
                part = self.rfile.read(min(wanted, _BLOCK))
            except OSError:
                part = b""
            if not part:
                return b"".join(parts), False
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts), limit is None or limit >= length

    def _read_chunks(self) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        while True:
            line = self.rfile.readline(1024)
            if not line:
                return b"".join(parts), False
            size = int(line.split(b";")[0], 16)
            part = self.rfile.read(size)
            self.rfile.readline(1024)
            if size == 0:
                return b"".join(parts), True
            parts.append(part)
            if len(part) < size:
                return b"".join(parts), False

    # ---- replying -----------------------------------------------------------------------

    def _send(self, reply: Reply, *, length: int | None = None) -> int:
        body = self._begin(reply, length)
        self.wfile.write(body)
        self.wfile.flush()
        return len(body)

    def _begin(self, reply: Reply, length: int | None = None) -> bytes:
        """Send the head; the body that belongs to it is returned."""
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status not in _NO_BODY:
            self.send_header("Content-Length", str(len(reply.body) if length is None else length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        has_body = self.command != "HEAD" and reply.status not in _NO_BODY
        return reply.body if has_body else b""

    def _send_spoiled(self, reply: Reply, action: Action) -> tuple[int, bool]:
        match action.what:
            case What.DROP_MID_BODY:
                return self._send_part(reply, action.count), False
            case What.TRUNCATE_BODY:
                reply.body = reply.body[: max(0, len(reply.body) - action.count)]
            case What.CORRUPT:
                reply.body = _flipped(reply.body, action.count)
            case What.SLOW:
                return self._send_slowly(reply, action.count), True
            case What.STALL_HEADERS:
                self._sleep(action.seconds)
            case What.EMPTY_BODY:
                reply.body = b""
            case What.BAD_JSON:
                reply.body = b'{"value": [' + reply.body[:20]
            case What.REDIRECT:
                reply = Reply(308)
            case _:
                pass
        return self._send(reply), True

    def _send_part(self, reply: Reply, count: int) -> int:
        body = self._begin(reply)
        if count >= len(body):
            self.wfile.write(body)
            self.wfile.flush()
            return len(body)
        self.wfile.write(body[:count])
        self.wfile.flush()
        # A reset would throw away what the client has not read yet.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        self.close_connection = True
        return count

    def _send_slowly(self, reply: Reply, rate: int) -> int:
        body = self._begin(reply)
        step = max(1, rate // 20)
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            self.wfile.flush()
            self._sleep(0.05)
        return len(body)

    def _abort(self) -> None:
        """End the connection at once, with a reset."""
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.close()
        raise _Gone

    def _sleep(self, seconds: float) -> None:
        self._place.stopping.wait(seconds)

    # ---- control ------------------------------------------------------------------------

    def _control(self, request: Request) -> None:
        body, _ = self._read_body(None)
        try:
            values = cast("Json", json.loads(body or b"{}"))
            result = self._place.control(self.path.removeprefix(CONTROL), values)
            reply = Reply.of(200, {"result": result})
        except Exception as exc:  # noqa: BLE001
            reply = Reply.of(500, {"error": f"{type(exc).__name__}: {exc}"})
        self._send(reply)


def _flipped(body: bytes, offset: int) -> bytes:
    if not body:
        return body
    spoiled = bytearray(body)
    spoiled[offset % len(body)] ^= 1
    return bytes(spoiled)
