"""Access tokens: which are good, and what is said about the others."""

import base64
import json
from dataclasses import dataclass
from typing import Final

from tests.support.graph.clock import Clock
from tests.support.graph.failures import GraphError
from tests.support.graph.knobs import Knobs

_CODE: Final = "InvalidAuthenticationToken"


@dataclass(slots=True)
class _Token:
    issued: float
    expires: float
    is_read_only: bool = False


class Tokens:
    """Called with the world's lock held."""

    def __init__(self, clock: Clock, knobs: Knobs) -> None:
        self._clock = clock
        self._knobs = knobs
        self._known: dict[str, _Token] = {}
        self._revoked: set[str] = set()
        self._made = 0
        self._challenged = float("-inf")
        """Tokens from before this moment have to be asked for again, with claims."""

    def issue(self, *, read_only: bool = False, life_s: float | None = None) -> str:
        now = self._clock.now()
        self._made += 1
        text = f"token-{self._made}-{int(now)}"
        life = self._knobs.token_life_s if life_s is None else life_s
        self._known[text] = _Token(now, now + life, read_only)
        return text

    def revoke(self) -> None:
        """No token so far is good any longer."""
        self._revoked |= set(self._known)

    def challenge(self) -> None:
        """Every token so far is answered with a claims challenge."""
        for token in self._known.values():
            token.issued = min(token.issued, self._clock.now() - 1e-6)
        self._challenged = self._clock.now()

    def check(self, header: str | None, *, writes: bool) -> None:
        """Raise GraphError unless the header lets the request in."""
        scheme, _, text = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise _denied("Access token is empty.")
        token = self._known.get(text)
        if token is None and self._knobs.static_token:
            token = self._known[text] = _Token(self._clock.now(), float("inf"))
        if token is None or text in self._revoked:
            raise _denied("Access token validation failure. Invalid audience.")
        if token.expires <= self._clock.now():
            raise _denied("Lifetime validation failed, the token is expired.")
        if token.issued < self._challenged:
            raise _claims(self._challenged)
        if token.is_read_only and writes:
            raise GraphError(403, "accessDenied", "The caller does not have permission.")


def _denied(message: str) -> GraphError:
    realm = 'Bearer realm="", authorization_uri="https://127.0.0.1/common/oauth2/authorize"'
    return GraphError(401, _CODE, message, headers=(("WWW-Authenticate", realm),))


def _claims(since: float) -> GraphError:
    wanted = {"access_token": {"nbf": {"essential": True, "value": str(int(since))}}}
    packed = base64.b64encode(json.dumps(wanted).encode()).decode()
    realm = f'Bearer realm="", error="insufficient_claims", claims="{packed}"'
    message = "Continuous access evaluation resulted in challenge."
    return GraphError(401, _CODE, message, headers=(("WWW-Authenticate", realm),))
