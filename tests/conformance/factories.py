"""The stores the suite runs on, and the ways to mount them.

A store of a test is empty, or an empty prefix of a shared bucket. Each way in gives a
Backend: ``direct`` the object itself, ``transfer`` the one in a transfer process.
"""

import os
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Final

import pytest

from csyncfs.backends.azureblob import AzureBackend
from csyncfs.backends.base import Backend
from csyncfs.backends.directory import DirectoryBackend, commit
from csyncfs.backends.gcs import GcsBackend
from csyncfs.backends.memory import MemoryBackend, MemoryStore
from csyncfs.backends.s3 import S3Backend, S3Options, Verdict
from csyncfs.errors import AccessDenied, BackendError, NoSuchStore, Offline
from tests.support import azurite as azure
from tests.support import gcs as google
from tests.support import onedrive
from tests.support.length import IS_LONG, some
from tests.support.servers import S3Server, free_ports
from tests.support.transfer import through_transfer

Make = Callable[[], Awaitable[Backend]]


@dataclass(frozen=True, slots=True)
class Store:
    """One empty store."""

    make: Make
    """One more mount of it, not connected yet."""
    spec: str
    options: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    env: Mapping[str, str] | None = None
    is_shared: bool = True
    """Another process can mount it too."""
    broken: Mapping[type[BackendError], Make] = field(
        default_factory=dict[type[BackendError], Make]
    )
    """Mounts that cannot connect, by the error this gives."""


@asynccontextmanager
async def mounted(store: Store, via: str) -> AsyncGenerator[Backend, None]:
    """One more mount of a store, not connected yet."""
    if via == "direct":
        backend = await store.make()
        try:
            yield backend
        finally:
            await backend.aclose()
    else:
        async with through_transfer(store.spec, store.options, env=store.env) as client:
            yield client


def _memory(**server: bool) -> Store:
    store = MemoryStore(page_items=1000, **server)

    async def make() -> Backend:
        return MemoryBackend(store)

    async def missing() -> Backend:
        gone = MemoryStore()
        gone.exists = False
        return MemoryBackend(gone)

    return Store(
        make, "memory:", dict(server), None, is_shared=False, broken={NoSuchStore: missing}
    )


def memory_flat(_: pytest.FixtureRequest) -> Store:
    return _memory()


def memory_content_tags(_: pytest.FixtureRequest) -> Store:
    return _memory(content_tags=True)


def memory_dirs(_: pytest.FixtureRequest) -> Store:
    return _memory(real_dirs=True, lists_attributes=True)


def memory_unconditional(_: pytest.FixtureRequest) -> Store:
    return _memory(conditional_writes=False)


def directory(request: pytest.FixtureRequest) -> Store:
    root: Path = request.getfixturevalue("tmp_path") / "store"
    root.mkdir()

    async def make() -> Backend:
        return DirectoryBackend(root, resume_bytes=4 << 20)

    async def missing() -> Backend:
        return DirectoryBackend(root / "missing")

    return Store(make, f"file://{root}", broken={NoSuchStore: missing})


def directory_plain(request: pytest.FixtureRequest) -> Store:
    """A file system with hard links but neither renameat2 flags nor xattrs, such as NFS."""
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")

    def cannot(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    def no_xattrs(*_: object) -> bool:
        return False

    patch.setattr(commit, "rename_exchange", cannot)
    patch.setattr(commit, "rename_noreplace", cannot)
    patch.setattr(commit, "_xattrs", no_xattrs)
    return directory(request)


_buckets: dict[str, str] = {}
_verdicts: dict[str, Verdict] = {}


def _s3(request: pytest.FixtureRequest, fixture: str, *, checks_keys: bool = True) -> Store:
    server: S3Server = request.getfixturevalue(fixture)
    if server.endpoint_url not in _buckets:
        _buckets[server.endpoint_url] = server.make_bucket()
    secrets: Path = request.getfixturevalue("tmp_path") / "credentials"
    _write_credentials(secrets, server.access_key, server.secret_key)
    options = S3Options(
        bucket=_buckets[server.endpoint_url],
        prefix=f"t/{uuid.uuid4().hex}",
        endpoint_url=server.endpoint_url,
        region=server.region,
        credentials_file=str(secrets),
        addressing="path",
        connect_timeout_s=2.0,
    )

    async def make() -> Backend:
        # What the dialect probe found is kept across connects, as a mount keeps it.
        backend = S3Backend(options, _verdicts.get(server.endpoint_url))
        if server.endpoint_url not in _verdicts:
            await backend.connect()
            if backend.verdict is not None:
                _verdicts[server.endpoint_url] = backend.verdict
        return backend

    async def missing() -> Backend:
        return S3Backend(with_changes(options, bucket="there-is-no-such-bucket"))

    async def unreachable() -> Backend:
        nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
        return S3Backend(with_changes(options, endpoint_url=nowhere))

    async def denied() -> Backend:
        wrong = secrets.with_name("wrong")
        _write_credentials(wrong, server.access_key, "not the secret key")
        return S3Backend(with_changes(options, credentials_file=str(wrong)))

    broken: dict[type[BackendError], Make] = {NoSuchStore: missing, Offline: unreachable}
    if checks_keys:
        broken[AccessDenied] = denied
    wished: dict[str, str | int] = {
        "endpoint": server.endpoint_url,
        "region": server.region,
        "credentials_file": str(secrets),
        "addressing": "path",
    }
    spec = f"s3://{options.bucket}/{options.prefix}"
    return Store(make, spec, wished, dict(os.environ), broken=broken)


def _write_credentials(path: Path, access_key: str, secret_key: str) -> None:
    path.write_text(
        f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
    )


def seaweedfs(request: pytest.FixtureRequest) -> Store:
    return _s3(request, "seaweedfs")


def ceph(request: pytest.FixtureRequest) -> Store:
    return _s3(request, "ceph")


def rclone(request: pytest.FixtureRequest) -> Store:
    return _s3(request, "rclone_s3")


def moto(request: pytest.FixtureRequest) -> Store:
    return _s3(request, "moto", checks_keys=False)


def azurite(request: pytest.FixtureRequest) -> Store:
    server: azure.Azurite = request.getfixturevalue("azurite")
    if server.endpoint_url not in _buckets:
        _buckets[server.endpoint_url] = server.make_container()
    secrets: Path = request.getfixturevalue("tmp_path") / "credentials"
    _write_key(secrets, azure.KEY)
    options = azure.options_for(
        server,
        _buckets[server.endpoint_url],
        prefix=f"t/{uuid.uuid4().hex}",
        credentials_file=str(secrets),
    )

    async def make() -> Backend:
        return AzureBackend(options)

    async def missing() -> Backend:
        return AzureBackend(with_changes(options, container="there-is-no-such-container"))

    async def unreachable() -> Backend:
        nowhere = server.url(free_ports(1)[0])
        return AzureBackend(with_changes(options, endpoint=nowhere))

    async def denied() -> Backend:
        wrong = secrets.with_name("wrong")
        _write_key(wrong, azure.WRONG_KEY)
        return AzureBackend(with_changes(options, credentials_file=str(wrong)))

    return Store(
        make,
        f"az://{options.account}/{options.container}/{options.prefix}",
        {"endpoint": server.url(), "credentials_file": str(secrets)},
        dict(os.environ),
        broken={NoSuchStore: missing, Offline: unreachable, AccessDenied: denied},
    )


def _write_key(path: Path, key: str) -> None:
    path.touch(0o600)
    path.write_text(f"AZURE_STORAGE_KEY={key}\n")


def gcs(request: pytest.FixtureRequest) -> Store:
    fake: google.FakeGcs = request.getfixturevalue("fake_gcs")
    place: Path = request.getfixturevalue("tmp_path")
    key = fake.write_key(place / "key.json")
    options = google.options_for(
        fake, fake.make_bucket().name, prefix=f"t/{uuid.uuid4().hex}", credentials_file=str(key)
    )

    async def make() -> Backend:
        return GcsBackend(options)

    async def missing() -> Backend:
        return GcsBackend(with_changes(options, bucket="there-is-no-such-bucket"))

    async def unreachable() -> Backend:
        nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
        return GcsBackend(with_changes(options, endpoint=nowhere))

    async def denied() -> Backend:
        wrong = fake.write_key(place / "wrong.json", google.UNKNOWN)
        return GcsBackend(with_changes(options, credentials_file=str(wrong)))

    return Store(
        make,
        f"gs://{options.bucket}/{options.prefix}",
        {"endpoint": fake.endpoint, "credentials_file": str(key)},
        dict(os.environ),
        broken={NoSuchStore: missing, Offline: unreachable, AccessDenied: denied},
    )


def gcs_live(request: pytest.FixtureRequest) -> Store:
    """A real bucket, where somebody has one: see ``test_gcs_live``."""
    options = google.live_options()
    request.addfinalizer(lambda: google.clear(options))

    async def make() -> Backend:
        return GcsBackend(options)

    async def missing() -> Backend:
        return GcsBackend(with_changes(options, bucket=f"no-such-bucket-{uuid.uuid4().hex}"))

    return Store(
        make,
        f"gs://{options.bucket}/{options.prefix}",
        env=dict(os.environ),
        broken={NoSuchStore: missing},
    )


def _onedrive(request: pytest.FixtureRequest, flavour: str) -> Store:
    """An emulator of its own: what the client did wrong is told when the test is over."""
    emu = onedrive.started(request, flavour)
    spec, options = onedrive.address_of(emu), onedrive.options_for(emu)

    async def make() -> Backend:
        return onedrive.backend_on(emu)

    async def missing() -> Backend:
        return onedrive.backend_on(emu, drive="drive/b!there-is-no-such-drive")

    async def unreachable() -> Backend:
        nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
        return onedrive.backend_on(emu, endpoint=nowhere)

    async def denied() -> Backend:
        return onedrive.backend_on(emu, token="")

    broken: dict[type[BackendError], Make] = {NoSuchStore: missing, Offline: unreachable}
    return Store(make, spec, options, broken={**broken, AccessDenied: denied})


def onedrive_personal(request: pytest.FixtureRequest) -> Store:
    return _onedrive(request, "personal")


def onedrive_business(request: pytest.FixtureRequest) -> Store:
    return _onedrive(request, "business")


def onedrive_sharepoint(request: pytest.FixtureRequest) -> Store:
    return _onedrive(request, "sharepoint")


_ALL: Final[Mapping[str, Callable[[pytest.FixtureRequest], Store]]] = {
    "memory": memory_flat,
    "memory-content-tags": memory_content_tags,
    "memory-dirs": memory_dirs,
    "memory-unconditional": memory_unconditional,
    "directory": directory,
    "directory-plain": directory_plain,
    "seaweedfs": seaweedfs,
    "ceph": ceph,
    "rclone": rclone,
    "moto": moto,
    "azurite": azurite,
    "gcs": gcs,
    **({"gcs-live": gcs_live} if google.LIVE_BUCKET in os.environ else {}),
    "onedrive-personal": onedrive_personal,
    "onedrive-business": onedrive_business,
    "onedrive-sharepoint": onedrive_sharepoint,
}

# One of each kind is enough for the short run.
_LONG_ONLY: Final = ("moto", "onedrive-personal", "onedrive-sharepoint")
STORES: Final = {name: made for name, made in _ALL.items() if IS_LONG or name not in _LONG_ONLY}

# One of each kind also goes through the transfer process; the dialects of the other
# servers make no difference to what crosses the socket.
THROUGH_TRANSFER: Final = some(("memory-dirs", "seaweedfs"), "memory-dirs")
