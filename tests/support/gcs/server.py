"""The fake over HTTP, in threads of this process, on 127.0.0.1.

Whoever has no token, or one that is not good, is answered as Google does. A test may ask for
faults: each is spent on the next request of its kind.
"""

import base64
import contextlib
import gzip
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.gcs.fields import projected
from tests.support.gcs.store import CHUNK_BYTES, Bucket, Refusal, Session, Stored, crc32c_of, md5_of

GOOD: Final = "writer@project.example"
READER: Final = "reader@project.example"
UNKNOWN: Final = "nobody@project.example"
_PATH = re.compile(r"/(?:(upload|download)/)?storage/v1/b/([^/]+)(?:/(o|storageLayout))?(?:/(.+))?")
_REWRITE = re.compile(r"([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")

What = Literal["status", "status-after", "reset", "reset-after", "partial", "damage", "hang"]


@dataclass
class Fault:
    """Something that goes wrong with the next request of a kind.

    Kinds: insert, begin, chunk, progress, cancel, get, media, list, patch, delete, rewrite.
    ``status``: refused, without effect. ``reset``: the connection breaks. Both ``-after``: the
    effect is there. ``partial``: of a chunk, 256 KiB arrive and the connection breaks.
    ``damage``: a byte changes on the way, in what is sent or in what is fetched.
    """

    kind: str
    what: What
    status: int = 503
    times: int = 1


class FakeGcs:
    """One server with its buckets."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.public: set[str] = set()
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        """Kind, object and query of every request."""
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._key: str | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> "FakeGcs":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def make_bucket(self, *, is_hierarchical: bool = False, is_public: bool = False) -> Bucket:
        bucket = Bucket(f"b-{uuid.uuid4().hex[:16]}", is_hierarchical=is_hierarchical)
        self.buckets[bucket.name] = bucket
        if is_public:
            self.public.add(bucket.name)
        return bucket

    def write_key(self, path: Path, account: str = GOOD) -> Path:
        """The key of a service account, as Google's console gives it."""
        words = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": uuid.uuid4().hex,
            "private_key": self._private_key(),
            "client_email": account,
            "client_id": "1",
            "token_uri": f"{self.endpoint}/token",
        }
        path.touch(0o600)
        path.write_text(json.dumps(words))
        return path

    def _private_key(self) -> str:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        if self._key is None:
            made = rsa.generate_private_key(65537, 2048)
            self._key = made.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode()
        return self._key

    def fail(self, kind: str, what: What, status: int = 503, times: int = 1) -> None:
        self.faults.append(Fault(kind, what, status, times))

    def take_fault(self, kind: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.kind == kind and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def count(self, kind: str) -> int:
        return sum(seen[0] == kind for seen in self.seen)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    fake: FakeGcs

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of ours."""


class _Reset(Exception):
    """The connection is to break without a reply."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def _any(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self._query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        try:
            self._route(parts.path)
        except Refusal as exc:
            self._refuse(exc)
        except _Reset:
            self._break()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    # Routes --------------------------------------------------------------------------

    def _route(self, path: str) -> None:
        if path == "/token":
            return self._sign_in()
        match = _PATH.fullmatch(path)
        if match is None:
            raise Refusal(404, "notFound", "Not Found")
        way, bucket_name, what, rest = match.groups()
        bucket = self.server.fake.buckets.get(unquote(bucket_name))
        # An upload session needs nothing but its address ("Resumable uploads").
        if "upload_id" not in self._query:
            self._let_in(unquote(bucket_name))
        if bucket is None:
            raise Refusal(404, "notFound", "The specified bucket does not exist.")
        if what == "storageLayout":
            return self._answer({"hierarchicalNamespace": {"enabled": bucket.is_hierarchical}})
        if way == "upload":
            return self._upload(bucket)
        if rest is None:
            self._fault("list", "")
            return self._answer(bucket.listing(self._query))
        if (rewrite := _REWRITE.fullmatch(rest)) is not None and self.command == "POST":
            return self._rewrite(bucket, *(unquote(part) for part in rewrite.groups()))
        return self._object(bucket, unquote(rest))

    def _object(self, bucket: Bucket, name: str) -> None:
        query = self._query
        match self.command:
            case "GET" if query.get("alt") == "media":
                fault = self._fault("media", name)
                self._media(bucket.get(name, query), fault)
            case "GET":
                self._fault("get", name)
                self._answer(bucket.get(name, query).resource(bucket.name))
            case "PATCH":
                fault = self._fault("patch", name)
                made = bucket.patch(name, query, json.loads(self._body))
                self._after(fault)
                self._answer(made.resource(bucket.name))
            case "DELETE":
                fault = self._fault("delete", name)
                bucket.delete(name, query)
                self._after(fault)
                self._send(204, b"", {})
            case _:
                raise Refusal(405, "methodNotAllowed", "Method Not Allowed")

    def _rewrite(self, bucket: Bucket, source: str, target: str, name: str) -> None:
        fault = self._fault("rewrite", name)
        into = self.server.fake.buckets[target]
        told = json.loads(self._body or b"{}")
        reply = bucket.rewrite(source, into, name, self._query, told)
        self._after(fault)
        self._answer(reply)

    # Uploads -------------------------------------------------------------------------

    def _upload(self, bucket: Bucket) -> None:
        if (upload_id := self._query.get("upload_id")) is not None:
            return self._in_session(bucket, upload_id)
        if self._query.get("uploadType") == "multipart":
            told, content = self._two_parts()
            fault = self._fault("insert", str(told.get("name")))
            made = bucket.insert(self._query, told, self._maybe_damaged(content, fault))
            self._after(fault)
            return self._answer(made.resource(bucket.name))
        if self._query.get("uploadType") != "resumable":
            raise Refusal(400, "badRequest", "Invalid upload type.")
        told = json.loads(self._body or b"{}")
        fault = self._fault("begin", str(told.get("name")))
        made_id = bucket.begin(self._query, told)
        self._after(fault)
        host = self.headers.get("Host")
        place = f"http://{host}/upload/storage/v1/b/{bucket.name}/o?upload_id={made_id}"
        return self._send(200, b"", {"Location": place})

    def _two_parts(self) -> tuple[dict[str, Any], bytes]:
        """multipart/related: the object's description, its content."""
        kind = str(self.headers.get("Content-Type"))
        boundary = b"--" + kind.partition("boundary=")[2].strip('"').encode()
        _, first, second = self._body.split(boundary, 2)
        content = second[: second.rindex(b"\r\n" + boundary)].partition(b"\r\n\r\n")[2]
        return json.loads(first.partition(b"\r\n\r\n")[2]), content

    def _in_session(self, bucket: Bucket, upload_id: str) -> None:
        if self.command == "DELETE":
            self._fault("cancel", "")
            bucket.cancel(upload_id)
        match = _CONTENT_RANGE.fullmatch(self.headers.get("Content-Range", ""))
        if match is None:
            raise Refusal(400, "badRequest", "Failed to parse Content-Range header.")
        if match[1] is None:
            self._fault("progress", "")
            return self._tell(bucket, bucket.progress(upload_id))
        fault = self._fault("chunk", "")
        total = None if match[3] == "*" else int(match[3])
        content = self._maybe_damaged(self._body, fault)
        if fault is not None and fault.what == "partial":
            bucket.receive(upload_id, int(match[1]), content[:CHUNK_BYTES], None, {})
            raise _Reset
        session = bucket.receive(upload_id, int(match[1]), content, total, self._sums())
        self._after(fault)
        return self._tell(bucket, session)

    def _tell(self, bucket: Bucket, session: Session) -> None:
        """ "Resumable uploads": 200 and the object, or 308 and how far it is."""
        if session.made is not None:
            query = {"fields": session.query.get("fields", "")}
            return self._answer(session.made.resource(bucket.name), query)
        headers: dict[str, str] = {}
        if session.received:
            headers["Range"] = f"bytes=0-{len(session.received) - 1}"
        return self._send(308, b"", headers)

    def _sums(self) -> dict[str, str]:
        told = {
            name.strip(): value
            for name, _, value in (
                part.partition("=") for part in self.headers.get("X-Goog-Hash", "").split(",")
            )
        }
        names = {"crc32c": "crc32c", "md5": "md5Hash"}
        return {names[name]: value for name, value in told.items() if name in names}

    # Downloads -----------------------------------------------------------------------

    def _media(self, stored: Stored, fault: Fault | None) -> None:
        """Checksums are of the whole object, whatever range is asked for."""
        content, status = stored.content, 200
        is_packed = stored.settings.get("contentEncoding") == "gzip"
        if is_packed and "gzip" not in self.headers.get("Accept-Encoding", ""):
            # "Transcoding of gzip-compressed files".
            content = gzip.decompress(content)
        headers = {
            "x-goog-generation": str(stored.generation),
            "x-goog-metageneration": str(stored.metageneration),
            "x-goog-hash": f"crc32c={crc32c_of(stored.content)}",
            "Content-Type": str(stored.settings.get("contentType", "")),
        }
        if not stored.is_composite:
            headers["x-goog-hash"] += f",md5={md5_of(stored.content)}"
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is not None:
            start = int(match[1])
            if start >= len(content):
                raise Refusal(416, "requestedRangeNotSatisfiable", "Range not satisfiable.")
            end = min(int(match[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        content = self._maybe_damaged(content, fault)
        if fault is not None and fault.what == "reset-after":
            self._send(status, content, headers, cut=len(content) // 2)
            raise _Reset
        self._send(status, content, headers)

    # Who asks ------------------------------------------------------------------------

    def _sign_in(self) -> None:
        assertion = parse_qs(self._body.decode()).get("assertion", [""])[0]
        claims = assertion.split(".")[1] if assertion.count(".") == 2 else ""
        account = json.loads(base64.urlsafe_b64decode(claims + "==") or b"{}").get("iss")
        if account not in (GOOD, READER):
            error = {"error": "invalid_grant", "error_description": "Invalid grant: account"}
            return self._send(400, json.dumps(error).encode(), {"Content-Type": _JSON})
        token = {"access_token": f"token-of-{account}", "expires_in": 3600, "token_type": "Bearer"}
        return self._send(200, json.dumps(token).encode(), {"Content-Type": _JSON})

    def _let_in(self, bucket: str) -> None:
        told = self.headers.get("Authorization")
        reads = self.command == "GET"
        if told is None:
            if bucket in self.server.fake.public and reads:
                return
            raise Refusal(
                401,
                "required",
                "Anonymous caller does not have storage.objects.list access to the Google Cloud"
                " Storage bucket. Permission 'storage.objects.list' denied on resource (or it may"
                " not exist).",
            )
        account = told.removeprefix("Bearer token-of-")
        if account not in (GOOD, READER):
            raise Refusal(401, "authError", "Invalid Credentials")
        if account == READER and not reads:
            raise Refusal(
                403, "forbidden", f"{account} does not have storage.objects.create access."
            )

    # Faults and replies --------------------------------------------------------------

    def _fault(self, kind: str, name: str) -> Fault | None:
        fake = self.server.fake
        fake.seen.append((kind, name, self._query))
        fault = fake.take_fault(kind)
        if fault is None:
            return None
        if fault.what == "status":
            raise _refusal_of(fault.status)
        if fault.what == "reset":
            raise _Reset
        if fault.what == "hang":
            time.sleep(3)
        return fault

    def _after(self, fault: Fault | None) -> None:
        if fault is not None and fault.what == "status-after":
            raise _refusal_of(fault.status)
        if fault is not None and fault.what == "reset-after":
            raise _Reset

    def _maybe_damaged(self, content: bytes, fault: Fault | None) -> bytes:
        if fault is None or fault.what != "damage" or not content:
            return content
        return content[:-1] + bytes([content[-1] ^ 1])

    def _answer(self, reply: dict[str, Any], query: Mapping[str, str] | None = None) -> None:
        fields = (self._query if query is None else query).get("fields", "")
        told = projected(reply, fields) if fields else reply
        self._send(200, json.dumps(told).encode(), {"Content-Type": _JSON})

    def _refuse(self, refusal: Refusal) -> None:
        """Media is refused in plain text, 304 without any."""
        if refusal.status == 304:
            return self._send(304, b"", {})
        if self._query.get("alt") == "media":
            return self._send(
                refusal.status, refusal.message.encode(), {"Content-Type": "text/html"}
            )
        detail = {"message": refusal.message, "domain": "global", "reason": refusal.reason}
        error = {"code": refusal.status, "message": refusal.message, "errors": [detail]}
        body = json.dumps({"error": error}).encode()
        return self._send(refusal.status, body, {"Content-Type": _JSON})

    def _send(
        self, status: int, body: bytes, headers: Mapping[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.wfile.flush()

    def _break(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


_JSON: Final = "application/json; charset=UTF-8"


def _refusal_of(status: int) -> Refusal:
    reasons = {429: "rateLimitExceeded", 503: "backendError", 403: "forbidden"}
    return Refusal(status, reasons.get(status, "backendError"), "We encountered an internal error.")
