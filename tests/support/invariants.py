"""What must hold on a running mount at any moment (DESIGN section 11), as one check."""

import stat

from csyncfs.extents import Extents
from csyncfs.store import aliases, attempts, contents, inodes, journal
from csyncfs.store.journal import IntentKind
from csyncfs.types import ROOT, InodeId
from tests.support.engines import Engines, Machine


def check_machine(machine: Machine) -> None:
    """Fails with what does not hold."""
    up = machine.up
    _check_extents(up)
    _check_inodes(up)
    _check_intents(up)
    _check_space(up)


def _is_within(inner: Extents, outer: Extents) -> bool:
    return not inner.subtract(outer)


def _check_extents(up: Engines) -> None:
    """dirty ⊆ present ⊆ [0, size)."""
    for live in up.table:
        assert _is_within(live.dirty, live.present), f"dirty not present: {live}"
        assert _is_within(live.present, Extents.whole(live.size)), f"beyond the size: {live}"
        row = inodes.get(up.store, live.ino)
        is_whole = live.base is not None or live.present.covers(0, live.size)
        assert is_whole or (row and not stat.S_ISREG(row.mode)), f"holes: {live}"
    for cached in contents.all_cached(up.store):
        known, row = contents.get(up.store, cached.inode), inodes.get(up.store, cached.inode)
        assert known is not None, "listed just now"
        assert row is not None, f"content of nothing: {cached}"
        if up.table.get(cached.inode) is None:
            assert _is_within(known[1], known[0]), f"dirty not present: {cached}"
            assert _is_within(known[0], Extents.whole(row.size)), f"beyond the size: {row}"


def _check_inodes(up: Engines) -> None:
    for (raw,) in up.store.all("SELECT id FROM inode"):
        ino = InodeId(raw)
        row = inodes.get(up.store, ino)
        assert row is not None, "listed just now"
        found = inodes.names_of(up.store, ino)
        if row.is_dir:
            assert len(found) == (1 if row.nlink and ino != ROOT else 0), f"names {found} {row}"
        elif row.alias_of is not None:
            assert len(found) == row.nlink <= 1, f"names {found} {row}"
            file = inodes.get(up.store, row.alias_of)
            if row.nlink:
                assert file is not None, f"name of nothing: {row}"
                assert file.nlink > 1, f"name of a file with one: {row}"
                assert file.alias_of is None, f"name of a name: {row}"
        else:
            assert len(found) == (1 if row.nlink else 0), f"names {found} {row}"
            others = aliases.of(up.store, ino)
            assert row.nlink in (0, 1 + len(others)), f"{len(others)} further names of {row}"
        if row.in_cloud and not row.is_dir:
            assert row.base_tag is not None, f"in the cloud without version: {row}"
        has_put = journal.find(up.store, ino, IntentKind.PUT) is not None
        if row.nlink:
            # A dirty inode has a PUT intent, and nobody else has.
            assert has_put == bool(row.dirty), f"dirty={row.dirty} put={has_put}: {row}"
        live = up.table.get(ino)
        if live is not None and not live.is_unlinked:
            assert live.is_dirty == bool(row.dirty), f"{live} {row}"
            base = live.base.tag if live.base is not None else None
            assert base == row.base_tag, f"{live} {row}"


def _check_intents(up: Engines) -> None:
    """Promises are about something: an inode with a name, or a key."""
    for seq, kind, ino, resume in up.store.all("SELECT seq, kind, inode, resume FROM intent"):
        row = inodes.get(up.store, InodeId(ino))
        if kind == "move" and InodeId(ino) not in up.table.running:
            assert row is not None, f"move of nothing: {seq}"
            # In place: it only has to find out whether a lost reply meant that it went elsewhere.
            is_open = resume is not None or attempts.of_inode(up.store, row.id) is not None
            assert row.remote_key is not None or is_open, f"move from nowhere: {row}"


def _check_space(up: Engines) -> None:
    """The accounts agree with the extents."""
    used = dirty = 0
    for cached in contents.all_cached(up.store):
        if up.table.get(cached.inode) is None:
            used += cached.bytes
            dirty += cached.dirty_bytes
    for live in up.table:
        used += live.present.total_bytes
        dirty += live.dirty.total_bytes
        # Reserved by fetches under way, less what has landed of them: not known from here.
        if live.fetches:
            return
    holes = up.space.holes.total_bytes
    assert (up.space.used_bytes, up.space.dirty_bytes) == (used - holes, max(0, dirty - holes))
