"""Bytes that change on the way, up or down, are noticed and sent again."""

import os
from pathlib import Path

import pytest

from csyncfs.backends.azureblob import AzureBackend
from csyncfs.errors import Retry
from csyncfs.types import Location, Span
from tests.support.azurite import Azurite, body, options_for
from tests.support.proxy import Fault, Proxy, What
from tests.support.uploads import Content, put

DATA = os.urandom(3 << 20)
NAME = "mounted/here/file"
LARGE = {"block_size_bytes": 1 << 20, "block_threshold_bytes": 1 << 20}


def _backend(server: Azurite, container: str, proxy: Proxy, **changed: object) -> AzureBackend:
    return AzureBackend(options_for(server, container, endpoint=server.url(proxy.port), **changed))


@pytest.mark.parametrize("sizes", [{}, LARGE], ids=["whole", "blocks"])
async def test_an_upload_that_arrives_damaged_is_refused(
    azure: Azurite, container: str, tmp_path: Path, sizes: dict[str, int]
) -> None:
    content = Content(tmp_path / "c", DATA)
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy, **sizes)
        await backend.connect()
        proxy.set_fault(Fault(What.SPOIL_REQUEST, "PUT", after_bytes=1000))
        with pytest.raises(Retry):
            await put(backend, "file", content)

        await put(backend, "file", content)

    assert body(azure, container, NAME) == DATA


async def test_a_download_that_arrives_damaged_is_not_announced(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    into = Content(tmp_path / "into", b"")
    landed: list[Span] = []
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy)
        await backend.connect()
        item = await put(backend, "file", Content(tmp_path / "c", DATA))
        assert item.version is not None
        proxy.set_fault(Fault(What.SPOIL_REPLY, "GET", after_bytes=1 << 20))
        span = Span(0, len(DATA))
        with pytest.raises(Retry):
            await backend.fetch(Location("file"), span, into.fd, item.version, landed.append)
        assert [one for one in landed if one.size_bytes] == []

        await backend.fetch(Location("file"), span, into.fd, item.version, landed.append)

    assert (tmp_path / "into").read_bytes() == DATA


async def test_a_download_that_breaks_off_is_an_error(
    azure: Azurite, container: str, tmp_path: Path
) -> None:
    into = Content(tmp_path / "into", b"")
    landed: list[Span] = []
    with Proxy(azure.port) as proxy:
        backend = _backend(azure, container, proxy, **LARGE)
        await backend.connect()
        item = await put(backend, "file", Content(tmp_path / "c", DATA))
        assert item.version is not None
        for what in (What.CUT_REPLY, What.END_REPLY):
            landed.clear()
            proxy.set_fault(Fault(what, "GET", after_bytes=3 << 19))
            with pytest.raises(Retry):
                await backend.fetch(
                    Location("file"), Span(0, len(DATA)), into.fd, item.version, landed.append
                )
            end = max((one.end for one in landed), default=0)
            assert end < len(DATA)
            assert (tmp_path / "into").read_bytes()[:end] == DATA[:end]
