"""Buckets, objects, preconditions and upload sessions of the fake; no HTTP here.

Every call is atomic, so what is written is seen by the next reader ("Consistency").
"""

import base64
import hashlib
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import google_crc32c

Query = Mapping[str, str]

CHUNK_BYTES: Final = 256 << 10
_SETTABLE: Final = (
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "contentLanguage",
    "contentType",
    "metadata",
)


class Refusal(Exception):
    """An error reply: status, reason and message as in "HTTP status and error codes"."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


def unmet() -> Refusal:
    return Refusal(
        412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold."
    )


@dataclass
class Stored:
    """One generation of an object."""

    name: str
    content: bytes
    generation: int
    settings: dict[str, Any]
    metageneration: int = 1
    is_composite: bool = False
    """Composed objects have no MD5 ("Hashes and ETags")."""
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))

    def resource(self, bucket: str) -> dict[str, Any]:
        """The object as "Objects" describes it: numbers of 64 bits are strings."""
        told: dict[str, Any] = {
            "kind": "storage#object",
            "id": f"{bucket}/{self.name}/{self.generation}",
            "name": self.name,
            "bucket": bucket,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "size": str(len(self.content)),
            "updated": _stamp(self.updated),
            "timeCreated": _stamp(self.updated),
            "crc32c": crc32c_of(self.content),
            **self.settings,
        }
        if not self.is_composite:
            told["md5Hash"] = md5_of(self.content)
        return told


@dataclass
class Session:
    """One resumable upload."""

    name: str
    query: dict[str, str]
    told: dict[str, Any]
    received: bytearray = field(default_factory=bytearray)
    made: Stored | None = None
    ended: int = 0
    """The status every further request gets."""


def md5_of(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def crc32c_of(content: bytes) -> str:
    module: Any = google_crc32c
    return base64.b64encode(int(module.value(content)).to_bytes(4, "big")).decode()


def check(query: Query, found: Stored | None, prefix: str = "if", *, reads: bool = False) -> None:
    """The preconditions of a request on what it finds ("Request preconditions").

    Generation 0 stands for no object. What does not match is 412; for reads, what matches
    although it should not is 304.
    """
    generation = found.generation if found is not None else 0
    metageneration = found.metageneration if found is not None else None
    if (wanted := query.get(f"{prefix}GenerationMatch")) is not None and int(wanted) != generation:
        raise unmet()
    if (wanted := query.get(f"{prefix}MetagenerationMatch")) is not None and (
        metageneration is None or int(wanted) != metageneration
    ):
        raise unmet()
    for name, is_now in (("Generation", generation), ("Metageneration", metageneration)):
        wanted = query.get(f"{prefix}{name}NotMatch")
        if wanted is not None and is_now is not None and int(wanted) == is_now:
            raise Refusal(304, "notModified", "Not Modified") if reads else unmet()


class Bucket:
    """One bucket: flat, its objects in the order of their UTF-8 names."""

    def __init__(self, name: str, *, is_hierarchical: bool = False) -> None:
        self.name = name
        self.is_hierarchical = is_hierarchical
        self.checks_sums = True
        """False: what arrives damaged is stored so, which Google would not do."""
        self.rewrite_bytes = 1 << 40
        """What one call of a rewrite copies at most."""
        self._lock = threading.RLock()
        self._objects: dict[str, Stored] = {}  # guarded by: _lock
        self._sessions: dict[str, Session] = {}  # guarded by: _lock
        self._rewrites: dict[str, int] = {}  # guarded by: _lock
        self._last_generation = 0

    # Objects -------------------------------------------------------------------------

    def peek(self, name: str) -> Stored | None:
        """What a test looks at."""
        with self._lock:
            return self._objects.get(name)

    def contents(self) -> dict[str, bytes]:
        with self._lock:
            return {name: stored.content for name, stored in self._objects.items()}

    def get(self, name: str, query: Query) -> Stored:
        """Missing comes before conditions; ``generation`` asks for that one only."""
        with self._lock:
            found = self._found(name, query)
            check(query, found, reads=True)
            return found

    def insert(self, query: Query, told: Mapping[str, Any], content: bytes) -> Stored:
        """Make a generation, if the live one is as the query says."""
        name = str(query.get("name") or told.get("name") or "")
        _require_name(name)
        with self._lock:
            check(query, self._objects.get(name))
            if self.checks_sums:
                _require_sums(told, content)
            settings = {key: told[key] for key in _SETTABLE if told.get(key)}
            stored = Stored(name, content, self._next_generation(), settings)
            self._objects[name] = stored
            return stored

    def patch(self, name: str, query: Query, told: Mapping[str, Any]) -> Stored:
        """Change what is named: null takes away, also a single word of ``metadata``. A new
        metageneration of the same generation."""
        with self._lock:
            found = self._found(name, query)
            check(query, found)
            settings = {**found.settings}
            for key in _SETTABLE:
                if key not in told:
                    continue
                value = told[key]
                if key == "metadata" and value is not None:
                    merged = {**settings.get(key, {}), **value}
                    value = {word: text for word, text in merged.items() if text is not None}
                settings[key] = value
            found.settings = {key: value for key, value in settings.items() if value}
            found.metageneration += 1
            found.updated = datetime.now(UTC)
            return found

    def delete(self, name: str, query: Query) -> None:
        with self._lock:
            found = self._found(name, query)
            check(query, found)
            del self._objects[name]

    def rewrite(
        self, source: str, target: "Bucket", name: str, query: Query, told: Mapping[str, Any]
    ) -> dict[str, Any]:
        """ "Objects: rewrite": until it is done, a token for the next call and no object. A body
        replaces all of the source's metadata."""
        _require_name(name)
        with self._lock:
            generation = query.get("sourceGeneration")
            found = self._found(source, {} if generation is None else {"generation": generation})
            check(query, found, "ifSource")
            check(query, target.peek(name))
            token = query.get("rewriteToken") or uuid.uuid4().hex
            done = self._rewrites.get(token, 0) + self.rewrite_bytes
            size = len(found.content)
            reply = {"kind": "storage#rewriteResponse", "objectSize": str(size)}
            if done < size:
                self._rewrites[token] = done
                return {
                    **reply,
                    "done": False,
                    "rewriteToken": token,
                    "totalBytesRewritten": str(done),
                }
            settings = {key: told[key] for key in _SETTABLE if told.get(key)} or found.settings
            made = Stored(
                *(name, found.content, target._next_generation(), dict(settings)),
                is_composite=found.is_composite,
            )
            target._objects[name] = made
            return {
                **reply,
                "done": True,
                "totalBytesRewritten": str(size),
                "resource": made.resource(target.name),
            }

    def _found(self, name: str, query: Query) -> Stored:
        found = self._objects.get(name)
        wanted = query.get("generation")
        if found is None or (wanted is not None and int(wanted) != found.generation):
            raise Refusal(404, "notFound", f"No such object: {self.name}/{name}")
        return found

    def _next_generation(self) -> int:
        with self._lock:
            now = int(datetime.now(UTC).timestamp() * 1_000_000)
            self._last_generation = max(now, self._last_generation + 1)
            return self._last_generation

    # Listings ------------------------------------------------------------------------

    def listing(self, query: Query) -> dict[str, Any]:
        """ "Objects: list". Items and prefixes count as entries of a page alike; an object that
        ends in the delimiter is an item, too, if ``includeTrailingDelimiter`` says so."""
        limit = min(int(query.get("maxResults", 1000)), 1000)
        after = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        with self._lock:
            entries = [e for e in self._entries(query) if _place(e) > after]
        page = entries[:limit]
        reply: dict[str, Any] = {"kind": "storage#objects"}
        if prefixes := [entry for entry in page if isinstance(entry, str)]:
            reply["prefixes"] = prefixes
        if found := [entry for entry in page if isinstance(entry, Stored)]:
            reply["items"] = [stored.resource(self.name) for stored in found]
        if len(entries) > limit:
            reply["nextPageToken"] = base64.urlsafe_b64encode(_place(page[-1]).encode()).decode()
        return reply

    def _entries(self, query: Query) -> Iterator[Stored | str]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        trailing = query.get("includeTrailingDelimiter") == "true"
        seen: set[str] = set()
        for name in sorted(self._objects, key=str.encode):
            if not name.startswith(prefix):
                continue
            head, cut, rest = (
                name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            )
            if not cut:
                yield self._objects[name]
                continue
            folder = f"{prefix}{head}{cut}"
            if folder not in seen:
                seen.add(folder)
                yield folder
            if trailing and not rest:
                yield self._objects[name]

    # Resumable uploads ---------------------------------------------------------------

    def begin(self, query: Query, told: Mapping[str, Any]) -> str:
        """The id of a session. Nothing is checked before its end but the name."""
        name = str(query.get("name") or told.get("name") or "")
        _require_name(name)
        upload_id = uuid.uuid4().hex
        with self._lock:
            self._sessions[upload_id] = Session(name, dict(query), dict(told))
        return upload_id

    def sessions(self) -> list[Session]:
        """Those that may still become an object."""
        with self._lock:
            return [s for s in self._sessions.values() if not s.ended and s.made is None]

    def expire_sessions(self) -> None:
        """As after a week: "410 Gone", or 404, which is the same to a client."""
        with self._lock:
            for session in self._sessions.values():
                session.ended = 410

    def cancel(self, upload_id: str) -> None:
        """ "Cancel an upload": 499, and so says every request after it."""
        with self._lock:
            session = self._session(upload_id)
            session.ended = 499
        raise Refusal(499, "clientClosedRequest", "Client Closed Request")

    def progress(self, upload_id: str) -> Session:
        with self._lock:
            return self._session(upload_id)

    def receive(
        self, upload_id: str, start: int, content: bytes, total: int | None, sums: Mapping[str, str]
    ) -> Session:
        """One chunk. What the server has already it skips; a gap it does not take. The last byte
        makes the object, on the conditions the session began with."""
        with self._lock:
            session = self._session(upload_id)
            if session.made is not None or start > len(session.received):
                return session
            is_last = total is not None and start + len(content) == total
            if not is_last and len(content) % CHUNK_BYTES:
                raise Refusal(400, "badRequest", "Chunks are multiples of 256 KiB but the last.")
            session.received += content[len(session.received) - start :]
            if is_last:
                told = {**session.told, **sums, "name": session.name}
                try:
                    session.made = self.insert(session.query, told, bytes(session.received))
                except Refusal:
                    session.ended = 410
                    raise
            return session

    def _session(self, upload_id: str) -> Session:
        session = self._sessions.get(upload_id)
        if session is None:
            raise Refusal(404, "notFound", "Not Found")
        if session.ended:
            raise Refusal(session.ended, "gone", "The upload session is over.")
        return session


def _place(entry: Stored | str) -> str:
    """Where an entry is in a listing: a prefix right before an object of its name."""
    return f"{entry}\0" if isinstance(entry, str) else f"{entry.name}\1"


def _require_name(name: str) -> None:
    """ "Object name requirements"."""
    if not name or len(name.encode()) > 1024:
        raise Refusal(400, "invalid", "The name must be between 1 and 1024 bytes long.")
    if "\r" in name or "\n" in name or name in (".", ".."):
        raise Refusal(400, "invalid", f"Disallowed object name: {name!r}")
    if name.startswith(".well-known/acme-challenge/"):
        raise Refusal(400, "invalid", "Disallowed object name.")


def _require_sums(told: Mapping[str, Any], content: bytes) -> None:
    """ "Hashes and ETags": what is told has to be what arrived."""
    for key, word, found in (
        ("md5Hash", "MD5 hash", md5_of(content)),
        ("crc32c", "CRC32C", crc32c_of(content)),
    ):
        if told.get(key) not in (None, found):
            raise Refusal(
                400,
                "invalid",
                f'Provided {word} "{told[key]}" doesn\'t match calculated {word} "{found}".',
            )


def _stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03}Z"
