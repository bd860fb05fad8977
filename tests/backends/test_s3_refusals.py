"""A removal the server refuses is told, also where no version was named."""

from pathlib import Path

import pytest

from csyncfs.backends.s3 import S3Backend
from csyncfs.errors import AccessDenied, BackendError, VersionMismatch
from csyncfs.types import Kind, Location
from tests.support.proxy import Fault, Proxy
from tests.support.s3 import objects, options_for
from tests.support.servers import S3Server
from tests.support.uploads import Content, put, writing
from tests.support.verdicts import VERDICTS


@pytest.mark.parametrize(("status", "error"), [(403, AccessDenied), (409, VersionMismatch)])
@pytest.mark.parametrize("kind", [Kind.FILE, Kind.DIR])
async def test_a_refused_removal_of_whatever_version_is_told(
    s3_server: S3Server,
    bucket: str,
    tmp_path: Path,
    kind: Kind,
    status: int,
    error: type[BackendError],
) -> None:
    with Proxy(s3_server.port) as proxy:
        options = options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url)
        backend = S3Backend(options, VERDICTS["seaweedfs"])
        await backend.connect()
        key = "item" if kind is Kind.FILE else "item/"
        if kind is Kind.FILE:
            await put(backend, key, Content(tmp_path / "c", b"kept"))
        else:
            await backend.make_dir(Location(key), writing())
        before = objects(s3_server, bucket)
        proxy.set_fault(Fault.answer(status, "DELETE", times=9))

        with pytest.raises(error):
            await backend.delete(Location(key), kind, None)

        await backend.aclose()
    assert objects(s3_server, bucket) == before
