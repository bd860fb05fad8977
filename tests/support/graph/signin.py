"""The sign-in authority (Entra) over TLS: device code, client credentials, refresh.

    sign_in = emu.sign_in()
    ClientSecretCredential(
        "tenant", "client", "secret",
        authority=sign_in.url, disable_instance_discovery=True, connection_verify=sign_in.ca_file,
    )

Its tokens are the emulator's. The certificate is made at start and trusted by nobody else.
"""

import base64
import json
import ssl
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.support.graph.failures import Json
from tests.support.graph.world import World

_OBJECT_ID: Final = "48d31887-5fad-4d73-a9f5-3c356e68a038"
_TENANT_ID: Final = "f8cdef31-a31e-4b4a-93e4-5f571e91255a"
_JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_DEVICE: Final = "urn:ietf:params:oauth:grant-type:device_code"


class SignIn:
    """One authority. What a person does at its page is done by ``approve`` or by waiting."""

    def __init__(self, world: World, *, port: int = 0) -> None:
        self.pending_polls = 1
        """So often a device code is answered by authorization_pending; -1: until ``approve``."""
        self.interval_s = 1
        """How long a client is to wait between two polls."""
        self.client_secret = ""
        """"": any secret is right."""
        self.certificate: x509.Certificate | None = None
        """An app that has this one may prove it; None: no app can."""
        self.federated = ""
        """What another issuer gave an app; "": nobody is believed."""
        self.requests: Final[list[dict[str, str]]] = []
        """The forms posted to the token endpoint."""
        self._world = world
        self._errors: list[str] = []
        self._codes: dict[str, int] = {}  # device code -> polls so far
        self._denied = False
        self._refresh: set[str] = set()
        self._made = 0
        self._lock = threading.Lock()
        # Lives as long as the object: clients read it after this line.
        self._place = tempfile.TemporaryDirectory(prefix="graph-signin-")
        self._server = _Server(self, port, _certificate(Path(self._place.name)))
        self.port: Final[int] = self._server.server_address[1]
        self.url: Final = f"https://127.0.0.1:{self.port}"
        self.ca_file: Final = str(Path(self._place.name) / "cert.pem")

    def start(self) -> None:
        target = self._server.serve_forever
        threading.Thread(target=target, args=(0.02,), name="graph-signin", daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._place.cleanup()

    def approve(self) -> None:
        """The person enters the code."""
        with self._lock:
            self.pending_polls = 0

    def deny(self) -> None:
        with self._lock:
            self._denied = True

    def fail_next(self, *errors: str) -> None:
        """The next token requests get these: invalid_grant, interaction_required, ..."""
        with self._lock:
            self._errors.extend(errors)

    def revoke_refresh_tokens(self) -> None:
        """Who holds one must sign in again."""
        with self._lock:
            self._refresh.clear()

    # ---- what its page and its endpoints say --------------------------------------------

    def configuration(self, tenant: str) -> Json:
        base = f"{self.url}/{tenant}"
        return {
            "issuer": f"{base}/v2.0",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            "tenant_region_scope": "EU",
        }

    def device_code(self) -> Json:
        with self._lock:
            self._made += 1
            code = f"device-{self._made}"
            self._codes[code] = 0
        where = f"{self.url}/device"
        return {
            "user_code": "ABCD-EFGH",
            "device_code": code,
            "verification_uri": where,
            "expires_in": 900,
            "interval": self.interval_s,
            "message": f"To sign in, open {where} and enter the code ABCD-EFGH.",
        }

    def token(self, tenant: str, form: dict[str, str]) -> tuple[int, Json]:
        with self._lock:
            self.requests.append(form)
            if self._errors:
                return _error(self._errors.pop(0))
            match form.get("grant_type"):
                case "client_credentials":
                    return self._for_secret(form)
                case "refresh_token":
                    return self._for_refresh(tenant, form)
                case grant if grant in (_DEVICE, "device_code"):
                    return self._for_device(tenant, form)
                case _:
                    return _error("unsupported_grant_type")

    def _for_secret(self, form: dict[str, str]) -> tuple[int, Json]:
        given, assertion = form.get("client_secret", ""), form.get("client_assertion", "")
        if assertion:
            is_jwt = form.get("client_assertion_type") == _JWT_BEARER
            is_right = is_jwt and self._is_believed(assertion)
        else:
            is_right = bool(given) and self.client_secret in ("", given)
        return (200, self._access(form)) if is_right else _error("invalid_client", 401)

    def _is_believed(self, assertion: str) -> bool:
        """Another issuer's token, or one that the app signed with its certificate's key.
        learn.microsoft.com/entra/identity-platform/certificate-credentials"""
        if self.federated:
            return assertion == self.federated
        if self.certificate is None:
            return False
        head, body, signature = (_unpadded(part) for part in assertion.split("."))
        key = self.certificate.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        algorithm = json.loads(head)["alg"]
        pad = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        signed = assertion.rpartition(".")[0].encode()
        try:
            how = pad if algorithm == "PS256" else padding.PKCS1v15()
            key.verify(signature, signed, how, hashes.SHA256())
        except InvalidSignature:
            return False
        told = json.loads(body)
        return str(told["aud"]).startswith(self.url) and told["exp"] > time.time()

    def _for_refresh(self, tenant: str, form: dict[str, str]) -> tuple[int, Json]:
        if form.get("refresh_token") not in self._refresh:
            return _error("invalid_grant")
        return 200, self._signed_in(tenant, form)

    def _for_device(self, tenant: str, form: dict[str, str]) -> tuple[int, Json]:
        code = form.get("device_code", "")
        if code not in self._codes:
            return _error("expired_token")
        if self._denied:
            return _error("authorization_declined")
        self._codes[code] += 1
        if self.pending_polls < 0 or self._codes[code] <= self.pending_polls:
            return _error("authorization_pending")
        del self._codes[code]
        return 200, self._signed_in(tenant, form)

    def _access(self, form: dict[str, str]) -> Json:
        with self._world.lock:
            token = self._world.tokens.issue()
        life = int(self._world.knobs.token_life_s)
        granted = {"token_type": "Bearer", "expires_in": life, "ext_expires_in": life}
        return {**granted, "scope": form.get("scope", ""), "access_token": token}

    def _signed_in(self, tenant: str, form: dict[str, str]) -> Json:
        self._made += 1
        refresh = f"refresh-{self._made}"
        self._refresh.add(refresh)
        now = int(time.time())
        claims = {
            "aud": form.get("client_id", ""),
            "iss": f"{self.url}/{tenant}/v2.0",
            "sub": "subject",
            "oid": _OBJECT_ID,
            "tid": _TENANT_ID,
            "preferred_username": "user@contoso.example",
            "exp": now + 3600,
            "iat": now,
        }
        token = ".".join([_packed({"alg": "none"}), _packed(claims), ""])
        info = _packed({"uid": _OBJECT_ID, "utid": _TENANT_ID})
        access = self._access(form)
        return {**access, "refresh_token": refresh, "id_token": token, "client_info": info}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: SignIn, port: int, context: ssl.SSLContext) -> None:
        self.owner: Final = owner
        self._context = context
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        """The handshake is the connection's thread's: a slow client stops nobody."""
        plain, address = super().get_request()
        wrapped = self._context.wrap_socket(
            cast("Any", plain), server_side=True, do_handshake_on_connect=False
        )
        return wrapped, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that do not trust the certificate hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        parts = self._parts()
        if parts[1:] == ["v2.0", ".well-known", "openid-configuration"]:
            self._send(200, self._owner.configuration(parts[0]))
        else:
            self._send(404, {"error": "not_found"})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        form = dict(parse_qsl(self.rfile.read(length).decode(), keep_blank_values=True))
        parts = self._parts()
        if parts[1:] == ["oauth2", "v2.0", "devicecode"]:
            self._send(200, self._owner.device_code())
        elif parts[1:] == ["oauth2", "v2.0", "token"]:
            self._send(*self._owner.token(parts[0], form))
        else:
            self._send(404, {"error": "not_found"})

    @property
    def _owner(self) -> SignIn:
        return cast("_Server", self.server).owner

    def _parts(self) -> list[str]:
        return urlsplit(self.path).path.strip("/").split("/")

    def _send(self, status: int, body: Json) -> None:
        data = json.dumps(body).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def _unpadded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _error(code: str, status: int = 400) -> tuple[int, Json]:
    return status, {"error": code, "error_description": f"AADSTS0: {code}", "error_codes": [0]}


def _packed(values: Json) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def _certificate(place: Path) -> ssl.SSLContext:
    """For 127.0.0.1, good for a day."""
    key, cert = place / "key.pem", place / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "1"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context
