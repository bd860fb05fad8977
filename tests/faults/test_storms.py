"""Programs work on a mount while the network fails at random: nothing is lost, doubled or wrong.

``CSYNCFS_LONG=1`` (``make faults``) has them work for minutes, and be in the dark for two.
``CSYNCFS_SEED`` is in the output of a failure; ``CSYNCFS_STORM_S`` says how long they work.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.faults.work import Worker, stored
from tests.support.length import IS_LONG
from tests.support.mounts import Mount, mounting
from tests.support.servers import S3Server
from tests.support.storm import Storm

SEED = int(os.environ.get("CSYNCFS_SEED", "0")) or time.time_ns() % 1_000_000
WORK_S = float(os.environ.get("CSYNCFS_STORM_S", "240" if IS_LONG else "2"))
DARK_S = 130.0 if IS_LONG else 1.0
DRAIN_S = 600.0 if IS_LONG else 90.0
TIMEOUT_S = 10 if IS_LONG else 2
# Between two things a program does; and between two times the cache is emptied.
PAUSE_S = 0.1 if IS_LONG else 0.005
EVICT_S = 10.0 if IS_LONG else 0.4


def evict(mount: Mount, is_over: threading.Event, every_s: float) -> None:
    while not is_over.wait(every_s):
        mount.admin("cache", "evict", check=False)


def work(mount: Mount, storm: Storm, workers: list[Worker], *, dark: bool) -> None:
    """Until the time is over; what a program may not see fails here."""
    is_over = threading.Event()
    with ThreadPoolExecutor(len(workers) + 1) as threads:
        running = [threads.submit(one.run, is_over, PAUSE_S) for one in workers]
        running.append(threads.submit(evict, mount, is_over, EVICT_S))
        try:
            is_over.wait(WORK_S / 2)
            if dark:
                storm.go_dark()
                is_over.wait(DARK_S)
                storm.lighten()
            is_over.wait(WORK_S / 2)
        finally:
            is_over.set()
            storm.lighten()
            for one in running:
                one.result(timeout=120)


def check(mount: Mount, workers: list[Worker], client: Any, bucket: str) -> None:
    expected = {path: digest for one in workers for path, digest in one.expected().items()}
    found = stored(client, bucket)
    differs = {
        path: (found.get(path, "absent"), expected.get(path, "absent"))
        for path in found.keys() | expected.keys()
        if found.get(path, "absent") != expected.get(path, "absent")
    }
    assert not differs, f"(in the bucket, written): {differs}"
    assert not [path for path in found if path.endswith(".conflict")]
    assert mount.status()["conflicts"] == 0
    assert [wrong for one in workers for wrong in one.wrong] == []


@pytest.mark.parametrize(("rate", "dark"), [(0.02, True), (0.1, False)])
def test_what_programs_wrote_is_in_the_bucket_and_nothing_else(
    seaweedfs: S3Server, tmp_path: Path, rate: float, dark: bool
) -> None:
    bucket, client = seaweedfs.make_bucket(), seaweedfs.client()
    with (
        Storm(seaweedfs.port, rate=0.0, seed=SEED) as storm,
        mounting(
            tmp_path / "m",
            f"s3://{bucket}",
            *(f"endpoint={storm.endpoint_url}", "upload_delay=0.2", f"timeout={TIMEOUT_S}"),
            *("refresh=1", "drain=30", "cache_size=256M"),
            env=dict(seaweedfs.environment()),
        ) as mount,
    ):
        print(f"seed={SEED} rate={rate}")
        workers = [
            Worker(mount.path, f"w{n}", SEED + n, has_large=n == 0 and (dark or IS_LONG))
            for n in range(4)
        ]
        storm.rate = rate
        work(mount, storm, workers, dark=dark)
        began = time.monotonic()
        mount.flush(DRAIN_S)
        print(f"drained after {time.monotonic() - began:.1f} s, struck: {dict(storm.struck)}")
        print([dict(one.counts) for one in workers])
        check(mount, workers, client, bucket)
        storm.rate = 0.0
        for one in workers:
            one.read_all()
        lines = mount.log.read_text().splitlines()
        assert [line for line in lines if " ERROR " in line or "Traceback" in line] == []
