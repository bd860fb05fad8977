"""What one S3 service makes of conditional requests: the verdict of the probe.

*Ignored* is not *unsupported*: a server that ignores a condition answers 200 and overwrites.
Only a condition seen to fail counts as support.
"""

import enum
from dataclasses import asdict, dataclass
from typing import Any, Final

from csyncfs.types import Expect, RemoteVersion


class Support(enum.StrEnum):
    """How a server treats one condition."""

    YES = "yes"
    IGNORED = "ignored"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Found out once per endpoint, bucket and prefix; plain values, so that it can be kept."""

    server: str
    """For people."""
    put_if_none_match: Support
    put_if_match: Support
    quoted_tags: bool
    """If-Match on PUT takes the ETag in quotes, as everybody but old Ceph does."""
    complete_if_none_match: Support
    complete_if_match: Support
    copy_if_none_match: Support
    copy_if_match: Support
    copy_source_if_match: Support
    delete_if_match: Support
    get_if_match: Support
    keeps_metadata: bool
    md5_tags: bool
    """The ETag of a plain PUT is the content's MD5."""
    dir_markers: bool
    """An object ``dir/`` is a directory to the server too, and keeps its metadata."""
    tree_dirs: bool
    """An object ``dir/`` is a directory to the server, with or without its metadata."""
    raw_keys: bool
    """``a//b`` is another object than ``a/b``."""
    probed: bool = True
    """False: nothing could be written, so this is only what the address suggests."""

    def to_json_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json_dict(cls, values: dict[str, Any]) -> "Verdict":
        """Raises ValueError for anything ``to_json_dict`` of this version did not make."""
        try:
            fields = dict(values)
            for name in _CONDITIONS:
                fields[name] = Support(fields[name])
            return cls(**fields)
        except (KeyError, TypeError) as exc:
            raise ValueError("not a verdict of this version") from exc

    def allows(self, action: str, expect: Expect) -> bool:
        """True if the server itself holds a put, complete or copy to ``expect``."""
        condition = "if_match" if isinstance(expect, RemoteVersion) else "if_none_match"
        return getattr(self, f"{action}_{condition}") is Support.YES

    def condition(self, expect: Expect) -> dict[str, str]:
        """The boto3 arguments that say ``expect``."""
        if not isinstance(expect, RemoteVersion):
            return {"IfNoneMatch": "*"}
        return {"IfMatch": f'"{expect.tag}"' if self.quoted_tags else expect.tag}

    def rewrites(self, key: str) -> bool:
        """True for a key that this server would take for another object's."""
        if self.raw_keys:
            return False
        # SeaweedFS stores ``a\b`` as ``a/b``, which may be somebody's.
        return "\\" in key or any(segment in ("", ".", "..") for segment in key.split("/"))

    @property
    def is_conditional(self) -> bool:
        """Every put, whatever its size, and every copy is atomic against its target."""
        return all(getattr(self, name) is Support.YES for name in _TARGET_CONDITIONS)

    def warnings(self) -> tuple[str, ...]:
        """One line for each promise this server cannot keep."""
        return (
            tuple(
                f"{self.server}: {what} {'is' if self.probed else 'may be'} checked just before,"
                " not by the server; someone else's change in between can be overwritten"
                for what, names in _PROMISES.items()
                if any(getattr(self, name) is not Support.YES for name in names)
            )
            + self._other_warnings()
        )

    def _other_warnings(self) -> tuple[str, ...]:
        lines: list[str] = []
        if not self.probed:
            lines.append(f"{self.server}: nothing can be written here, so nothing could be probed")
        if not self.keeps_metadata:
            lines.append(f"{self.server}: modes, owners and times are not kept in the bucket")
        return tuple(lines)


_TARGET_CONDITIONS: Final = (
    "put_if_none_match",
    "put_if_match",
    "complete_if_none_match",
    "complete_if_match",
    "copy_if_none_match",
    "copy_if_match",
)
_CONDITIONS: Final = (
    *_TARGET_CONDITIONS,
    "copy_source_if_match",
    "delete_if_match",
    "get_if_match",
)
_PROMISES: Final = {
    "an upload's precondition": ("put_if_none_match", "put_if_match"),
    "a multipart upload's precondition": ("complete_if_none_match", "complete_if_match"),
    "a copy's precondition": ("copy_if_none_match", "copy_if_match"),
    "a deletion's precondition": ("delete_if_match",),
}


def assumed(server: str, support: Support) -> Verdict:
    """The verdict where nothing could be probed."""
    return Verdict(
        server=server,
        **dict.fromkeys(_CONDITIONS, support),
        quoted_tags=True,
        keeps_metadata=True,
        md5_tags=False,
        dir_markers=True,
        tree_dirs=True,
        raw_keys=support is Support.YES,
        probed=False,
    )
