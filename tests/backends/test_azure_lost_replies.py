"""A reply lost on the way is neither a conflict with ourselves nor a lost write."""

from pathlib import Path

import pytest

from csyncfs.backends.azureblob import AzureBackend
from csyncfs.errors import Ambiguous, Offline, Throttled, VersionMismatch
from csyncfs.types import ABSENT, Attributes, Item, Kind, Location, RemoteVersion
from tests.support.azurite import Azurite, blobs, body, options_for
from tests.support.proxy import Fault, Proxy, What
from tests.support.uploads import Content, put, writing

NAME = "mounted/here/file"
LARGE = {"block_size_bytes": 1 << 20, "block_threshold_bytes": 1 << 20}


def _backend(server: Azurite, container: str, proxy: Proxy, **changed: object) -> AzureBackend:
    return AzureBackend(options_for(server, container, endpoint=server.url(proxy.port), **changed))


def _version(item: Item) -> RemoteVersion:
    assert item.version is not None
    return item.version


async def test_a_put_whose_reply_is_lost_has_succeeded(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    stamp = writing()
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        proxy.set_fault(Fault.lose_reply("PUT"))

        item = await put(backend, "file", Content(tmp_path / "c", b"ours"), stamp=stamp)

        assert proxy.counters.count("PUT") == 1
    assert item.put_id == stamp.put_id
    assert _version(item).size == 4
    assert body(azure, container, NAME) == b"ours"


async def test_an_overwrite_whose_reply_is_lost_has_succeeded(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        first = _version(await put(backend, "file", Content(tmp_path / "a", b"first")))
        proxy.set_fault(Fault.lose_reply("PUT"))

        second = _version(await put(backend, "file", Content(tmp_path / "b", b"second"), first))

    assert second.tag != first.tag
    assert body(azure, container, NAME) == b"second"


async def test_without_an_answer_at_all_the_put_is_ambiguous_and_its_repetition_succeeds(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    stamp = writing()
    content = Content(tmp_path / "c", b"ours")
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        proxy.set_fault(Fault.lose_reply("PUT"))
        proxy.set_fault(Fault(What.REFUSE, "HEAD", times=2))
        with pytest.raises(Ambiguous):
            await put(backend, "file", content, stamp=stamp)

        item = await put(backend, "file", content, stamp=stamp)

    assert item.put_id == stamp.put_id


async def test_a_lost_reply_and_somebody_elses_version_is_a_conflict(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    stamp = writing()
    content = Content(tmp_path / "c", b"ours")
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        proxy.set_fault(Fault(What.REFUSE, "PUT"))
        with pytest.raises(Ambiguous):
            await put(backend, "file", content, stamp=stamp)
        azure.container(container).upload_blob(NAME, b"theirs")

        with pytest.raises(VersionMismatch) as caught:
            await put(backend, "file", content, stamp=stamp)

    assert caught.value.current is not None
    assert _version(caught.value.current).size == len(b"theirs")
    assert body(azure, container, NAME) == b"theirs"


async def test_a_commit_of_blocks_whose_reply_is_lost_has_succeeded(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    stamp = writing()
    data = bytes(range(256)) * (6 << 12)
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy, **LARGE)
        await backend.connect()
        proxy.set_fault(Fault.lose_reply("PUT", "comp=blocklist"))

        item = await put(backend, "file", Content(tmp_path / "c", data), stamp=stamp)

    assert item.put_id == stamp.put_id
    assert body(azure, container, NAME) == data


async def test_a_commit_lost_with_the_process_is_found_by_the_next_one(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    stamp = writing()
    content = Content(tmp_path / "c", b"x" * (6 << 20))
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy, **LARGE)
        await backend.connect()
        proxy.set_fault(Fault.lose_reply("PUT", "comp=blocklist"))
        proxy.set_fault(Fault(What.REFUSE, "HEAD", times=2))
        with pytest.raises(Ambiguous):
            await put(backend, "file", content, stamp=stamp)
        proxy.reset_counters()

        after = _backend(azure, container, proxy, **LARGE)
        await after.connect()
        item = await put(after, "file", content, stamp=stamp, resume=content.saved[-1])

        assert item.put_id == stamp.put_id
        assert proxy.counters.count("PUT") == 0


async def test_a_copy_whose_reply_is_lost_has_succeeded(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    stamp = writing(Attributes(mode=0o100600))
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        source = _version(await put(backend, "file", Content(tmp_path / "c", b"copied")))
        # Azurite does not know the copy at once; after this the backend no longer asks for it.
        await backend.copy(Location("file"), Location("first"), writing(), source, ABSENT)
        proxy.set_fault(Fault.lose_reply("PUT", "target"))

        item = await backend.copy(Location("file"), Location("target"), stamp, source, ABSENT)

    assert item.put_id == stamp.put_id
    assert body(azure, container, "mounted/here/target") == b"copied"


async def test_new_attributes_whose_reply_is_lost_are_set_once(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    stamp = writing(Attributes(mode=0o100600))
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        before = _version(await put(backend, "file", Content(tmp_path / "c", b"kept")))
        proxy.set_fault(Fault.lose_reply("PUT"))
        item = await backend.set_attributes(Location("file"), Kind.FILE, stamp, before)
        proxy.reset_counters()

        again = await backend.set_attributes(Location("file"), Kind.FILE, stamp, before)

        assert proxy.counters.count("PUT") == 0
    assert again.attributes == item.attributes == Attributes(mode=0o100600)


async def test_a_directory_whose_reply_is_lost_exists(azure: Azurite, container: str) -> None:
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        proxy.set_fault(Fault.lose_reply("PUT"))

        item = await backend.make_dir(Location("dir/"), writing())

    assert item.kind is Kind.DIR
    assert item.version is not None


async def test_a_removal_whose_reply_is_lost_is_repeated(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        item = await put(backend, "file", Content(tmp_path / "c", b"x"))
        proxy.set_fault(Fault.lose_reply("DELETE"))
        with pytest.raises(Offline):
            await backend.delete(Location("file"), Kind.FILE, item.version)

        await backend.delete(Location("file"), Kind.FILE, item.version)

    assert blobs(azure, container) == {}


async def test_a_request_that_never_left_is_offline_and_nothing_is_asked(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        proxy.refuse()
        # Connections kept open notice first that they are closed.
        with pytest.raises(Offline):
            await put(backend, "file", Content(tmp_path / "c", b"x"))
        with pytest.raises(Offline) as caught:
            await put(backend, "file", Content(tmp_path / "d", b"x"))

    assert type(caught.value) is Offline


async def test_a_server_that_is_busy_is_asked_less(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    busy = Fault(What.ANSWER, "PUT", status=503, headers=(("Retry-After", "7"),))
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        proxy.set_fault(busy)
        with pytest.raises(Throttled) as caught:
            await put(backend, "file", Content(tmp_path / "c", b"x"))

        assert proxy.counters.count("PUT") == 1
    assert caught.value.after_s == 7.0


async def test_a_read_on_a_connection_that_was_closed_is_repeated(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        await put(backend, "file", Content(tmp_path / "c", b"x"))
        proxy.set_fault(Fault(What.REFUSE, "HEAD"))

        item = await backend.head(Location("file"), Kind.FILE)

    assert _version(item).size == 1
