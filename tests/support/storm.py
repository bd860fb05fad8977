"""A network in which nothing can be relied on: faults at a rate, drawn from a seed.

    with Storm(server.port, rate=0.1, seed=7) as storm:
        storm.go_dark()

What strikes which request depends on the order in which requests come, so a seed repeats the
mixture, not every single stroke.
"""

import random
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from tests.support.proxy import Fault, Proxy, What

_SLOW_DOWN: Final = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
_INTERNAL: Final = b"<Error><Code>InternalError</Code><Message>Try again.</Message></Error>"
_FOREVER_S: Final = 3600.0

# How often each comes, among those that may strike a request.
MIXTURE: Final[Mapping[str, int]] = {
    "500": 2,
    "503": 1,
    "503 later": 1,
    "slow down": 2,
    "200 with an error": 1,
    "refused": 2,
    "reply lost": 3,
    "replayed": 2,
    "request cut": 2,
    "request spoilt": 2,
    "reply cut": 3,
    "reply ended": 2,
    "reply spoilt": 3,
    "wrong tag": 2,
    "held back": 2,
    "reply held back": 2,
}


class Storm(Proxy):
    """Listens as its base does; ``set_fault`` comes before what is drawn."""

    def __init__(
        self,
        upstream_port: int,
        *,
        rate: float,
        seed: int,
        mixture: Mapping[str, int] = MIXTURE,
        longest_stall_s: float = 4.0,
    ) -> None:
        super().__init__(upstream_port)
        self.rate = rate
        self.struck: Counter[str] = Counter()
        self._mixture = mixture
        self._longest_stall_s = longest_stall_s
        self._random = random.Random(seed)  # guarded by: _dice
        self._dice = threading.Lock()
        self._light = threading.Event()
        self._light.set()

    def go_dark(self) -> None:
        """Accept everything and answer nothing, until ``lighten``."""
        self._light.clear()

    def lighten(self) -> None:
        self._light.set()

    def __exit__(self, *_: object) -> None:
        self.lighten()
        super().__exit__()

    def next_fault(self, method: str, target: str) -> Fault | None:
        if not self._light.is_set():
            return Fault(What.STALL_REQUEST, stall_s=_FOREVER_S)
        if (ordered := super().next_fault(method, target)) is not None:
            return ordered
        with self._dice:
            if self._random.random() >= self.rate:
                return None
            return self._draw(method, unquote(target))

    def stall(self, at_most_s: float) -> None:
        if at_most_s == _FOREVER_S:
            self._light.wait()
        else:
            super().stall(at_most_s)

    def _draw(self, method: str, target: str) -> Fault | None:
        possible = _POSSIBLE.get(method, _ANYWHERE)
        if method == "GET" and ("list-type" in target or "uploadId" in target):
            # Nothing tells whether a listing is as the server sent it.
            possible = possible - {"reply spoilt"}
        if "uploadId=" not in target:
            # CompleteMultipartUpload may fail behind its 200.
            possible = possible - {"200 with an error"}
        names = [name for name in self._mixture if name in possible]
        weights = [self._mixture[name] for name in names]
        if not sum(weights):
            return None
        (name,) = self._random.choices(names, weights)
        self.struck[name] += 1
        return self._fault(name)

    def _fault(self, name: str) -> Fault:
        share, stall_s = self._random.random(), self._random.uniform(0.2, self._longest_stall_s)
        match name:
            case "500":
                return Fault(What.ANSWER, status=500, body=_INTERNAL)
            case "503":
                return Fault(What.ANSWER, status=503)
            case "503 later":
                return Fault(What.ANSWER, status=503, headers=(("Retry-After", "1"),))
            case "slow down":
                return Fault(What.ANSWER, status=503, body=_SLOW_DOWN)
            case "200 with an error":
                return Fault(What.ANSWER, status=200, body=_INTERNAL)
            case "held back":
                return Fault(What.STALL_REQUEST, stall_s=stall_s)
            case "reply held back":
                return Fault(What.STALL_REPLY, share=share, stall_s=stall_s)
            case _:
                return Fault(_PLAIN[name], share=share)


_PLAIN: Final = {
    "refused": What.REFUSE,
    "reply lost": What.LOSE_REPLY,
    "replayed": What.REPLAY,
    "request cut": What.CUT_REQUEST,
    "request spoilt": What.SPOIL_REQUEST,
    "reply cut": What.CUT_REPLY,
    "reply ended": What.END_REPLY,
    "reply spoilt": What.SPOIL_REPLY,
    "wrong tag": What.WRONG_TAG,
}
_ANYWHERE: Final = frozenset({"500", "503", "503 later", "slow down", "refused", "reply lost"}) | {
    "held back"
}
_POSSIBLE: Final = {
    "GET": _ANYWHERE | {"reply cut", "reply ended", "reply spoilt", "reply held back", "wrong tag"},
    "HEAD": _ANYWHERE | {"wrong tag"},
    "PUT": _ANYWHERE | {"request cut", "request spoilt", "replayed", "wrong tag"},
    "POST": _ANYWHERE | {"request cut", "replayed", "200 with an error"},
    "DELETE": _ANYWHERE | {"replayed"},
}
