"""From what the SDK raises to csyncfs's errors.

Messages name the operation, never a URL, a key or what a server wrote: those may carry secrets.
Imports the SDK: load it in a worker thread.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import requests.exceptions
import urllib3.exceptions
from azure.core import exceptions as sdk

from csyncfs.backends.failures import BadParts, Contended, LostReply, ServerFailed, Unmet, nature
from csyncfs.errors import (
    AccessDenied,
    BackendError,
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
    VersionMismatch,
)


class SourceUnmet(VersionMismatch):
    """The source of a copy or a move is gone or another version; the target may be as expected."""


def translate(error: Exception, doing: str) -> CsyncError:
    """The csyncfs error for anything an SDK call raised."""
    match error:
        case CsyncError():
            return error
        case sdk.HttpResponseError() if error.response is not None:
            return _of_reply(error, doing)
        case sdk.ClientAuthenticationError():
            return AccessDenied(
                "no usable Azure credentials were found: set AZURE_STORAGE_KEY,"
                " AZURE_STORAGE_SAS_TOKEN or credentials_file, or run az login"
            )
        case sdk.ServiceRequestError() if _never_sent(error):
            return Offline(f"{doing}: the Azure endpoint cannot be reached ({_cause(error)})")
        case sdk.AzureError() | OSError() | urllib3.exceptions.HTTPError():
            return LostReply(f"{doing}: the connection broke ({_cause(error)})")
        case _:
            return Hold(f"{doing}: {nature(error)}")


_NEVER_SENT: Final = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.NameResolutionError,
    urllib3.exceptions.ProxyError,
    urllib3.exceptions.SSLError,
    requests.exceptions.ConnectTimeout,
    requests.exceptions.ProxyError,
    requests.exceptions.SSLError,
)


def _never_sent(error: BaseException) -> bool:
    # The SDK also says so of connections that broke while the request was being sent.
    return any(isinstance(cause, _NEVER_SENT) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What an error is made of; each library has another way to tell."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (getattr(one, "inner_exception", None), getattr(one, "reason", None))
        waiting += [
            e
            for e in (*inner, one.__cause__, one.__context__, *one.args)
            if isinstance(e, BaseException)
        ]


def _cause(error: BaseException) -> str:
    return type(next((c for c in _causes(error) if isinstance(c, _NEVER_SENT)), error)).__name__


def is_stale_connection(error: Exception) -> bool:
    """True if an idle connection may have been closed under the request."""
    return isinstance(error, sdk.AzureError) and any(
        isinstance(cause, (ConnectionResetError, BrokenPipeError, urllib3.exceptions.ProtocolError))
        for cause in _causes(error)
    )


_DENIED: Final = (AccessDenied, "the credentials do not permit this")
_CHANGED: Final = (Unmet, "somebody else changed the item")
_SLOW: Final = (Throttled, "the server asks for fewer requests")
_NAME: Final = (Unrepresentable, "the store cannot hold this name")

_BY_CODE: Final[Mapping[str, tuple[type[BackendError], str]]] = {
    "ConditionNotMet": _CHANGED,
    "TargetConditionNotMet": _CHANGED,
    "BlobAlreadyExists": _CHANGED,
    "BlobOverwritten": _CHANGED,
    "PathAlreadyExists": _CHANGED,
    "ResourceTypeMismatch": _CHANGED,
    "DirectoryIsNotEmpty": (Unmet, "the directory is not empty"),
    "DirectoryNotEmpty": (Unmet, "the directory is not empty"),
    "InvalidRange": (Unmet, "the item is shorter than expected"),
    "SourceConditionNotMet": (SourceUnmet, "somebody else changed the source"),
    "SourcePathNotFound": (NotFound, "no such item"),
    "RenameDestinationParentPathNotFound": (NotFound, "no such directory"),
    "InvalidRenameSourcePath": (Unrepresentable, "a directory cannot move below itself"),
    "BlobNotFound": (NotFound, "no such item"),
    "PathNotFound": (NotFound, "no such item"),
    "ParentNotFound": (NotFound, "no such directory"),
    "ContainerNotFound": (NoSuchStore, "the container does not exist"),
    "FilesystemNotFound": (NoSuchStore, "the container does not exist"),
    "ContainerBeingDeleted": (NoSuchStore, "the container is being deleted"),
    "ContainerDisabled": (NoSuchStore, "the container is disabled"),
    "InvalidBlockList": (BadParts, "the blocks of the upload got lost"),
    "InvalidBlobType": (Hold, "an append or page blob can only be replaced by a small file"),
    "BlobArchived": (Hold, "the item is archived and must be restored first"),
    "BlobBeingRehydrated": (Hold, "the item is being restored from the archive"),
    "BlobImmutableDueToPolicy": (Hold, "a policy forbids to change the item"),
    "SnapshotsPresent": (Hold, "the item has snapshots, which would go with it"),
    "LeaseIdMissing": (Contended, "somebody has a lease on the item"),
    "LeaseIdMismatchWithBlobOperation": (Contended, "somebody has a lease on the item"),
    "PendingCopyOperation": (Contended, "a copy to the item is under way"),
    "PathIsBeingModified": (Contended, "somebody else is changing the item"),
    "RenameConflict": (Contended, "somebody else is changing the item"),
    "AuthenticationFailed": (AccessDenied, "the key or token is wrong, or this machine's clock"),
    "AuthorizationFailure": (AccessDenied, "the key or token is wrong or does not permit this"),
    "InvalidAuthenticationInfo": (AccessDenied, "the key or token is wrong"),
    "NoAuthenticationInformation": (AccessDenied, "the store wants credentials"),
    "KeyBasedAuthenticationNotPermitted": (AccessDenied, "the account allows no shared keys"),
    "AccountIsDisabled": (AccessDenied, "the account is disabled"),
    "InsufficientAccountPermissions": _DENIED,
    "AuthorizationPermissionMismatch": _DENIED,
    "AuthorizationProtocolMismatch": _DENIED,
    "AuthorizationResourceTypeMismatch": _DENIED,
    "AuthorizationServiceMismatch": _DENIED,
    "AuthorizationSourceIPMismatch": (AccessDenied, "the token does not permit this address"),
    "CannotVerifyCopySource": (Unsupported, "the server cannot read the source of the copy"),
    "Md5Mismatch": (Retry, "the content arrived damaged"),
    "Crc64Mismatch": (Retry, "the content arrived damaged"),
    "InvalidMd5": (Retry, "the content arrived damaged"),
    "ServerBusy": _SLOW,
    "OperationTimedOut": (ServerFailed, "the server took too long"),
    "InternalError": (ServerFailed, "the server failed"),
    "RequestBodyTooLarge": (Unrepresentable, "too large for this store"),
    "BlockCountExceedsLimit": (Unrepresentable, "too large for this store"),
    "MetadataTooLarge": (Unrepresentable, "the attributes are too large for this store"),
    "InvalidMetadata": (Unrepresentable, "the store cannot hold these attributes"),
    "EmptyMetadataKey": (Unrepresentable, "the store cannot hold these attributes"),
    "InvalidResourceName": _NAME,
    "InvalidUri": _NAME,
    "OutOfRangeInput": _NAME,
    "AccountLimitExceeded": (QuotaExceeded, "the store is full"),
    "APINotImplemented": (Unsupported, "the server does not know this request"),
    "FeatureVersionMismatch": (Unsupported, "the server does not know this request"),
    "UnsupportedHttpVerb": (Unsupported, "the server does not allow this request"),
}
_BY_STATUS: Final[Mapping[int, tuple[type[BackendError], str]]] = {
    401: _BY_CODE["AuthenticationFailed"],
    403: _BY_CODE["AuthorizationFailure"],
    404: _BY_CODE["BlobNotFound"],
    408: (LostReply, "the server waited too long for the content"),
    409: _CHANGED,
    412: _CHANGED,
    # Nobody asks for bytes beyond the size of the version he expects.
    416: (Unmet, "the item is shorter than expected"),
    429: _SLOW,
    501: _BY_CODE["APINotImplemented"],
    503: _SLOW,
    507: _BY_CODE["AccountLimitExceeded"],
}


def code_of(error: sdk.HttpResponseError) -> str:
    """What the server calls the error; "" if it does not."""
    response: Any = error.response
    told = response.headers.get("x-ms-error-code") if response is not None else None
    return str(told or "")


def _of_reply(error: sdk.HttpResponseError, doing: str) -> CsyncError:
    status = int(error.status_code or 0)
    if 200 <= status < 300:
        # The reply began well and broke off.
        return LostReply(f"{doing}: the connection broke ({type(error).__name__})")
    found = _BY_CODE.get(code_of(error)) or _BY_STATUS.get(status)
    if found is None:
        if status >= 500 or status < 400:
            return ServerFailed(f"{doing}: the server failed (HTTP {status})")
        return Hold(f"{doing}: the server refused the request (HTTP {status})")
    kind, text = found
    message = text if kind is NoSuchStore else f"{doing}: {text}"
    if issubclass(kind, Retry):
        return kind(message, _retry_after(error))
    return kind(message)


def _retry_after(error: sdk.HttpResponseError) -> float | None:
    response: Any = error.response
    value = str(response.headers.get("retry-after", ""))
    return float(value) if value.isdecimal() else None
