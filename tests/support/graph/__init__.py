"""Microsoft Graph's drives (OneDrive, SharePoint) on 127.0.0.1, for tests.

Stateful, deterministic, and as nasty as the real service on request. Standard library only.

In the test's process (the servers have threads of their own, so any event loop may be client)::

    with Emulator("business", seed=1) as emu:        # or "personal", "sharepoint"
        emu.write("dir/a.txt", b"hello", mtime=1.7e9)     # folders are made; by="somebody"
        client = Client(emu.api_url, emu.drive_id)        # http://127.0.0.1:P/v1.0
        ...
        assert emu.tree() == {"dir": None, "dir/a.txt": b"hello"}
        assert emu.finish() == []                         # conduct; see below

* **Hosts**: ``api_url``, ``content_url`` (downloads, copy monitors), ``upload_url``: three ports.
  ``emu.sign_in()`` starts the authority over TLS, see ``signin.SignIn``; ``emu.imds()`` the
  metadata service of a virtual machine and returns its URL. ``emu.token()``: a good bearer token
  (any token is good while ``knobs.static_token``).
* **Somebody else**: ``mkdir write read rename delete touch_etag enrich lock unlock package
  shortcut infect describe``; paths have no leading slash, "" is the root. ``item(path)``: what is
  there, as a dict with id, eTag, cTag, ...; None if nothing is.
* **Looking**: ``tree()`` (path -> bytes, or None for folders), ``journal`` (every request:
  ``route``, ``method``, ``target``, ``status``, ``fault``, ``payload`` ...), ``count(route=,
  method=)``, ``sessions()``, ``check()`` (the state's own invariants).
* **Time**: ``emu.clock.advance(s)``. It is real time, or stands still with
  ``Emulator(clock=Clock(frozen=True))``, or is another clock's with
  ``Clock(source=mock_clock.current_time)`` (trio's; it has to work in any thread). Expiries, lags,
  copies, post-processing and enforced pauses go by it; the seconds of a fault's action are real.
* **An outage**: ``stop()``; ``start()`` brings the same state back at the same addresses.
* **Quirks**: ``emu.knobs.<name> = ...``, see ``knobs.Knobs``: every switch with its meaning.
  ``set_quota(n)``, ``expire_delta("apply"|"upload")``, ``prune_delta()``, ``expire_urls()``,
  ``revoke_tokens()``, ``cae_challenge()``.
* **Faults**: ``emu.faults.add(Rule(Action.status(503, retry_after=2), route="children", nth=1))``,
  ``Rule(Action(What.DROP_AFTER_COMMIT), method="PUT", times=1)``, see ``faults.What``;
  ``emu.faults.clear()``. ``emu.preset("session_hell")``: see ``presets.PRESETS``.
* **Conduct**: ``emu.violations`` are things no good client does (``conduct``: the kinds);
  ``emu.unwatch(kind)`` and ``emu.watch(kind)``; ``finish()`` adds upload sessions left open and
  returns all of them.

As a process, whose state outlives any client (``process.GraphProcess`` starts it for a test)::

    python -m tests.support.graph --flavour business --port 8080 [--sign-in] [--imds]

prints one line of JSON with its addresses, then serves until it is ended.
``POST {origin}/__emu__/{op}`` with keyword arguments as JSON is the API above (``content`` in
base64); ``GraphProcess.control("write", path=..., content=b"...")`` does that.
"""

from tests.support.graph.clock import Clock
from tests.support.graph.conduct import Violation
from tests.support.graph.emulator import Emulator
from tests.support.graph.faults import Action, Rule, What
from tests.support.graph.knobs import Flavour, Knobs
from tests.support.graph.presets import PRESETS

__all__ = [
    "PRESETS",
    "Action",
    "Clock",
    "Emulator",
    "Flavour",
    "Knobs",
    "Rule",
    "Violation",
    "What",
]
