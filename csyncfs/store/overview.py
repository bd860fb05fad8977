"""What the store says about journal, cache and conflicts, in the words of ``answers``.

The lists walk every row and every path: call them with a store from ``offline``, in a
thread, never on the loop thread of a mount.
"""

import os
from datetime import UTC, datetime

import msgspec

from csyncfs.answers import (
    CacheRow,
    CacheStatus,
    ConflictRow,
    HeldRow,
    QueueStatus,
    Side,
    cache_state,
    is_below,
    shown,
)
from csyncfs.store import conflicts, contents, held, inodes, journal
from csyncfs.store.db import Store
from csyncfs.types import InodeId


def queue(store: Store, now_ns: int, running: int = 0) -> QueueStatus:
    """The journal in numbers. ``running``: how many of them are being sent."""
    totals = journal.totals(store)
    age_s = None if totals.oldest_ns is None else max(0.0, (now_ns - totals.oldest_ns) / 1e9)
    return QueueStatus(
        waiting=max(0, totals.waiting - running),
        running=running,
        held=totals.held,
        bytes=totals.put_bytes,
        oldest_age_s=age_s,
    )


def cache(store: Store, limit_bytes: int | None) -> CacheStatus:
    files, used, dirty = contents.totals(store)
    return CacheStatus(used_bytes=used, limit_bytes=limit_bytes, dirty_bytes=dirty, files=files)


def cache_rows(store: Store, path: str | None) -> list[CacheRow]:
    """Files with content here, at or below a path, by path."""
    rows: list[CacheRow] = []
    for cached in contents.all_cached(store):
        name = inodes.path_of(store, cached.inode)
        row = inodes.get(store, cached.inode)
        if name is None or row is None or not is_below(shown(name), path):
            continue
        state = cache_state(row.size, cached.bytes, cached.dirty_bytes)
        rows.append(CacheRow(shown(name), row.size, cached.bytes, cached.dirty_bytes, state))
    return sorted(rows, key=lambda r: r.path)


def conflict_rows(store: Store, path: str | None) -> list[ConflictRow]:
    """Conflicts nobody has resolved, whose set-aside file is at or below a path; oldest first."""
    rows: list[ConflictRow] = []
    for conflict in conflicts.open_ones(store):
        name = inodes.path_of(store, conflict.inode)
        if name is None or not is_below(shown(name), path):
            continue
        rows.append(
            ConflictRow(
                path=shown(name),
                original=shown(conflict.path),
                device=conflict.device,
                time=_iso(conflict.created_ns),
                size=_size(store, conflict.inode, conflict.size),
            )
        )
    return rows


def held_rows(store: Store) -> list[HeldRow]:
    """What was removed on one side and stays on the other until the user agrees."""
    rows: list[HeldRow] = []
    after = InodeId(0)
    while found := held.some(store, after, 100):
        after = found[-1].inode
        for one in found:
            name = inodes.path_of(store, one.inode)
            if name is not None:
                rows.append(HeldRow(shown(name), Side.STORE, one.items, _iso(one.since_ns)))
    rows += _removed_here(store)
    return sorted(rows, key=lambda row: (row.path, row.removed))


def _removed_here(store: Store) -> list[HeldRow]:
    """A directory stands for what is in it."""
    rows: list[HeldRow] = []
    above: str | None = None
    for key, since_ns in journal.held_removals(store):
        if above is not None and key.startswith(above):
            rows[-1] = msgspec.structs.replace(rows[-1], items=rows[-1].items + 1)
            continue
        path = shown(os.fsencode(key.removesuffix("/")))
        rows.append(HeldRow(path, Side.HERE, 1, _iso(since_ns)))
        above = key if key.endswith("/") else None
    return rows


def _size(store: Store, ino: InodeId, then: int) -> int:
    row = inodes.get(store, ino)
    if row is not None and row.alias_of is not None:
        row = inodes.get(store, row.alias_of)
    return then if row is None else row.size


def _iso(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
