"""Who takes part, and with which settings.

The settings are meant to be fair, and are written down here for everybody to judge:

* all talk to the same server on the loopback, each to a bucket of its own with the same data;
* attributes and names may be a guess for 30 s (csyncfs ``refresh=30``, its default);
* a closed file is uploaded after 1 s (csyncfs ``upload_delay=1``, its default; rclone's own
  default of 5 s would only make it look slower); s3fs uploads before close returns;
* eight uploads at once (csyncfs's default; rclone's is 4; s3fs has one per program thread, and
  eight parts of a large file);
* a content cache of 4 GiB on the same disk, empty at the start, kept over a remount.
"""

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Final

from tests.bench.measure import Usage, drop_entries, drop_pages, files_below, usage_of
from tests.support.mounts import Mount, is_mounted, wait_until
from tests.support.servers import TOOLS, S3Server

_START_S: Final = 60.0
_END_S: Final = 120.0


class Contender(ABC):
    """One file system with a state of its own below ``home``."""

    name: ClassVar[str]
    in_cloud: ClassVar[bool] = True
    """Whether it keeps its files in a bucket."""
    settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, home: Path, server: S3Server, bucket: str) -> None:
        self._home = home
        self._server = server
        self._bucket = bucket
        self._past = Usage()

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """None: not installed."""

    @property
    def path(self) -> Path:
        return self._home / "mnt"

    @property
    def cache_dir(self) -> Path:
        """Where it keeps contents on the local disk."""
        return self._home / "cache"

    @abstractmethod
    def start(self) -> None:
        """Mount; returns when the file system answers."""

    def stop(self) -> None:
        """Unmount; state stays for the next ``start``."""
        self._past = self.usage()
        self._stop()

    def usage(self) -> Usage:
        """Since the first start."""
        return self._past.then(self._usage_now())

    @abstractmethod
    def end(self) -> None:
        """Leave nothing behind, in whatever state it is."""

    @abstractmethod
    def _stop(self) -> None: ...

    @abstractmethod
    def _usage_now(self) -> Usage: ...


class Csyncfs(Contender):
    """Through the command line, as a user mounts it. Everything else is its default."""

    name = "csyncfs"
    # The tests' mounts log at debug level; nobody's mount does.
    settings: ClassVar[tuple[str, ...]] = ("log_level=info", "cache_size=4G", "drain=60")

    def __init__(self, home: Path, server: S3Server, bucket: str) -> None:
        super().__init__(home, server, bucket)
        options = (f"endpoint={server.endpoint_url}", *self.settings)
        self.mount = Mount(home, f"s3://{bucket}", options, server.environment())

    @classmethod
    def version(cls) -> str | None:
        from csyncfs import __version__

        return __version__

    def start(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        self.mount.start()

    def _stop(self) -> None:
        self.mount.unmount()

    def end(self) -> None:
        self.mount.end()

    def _usage_now(self) -> Usage:
        process = self.mount.process
        running = process is not None and process.poll() is None
        return usage_of(self.mount.pid) if running else Usage()


class _Daemon(Contender):
    """A peer that runs in the foreground of a child process."""

    def __init__(self, home: Path, server: S3Server, bucket: str) -> None:
        super().__init__(home, server, bucket)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.cache_dir.mkdir(exist_ok=True)
        with (self._home / "log").open("ab") as log:
            self._process = process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._command()],
                env={**os.environ, **self._server.environment(), **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        def answers() -> bool:
            assert process.poll() is None, (self._home / "log").read_text()[-2000:]
            return is_mounted(self.path)

        wait_until(answers, f"{self.name} mounted", _START_S)
        os.statvfs(self.path)

    def _stop(self) -> None:
        assert self._process is not None
        subprocess.run(["umount", str(self.path)], check=True, timeout=_END_S)
        self._process.wait(timeout=_END_S)

    def end(self) -> None:
        if is_mounted(self.path):
            subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=_END_S)

    def _usage_now(self) -> Usage:
        running = self._process is not None and self._process.poll() is None
        return usage_of(self._process.pid) if running and self._process else Usage()

    def _environment(self) -> dict[str, str]:
        return {}

    @abstractmethod
    def _command(self) -> list[str]: ...


class Rclone(_Daemon):
    """rclone mount, with what its manual recommends for S3: no HEAD per file for a time stamp
    (``--use-server-modtime``), none for a fingerprint (``--vfs-fast-fingerprint``)."""

    name = "rclone"
    settings: ClassVar[tuple[str, ...]] = (
        *("--vfs-cache-mode", "full", "--vfs-cache-max-size", "4G", "--vfs-cache-max-age", "24h"),
        *("--vfs-write-back", "1s", "--transfers", "8"),
        *("--dir-cache-time", "5m", "--attr-timeout", "30s", "--poll-interval", "0"),
        *("--use-server-modtime", "--vfs-fast-fingerprint"),
    )

    @classmethod
    def version(cls) -> str | None:
        program = cls._program()
        return _first_line([str(program), "version"]) if program.exists() else None

    @staticmethod
    def _program() -> Path:
        return TOOLS / "rclone" / "bin" / "rclone"

    def _environment(self) -> dict[str, str]:
        return {"RCLONE_CONFIG": os.devnull}

    def _command(self) -> list[str]:
        return [
            *(str(self._program()), "mount", f":s3:{self._bucket}", str(self.path)),
            *("--s3-provider", "Other", "--s3-env-auth", "--s3-region", self._server.region),
            *("--s3-endpoint", self._server.endpoint_url),
            *("--cache-dir", str(self.cache_dir)),
            *self.settings,
        ]


class S3fs(_Daemon):
    """s3fs-fuse as Debian has it: cache and parallel requests on, writes of 128 KiB (libfuse 2
    would send 4 KiB), pages kept over open while size and time are unchanged."""

    name = "s3fs"
    settings: ClassVar[tuple[str, ...]] = (
        *("use_path_request_style", "complement_stat", "enable_noobj_cache"),
        *("parallel_count=8", "multireq_max=20"),
        *("max_stat_cache_size=1000000", "stat_cache_expire=900"),
        *("attr_timeout=30", "entry_timeout=30", "auto_cache", "big_writes", "max_write=131072"),
    )

    @classmethod
    def version(cls) -> str | None:
        return _first_line(["s3fs", "--version"]) if shutil.which("s3fs") else None

    def _command(self) -> list[str]:
        secrets = self._home / "passwd"
        secrets.touch(mode=0o600)
        secrets.write_text(f"{self._server.access_key}:{self._server.secret_key}")
        options = (
            f"url={self._server.endpoint_url}",
            f"endpoint={self._server.region}",
            f"passwd_file={secrets}",
            f"use_cache={self.cache_dir}",
            *self.settings,
        )
        return [
            "s3fs",
            self._bucket,
            str(self.path),
            "-f",
            *(w for o in options for w in ("-o", o)),
        ]


class Native(Contender):
    """A directory of the local file system: what no network file system can beat."""

    name = "ext4"
    in_cloud = False

    @classmethod
    def version(cls) -> str | None:
        return os.uname().release

    @property
    def cache_dir(self) -> Path:
        return self.path

    def start(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        # Its equivalent of a fresh mount; names stay cached where dropping is not permitted.
        drop_pages(files_below([self.path]))
        drop_entries()

    def _stop(self) -> None:
        return

    def end(self) -> None:
        return

    def _usage_now(self) -> Usage:
        return Usage()


CONTENDERS: Final[tuple[type[Contender], ...]] = (Csyncfs, Rclone, S3fs, Native)


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0]
