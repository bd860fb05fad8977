"""Large files: what is sent, what is not sent again, what is committed."""

import os
from pathlib import Path

import pytest
import trio

from csyncfs.backends.azureblob import AzureBackend
from csyncfs.backends.azureblob.blocks import id_of
from csyncfs.backends.azureblob.options import MAX_BLOCKS, AzureOptions
from csyncfs.errors import Hold, Superseded, Unrepresentable, VersionMismatch
from csyncfs.types import ABSENT, Item, RemoteVersion
from tests.support.azurite import Azurite, blobs, body, connected, options_for
from tests.support.proxy import Fault, Proxy, What
from tests.support.uploads import Content, put, writing

MIB = 1 << 20
NAME = "mounted/here/file"
LARGE = {"block_size_bytes": MIB, "block_threshold_bytes": MIB}


def _backend(server: Azurite, container: str, proxy: Proxy) -> AzureBackend:
    return AzureBackend(options_for(server, container, endpoint=server.url(proxy.port), **LARGE))


def _version(item: Item) -> RemoteVersion:
    assert item.version is not None
    return item.version


def _staged(proxy: Proxy) -> list[int]:
    """The sizes of the blocks that were sent."""
    return [
        exchange.request_bytes
        for exchange in proxy.counters.exchanges
        if exchange.method == "PUT" and "comp=block&" in f"{exchange.target}&"
    ]


async def test_an_edit_sends_the_block_it_changed_and_no_other(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    data = bytearray(os.urandom(10 * MIB + 5))
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        first = await put(backend, "file", Content(tmp_path / "a", bytes(data)))
        assert sorted(_staged(proxy)) == [5, *[MIB] * 10]
        proxy.reset_counters()
        data[4 * MIB + 17 : 4 * MIB + 20] = b"new"

        await put(backend, "file", Content(tmp_path / "b", bytes(data)), _version(first))

        assert _staged(proxy) == [MIB]
    assert body(azure, container, NAME) == bytes(data)


async def test_what_is_appended_is_all_that_is_sent(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    data = os.urandom(4 * MIB)
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        first = await put(backend, "file", Content(tmp_path / "a", data))
        proxy.reset_counters()

        await put(backend, "file", Content(tmp_path / "b", data + b"tail"), _version(first))

        assert _staged(proxy) == [4]
    assert body(azure, container, NAME) == data + b"tail"


async def test_blocks_of_a_version_that_was_renamed_by_others_are_sent(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    """Another name has no blocks yet."""
    data = os.urandom(3 * MIB)
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        await put(backend, "file", Content(tmp_path / "a", data))
        proxy.reset_counters()
        await put(backend, "other", Content(tmp_path / "b", data))
        assert sum(_staged(proxy)) == 3 * MIB


async def test_an_interrupted_upload_goes_on_with_the_blocks_that_are_missing(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    data = os.urandom(12 * MIB)
    content, stamp = Content(tmp_path / "a", data), writing()
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        with trio.CancelScope() as scope:
            proxy.after_reply("PUT", lambda: None)
            content.saved = _Stopping(scope, after=5)
            await put(backend, "file", content, stamp=stamp)
        assert blobs(azure, container) == {}
        states = list(content.saved)

        after = _backend(azure, container, proxy)
        await after.connect()
        content.saved = []
        await backend.aclose()
        proxy.reset_counters()
        await put(after, "file", content, stamp=stamp, resume=states[-1])

        # Five were there for certain, and up to four under way.
        assert 3 * MIB <= sum(_staged(proxy)) <= 7 * MIB
    assert body(azure, container, NAME) == data


class _Stopping(list[str]):
    """The states saved; cancels the upload at one of them."""

    def __init__(self, scope: trio.CancelScope, after: int) -> None:
        super().__init__()
        self._scope = scope
        self._after = after

    def append(self, state: str) -> None:
        super().append(state)
        if len(self) > self._after:
            self._scope.cancel()


async def test_content_that_changed_since_the_interruption_is_sent(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    content = Content(tmp_path / "a", b"a" * (4 * MIB))
    content.is_confirmed = False
    async with connected(options_for(azure, container, **LARGE)) as backend:
        with pytest.raises(Superseded):
            await put(backend, "file", content)
        os.pwrite(content.fd, b"b", 2 * MIB)
        content.is_confirmed = True

        await put(backend, "file", content, resume=content.saved[-1])

    expected = bytearray(b"a" * (4 * MIB))
    expected[2 * MIB] = ord("b")
    assert body(azure, container, NAME) == bytes(expected)


@pytest.mark.parametrize("chars", [28, 32, 64])
async def test_blocks_of_another_tool_with_names_of_another_length_are_no_obstacle(
    azure: Azurite, container: str, tmp_path: Path, chars: int
) -> None:
    azure.container(container).get_blob_client(NAME).stage_block("x" * chars, b"theirs")
    data = os.urandom(3 * MIB)
    async with connected(options_for(azure, container, **LARGE)) as backend:
        await put(backend, "file", Content(tmp_path / "a", data))

    assert body(azure, container, NAME) == data


async def test_blocks_with_names_too_short_for_contents_are_told(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    azure.container(container).get_blob_client(NAME).stage_block("0001", b"theirs")
    async with connected(options_for(azure, container, **LARGE)) as backend:
        with pytest.raises(Hold, match="another tool's unfinished upload"):
            await put(backend, "file", Content(tmp_path / "a", b"x" * 3 * MIB))


async def test_two_uploads_of_one_name_leave_one_of_them_whole(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    """They share the name's uncommitted blocks, and the first commit drops those of the other."""
    contents = [os.urandom(6 * MIB) for _ in range(2)]
    won: list[bytes] = []
    lost: list[VersionMismatch] = []
    options = options_for(azure, container, **LARGE)

    async def upload(number: int) -> None:
        async with connected(options) as backend:
            try:
                await put(backend, "file", Content(tmp_path / str(number), contents[number]))
            except VersionMismatch as exc:
                lost.append(exc)
            else:
                won.append(contents[number])

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(upload, number)

    assert (len(won), len(lost)) == (1, 1)
    assert body(azure, container, NAME) == won[0]


async def test_a_conflict_is_known_before_anything_is_sent(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    azure.container(container).upload_blob(NAME, b"theirs")
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        with pytest.raises(VersionMismatch) as caught:
            await put(backend, "file", Content(tmp_path / "a", b"x" * 4 * MIB), ABSENT)

        assert _staged(proxy) == []
    assert caught.value.current is not None


async def test_a_block_that_is_refused_leaves_the_version_before(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    data = os.urandom(3 * MIB)
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        first = await put(backend, "file", Content(tmp_path / "a", data))
        proxy.set_fault(Fault(What.ANSWER, "PUT", "comp=block&", status=500))
        with pytest.raises(Exception, match="server failed"):
            await put(
                backend, "file", Content(tmp_path / "b", os.urandom(3 * MIB)), _version(first)
            )

    assert body(azure, container, NAME) == data


def test_the_name_of_a_block_is_a_function_of_its_bytes() -> None:
    assert id_of(b"a") == id_of(b"a")
    assert id_of(b"a") != id_of(b"b")
    assert {len(id_of(b"a" * n)) for n in range(5)} == {48}
    assert len(id_of(b"a", 33)) == 33


@pytest.mark.parametrize(
    ("size", "block"),
    [
        (1, 4 * MIB),
        (4 * MIB * 50_000, 4 * MIB),
        (4 * MIB * 50_000 + 1, 8 * MIB),
        (10 << 40, 256 * MIB),
        (4000 * MIB * 50_000, 4000 * MIB),
    ],
)
def test_blocks_grow_with_the_file(size: int, block: int) -> None:
    options = AzureOptions("account", "container")
    assert options.block_size_for(size) == block
    assert -(-size // block) <= MAX_BLOCKS


def test_more_than_a_blob_can_hold_is_said_at_once() -> None:
    with pytest.raises(Unrepresentable):
        AzureOptions("account", "container").block_size_for(4000 * MIB * 50_000 + 1)
