"""``csyncfs fsck``: which directories it looks at, what it prints, how it exits."""

import json
from pathlib import Path

import pytest

from csyncfs import config as configs
from csyncfs import fsck, registry
from csyncfs.cli import main
from csyncfs.store import inodes
from csyncfs.store.db import open_store

SPEC = "s3://bucket"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CSYNCFS_HOME", str(tmp_path))
    return tmp_path


def make_mount(home: Path, *options: str) -> Path:
    """What a mount leaves; returns its state directory."""
    config = configs.parse(SPEC, home / "mnt", options, configs.read_host())
    store = open_store(config.state_dir)
    with store.transaction():
        inodes.insert_root(store, mode=0o040755, uid=0, gid=0, now_ns=1)
    store.close()
    registry.write(config.registry_dir, registry.registration(config, 0))
    return config.state_dir


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["csyncfs", "fsck", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(str(ended.value.code))


@pytest.mark.parametrize("how", ["spec", "mountpoint", "state_dir"])
def test_a_mount_is_found_by_all_its_names(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: str,
) -> None:
    state_dir = make_mount(home)
    words = {
        "spec": [SPEC],
        "mountpoint": [home / "mnt"],
        "state_dir": ["-o", f"state_dir={state_dir}"],
    }
    assert run(monkeypatch, *words[how]) == fsck.CLEAN
    assert capsys.readouterr().out.startswith(f"{state_dir}: clean (1 files and directories")


def test_options_say_which_of_two_mounts_of_a_store(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_mount(home)
    other = make_mount(home, f"state_dir={home}/other")
    assert run(monkeypatch, SPEC, "-o", f"state_dir={home}/other") == fsck.CLEAN
    assert str(other) in capsys.readouterr().out


def test_damage_is_4_then_1_then_0(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state_dir = make_mount(home)
    (state_dir / "store.db").write_bytes(b"not a database" * 1000)
    assert run(monkeypatch, SPEC) == fsck.LEFT
    assert "--repair does what can be done" in capsys.readouterr().out
    assert run(monkeypatch, "--dry-run", SPEC) == fsck.LEFT
    assert run(monkeypatch, "--repair", SPEC) == fsck.REPAIRED
    assert "[repaired]" in capsys.readouterr().out
    assert run(monkeypatch, SPEC) == fsck.CLEAN


def test_json_says_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state_dir = make_mount(home)
    (state_dir / "dirty").mkdir()
    (state_dir / "dirty" / "stray").write_bytes(b"?")
    assert run(monkeypatch, "--json", SPEC) == fsck.LEFT
    answer = json.loads(capsys.readouterr().out)
    assert answer["state_dir"] == str(state_dir)
    assert [(f["kind"], f["repaired"]) for f in answer["findings"]] == [("wrong", False)]


def test_what_cannot_be_checked_is_8_and_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state_dir = make_mount(home)
    assert run(monkeypatch, "s3://another") == fsck.TROUBLE
    assert capsys.readouterr().err.count("\n") == 1
    store = open_store(state_dir)
    assert run(monkeypatch, SPEC) == fsck.TROUBLE
    store.close()
    told = capsys.readouterr().err
    assert (told.count("\n"), "unmount first" in told) == (1, True)


@pytest.mark.parametrize(
    "words",
    [[], ["--no-such-option"], ["no://store"], [SPEC, "-o", "what"], ["-n", "--repair", SPEC]],
)
def test_a_wrong_command_line_is_16(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    assert run(monkeypatch, *words) == fsck.USAGE
    assert capsys.readouterr().err.count("\n") == 1
