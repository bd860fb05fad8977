"""A request takes effect, its reply is lost, the cable stays out, and work goes on meanwhile.

What the request made must not pass for somebody else's when the network is back: no file twice,
none back from the dead, no conflict with ourselves, no attribute lost.
"""

from typing import Any

import pytest

from tests.support.operations import (
    Chmod,
    Evict,
    Fault,
    Flush,
    Mkdir,
    Network,
    Patch,
    Rename,
    Rmdir,
    Save,
    Sleep,
    Truncate,
    Unlink,
)
from tests.support.story import FLAVOURS, Flavour, live

_LOST = (Fault(2, 0), Sleep(2), Sleep(0), Sleep(0), Network(on=False))
_INTO_DIR = 9

_FILE, _DIR = (Save(), Flush()), (Mkdir(), Flush())
_FULL_DIR = (Mkdir(), Save(_INTO_DIR), Flush())
_EDIT, _MODE, _MOVE = Save(0, 0, 5), Chmod(0, 1), Rename(0, 1)

_STORIES: dict[str, list[Any]] = {
    "mkdir, rmdir": [Mkdir(), *_LOST, Rmdir()],
    "mkdir, rename": [Mkdir(), *_LOST, _MOVE],
    "mkdir, rename, another file": [Mkdir(), *_LOST, _MOVE, Save()],
    "put, unlink": [Save(), *_LOST, Unlink()],
    "put, rename": [Save(), *_LOST, _MOVE],
    "put, chmod": [Save(), *_LOST, _MODE],
    "put, rename, another file": [Save(), *_LOST, _MOVE, Save(0, 1, 1)],
    "put, unlink, another file": [Save(), *_LOST, Unlink(), Save(0, 1, 1)],
    "put, unlink, a directory": [Save(), *_LOST, Unlink(), Mkdir()],
    "put, truncate": [Save(), *_LOST, Truncate(0, 2)],
    "overwrite, overwrite": [*_FILE, _EDIT, *_LOST, Save(0, 1, 1)],
    "overwrite, unlink": [*_FILE, _EDIT, *_LOST, Unlink()],
    "overwrite, rename": [*_FILE, _EDIT, *_LOST, _MOVE],
    "overwrite, rename, another file": [*_FILE, _EDIT, *_LOST, _MOVE, Save(0, 1, 1)],
    "chmod, chmod": [*_FILE, _MODE, *_LOST, Chmod(0, 2)],
    "chmod, unlink": [*_FILE, _MODE, *_LOST, Unlink()],
    "chmod, rename": [*_FILE, _MODE, *_LOST, _MOVE],
    "chmod, overwrite": [*_FILE, _MODE, *_LOST, Save(0, 0, 7)],
    "chmod of a directory, chmod": [*_DIR, _MODE, *_LOST, Chmod(0, 2)],
    "chmod of a directory, rename": [*_DIR, _MODE, *_LOST, _MOVE],
    "move, move": [*_FILE, _MOVE, *_LOST, Rename(0, 2)],
    "move, move back": [*_FILE, _MOVE, *_LOST, Rename(0, 0)],
    "move, evicted, move": [*_FILE, Evict(), _MOVE, *_LOST, Rename(0, 2)],
    "move, unlink": [*_FILE, _MOVE, *_LOST, Unlink()],
    "move, patch": [*_FILE, _MOVE, *_LOST, Patch(0, 1)],
    "move over, move": [Save(), Save(1), Flush(), _MOVE, *_LOST, Rename(0, 2)],
    "move over, unlink": [Save(), Save(1), Flush(), _MOVE, *_LOST, Unlink()],
    "move of a directory, move": [*_DIR, _MOVE, *_LOST, Rename(0, 2)],
    "move of a directory, rmdir": [*_DIR, _MOVE, *_LOST, Rmdir()],
    "move of a full directory, move": [*_FULL_DIR, _MOVE, *_LOST, Rename(0, 2)],
    "move of a full directory, move back": [*_FULL_DIR, _MOVE, *_LOST, Rename(0, 0)],
    "delete, another file": [*_FILE, Unlink(), *_LOST, Save(0, 1, 2)],
    "rmdir, another directory": [*_DIR, Rmdir(), *_LOST, Mkdir()],
}


@pytest.mark.parametrize("flavour", FLAVOURS[:2], ids=str)
@pytest.mark.parametrize("story", _STORIES)
def test_what_a_request_without_reply_made_is_known_again(story: str, flavour: Flavour) -> None:
    live(_STORIES[story], flavour)
