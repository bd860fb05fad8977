"""What Graph's published metadata (CSDL, v1.0) says of the types the emulator answers with.

Written by hand from the metadata, so that a property the emulator invents, or gives another
type, is found without Microsoft's own library.
"""

import re
from typing import Any, Final, cast

from tests.support.graph_client import Json

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z")
_LISTS: Final = re.compile(r"\[(\w+)\]")

_ITEM_BASE: Final = {
    "id": "string",
    "createdBy": "identitySet",
    "createdDateTime": "date",
    "description": "string",
    "eTag": "string",
    "lastModifiedBy": "identitySet",
    "lastModifiedDateTime": "date",
    "name": "string",
    "parentReference": "itemReference",
    "webUrl": "string",
}
TYPES: Final[dict[str, dict[str, str]]] = {
    "driveItem": {
        **_ITEM_BASE,
        "cTag": "string",
        "deleted": "deleted",
        "file": "file",
        "fileSystemInfo": "fileSystemInfo",
        "folder": "folder",
        "malware": "malware",
        "package": "package",
        "remoteItem": "remoteItem",
        "root": "root",
        "size": "int",
        "specialFolder": "specialFolder",
        "webDavUrl": "string",
        "children": "[driveItem]",
    },
    "identitySet": {"user": "identity", "application": "identity", "device": "identity"},
    "identity": {"id": "string", "displayName": "string"},
    "itemReference": {
        "driveId": "string",
        "driveType": "string",
        "id": "string",
        "name": "string",
        "path": "string",
        "shareId": "string",
        "siteId": "string",
    },
    "deleted": {"state": "string"},
    "file": {"hashes": "hashes", "mimeType": "string", "processingMetadata": "bool"},
    "hashes": {
        "crc32Hash": "string",
        "quickXorHash": "string",
        "sha1Hash": "string",
        "sha256Hash": "string",
    },
    "folder": {"childCount": "int"},
    "fileSystemInfo": {
        "createdDateTime": "date",
        "lastAccessedDateTime": "date",
        "lastModifiedDateTime": "date",
    },
    "malware": {"description": "string"},
    "package": {"type": "string"},
    "root": {},
    "specialFolder": {"name": "string"},
    "remoteItem": {
        "id": "string",
        "name": "string",
        "size": "int",
        "file": "file",
        "folder": "folder",
        "package": "package",
        "fileSystemInfo": "fileSystemInfo",
        "parentReference": "itemReference",
        "webUrl": "string",
    },
    "drive": {**_ITEM_BASE, "driveType": "string", "owner": "identitySet", "quota": "quota"},
    "quota": {
        "deleted": "int",
        "remaining": "int",
        "state": "string",
        "total": "int",
        "used": "int",
    },
    "uploadSession": {
        "expirationDateTime": "date",
        "nextExpectedRanges": "[string]",
        "uploadUrl": "string",
    },
    "driveItemVersion": {
        "id": "string",
        "lastModifiedBy": "identitySet",
        "lastModifiedDateTime": "date",
        "size": "int",
    },
    "user": {
        "id": "string",
        "displayName": "string",
        "mail": "string",
        "userPrincipalName": "string",
    },
    "site": {**_ITEM_BASE, "displayName": "string", "siteCollection": "siteCollection"},
    "siteCollection": {"hostname": "string"},
    "subscription": {
        "changeType": "string",
        "clientState": "string",
        "expirationDateTime": "date",
        "id": "string",
        "notificationUrl": "string",
        "resource": "string",
    },
    # Two that are not in the metadata: the end of an OData error, and the monitor's answer.
    "error": {"code": "string", "message": "string", "innerError": "inner", "innererror": "inner"},
    "inner": {"code": "string", "date": "string", "request-id": "string"}
    | {"client-request-id": "string"},
    "operation": {
        "operation": "string",
        "percentageComplete": "number",
        "status": "string",
        "resourceId": "string",
        "errorCode": "string",
        "statusDescription": "string",
    },
    "socketIo": {"id": "string", "notificationUrl": "string", "expirationDateTime": "date"},
}
_ENUMS: Final[dict[tuple[str, str], set[str]]] = {
    ("drive", "driveType"): {"personal", "business", "documentLibrary"},
    ("itemReference", "driveType"): {"personal", "business", "documentLibrary"},
    ("quota", "state"): {"normal", "nearing", "critical", "exceeded"},
    ("deleted", "state"): {"deleted", "softDeleted"},
    ("operation", "status"): {"notStarted", "inProgress", "completed", "failed"},
    ("subscription", "changeType"): {"updated"},
}
_ANNOTATIONS: Final = frozenset(
    {
        *("@odata.context", "@odata.nextLink", "@odata.deltaLink", "@odata.type"),
        "@microsoft.graph.downloadUrl",
    }
)


def objections(type_name: str, payload: Json) -> list[str]:
    """What is wrong with it; ``[name]`` is a collection of them."""
    listed = _LISTS.fullmatch(type_name)
    if listed is None:
        return _object(type_name, payload, "")
    errors = [f"unknown {key}" for key in payload if key != "value" and key not in _ANNOTATIONS]
    values: list[Json] = payload["value"]
    return [*errors, *(e for v in values for e in _object(listed[1], v, "value"))]


def _object(type_name: str, payload: object, where: str) -> list[str]:
    if not isinstance(payload, dict):
        return [f"{where}: no {type_name}"]
    errors: list[str] = []
    known = TYPES[type_name]
    for key, value in cast("Json", payload).items():
        place = f"{where}.{key}"
        if key.startswith("@"):
            if key not in _ANNOTATIONS or not isinstance(value, str):
                errors.append(f"{place}: strange annotation")
        elif key not in known:
            errors.append(f"{place}: unknown")
        else:
            errors += _value(known[key], value, place)
            allowed = _ENUMS.get((type_name, key))
            if allowed is not None and value not in allowed:
                errors.append(f"{place}: {value!r} is none of {sorted(allowed)}")
    return errors


def _value(type_name: str, value: Any, where: str) -> list[str]:
    listed = _LISTS.fullmatch(type_name)
    if listed is not None:
        if not isinstance(value, list):
            return [f"{where}: no list"]
        values = cast("list[Any]", value)
        return [error for one in values for error in _value(listed[1], one, where)]
    match type_name:
        case "string":
            good = isinstance(value, str)
        case "int":
            good = isinstance(value, int) and not isinstance(value, bool)
        case "bool":
            good = isinstance(value, bool)
        case "number":
            good = isinstance(value, int | float)
        case "date":
            good = isinstance(value, str) and _DATE.fullmatch(value) is not None
        case _:
            return _object(type_name, value, where)
    return [] if good else [f"{where}: {value!r} is no {type_name}"]
