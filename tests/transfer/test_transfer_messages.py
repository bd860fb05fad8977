"""Every message survives the trip, and nothing else is taken for one."""

import enum
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csyncfs import errors
from csyncfs.errors import CsyncError
from csyncfs.transfer import messages
from csyncfs.transfer.channel import HEADER
from csyncfs.transfer.faults import Fault, ProtocolError, to_error, to_fault
from csyncfs.transfer.messages import (
    Codec,
    GotItem,
    GotPage,
    GotStats,
    Head,
    Message,
    ToClient,
    ToServer,
    encode,
    to_client,
    to_server,
)
from csyncfs.types import Attributes, Item, Kind, Location, Page, RemoteVersion

# Half of the strings hold lone surrogates, as names from os.fsdecode do.
TEXT = st.text(max_size=20) | st.text(st.characters(exclude_categories=()), max_size=20)
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(-(2**63), 2**63 - 1),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    bytes: st.binary(max_size=20),
    type(None): st.none(),
    Any: TEXT | st.integers(0, 9),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of an annotated type."""
    if kind in LEAVES:
        return LEAVES[kind]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        return st.one_of(*map(values, arguments))
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=4).map(tuple)
    if origin in {dict, Mapping}:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    build = cast("Callable[..., Any]", kind)
    return st.builds(build, **{n: values(h) for n, h in typing.get_type_hints(build).items()})


def trip(codec: Codec[Any], message: Message) -> Any:
    frame = encode(message)
    (header,) = HEADER.unpack_from(frame)
    assert messages.body_size(header) == len(frame) - HEADER.size
    return codec.decode(header, memoryview(frame)[HEADER.size :])


@pytest.mark.parametrize("kind", typing.get_args(ToServer), ids=lambda kind: kind.__name__)
def test_every_request_arrives_as_it_was_sent(kind: type[Message]) -> None:
    @given(values(kind))
    def check(message: Message) -> None:
        assert trip(to_server, message) == message

    check()


@pytest.mark.parametrize("kind", typing.get_args(ToClient), ids=lambda kind: kind.__name__)
def test_every_answer_arrives_as_it_was_sent(kind: type[Message]) -> None:
    @given(values(kind))
    def check(message: Message) -> None:
        assert trip(to_client, message) == message

    check()


def test_undecodable_names_survive_everywhere() -> None:
    name = b"caf\xe9 \xff".decode(errors="surrogateescape")
    item = Item(
        Location(f"dir/{name}", name),
        Kind.FILE,
        RemoteVersion(name, 1, 2, None),
        Attributes(mode=0o100644, xattrs={f"user.{name}": b"\xff\x00", "user.plain": b""}),
        device=name,
    )
    page = Page((item, Item(Location("plain"), Kind.FILE, None)), token=name)

    assert trip(to_client, GotPage(1, page)) == GotPage(1, page)


def test_paired_surrogates_are_not_joined() -> None:
    message = Head(1, Location("\ud83d\ude00"), Kind.FILE, None)

    assert trip(to_server, message) == message


def test_a_page_with_the_longest_keys_fits() -> None:
    items = tuple(Item(Location(f"{n:01024d}"), Kind.FILE, None) for n in range(1000))

    assert trip(to_client, GotPage(1, Page(items, None))).page.items == items


def test_a_message_beyond_the_limit_is_refused_by_the_sender() -> None:
    with pytest.raises(ProtocolError):
        encode(GotStats(1, {"x": bytes(messages.MAX_BODY_BYTES)}))


@given(st.binary(max_size=60), st.sampled_from([0, 1 << 31]))
def test_garbage_is_a_protocol_error(body: bytes, flag: int) -> None:
    try:
        found = to_server.decode(len(body) | flag, memoryview(body))
    except ProtocolError:
        return
    assert trip(to_server, found) == found


@pytest.mark.parametrize(
    "fields",
    [
        [3, 1, {"key": "a", "item_id": None}, "file", 7],
        [3, 1, {"key": "a", "item_id": None}],
        [3, 1, {"key": "a", "item_id": None}, "pipe"],
        [3, "1", {"key": "a", "item_id": None}, "file"],
        [3, 1, {"item_id": None}, "file"],
        [3, 1, {"key": 7, "item_id": None}, "file"],
        [99, 1],
        {"id": 1},
    ],
)
def test_messages_of_wrong_shape_are_refused(fields: Any) -> None:
    body = msgspec.msgpack.encode(fields)

    with pytest.raises(ProtocolError):
        to_server.decode(len(body), memoryview(body))


def test_a_huge_frame_is_refused_by_its_header() -> None:
    with pytest.raises(ProtocolError):
        messages.body_size(messages.MAX_BODY_BYTES + 1)


CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, CsyncError)
]


def carried(error: CsyncError) -> CsyncError:
    return to_error(trip(to_client, messages.Failed(1, to_fault(error))).fault)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_keeps_class_and_message(kind: type[CsyncError]) -> None:
    error = kind(5, "broken") if issubclass(kind, errors.FsError) else kind("broken \udcff")
    arrived = carried(error)

    assert type(arrived) is kind
    assert str(arrived) == str(error)
    assert getattr(arrived, "code", None) == getattr(error, "code", None)


def test_a_throttled_error_keeps_its_wait() -> None:
    arrived = carried(errors.Throttled("slow down", after_s=2.5))

    assert isinstance(arrived, errors.Throttled)
    assert arrived.after_s == 2.5


def test_a_mismatch_keeps_what_is_there_now() -> None:
    item = Item(Location("a"), Kind.FILE, RemoteVersion("t", 1, 2), Attributes(mode=1))
    arrived = carried(errors.VersionMismatch("changed", item))

    assert isinstance(arrived, errors.VersionMismatch)
    assert arrived.current == item


def test_a_private_subclass_arrives_as_its_nearest_public_ancestor() -> None:
    class SlowDown(errors.Throttled):
        pass

    arrived = carried(SlowDown("x", 1.0))

    assert type(arrived) is errors.Throttled


def test_an_error_from_a_newer_child_is_read_as_try_again() -> None:
    assert type(to_error(Fault("Unheard", "x"))) is errors.Retry


def test_an_item_without_surrogates_is_sent_plain() -> None:
    item = Item(Location("größe/日本"), Kind.FILE, None)
    (header,) = HEADER.unpack_from(encode(GotItem(1, item)))

    assert header < 1 << 31
