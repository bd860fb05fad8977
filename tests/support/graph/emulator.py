"""The emulator as tests see it: its servers, and the hands of everybody else on the drive."""

import base64
import contextlib
import dataclasses
from collections.abc import Generator, Mapping
from typing import Any, Final, Self

from tests.support.graph import presets
from tests.support.graph.blobs import Blob
from tests.support.graph.clock import Clock
from tests.support.graph.conduct import Violation
from tests.support.graph.drives import ENRICHMENT, Drive, Item, Kind, Target, Times
from tests.support.graph.failures import Json
from tests.support.graph.faults import Faults, Rule
from tests.support.graph.gate import Gate
from tests.support.graph.knobs import Flavour, Knobs
from tests.support.graph.messages import Host
from tests.support.graph.shapes import item_json
from tests.support.graph.signin import SignIn
from tests.support.graph.wire import Server
from tests.support.graph.world import GIB, Exchange, Session, World


class Emulator:
    """Serves while the context is open, or between ``start`` and ``stop``."""

    def __init__(
        self,
        flavour: str = "business",
        *,
        seed: int = 0,
        clock: Clock | None = None,
        knobs: Knobs | None = None,
        quota_total: int = 1024 * GIB,
        ports: Mapping[Host, int] | None = None,
    ) -> None:
        self.world: Final = World(
            Flavour(flavour),
            clock=clock or Clock(),
            knobs=knobs or Knobs(),
            seed=seed,
            quota_total=quota_total,
        )
        self._gate: Final = Gate(self.world)
        self._ports: Final = dict(ports or {})
        self._servers: list[Server] = []
        self._sign_in: SignIn | None = None

    # ---- servers ------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        api, content, upload = (self._serve(h) for h in (Host.API, Host.CONTENT, Host.UPLOAD))
        urls = self.world.urls
        urls.api, urls.content, urls.upload = api.url + "/v1.0", content.url, upload.url
        return self

    def stop(self) -> None:
        """The hosts are down; ``start`` brings them back, at the same addresses."""
        for server in self._servers:
            server.stop()
        self._servers.clear()
        if self._sign_in is not None:
            self._sign_in.stop()
            self._sign_in = None

    def _serve(self, host: Host) -> Server:
        server = Server(host, self._gate, port=self._ports.get(host, 0), control=self.control)
        self._ports[host] = server.server_address[1]
        server.start()
        self._servers.append(server)
        return server

    def sign_in(self, *, port: int = 0) -> SignIn:
        """The sign-in authority; started once."""
        if self._sign_in is None:
            self._sign_in = SignIn(self.world, port=port)
            self._sign_in.start()
        return self._sign_in

    def imds(self) -> str:
        """The metadata service's URL, for AZURE_POD_IDENTITY_AUTHORITY_HOST."""
        return self._serve(Host.IMDS).url

    @property
    def api_url(self) -> str:
        return self.world.urls.api

    @property
    def content_url(self) -> str:
        return self.world.urls.content

    @property
    def upload_url(self) -> str:
        return self.world.urls.upload

    @property
    def drive_id(self) -> str:
        return self.world.drive.id

    # ---- what it is made of -------------------------------------------------------------

    @property
    def drive(self) -> Drive:
        """The first drive. Take ``world.lock`` to change it from a test."""
        return self.world.drive

    @property
    def clock(self) -> Clock:
        return self.world.clock

    @property
    def knobs(self) -> Knobs:
        return self.world.knobs

    @property
    def faults(self) -> Faults:
        return self.world.faults

    @property
    def journal(self) -> list[Exchange]:
        return self.world.journal

    @property
    def violations(self) -> list[Violation]:
        return self._gate.conduct.violations

    # ---- the hands of somebody else -----------------------------------------------------

    def add_drive(self, flavour: str, *, name: str = "", site: str = "") -> str:
        """The id of another drive."""
        with self.world.lock:
            return self.world.add_drive(Flavour(flavour), name=name, site=site).id

    def mkdir(self, path: str, *, by: str = "somebody") -> str:
        """The folder's id; it and those above it are made if they are missing."""
        with self._changing() as drive:
            return self._folder(drive, _names(path), by).id

    def write(
        self,
        path: str,
        content: bytes,
        *,
        mtime: float | None = None,
        by: str = "somebody",
    ) -> str:
        """The file's id; overwrites."""
        with self._changing() as drive:
            *above, name = _names(path)
            parent = self._folder(drive, above, by)
            item, times = drive.child(parent, name), Times(modified=mtime)
            if item is None:
                item = drive.add(parent, name, Kind.FILE, blob=Blob(content), times=times, by=by)
            else:
                drive.put(item, Blob(content), times=times, by=by)
            return item.id

    def read(self, path: str) -> bytes:
        with self._changing() as drive:
            return self._at(drive, path).blob.data

    def rename(self, path: str, to: str, *, by: str = "somebody") -> None:
        """Also into another folder; what is there goes to the recycle bin."""
        with self._changing() as drive:
            *above, name = _names(to)
            item, parent = self._at(drive, path), self._folder(drive, above, by)
            there = drive.child(parent, name)
            if there is not None and there is not item:
                drive.remove(there, by=by)
            drive.move(item, parent, name, by=by)

    def delete(self, path: str, *, by: str = "somebody") -> None:
        with self._changing() as drive:
            drive.remove(self._at(drive, path), by=by)

    def touch_etag(self, path: str, *, ctag: bool = False) -> None:
        """What post-processing does: another eTag for the same bytes."""
        with self._changing() as drive:
            drive.touch(self._at(drive, path), cv=int(ctag))

    def enrich(self, path: str) -> None:
        """What SharePoint does to Office files: other bytes, and nobody's upload."""
        with self._changing() as drive:
            item = self._at(drive, path)
            drive.rewrite(item, Blob(item.blob.data + ENRICHMENT))

    def describe(self, path: str, text: str) -> None:
        with self._changing() as drive:
            drive.describe(self._at(drive, path), text)

    def lock(self, path: str, *, by: str = "somebody") -> None:
        """Open in Office: nobody else may change it."""
        with self._changing() as drive:
            self._at(drive, path).locked_by = by

    def unlock(self, path: str) -> None:
        with self._changing() as drive:
            self._at(drive, path).locked_by = ""

    def infect(self, path: str, virus: str = "EICAR") -> None:
        with self._changing() as drive:
            item = self._at(drive, path)
            drive.touch(item)
            item.malware = virus

    def package(self, path: str) -> str:
        """A OneNote notebook: neither file nor folder."""
        return self._special_kind(path, Kind.PACKAGE, None)

    def shortcut(self, path: str, *, drive_id: str, item_id: str) -> str:
        """A folder of another drive."""
        return self._special_kind(path, Kind.REMOTE, Target(drive_id, item_id))

    # ---- looking ------------------------------------------------------------------------

    def tree(self) -> dict[str, bytes | None]:
        """Path -> content; folders and what else is no file: None."""
        with self._changing() as drive:
            below = [item for item in drive.subtree(drive.root) if item.parent is not None]
            return {drive.path_of(i): i.blob.data if i.is_file else None for i in below}

    def item(self, path: str) -> Json | None:
        """As GET would show it."""
        with self._changing() as drive:
            item = drive.walk(drive.root, _names(path))
            return None if item is None else item_json(self.world, drive, item)

    def count(self, *, route: str = "", method: str = "") -> int:
        """Requests so far."""
        return sum(1 for e in self.journal if route in ("", e.route) and method in ("", e.method))

    def sessions(self) -> list[Session]:
        """Upload sessions that are open."""
        with self.world.lock:
            return self.world.open_sessions()

    def check(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        with self.world.lock:
            self.world.check()

    # ---- the service's own doing --------------------------------------------------------

    def token(self, *, read_only: bool = False) -> str:
        with self.world.lock:
            return self.world.tokens.issue(read_only=read_only)

    def set_quota(self, total: int) -> None:
        self.drive.quota_total = total

    def expire_delta(self, kind: str = "apply") -> None:
        """Every delta token is 410 Gone. ``kind``: apply | upload."""
        with self._changing() as drive:
            drive.expire_tokens(kind)

    def prune_delta(self, before_seq: int | None = None) -> None:
        """Tokens from before this change, or from before now, are 410 Gone."""
        with self._changing() as drive:
            drive.pruned = drive.seq if before_seq is None else before_seq

    def expire_urls(self) -> None:
        """Download URLs handed out so far are 401."""
        with self.world.lock:
            self.world.link_epoch += 1

    def revoke_tokens(self) -> None:
        with self.world.lock:
            self.world.tokens.revoke()

    def cae_challenge(self) -> None:
        """Tokens so far are answered by a claims challenge."""
        with self.world.lock:
            self.world.tokens.challenge()

    def preset(self, name: str) -> None:
        """One of ``presets.PRESETS``."""
        with self.world.lock:
            presets.PRESETS[name](self.world)

    # ---- conduct ------------------------------------------------------------------------

    def watch(self, *kinds: str) -> None:
        self._gate.conduct.watched.update(kinds)

    def unwatch(self, *kinds: str) -> None:
        self._gate.conduct.watched.difference_update(kinds)

    def finish(self) -> list[Violation]:
        """What the client did wrong, now that it is done."""
        with self.world.lock:
            self._gate.conduct.end()
            return list(self.violations)

    # ---- from another process -----------------------------------------------------------

    def control(self, op: str, arguments: Json) -> Any:
        """What ``POST /__emu__/{op}`` does."""
        if op in _CONTROLS:
            if "content" in arguments:
                arguments["content"] = base64.b64decode(arguments["content"])
            return _plain(getattr(self, op)(**arguments))
        match op:
            case "advance":
                return self.clock.advance(float(arguments["seconds"]))
            case "knobs":
                for name, value in arguments.items():
                    setattr(self.knobs, name, value)
                return _plain(self.knobs)
            case "fault":
                with self.world.lock:
                    return self.faults.add(Rule.from_json(arguments))
            case "watch" | "unwatch":
                return getattr(self, op)(*arguments["kinds"])
            case "clear_faults":
                return self.faults.clear()
            case "violations":
                return _plain(self.violations)
            case "journal":
                return _plain(self.journal[int(arguments.get("after", 0)) :])
            case _:
                raise LookupError(op)

    # ---- inside -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self) -> Generator[Drive]:
        with self.world.lock:
            self.world.settle()
            yield self.drive

    def _at(self, drive: Drive, path: str) -> Item:
        item = drive.walk(drive.root, _names(path))
        if item is None:
            raise FileNotFoundError(path)
        return item

    def _folder(self, drive: Drive, names: list[str], by: str) -> Item:
        folder = drive.root
        for name in names:
            below = drive.child(folder, name)
            folder = below or drive.add(folder, name, Kind.FOLDER, by=by)
        return folder

    def _special_kind(self, path: str, kind: Kind, target: Target | None) -> str:
        with self._changing() as drive:
            *above, name = _names(path)
            item = drive.add(self._folder(drive, above, "somebody"), name, kind)
            item.target = target
            return item.id


_CONTROLS: Final = frozenset(
    {
        *("add_drive", "mkdir", "write", "read", "rename", "delete", "touch_etag", "enrich"),
        *("describe", "lock", "unlock", "infect", "package", "shortcut", "tree", "item", "count"),
        *("check", "token", "set_quota", "expire_delta", "prune_delta", "expire_urls"),
        *("revoke_tokens", "cae_challenge", "preset", "finish"),
    }
)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _plain(value: Any) -> Any:
    """As JSON can say it; bytes become base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value
