"""OneDrive through the kernel: the emulator and two mounts, each a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.graph import Emulator
from tests.support.graph.process import GraphProcess
from tests.support.length import some
from tests.support.mounts import Mount, mounting, wait_until


@pytest.fixture(params=some(("personal", "business"), "business"))
def graph(request: pytest.FixtureRequest) -> Generator[GraphProcess]:
    with GraphProcess(request.param, "--sign-in") as graph:
        yield graph
        assert graph.control("finish") == []


def environment(graph: GraphProcess) -> dict[str, str]:
    return {
        "REQUESTS_CA_BUNDLE": graph.told["ca_file"],
        "AZURE_AUTHORITY_HOST": graph.told["authority"],
        "AZURE_TENANT_ID": "tenant",
        "AZURE_CLIENT_ID": "app",
        "AZURE_CLIENT_SECRET": "secret",
    }


@pytest.fixture
def pair(graph: GraphProcess, tmp_path: Path) -> Generator[tuple[Mount, Mount]]:
    """Two mounts of one drive."""
    options = (f"endpoint={graph.api_url}", "upload_delay=500ms", "refresh=0.2")
    spec = f"onedrive://drive/{graph.drive_id}"
    env = environment(graph)
    with (
        mounting(tmp_path / "one", spec, *options, "device=one", env=env) as one,
        mounting(tmp_path / "two", spec, *options, "device=two", env=env) as two,
    ):
        yield one, two


def test_what_one_mount_does_another_one_sees(
    graph: GraphProcess, pair: tuple[Mount, Mount]
) -> None:
    one, two = pair
    content = os.urandom(300_000)
    (one.path / "dir" / "sub").mkdir(parents=True)
    (one.path / "dir" / "file").write_bytes(content)
    (one.path / "dir" / "empty").touch()
    (one.path / "a:b?.txt").write_text("odd")
    os.utime(one.path / "dir" / "file", (1_600_000_000, 1_600_000_000))
    one.flush()
    two.refresh_wait((two.path / "dir" / "empty").exists, "the files")
    assert (two.path / "dir" / "file").read_bytes() == content
    assert (two.path / "a:b?.txt").read_text() == "odd"
    assert sorted(os.listdir(two.path)) == ["a:b?.txt", "dir"]

    (two.path / "dir").rename(two.path / "moved")
    (two.path / "a:b?.txt").unlink()
    with (two.path / "moved" / "file").open("ab") as file:
        file.write(b"more")
    two.flush()
    one.refresh_wait(lambda: sorted(os.listdir(one.path)) == ["moved"], "the rename")
    file = one.path / "moved" / "file"
    wait_until(lambda: file.read_bytes() == content + b"more", "the edit")
    tree = graph.control("tree")
    assert sorted(tree) == ["moved", "moved/empty", "moved/file", "moved/sub"]
    for mount in pair:
        assert mount.unmount() == 0
        assert mount.fsck() == []


def test_an_atomic_save_keeps_the_item_and_makes_one_version(
    graph: GraphProcess, pair: tuple[Mount, Mount]
) -> None:
    one, two = pair
    file = one.path / "document.odt"
    file.write_bytes(b"first")
    one.flush()
    before = graph.control("item", path="document.odt")
    draft = one.path / ".document.odt.tmp"
    draft.write_bytes(b"second, longer")
    draft.rename(file)
    one.flush()
    after = graph.control("item", path="document.odt")
    assert after["id"] == before["id"]
    assert after["size"] == len(b"second, longer")
    assert sorted(graph.control("tree")) == ["document.odt"]
    uploads = [r for r in graph.control("journal") if r["route"] == "fragment"]
    assert [r["status"] for r in uploads].count(200) == 1
    two.refresh_wait(
        lambda: (two.path / "document.odt").read_bytes() == b"second, longer", "the save"
    )


def test_both_sides_of_a_conflict_are_kept(graph: GraphProcess, pair: tuple[Mount, Mount]) -> None:
    one, _ = pair
    file = one.path / "notes"
    file.write_text("base")
    one.flush()
    graph.control("write", path="notes", content=b"theirs")
    file.write_text("ours")
    one.flush()
    found = {p.name: p.read_text() for p in one.path.iterdir()}
    assert found.pop("notes") == "theirs"
    assert list(found.values()) == ["ours"]


def test_a_name_that_differs_in_case_only_is_kept_here_and_said(
    graph: GraphProcess, pair: tuple[Mount, Mount]
) -> None:
    one, _ = pair
    (one.path / "name").write_text("small")
    one.flush()
    (one.path / "NAME").write_text("capital")
    wait_until(lambda: "upper and lower case" in one.admin("--json", "status"), "the reason")
    assert (one.path / "NAME").read_text() == "capital"
    assert sorted(graph.control("tree")) == ["name"]
    (one.path / "NAME").rename(one.path / "other")
    one.flush()
    assert sorted(graph.control("tree")) == ["name", "other"]


@pytest.fixture
def guarded() -> Generator[Emulator]:
    """It lets in who signed in, and nobody else."""
    with Emulator("business", seed=5) as emu:
        emu.knobs.static_token = False
        yield emu
        assert emu.finish() == []


def log_in(home: Path, env: dict[str, str], authority: str) -> None:
    command = [str(Path(sys.executable).parent / "csyncfs-admin"), "login", "onedrive"]
    command += ["--client-id", "app", "--authority", authority]
    subprocess.run(
        command,
        env={**os.environ, **env, "CSYNCFS_HOME": str(home)},
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_a_sign_in_that_ends_loses_nothing_and_the_next_one_heals_the_mount(
    guarded: Emulator, tmp_path: Path
) -> None:
    authority = guarded.sign_in()
    env = {"REQUESTS_CA_BUNDLE": authority.ca_file}
    home = tmp_path / "home"
    home.mkdir()
    log_in(home, env, authority.url)
    options = (f"endpoint={guarded.api_url}", "upload_delay=100ms", "refresh=0.2", "timeout=5")
    with mounting(home, "onedrive://me", *options, env=env) as mount:
        (mount.path / "before").write_text("before")
        mount.flush()
        guarded.revoke_tokens()
        authority.revoke_refresh_tokens()
        (mount.path / "after").write_text("after")
        wait_until(lambda: "csyncfs-admin login onedrive" in mount.admin("status"), "the reason")
        # What is here goes on, and is asked for many times.
        for _ in range(20):
            assert sorted(os.listdir(mount.path)) == ["after", "before"]
            assert (mount.path / "before").read_text() == "before"
            assert (mount.path / "after").read_text() == "after"
            time.sleep(0.1)
        # One loud line each: of the process that signs in, and of the mount.
        said = (home / "stderr").read_text().splitlines()
        assert len([line for line in said if "ERROR" in line]) == 1
        logged = mount.log.read_text().splitlines()
        loud = [line for line in logged if " WARNING " in line or " ERROR " in line]
        assert [line for line in loud if "csyncfs-admin login onedrive" in line] == loud
        assert len(loud) == 1
        asked = len(authority.requests)
        assert asked < 20
        assert sorted(guarded.tree()) == ["before"]

        log_in(home, env, authority.url)
        wait_until(lambda: guarded.tree().get("after") == b"after", "the change", 60)
        mount.flush()
        assert "login" not in mount.admin("status")
        assert mount.unmount() == 0
    secrets = ("tempauth", "refresh-", "access_token")
    assert not any(secret in mount.log.read_text() for secret in secrets)
