"""The ``-o`` options: one table of everything a mount can be told.

Parsing, ``--help`` and the check of the man page all read this table; an option exists
nowhere else. Values are checked here, each by its own parser; what a combination of them
means is decided in ``config``.
"""

import difflib
import enum
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Generic, TypeVar, cast
from urllib.parse import urlsplit

from csyncfs.errors import ConfigError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
E_ = TypeVar("E_", bound=enum.StrEnum)


class Fsync(enum.StrEnum):
    """When fsync(2) returns."""

    LOCAL = "local"
    """The bytes and the promise to upload them survive power loss."""
    REMOTE = "remote"
    """The cloud has the version."""


class Addressing(enum.StrEnum):
    """How an S3 bucket is named in a request."""

    AUTO = "auto"
    PATH = "path"
    VIRTUAL = "virtual"


class LogLevel(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_BINARY = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TRUE = frozenset({"", "1", "yes", "true", "on"})
_FALSE = frozenset({"0", "no", "false", "off"})


def parse_size(text: str) -> int:
    """Bytes from ``10G``, ``512MiB`` or a plain number; suffixes are powers of 1024."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("not a size such as 512M or 10G")
    return int(float(match[1]) * 1024 ** _BINARY[match[2].upper()])


def parse_duration(text: str) -> float:
    """Seconds from ``30``, ``1.5s``, ``500ms``, ``5m`` or ``1h``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("not a time such as 30, 500ms or 5m")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def _flag(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("not yes or no")


def _positive_size(text: str) -> int:
    if (size := parse_size(text)) < 1 << 20:
        raise ValueError("must be 1M or more")
    return size


def _deadline(text: str) -> float:
    if (seconds := parse_duration(text)) <= 0:
        raise ValueError("must be more than 0")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 31:
        raise ValueError("not a number")
    return int(text)


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise ValueError("not a number from 1 to 256")
    return int(text)


def _id(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise ValueError("not a numeric id")
    return int(text)


def _permissions(text: str) -> int:
    if not re.fullmatch(r"0?o?[0-7]{1,4}", text):
        raise ValueError("not octal permissions such as 644")
    return int(text.replace("o", ""), 8)


def _absolute(text: str) -> PurePosixPath:
    if not text.startswith("/"):
        raise ValueError("not an absolute path")
    return PurePosixPath(text)


def _device(text: str) -> str:
    if _DEVICE.fullmatch(text) is None:
        raise ValueError("not a name of up to 32 letters, digits, '-' and '_'")
    return text


def _word(text: str) -> str:
    if not text or not text.isprintable() or " " in text:
        raise ValueError("not a name")
    return text


def _endpoint(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("not a URL such as https://s3.example.org:9000")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("must be a plain URL: no user, password, query or fragment")
    return f"{url.scheme}://{url.netloc.lower()}{url.path.rstrip('/')}"


def _choice(kind: type[E_]) -> Callable[[str], E_]:
    def parse(text: str) -> E_:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"not one of {', '.join(kind)}") from None

    return parse


@dataclass(frozen=True, slots=True)
class Option(Generic[T_co]):
    """One option. ``metavar`` "" makes it a flag, which ``no`` in front turns off."""

    name: str
    parse: Callable[[str], T_co]
    metavar: str
    help: str
    default: str | None = None
    """As it would be written; None: nothing, or worked out from the machine."""
    default_help: str = ""
    """What help says where ``default`` is None."""
    schemes: tuple[str, ...] = ()
    """The only kinds of store it makes sense for; none: all."""
    aliases: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    """Other names; with a value, that name is a flag which sets the value."""

    @property
    def is_flag(self) -> bool:
        return not self.metavar


CACHE_DIR = Option(
    "cache_dir",
    _absolute,
    "DIR",
    "keep the content cache below this directory; it can be wiped while not mounted",
    default_help="/var/cache/csyncfs, or ~/.cache/csyncfs",
)
STATE_DIR = Option(
    "state_dir",
    _absolute,
    "DIR",
    "keep metadata, journal and unsent bytes in exactly this directory; never wipe it",
    default_help="/var/lib/csyncfs/ID, or ~/.local/state/csyncfs/ID",
)
RUN_DIR = Option(
    "run_dir",
    _absolute,
    "DIR",
    "keep the control socket below this directory",
    default_help="/run/csyncfs, or the user's runtime directory",
)
CACHE_SIZE = Option(
    "cache_size",
    _positive_size,
    "SIZE",
    "ceiling of the content cache",
    default_help="10 % of the cache disk, from 1G to 100G",
)
MIN_FREE = Option(
    "min_free",
    parse_size,
    "SIZE",
    "leave this much of the disk free",
    default_help="5 % of the cache disk, at most 5G",
)
REFRESH = Option(
    "refresh",
    parse_duration,
    "TIME",
    "look for changes made elsewhere in directories in use after this time",
    "30",
)
DELETE_GUARD = Option(
    "delete_guard",
    _count,
    "N",
    "hold it if more than N items are removed at once, here or in the store, until"
    " csyncfs-admin held decides; 0: never",
    default_help="1000 on OneDrive, else 0",
)
UPLOAD_DELAY = Option(
    "upload_delay", parse_duration, "TIME", "wait after close before uploading", "1"
)
UPLOADS = Option("uploads", _workers, "N", "upload this many files at once", "8")
FSYNC = Option(
    "fsync",
    _choice(Fsync),
    "local|remote",
    "fsync(2) returns when the bytes are safe on this machine, or in the cloud",
    "local",
)
ENDPOINT = Option(
    "endpoint",
    _endpoint,
    "URL",
    "address of an S3 service other than AWS, of an account's blobs other than in public Azure,"
    " of Microsoft Graph in another cloud",
    default_help="AWS, Azure, Google, Graph",
    schemes=("s3", "az", "gs", "onedrive"),
)
REGION = Option(
    "region", _word, "NAME", "S3 region", default_help="as the AWS tools find it", schemes=("s3",)
)
PROFILE = Option(
    "profile",
    _word,
    "NAME",
    "profile in the AWS configuration files",
    default_help="as the AWS tools find it",
    schemes=("s3",),
)
CREDENTIALS_FILE = Option(
    "credentials_file",
    _absolute,
    "FILE",
    "credentials: as ~/.aws/credentials, AZURE_STORAGE_... lines, a service account's key (JSON)",
    default_help="as the AWS, Azure and Google tools find them",
    schemes=("s3", "az", "gs"),
)
ANONYMOUS = Option(
    "anonymous", _flag, "", "do not sign requests: for public buckets", "no", schemes=("s3", "gs")
)
ADDRESSING = Option(
    "addressing",
    _choice(Addressing),
    "auto|path|virtual",
    "name the bucket in the path or in the host name",
    "auto",
    schemes=("s3",),
    aliases={"path_style": "path", "use_path_request_style": "path"},
)
UID = Option("uid", _id, "ID", "owner of files that do not say", default_help="who mounts")
GID = Option("gid", _id, "ID", "group of files that do not say", default_help="who mounts")
UMASK = Option(
    "umask", _permissions, "OCTAL", "take these permissions off files that do not say", "022"
)
FILE_MODE = Option(
    "file_mode",
    _permissions,
    "OCTAL",
    "permissions of files that do not say",
    default_help="666 less the umask",
)
DIR_MODE = Option(
    "dir_mode",
    _permissions,
    "OCTAL",
    "permissions of directories that do not say",
    default_help="777 less the umask",
)
ALLOW_OTHER = Option("allow_other", _flag, "", "let users other than the mounting one in", "no")
DEFAULT_PERMISSIONS = Option(
    "default_permissions", _flag, "", "let the kernel check permissions", "yes"
)
READ_ONLY = Option("ro", _flag, "", "mount read-only", "no", aliases={"rw": "no"})
TIMEOUT = Option(
    "timeout", _deadline, "TIME", "a call that needs the network fails after this time", "30"
)
CONNECT_WAIT = Option(
    "connect_wait",
    parse_duration,
    "TIME",
    "mounting waits this long to find a wrong bucket or key; then it goes on offline",
    "10",
)
DRAIN = Option("drain", parse_duration, "TIME", "at unmount, wait this long for uploads", "5")
DEVICE = Option(
    "device",
    _device,
    "NAME",
    "this machine's name in conflict copies",
    default_help="the short host name",
)
LOG_LEVEL = Option("log_level", _choice(LogLevel), "LEVEL", "debug, info, warning or error", "info")
LOG_FILE = Option(
    "log_file",
    _absolute,
    "FILE",
    "log to this file",
    default_help="syslog; without one, log in the state directory",
)

GROUPS: Mapping[str, tuple[Option[object], ...]] = {
    "Store": (
        ENDPOINT,
        REGION,
        PROFILE,
        CREDENTIALS_FILE,
        ANONYMOUS,
        ADDRESSING,
        TIMEOUT,
        CONNECT_WAIT,
    ),
    "Places and space": (CACHE_DIR, CACHE_SIZE, MIN_FREE, STATE_DIR, RUN_DIR),
    "Changes": (REFRESH, DELETE_GUARD, UPLOAD_DELAY, UPLOADS, FSYNC, DRAIN, DEVICE),
    "Access": (
        READ_ONLY,
        ALLOW_OTHER,
        DEFAULT_PERMISSIONS,
        UID,
        GID,
        UMASK,
        FILE_MODE,
        DIR_MODE,
    ),
    "Log": (LOG_LEVEL, LOG_FILE),
}
TABLE: tuple[Option[object], ...] = tuple(o for group in GROUPS.values() for o in group)

# libfuse takes these; of each pair the last one given counts.
KERNEL: Mapping[str, str] = {
    "suid": "suid",
    "nosuid": "suid",
    "dev": "dev",
    "nodev": "dev",
    "exec": "exec",
    "noexec": "exec",
    "sync": "sync",
    "async": "sync",
    "dirsync": "dirsync",
    "noatime": "atime",
    "nodiratime": "diratime",
}
# For mount(8), systemd and people; a mount helper skips them. relatime is what csyncfs does
# anyway, and libfuse refuses the word.
# fmt: off
IGNORED: frozenset[str] = frozenset({
    "defaults", "_netdev", "nofail", "auto", "noauto", "user", "nouser", "users", "nousers",
    "owner", "noowner", "group", "nogroup", "atime", "relatime", "norelatime", "strictatime",
    "nostrictatime", "diratime", "lazytime", "nolazytime", "loud", "silent", "mand", "nomand",
    "iversion", "noiversion",
})
# fmt: on
_IGNORED_PREFIXES = ("x-", "X-", "comment=", "user=", "uhelper=", "helper=")


class Given:
    """What the user said: typed values by option, words for the kernel, the rest as text."""

    def __init__(self) -> None:
        self._values: dict[str, object] = {}
        self._kernel: dict[str, str] = {}
        self._words: dict[str, str] = {}

    def maybe(self, option: Option[T]) -> T | None:
        """The value given, else the fixed default, else None."""
        if option.name in self._values:
            return cast("T", self._values[option.name])
        return None if option.default is None else option.parse(option.default)

    def value(self, option: Option[T]) -> T:
        """The value of an option that has a fixed default."""
        if (value := self.maybe(option)) is None:
            raise AssertionError(option.name)
        return value

    def has(self, option: Option[object]) -> bool:
        return option.name in self._values

    @property
    def kernel(self) -> tuple[str, ...]:
        return tuple(self._kernel.values())

    @property
    def words(self) -> tuple[str, ...]:
        """Everything that was understood and counts, one word per option."""
        return tuple(self._words.values())

    def set(self, option: Option[object], text: str, word: str) -> None:
        """Raises ConfigError if the value does not parse."""
        try:
            self._values[option.name] = option.parse(text)
        except ValueError as exc:
            raise ConfigError(f"option {word}: {exc}") from None
        self._words[option.name] = word

    def set_kernel(self, word: str) -> None:
        self._kernel[KERNEL[word]] = self._words[KERNEL[word]] = word


def parse_options(lists: Iterable[str], *, is_sloppy: bool = False) -> Given:
    """Read ``-o`` arguments, each a comma-separated list; the last of two equals counts.

    Sloppy skips what it does not know, as mount(8) asks for with ``-s``. Raises ConfigError.
    """
    given = Given()
    for word in (w for text in lists for w in split_list(text)):
        name, has_value, text = word.partition("=")
        if name in KERNEL and not has_value:
            given.set_kernel(word)
        elif name in IGNORED or word.startswith(_IGNORED_PREFIXES):
            continue
        elif (known := _find(name)) is not None:
            _take(given, known, word, text if has_value else None)
        elif not is_sloppy:
            raise ConfigError(_unknown(name))
    return given


def split_list(text: str) -> list[str]:
    """The words of a comma-separated list; ``\\,`` and double quotes keep a comma."""
    words, word, is_quoted, is_escaped = list[str](), "", False, False
    for char in text:
        if is_escaped:
            word, is_escaped = word + char, False
        elif char == "\\":
            is_escaped = True
        elif char == '"':
            is_quoted = not is_quoted
        elif char == "," and not is_quoted:
            words.append(word)
            word = ""
        else:
            word += char
    words.append(word)
    return [w for w in words if w]


def quote_word(word: str) -> str:
    """The word as ``split_list`` reads it back."""
    return re.sub(r'([\\",])', r"\\\1", word)


@dataclass(frozen=True, slots=True)
class _Known:
    option: Option[object]
    value: str | None
    """What the name alone means; None: a value must follow."""


def _names() -> dict[str, _Known]:
    names: dict[str, _Known] = {}
    for option in TABLE:
        names[option.name] = _Known(option, "yes" if option.is_flag else None)
        for alias, value in option.aliases.items():
            names[alias] = _Known(option, value)
        if option.is_flag and not option.aliases:
            names[f"no{option.name}"] = _Known(option, "no")
    return names


_NAMES = _names()


def _find(name: str) -> _Known | None:
    return _NAMES.get(name)


def _take(given: Given, known: _Known, word: str, text: str | None) -> None:
    option = known.option
    if text is None and known.value is None:
        raise ConfigError(f"option {option.name} needs a value: {option.name}={option.metavar}")
    if text is None:
        given.set(option, str(known.value), word)
    elif known.value is None or word.startswith(f"{option.name}="):
        given.set(option, text, word)
    elif _flag_of(word, text):
        # ``path_style=yes``: an alias that stands for one value
        given.set(option, known.value, word)


def _flag_of(word: str, text: str) -> bool:
    try:
        return _flag(text)
    except ValueError as exc:
        raise ConfigError(f"option {word}: {exc}") from None


def _unknown(name: str) -> str:
    if name == "remount":
        return "a csyncfs mount cannot be remounted: unmount it and mount it again"
    names = [*_NAMES, *KERNEL, *IGNORED]
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return f"unknown option '{name}'{hint}"
