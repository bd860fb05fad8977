"""What a user reads when the store cannot be reached."""

import subprocess
import sys

import pytest

from csyncfs.backends.s3 import S3Backend
from csyncfs.errors import AccessDenied, ConfigError, CsyncError, NoSuchStore, Offline
from csyncfs.types import Location
from tests.support.proxy import Fault, Proxy, What
from tests.support.s3 import options_for
from tests.support.servers import S3Server, free_ports

WRONG = "wrongwrongwrong"
_ROOT = Location("")


async def _failure(backend: S3Backend) -> CsyncError:
    with pytest.raises(CsyncError) as caught:
        await backend.connect()
    message = str(caught.value)
    assert "\n" not in message
    assert WRONG not in message
    assert "testsecret" not in message
    return caught.value


async def test_a_bucket_that_does_not_exist(s3_server: S3Server) -> None:
    error = await _failure(S3Backend(options_for(s3_server, "no-such-bucket")))

    assert type(error) is NoSuchStore
    assert "bucket does not exist" in str(error)


async def test_a_wrong_access_key(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", WRONG)

    error = await _failure(S3Backend(options_for(s3_server, bucket)))

    assert type(error) is AccessDenied
    assert "access key id" in str(error)


async def test_a_wrong_secret(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WRONG)

    error = await _failure(S3Backend(options_for(s3_server, bucket)))

    assert type(error) is AccessDenied
    assert "secret access key is wrong" in str(error)


async def test_no_credentials_at_all(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    error = await _failure(S3Backend(options_for(s3_server, bucket)))

    assert type(error) is AccessDenied
    assert "no usable AWS credentials" in str(error)


async def test_a_profile_that_does_not_exist(s3_server: S3Server, bucket: str) -> None:
    error = await _failure(S3Backend(options_for(s3_server, bucket, profile="nobody")))

    assert type(error) is ConfigError
    assert "nobody" in str(error)


async def test_nobody_listens(s3_server: S3Server) -> None:
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"

    error = await _failure(S3Backend(options_for(s3_server, "b", endpoint_url=nowhere)))

    assert type(error) is Offline
    assert "cannot be reached" in str(error)


async def test_a_server_that_never_answers_ends_the_call(s3_server: S3Server, bucket: str) -> None:
    with Proxy(s3_server.port) as proxy:
        proxy.set_fault(Fault(What.STALL_REQUEST, times=9))
        url = proxy.endpoint_url
        options = options_for(s3_server, bucket, endpoint_url=url, read_timeout_s=0.5)

        error = await _failure(S3Backend(options))

    assert isinstance(error, Offline)


async def test_a_wrong_clock(s3_server: S3Server, bucket: str) -> None:
    refusal = b"<Error><Code>RequestTimeTooSkewed</Code><Message>too large</Message></Error>"
    with Proxy(s3_server.port) as proxy:
        proxy.set_fault(Fault(What.ANSWER, status=403, body=refusal))

        options = options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url)
        error = await _failure(S3Backend(options))

    assert type(error) is AccessDenied
    assert "clock" in str(error)


async def test_calls_before_connect_are_offline(s3_server: S3Server) -> None:
    with pytest.raises(Offline):
        await S3Backend(options_for(s3_server, "b")).abandon("{}")


async def test_connecting_again_after_an_outage(s3_server: S3Server, bucket: str) -> None:
    with Proxy(s3_server.port) as proxy:
        options = options_for(s3_server, bucket, endpoint_url=proxy.endpoint_url)
        backend = S3Backend(options)
        proxy.refuse()
        assert type(await _failure(backend)) is Offline

        proxy.accept()
        assert (await backend.connect()).conditional_put


def test_importing_the_backend_does_not_import_boto3() -> None:
    code = "import sys, csyncfs.backends.s3; sys.exit('botocore' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
