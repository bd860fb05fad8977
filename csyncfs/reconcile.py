"""What to do when the local side and the cloud may have moved apart: one pure table.

Owns the decision, not its execution. The poller, the uploader, recovery and a failed
precondition all ask here, so they cannot disagree.
"""

import enum
from typing import assert_never


class LocalState(enum.Enum):
    """How a name stands here, compared with its base."""

    ABSENT = enum.auto()
    """No such name here, and nothing we did removed it."""
    CLEAN = enum.auto()
    CLEAN_OPEN = enum.auto()
    """Clean, and at least one handle is open."""
    DIRTY = enum.auto()
    """Has a base and edits the cloud does not have."""
    CREATED = enum.auto()
    """Made here, not in the cloud yet: its base is ABSENT."""
    REMOVED = enum.auto()
    """Removed here; the DELETE intent has not run."""
    RUNNING = enum.auto()
    """An intent is on its way; what the cloud says now may be our own echo."""


class RemoteState(enum.Enum):
    """How the item stands in the cloud, compared with the base."""

    SAME = enum.auto()
    CHANGED = enum.auto()
    GONE = enum.auto()


class Action(enum.Enum):
    """What the caller does, in one transaction."""

    NOTHING = enum.auto()
    INSERT = enum.auto()
    """Make an inode for the remote item."""
    REFRESH = enum.auto()
    """Take the remote version as base; the cached bytes go."""
    REPLACE = enum.auto()
    """The name gets a new inode; open handles keep the old one and its bytes."""
    REMOVE = enum.auto()
    REMOVE_OPEN = enum.auto()
    """The name goes, the inode stays until its last handle is closed."""
    ADOPT = enum.auto()
    """Both sides wrote the same bytes: the remote version becomes the base, the intent goes."""
    COMPARE = enum.auto()
    """Find out whether the bytes are equal, then ask again."""
    SET_ASIDE = enum.auto()
    """The local inode moves to a ``.conflict`` name, the remote item takes this one."""
    RECREATE = enum.auto()
    """The base becomes ABSENT and the edit is uploaded as a new item."""
    DROP_INTENT_INSERT = enum.auto()
    """Forget the removal and show the remote item again."""
    DROP_INTENT = enum.auto()
    """Nothing is left to remove."""
    DELETE = enum.auto()
    """Let the DELETE run, on condition that the base is still there."""
    DEFER = enum.auto()
    """Look again when the intent has ended."""


def decide(local: LocalState, remote: RemoteState, same_bytes: bool | None = None) -> Action:
    """The action for one name. ``same_bytes`` None: not known; then COMPARE where it matters."""
    match local:
        case LocalState.ABSENT:
            return _choose(remote, Action.NOTHING, Action.INSERT, Action.NOTHING)
        case LocalState.CLEAN:
            return _choose(remote, Action.NOTHING, Action.REFRESH, Action.REMOVE)
        case LocalState.CLEAN_OPEN:
            return _choose(remote, Action.NOTHING, Action.REPLACE, Action.REMOVE_OPEN)
        case LocalState.DIRTY:
            # An edit beats a delete: the one who deleted can do so again, edits cannot be redone.
            return _choose(remote, Action.NOTHING, _both_wrote(same_bytes), Action.RECREATE)
        case LocalState.CREATED:
            return _choose(remote, Action.NOTHING, _both_wrote(same_bytes), Action.NOTHING)
        case LocalState.REMOVED:
            return _choose(remote, Action.DELETE, Action.DROP_INTENT_INSERT, Action.DROP_INTENT)
        case LocalState.RUNNING:
            return Action.DEFER
    assert_never(local)


def _choose(remote: RemoteState, same: Action, changed: Action, gone: Action) -> Action:
    match remote:
        case RemoteState.SAME:
            return same
        case RemoteState.CHANGED:
            return changed
        case RemoteState.GONE:
            return gone
    assert_never(remote)


def _both_wrote(same_bytes: bool | None) -> Action:
    if same_bytes is None:
        return Action.COMPARE
    return Action.ADOPT if same_bytes else Action.SET_ASIDE
