"""Errors of S3 speak to users, not to SDK developers."""

import pytest
from botocore import exceptions as sdk

from csyncfs.backends.s3.translation import translate


@pytest.mark.parametrize(
    ("operation", "code", "status", "said"),
    [
        ("list_objects_v2", "NoSuchBucket", 404, "the bucket does not exist"),
        ("list_objects_v2", "AccessDenied", 403, "listing: the credentials do not permit this"),
        ("put_object", "AccessDenied", 403, "writing: the credentials do not permit this"),
        ("get_object", "Odd", 500, "reading: the server failed (HTTP 500)"),
        ("get_bucket_location", "Odd", 500, "get_bucket_location: the server failed (HTTP 500)"),
    ],
)
def test_what_failed_is_said_in_words(operation: str, code: str, status: int, said: str) -> None:
    reply = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = sdk.ClientError(reply, operation)  # pyright: ignore[reportArgumentType]
    assert str(translate(error, operation)) == said
