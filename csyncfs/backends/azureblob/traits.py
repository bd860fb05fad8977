"""What Azure Blob Storage is like: see ``backends.traits``."""

from csyncfs.backends.azureblob import spelling
from csyncfs.backends.azureblob.items import MAX_METADATA_BYTES
from csyncfs.backends.azureblob.options import MAX_NAME_CHARS, AzureOptions
from csyncfs.backends.traits import Traits


def traits(options: AzureOptions) -> Traits:
    return Traits(
        name_there=spelling.to_blob,
        plain_path_chars=MAX_NAME_CHARS,
        resumes_over_bytes=options.block_threshold_bytes,
        # Blocks are called by their content: see ``blocks``.
        resends_over_bytes=options.block_threshold_bytes,
        checksum="MD5",
        xattr_bytes=MAX_METADATA_BYTES,
        keeps_mtime=True,
        lists_attributes=True,
        folds_case=False,
    )
