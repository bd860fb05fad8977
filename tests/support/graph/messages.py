"""A request as it arrived and the reply it gets, without sockets."""

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import unquote, unquote_plus

from tests.support.graph.failures import Json, bad_request

JSON_TYPE: Final = (
    "application/json;odata.metadata=minimal;odata.streaming=true;"
    "IEEE754Compatible=false;charset=utf-8"
)


class Host(enum.StrEnum):
    """The four servers; each has a port of its own."""

    API = "api"
    CONTENT = "content"
    UPLOAD = "upload"
    IMDS = "imds"


@dataclass(slots=True)
class Request:
    """``headers``: names in lower case. ``is_complete``: the whole body arrived."""

    host: Host
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    is_complete: bool = True
    number: int = 0
    overlaps: bool = False
    """Another fragment of its session is still coming in."""
    stale: int = 0
    """Show the item as it was so many changes ago."""
    inner: bool = False
    """Part of a batch."""

    @property
    def raw_path(self) -> str:
        return self.target.split("?", 1)[0]

    @property
    def raw_query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def query(self) -> dict[str, str]:
        """Decoded; names keep their case."""
        pairs = (part.partition("=") for part in self.raw_query.split("&") if part)
        return {unquote_plus(name): unquote_plus(value) for name, _, value in pairs}

    @property
    def prefer(self) -> set[str]:
        return {part.strip().lower() for part in self.headers.get("prefer", "").split(",")}

    @property
    def path(self) -> str:
        return unquote(self.raw_path)

    def json(self) -> Json:
        """The body as an object; {} if there is none. Raises GraphError."""
        if not self.body:
            return {}
        try:
            value: Any = json.loads(self.body)
        except ValueError as exc:
            raise bad_request("The body is not valid JSON.", code="BadRequest") from exc
        if not isinstance(value, dict):
            raise bad_request("The body is not an object.", code="BadRequest")
        return cast("Json", value)


@dataclass(slots=True)
class Reply:
    """``body``: bytes as they go out; ``payload``: the JSON they were made of, if any."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    payload: Json | None = None

    @classmethod
    def of(cls, status: int, payload: Json, **headers: str) -> "Reply":
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(
            status, json.dumps(payload).encode(), {"Content-Type": JSON_TYPE, **named}, payload
        )


_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """[start, end) of ``Range``; None: it says nothing we honour. Raises ValueError: outside."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        if int(last) == 0 or size == 0:
            raise ValueError(header)
        return max(0, size - int(last)), size
    start, end = int(first), int(last) + 1 if last else size
    if last and int(last) < start:
        return None
    if start >= size:
        raise ValueError(header)
    return start, min(end, size)
