"""What a user reads when Google's storage cannot be reached, and what he never reads."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from csyncfs.backends.gcs import GcsBackend
from csyncfs.errors import (
    AccessDenied,
    ConfigError,
    CsyncError,
    NoSuchStore,
    Offline,
)
from csyncfs.transfer import factory
from csyncfs.transfer.messages import Start
from csyncfs.types import Kind, Location
from tests.support.gcs import READER, UNKNOWN, Bucket, FakeGcs, connected, options_for
from tests.support.servers import free_ports
from tests.support.uploads import Content, put

Make = Callable[[bytes], Content]
_LOOK = """
import sys
from csyncfs.transfer import factory
import trio
from csyncfs.transfer.messages import Start
trio.run(factory.make_backend, Start(protocol=0, spec={spec!r}, options={{}}, memo=None))
print(sorted(n for n in sys.modules if n.partition(".")[0] in ("google", "google_crc32c")))
"""


async def _failure(backend: GcsBackend, *secrets: str) -> CsyncError:
    with pytest.raises(CsyncError) as caught:
        await backend.connect()
    message = str(caught.value)
    assert "\n" not in message
    assert "PRIVATE" not in message
    assert all(secret not in message for secret in secrets)
    return caught.value


async def test_a_bucket_that_does_not_exist(gcs: FakeGcs, tmp_path: Path) -> None:
    key = gcs.write_key(tmp_path / "key.json")
    error = await _failure(
        GcsBackend(options_for(gcs, "no-such-bucket", credentials_file=str(key)))
    )
    assert type(error) is NoSuchStore
    assert "bucket does not exist" in str(error)


async def test_an_account_google_does_not_know(
    gcs: FakeGcs, gcs_bucket: Bucket, tmp_path: Path
) -> None:
    key = gcs.write_key(tmp_path / "key.json", UNKNOWN)
    error = await _failure(
        GcsBackend(options_for(gcs, gcs_bucket.name, credentials_file=str(key))), UNKNOWN
    )
    assert type(error) is AccessDenied


async def test_an_account_that_may_only_read(
    gcs: FakeGcs, gcs_bucket: Bucket, tmp_path: Path, make_content: Make
) -> None:
    key = gcs.write_key(tmp_path / "key.json", READER)
    gcs_bucket.insert({}, {"name": "file"}, b"x")
    options = options_for(gcs, gcs_bucket.name, credentials_file=str(key), prefix="")
    async with connected(options) as backend:
        assert (await backend.head(Location("file"), Kind.FILE)).version is not None
        with pytest.raises(AccessDenied):
            await put(backend, "other", make_content(b"x"))
        with pytest.raises(AccessDenied):
            await backend.delete(Location("file"), Kind.FILE, None)
    assert gcs_bucket.contents() == {"file": b"x"}


async def test_nobody_there(gcs: FakeGcs, gcs_bucket: Bucket, tmp_path: Path) -> None:
    key = gcs.write_key(tmp_path / "key.json")
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    error = await _failure(
        GcsBackend(options_for(gcs, gcs_bucket.name, credentials_file=str(key), endpoint=nowhere))
    )
    assert type(error) is Offline


async def test_no_credentials_at_all(
    gcs: FakeGcs, gcs_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    error = await _failure(GcsBackend(options_for(gcs, gcs_bucket.name)))
    assert type(error) is AccessDenied
    assert "credentials_file" in str(error)


async def test_the_default_credentials_of_the_machine(
    gcs: FakeGcs, gcs_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = gcs.write_key(tmp_path / "key.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    async with connected(options_for(gcs, gcs_bucket.name)) as backend:
        assert (await backend.list_page(Location(""), None)).items == ()


async def test_public_buckets_need_no_credentials(gcs: FakeGcs, gcs_bucket: Bucket) -> None:
    error = await _failure(GcsBackend(options_for(gcs, gcs_bucket.name, anonymous=True)))
    assert type(error) is AccessDenied
    public = gcs.make_bucket(is_public=True)
    async with connected(options_for(gcs, public.name, anonymous=True)) as backend:
        assert (await backend.list_page(Location(""), None)).items == ()


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (None, 0o600, "cannot be read"),
        ("{}", 0o604, "chmod 600"),
        ("not JSON: hunter2", 0o600, "not the key of a service account"),
        ('{"type": "service_account", "private_key": "hunter2"}', 0o600, "not the key"),
        ('["hunter2"]', 0o600, "not the key"),
    ],
)
async def test_a_credentials_file_that_is_no_use(
    gcs: FakeGcs, gcs_bucket: Bucket, tmp_path: Path, text: str | None, mode: int, says: str
) -> None:
    file = tmp_path / "key.json"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    error = await _failure(
        GcsBackend(options_for(gcs, gcs_bucket.name, credentials_file=str(file))), "hunter2"
    )
    assert type(error) is AccessDenied
    assert says in str(error)


async def test_no_token_goes_over_the_net_in_clear_text(
    gcs: FakeGcs, gcs_bucket: Bucket, tmp_path: Path
) -> None:
    key = gcs.write_key(tmp_path / "key.json")
    options = options_for(
        gcs, gcs_bucket.name, credentials_file=str(key), endpoint="http://storage.example.org"
    )
    error = await _failure(GcsBackend(options))
    assert type(error) is AccessDenied
    assert "https" in str(error)


async def test_nothing_secret_is_logged(
    gcs: FakeGcs,
    gcs_backend: GcsBackend,
    gcs_bucket: Bucket,
    make_content: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    content = make_content(os.urandom(17 << 20))
    gcs.fail("chunk", "partial")
    messages: list[str] = []
    try:
        await put(gcs_backend, "file", content)
    except CsyncError as exc:
        messages.append(str(exc))
    await gcs_backend.abandon(content.saved[-1])
    await gcs_backend.list_page(Location(""), None)
    messages += [record.getMessage() for record in caplog.records]
    assert messages
    for secret in ("upload_id", "token-of", "PRIVATE", "Bearer"):
        assert not [message for message in messages if secret in message]


# -- the extra ------------------------------------------------------------------------------------


async def test_without_the_sdk_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("csyncfs.backends.gcs.client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(ConfigError) as caught:
        await factory.make_backend(Start(protocol=0, spec="gs://bucket", options={}, memo=None))
    assert "csyncfs[gcs]" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "loads"), [("s3://bucket", False), ("memory:", False), ("gs://bucket", True)]
)
def test_only_a_gcs_mount_loads_a_google_module(spec: str, loads: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOOK.format(spec=spec)], capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip() != "[]") == loads
