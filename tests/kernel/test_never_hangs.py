"""Whatever the network does, every call ends: what is known at once, the rest within the timeout,
and before that if its program is told to stop."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.length import IS_LONG
from tests.support.mounts import Mount, is_mounted, mounting, wait_until
from tests.support.proxy import Fault, Proxy, What
from tests.support.servers import S3Server

MIB = 1 << 20
CONTENT = bytes(range(256)) * (3 * MIB // 256)
# Longer than any test here: what ends earlier did not end by it.
TIMEOUT_S = 40
# A wait is looked at after 0.5 s, then every 0.25 s, and the kernel may ask twice for a page.
SIGNALLED_S = 4.0
EVERYTHING = Fault(What.STALL_REQUEST, times=100_000)

# read(2) as C programs have it: Python's own would try again after EINTR.
READER = """
import ctypes, os, signal, sys
path, caught = sys.argv[1], [int(number) for number in sys.argv[2:]]
for number in caught:
    signal.signal(number, lambda *_: None)
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(1 << 16)
got = libc.read(os.open(path, os.O_RDONLY), buffer, 1 << 16)
print(got, ctypes.get_errno() if got < 0 else buffer.raw[:got] == bytes(range(256)) * 256)
"""
DIRECT = """
import mmap, os, sys
os.readv(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), [mmap.mmap(-1, 1 << 16)])
"""


def python(program: str, *words: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, words)]


def cpu_and_state(pid: int) -> str:
    """Equal twice in a row: the process waits."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    switches = Path(f"/proc/{pid}/status").read_text().rpartition("nonvoluntary")[0]
    return " ".join((words[0], words[11], words[12], switches.rpartition("\n")[2]))


class Dark:
    """A mount whose store accepts every connection and answers nothing any more."""

    def __init__(self, mount: Mount, proxy: Proxy) -> None:
        self.mount = mount
        self.proxy = proxy

    @property
    def path(self) -> Path:
        return self.mount.path

    def waiting(self, *command: str) -> "subprocess.Popen[str]":
        """The command, which waits for the network by now."""
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Who runs the tests in the background has them ignore Ctrl-C, and all they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        before, now = "", "-"
        while before != now:
            time.sleep(0.25)
            before, now = now, cpu_and_state(process.pid)
        assert now.split()[0] in "SD"
        return process

    def log(self) -> str:
        return self.mount.log.read_text()


FILES = ("caught", "killed", "harmless", "shared", "late", "last")


@pytest.fixture(scope="module")
def dark(seaweedfs: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dark]:
    home = tmp_path_factory.mktemp("dark")
    bucket, client = seaweedfs.make_bucket(), seaweedfs.client()
    for name in FILES:
        client.put_object(Bucket=bucket, Key=name, Body=CONTENT)
    for name in ("known/file", "interrupted/file", "killed-in/file"):
        client.put_object(Bucket=bucket, Key=name, Body=b"content")
    env = dict(seaweedfs.environment())
    with (
        Proxy(seaweedfs.port) as proxy,
        mounting(
            home / "m",
            f"s3://{bucket}",
            *(f"endpoint={proxy.endpoint_url}", f"timeout={TIMEOUT_S}", "drain=1", "refresh=1"),
            env=env,
        ) as mount,
    ):
        assert sorted(os.listdir(mount.path)) == sorted(
            [*FILES, "known", "interrupted", "killed-in"]
        )
        assert (mount.path / "known" / "file").read_bytes() == b"content"
        proxy.set_fault(EVERYTHING)
        time.sleep(1.1)  # refresh: from now on every directory is due
        yield Dark(mount, proxy)
        proxy.clear()


KNOWN = {
    "df": ("df", "."),
    "stat": ("stat", "known/file", "caught"),
    "ls": ("ls", "-la", ".", "known"),
    "cat": ("cat", "known/file"),
    "find": ("find", "known"),
    "write": ("sh", "-c", "echo new >> known/file; mkdir made; mv made moved; rmdir moved"),
}


@pytest.mark.parametrize("command", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("state", ["silent", "refusing"])
def test_what_is_known_is_answered_at_once(
    dark: Dark, state: str, command: tuple[str, ...]
) -> None:
    if state == "refusing":
        dark.proxy.refuse()
    try:
        subprocess.run(
            ["timeout", "1", *command], cwd=dark.path, check=True, stdout=subprocess.DEVNULL
        )
    finally:
        dark.proxy.accept()


def ends_by(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, str]:
    """Exit code and output of the process; it may not wait for the timeout."""
    process.send_signal(number)
    output, _ = process.communicate(timeout=SIGNALLED_S)
    return process.returncode, output.strip()


@pytest.mark.parametrize(
    ("name", "number"), [("interrupted", signal.SIGINT), ("killed-in", signal.SIGKILL)]
)
def test_a_signal_ends_who_waits_for_names(dark: Dark, name: str, number: signal.Signals) -> None:
    process = dark.waiting("ls", str(dark.path / name))
    assert ends_by(process, number) == (-number, "")


def test_a_kill_ends_who_waits_for_bytes(dark: Dark) -> None:
    """Past the page cache: there the kernel waits for our answer alone."""
    process = dark.waiting(*python(DIRECT, dark.path / "killed"))
    assert ends_by(process, signal.SIGKILL) == (-signal.SIGKILL, "")


def test_a_caught_signal_gives_the_program_its_turn(dark: Dark) -> None:
    process = dark.waiting(*python(READER, dark.path / "caught", int(signal.SIGINT)))
    assert ends_by(process, signal.SIGINT) == (0, f"-1 {errno.EINTR}")
    assert f"stopped waiting call=read ino={os.stat(dark.path / 'caught').st_ino}" in dark.log()


def test_other_signals_and_other_readers_do_not_end_a_read(
    seaweedfs: S3Server, tmp_path: Path
) -> None:
    """A killed reader leaves the download to those who share it."""
    bucket = seaweedfs.make_bucket()
    seaweedfs.client().put_object(Bucket=bucket, Key="f", Body=CONTENT)
    env = dict(seaweedfs.environment())
    options = (f"timeout={TIMEOUT_S}", "drain=1")
    with (
        Proxy(seaweedfs.port) as proxy,
        mounting(
            tmp_path / "m", f"s3://{bucket}", f"endpoint={proxy.endpoint_url}", *options, env=env
        ) as mount,
    ):
        os.listdir(mount.path)
        dark = Dark(mount, proxy)
        proxy.set_fault(Fault(What.STALL_REPLY, "GET", f"{bucket}/f", after_bytes=1000))
        alarms = (int(signal.SIGALRM), int(signal.SIGCHLD), int(signal.SIGURG))
        other = dark.waiting(*python(READER, mount.path / "f", *alarms))
        killed = dark.waiting(*python(DIRECT, mount.path / "f"))
        for number in alarms:
            other.send_signal(number)
        assert ends_by(killed, signal.SIGKILL) == (-signal.SIGKILL, "")
        time.sleep(0.5)
        assert other.poll() is None
        proxy.release()
        output, _ = other.communicate(timeout=10)
        assert output.strip() == f"{1 << 16} True"
        assert proxy.counters.count("GET", f"{bucket}/f") == 1


def test_a_read_without_an_answer_ends_at_the_timeout_and_the_log_says_what_was_slow(
    seaweedfs: S3Server, tmp_path: Path
) -> None:
    bucket = seaweedfs.make_bucket()
    seaweedfs.client().put_object(Bucket=bucket, Key="d/f", Body=CONTENT)
    env = dict(seaweedfs.environment())
    with (
        Proxy(seaweedfs.port) as proxy,
        mounting(
            tmp_path / "m",
            f"s3://{bucket}",
            *(f"endpoint={proxy.endpoint_url}", "timeout=2", "drain=0"),
            env=env,
        ) as mount,
    ):
        ino = os.stat(mount.path / "d" / "f").st_ino
        proxy.set_fault(EVERYTHING)
        began = time.monotonic()
        with pytest.raises(TimeoutError), open(mount.path / "d" / "f", "rb") as file:
            file.read(1)
        # The kernel asks once more after its readahead failed; that must not double the time.
        assert 1.9 < time.monotonic() - began < 3.5
        (slow,) = [s for s in mount.log.read_text().splitlines() if "call is slow" in s]
        assert f"call=read ino={ino} path='d/f' waits_for=bytes from the store for_s=1." in slow
        # Written when the program has its answer already.
        wait_until(lambda: "slow call ended" in mount.log.read_text(), "the log tells the end")
        (ended,) = [s for s in mount.log.read_text().splitlines() if "slow call ended" in s]
        assert f"call=read ino={ino} path='d/f' after_s=2." in ended


@pytest.mark.parametrize("how", ["force", "lazy", "signal"] if IS_LONG else ["force", "signal"])
def test_taking_it_down_in_the_middle_of_everything_ends_the_daemon(
    seaweedfs: S3Server, tmp_path: Path, how: str
) -> None:
    """Readers wait, uploads are on their way, the store is silent."""
    bucket = seaweedfs.make_bucket()
    seaweedfs.client().put_object(Bucket=bucket, Key="f", Body=CONTENT)
    seaweedfs.client().put_object(Bucket=bucket, Key="d/f", Body=b"x")
    env = dict(seaweedfs.environment())
    options = (f"timeout={TIMEOUT_S}", "drain=1", "upload_delay=0")
    with (
        Proxy(seaweedfs.port) as proxy,
        mounting(
            tmp_path / "m", f"s3://{bucket}", f"endpoint={proxy.endpoint_url}", *options, env=env
        ) as mount,
    ):
        os.listdir(mount.path)
        dark = Dark(mount, proxy)
        proxy.set_fault(EVERYTHING)
        (mount.path / "unsent").write_bytes(CONTENT)
        waiting = [
            dark.waiting(*python(DIRECT, mount.path / "f")),
            dark.waiting("ls", str(mount.path / "d")),
        ]
        # Not while it is used: but that is said at once.
        busy = subprocess.run(["umount", mount.path], check=False, timeout=5)
        assert busy.returncode != 0
        began = time.monotonic()
        if how == "signal":
            os.kill(mount.pid, signal.SIGTERM)
        else:
            subprocess.run(["umount", f"--{how}", mount.path], check=False, timeout=5)
        if how == "lazy":
            # It goes when the last one has gone who is in it.
            for process in waiting:
                process.send_signal(signal.SIGINT)
        assert mount.process is not None
        assert mount.process.wait(timeout=15) == 0
        assert time.monotonic() - began < 8
        for process in waiting:
            assert process.wait(timeout=5) != 0
        if how == "force":
            # It was in use: the kernel has only cut it off from its daemon.
            subprocess.run(["umount", mount.path], check=True, timeout=5)
        assert not is_mounted(mount.path)
        assert "1 change" in mount.admin("flush", check=False)


def test_news_of_files_that_are_read_never_stop_the_kernel(tmp_path: Path) -> None:
    """The kernel waits for answers before it takes a notification, and the other way round."""
    store = tmp_path / "store"
    store.mkdir()
    names = [f"f{n}" for n in range(24)]

    def overwrite(version: int) -> None:
        for name in names:
            (store / f".{name}").write_bytes(f"{version:08}".encode() * (8 << 10))
            (store / f".{name}").rename(store / name)

    overwrite(0)
    options = ("refresh=0.05", "upload_delay=0.05")
    with mounting(tmp_path / "m", f"file://{store}", *options) as mount:
        is_over = threading.Event()
        reads = [0] * 4

        def read(reader: int) -> None:
            while not is_over.is_set():
                for name in [n for n in os.listdir(mount.path) if n in names]:
                    try:
                        content = (mount.path / name).read_bytes()
                    except OSError as exc:
                        # The version that was opened is gone: what NFS says, too.
                        if exc.errno in (errno.ESTALE, errno.ENOENT):
                            continue
                        raise
                    assert content == content[:8] * (8 << 10)
                    reads[reader] += 1

        def change() -> None:
            n = 0
            while not is_over.is_set():
                n += 1
                (mount.path / "mine").write_text(str(n))
                (mount.path / "mine").rename(mount.path / f"mine{n % 8}")

        with ThreadPoolExecutor(8) as threads:
            workers = [*(threads.submit(read, n) for n in range(4)), threads.submit(change)]
            try:
                end, version = time.monotonic() + (60 if IS_LONG else 2), 0
                while time.monotonic() < end:
                    version += 1
                    overwrite(version)
                    subprocess.run(
                        ["timeout", "2", "stat", mount.path],
                        check=True,
                        stdout=subprocess.DEVNULL,
                    )
            finally:
                is_over.set()
                for worker in workers:
                    worker.result(timeout=20)
        assert all(reads)
        expected = f"{version:08}".encode()
        mount.refresh_wait(
            lambda: all((mount.path / name).read_bytes()[:8] == expected for name in names),
            "the last version",
        )
        mount.flush()
        assert mount.unmount() == 0
