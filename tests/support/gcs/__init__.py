"""A fake of Google Cloud Storage's JSON API, as much of it as csyncfs asks for.

Google has none to install. What it does follows Google's reference of the JSON API ("Objects",
"Request preconditions", "Resumable uploads", "HTTP status and error codes"); where a docstring
names one of these, the fact is from there. tests/conformance/test_gcs_live.py runs the suite
against the real thing where there are credentials.
"""

from tests.support.gcs.server import GOOD, READER, UNKNOWN, FakeGcs, Fault
from tests.support.gcs.store import Bucket, Refusal, Stored
from tests.support.gcs.using import (
    LIVE_BUCKET,
    clear,
    connected,
    live_options,
    options_for,
)

__all__ = [
    "GOOD",
    "LIVE_BUCKET",
    "READER",
    "UNKNOWN",
    "Bucket",
    "FakeGcs",
    "Fault",
    "Refusal",
    "Stored",
    "clear",
    "connected",
    "live_options",
    "options_for",
]
