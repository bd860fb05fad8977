"""What crosses the socket between the mount process and the transfer process.

One message is one frame: a little-endian u32 (body length; the top bit marks an escaped
body), then the body in msgpack. Content bytes never cross: Fetch and Put travel with a
file descriptor (SCM_RIGHTS), taken in the order of the messages.

Every request has an id and gets exactly one Reply, after which the transfer process does
nothing more for it; for a cancelled request that reply is the acknowledgement.

Items are decoded straight into the dataclasses of ``csyncfs.types``, which is what makes a
listing cheap for the process that also serves the kernel: a page of 1,000 items takes
0.8 ms (wire structs with byte keys plus conversion in Python: 2.2 ms; columns: 1.9 ms).
Text that is not Unicode (names from ``os.fsdecode`` carry lone surrogates) does not fit
into msgpack strings, so a message that has any is sent escaped: those strings become
extension values of UTF-8 with surrogatepass. Such a page costs 1.4 ms.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
from msgspec.msgpack import Decoder, Encoder, Ext

from csyncfs.backends.base import Capabilities
from csyncfs.transfer.faults import Fault, ProtocolError
from csyncfs.types import (
    Attributes,
    ChangePage,
    Expect,
    Item,
    Kind,
    Location,
    Page,
    RemoteVersion,
    Space,
    Span,
)

PROTOCOL: Final = 2
"""Goes up with every change of a message: a mount can outlive an upgrade on disk."""

Options = Mapping[str, str | int | float | bool]
"""Backend options by name; never a secret."""


class Message(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Anything that crosses the socket."""


# To the transfer process -------------------------------------------------------------


class Start(Message, tag=0):
    """First message: which backend to host."""

    protocol: int
    spec: str
    options: dict[str, str | int | float | bool]
    memo: str | None
    """What the last Connected brought, so that the backend need not probe again."""


class Request(Message):
    """A call of the Backend Protocol; ids are unique for the life of the socket."""

    id: int


class Connect(Request, tag=1):
    pass


class ListPage(Request, tag=2):
    directory: Location
    token: str | None


class Head(Request, tag=3):
    location: Location
    kind: Kind
    resume: str | None


class Fetch(Request, tag=4):
    """Travels with the descriptor to write to."""

    location: Location
    span: Span
    expect: RemoteVersion


class Put(Request, tag=5):
    """Travels with the descriptor to read from, or has the content itself: a small one is
    confirmed before it is sent."""

    location: Location
    size: int
    attributes: Attributes
    put_id: str
    device: str
    expect: Expect
    resume: str | None
    content: bytes | None


class Abandon(Request, tag=6):
    resume: str


class SetAttributes(Request, tag=7):
    location: Location
    kind: Kind
    attributes: Attributes
    put_id: str
    device: str
    expect: RemoteVersion


class MakeDir(Request, tag=8):
    location: Location
    attributes: Attributes
    put_id: str
    device: str


class Copy(Request, tag=9):
    source: Location
    target: Location
    attributes: Attributes
    put_id: str
    device: str
    expect_source: RemoteVersion
    expect_target: Expect


class Move(Request, tag=10):
    source: Location
    target: Location
    kind: Kind
    expect_source: RemoteVersion | None
    expect_target: Expect


class Delete(Request, tag=11):
    location: Location
    kind: Kind
    expect: RemoteVersion | None


class AskSpace(Request, tag=12):
    pass


class AskStats(Request, tag=13):
    pass


class Ping(Request, tag=16):
    """Answered with Done by the loop itself: is it alive?"""


class AskChanges(Request, tag=17):
    cursor: str | None


class Cancel(Message, tag=14):
    """Stop this request. Unknown ids are fine: its reply is on the way."""

    id: int


class ConfirmAnswer(Message, tag=15):
    id: int
    is_confirmed: bool


ToServer = (
    Start
    | Connect
    | ListPage
    | Head
    | Fetch
    | Put
    | Abandon
    | SetAttributes
    | MakeDir
    | Copy
    | Move
    | Delete
    | AskSpace
    | AskStats
    | Ping
    | AskChanges
    | Cancel
    | ConfirmAnswer
)

# To the mount process ----------------------------------------------------------------


class Reply(Message):
    """The last word on a request."""

    id: int


class Done(Reply, tag=32):
    pass


class GotItem(Reply, tag=33):
    item: Item


class GotPage(Reply, tag=34):
    page: Page


class Connected(Reply, tag=35):
    capabilities: Capabilities
    memo: str | None


class GotSpace(Reply, tag=36):
    space: Space | None


class GotStats(Reply, tag=37):
    stats: dict[str, Any]


class Failed(Reply, tag=38):
    fault: Fault


class Cancelled(Reply, tag=39):
    """Acknowledges a Cancel: nothing is written to the descriptor any more."""


class GotChanges(Reply, tag=43):
    page: ChangePage


class Landed(Message, tag=40):
    """These bytes are in the file; merged by the sender, always before the Reply."""

    id: int
    start: int
    end: int


class ResumeState(Message, tag=41):
    """For ``save_resume``."""

    id: int
    state: str


class AskConfirm(Message, tag=42):
    """Awaits ``confirm``; a ConfirmAnswer with the same id goes back."""

    id: int


ToClient = (
    Done
    | GotItem
    | GotPage
    | Connected
    | GotSpace
    | GotStats
    | Failed
    | Cancelled
    | GotChanges
    | Landed
    | ResumeState
    | AskConfirm
)

# Framing -----------------------------------------------------------------------------

HEADER: Final = struct.Struct("<I")
_ESCAPED: Final = 1 << 31
MAX_BODY_BYTES: Final = 64 << 20
"""A page of 1,000 items with 1 KiB keys is 1.2 MB; anything near this is a broken peer."""

_TEXT: Final = 1
_PAIRS: Final = 2

_encoder: Final = Encoder()


def carries_fd(request: Request) -> bool:
    """Whether a descriptor travels with it."""
    return isinstance(request, Fetch) or (isinstance(request, Put) and request.content is None)


def encode(message: Message) -> bytes:
    """The frame of a message."""
    flag = 0
    try:
        body = _encoder.encode(message)
    except UnicodeEncodeError:
        body = _encoder.encode(_escape(msgspec.to_builtins(message, builtin_types=(bytes,))))
        flag = _ESCAPED
    if len(body) > MAX_BODY_BYTES:
        raise ProtocolError(f"{type(message).__name__} of {len(body)} bytes is too large")
    return HEADER.pack(len(body) | flag) + body


def body_size(header: int) -> int:
    """How many bytes follow this header."""
    size = header & ~_ESCAPED
    if size > MAX_BODY_BYTES:
        raise ProtocolError(f"frame of {size} bytes")
    return size


M = TypeVar("M")


class Codec(Generic[M]):
    """Decodes the messages of one direction, strictly: right fields, right types."""

    def __init__(self, union: Any) -> None:
        self._union = union
        self._plain: Decoder[Any] = Decoder(union)

    def decode(self, header: int, body: memoryview) -> M:
        try:
            if header & _ESCAPED:
                return msgspec.convert(_unescape.decode(body), self._union)
            return self._plain.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as exc:
            raise ProtocolError(f"bad message: {exc}") from exc


to_server: Final = Codec[ToServer](ToServer)
to_client: Final = Codec[ToClient](ToClient)


def _escape(value: Any) -> Any:
    """Builtins with every string msgpack cannot hold made an extension value."""
    if isinstance(value, str):
        return value if _is_unicode(value) else Ext(_TEXT, value.encode("utf-8", "surrogatepass"))
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        if all(_is_unicode(key) for key, _ in pairs):
            return {key: _escape(item) for key, item in pairs}
        # Map keys cannot be extension values, so the whole map becomes one.
        return Ext(_PAIRS, _encoder.encode([[_escape(key), _escape(item)] for key, item in pairs]))
    if isinstance(value, list | tuple):
        return [_escape(item) for item in cast("list[Any]", value)]
    return value


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_extension(code: int, data: memoryview) -> Any:
    if code == _TEXT:
        return bytes(data).decode("utf-8", "surrogatepass")
    if code == _PAIRS:
        return dict(_unescape.decode(data))
    raise ProtocolError(f"extension {code}")


_unescape: Final = Decoder(ext_hook=_from_extension)
