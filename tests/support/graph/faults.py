"""What goes wrong on request: rules that name requests, and actions that spoil them.

The first rule that matches a request acts on it; the journal says which.
"""

import enum
import random
import re
from dataclasses import dataclass, field
from typing import Any, Final, Self


class What(enum.StrEnum):
    """What happens to a request."""

    STATUS = "status"
    """Answered with an error instead of being carried out."""
    STATUS_AFTER = "status_after"
    """Carried out, then answered with an error."""
    DROP_BEFORE_HEADERS = "drop_before_headers"
    """The connection ends before it is carried out."""
    DROP_MID_REQUEST = "drop_mid_request"
    """The connection ends after ``count`` bytes of the body; it counts as incomplete."""
    DROP_AFTER_COMMIT = "drop_after_commit"
    """Carried out; the connection ends instead of a reply."""
    DROP_MID_BODY = "drop_mid_body"
    """The connection ends after ``count`` bytes of the reply's body."""
    RESET = "reset"
    """As DROP_BEFORE_HEADERS, with a TCP reset."""
    TRUNCATE_BODY = "truncate_body"
    """``count`` bytes are missing at the end, and the length says nothing of it."""
    CORRUPT = "corrupt"
    """One bit of byte ``count`` of the reply's body is another one."""
    SLOW = "slow"
    """``count`` bytes of the reply's body a second."""
    STALL_HEADERS = "stall_headers"
    """The reply comes ``seconds`` late; it was carried out at once."""
    DELAY = "delay"
    """It is carried out ``seconds`` late."""
    EMPTY_BODY = "empty_body"
    BAD_JSON = "bad_json"
    REDIRECT = "redirect"
    """308 without Location."""
    STALE = "stale"
    """An item is shown as it was ``count`` changes ago."""


@dataclass(frozen=True, slots=True)
class Action:
    """One of ``What`` with its numbers. Seconds here are real ones."""

    what: What
    code: int = 503
    error: str = "serviceNotAvailable"
    inner: str = ""
    retry_after: float | None = None
    enforce: bool = False
    """Everything is 429 until ``retry_after`` is over, and asking earlier makes it longer."""
    html: bool = False
    count: int = 0
    seconds: float = 0.0

    @classmethod
    def status(
        cls,
        code: int,
        error: str = "",
        *,
        inner: str = "",
        retry_after: float | None = None,
        enforce: bool = False,
        html: bool = False,
        after: bool = False,
    ) -> Self:
        """Answer with this. ``after``: but carry it out first."""
        what = What.STATUS_AFTER if after else What.STATUS
        error = error or _CODES.get(code, "generalException")
        return cls(what, code, error, inner, retry_after, enforce, html)


_CODES: Final = {
    400: "invalidRequest",
    401: "unauthenticated",
    403: "accessDenied",
    404: "itemNotFound",
    409: "nameAlreadyExists",
    410: "resyncRequired",
    412: "resourceModified",
    416: "invalidRange",
    423: "notAllowed",
    429: "activityLimitReached",
    503: "serviceNotAvailable",
    507: "quotaLimitReached",
}


@dataclass(slots=True)
class Rule:
    """Which requests, how often, and what happens to them. Empty matches all."""

    action: Action
    method: str = ""
    route: str = ""
    """As in the journal: item, children, content, delta, createUploadSession, fragment, ..."""
    path_re: str = ""
    """Searched in the decoded path."""
    nth: int = 0
    """Only the nth that matches."""
    every: int = 0
    """Every nth that matches."""
    prob: float = 1.0
    times: int = 0
    """At most so often; 0: no limit."""
    after_number: int = 0
    """Only requests behind this one of the journal."""
    seen: int = field(default=0, init=False)
    done: int = field(default=0, init=False)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Rule":
        """``{"what": "status", "code": 503, ..., "method": "PUT", ...}``"""
        names = set(Action.__dataclass_fields__)
        action = {name: value for name, value in values.items() if name in names}
        action["what"] = What(action["what"])
        rest = {name: value for name, value in values.items() if name not in names}
        return cls(Action(**action), **rest)

    def counts(self, method: str, route: str, path: str, number: int) -> bool:
        """True if it is about this request, which is the ``seen``th of its kind then."""
        if self.method not in ("", method) or self.route not in ("", route):
            return False
        if number <= self.after_number or not re.search(self.path_re, path):
            return False
        self.seen += 1
        return True

    def strikes(self, rng: random.Random) -> bool:
        """True if the request it just counted is to be spoiled."""
        is_spent = bool(self.times) and self.done >= self.times
        if is_spent or (self.nth and self.seen != self.nth):
            return False
        if self.every and self.seen % self.every:
            return False
        if self.prob < 1 and rng.random() >= self.prob:
            return False
        self.done += 1
        return True


class Faults:
    """The rules in force. Called with the world's lock held."""

    def __init__(self, rng: random.Random) -> None:
        self.rules: Final[list[Rule]] = []
        self._rng = rng

    def add(self, *rules: Rule) -> None:
        self.rules.extend(rules)

    def clear(self) -> None:
        self.rules.clear()

    def pick(self, method: str, route: str, path: str, number: int) -> Action | None:
        """What happens to this request; every rule counts it, one acts."""
        about = [rule for rule in self.rules if rule.counts(method, route, path, number)]
        return next((rule.action for rule in about if rule.strikes(self._rng)), None)
