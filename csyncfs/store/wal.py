"""Whether the write-ahead log is all there, asked before SQLite looks at it.

SQLite takes a log that was cut off, or is gone, for one that was never longer, and says
nothing. After a crash of the process its index file still tells how long the log was.
"""

import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# The first of the two copies of the header, and what has been checkpointed: the layout of
# https://www.sqlite.org/walformat.html, in the byte order of the machine.
_HEADER: Final = struct.Struct("=IIIBBHII8s8s8s")
_CHECKPOINTED: Final = struct.Struct("=I")
_VERSION: Final = 3007000
_LOG_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24


def missing_pages(store_file: Path) -> int:
    """How many database pages the log lacks at its end; 0: none, or nobody can tell.

    Means something only if the machine has not been restarted since the log was written: the
    end of a log that was never synced may be lost with the power, and nobody was promised it.
    """
    try:
        index = Path(f"{store_file}-shm").read_bytes()[:100]
    except OSError:
        return 0
    size = _HEADER.size
    if len(index) < 2 * size + _CHECKPOINTED.size or index[:size] != index[size : 2 * size]:
        return 0
    version, _, _, is_init, _, page, frames, _, _, salt, _ = _HEADER.unpack_from(index)
    (done,) = _CHECKPOINTED.unpack_from(index, 2 * size)
    if version != _VERSION or not is_init or done >= frames:
        return 0
    frame_bytes = _FRAME_HEADER_BYTES + (65536 if page == 1 else page)
    try:
        with open(f"{store_file}-wal", "rb") as log:
            header = log.read(_LOG_HEADER_BYTES)
            log.seek(0, 2)
            length = log.tell()
    except OSError:
        return frames - done
    if len(header) == _LOG_HEADER_BYTES and header[16:24] != salt:
        # Started over just when it crashed: what the index speaks of is in the database.
        return 0
    found = max(0, length - _LOG_HEADER_BYTES) // frame_bytes
    return max(0, frames - max(found, done))


@contextmanager
def keeping_index(store_file: Path) -> Generator[None]:
    """Leave the index as it was, so that the next one who asks is told the same."""
    index = Path(f"{store_file}-shm")
    kept = index.read_bytes()
    try:
        yield
    finally:
        index.write_bytes(kept)
