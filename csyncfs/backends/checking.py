"""Whether a downloaded object is the one that was stored: its MD5 against its ETag.

S3 has no checksum for a range, and of a whole object only the ETag is told by every server: the
MD5 of what was stored in one request. Azure tells the MD5 by itself, and whoever wrote the blob
chose it. So small objects are fetched whole.
"""

import logging
import threading
from typing import Final

log = logging.getLogger(__name__)

# Bodies that were wrong and not yet right again. Each is a few hundred bytes.
_REMEMBERED: Final = 1000


class Bodies:
    """What was found wrong, until it is settled. For many threads."""

    def __init__(self) -> None:
        self._wrong: dict[tuple[str, str], str] = {}  # guarded by: _lock
        self._lock = threading.Lock()

    def are_right(self, key: str, told: str, found: str) -> bool:
        """Whether content with the MD5 ``found`` is what the store calls ``told``.

        Damage does not strike twice alike: if the same bytes come a second time, they are what
        the store has, and its ETag only looks like an MD5 (some encrypt without saying so).
        """
        with self._lock:
            before = self._wrong.pop((key, told), None)
            if found == told:
                return True
            if found == before:
                log.warning("the ETag is not the MD5 of the content key=%r", key)
                return True
            while len(self._wrong) >= _REMEMBERED:
                del self._wrong[next(iter(self._wrong))]
            self._wrong[key, told] = found
        log.warning("a download arrived damaged, it is fetched again key=%r", key)
        return False
