"""What is fetched when, counted between the mount and the server; what survives a remount."""

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import Mount, mounting, wait_until
from tests.support.proxy import Proxy
from tests.support.servers import S3Server

MIB = 1 << 20


class Remote:
    """A bucket behind a counting proxy, and a mount of it."""

    def __init__(self, home: Path, server: S3Server) -> None:
        self.home = home
        self.bucket = server.make_bucket()
        self.client: Any = server.client()
        self.env = dict(server.environment())
        self.proxy = Proxy(server.port)

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def mounting(self, *options: str) -> "Any":
        endpoint = f"endpoint={self.proxy.endpoint_url}"
        return mounting(
            self.home, f"s3://{self.bucket}", endpoint, "upload_delay=0.2", *options, env=self.env
        )


@pytest.fixture
def remote(seaweedfs: S3Server, tmp_path: Path) -> Iterator[Remote]:
    made = Remote(tmp_path, seaweedfs)
    with made.proxy:
        yield made


def _put_large(remote: Remote, key: str, size: int) -> None:
    """A large object whose every MiB is different, without holding it whole."""
    upload = remote.client.create_multipart_upload(Bucket=remote.bucket, Key=key)
    where = {"Bucket": remote.bucket, "Key": key, "UploadId": upload["UploadId"]}
    parts: list[dict[str, Any]] = []
    step = 64 * MIB
    for number in range(size // step):
        body = b"".join(_mib(number * 64 + i) for i in range(64))
        reply = remote.client.upload_part(PartNumber=number + 1, Body=body, **where)
        parts.append({"PartNumber": number + 1, "ETag": reply["ETag"]})
    remote.client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **where)


def _mib(number: int) -> bytes:
    return number.to_bytes(8, "big") * (MIB // 8)


def test_reading_one_mib_of_a_gib_fetches_little(remote: Remote) -> None:
    _put_large(remote, "large", 1024 * MIB)
    with remote.mounting() as mount:
        remote.proxy.reset_counters()
        with (mount.path / "large").open("rb") as file:
            file.seek(512 * MIB)
            assert file.read(MIB) == _mib(512)
        assert remote.proxy.counters.reply_bytes("GET", "large") < 8 * MIB


def test_two_readers_of_one_cold_range_share_a_get(remote: Remote) -> None:
    content = os.urandom(4 * MIB)
    remote.put("shared", content)
    with remote.mounting() as mount:
        os.listdir(mount.path)
        remote.proxy.reset_counters()
        got: list[bytes] = []

        def read() -> None:
            fd = os.open(mount.path / "shared", os.O_RDONLY)
            got.append(os.pread(fd, 4096, 2 * MIB))
            os.close(fd)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == [content[2 * MIB : 2 * MIB + 4096]] * 2
        assert remote.proxy.counters.count("GET", "shared") == 1


def test_sequential_read_fetches_each_byte_once(remote: Remote) -> None:
    content = os.urandom(48 * MIB)
    remote.put("f", content)
    with remote.mounting() as mount:
        remote.proxy.reset_counters()
        assert (mount.path / "f").read_bytes() == content
        assert remote.proxy.counters.reply_bytes("GET", "/f") == len(content)
        mount.unmount()
        remote.proxy.reset_counters()
        mount.start()
        assert (mount.path / "f").read_bytes() == content
        assert remote.proxy.counters.reply_bytes("GET", "/f") == 0


def test_the_cache_keeps_its_ceiling(remote: Remote) -> None:
    files = {f"f{i}": os.urandom(8 * MIB) for i in range(12)}
    for name, content in files.items():
        remote.put(name, content)
    with remote.mounting("cache_size=32M") as mount:
        for name, content in files.items():
            assert (mount.path / name).read_bytes() == content
            assert _cached_bytes(mount) <= 33 * MIB  # directories and rounding count, too
        # One file larger than the cache streams through it, there and back.
        written = os.urandom(80 * MIB)
        with (mount.path / "w").open("wb") as file:
            for start in range(0, 24 * MIB, MIB):
                file.write(written[start : start + MIB])
        mount.flush()
        assert (mount.path / "w").read_bytes() == written[: 24 * MIB]
        remote.put("huge", written)
        wait_until(lambda: _exists(mount.path / "huge"), "the new object shows", 60)
        assert (mount.path / "huge").read_bytes() == written
        assert _cached_bytes(mount) <= 33 * MIB  # directories and rounding count, too


def _exists(path: Path) -> bool:
    os.listdir(path.parent)
    return path.exists()


def _cached_bytes(mount: Mount) -> int:
    used = subprocess.run(
        ["du", "-s", "-B1", str(mount.home / "cache"), str(mount.home / "state")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    cache, state = (int(line.split()[0]) for line in used.splitlines())
    # The store itself is no content.
    return cache + state - sum(path.stat().st_size for path in mount.home.rglob("store.db*"))


def test_works_with_the_server_gone(remote: Remote) -> None:
    remote.put("known/cached", b"cached")
    remote.put("known/uncached", b"uncached")
    with remote.mounting("timeout=4", "refresh=1") as mount:
        listing = subprocess.check_output(["ls", "-lR", str(mount.path)])
        assert (mount.path / "known" / "cached").read_bytes() == b"cached"
        assert mount.unmount() == 0
        remote.proxy.refuse()
        mount.start()
        assert subprocess.check_output(["ls", "-lR", str(mount.path)]) == listing
        assert (mount.path / "known" / "cached").read_bytes() == b"cached"
        (mount.path / "known" / "new").write_bytes(b"made offline")
        (mount.path / "known" / "cached").rename(mount.path / "moved")
        with pytest.raises(OSError) as caught:
            (mount.path / "known" / "uncached").read_bytes()
        assert caught.value.errno == errno.ETIMEDOUT
        assert mount.status()["online"] is False
        remote.proxy.accept()

        def arrived() -> bool:
            found = remote.client.list_objects_v2(Bucket=remote.bucket).get("Contents", [])
            keys = {entry["Key"] for entry in found if not entry["Key"].endswith("/")}
            return keys == {"known/new", "known/uncached", "moved"}

        wait_until(arrived, "everything is uploaded by itself", 90)
        assert (mount.path / "known" / "uncached").read_bytes() == b"uncached"
