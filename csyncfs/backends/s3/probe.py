"""The dialect probe: some twenty requests on scratch objects, in a worker thread.

Sub-resources are never sent: five of five servers that do not know ``?annotation`` store
it as the object's new content.
"""

import hashlib
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from csyncfs.backends import metadata
from csyncfs.backends.content import base64_of
from csyncfs.backends.failures import Unmet
from csyncfs.backends.s3 import items
from csyncfs.backends.s3.dialect import Support, Verdict
from csyncfs.backends.s3.wire import Reply, Wire
from csyncfs.errors import BackendError, CsyncError, NotFound, Offline, Throttled
from csyncfs.types import RESERVED_DIR

log = logging.getLogger(__name__)

_CONTENT: Final = b"csyncfs probes what this server makes of conditions; safe to delete\n"
_MD5: Final = hashlib.md5(_CONTENT, usedforsecurity=False)
_STALE: Final = "0123456789abcdef0123456789abcdef"
_METADATA: Final = {"mtime": "1.500000000", "mode": "33188", metadata.PUT_ID: "probe"}


def probe(wire: Wire) -> Verdict:
    """The verdict on this server. Raises AccessDenied where nothing may be written."""
    scratch = _Scratch(wire)
    try:
        return scratch.verdict()
    finally:
        scratch.remove()


class _Scratch:
    """One scratch object, and what is learnt from it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._key = f"{wire.options.base}{RESERVED_DIR}probe-{uuid.uuid4().hex}"
        self._tag = ""
        self._quotes = '"'
        self._made = {self._key}

    def verdict(self) -> Verdict:
        created = self._put(self._key)
        seen = self._wire.call("head_object", Key=self._key)
        put_if_match, quoted_tags = self._put_if_match()
        dir_markers, tree_dirs = self._dir_markers()
        return Verdict(
            server=_server_name(created, is_aws=self._wire.options.is_aws),
            put_if_none_match=_support(lambda: self._put(self._key, IfNoneMatch="*")),
            put_if_match=put_if_match,
            quoted_tags=quoted_tags,
            get_if_match=_support(self._get_stale),
            copy_if_none_match=_support(lambda: self._copy(IfNoneMatch="*")),
            copy_if_match=_support(lambda: self._copy(IfMatch=f'"{_STALE}"')),
            copy_source_if_match=_support(lambda: self._copy(CopySourceIfMatch=f'"{_STALE}"')),
            complete_if_none_match=_support(lambda: self._complete(IfNoneMatch="*")),
            complete_if_match=_support(
                lambda: self._complete(IfMatch=f"{self._quotes}{_STALE}{self._quotes}")
            ),
            dir_markers=dir_markers,
            tree_dirs=tree_dirs,
            raw_keys=self._has_raw_keys(),
            keeps_metadata=_lowered(seen.get("Metadata") or {}) == _METADATA,
            md5_tags=items.tag_of(created) == items.tag_of(seen) == _MD5.hexdigest(),
            # Last: where the condition is ignored, the object is gone afterwards.
            delete_if_match=_support(self._delete_stale),
        )

    def remove(self) -> None:
        for key in self._made:
            try:
                self._wire.call("delete_object", Key=key)
            except NotFound:
                continue
            except CsyncError as exc:
                log.warning("a probe's scratch object is left key=%r why=%s", key, exc)

    def _put(self, key: str, **conditions: str) -> Reply:
        reply = self._wire.call(
            "put_object",
            Key=key,
            Body=_CONTENT,
            ContentMD5=base64_of(_MD5.digest()),
            Metadata=_METADATA,
            **self._wire.stamps(),
            **conditions,
        )
        self._made.add(key)
        if key == self._key:
            self._tag = items.tag_of(reply)
        return reply

    def _put_if_match(self) -> tuple[Support, bool]:
        """Support, and whether the ETag goes in quotes."""
        stale = _support(lambda: self._put(self._key, IfMatch=f'"{_STALE}"'))
        if stale is not Support.YES:
            return stale, True
        if self._accepts(f'"{self._tag}"'):
            return Support.YES, True
        # Ceph 16 compares the header with the bare ETag, so a quoted one never matches.
        stale = _support(lambda: self._put(self._key, IfMatch=_STALE))
        if stale is Support.YES and self._accepts(self._tag):
            self._quotes = ""
            return Support.YES, False
        return Support.UNSUPPORTED, True

    def _accepts(self, tag: str) -> bool:
        return _support(lambda: self._put(self._key, IfMatch=tag)) is Support.IGNORED

    def _get_stale(self) -> None:
        reply = self._wire.call(
            "get_object", Key=self._key, Range="bytes=0-0", IfMatch=f'"{_STALE}"'
        )
        reply["Body"].close()

    def _copy(self, **conditions: str) -> None:
        self._wire.call(
            "copy_object",
            Key=self._key,
            CopySource={"Bucket": self._wire.options.bucket, "Key": self._key},
            MetadataDirective="REPLACE",
            Metadata=_METADATA,
            **self._wire.stamps(),
            **conditions,
        )

    def _complete(self, **conditions: str) -> None:
        upload: dict[str, Any] = {"Key": self._key}
        reply = self._wire.call("create_multipart_upload", **upload, **self._wire.stamps())
        upload["UploadId"] = reply["UploadId"]
        is_done = False
        try:
            part = self._wire.call("upload_part", **upload, PartNumber=1, Body=_CONTENT)
            parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
            self._wire.call(
                "complete_multipart_upload",
                **upload,
                MultipartUpload={"Parts": parts},
                **conditions,
            )
            is_done = True
        finally:
            if not is_done:
                self._abort(upload)

    def _abort(self, upload: Mapping[str, Any]) -> None:
        try:
            self._wire.call("abort_multipart_upload", **upload)
        except CsyncError as exc:
            log.debug("a probe's multipart upload is left why=%s", exc)

    def _dir_markers(self) -> tuple[bool, bool]:
        """Whether ``dir/`` is a directory with its metadata, and whether it is one at all."""
        marker = f"{self._key}-dir/"
        try:
            self._put(marker)
            seen = self._wire.call("head_object", Key=marker)
            listed = self._wire.call(
                "list_objects_v2", Prefix=marker.removesuffix("/"), Delimiter="/"
            )
        except (Offline, Throttled):
            raise
        except BackendError:
            return False, False
        prefixes = [entry["Prefix"] for entry in listed.get("CommonPrefixes") or ()]
        is_dir = marker in prefixes
        return is_dir and _lowered(seen.get("Metadata") or {}) == _METADATA, is_dir

    def _has_raw_keys(self) -> bool:
        """False where ``a//b`` is refused or written to ``a/b``."""
        try:
            self._put(f"{self._key}-raw//k")
        except Offline:
            raise
        except BackendError:
            return False
        try:
            self._wire.call("head_object", Key=f"{self._key}-raw/k")
        except NotFound:
            return True
        self._made.add(f"{self._key}-raw/k")
        return False

    def _delete_stale(self) -> None:
        self._wire.call("delete_object", Key=self._key, IfMatch=f'"{_STALE}"')


def _support(request: Callable[[], object]) -> Support:
    """How the server treats the false condition of this request."""
    try:
        request()
    except Unmet:
        return Support.YES
    except (Offline, Throttled):
        raise
    except BackendError:
        return Support.UNSUPPORTED
    return Support.IGNORED


def _lowered(values: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in values.items()}


_SERVERS: Final = {
    "seaweedfs": "SeaweedFS",
    "rclone": "rclone",
    "minio": "MinIO",
    "ceph": "Ceph",
    "werkzeug": "moto",
}


def _server_name(reply: Reply, *, is_aws: bool) -> str:
    """By the Server header, which may lie (rclone says AmazonS3), or Ceph's request ids."""
    if is_aws:
        return "Amazon S3"
    told: Mapping[str, Any] = reply.get("ResponseMetadata", {})
    headers: Mapping[str, str] = told.get("HTTPHeaders", {})
    header = str(headers.get("server", ""))
    for mark, name in _SERVERS.items():
        if mark in header.lower():
            return name
    if str(told.get("RequestId", "")).startswith("tx0"):
        return "Ceph"
    return "unknown S3 server"
