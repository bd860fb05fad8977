"""How much a run is to try: what fits into ``make test``, or everything (``make test-all``)."""

import os
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

IS_LONG: Final = os.environ.get("CSYNCFS_LONG") == "1"


def some(everything: Sequence[T], *short: T) -> Sequence[T]:
    """All of it, in the short run those named."""
    return everything if IS_LONG else short
