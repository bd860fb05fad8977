"""Any S3 service. Importing this is cheap: boto3 comes with the first ``connect``."""

from csyncfs.backends.s3.backend import S3Backend
from csyncfs.backends.s3.dialect import Support, Verdict
from csyncfs.backends.s3.options import S3Options

__all__ = ["S3Backend", "S3Options", "Support", "Verdict"]
