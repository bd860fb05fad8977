"""All that the emulator is, without its servers: drives, time, switches, faults, what happened.

One lock guards all of it: whoever holds it may call anything here.
"""

import hashlib
import hmac
import random
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.support.graph.clock import Clock, http_date, text_of
from tests.support.graph.drives import Drive, Item
from tests.support.graph.failures import Json, bad_request, not_found
from tests.support.graph.faults import Faults
from tests.support.graph.knobs import Flavour, Knobs
from tests.support.graph.throttle import Throttle
from tests.support.graph.tokens import Tokens

GIB: Final = 1 << 30


@dataclass(slots=True)
class Exchange:
    """One request and what became of it; the journal is a list of these."""

    when: float
    host: str
    method: str
    route: str
    target: str
    headers: dict[str, str]
    request_bytes: int
    status: int = 0
    """0: no reply was sent."""
    reply_bytes: int = 0
    fault: str = ""
    body: bytes = b""
    """Of the request, up to 4 KiB."""
    payload: Json | None = None
    """Of the reply."""
    reply_headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class Urls:
    """Where the servers are; set when they start."""

    api: str = ""
    content: str = ""
    upload: str = ""


@dataclass(slots=True)
class Session:
    """An upload session: open until it is done, cancelled or expired."""

    id: str
    drive: Drive
    parent: Item
    name: str
    target: Item | None
    """The file it replaces, if that was addressed by id."""
    behaviour: str
    if_match: str
    times: tuple[float | None, float | None]
    deferred: bool
    created: float
    expires: float
    total: int | None = None
    data: bytearray = field(default_factory=bytearray)
    is_poisoned: bool = False
    """A fragment was no multiple of 320 KiB."""
    in_flight: int = 0
    state: str = "open"
    """open | done | cancelled"""


@dataclass(slots=True)
class Operation:
    """A copy that runs; looked at through its monitor URL."""

    id: str
    started: float
    ends: float
    result: str = ""
    error: str = ""
    message: str = ""


class World:
    """The state. ``lock`` is held while a request is carried out and by the control API."""

    def __init__(
        self, flavour: Flavour, *, clock: Clock, knobs: Knobs, seed: int, quota_total: int
    ) -> None:
        self.flavour: Final = flavour
        self.clock: Final = clock
        self.knobs: Final = knobs
        self.lock: Final = threading.RLock()
        self.rng: Final = random.Random(seed)
        self.secret: Final = self.rng.randbytes(16)
        self.urls: Final = Urls()
        self.tokens: Final = Tokens(clock, knobs)
        self.throttle: Final = Throttle(clock, knobs)
        self.faults: Final = Faults(self.rng)
        self.journal: Final[list[Exchange]] = []
        self.drives: Final[dict[str, Drive]] = {}
        self.sessions: Final[dict[str, Session]] = {}
        self.operations: Final[dict[str, Operation]] = {}
        self.enumerations: Final[dict[str, list[str]]] = {}
        self.subscriptions: Final[dict[str, Json]] = {}
        self.link_epoch = 1
        self._jobs: list[tuple[float, int, Callable[[], None]]] = []
        self._job_number = 0
        self.drive: Final = self.add_drive(flavour, quota_total=quota_total)

    def add_drive(
        self, flavour: Flavour, *, name: str = "", site: str = "", quota_total: int = 1024 * GIB
    ) -> Drive:
        library = flavour is Flavour.SHAREPOINT
        drive = Drive(
            flavour,
            name=name or ("Documents" if library else "OneDrive"),
            site=site or ("sites/team" if library else ""),
            clock=self.clock,
            knobs=self.knobs,
            rng=self.rng,
            later=self.later,
            quota_total=quota_total,
        )
        self.drives[drive.id] = drive
        return drive

    def drive_of(self, name: str) -> Drive:
        """By id (personal ids in any case, zeros dropped) or by owner. Raises GraphError."""
        found = self.drives.get(name)
        if found is None:
            plain = name.lower().rjust(16, "0")
            found = self.drives.get(plain)
        if found is None and name.partition("/")[0] in ("me", "users", "groups"):
            found = self.drive
        if found is None and name.startswith("sites/"):
            found = next((d for d in self.drives.values() if d.site), None)
        if found is None:
            raise bad_request("The provided drive id appears to be malformed, or does not exist.")
        return found

    # ---- time ---------------------------------------------------------------------------

    def later(self, delay: float, act: Callable[[], None]) -> None:
        self._job_number += 1
        self._jobs.append((self.clock.now() + delay, self._job_number, act))

    def settle(self) -> None:
        """Do what is due; called before each request."""
        while True:
            due = min(self._jobs, default=None, key=lambda job: job[:2])
            if due is None or due[0] > self.clock.now():
                return
            self._jobs.remove(due)
            due[2]()

    # ---- ids and signatures -------------------------------------------------------------

    def new_id(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def sign(self, text: str) -> str:
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()[:32]

    def stamp(self, when: float, drive: Drive | None = None, *, ms: bool = False) -> str:
        is_personal = (drive or self.drive).is_personal
        return text_of(when, ms=ms and is_personal)

    def http_date(self) -> str:
        return http_date(self.clock.now())

    # ---- consistency --------------------------------------------------------------------

    def hides(self, item: Item) -> bool:
        """True if this read must not know of the item yet."""
        return self.clock.now() - item.created < self.knobs.not_found_s and item.parent is not None

    def visible(self, drive: Drive) -> int:
        """The last change the feed knows."""
        if self.knobs.delta_lag_s <= 0:
            return drive.seq
        return drive.seq_at(self.clock.now() - self.knobs.delta_lag_s)

    def session(self, session_id: str) -> Session:
        """An open session. Raises GraphError."""
        session = self.sessions.get(session_id)
        if session is None or session.state != "open" or session.expires <= self.clock.now():
            raise not_found("The upload session was not found")
        return session

    def open_sessions(self) -> list[Session]:
        now = self.clock.now()
        return [s for s in self.sessions.values() if s.state == "open" and s.expires > now]

    def check(self) -> None:
        for drive in self.drives.values():
            drive.check()
