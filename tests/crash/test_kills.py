"""kill -9 on real mounts: what was closed is there afterwards, and reaches the store.

The plain cases; ``test_promises`` has the mixed load, the named points and the many kills.
"""

import hashlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.length import IS_LONG
from tests.support.mounts import Mount, mounting, wait_until
from tests.support.servers import S3Server

ROUNDS = 20 if IS_LONG else 2


@dataclass
class Crashing:
    """A mount to be killed, and an independent look at its bucket."""

    mount: Mount
    client: Any
    bucket: str

    def stored(self) -> dict[str, str]:
        """MD5 of every object, by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return {
            key: _digest(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())
            for key in keys
            if not key.endswith("/") and not key.startswith(".csyncfs/")
        }

    def transfer_pid(self) -> Any:
        transfer: Any = self.mount.status()["transfer"]
        return transfer["pid"]


@pytest.fixture
def crashing(seaweedfs: S3Server, tmp_path: Path) -> Iterator[Crashing]:
    bucket = seaweedfs.make_bucket()
    options = (f"endpoint={seaweedfs.endpoint_url}", "upload_delay=0.2")
    env = dict(seaweedfs.environment())
    with mounting(tmp_path, f"s3://{bucket}", *options, env=env) as mount:
        yield Crashing(mount, seaweedfs.client(), bucket)


def _digest(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def test_killed_right_after_close(crashing: Crashing) -> None:
    mount = crashing.mount
    (mount.path / "d").mkdir()
    (mount.path / "d" / "f").write_bytes(b"closed")
    mount.kill()
    mount.start()
    assert (mount.path / "d" / "f").read_bytes() == b"closed"
    (mount.path / "d" / "f").rename(mount.path / "moved")
    mount.kill()
    mount.start()
    assert os.listdir(mount.path / "d") == []
    (mount.path / "moved").unlink()
    (mount.path / "last").write_bytes(b"last")
    mount.kill()
    mount.start()
    assert sorted(os.listdir(mount.path)) == ["d", "last"]
    mount.flush()
    assert crashing.stored() == {"last": _digest(b"last")}


def _write_until_killed(directory: Path, promises: dict[str, str], seed: int) -> None:
    """Copies files until the mount dies; a promise is noted when close has returned."""
    source = random.Random(seed)
    try:
        for number in range(100_000):
            name = f"{number % 7}/file-{number}"
            content = source.randbytes(source.choice([0, 100, 5000, 200_000]))
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            with (directory / name).open("wb") as file:
                for start in range(0, len(content), 4096):
                    file.write(content[start : start + 4096])
            promises[name] = _digest(content)
    except OSError:
        return


def test_killed_at_random_moments_of_a_copy(crashing: Crashing) -> None:
    mount, chance = crashing.mount, random.Random(1)
    promises: dict[str, str] = {}
    for number in range(ROUNDS):
        directory = mount.path / f"round-{number}"
        made: dict[str, str] = {}
        writer = threading.Thread(target=_write_until_killed, args=(directory, made, number))
        writer.start()
        time.sleep(chance.uniform(0.1, 1.5))
        mount.kill()
        writer.join()
        promises |= {f"round-{number}/{name}": digest for name, digest in made.items()}
        mount.start()
        for name, digest in made.items():
            found = (mount.path / f"round-{number}" / name).read_bytes()
            assert _digest(found) == digest, name
    mount.flush(900)
    stored = crashing.stored()
    assert {name: stored.get(name) for name in promises} == promises
    assert mount.unmount() == 0
    mount.wipe_cache()
    mount.start()
    for name, digest in promises.items():
        assert _digest((mount.path / name).read_bytes()) == digest, name


def test_killed_transfer_process_loses_nothing(crashing: Crashing) -> None:
    mount = crashing.mount
    content = {f"f{number}": f"{number}".encode() * 100 for number in range(300)}
    for number, (name, data) in enumerate(content.items()):
        (mount.path / name).write_bytes(data)
        if number in (100, 200):
            os.kill(crashing.transfer_pid(), signal.SIGKILL)
    wait_until(lambda: crashing.transfer_pid() is not None, "there is another one")
    os.kill(crashing.transfer_pid(), signal.SIGKILL)
    mount.flush()
    assert crashing.stored() == {name: _digest(data) for name, data in content.items()}
    restarts: Any = mount.status()["transfer"]
    assert restarts["restarts"] >= 3
    assert subprocess.check_output(["ls", str(mount.path)]).count(b"\n") == 300
    conflicts: Any = mount.status()["conflicts"]
    assert conflicts == 0
