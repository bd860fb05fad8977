"""What one mount is: a spec and its options, made into a frozen ``MountConfig``.

Parsing is a function of the command line and of ``Host``, which is read once; nothing here
touches a store, a mountpoint or a directory of csyncfs.
"""

import enum
import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import platformdirs

from csyncfs import options as opt
from csyncfs.errors import ConfigError
from csyncfs.options import Addressing, Fsync, Given, LogLevel

_GIB = 1 << 30
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"\$root|\$web|[a-z0-9](?:-?[a-z0-9]){2,62}")
_GCS_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_DRIVE_ID = re.compile(r"[A-Za-z0-9!_-]+")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class Scheme(enum.StrEnum):
    """The kinds of store."""

    S3 = "s3"
    AZURE = "az"
    GCS = "gs"
    ONEDRIVE = "onedrive"
    FILE = "file"
    MEMORY = "memory"
    """For tests: gone with the process."""


@dataclass(frozen=True, slots=True)
class Spec:
    """Which store, and which part of it."""

    scheme: Scheme
    bucket: str = ""
    """Of S3 or GCS, a container of Azure, or a drive: ``me``, ``drive/ID``,
    ``site/HOST/PATH:LIBRARY``."""
    prefix: str = ""
    """Of keys, below the bucket: "" or one that ends in ``/``."""
    path: Path = Path("/")
    """Directory stores only."""
    account: str = ""
    """Azure only."""

    def __str__(self) -> str:
        """The one way to write it, however the user did."""
        match self.scheme:
            case Scheme.S3:
                return f"s3://{self.bucket}/{self.prefix}".rstrip("/")
            case Scheme.AZURE:
                return f"az://{self.account}/{self.bucket}/{self.prefix}".rstrip("/")
            case Scheme.GCS:
                return f"gs://{self.bucket}/{self.prefix}".rstrip("/")
            case Scheme.ONEDRIVE:
                return f"onedrive://{self.bucket}/{self.prefix}".rstrip("/")
            case Scheme.FILE:
                return f"file://{self.path}"
            case Scheme.MEMORY:
                return "memory:"


@dataclass(frozen=True, slots=True)
class Host:
    """What defaults depend on."""

    uid: int
    gid: int
    name: str
    state_base: Path
    cache_base: Path
    run_base: Path
    disk_size: Callable[[Path], int]
    """Size in bytes of the disk a path is on or would be on."""


@dataclass(frozen=True, slots=True)
class MountConfig:
    """Everything a mount is told. Holds no secret: it may be shown, logged and stored."""

    spec: Spec
    source: str
    """The spec as the user wrote it: what ``findmnt`` shows and fstab is compared with."""
    mountpoint: Path
    id: str
    """Names this store on this machine: a readable part and a hash."""
    state_dir: Path
    cache_dir: Path
    run_dir: Path
    registry_dir: Path
    """Where ``csyncfs-admin`` finds out about mounts."""
    login_dir: Path
    """Where ``csyncfs-admin login`` leaves who signed in."""
    cache_size_bytes: int
    min_free_bytes: int
    refresh_s: float
    upload_delay_s: float
    uploads: int
    fsync: Fsync
    endpoint: str | None
    region: str | None
    profile: str | None
    credentials_file: Path | None
    anonymous: bool
    addressing: Addressing
    uid: int
    gid: int
    file_mode: int
    """Permission bits only, as ``dir_mode``."""
    dir_mode: int
    allow_other: bool
    default_permissions: bool
    read_only: bool
    timeout_s: float
    connect_wait_s: float
    drain_s: float
    delete_guard: int | None
    """More removals at once than this wait for the user; 0: none do; None: the store's default."""
    device: str
    log_level: LogLevel
    log_file: Path | None
    kernel_options: tuple[str, ...]
    options: tuple[str, ...]
    """The options given, one word each."""

    @property
    def control_socket(self) -> Path:
        return self.run_dir / "control.sock"

    def store_options(self) -> dict[str, str | bool | float]:
        """What the transfer process is told beside the spec."""
        if self.spec.scheme in (Scheme.FILE, Scheme.MEMORY):
            return {}
        file = self.credentials_file
        named = {
            "endpoint": self.endpoint,
            "region": self.region,
            "profile": self.profile,
            "credentials_file": None if file is None else str(file),
        }
        given = {name: value for name, value in named.items() if value is not None}
        if self.spec.scheme is Scheme.GCS:
            return {**given, "anonymous": self.anonymous, "read_timeout_s": self.timeout_s}
        if self.spec.scheme is Scheme.ONEDRIVE:
            given["login_dir"] = str(self.login_dir)
        if self.spec.scheme is not Scheme.S3:
            return {**given, "read_timeout_s": self.timeout_s}
        return {
            **given,
            "addressing": self.addressing.value,
            "anonymous": self.anonymous,
            "read_timeout_s": self.timeout_s,
        }

    def fuse_options(self) -> frozenset[str]:
        """Options for libfuse, one word each."""
        # libfuse splits at commas after taking backslashes off
        source = self.source.replace("\\", "\\\\").replace(",", "\\,")
        words = {f"fsname={source}", "subtype=csyncfs", *self.kernel_options}
        words |= {"ro"} if self.read_only else {"rw"}
        words |= {"allow_other"} if self.allow_other else set()
        words |= {"default_permissions"} if self.default_permissions else set()
        return frozenset(words)


def way_to_get(extra: str) -> str:
    """How to install what a kind of store needs beyond the rest."""
    return f"pip install 'csyncfs[{extra}]', or make install EXTRAS={extra}"


def parse_spec(text: str) -> Spec:
    """Raises ConfigError, naming what is wrong."""
    scheme, separator, rest = text.partition("://")
    if text == "memory:":
        return Spec(Scheme.MEMORY)
    if text.startswith("/"):
        return Spec(Scheme.FILE, path=Path(os.path.normpath(text)))
    if scheme == "file" and separator:
        return _parse_file(rest)
    if scheme == "s3" and separator:
        return _parse_s3(rest)
    if scheme == "az" and separator:
        return _parse_azure(rest)
    if scheme == "gs" and separator:
        return _parse_gcs(rest)
    if scheme == "onedrive" and separator:
        return _parse_onedrive(rest)
    raise ConfigError(
        f"'{text}' is not a store: write s3://BUCKET[/PREFIX], az://ACCOUNT/CONTAINER[/PREFIX],"
        " gs://BUCKET[/PREFIX], onedrive://me[/PATH] or file:///PATH"
    )


def _parse_s3(rest: str) -> Spec:
    bucket, _, prefix = rest.partition("/")
    if _BUCKET.fullmatch(bucket) is None:
        raise ConfigError(f"'{bucket}' is not a bucket name (in s3://{rest})")
    return Spec(Scheme.S3, bucket=bucket, prefix=_prefix(prefix, f"s3://{rest}"))


def _parse_azure(rest: str) -> Spec:
    account, _, inside = rest.partition("/")
    container, _, prefix = inside.partition("/")
    if _ACCOUNT.fullmatch(account) is None:
        raise ConfigError(f"'{account}' is not a storage account's name (in az://{rest})")
    if _CONTAINER.fullmatch(container) is None:
        raise ConfigError(f"'{container}' is not a container's name (in az://{rest})")
    prefix = _prefix(prefix, f"az://{rest}")
    if "\\" in prefix or any(part.endswith(".") for part in prefix.split("/")):
        raise ConfigError(f"prefix '{prefix}' has a backslash, or a dot before a slash")
    return Spec(Scheme.AZURE, bucket=container, prefix=prefix, account=account)


def _parse_gcs(rest: str) -> Spec:
    bucket, _, prefix = rest.partition("/")
    if _GCS_BUCKET.fullmatch(bucket) is None:
        raise ConfigError(f"'{bucket}' is not a bucket name (in gs://{rest})")
    prefix = _prefix(prefix, f"gs://{rest}")
    if "\r" in prefix or "\n" in prefix:
        raise ConfigError("a prefix in gs:// has no line feed and no carriage return")
    return Spec(Scheme.GCS, bucket=bucket, prefix=prefix)


def _parse_onedrive(rest: str) -> Spec:
    sort, _, inside = rest.partition("/")
    if sort == "me":
        drive, path = "me", inside
    elif sort == "drive":
        name, _, path = inside.partition("/")
        if _DRIVE_ID.fullmatch(name) is None:
            raise ConfigError(f"'{name}' is not a drive's id (in onedrive://{rest})")
        drive = f"drive/{name}"
    elif sort == "site":
        site, _, behind = inside.partition(":")
        library, _, path = behind.partition("/")
        host, _, place = site.partition("/")
        if _HOST.fullmatch(host) is None or "//" in place:
            raise ConfigError(f"'{site}' is not a site: HOST/sites/NAME (in onedrive://{rest})")
        drive = f"site/{host}/{place.strip('/')}:{library}"
    else:
        raise ConfigError(
            f"'onedrive://{rest}' is not a drive: write onedrive://me[/PATH],"
            " onedrive://drive/ID[/PATH] or onedrive://site/HOST/SITEPATH:[LIBRARY][/PATH]"
        )
    return Spec(Scheme.ONEDRIVE, bucket=drive, prefix=_prefix(path, f"onedrive://{rest}"))


def _prefix(text: str, spec: str) -> str:
    prefix = f"{text}/" if text and not text.endswith("/") else text
    if any(part in ("", ".", "..") for part in prefix.split("/")[:-1]):
        raise ConfigError(f"prefix '{prefix}' has an empty, '.' or '..' part (in {spec})")
    return prefix


def _parse_file(rest: str) -> Spec:
    if not rest.startswith("/"):
        raise ConfigError(f"file://{rest} needs an absolute path: file:///PATH")
    return Spec(Scheme.FILE, path=Path(os.path.normpath(rest)))


def parse(
    source: str,
    mountpoint: Path,
    option_lists: Iterable[str],
    host: Host,
    *,
    is_sloppy: bool = False,
) -> MountConfig:
    """Make sense of ``SPEC MOUNTPOINT -o OPTIONS``. Raises ConfigError, one line for the user."""
    spec = parse_spec(source)
    given = opt.parse_options(option_lists, is_sloppy=is_sloppy)
    _check_scheme(spec, given)
    given_state = given.maybe(opt.STATE_DIR)
    identity = mount_id(spec, given.maybe(opt.ENDPOINT), given_state and str(given_state))
    cache_dir = Path(given.maybe(opt.CACHE_DIR) or host.cache_base) / identity
    cache_size, min_free = _space(given, cache_dir, host)
    umask = given.value(opt.UMASK)
    config = MountConfig(
        spec=spec,
        source=source,
        mountpoint=mountpoint,
        id=identity,
        state_dir=Path(given_state or host.state_base / identity),
        cache_dir=cache_dir,
        run_dir=Path(given.maybe(opt.RUN_DIR) or host.run_base) / identity,
        registry_dir=host.state_base / "mounts",
        login_dir=host.state_base / "login",
        cache_size_bytes=cache_size,
        min_free_bytes=min_free,
        refresh_s=given.value(opt.REFRESH),
        upload_delay_s=given.value(opt.UPLOAD_DELAY),
        uploads=given.value(opt.UPLOADS),
        fsync=given.value(opt.FSYNC),
        endpoint=given.maybe(opt.ENDPOINT),
        region=given.maybe(opt.REGION),
        profile=given.maybe(opt.PROFILE),
        credentials_file=_path(given, opt.CREDENTIALS_FILE),
        anonymous=given.value(opt.ANONYMOUS),
        addressing=given.value(opt.ADDRESSING),
        uid=_or(given.maybe(opt.UID), host.uid),
        gid=_or(given.maybe(opt.GID), host.gid),
        file_mode=_or(given.maybe(opt.FILE_MODE), 0o666 & ~umask),
        dir_mode=_or(given.maybe(opt.DIR_MODE), 0o777 & ~umask),
        allow_other=given.value(opt.ALLOW_OTHER),
        default_permissions=given.value(opt.DEFAULT_PERMISSIONS),
        read_only=given.value(opt.READ_ONLY),
        timeout_s=given.value(opt.TIMEOUT),
        connect_wait_s=given.value(opt.CONNECT_WAIT),
        drain_s=given.value(opt.DRAIN),
        delete_guard=given.maybe(opt.DELETE_GUARD),
        device=given.maybe(opt.DEVICE) or host.name,
        log_level=given.value(opt.LOG_LEVEL),
        log_file=_path(given, opt.LOG_FILE),
        kernel_options=given.kernel,
        options=given.words,
    )
    _check_places(config)
    return config


def mount_id(spec: Spec, endpoint: str | None, state_dir: str | None) -> str:
    """A name for this store, the same at every mount.

    A state directory of the user's own makes it another mount of the store, with its own
    cache and control socket: two can then live on one machine.
    """
    canonical = "\0".join([str(spec), endpoint or "", state_dir or ""])
    slug = re.sub(r"[^a-z0-9]+", "-", str(spec).lower()).strip("-")[:40].rstrip("-")
    return f"{slug}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


def read_host() -> Host:
    """The defaults' side of this machine and user.

    ``CSYNCFS_HOME`` puts state, cache and run directories below one directory.
    """
    uid = os.geteuid()
    if home := os.environ.get("CSYNCFS_HOME"):
        bases = tuple(Path(home).absolute() / part for part in ("state", "cache", "run"))
    elif uid == 0:
        bases = tuple(Path(f"/var/{part}/csyncfs") for part in ("lib", "cache"))
        bases += (Path("/run/csyncfs"),)
    else:
        bases = (
            platformdirs.user_state_path("csyncfs"),
            platformdirs.user_cache_path("csyncfs"),
            platformdirs.user_runtime_path("csyncfs"),
        )
    name = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])[:32].strip("-_")
    return Host(uid, os.getegid(), name or "localhost", *bases, disk_size=_disk_size)


def _disk_size(path: Path) -> int:
    for existing in (path, *path.parents):
        try:
            disk = os.statvfs(existing)
        except OSError:
            continue
        return disk.f_blocks * disk.f_frsize
    return 0


def _space(given: Given, cache_dir: Path, host: Host) -> tuple[int, int]:
    cache_size, min_free = given.maybe(opt.CACHE_SIZE), given.maybe(opt.MIN_FREE)
    if cache_size is None or min_free is None:
        disk = host.disk_size(cache_dir)
        cache_size = _or(cache_size, min(max(disk // 10, _GIB), 100 * _GIB))
        min_free = _or(min_free, min(disk // 20, 5 * _GIB))
    return cache_size, min_free


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _path(given: Given, option: opt.Option[PurePosixPath]) -> Path | None:
    value = given.maybe(option)
    return None if value is None else Path(value)


def _check_scheme(spec: Spec, given: Given) -> None:
    for option in opt.TABLE:
        if option.schemes and spec.scheme not in option.schemes and given.has(option):
            *most, last = [f"{scheme}://" for scheme in option.schemes]
            stores = f"{', '.join(most)} and {last}" if most else last
            raise ConfigError(f"option {option.name} is only for {stores} stores")


def _check_places(config: MountConfig) -> None:
    """Refuse to swallow one's own tail: a mount that holds what it is made of hangs."""
    for what, path in (
        ("state directory", config.state_dir),
        ("cache directory", config.cache_dir),
        ("run directory", config.run_dir),
    ):
        if path.is_relative_to(config.mountpoint):
            raise ConfigError(f"the {what} {path} is inside the mountpoint {config.mountpoint}")
        if config.spec.scheme is Scheme.FILE and path.is_relative_to(config.spec.path):
            raise ConfigError(f"the {what} {path} is inside the store {config.spec.path}")
    if config.spec.scheme is not Scheme.FILE:
        return
    store = config.spec.path
    if store.is_relative_to(config.mountpoint) or config.mountpoint.is_relative_to(store):
        raise ConfigError(f"the store {store} and the mountpoint {config.mountpoint} overlap")
