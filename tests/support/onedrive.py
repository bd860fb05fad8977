"""OneDrive backends on the Graph emulator, and what the emulator says of their conduct."""

import time
from collections.abc import Callable

import pytest
from azure.core.credentials import AccessToken

from csyncfs.backends.onedrive import OneDriveBackend, OneDriveOptions
from csyncfs.backends.onedrive.credential import Source, ThreadCredential
from csyncfs.backends.onedrive.translation import SignedOut
from tests.support.graph import Emulator, Knobs


class Person:
    """Signs in without an authority; ``token`` "": nobody is there."""

    def __init__(self, token: str = "test") -> None:
        self.token = token
        self.asked = 0
        self.claims: list[str | None] = []

    def get_token(self, *_: str, claims: str | None, enable_cae: bool) -> AccessToken:
        assert enable_cae
        self.asked += 1
        self.claims.append(claims)
        if not self.token:
            raise SignedOut("nobody has signed in")
        return AccessToken(self.token, int(time.time()) + 3600)


def credential_of(person: Person) -> ThreadCredential:
    return ThreadCredential(lambda: Source(person, ("scope",)))


def backend_on(
    emu: Emulator,
    *,
    person: Person | None = None,
    token: str = "test",
    drive: str = "",
    prefix: str = "",
    endpoint: str | None = None,
    fragment_bytes: int = 0,
) -> OneDriveBackend:
    """One mount of the emulator's first drive, not connected yet."""
    usual = OneDriveOptions(drive="")
    options = OneDriveOptions(
        drive=drive or f"drive/{emu.drive_id}",
        prefix=prefix,
        endpoint=endpoint or emu.api_url,
        connect_timeout_s=2.0,
        fragment_bytes=fragment_bytes or usual.fragment_bytes,
    )
    return OneDriveBackend(options, credential_of(person or Person(token)))


def address_of(emu: Emulator) -> str:
    return f"onedrive://drive/{emu.drive_id}"


def options_for(emu: Emulator) -> dict[str, str | int]:
    return {"endpoint": emu.api_url}


def started(
    request: pytest.FixtureRequest, flavour: str, *, is_polite: Callable[[], bool] | None = None
) -> Emulator:
    """An emulator that ends with the test, and then has nothing to complain of."""
    emu = Emulator(flavour, seed=1, knobs=Knobs())
    emu.start()

    def end() -> None:
        try:
            if is_polite is None or is_polite():
                assert emu.finish() == []
            emu.check()
        finally:
            emu.stop()

    request.addfinalizer(end)
    return emu
