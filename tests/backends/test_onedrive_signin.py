"""Signing in: by a code, by the environment, and what a mount does when it is over."""

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
import trio
from cryptography import x509

from csyncfs.backends.onedrive import OneDriveBackend, OneDriveOptions, signin
from csyncfs.backends.onedrive.credential import Source, ThreadCredential
from csyncfs.errors import AccessDenied, Offline
from csyncfs.types import Kind, Location
from tests.support import onedrive
from tests.support.graph import Emulator
from tests.support.graph.signin import SignIn
from tests.support.transfer import through_transfer

_AZURE = [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_"))]


@pytest.fixture
def emu(monkeypatch: pytest.MonkeyPatch) -> Generator[Emulator]:
    """It knows its own tokens only."""
    for name in _AZURE:
        monkeypatch.delenv(name)
    with Emulator("business", seed=3) as emu:
        emu.knobs.static_token = False
        emu.write("a.txt", b"content")
        yield emu
        assert emu.finish() == []


@pytest.fixture
def authority(emu: Emulator, monkeypatch: pytest.MonkeyPatch) -> SignIn:
    sign_in = emu.sign_in()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", sign_in.ca_file)
    return sign_in


def options(emu: Emulator, login_dir: Path | None = None) -> OneDriveOptions:
    where = None if login_dir is None else str(login_dir)
    return OneDriveOptions(drive="me", endpoint=emu.api_url, login_dir=where)


def log_in(authority: SignIn, home: Path, *, expect: int = 0) -> str:
    """What the command says when a person enters the code."""
    command = [str(Path(sys.executable).parent / "csyncfs-admin"), "login", "onedrive"]
    command += ["--client-id", "app", "--tenant", "tenant", "--authority", authority.url]
    env = {**os.environ, "CSYNCFS_HOME": str(home)}
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == expect, done.stderr
    return done.stdout + done.stderr


async def in_thread(authority: SignIn, home: Path) -> str:
    return await trio.to_thread.run_sync(log_in, authority, home)


async def test_a_login_lets_mounts_in_until_it_is_revoked_and_heals_them(
    emu: Emulator, authority: SignIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = await in_thread(authority, tmp_path)
    assert "ABCD-EFGH" in said
    assert "signed in as user@contoso.example" in said
    login_dir = tmp_path / "state" / "login"
    files = list(login_dir.iterdir())
    assert {f.name for f in files} >= {"onedrive.json", "onedrive.tokens.cae"}
    assert all(stat.S_IMODE(f.stat().st_mode) & 0o077 == 0 for f in [login_dir, *files])
    backend = OneDriveBackend(options(emu, login_dir))
    await backend.connect()
    assert (await backend.head(Location("a.txt"), Kind.FILE)).kind is Kind.FILE

    emu.revoke_tokens()
    authority.revoke_refresh_tokens()
    asked = len(authority.requests)
    for _ in range(5):
        with pytest.raises(Offline, match="csyncfs-admin login onedrive"):
            await backend.head(Location("a.txt"), Kind.FILE)
    # No storm: one try, and one loud line.
    assert len(authority.requests) - asked <= 1
    errors = [r for r in caplog.records if r.levelname == "ERROR"]
    assert len(errors) == 1

    await in_thread(authority, tmp_path)
    await trio.sleep(3.1)
    assert (await backend.head(Location("a.txt"), Kind.FILE)).kind is Kind.FILE
    await backend.aclose()


async def test_tokens_are_renewed_and_a_challenge_is_answered(
    emu: Emulator, authority: SignIn, tmp_path: Path
) -> None:
    await in_thread(authority, tmp_path)
    backend = OneDriveBackend(options(emu, tmp_path / "state" / "login"))
    await backend.connect()
    before = len(authority.requests)
    emu.revoke_tokens()
    await backend.head(Location("a.txt"), Kind.FILE)
    emu.cae_challenge()
    await backend.head(Location("a.txt"), Kind.FILE)
    grants = [form["grant_type"] for form in authority.requests[before:]]
    assert grants == ["refresh_token", "refresh_token"]
    await backend.aclose()


def test_who_refuses_is_not_signed_in(emu: Emulator, authority: SignIn, tmp_path: Path) -> None:
    authority.pending_polls = -1
    timer = threading.Timer(1.5, authority.deny)
    timer.start()
    said = log_in(authority, tmp_path, expect=4)
    timer.join()
    assert "not signed in" in said
    assert len(said.strip().splitlines()) == 2
    assert not (tmp_path / "state" / "login" / "onedrive.json").exists()
    assert emu.journal == []


async def test_an_app_signs_in_with_its_secret(
    emu: Emulator, authority: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.client_secret = "right"
    monkeypatch.setenv("AZURE_TENANT_ID", "tenant")
    monkeypatch.setenv("AZURE_CLIENT_ID", "app")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "wrong")
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", authority.url)
    backend = OneDriveBackend(options(emu))
    with pytest.raises(AccessDenied) as caught:
        await backend.connect()
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "right")
    spec, given = onedrive.address_of(emu), onedrive.options_for(emu)
    async with through_transfer(spec, given, env=dict(os.environ)) as client:
        await client.connect()
        page = await client.list_page(Location(""), None)
        assert [item.location.key for item in page.items] == ["a.txt"]
    assert authority.requests[-1]["scope"] == "https://graph.microsoft.com/.default"


async def test_an_app_signs_in_with_its_certificate(
    emu: Emulator, authority: SignIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right, wrong = certified(tmp_path / "right.pem"), certified(tmp_path / "wrong.pem")
    assert right != wrong
    authority.certificate = right
    monkeypatch.setenv("AZURE_TENANT_ID", "tenant")
    monkeypatch.setenv("AZURE_CLIENT_ID", "app")
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", authority.url)
    for name, is_right in (("wrong.pem", False), ("right.pem", True), ("absent.pem", False)):
        monkeypatch.setenv("AZURE_CLIENT_CERTIFICATE_PATH", str(tmp_path / name))
        backend = OneDriveBackend(options(emu))
        if is_right:
            await backend.connect()
            assert (await backend.head(Location("a.txt"), Kind.FILE)).kind is Kind.FILE
        else:
            with pytest.raises(AccessDenied, match="no longer good" if name[0] == "w" else name):
                await backend.connect()
        await backend.aclose()


def certified(place: Path) -> x509.Certificate:
    """A new key with its certificate, as Entra is told it; both are in the file."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=app"]
    key, proof = place.with_suffix(".key"), place.with_suffix(".crt")
    command += ["-keyout", str(key), "-out", str(proof)]
    subprocess.run(command, check=True, capture_output=True)
    place.write_bytes(key.read_bytes() + proof.read_bytes())
    return x509.load_pem_x509_certificate(proof.read_bytes())


async def test_a_workload_signs_in_with_the_token_it_is_given(
    emu: Emulator, authority: SignIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = tmp_path / "token"
    given.write_text("of-the-cluster")
    authority.federated = "of-the-cluster"
    monkeypatch.setenv("AZURE_TENANT_ID", "tenant")
    monkeypatch.setenv("AZURE_CLIENT_ID", "app")
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", authority.url)
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(given))
    backend = OneDriveBackend(options(emu))
    await backend.connect()
    assert (await backend.head(Location("a.txt"), Kind.FILE)).kind is Kind.FILE
    await backend.aclose()
    # One of somebody else's.
    authority.federated = "of-another-cluster"
    backend = OneDriveBackend(options(emu))
    with pytest.raises(AccessDenied) as caught:
        await backend.connect()
    assert "of-the-cluster" not in str(caught.value)
    await backend.aclose()
    given.write_text("of-another-cluster")
    backend = OneDriveBackend(options(emu))
    await backend.connect()
    await backend.aclose()


async def test_a_machine_signs_in_with_its_identity(
    emu: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", emu.imds())
    backend = OneDriveBackend(options(emu))
    await backend.connect()
    assert (await backend.head(Location("a.txt"), Kind.FILE)).kind is Kind.FILE
    await backend.aclose()


async def test_nobody_is_told_what_to_do(emu: Emulator, tmp_path: Path) -> None:
    backend = OneDriveBackend(options(emu, tmp_path))
    with pytest.raises(AccessDenied, match="csyncfs-admin login onedrive"):
        await backend.connect()
    (tmp_path / signin.FILE).write_text("{}")
    with pytest.raises(AccessDenied, match="csyncfs-admin login onedrive"):
        await OneDriveBackend(options(emu, tmp_path)).connect()


async def test_a_token_that_is_refused_is_renewed_once(emu: Emulator) -> None:
    person = onedrive.Person("not the emulator's")
    backend = onedrive.backend_on(emu, person=person)
    with pytest.raises(AccessDenied):
        await backend.connect()
    assert person.asked == 2
    claims = json.loads(person.claims[1] or "{}")
    assert claims["access_token"]["nbf"]["essential"] is True


async def test_a_token_is_asked_for_once_however_many_wait() -> None:
    person = onedrive.Person()
    credential = ThreadCredential(lambda: Source(person, ("scope",)))
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(lambda: credential.get_token("x", enable_cae=True))
    assert person.asked == 1


@pytest.mark.parametrize(
    ("url", "resource"),
    [
        ("https://graph.microsoft.com/v1.0", "https://graph.microsoft.com"),
        ("https://graph.microsoft.us/v1.0", "https://graph.microsoft.us"),
        (
            "https://microsoftgraph.chinacloudapi.cn/v1.0",
            "https://microsoftgraph.chinacloudapi.cn",
        ),
        ("http://127.0.0.1:1/v1.0", "https://graph.microsoft.com"),
        ("https://graph.microsoft.com.evil.example/v1.0", "https://graph.microsoft.com"),
    ],
)
def test_tokens_are_for_graph_and_nobody_else(url: str, resource: str) -> None:
    assert signin.resource_of(url) == resource
