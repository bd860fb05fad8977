"""Without the SDK of a store, a mount of it ends with one line that says how to get it."""

import subprocess
import sys
from pathlib import Path

import pytest

from csyncfs import preflight
from tests.support.shell import refused, shell_in

ROOT = Path(__file__).parents[2]
LOCKS = {"azure": "azure-storage-blob", "gcs": "google-cloud-storage", "onedrive": "msgraph-sdk"}


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [
        ("az://account/container", "azure", "azure"),
        ("gs://bucket", "google", "gcs"),
        ("onedrive://me", "msgraph", "onedrive"),
    ],
)
def test_without_the_sdk_a_mount_says_in_one_line_how_to_get_it(
    tmp_path: Path, spec: str, package: str, extra: str
) -> None:
    # As if it were not installed: another package of its name comes first.
    (tmp_path / "first" / package).mkdir(parents=True)
    (tmp_path / "first" / package / "__init__.py").touch()
    with shell_in(tmp_path) as shell:
        shell.env["PYTHONPATH"] = str(tmp_path / "first")

        done = shell.run("csyncfs", "mount", spec, shell.mnt)

        refused(done, preflight.USAGE, f"pip install 'csyncfs[{extra}]', or make install EXTRAS=")
        assert f"EXTRAS={extra}\n" in done.stderr
        assert preflight.find_mount(shell.mnt) is None


@pytest.mark.parametrize("extra", LOCKS)
def test_an_extra_is_locked_with_its_sdk_and_no_other(extra: str) -> None:
    locked = (ROOT / f"requirements-{extra}.lock").read_text()
    assert [name for name, sdk in LOCKS.items() if f"\n{sdk}==" in locked] == [extra]
    tested = (ROOT / "requirements-dev.lock").read_text().splitlines()
    pins = [line for line in locked.splitlines() if line[:1].isalpha()]
    assert [pin for pin in pins if pin not in tested] == []


def test_an_extra_that_does_not_exist_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "bootstrap", "runtime", tmp_path / "place"],
        env={"PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin", "EXTRAS": "gcs,dropbox"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "bootstrap: no such extra: dropbox (azure, gcs, onedrive)\n",
    )
    assert not (tmp_path / "place").exists()
