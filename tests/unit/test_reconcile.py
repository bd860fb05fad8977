"""Every cell of the decision table, written out once more and independently."""

import itertools

import pytest

from csyncfs.reconcile import Action, LocalState, RemoteState, decide

TABLE = """
            SAME     CHANGED             GONE
ABSENT      NOTHING  INSERT              NOTHING
CLEAN       NOTHING  REFRESH             REMOVE
CLEAN_OPEN  NOTHING  REPLACE             REMOVE_OPEN
DIRTY       NOTHING  bytes               RECREATE
CREATED     NOTHING  bytes               NOTHING
REMOVED     DELETE   DROP_INTENT_INSERT  DROP_INTENT
RUNNING     DEFER    DEFER               DEFER
"""
BYTES = {None: Action.COMPARE, True: Action.ADOPT, False: Action.SET_ASIDE}


def cells() -> dict[tuple[LocalState, RemoteState], str]:
    header, *rows = TABLE.strip().splitlines()
    found: dict[tuple[LocalState, RemoteState], str] = {}
    for row in rows:
        local, *actions = row.split()
        for remote, action in zip(header.split(), actions, strict=True):
            found[LocalState[local], RemoteState[remote]] = action
    return found


def test_table_has_every_cell() -> None:
    assert set(cells()) == set(itertools.product(LocalState, RemoteState))


@pytest.mark.parametrize("same_bytes", [None, True, False])
@pytest.mark.parametrize(("local", "remote"), list(itertools.product(LocalState, RemoteState)))
def test_decision_is_the_one_in_the_table(
    local: LocalState, remote: RemoteState, same_bytes: bool | None
) -> None:
    cell = cells()[local, remote]
    expected = BYTES[same_bytes] if cell == "bytes" else Action[cell]
    assert decide(local, remote, same_bytes) is expected


def test_every_action_is_reachable() -> None:
    reached = {
        decide(local, remote, same_bytes)
        for local, remote, same_bytes in itertools.product(LocalState, RemoteState, BYTES)
    }
    assert reached == set(Action)


@pytest.mark.parametrize("local", [LocalState.DIRTY, LocalState.CREATED])
def test_local_edits_are_never_dropped_unless_the_cloud_has_the_same_bytes(
    local: LocalState,
) -> None:
    keeps = {Action.NOTHING, Action.COMPARE, Action.SET_ASIDE, Action.RECREATE}
    for remote, same_bytes in itertools.product(RemoteState, [None, False]):
        assert decide(local, remote, same_bytes) in keeps
