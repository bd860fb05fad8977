"""pjdfstest, 238 files of POSIX tests, on a mount of a real S3 server: ``make posix``.

Runs as root, takes some five minutes, and ends with 0 if no test failed and all that the tests
did has reached the bucket. Arguments go to prove(1), for example files of single calls.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.mounts import mounting
from tests.support.servers import SeaweedFS

_SUITE = Path(__file__).parents[2] / ".test-servers" / "pjdfstest" / "tests"


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="csyncfs-posix-") as place:
        server = SeaweedFS(Path(place) / "server")
        server.start()
        try:
            return _run(Path(place) / "mount", server, arguments or ["-r", str(_SUITE)])
        finally:
            server.stop()


def _run(home: Path, server: SeaweedFS, arguments: list[str]) -> int:
    spec = f"s3://{server.make_bucket()}"
    options = (f"endpoint={server.endpoint_url}", "allow_other", "suid", "dev", "refresh=5")
    home.mkdir()
    with mounting(home, spec, *options, env=server.environment()) as mount:
        directory = mount.path / "tests"
        directory.mkdir()
        os.chmod(mount.path, 0o755)
        began = time.monotonic()
        code = subprocess.run(["prove", "-Q", *arguments], cwd=directory, check=False).returncode
        print(f"took {time.monotonic() - began:.0f} s")
        mount.flush(300)
        print(f"left to send: {mount.status()['queue']}, conflicts: {mount.status()['conflicts']}")
        return code


sys.exit(main(sys.argv[1:]))
