"""Lists that once showed a difference, shrunk, each with what was wrong."""

from typing import Any

import pytest

from tests.support.operations import (
    Crash,
    CrashAt,
    Fault,
    Flush,
    Latency,
    Look,
    Mkdir,
    Network,
    Open,
    Rename,
    RenameOver,
    Restart,
    Save,
    Sleep,
    Symlink,
    Unlink,
    Utime,
    Wipe,
)
from tests.support.story import FLAVOURS, Flavour, live

_KEPT: dict[str, tuple[list[Any], Flavour]] = {
    # 0 was taken for "the item does not say", and the time of the upload shown instead.
    "the_first_second_of_1970_is_a_time": ([Save(), Utime(time=1)], Flavour()),
    # The listing showed the echo of an upload whose reply was still on its way; the file had
    # another name by then, so that it seemed to be somebody else's, and was there twice.
    "a_listing_during_an_upload_shows_no_file_twice": (
        [Network(on=False), Save(), Sleep(2), Crash(), Rename(0, 1)],
        Flavour(),
    ),
    # An upload took effect just before a crash. The same bytes were then written again: found
    # to be the same, they were not sent, and the newer mtime with them.
    "attributes_of_an_adopted_upload_are_sent": (
        [
            *(Latency(1), Save(), Save(), Save(), Save(), Save()),
            *(Sleep(2), Save(), Save(), Save(), Crash()),
        ],
        Flavour(),
    ),
    # Removed, or replaced, while the store was asked what a request before the crash had become:
    # a listing then took the old item for somebody's edit, which beats a removal.
    "what_is_removed_while_it_is_looked_for_stays_removed": (
        [
            *(CrashAt(), Save(), Mkdir(mode=0), Mkdir(mode=0), Save(), Look(), Restart()),
            *(Save(), Save(), Save(), CrashAt(), Save(), Unlink()),
        ],
        Flavour(real_dirs=True),
    ),
    "what_is_replaced_while_it_is_looked_for_is_no_conflict": (
        [
            *(Save(1), Save(), Save(), Flush(), Save(), Save(), Save(1)),
            *(CrashAt(4), Rename(0, 1)),
        ],
        Flavour(),
    ),
    # A clean content file was gone with the cache directory. Its bytes were given back to the
    # space once each time the file was opened, until somebody read it.
    "a_wiped_file_gives_its_space_back_once": (
        [Save(1), Look(), Save(), Wipe(), Save(), Open(at=1)],
        Flavour(),
    ),
    # A move failed, and the file that it was to replace has the same bytes: by its tag that was
    # the moved one, which stayed where it was, and was then removed under its new name.
    "what_a_failed_move_was_to_replace_is_not_the_moved_file": (
        [
            *(Save(1), Save(), Save(), Fault(0, 3), Save(2), Symlink(28), Save(), Flush(), Save()),
            *(RenameOver(0, 1), Flush()),
        ],
        Flavour(real_dirs=True, content_tags=True, lists_attributes=True, slots=1),
    ),
}


@pytest.mark.parametrize("name", _KEPT)
def test_a_list_that_once_showed_a_difference(name: str) -> None:
    operations, found_on = _KEPT[name]
    for flavour in {found_on, *FLAVOURS[:2]}:
        live(operations, flavour)
