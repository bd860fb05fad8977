"""A plain client of the Graph emulator for tests: one request, one reply, no opinions."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from tests.support.graph import Emulator

Json = dict[str, Any]
BEHAVIOUR: Final = "@microsoft.graph.conflictBehavior"
UNIT: Final = 320 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error's."""
        return self.json["error"]["code"]

    @property
    def inner(self) -> str:
        return self.json["error"]["innerError"].get("code", "")


class Client:
    """Speaks to one emulator with one connection a host."""

    def __init__(self, emu: Emulator, *, token: str = "test") -> None:
        self.emu: Final = emu
        self.token = token
        self.drive: Final = f"/drives/{quote(emu.drive_id, safe='!')}"
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def send(
        self,
        method: str,
        url: str,
        body: bytes | Json | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """To a whole URL, as given, without a token."""
        where = urlsplit(url)
        connection = self._connections.get(where.netloc)
        if connection is None:
            connection = http.client.HTTPConnection(where.netloc, timeout=10)
            self._connections[where.netloc] = connection
        target = where.path + (f"?{where.query}" if where.query else "")
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        try:
            connection.request(method, target, data, dict(headers or {}))
            reply = connection.getresponse()
            read = reply.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        return Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, read)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Json | None = None,
        **headers: str,
    ) -> Answer:
        """Of the API; ``path`` behind the drive, or a whole link. ``If_Match="..."``."""
        url = path if path.startswith("http") else self.emu.api_url + self.drive + path
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            named["Content-Type"] = "application/json"
        return self.send(method, url, body, {"Authorization": f"Bearer {self.token}", **named})

    def get(self, path: str) -> Json:
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.json

    def item(self, path: str) -> Json:
        """By its path below the root."""
        return self.get(f"/root:/{quote(path)}" if path else "/root")

    def upload(self, path: str, content: bytes, behaviour: str = "replace") -> Answer:
        query = f"?{BEHAVIOUR}={behaviour}"
        return self.ask("PUT", f"/root:/{quote(path)}:/content{query}", content)

    def mkdir(self, parent: str, name: str, behaviour: str = "fail") -> Answer:
        body: Json = {"name": name, "folder": {}, BEHAVIOUR: behaviour}
        return self.ask("POST", f"/items/{parent}/children", body)

    def session(self, path: str, behaviour: str = "fail", **item: Any) -> Answer:
        body = {"item": {BEHAVIOUR: behaviour, **item}}
        return self.ask("POST", f"/root:/{quote(path)}:/createUploadSession", body)

    def fragment(self, url: str, data: bytes, start: int, total: int) -> Answer:
        span = f"bytes {start}-{start + len(data) - 1}/{total}"
        return self.send("PUT", url, data, {"Content-Range": span})

    def pages(self, path: str) -> tuple[list[list[Json]], str]:
        """All pages of a listing and the link at its end ("" if there is none)."""
        pages: list[list[Json]] = []
        link = path
        while True:
            page = self.get(link)
            pages.append(page["value"])
            assert not ("@odata.nextLink" in page and "@odata.deltaLink" in page)
            link = page.get("@odata.nextLink", "")
            if not link:
                return pages, page.get("@odata.deltaLink", "")

    def listed(self, path: str) -> tuple[list[Json], str]:
        pages, link = self.pages(path)
        return [value for page in pages for value in page], link
