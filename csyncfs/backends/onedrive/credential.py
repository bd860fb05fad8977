"""Tokens for trio: a credential of azure.identity in a worker thread, and what its refusal means.

A refusal is told once, loudly; for some seconds after it nobody asks again. Then who is signed in
is read anew, so that a login heals a running mount.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from csyncfs.backends.onedrive.translation import SignedOut
from csyncfs.errors import CsyncError, Offline

log = logging.getLogger(__name__)

_EARLY_S: Final = 300.0
_REST_S: Final = 3.0


class Token(Protocol):
    """``azure.core.credentials.AccessToken``."""

    @property
    def token(self) -> str: ...
    @property
    def expires_on(self) -> int: ...


class SyncCredential(Protocol):
    """What azure.identity calls a TokenCredential."""

    def get_token(self, *scopes: str, claims: str | None, enable_cae: bool) -> Token: ...


@dataclass(frozen=True, slots=True)
class Source:
    """Who signs in, and for what."""

    credential: SyncCredential
    scopes: tuple[str, ...]


class ThreadCredential:
    """What the SDK asks for tokens. ``find``: in a thread; who is signed in now. It raises
    SignedOut, or whatever azure.identity raises."""

    def __init__(self, find: Callable[[], Source], scopes: tuple[str, ...] = ("",)) -> None:
        self.scopes: Final = scopes
        """For the SDK's sake; those of the source count."""
        self._find = find
        self._source: Source | None = None
        self._token: Token | None = None
        self._must_renew = False
        self._refused: CsyncError | None = None
        self._refused_until = float("-inf")
        self._is_told = False
        self._lock = trio.Lock()

    async def get_token(
        self, *_scopes: str, claims: str | None = None, enable_cae: bool = False, **_: Any
    ) -> Token:
        """Raises SignedOut and Offline."""
        async with self._lock:
            known = self._token
            if known is not None and claims is None and known.expires_on - time.time() > _EARLY_S:
                return known
            if self._refused is not None and trio.current_time() < self._refused_until:
                raise self._refused
            if claims is None and self._must_renew:
                claims = _newer_than_now()
            return await self._ask(claims, enable_cae=enable_cae)

    def forget(self) -> None:
        """The server did not take the token: the next one must be newer."""
        self._token = None
        self._must_renew = True

    def refused(self, why: str) -> SignedOut:
        """A new token was not taken either: nobody asks again for a while."""
        error = SignedOut(why)
        self._token = None
        self._note(error)
        return error

    def succeeded(self) -> None:
        """The server took a token."""
        if self._is_told:
            log.info("signed in again")
        self._is_told = False
        self._must_renew = False

    async def _ask(self, claims: str | None, *, enable_cae: bool) -> Token:
        def work() -> tuple[Source, Token]:
            source = self._source or self._find()
            return source, source.credential.get_token(
                *source.scopes, claims=claims, enable_cae=enable_cae
            )

        try:
            self._source, self._token = await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        except Exception as exc:
            error = _meaning(exc)
            self._note(error)
            raise error from exc
        self._refused = None
        return self._token

    def _note(self, error: CsyncError) -> None:
        self._refused, self._refused_until = error, trio.current_time() + _REST_S
        if not isinstance(error, SignedOut):
            return
        # Read anew: somebody may have signed in meanwhile.
        self._source = None
        if not self._is_told:
            self._is_told = True
            log.error("%s", error)


def _newer_than_now() -> str:
    """Claims that no token in the cache fulfils."""
    since = {"essential": True, "value": str(int(time.time()))}
    return json.dumps({"access_token": {"nbf": since}})


def _meaning(error: Exception) -> CsyncError:
    from azure.core.exceptions import ServiceRequestError, ServiceResponseError

    match error:
        case CsyncError():
            return error
        case FileNotFoundError() | PermissionError() | IsADirectoryError():
            # The certificate or the token that the environment names.
            return SignedOut(f"signing in: cannot read {error.filename} ({error.strerror})")
        case ServiceRequestError() | ServiceResponseError() | OSError():
            return Offline(f"signing in: no answer ({type(error).__name__})")
        case _:
            # Their text may quote what was sent.
            return SignedOut(f"the sign-in is no longer good ({type(error).__name__})")
