"""The emulator in a process of its own: its state outlives every client's."""

import base64
import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

_ROOT: Final = Path(__file__).resolve().parents[3]
_REPLY_S: Final = 30.0


class GraphProcess:
    """Runs while the context is open; dies with the process that started it, also when killed.

    Start it from the main thread: the kernel watches the thread.
    """

    def __init__(self, flavour: str = "business", *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.support.graph", "--flavour", flavour, *arguments]
        self._command = ["setpriv", "--pdeathsig", "KILL", *command]
        self._process: subprocess.Popen[bytes] | None = None
        self.told: dict[str, str] = {}
        """Its line: api, content, upload, drive, root, authority, ca_file, imds."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, cwd=_ROOT)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the emulator ended at once with {self._process.wait()}")
        self.told = json.loads(line)
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    @property
    def api_url(self) -> str:
        return self.told["api"]

    @property
    def drive_id(self) -> str:
        return self.told["drive"]

    def control(self, op: str, **arguments: Any) -> Any:
        """An operation of ``Emulator`` by name; ``content`` may be bytes. Bytes come as base64."""
        if isinstance(arguments.get("content"), bytes):
            arguments["content"] = base64.b64encode(arguments["content"]).decode()
        where = urlsplit(self.api_url)
        connection = http.client.HTTPConnection("127.0.0.1", where.port, timeout=_REPLY_S)
        try:
            connection.request("POST", f"/__emu__/{op}", json.dumps(arguments))
            reply = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in reply:
            raise RuntimeError(f"{op}: {reply['error']}")
        return reply["result"]
