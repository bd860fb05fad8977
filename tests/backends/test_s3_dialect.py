"""The probe's verdict on each real server, and what follows from it."""

import json
from urllib.parse import unquote

import pytest

from csyncfs.backends.s3 import S3Backend, Verdict
from tests.backends.conftest import SERVERS
from tests.support.proxy import Proxy
from tests.support.s3 import connected, objects, options_for
from tests.support.servers import S3Server
from tests.support.verdicts import VERDICTS


@pytest.mark.parametrize("s3_server", [*SERVERS, "swift"], indirect=True)
async def test_probe_classifies_the_server_as_measured(
    s3_server: S3Server, bucket: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["s3_server"]

    async with connected(options_for(s3_server, bucket)) as backend:
        assert backend.verdict == VERDICTS[name]

    assert objects(s3_server, bucket) == {}


async def test_only_a_server_that_holds_every_condition_is_called_conditional(
    s3_server: S3Server, bucket: str
) -> None:
    options = options_for(s3_server, bucket)

    good = await S3Backend(options, VERDICTS["seaweedfs"]).connect()
    old = await S3Backend(options, VERDICTS["ceph"]).connect()

    assert (good.conditional_put, good.conditional_delete, good.warnings) == (True, True, ())
    assert (old.conditional_put, old.conditional_delete) == (False, False)
    assert any("multipart" in line for line in old.warnings)


async def test_a_cached_verdict_saves_the_probe(s3_server: S3Server, bucket: str) -> None:
    with Proxy(s3_server.port) as proxy:
        options = options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url)
        await S3Backend(options, VERDICTS["seaweedfs"]).connect()

        assert proxy.counters.count() == proxy.counters.count("GET") == 1


async def test_the_probe_is_a_few_requests_below_the_mounted_prefix(
    s3_server: S3Server, bucket: str
) -> None:
    with Proxy(s3_server.port) as proxy:
        await S3Backend(options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url)).connect()

        probes = proxy.counters.exchanges[1:]
        assert len(probes) <= 30
        assert all("mounted/here/.csyncfs/probe-" in unquote(e.target) for e in probes)
        assert not any("annotation" in e.target or "rename" in e.target for e in probes)


async def test_without_write_permission_another_server_is_not_trusted(
    s3_server: S3Server, bucket: str
) -> None:
    client = s3_server.client()
    client.put_object(Bucket=bucket, Key="mounted/here/file", Body=b"x")
    with Proxy(s3_server.port) as proxy:
        proxy.deny_writes()
        backend = S3Backend(options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url))

        capabilities = await backend.connect()

    assert backend.verdict is not None
    assert not backend.verdict.probed
    assert not capabilities.conditional_put
    assert any("nothing could be probed" in line for line in capabilities.warnings)


@pytest.mark.parametrize("verdict", VERDICTS.values(), ids=VERDICTS)
def test_a_verdict_can_be_kept_as_json(verdict: Verdict) -> None:
    kept = json.dumps(verdict.to_json_dict())

    assert Verdict.from_json_dict(json.loads(kept)) == verdict


@pytest.mark.parametrize("kept", [{}, {"server": "x"}, {"put_if_match": "perhaps"}, []])
def test_a_foreign_verdict_is_refused(kept: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        Verdict.from_json_dict(kept)
