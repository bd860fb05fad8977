"""What a server of S3 is like: see ``backends.traits``."""

from csyncfs.backends.metadata import MAX_METADATA_BYTES
from csyncfs.backends.s3.dialect import Verdict
from csyncfs.backends.s3.options import MAX_KEY_BYTES, S3Options
from csyncfs.backends.traits import Traits
from csyncfs.errors import Unrepresentable


def traits(verdict: Verdict, options: S3Options) -> Traits:
    def name_there(name: str) -> str:
        if verdict.rewrites(name):
            raise Unrepresentable("this server rewrites the name")
        return options.full_key(name)

    return Traits(
        name_there=name_there,
        plain_path_chars=MAX_KEY_BYTES,
        resumes_over_bytes=options.multipart_threshold_bytes,
        resends_over_bytes=None,
        checksum="MD5" if verdict.md5_tags else None,
        xattr_bytes=MAX_METADATA_BYTES if verdict.keeps_metadata else 0,
        keeps_mtime=verdict.keeps_metadata,
        lists_attributes=False,
        folds_case=False,
    )
