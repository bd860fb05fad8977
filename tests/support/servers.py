"""Real storage servers on 127.0.0.1, each bound to a data directory.

``scripts/test-servers`` installs them. They die with the process that started them, also
when that is killed: start them from the main thread, since the kernel watches the thread.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, Final, Self, cast

import boto3
from botocore.config import Config

ROOT: Final = Path(__file__).resolve().parents[2]
TOOLS: Final = ROOT / ".test-servers"
ACCESS_KEY: Final = "testkey"
SECRET_KEY: Final = "testsecret"

_READY_S: Final = 90.0
_POLL_S: Final = 0.05


class NotInstalled(Exception):
    """The server's program is not there; the message says how to get it."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listened on a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Server(ABC):
    """One server process. ``start`` again after ``stop`` finds the same data and address."""

    name: ClassVar[str]

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.port = free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Return when the server answers requests."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = self._command()
        with self._log_path.open("ab") as log:
            self._process = self._spawn(command, log)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill it: SeaweedFS takes half a minute for a clean end, and the data is thrown away."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """Keep its sockets open and its mouth shut, until ``resume``."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @abstractmethod
    def _command(self) -> list[str]: ...

    def _environment(self) -> Mapping[str, str]:
        return {}

    def _spawn(self, command: list[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.data_dir,
            env={**os.environ, **self._environment()},
        )

    @property
    def _log_path(self) -> Path:
        return self.data_dir.with_name(self.data_dir.name + ".log")

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + _READY_S
        while not self._is_ready():
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at once; its log: {self._log_tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} does not answer; its log: {self._log_tail()}")
            time.sleep(_POLL_S)  # another program's readiness has no event to wait for

    def _is_ready(self) -> bool:
        return answers_http(self.port)

    def _log_tail(self) -> str:
        return self._log_path.read_bytes()[-2000:].decode(errors="replace")


class S3Server(Server):
    """One that speaks S3."""

    region: ClassVar[str] = "us-east-1"
    checks_credentials: ClassVar[bool] = True

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.access_key = ACCESS_KEY
        self.secret_key = SECRET_KEY

    def make_bucket(self) -> str:
        """The name of a new, empty bucket."""
        bucket = f"b-{uuid.uuid4().hex[:16]}"
        self.client().create_bucket(Bucket=bucket)
        return bucket

    def environment(self) -> dict[str, str]:
        """What the AWS chain of a process needs to be let in."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A plain boto3 client: the other program that works on the same bucket."""
        return cast("Any", boto3).client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                retries={"mode": "standard", "total_max_attempts": 2},
                read_timeout=60,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


class SeaweedFS(S3Server):
    """The only one here that gets every condition right."""

    name = "seaweedfs"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._ports = free_ports(8)

    def _command(self) -> list[str]:
        master, volume, filer, *grpc, public = self._ports
        identities = self.data_dir.with_name(self.data_dir.name + ".json")
        identities.write_text(json.dumps(_seaweedfs_identities(self.access_key, self.secret_key)))
        options = {
            "dir": self.data_dir,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "master.port": master,
            "master.port.grpc": grpc[0],
            "volume.port": volume,
            "volume.port.grpc": grpc[1],
            "volume.port.public": public,
            "filer.port": filer,
            "filer.port.grpc": grpc[2],
            "s3.port": self.port,
            "s3.port.grpc": grpc[3],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.iam": "false",
            "s3.config": identities,
            "s3.autoCreateBucket": "false",
            "volume.max": 2000,
            "master.volumeSizeLimitMB": 512,
            "master.volumePreallocate": "false",
            "metricsPort": 0,
        }
        return [
            str(tool("seaweedfs", "weed")),
            *("-logtostderr", "-v=0", "server", "-filer", "-s3", "-s3.allowDeleteBucketNotEmpty"),
            *(f"-{name}={value}" for name, value in options.items()),
        ]

    def _environment(self) -> Mapping[str, str]:
        # One volume per bucket, not seven: a test run makes hundreds of buckets.
        return {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}

    def _is_ready(self) -> bool:
        # The gateway answers before there is a volume to write to.
        if not answers_http(self.port):
            return False
        try:
            bucket = self.make_bucket()
            self.client().put_object(Bucket=bucket, Key="ready", Body=b"x")
        except Exception:  # noqa: BLE001
            return False
        return True


class Rclone(S3Server):
    """Ignores every condition on writes: the fallback's test bed, never a model."""

    name = "rclone"

    def _command(self) -> list[str]:
        return [
            str(tool("rclone", "rclone")),
            *("serve", "s3", "--addr", f"127.0.0.1:{self.port}"),
            *("--auth-key", f"{self.access_key},{self.secret_key}"),
            str(self.data_dir),
        ]

    def _environment(self) -> Mapping[str, str]:
        return {"RCLONE_CONFIG": os.devnull}


class Moto(S3Server):
    """AWS's API in memory, without authentication; data ends with the process."""

    name = "moto"
    checks_credentials = False

    def _command(self) -> list[str]:
        return [str(tool("moto", "moto_server")), "-H", "127.0.0.1", "-p", str(self.port)]


class Ceph(S3Server):
    """RADOS gateway over one memstore OSD; data ends with the process."""

    name = "ceph"
    region = "default"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._mon_ports = free_ports(2)

    def _command(self) -> list[str]:
        if not self.is_installed():
            raise NotInstalled("Ceph is not installed: run scripts/test-servers ceph")
        script = Path(__file__).with_name("ceph_up.sh")
        ports = [str(port) for port in (self.port, *self._mon_ports)]
        return [str(script), str(self.data_dir), *ports, self.access_key, self.secret_key]

    def _is_ready(self) -> bool:
        return (self.data_dir / "up").exists()

    @staticmethod
    def is_installed() -> bool:
        programs = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd")
        return all(shutil.which(program) for program in programs)


class Swift(S3Server):
    """OpenStack's object store behind its own S3 gateway: some conditions are 501 there."""

    name = "swift"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.access_key = "test:tester"
        self._ports = free_ports(3)

    def _command(self) -> list[str]:
        script = Path(__file__).with_name("swift_up.sh")
        programs = tool("swift", "swift-proxy-server").parent
        ports = [str(port) for port in (self.port, *self._ports)]
        return [
            *(str(script), str(self.data_dir), str(programs)),
            *(*ports, self.access_key, self.secret_key),
        ]


def tool(server: str, program: str) -> Path:
    """The program in the server's own environment. Raises NotInstalled."""
    place = TOOLS / server
    if not (place / ".installed").exists():
        raise NotInstalled(f"{server} is not installed: run scripts/test-servers {server}")
    return place / "bin" / program


def answers_http(port: int) -> bool:
    """True if an HTTP server replies on this port, whatever it says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _seaweedfs_identities(access_key: str, secret_key: str) -> dict[str, Any]:
    identity = {
        "name": "test",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    return {"identities": [identity]}
