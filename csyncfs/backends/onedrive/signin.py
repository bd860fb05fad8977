"""Who signs in: a person, once, by a code (``csyncfs-admin login onedrive``), or the environment.

What a login leaves is one file of the login directory, for its owner only, and beside it the cache
of tokens, which azure.identity keeps. Without it the environment counts, as everywhere in Azure:
AZURE_TENANT_ID with AZURE_CLIENT_ID and a secret, a certificate or a federated token; else the
identity of the machine. Nothing here is ever part of a message or a log line.

Blocking: for worker threads. Imports azure.identity in functions only.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from csyncfs.backends.onedrive.credential import Source
from csyncfs.backends.onedrive.options import GRAPH
from csyncfs.backends.onedrive.translation import SignedOut

FILE: Final = "onedrive.json"
_LOUD: Final = ("httpx", "httpcore", "azure", "msal", "msal_extensions", "urllib3")
_TOKENS: Final = "onedrive.tokens"
_FILES: Final = "Files.ReadWrite.All"
_SITES: Final = "Sites.ReadWrite.All"
_KNOWN: Final = ("microsoftonline.com", "microsoftonline.us", "chinacloudapi.cn")
_NATIONAL: Final = ("graph.microsoft.us", "graph.microsoft.com", "microsoftgraph.chinacloudapi.cn")


@dataclass(frozen=True, slots=True)
class Login:
    """Who signed in. No secret by itself; the tokens are in the cache."""

    client_id: str
    scopes: tuple[str, ...]
    authority: str
    record: str
    """Of azure.identity: which account of the cache is meant."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a login is asked for."""

    client_id: str
    tenant: str
    authority: str | None
    resource: str
    with_sites: bool

    @property
    def scopes(self) -> tuple[str, ...]:
        names = (_FILES, _SITES) if self.with_sites else (_FILES,)
        return tuple(f"{self.resource}/{name}" for name in names)


def quieten() -> None:
    """Requests are logged with their addresses, refusals with what was sent."""
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def resource_of(api_url: str) -> str:
    """What tokens are for: Graph's own address in each cloud."""
    parts = urlsplit(api_url)
    host = parts.hostname or ""
    is_national = any(host == one or host.endswith(f".{one}") for one in _NATIONAL)
    return f"https://{host}" if is_national else GRAPH


def find(login_dir: str | None, resource: str) -> Source:
    """Raises SignedOut if nobody is there."""
    login = None if login_dir is None else load(Path(login_dir))
    if login is not None:
        return _logged_in(Path(login_dir or ""), login)
    return _of_environment(resource, os.environ)


def load(login_dir: Path) -> Login | None:
    """What the last login left; None: nobody ever did. Raises SignedOut for what is no login."""
    try:
        found: Any = json.loads((login_dir / FILE).read_text())
        scopes = tuple(str(scope) for scope in found["scopes"])
        words = (str(found[name]) for name in ("client_id", "authority", "record"))
        client_id, authority, record = words
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise SignedOut("what the login left cannot be read") from exc
    return Login(client_id, scopes, authority, record)


def log_in(login_dir: Path, wish: Wish, prompt: Callable[[str], None]) -> str:
    """Sign a person in, who follows ``prompt``; returns the account's name.

    Raises what azure.identity raises.
    """
    from azure.identity import DeviceCodeCredential

    quieten()
    _make_private(login_dir)

    def show(uri: str, code: str, _expires: object) -> None:
        prompt(f"To sign in, open {uri} in a browser and enter the code {code}")

    given: dict[str, Any] = {} if wish.authority is None else {"authority": wish.authority}
    credential = DeviceCodeCredential(
        client_id=wish.client_id,
        tenant_id=wish.tenant,
        prompt_callback=show,
        cache_persistence_options=_cache(login_dir),
        disable_instance_discovery=_is_own(wish.authority),
        **given,
    )
    # The SDK asks for tokens with CAE, and those have a cache of their own.
    record = credential.authenticate(scopes=list(wish.scopes), enable_cae=True)
    authority = wish.authority or ""
    save(login_dir, Login(wish.client_id, wish.scopes, authority, record.serialize()))
    return record.username


def save(login_dir: Path, login: Login) -> None:
    """For its owner only, completely or not at all."""
    _make_private(login_dir)
    place = login_dir / FILE
    draft = place.with_suffix(".new")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(asdict(login), file)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(place)


def _make_private(login_dir: Path) -> None:
    login_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    login_dir.chmod(0o700)


def _cache(login_dir: Path) -> Any:
    from azure.identity import TokenCachePersistenceOptions

    # A whole path: sudo keeps the home of who calls it, and a service has none.
    return TokenCachePersistenceOptions(
        name=str(login_dir / _TOKENS), allow_unencrypted_storage=True
    )


def _logged_in(login_dir: Path, login: Login) -> Source:
    from azure.identity import AuthenticationRecord, DeviceCodeCredential

    # The record knows the authority; named twice it is an error.
    credential: Any = DeviceCodeCredential(
        client_id=login.client_id,
        authentication_record=AuthenticationRecord.deserialize(login.record),
        disable_automatic_authentication=True,
        cache_persistence_options=_cache(login_dir),
        disable_instance_discovery=_is_own(login.authority),
    )
    return Source(credential, login.scopes)


def _of_environment(resource: str, env: Mapping[str, str]) -> Source:
    from azure.identity import (
        EnvironmentCredential,
        ManagedIdentityCredential,
        WorkloadIdentityCredential,
    )

    scopes = (f"{resource}/.default",)
    own: Any = {"disable_instance_discovery": _is_own(env.get("AZURE_AUTHORITY_HOST"))}
    is_named = bool(env.get("AZURE_TENANT_ID") and env.get("AZURE_CLIENT_ID"))
    if is_named and env.get("AZURE_FEDERATED_TOKEN_FILE"):
        return Source(cast("Any", WorkloadIdentityCredential(**own)), scopes)
    if is_named and (env.get("AZURE_CLIENT_SECRET") or env.get("AZURE_CLIENT_CERTIFICATE_PATH")):
        return Source(cast("Any", EnvironmentCredential(**own)), scopes)
    if _has_machine_identity(env):
        name = env.get("AZURE_CLIENT_ID")
        chosen: Any = {"client_id": name} if name else {}
        return Source(cast("Any", ManagedIdentityCredential(**chosen)), scopes)
    raise SignedOut("nobody has signed in to OneDrive on this machine")


def _has_machine_identity(env: Mapping[str, str]) -> bool:
    """Said by the machine, or to be asked for by its user: elsewhere the question hangs."""
    names = ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "IDENTITY_ENDPOINT", "MSI_ENDPOINT")
    return any(env.get(name) for name in names)


def _is_own(authority: str | None) -> bool:
    """Whether Microsoft does not know the authority: then it must not be asked about it."""
    if not authority:
        return False
    host = urlsplit(authority if "//" in authority else f"https://{authority}").hostname or ""
    return not host.endswith(_KNOWN)
