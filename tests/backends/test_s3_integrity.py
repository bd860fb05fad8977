"""Bytes that change on the way are never taken for the item's, nor a garbled ETag for a version."""

import os
from pathlib import Path

import pytest

from csyncfs.backends.s3 import S3Backend
from csyncfs.errors import Retry, VersionMismatch
from csyncfs.types import ABSENT, Item, Kind, Location, RemoteVersion, Span
from tests.support.proxy import Fault, Proxy, What
from tests.support.s3 import body, options_for
from tests.support.servers import S3Server
from tests.support.uploads import Content, put, writing
from tests.support.verdicts import VERDICTS

KEY = "mounted/here/file"
MIB = 1 << 20
SMALL = {"part_size_bytes": 5 << 20, "multipart_threshold_bytes": 1 << 20}


async def _connected(server: S3Server, bucket: str, proxy: Proxy, **changed: object) -> S3Backend:
    options = options_for(server, bucket, endpoint_url=proxy.endpoint_url, **changed)
    backend = S3Backend(options, VERDICTS["seaweedfs"])
    await backend.connect()
    return backend


async def _listed(backend: S3Backend) -> RemoteVersion:
    (item,) = (await backend.list_page(Location(""), None)).items
    assert item.version is not None
    return item.version


class Fetched:
    """One fetch into a file of its own."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.landed: list[Span] = []

    async def get(self, backend: S3Backend, span: Span, version: RemoteVersion) -> Item:
        return await backend.fetch(Location("file"), span, self.fd, version, self._land)

    def _land(self, span: Span) -> None:
        if span.size_bytes:
            self.landed.append(span)


SPOILT = Fault(What.SPOIL_REPLY, "GET", "here/file", share=0.7)


@pytest.mark.parametrize("span", [Span(0, 3 * MIB), Span(100, 5000)], ids=["whole", "part"])
async def test_a_spoilt_download_announces_nothing_and_is_good_the_next_time(
    s3_server: S3Server, bucket: str, tmp_path: Path, span: Span
) -> None:
    data = os.urandom(3 * MIB)
    s3_server.client().put_object(Bucket=bucket, Key=KEY, Body=data)
    with Proxy(s3_server.port) as proxy:
        backend = await _connected(s3_server, bucket, proxy)
        version = await _listed(backend)
        proxy.set_fault(SPOILT)
        fetched = Fetched(tmp_path / "content")
        with pytest.raises(Retry, match="damaged"):
            await fetched.get(backend, span, version)
        assert fetched.landed == []
        await fetched.get(backend, span, version)
    assert fetched.landed == [span]
    assert os.pread(fetched.fd, span.size_bytes, span.start) == data[span.start : span.end]
    # Only what was wanted is the caller's to have.
    assert os.fstat(fetched.fd).st_size == span.end


async def test_an_etag_that_only_looks_like_an_md5_does_not_keep_a_file_from_being_read(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    s3_server.client().put_object(Bucket=bucket, Key=KEY, Body=b"content")
    with Proxy(s3_server.port) as proxy:
        backend = await _connected(s3_server, bucket, proxy)
        version = await _listed(backend)
        fetched = Fetched(tmp_path / "content")
        for _ in range(2):
            # Damage, but the same each time: as good as what the store has.
            proxy.set_fault(SPOILT)
        with pytest.raises(Retry):
            await fetched.get(backend, Span(0, 7), version)
        await fetched.get(backend, Span(0, 7), version)
    assert fetched.landed == [Span(0, 7)]


@pytest.mark.parametrize("size", [1000, 6 << 20], ids=["single", "multipart"])
async def test_a_spoilt_upload_is_refused_and_repeated(
    s3_server: S3Server, bucket: str, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    stamp, content = writing(), Content(tmp_path / "c", data)
    with Proxy(s3_server.port) as proxy:
        backend = await _connected(s3_server, bucket, proxy, **SMALL)
        part = "partNumber=1" if size > MIB else ""
        proxy.set_fault(Fault(What.SPOIL_REQUEST, "PUT", part, share=0.5))
        with pytest.raises(Retry):
            await put(backend, "file", content, stamp=stamp)
        resume = content.saved[-1] if content.saved else None
        await put(backend, "file", content, stamp=stamp, resume=resume)
    assert body(s3_server, bucket, KEY) == data


@pytest.mark.parametrize("size", [1000, 6 << 20], ids=["single", "multipart"])
async def test_a_wrong_etag_in_a_reply_is_not_the_version_s(
    s3_server: S3Server, bucket: str, tmp_path: Path, size: int
) -> None:
    """It would be named in the next overwrite, and make a conflict with ourselves of it."""
    with Proxy(s3_server.port) as proxy:
        backend = await _connected(s3_server, bucket, proxy, **SMALL)
        proxy.set_fault(Fault(What.WRONG_TAG, "POST" if size > MIB else "PUT"))
        first = await put(backend, "file", Content(tmp_path / "a", bytes(size)))
        assert first.version is not None
        second = await put(backend, "file", Content(tmp_path / "b", b"second"), first.version)
    assert second.version is not None
    assert body(s3_server, bucket, KEY) == b"second"


async def test_a_wrong_etag_makes_nobody_s_version_of_ours(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    """The upload never arrived, and the look at what is there is garbled."""
    with Proxy(s3_server.port) as proxy:
        backend = await _connected(s3_server, bucket, proxy)
        first = await put(backend, "file", Content(tmp_path / "a", b"first"))
        assert first.version is not None
        content, stamp = Content(tmp_path / "b", b"second"), writing()
        proxy.set_fault(Fault(What.CUT_REQUEST, "PUT"))
        proxy.set_fault(Fault(What.WRONG_TAG, "HEAD"))
        with pytest.raises(Retry):
            await put(backend, "file", content, first.version, stamp=stamp)
        await put(backend, "file", content, first.version, stamp=stamp)
    assert body(s3_server, bucket, KEY) == b"second"


async def test_a_deletion_is_not_given_up_for_one_wrong_etag(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    with Proxy(s3_server.port) as proxy:
        backend = await _connected(s3_server, bucket, proxy)
        item = await put(backend, "file", Content(tmp_path / "a", b"first"), ABSENT)
        refusal = b"<Error><Code>PreconditionFailed</Code></Error>"
        proxy.set_fault(Fault(What.ANSWER, "DELETE", status=412, body=refusal))
        proxy.set_fault(Fault(What.WRONG_TAG, "HEAD"))
        with pytest.raises((Retry, VersionMismatch)) as caught:
            await backend.delete(Location("file"), Kind.FILE, item.version)
        assert isinstance(caught.value, Retry)
        await backend.delete(Location("file"), Kind.FILE, item.version)
