"""mount.csyncfs and csyncfs up to the point of mounting: arguments, checks, exit codes."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from csyncfs import cli, config, launch, mount_helper, preflight
from csyncfs.config import MountConfig
from csyncfs.daemon import Report
from csyncfs.preflight import Mounted

ROOT = Path(__file__).parents[2]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[MountConfig]:
    """Everything but the start of the mount process, which is noted."""
    monkeypatch.setenv("CSYNCFS_HOME", str(tmp_path / "home"))
    (tmp_path / "mnt").mkdir()
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path)
    calls: list[MountConfig] = []

    def note(parsed: MountConfig) -> Report:
        calls.append(parsed)
        return Report(warnings=["deletes are not conditional"])

    monkeypatch.setattr(cli, "launch", note)
    return calls


@pytest.fixture
def helper(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run mount.csyncfs in this process: (exit code, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = mount_helper.run([str(word) for word in words])
        except SystemExit as exc:
            code = int(exc.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def refused(outcome: tuple[int, str, str], code: int, *parts: str) -> None:
    """One line that says it, and the right code."""
    assert outcome[0] == code
    assert outcome[1] == ""
    assert outcome[2].startswith("mount.csyncfs: ")
    assert outcome[2].count("\n") == 1
    for part in parts:
        assert part in outcome[2]


def test_arguments_as_mount_passes_them(helper: Run, launched: list[MountConfig]) -> None:
    options = "rw,nosuid,_netdev,cache_size=2G"
    code, out, err = helper("s3://bucket", "mnt", "-n", "-o", options, "-t", "fuse.csyncfs")
    assert (code, out) == (0, "")
    assert err == "mount.csyncfs: warning: deletes are not conditional\n"
    (parsed,) = launched
    assert (parsed.source, parsed.mountpoint) == ("s3://bucket", Path.cwd() / "mnt")
    assert (parsed.cache_size_bytes, parsed.kernel_options) == (2 << 30, ("nosuid",))


def test_options_first_and_several(helper: Run, launched: list[MountConfig]) -> None:
    assert helper("-v", "-o", "refresh=3", "-o", "uploads=2", "-r", "s3://bucket", "mnt")[0] == 0
    (parsed,) = launched
    assert (parsed.refresh_s, parsed.uploads, parsed.read_only) == (3.0, 2, True)


def test_verbose_says_what_was_mounted(helper: Run) -> None:
    _, out, _ = helper("s3://bucket", "mnt", "-v")
    assert out.startswith("mount.csyncfs: s3://bucket mounted on mnt")


def test_fake_checks_and_does_not_mount(helper: Run, launched: list[MountConfig]) -> None:
    assert helper("-f", "s3://bucket", "mnt") == (0, "", "")
    refused(helper("-f", "s3://bucket", "absent"), 32, "does not exist")
    refused(helper("-f", "s3://bucket", "mnt", "-o", "zzz"), 1, "zzz")
    assert launched == []


def test_sloppy_skips_what_is_not_known(helper: Run, launched: list[MountConfig]) -> None:
    assert helper("-s", "s3://bucket", "mnt", "-o", "zzz,refresh=3")[0] == 0
    # the mount process is told only what was understood
    assert launched[0].options == ("refresh=3",)


def test_an_error_of_the_mount_process_is_passed_on(
    helper: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: MountConfig) -> Report:
        return Report(error="no bucket 'bucket'", code=32)

    monkeypatch.setattr(cli, "launch", fail)
    refused(helper("s3://bucket", "mnt"), 32, "no bucket 'bucket'")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "SPEC"),
        (["s3://bucket"], "MOUNTPOINT"),
        (["s3://bucket", "mnt", "more"], "more"),
        (["s3://bucket", "mnt", "-x"], "-x"),
        (["s3://bucket", "mnt", "-t", "ext4"], "ext4"),
        (["bucket", "mnt"], "'bucket' is not a store"),
        (["file:///store", "mnt", "-o", "region=x"], "region"),
        (["s3://bucket", "mnt", "-o", "cach_size=1G"], "did you mean 'cache_size'"),
        (["s3://bucket", "mnt", "-o", "log_file=/no/such/dir/log"], "log_file"),
        (["s3://bucket", "mnt", "-o", "credentials_file=/no/file"], "credentials_file"),
    ],
)
def test_wrong_command_line(
    helper: Run, launched: list[MountConfig], words: list[str], says: str
) -> None:
    refused(helper(*words), 1, says)
    assert launched == []


def test_mountpoint_missing_or_not_a_directory(helper: Run, tmp_path: Path) -> None:
    refused(helper("s3://bucket", "absent"), 32, "mountpoint", "does not exist")
    (tmp_path / "file").touch()
    refused(helper("s3://bucket", "file"), 32, "is not a directory")
    refused(helper("s3://bucket", "file/below"), 32, "file/below")


def test_mountpoint_in_use(helper: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Mounted(tmp_path / "mnt", "fuse.csyncfs", "s3://other")
    monkeypatch.setattr(preflight, "mount_table", lambda: [there])
    refused(helper("s3://bucket", "mnt"), 32, "in use: s3://other is mounted there")


def test_dead_mount(helper: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(_: Path) -> os.statvfs_result:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    there = Mounted(tmp_path / "mnt", "fuse.csyncfs", "s3://other")
    monkeypatch.setattr(preflight, "mount_table", lambda: [there])
    monkeypatch.setattr(os, "statvfs", dead)
    refused(helper("s3://bucket", "mnt", "-o", "cache_size=1G,min_free=1G"), 32, "umount -l")


def test_a_stuck_mount_does_not_hold_up_the_refusal(
    helper: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def stuck(_: Path) -> None:
        released.wait(timeout=60)

    there = Mounted(tmp_path / "mnt", "fuse.csyncfs", "s3://other")
    monkeypatch.setattr(preflight, "mount_table", lambda: [there])
    monkeypatch.setattr(preflight, "_STUCK_S", 0.05)
    monkeypatch.setattr(os, "statvfs", stuck)
    refused(helper("s3://bucket", "mnt", "-o", "cache_size=1G,min_free=1G"), 32, "in use")
    released.set()


def test_no_fuse(helper: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_FUSE_DEVICE", tmp_path / "fuse")
    refused(helper("s3://bucket", "mnt"), 2, "modprobe fuse")


def become_user(monkeypatch: pytest.MonkeyPatch, *, fusermount: str | None) -> None:
    """Not root, and allowed to use /dev/fuse and the mountpoint."""

    def allowed(path: str, mode: int) -> bool:
        return bool(path and mode)

    def which(name: str) -> str | None:
        return fusermount if name == "fusermount3" else None

    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(os, "access", allowed)
    monkeypatch.setattr(shutil, "which", which)


def test_a_user_without_fusermount(helper: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    become_user(monkeypatch, fusermount=None)
    refused(helper("s3://bucket", "mnt"), 2, "install the package fuse3")


@pytest.mark.parametrize(("line", "code"), [("#user_allow_other", 1), ("user_allow_other", 0)])
def test_allow_other_of_a_user_needs_root_s_word(
    helper: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int
) -> None:
    (tmp_path / "fuse.conf").write_text(f"# comment\n{line}\n")
    monkeypatch.setattr(preflight, "_FUSE_CONF", tmp_path / "fuse.conf")
    become_user(monkeypatch, fusermount="/usr/bin/fusermount3")
    assert helper("s3://bucket", "mnt", "-o", "allow_other")[0] == code


def test_version_and_help(helper: Run) -> None:
    code, out, _ = helper("-V")
    assert (code, out.startswith("csyncfs ")) == (0, True)
    code, out, _ = helper("--help")
    assert (code, "SPEC" in out) == (0, True)


def test_namespace_runs_again_inside_it(helper: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def execute(_: str, words: list[str]) -> None:
        ran.append(words)
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr(os, "execvp", execute)
    refused(helper("-f", "s3://bucket", "mnt", "-N", "4711", "-o", "ro"), 2, "nsenter")
    helper("s3://bucket", "mnt", "-N/run/ns/x")
    python = [sys.executable, "-I", "-m", "csyncfs.mount_helper"]
    assert ran == [
        ["nsenter", "-t", "4711", "-m", "--", *python, "-f", "s3://bucket", "mnt", "-o", "ro"],
        ["nsenter", "--mount=/run/ns/x", "--", *python, "s3://bucket", "mnt"],
    ]


def test_directories_are_private(tmp_path: Path) -> None:
    parsed = config.parse("s3://bucket", tmp_path / "mnt", [], config.read_host())
    preflight.make_directories(parsed)
    for path in (parsed.state_dir, parsed.cache_dir, parsed.run_dir):
        assert path.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_made(helper: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    parsed = config.parse(
        "s3://bucket", tmp_path / "mnt", [f"cache_dir={tmp_path}/file/x"], config.read_host()
    )
    with pytest.raises(preflight.MountRefused) as caught:
        preflight.make_directories(parsed)
    assert caught.value.code == 2


def test_mount_table_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 0:20 / /mnt/a\\040b rw,nosuid shared:7 - fuse.csyncfs s3://x\\134y rw,user_id=0\n"
        "23 1 0:21 / /mnt/c rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(preflight, "_MOUNT_TABLE", table)
    assert preflight.mount_table() == [
        Mounted(Path("/mnt/a b"), "fuse.csyncfs", "s3://x\\y"),
        Mounted(Path("/mnt/c"), "tmpfs", "tmpfs"),
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["umount", "mnt"], "is not mounted"),
        (["umount", "/proc"], "not a csyncfs mount"),
    ],
)
def test_umount_of_what_csyncfs_did_not_mount(
    words: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["csyncfs", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == preflight.FAILED
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["mount"], ["mnt"], ["mount", "s3://b/x", "mnt", "-z"]])
def test_csyncfs_command_line(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["csyncfs", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == preflight.USAGE
    assert capsys.readouterr().err.startswith("csyncfs: ")


def test_unmount_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert launch.unmount_command(Path("/m"), lazy=True) == ["umount", "-l", "/m"]
    monkeypatch.setattr(os, "geteuid", lambda: 5)
    assert launch.unmount_command(Path("/m"), lazy=False) == ["fusermount3", "-u", "/m"]


def test_the_installed_command_finds_its_python() -> None:
    helper = ROOT / "mount_helpers" / "mount.csyncfs"
    done = subprocess.run(
        [helper, "bucket", "/mnt"], check=False, capture_output=True, text=True, timeout=60
    )
    refused((done.returncode, done.stdout, done.stderr), 1, "'bucket' is not a store")
