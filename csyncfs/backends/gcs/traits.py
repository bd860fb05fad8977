"""What Google Cloud Storage is like: see ``backends.traits``."""

from csyncfs.backends.gcs import spelling
from csyncfs.backends.gcs.items import MAX_METADATA_BYTES
from csyncfs.backends.gcs.options import MAX_NAME_BYTES, GcsOptions
from csyncfs.backends.traits import Traits


def traits(options: GcsOptions) -> Traits:
    return Traits(
        name_there=spelling.to_object,
        plain_path_chars=MAX_NAME_BYTES,
        resumes_over_bytes=options.single_bytes,
        resends_over_bytes=None,
        checksum="CRC32C",
        xattr_bytes=MAX_METADATA_BYTES,
        keeps_mtime=True,
        lists_attributes=True,
        folds_case=False,
    )
