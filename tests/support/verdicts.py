"""What the dialect probe finds on each server of the tests; test_s3_dialect holds them to it."""

from dataclasses import replace
from typing import Final

from csyncfs.backends.s3 import Support, Verdict
from csyncfs.backends.s3.dialect import assumed

YES, IGNORED = Support.YES, Support.IGNORED

VERDICTS: Final = {
    "seaweedfs": Verdict(
        server="SeaweedFS",
        put_if_none_match=YES,
        put_if_match=YES,
        quoted_tags=True,
        complete_if_none_match=YES,
        complete_if_match=YES,
        copy_if_none_match=YES,
        copy_if_match=YES,
        copy_source_if_match=YES,
        delete_if_match=YES,
        get_if_match=YES,
        keeps_metadata=True,
        md5_tags=True,
        dir_markers=False,
        tree_dirs=True,
        raw_keys=False,
    ),
    "ceph": Verdict(
        server="Ceph",
        put_if_none_match=YES,
        put_if_match=YES,
        quoted_tags=False,
        complete_if_none_match=IGNORED,
        complete_if_match=IGNORED,
        copy_if_none_match=IGNORED,
        copy_if_match=IGNORED,
        copy_source_if_match=IGNORED,
        delete_if_match=IGNORED,
        get_if_match=YES,
        keeps_metadata=True,
        md5_tags=True,
        dir_markers=True,
        tree_dirs=True,
        raw_keys=True,
    ),
    "rclone_s3": Verdict(
        server="unknown S3 server",
        put_if_none_match=IGNORED,
        put_if_match=IGNORED,
        quoted_tags=True,
        complete_if_none_match=IGNORED,
        complete_if_match=IGNORED,
        copy_if_none_match=IGNORED,
        copy_if_match=IGNORED,
        copy_source_if_match=IGNORED,
        delete_if_match=IGNORED,
        get_if_match=IGNORED,
        keeps_metadata=True,
        md5_tags=True,
        dir_markers=False,
        tree_dirs=False,
        raw_keys=False,
    ),
    "moto": Verdict(
        server="moto",
        put_if_none_match=YES,
        put_if_match=YES,
        quoted_tags=True,
        complete_if_none_match=YES,
        complete_if_match=IGNORED,
        copy_if_none_match=IGNORED,
        copy_if_match=IGNORED,
        copy_source_if_match=IGNORED,
        delete_if_match=YES,
        get_if_match=YES,
        keeps_metadata=True,
        md5_tags=True,
        dir_markers=True,
        tree_dirs=True,
        raw_keys=True,
    ),
}

# As documented: no test reaches Amazon. The tag of a plain PUT is the MD5 unless KMS encrypts it.
AWS: Final = replace(assumed("Amazon S3", YES), probed=True, md5_tags=True)
