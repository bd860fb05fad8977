"""Frees what unfinished uploads hold in the store when nobody goes on with them.

Parts of a large file that was removed or changed before all of them were sent cost money on S3,
and keep a name busy on OneDrive. The journal writes down whose uploads are void; here they are
abandoned, behind everything else, however long the store cannot be reached.
"""

import logging
from typing import Final

import trio

from csyncfs.backends.base import Backend
from csyncfs.errors import CsyncError, Offline, Retry, StoreError
from csyncfs.store import journal
from csyncfs.store.db import Store

log = logging.getLogger(__name__)

_PAUSE_S: Final = 10.0


class Leftovers:
    """Abandons uploads."""

    def __init__(self, store: Store, backend: Backend) -> None:
        self._store = store
        self._backend = backend

    async def run(self) -> None:
        """Until cancelled; what is left then is freed after the next start."""
        while True:
            try:
                await self._free()
            except StoreError as exc:
                log.debug("unfinished uploads are not freed now error=%s", exc)
            await trio.sleep(_PAUSE_S)

    async def _free(self) -> None:
        while (found := journal.first_unfinished(self._store)) is not None:
            number, resume = found
            try:
                await self._backend.abandon(resume)
            except (Offline, Retry) as exc:
                log.debug("an unfinished upload is not freed yet error=%s", exc)
                return
            except CsyncError as exc:
                # The store itself ends it some day.
                log.warning("an unfinished upload was not freed error=%s", exc)
            with self._store.transaction():
                journal.remove_unfinished(self._store, number)
