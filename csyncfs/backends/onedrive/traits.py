"""What OneDrive is like: see ``backends.traits``."""

from csyncfs.backends.onedrive import spelling
from csyncfs.backends.onedrive.options import OneDriveOptions
from csyncfs.backends.traits import Traits
from csyncfs.types import Kind


def traits(options: OneDriveOptions, *, is_personal: bool) -> Traits:
    place = spelling.Place(is_personal=is_personal, is_top=False)
    return Traits(
        name_there=lambda name: spelling.to_name(name, Kind.FILE, place),
        plain_path_chars=spelling.MAX_PATH_CHARS,
        resumes_over_bytes=options.fragment_bytes,
        resends_over_bytes=None,
        checksum="QuickXor",
        xattr_bytes=0,
        keeps_mtime=True,
        lists_attributes=True,
        folds_case=True,
    )
