"""From what boto3 raises to csyncfs's errors.

Messages name the operation, never a URL, a key id or what a server wrote: those may carry
secrets. Imports botocore: load it in a worker thread.
"""

from collections.abc import Mapping
from typing import Any, Final

import urllib3.exceptions
from botocore import exceptions as sdk

from csyncfs.backends.failures import (
    BadParts,
    Contended,
    LostReply,
    NoUpload,
    ServerFailed,
    Unmet,
    nature,
)
from csyncfs.errors import (
    AccessDenied,
    BackendError,
    ConfigError,
    CsyncError,
    Hold,
    NoSuchStore,
    NotFound,
    Offline,
    QuotaExceeded,
    Retry,
    Throttled,
    Unrepresentable,
    Unsupported,
)


def translate(error: Exception, operation: str) -> CsyncError:
    """The csyncfs error for anything an SDK call raised."""
    match error:
        case CsyncError():
            return error
        case sdk.ClientError():
            return _of_reply(error, operation)
        case sdk.BotoCoreError():
            return _of_sdk(error, operation)
        case OSError() | urllib3.exceptions.HTTPError():
            # Some errors of a broken stream come through the SDK unwrapped.
            return LostReply(f"{_doing(operation)}: the connection broke ({type(error).__name__})")
        case _:
            return Hold(f"{_doing(operation)}: {nature(error)}")


_NEVER_SENT: Final = (
    sdk.EndpointConnectionError,
    sdk.ConnectTimeoutError,
    sdk.ProxyConnectionError,
    sdk.SSLError,
)
_CREDENTIALS: Final = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.MetadataRetrievalError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
    sdk.UnauthorizedSSOTokenError,
)
_CONFIGURATION: Final = (
    sdk.ProfileNotFound,
    sdk.ConfigNotFound,
    sdk.ConfigParseError,
    sdk.InvalidConfigError,
    sdk.InvalidRegionError,
    sdk.NoRegionError,
    sdk.DataNotFoundError,
)


_DOING: Final[Mapping[str, str]] = {
    "list_objects_v2": "listing",
    "head_object": "looking",
    "get_object": "reading",
    "put_object": "writing",
    "copy_object": "copying",
    "delete_object": "deleting",
    "create_multipart_upload": "writing",
    "upload_part": "writing",
    "upload_part_copy": "copying",
    "complete_multipart_upload": "writing",
}
"""What users call the requests."""


def _of_sdk(error: sdk.BotoCoreError, operation: str) -> CsyncError:
    name = type(error).__name__
    if isinstance(error, _NEVER_SENT):
        return Offline(f"{_doing(operation)}: the S3 endpoint cannot be reached ({name})")
    if isinstance(error, (sdk.HTTPClientError, sdk.IncompleteReadError)):
        return LostReply(f"{_doing(operation)}: the connection broke ({name})")
    if isinstance(error, _CREDENTIALS):
        return AccessDenied(f"no usable AWS credentials were found ({name})")
    if isinstance(error, _CONFIGURATION):
        return ConfigError(f"the AWS configuration is not usable: {error}")
    return Hold(f"{_doing(operation)}: {name}")


_BY_CODE: Final[Mapping[str, tuple[type[BackendError], str]]] = {
    "PreconditionFailed": (Unmet, "somebody else changed the item"),
    "ConditionalRequestConflict": (Contended, "another write of the item is under way"),
    "OperationAborted": (Contended, "another write of the item is under way"),
    "InvalidRange": (Unmet, "the item is shorter than expected"),
    "InvalidPart": (BadParts, "the parts of the upload got lost"),
    "InvalidPartOrder": (BadParts, "the parts of the upload got lost"),
    "NoSuchUpload": (NoUpload, "the multipart upload is gone"),
    "NoSuchBucket": (NoSuchStore, "the bucket does not exist"),
    "InvalidBucketName": (NoSuchStore, "this cannot be the name of a bucket"),
    "NoSuchKey": (NotFound, "no such item"),
    "NotFound": (NotFound, "no such item"),
    "AccessDenied": (AccessDenied, "the credentials do not permit this"),
    "AllAccessDisabled": (AccessDenied, "access to this bucket is disabled"),
    "InvalidAccessKeyId": (AccessDenied, "the access key id is not known"),
    "SignatureDoesNotMatch": (AccessDenied, "the secret access key is wrong"),
    "ExpiredToken": (AccessDenied, "the credentials have expired"),
    "ExpiredTokenException": (AccessDenied, "the credentials have expired"),
    "TokenRefreshRequired": (AccessDenied, "the credentials have expired"),
    "InvalidToken": (AccessDenied, "the session token is not valid"),
    "RequestTimeTooSkewed": (AccessDenied, "the clock of this machine is wrong"),
    "AuthorizationHeaderMalformed": (AccessDenied, "the region is not the bucket's"),
    "PermanentRedirect": (NoSuchStore, "the bucket is in another region"),
    "InvalidObjectState": (Hold, "the item is archived and must be restored first"),
    "SlowDown": (Throttled, "the server asks for fewer requests"),
    "Throttling": (Throttled, "the server asks for fewer requests"),
    "ThrottlingException": (Throttled, "the server asks for fewer requests"),
    "RequestLimitExceeded": (Throttled, "the server asks for fewer requests"),
    "TooManyRequests": (Throttled, "the server asks for fewer requests"),
    "RequestTimeout": (LostReply, "the server waited too long for the content"),
    "IncompleteBody": (Retry, "the content did not arrive whole"),
    "BadDigest": (Retry, "the content arrived damaged"),
    "XAmzContentSHA256Mismatch": (Retry, "the content arrived damaged"),
    "QuotaExceeded": (QuotaExceeded, "the store is full"),
    "XMinioStorageFull": (QuotaExceeded, "the store is full"),
    "InsufficientStorage": (QuotaExceeded, "the store is full"),
    "EntityTooLarge": (Unrepresentable, "too large for this store"),
    "KeyTooLongError": (Unrepresentable, "the name is too long for this store"),
    "KeyTooLong": (Unrepresentable, "the name is too long for this store"),
    "InvalidObjectName": (Unrepresentable, "the store cannot hold this name"),
    "InvalidURI": (Unrepresentable, "the store cannot hold this name"),
    "InvalidArgument": (Unrepresentable, "the store refuses this name or size"),
    "MetadataTooLarge": (Unrepresentable, "the attributes are too large for this store"),
    "NotImplemented": (Unsupported, "the server does not know this request"),
    "MethodNotAllowed": (Unsupported, "the server does not allow this request"),
}
_BY_STATUS: Final[Mapping[int, tuple[type[BackendError], str]]] = {
    301: _BY_CODE["PermanentRedirect"],
    307: (Retry, "the server points elsewhere for now"),
    401: _BY_CODE["AccessDenied"],
    403: _BY_CODE["AccessDenied"],
    404: _BY_CODE["NoSuchKey"],
    405: _BY_CODE["MethodNotAllowed"],
    408: _BY_CODE["RequestTimeout"],
    # A condition on a name that exists is answered so by some; AWS's 409 has its own code.
    409: _BY_CODE["PreconditionFailed"],
    412: _BY_CODE["PreconditionFailed"],
    # Nobody asks for bytes beyond the size of the version he expects.
    416: (Unmet, "the item is shorter than expected"),
    429: _BY_CODE["SlowDown"],
    501: _BY_CODE["NotImplemented"],
    503: _BY_CODE["SlowDown"],
    507: _BY_CODE["QuotaExceeded"],
}


def _doing(operation: str) -> str:
    return _DOING.get(operation, operation)


def code_of(error: sdk.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: sdk.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _of_reply(error: sdk.ClientError, operation: str) -> CsyncError:
    status = status_of(error)
    found = _BY_CODE.get(code_of(error)) or _BY_STATUS.get(status)
    if found is None:
        if status >= 500 or status < 400:
            return ServerFailed(f"{_doing(operation)}: the server failed (HTTP {status})")
        return Hold(f"{_doing(operation)}: the server refused the request (HTTP {status})")
    kind, text = found
    message = text if kind is NoSuchStore else f"{_doing(operation)}: {text}"
    if issubclass(kind, Retry):
        return kind(message, _retry_after(error))
    return kind(message)


def _retry_after(error: sdk.ClientError) -> float | None:
    metadata: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
    value = str(metadata.get("HTTPHeaders", {}).get("retry-after", ""))
    return float(value) if value.isdecimal() else None


def is_stale_connection(error: Exception) -> bool:
    """True if an idle connection may have been closed under the request."""
    return isinstance(error, sdk.ConnectionClosedError)
