"""Which names the service takes, and which of them are the same to it."""

import re
import unicodedata
from typing import Final

from tests.support.graph.failures import GraphError, bad_request

_ILLEGAL: Final = re.compile(r'["*:<>?/\\|\x00-\x1f\x7f]')
_DEVICE: Final = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", re.IGNORECASE | re.DOTALL)
_RESERVED: Final = frozenset({".lock", "desktop.ini"})
NAME_MAX: Final = 255
PATH_MAX: Final = 400


def fold(name: str, *, nfc: bool = False) -> str:
    """The same for names that cannot be in one folder."""
    if nfc:
        name = unicodedata.normalize("NFC", name)
    return "".join(up if len(up := c.upper()) == 1 else c for c in name)


def check_name(name: object, *, is_folder: bool, is_personal: bool, in_root: bool) -> str:
    """The name, if the service takes it. Raises GraphError."""
    error = _objection(name, is_folder, is_personal, in_root)
    if error is not None:
        raise error
    return str(name)


def is_valid(name: str) -> bool:
    """Would any flavour take it for a file?"""
    return _objection(name, is_folder=False, is_personal=False, in_root=False) is None


def check_path(path: str) -> None:
    """Decoded, below the root, with the name. Raises GraphError."""
    if len(path) > PATH_MAX:
        raise bad_request("The path is too long.", inner="pathIsTooLong")


def _objection(
    name: object, is_folder: bool, is_personal: bool, in_root: bool
) -> GraphError | None:
    if not isinstance(name, str) or not name:
        return bad_request("The name must be a string and not empty.")
    if len(name) > NAME_MAX:
        return bad_request("The name is too long.", inner="pathIsTooLong")
    if _ILLEGAL.search(name) or name in (".", ".."):
        return bad_request("The provided name cannot contain any illegal characters.")
    if name[0] == " " or name[-1] in " .":
        return bad_request(f"Path ({name}) contains invalid trailing character.")
    if _DEVICE.fullmatch(name) or name.lower() in _RESERVED:
        return bad_request("The provided name is reserved.")
    if "_vti_" in name.lower() or name.startswith("~$"):
        return bad_request("The provided name is reserved.")
    if is_personal:
        return None
    if is_folder and name.startswith("~"):
        return bad_request("The provided name cannot contain any illegal characters.")
    if in_root and name.lower() == "forms":
        return bad_request("Name is reserved for list forms folder.")
    return None
