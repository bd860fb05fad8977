"""What lets a mount in: found once at connect, in the order of the Azure tools.

The ``credentials_file``, else the environment: a connection string, a shared key, a SAS token;
else whoever ``azure.identity`` finds (environment, workload, managed identity, ``az login``).
Nothing here is ever part of a message or a log line.
"""

import base64
import binascii
import configparser
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from csyncfs.errors import AccessDenied

_KEY: Final = "AZURE_STORAGE_KEY"
_SAS: Final = "AZURE_STORAGE_SAS_TOKEN"
_CONNECTION: Final = "AZURE_STORAGE_CONNECTION_STRING"
_SECTION: Final = "azure"


@dataclass(frozen=True, slots=True)
class Credentials:
    """At most one of the two; none: ask azure.identity."""

    key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)
    """Without question mark."""
    endpoint: str | None = None
    """The blob service a connection string names."""


def find(account: str, file: str | None, env: Mapping[str, str] | None = None) -> Credentials:
    """Raises AccessDenied for what is there but not usable."""
    words = (os.environ if env is None else env) if file is None else _read(Path(file))
    if connection := words.get(_CONNECTION):
        return _checked(_of_connection(connection, account))
    if key := words.get(_KEY):
        return _checked(Credentials(key=key))
    if sas := words.get(_SAS):
        return Credentials(sas=sas.removeprefix("?"))
    if file is not None:
        raise AccessDenied(
            f"the credentials file has none of {_CONNECTION}, {_KEY}, {_SAS}: {file}"
        )
    return Credentials()


def _read(file: Path) -> Mapping[str, str]:
    """The words of a file of lines ``NAME=VALUE``; a heading is allowed."""
    try:
        mode = file.stat().st_mode
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise AccessDenied(f"the credentials file cannot be read: {file}") from exc
    if stat.S_IMODE(mode) & 0o007:
        raise AccessDenied(f"others can read the credentials file; chmod 600 {file}")
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str.upper  # pyright: ignore[reportAttributeAccessIssue]
    try:
        parser.read_string(text if text.lstrip().startswith("[") else f"[{_SECTION}]\n{text}")
    except configparser.Error:
        # Its message quotes the line.
        raise AccessDenied(f"the credentials file is not lines of NAME=VALUE: {file}") from None
    found: dict[str, str] = {}
    for section in parser.sections():
        found.update((name, value.strip().strip('"')) for name, value in parser.items(section))
    return found


def _of_connection(text: str, account: str) -> Credentials:
    words = {
        name.strip().lower(): value.strip()
        for name, is_word, value in (part.partition("=") for part in text.split(";"))
        if is_word
    }
    named = words.get("accountname", account)
    if named != account:
        raise AccessDenied(f"the connection string is of account {named}, not of {account}")
    endpoint = words.get("blobendpoint")
    if endpoint is None and (suffix := words.get("endpointsuffix")):
        endpoint = f"{words.get('defaultendpointsprotocol', 'https')}://{account}.blob.{suffix}"
    found = Credentials(endpoint=endpoint and endpoint.rstrip("/"))
    if key := words.get("accountkey"):
        return replace(found, key=key)
    if sas := words.get("sharedaccesssignature"):
        return replace(found, sas=sas.removeprefix("?"))
    raise AccessDenied("the connection string has neither AccountKey nor SharedAccessSignature")


def _checked(found: Credentials) -> Credentials:
    try:
        base64.b64decode(found.key or "", validate=True)
    except (binascii.Error, ValueError):
        raise AccessDenied("the storage key is not one: it is not Base64") from None
    return found
