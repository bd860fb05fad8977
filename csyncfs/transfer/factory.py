"""From a spec and options to a backend: the only place that knows the concrete ones.

``file:///path``, ``s3://bucket/prefix``, ``az://account/container/prefix``, ``gs://bucket/prefix``,
``onedrive://...`` or ``memory:``. SDKs take up to a second to import, so that happens in a thread
and the transfer process answers meanwhile.
"""

import importlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import msgspec
import trio

from csyncfs.config import parse_spec, way_to_get
from csyncfs.errors import ConfigError
from csyncfs.transfer.messages import Options, Start
from csyncfs.transfer.server import Hosted

if TYPE_CHECKING:
    from csyncfs.backends.s3 import Verdict


class _DirectoryWish(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _MemoryWish(msgspec.Struct, forbid_unknown_fields=True):
    real_dirs: bool = False
    content_tags: bool = False
    conditional_writes: bool = True
    lists_attributes: bool = False
    part_bytes: int = 8 << 20
    page_items: int = 1000
    total_bytes: int | None = None


class _S3Wish(msgspec.Struct, forbid_unknown_fields=True):
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    credentials_file: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    anonymous: bool = False
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    part_size_bytes: int = 8 << 20


class _AzureWish(msgspec.Struct, forbid_unknown_fields=True):
    endpoint: str | None = None
    credentials_file: str | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    block_size_bytes: int = 4 << 20


class _GcsWish(msgspec.Struct, forbid_unknown_fields=True):
    endpoint: str | None = None
    credentials_file: str | None = None
    anonymous: bool = False
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    part_size_bytes: int = 8 << 20


class _OneDriveWish(msgspec.Struct, forbid_unknown_fields=True):
    endpoint: str | None = None
    login_dir: str | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0


async def make_backend(start: Start) -> Hosted:
    """The backend a mount asks for, guarded. Raises ConfigError."""
    scheme = start.spec.partition(":")[0]
    build = _BUILDERS.get(scheme)
    if build is None:
        raise ConfigError(f"no such kind of store: {scheme}:")
    try:
        inner = await build(start)
        await _load("csyncfs.backends.guard")
    except ModuleNotFoundError as exc:
        raise ConfigError(f"{scheme}: stores need the Python module {exc.name}") from exc
    from csyncfs.backends.guard import GuardedBackend

    guarded = GuardedBackend(inner.backend)
    return Hosted(guarded, inner.memo, guarded.snapshot)


async def _directory(start: Start) -> Hosted:
    _read(_DirectoryWish, start.options)
    # The path is taken as it is: names may hold any byte, percent signs too.
    root = Path(start.spec.removeprefix("file://"))
    if not root.is_absolute():
        raise ConfigError(f"not an absolute path: {start.spec}")
    await _load("csyncfs.backends.directory")
    from csyncfs.backends.directory import DirectoryBackend

    backend = DirectoryBackend(root)
    backend.memo = start.memo
    return Hosted(backend, lambda: backend.memo)


async def _memory(start: Start) -> Hosted:
    wish = _read(_MemoryWish, start.options)
    if start.spec != "memory:":
        raise ConfigError(f"memory: takes no path: {start.spec}")
    await _load("csyncfs.backends.memory")
    from csyncfs.backends.memory import MemoryBackend, MemoryStore

    return Hosted(MemoryBackend(MemoryStore(**msgspec.structs.asdict(wish))))


async def _s3(start: Start) -> Hosted:
    wish = _read(_S3Wish, start.options)
    bucket, _, prefix = start.spec.removeprefix("s3://").partition("/")
    if not bucket or "@" in bucket:
        raise ConfigError("an S3 store is s3://BUCKET[/PREFIX]")
    await _load("csyncfs.backends.s3")
    from csyncfs.backends.s3 import S3Backend, S3Options

    options = S3Options(
        bucket=bucket,
        prefix=prefix.strip("/"),
        endpoint_url=wish.endpoint,
        region=wish.region,
        profile=wish.profile,
        credentials_file=wish.credentials_file,
        addressing=wish.addressing,
        anonymous=wish.anonymous,
        connect_timeout_s=wish.connect_timeout_s,
        read_timeout_s=wish.read_timeout_s,
        part_size_bytes=wish.part_size_bytes,
    )
    backend = S3Backend(options, _recalled(start.memo))
    return Hosted(backend, lambda: _memo_of(backend.verdict))


def _recalled(memo: str | None) -> "Verdict | None":
    """What the last probe found; None asks for a new one."""
    from csyncfs.backends.s3 import Verdict

    try:
        return None if memo is None else Verdict.from_json_dict(json.loads(memo))
    except ValueError:
        return None


def _memo_of(verdict: "Verdict | None") -> str | None:
    # What could not be probed is no knowledge; the next connect tries again.
    if verdict is None or not verdict.probed:
        return None
    return json.dumps(verdict.to_json_dict())


async def _azure(start: Start) -> Hosted:
    wish = _read(_AzureWish, start.options)
    spec = parse_spec(start.spec)
    try:
        await _load("csyncfs.backends.azureblob.client")
    except ModuleNotFoundError as exc:
        raise ConfigError(f"az:// stores need the Azure SDK: {way_to_get('azure')}") from exc
    from csyncfs.backends.azureblob import AzureBackend, AzureOptions

    options = AzureOptions(
        account=spec.account,
        container=spec.bucket,
        prefix=spec.prefix.strip("/"),
        endpoint=wish.endpoint,
        credentials_file=wish.credentials_file,
        connect_timeout_s=wish.connect_timeout_s,
        read_timeout_s=wish.read_timeout_s,
        block_size_bytes=wish.block_size_bytes,
    )
    return Hosted(AzureBackend(options))


async def _gcs(start: Start) -> Hosted:
    wish = _read(_GcsWish, start.options)
    spec = parse_spec(start.spec)
    try:
        await _load("csyncfs.backends.gcs.client")
    except ImportError as exc:
        # Packages of another kind of store may bring some of Google's, but not all.
        raise ConfigError(f"gs:// stores need the Google SDK: {way_to_get('gcs')}") from exc
    from csyncfs.backends.gcs import GcsBackend, GcsOptions

    options = GcsOptions(
        bucket=spec.bucket,
        prefix=spec.prefix.strip("/"),
        endpoint=wish.endpoint,
        credentials_file=wish.credentials_file,
        anonymous=wish.anonymous,
        connect_timeout_s=wish.connect_timeout_s,
        read_timeout_s=wish.read_timeout_s,
        part_size_bytes=wish.part_size_bytes,
    )
    return Hosted(GcsBackend(options))


async def _onedrive(start: Start) -> Hosted:
    wish = _read(_OneDriveWish, start.options)
    spec = parse_spec(start.spec)
    try:
        await _load("csyncfs.backends.onedrive")
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"onedrive:// stores need Microsoft's SDK: {way_to_get('onedrive')}"
        ) from exc
    from csyncfs.backends.onedrive import OneDriveBackend, OneDriveOptions

    options = OneDriveOptions(
        drive=spec.bucket,
        prefix=spec.prefix.strip("/"),
        endpoint=wish.endpoint,
        login_dir=wish.login_dir,
        connect_timeout_s=wish.connect_timeout_s,
        read_timeout_s=wish.read_timeout_s,
    )
    return Hosted(OneDriveBackend(options))


_BUILDERS: Final[dict[str, Callable[[Start], Awaitable[Hosted]]]] = {
    "file": _directory,
    "memory": _memory,
    "s3": _s3,
    "az": _azure,
    "gs": _gcs,
    "onedrive": _onedrive,
}

W = TypeVar("W")


def _read(wish: type[W], options: Options) -> W:
    try:
        return msgspec.convert(options, wish)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"bad store option: {exc}") from exc


async def _load(module: str) -> None:
    await trio.to_thread.run_sync(importlib.import_module, module)
