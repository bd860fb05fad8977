"""Demanding programs at work on a mount of a real S3 server: ``make programs``.

    python -m tests.programs [git] [fio] [postgres] [fsx] [stress]

Each has a mount and a bucket of its own, and has to end well; then everything must reach the
bucket, without conflicts, errors in the log or anything left over. Runs as root.

``CSYNCFS_FSX_OPS`` (1,000,000), ``CSYNCFS_STRESS_S`` (a stressor, 300), ``CSYNCFS_STRESS_AT_ONCE``
(8 of them) and ``CSYNCFS_STRESSORS`` (names, separated by spaces; default: all of file systems)
shorten it.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.mounts import Mount, mounting
from tests.support.servers import SeaweedFS
from tests.support.storm import Storm

_ROOT: Final = Path(__file__).parents[2]
_FSX: Final = _ROOT / ".test-servers" / "fsx" / "fsx"
_FSX_OPS: Final = int(os.environ.get("CSYNCFS_FSX_OPS", "1000000"))
_STRESS_S: Final = int(os.environ.get("CSYNCFS_STRESS_S", "300"))
_STRESS_AT_ONCE: Final = int(os.environ.get("CSYNCFS_STRESS_AT_ONCE", "8"))
_STRESSORS: Final = os.environ.get("CSYNCFS_STRESSORS", "").split()
# What the fault suite calls bad, but not hopeless.
_FAULTS: Final = 0.02
# Bytes; four times the file that fsx works on.
_CACHE: Final = 4 << 20


class Failed(Exception):
    """A program did not end well; its message is what it said."""


@dataclass
class Bench:
    """A mount with a directory to work in, and its server."""

    mount: Mount
    server: SeaweedFS
    bucket: str
    place: Path
    """For what does not belong on the mount."""

    @property
    def path(self) -> Path:
        return self.mount.path / "work"

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout_s: float = 7200,
    ) -> str:
        """Run a program that has to succeed; what it printed."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd or self.place,
            env={**os.environ, **(env or {})},
            user=user,
            group=user,
            extra_groups=[] if user else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            raise Failed(f"{' '.join(str(w) for w in command)}: {done.returncode}\n{done.stdout}")
        return done.stdout

    def stored(self) -> list[str]:
        """The keys of the bucket, without what csyncfs keeps for itself."""
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return [key for key in keys if not key.startswith(".csyncfs/")]

    def settle(self) -> None:
        """Everything is in the bucket, and nothing went wrong."""
        began = time.monotonic()
        self.mount.flush(1800)
        status = self.mount.status()
        if status["conflicts"] or status["warnings"]:
            raise Failed(f"status says {status}")
        print(f"  drained after {time.monotonic() - began:.1f} s", flush=True)
        lines = self.mount.log.read_text().splitlines()
        if wrong := [line for line in lines if " ERROR " in line or "Traceback" in line]:
            raise Failed("\n".join(["in the log:", *wrong[:10]]))

    def fsck(self) -> None:
        """Unmount; the store has to be sound."""
        if self.mount.unmount():
            raise Failed("the mount did not end well")
        if found := self.mount.fsck():
            raise Failed(f"fsck says {found}")

    def memory(self) -> str:
        return f"{self.mount.memory_kib('VmHWM') >> 10} MiB"


def git(bench: Bench) -> None:
    """clone, commits, branches, worktrees, gc and fsck of a repository of this size."""
    env = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_NAME": "A" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "a@example.org" for who in ("AUTHOR", "COMMITTER")},
    }
    clone, tree = bench.path / "clone", bench.path / "tree"

    def run(*words: str | Path, cwd: Path = clone) -> str:
        return bench.run("git", "-c", "safe.directory=*", *words, cwd=cwd, env=env)

    run("clone", "--quiet", "--no-hardlinks", _ROOT, clone, cwd=bench.path)
    for number in range(20):
        (clone / f"new{number}").write_text(f"{number}\n" * 1000)
        run("add", ".")
        run("commit", "--quiet", "-m", f"commit {number}")
    run("worktree", "add", "-b", "side", tree, "HEAD~5")
    (tree / "side").write_text("side\n")
    run("add", ".", cwd=tree)
    run("commit", "--quiet", "-m", "side", cwd=tree)
    run("merge", "--quiet", "-m", "merge", "side")
    run("repack", "-a", "-d", "-f", "--quiet")
    run("gc", "--prune=now", "--quiet")
    run("worktree", "remove", tree)
    run("fsck", "--full", "--strict")
    if told := run("status", "--porcelain"):
        raise Failed(told)
    run("clone", "--quiet", "--local", clone, bench.path / "linked", cwd=bench.path)
    run("fsck", "--full", cwd=bench.path / "linked")
    bench.settle()
    # As another machine has it: without the cache.
    bench.fsck()
    bench.mount.wipe_cache()
    bench.mount.start()
    run("fsck", "--full", "--strict")
    if told := run("status", "--porcelain"):
        raise Failed(told)


def fio(bench: Bench) -> None:
    """Random and sequential writes, verified by checksum, buffered, mapped and asynchronous."""
    for engine, pattern in (
        ("psync", "randwrite"),
        ("psync", "write"),
        ("psync", "randrw"),
        ("mmap", "randwrite"),
        ("libaio", "randwrite"),
        ("io_uring", "randwrite"),
    ):
        # It refuses to map smaller blocks.
        smallest, unaligned = ("4096", "0") if engine == "mmap" else ("512", "1")
        told = bench.run(
            *("fio", f"--name={engine}-{pattern}", f"--directory={bench.path}"),
            *(f"--ioengine={engine}", f"--rw={pattern}", "--size=64m"),
            *(f"--bsrange={smallest}-256k", f"--bs_unaligned={unaligned}"),
            *("--numjobs=2", "--verify=crc32c", "--verify_fatal=1"),
            *("--do_verify=1", "--fsync=200", "--iodepth=8", "--group_reporting"),
        )
        rates = re.findall(r"(READ|WRITE): bw=\S+ \((\S+)\)", told)
        print(f"  {engine} {pattern}: {rates}", flush=True)
    bench.settle()


def postgres(bench: Bench) -> None:
    """initdb, pgbench for a minute, amcheck; then again after the cache is gone."""
    (binaries,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    data, sockets = bench.path / "data", bench.place / "sockets"
    sockets.mkdir(mode=0o777)
    os.chmod(sockets, 0o777)
    shutil.chown(bench.path, "postgres", "postgres")
    env = {"PGHOST": str(sockets), "PGUSER": "postgres", "PGDATABASE": "postgres"}

    def run(tool: str, *words: str | Path) -> str:
        return bench.run(binaries / tool, *words, cwd=Path("/"), env=env, user="postgres")

    def server(action: str) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={sockets}"
        log = bench.place / "sockets" / "log"
        run("pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "-t", "120", action)

    run("initdb", "-D", data, "--data-checksums")
    server("start")
    run("pgbench", "-i", "-s", "5", "--quiet")
    told = run("pgbench", "-c", "4", "-j", "2", "-T", "60")
    print("  " + "; ".join(re.findall(r"(?:tps|number of transactions actually).*", told)))
    run("psql", "-c", "CREATE EXTENSION amcheck")
    run("pg_amcheck", "--all", "--heapallindexed", "--parent-check")
    before = run("psql", "-Atc", "SELECT sum(abalance), count(*) FROM pgbench_accounts")
    server("stop")
    run("pg_checksums", "--check", "-D", data)
    bench.settle()
    bench.fsck()
    bench.mount.wipe_cache()
    bench.mount.start()
    server("start")
    run("pg_amcheck", "--all", "--heapallindexed", "--parent-check")
    after = run("psql", "-Atc", "SELECT sum(abalance), count(*) FROM pgbench_accounts")
    server("stop")
    if before != after:
        raise Failed(f"{before!r} became {after!r}")


def _crowd(bench: Bench, is_over: threading.Event) -> None:
    """Read other files, each as large as the cache, so that nothing stays in it for long."""
    while not is_over.wait(0.05):
        for path in bench.path.parent.glob("other*"):
            # The network is bad: some of these fail.
            with contextlib.suppress(OSError), path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                file.read()


def fsx(bench: Bench) -> None:
    """Every way to write, read, map and resize a file, in a network with faults, with a cache
    that others fill all the time."""
    client = bench.server.client()
    for number in range(3):
        client.put_object(Bucket=bench.bucket, Key=f"other{number}", Body=os.urandom(_CACHE))
    seed = time.time_ns() % 100_000
    print(f"  seed {seed}, {_FSX_OPS} operations", flush=True)
    began, is_over = time.monotonic(), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        crowd = threads.submit(_crowd, bench, is_over)
        try:
            bench.run(
                *(_FSX, "-q", "-S", str(seed), "-N", str(_FSX_OPS), "-l", str(1 << 20)),
                *("-c", "200", "-P", bench.place, bench.path / "file"),
                timeout_s=14_400,
            )
        finally:
            is_over.set()
            crowd.result()
    took = time.monotonic() - began
    cache = bench.mount.status()["cache"]
    print(
        f"  {_FSX_OPS / took:.0f} operations/s, RSS at most {bench.memory()}, {cache}", flush=True
    )
    bench.settle()


def _stress(where: Path, stressor: str, seconds: int) -> tuple[int, str]:
    command = ["stress-ng", f"--{stressor}", "1", "--timeout", f"{seconds}s", "--verify"]
    command += ["--temp-path", str(where), "--oomable"]
    done = subprocess.run(
        command,
        cwd=where,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds * 3 + 300,
        check=False,
    )
    return done.returncode, done.stdout


def _stressors() -> Sequence[str]:
    if _STRESSORS:
        return _STRESSORS
    told = subprocess.run(
        ["stress-ng", "--class", "filesystem?"], check=False, capture_output=True, text=True
    )
    return (told.stdout + told.stderr).partition("stressors:")[2].split()


def stress(bench: Bench) -> None:
    """Each file system stressor that a local file system passes."""
    local = bench.place / "local"
    local.mkdir()
    failed: list[str] = []

    def one(stressor: str) -> None:
        began = time.monotonic()
        try:
            code, told = _stress(bench.path, stressor, _STRESS_S)
        except subprocess.TimeoutExpired:
            code, told = -1, "hangs"
        took = time.monotonic() - began
        print(f"  {stressor}: {code} after {took:.0f} s, RSS {bench.memory()}", flush=True)
        if code in (0, 3, 4):  # done; or not for this machine
            return
        there, _ = _stress(local, stressor, min(_STRESS_S, 20))
        if there == 0:
            failed.append(stressor)
            print(told, flush=True)
        else:
            print(f"  {stressor}: {there} on a local file system as well", flush=True)

    with ThreadPoolExecutor(_STRESS_AT_ONCE) as threads:
        for done in [threads.submit(one, stressor) for stressor in _stressors()]:
            done.result()
    bench.settle()
    left = sorted(p.name for p in bench.path.iterdir())
    bench.path.rmdir()
    bench.mount.flush(600)
    stored = bench.stored()
    print(f"  left: {left}, in the bucket: {stored[:10]}")
    if failed or left or stored:
        raise Failed(f"failed: {failed}, left over: {left} {stored[:10]}")


_PROGRAMS: Final[dict[str, tuple[Callable[[Bench], None], tuple[str, ...]]]] = {
    "git": (git, ()),
    "fio": (fio, ()),
    "postgres": (postgres, ()),
    "fsx": (fsx, (f"cache_size={_CACHE}", "upload_delay=0.2", "timeout=10", "refresh=2")),
    "stress": (stress, ("dev", "suid")),
}


def _bench(name: str, server: SeaweedFS, place: Path) -> None:
    program, options = _PROGRAMS[name]
    bucket = server.make_bucket()
    with (
        Storm(server.port, rate=0.0, seed=time.time_ns()) as storm,
        mounting(
            place / "m",
            f"s3://{bucket}",
            *(f"endpoint={storm.endpoint_url}", "allow_other", "log_level=info", *options),
            env=server.environment(),
        ) as mount,
    ):
        os.chmod(mount.path, 0o755)
        os.chmod(place, 0o755)
        os.chmod(mount.home, 0o755)
        bench = Bench(mount, server, bucket, place)
        bench.path.mkdir()
        storm.rate = _FAULTS if name == "fsx" else 0.0
        program(bench)
        if storm.struck:
            print(f"  struck: {dict(storm.struck)}")
        if mount.process is not None and mount.process.poll() is None:
            storm.rate = 0.0
            bench.fsck()


def main(names: Sequence[str]) -> int:
    code = 0
    with tempfile.TemporaryDirectory(prefix="csyncfs-programs-") as root:
        os.chmod(root, 0o755)
        server = SeaweedFS(Path(root) / "server")
        server.start()
        try:
            for name in names or _PROGRAMS:
                print(f"{name}:", flush=True)
                place = Path(root) / name
                place.mkdir()
                began = time.monotonic()
                try:
                    _bench(name, server, place)
                except (Failed, AssertionError, subprocess.SubprocessError) as exc:
                    code = 1
                    print(f"{name}: FAILED: {exc}", flush=True)
                else:
                    print(f"{name}: ok, {time.monotonic() - began:.0f} s", flush=True)
        finally:
            server.stop()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
