"""What directories are like: see ``backends.traits``."""

from csyncfs.backends.directory.backend import RESUME_BYTES
from csyncfs.backends.traits import Traits


def traits() -> Traits:
    return Traits(
        name_there=lambda name: name,
        plain_path_chars=None,
        resumes_over_bytes=RESUME_BYTES,
        resends_over_bytes=None,
        checksum=None,
        xattr_bytes=None,
        keeps_mtime=True,
        lists_attributes=True,
        folds_case=False,
        owner_needs_root=True,
    )
