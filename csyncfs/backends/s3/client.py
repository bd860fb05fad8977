"""boto3, imported and tuned; loaded and run in a worker thread (0.9 s the first time).

Retries are off: a conditional write repeated behind our back after a lost reply meets its
own result and reports a conflict. Content is checked by Content-MD5, which every server
verifies; the SDK's own checksums cost half as much CPU again and break old servers.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.utils import parse_timestamp

from csyncfs.backends.s3.options import S3Options

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

POOL_SIZE: Final = 24
# CopyObject and CompleteMultipartUpload of a large object may be silent for minutes.
_SLOW_READ_TIMEOUT_S: Final = 300.0
_SMALL_BODY: Final = 256 * 1024
_FALLBACK_REGION: Final = "us-east-1"


@dataclass(frozen=True, slots=True)
class Clients:
    """Two clients that differ in patience only. Both may be shared by threads."""

    quick: "S3Client"
    slow: "S3Client"

    def close(self) -> None:
        self.quick.close()
        self.slow.close()


def build(options: S3Options) -> Clients:
    """Raises botocore's errors for a profile or configuration that is not usable."""
    session = botocore.session.Session(profile=options.profile)
    if options.credentials_file is not None:
        session.set_config_variable("credentials_file", options.credentials_file)
    # The default parser is dateutil: half of a listing's CPU.
    session.get_component("response_parser_factory").set_parser_defaults(
        timestamp_parser=_timestamp
    )
    factory = boto3.Session(botocore_session=session)
    # Its stub has an overload for each of 400 services, whose stubs are not installed.
    make: Callable[..., S3Client] = cast("Any", factory).client
    region = options.region or factory.region_name or _FALLBACK_REGION

    def client(read_timeout_s: float) -> "S3Client":
        made = make(
            "s3",
            region_name=region,
            endpoint_url=options.endpoint_url,
            config=_config(options, read_timeout_s),
        )
        made.meta.events.register_last("before-call.s3", _send_small_bodies_at_once)
        return made

    return Clients(
        quick=client(options.read_timeout_s),
        slow=client(max(options.read_timeout_s, _SLOW_READ_TIMEOUT_S)),
    )


def _config(options: S3Options, read_timeout_s: float) -> Config:
    addressing = options.addressing
    if addressing == "auto" and options.endpoint_url is not None:
        addressing = "path"
    s3: dict[str, Any] = {"addressing_style": addressing}
    if options.is_https:
        s3["payload_signing_enabled"] = False
    return Config(
        signature_version=UNSIGNED if options.anonymous else "s3v4",
        s3=s3,  # pyright: ignore[reportArgumentType]
        max_pool_connections=POOL_SIZE,
        retries={"mode": "standard", "total_max_attempts": 1},
        parameter_validation=False,
        tcp_keepalive=True,
        connect_timeout=options.connect_timeout_s,
        read_timeout=read_timeout_s,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _send_small_bodies_at_once(params: dict[str, Any], **_: object) -> None:
    """Without ``Expect: 100-continue``, which botocore adds to every body: for a small one the
    round trip it costs is longer than the sending it may spare."""
    body = params.get("body")
    if isinstance(body, io.BytesIO) and body.getbuffer().nbytes <= _SMALL_BODY:
        params["headers"].pop("Expect", None)


def _timestamp(value: Any) -> datetime:
    # HTTP headers carry RFC 822 dates, XML carries ISO 8601.
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return parse_timestamp(value)
