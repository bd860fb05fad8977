"""Every answer of the emulator once: what the oracles of its JSON look at."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Final
from urllib.parse import urlsplit

from tests.support.graph import Emulator
from tests.support.graph_client import UNIT, Answer, Client, Json

Stop = tuple[str, str, Json]
"""Which answer, of which type ("[...]": a collection of them), and its JSON."""

_LATER: Final = "2026-12-01T00:00:00Z"


def tour(emu: Emulator, client: Client) -> Iterator[Stop]:
    """The emulator must be new."""
    yield from _items(emu, client)
    yield from _uploads(client)
    yield from _copies_and_versions(emu, client)
    yield from _feed(emu, client)
    yield from _places(emu, client)
    yield from _notifications(emu, client)
    yield from _refusals(emu, client)


def _items(emu: Emulator, client: Client) -> Iterator[Stop]:
    emu.write("dir/sub dir/ä#%+.txt", b"hello", mtime=1.7e9)
    emu.write("zero", b"")
    emu.write("bad.exe", b"virus")
    emu.infect("bad.exe")
    emu.describe("zero", "a description")
    emu.package("notebook")
    other = emu.add_drive("business", name="Other")
    there = emu.world.drives[other].root.id
    emu.shortcut("shared", drive_id=other, item_id=there)
    yield "root", "driveItem", client.get("/root")
    yield "expanded", "driveItem", client.get("/root?$expand=children")
    yield "children", "[driveItem]", client.get("/root/children")
    yield "page", "[driveItem]", client.get("/root/children?$top=1")
    yield "selected", "[driveItem]", client.get("/root/children?$select=id,name")
    yield "by path", "driveItem", client.item("dir/sub dir/ä#%+.txt")
    made = client.mkdir("root", "made")
    assert made.status == 201
    yield "mkdir", "driveItem", made.json
    answer = client.ask(
        "PATCH",
        f"/items/{made.json['id']}",
        {"name": "renamed", "fileSystemInfo": {"lastModifiedDateTime": _LATER}},
    )
    assert answer.status == 200, answer
    yield "rename", "driveItem", answer.json
    yield "search", "[driveItem]", client.get("/root/search(q='sub')")
    if emu.drive.is_personal:
        yield from _restored(emu, client)


def _restored(emu: Emulator, client: Client) -> Iterator[Stop]:
    lost = emu.write("lost", b"1")
    emu.delete("lost")
    answer = client.ask("POST", f"/items/{lost}/restore", {})
    assert answer.status == 200, answer
    yield "restore", "driveItem", answer.json


def _uploads(client: Client) -> Iterator[Stop]:
    put = client.upload("small.jpg", b"12345")
    assert put.status == 201
    yield "put", "driveItem", put.json
    session = client.session("large.bin")
    assert session.status == 200
    yield "session", "uploadSession", session.json
    url, unit = session.json["uploadUrl"], b"u" * UNIT
    part = client.fragment(url, unit, 0, UNIT + 1)
    assert part.status == 202
    yield "fragment", "uploadSession", part.json
    yield "status", "uploadSession", client.send("GET", url).json
    last = client.fragment(url, b"!", UNIT, UNIT + 1)
    assert last.status == 201
    yield "commit", "driveItem", last.json


def _copies_and_versions(emu: Emulator, client: Client) -> Iterator[Stop]:
    item = client.item("small.jpg")
    root = client.get("/root")["id"]
    body: Json = {"name": "copy.jpg", "parentReference": {"id": root}}
    copied = client.ask("POST", f"/items/{item['id']}/copy", body)
    assert copied.status == 202
    monitor = copied.headers["location"]
    yield "copying", "operation", client.send("GET", monitor).json
    emu.clock.advance(60)
    yield "copied", "operation", client.send("GET", monitor).json
    emu.write("small.jpg", b"another one")
    yield "versions", "[driveItemVersion]", client.get(f"/items/{item['id']}/versions")
    yield "version", "driveItemVersion", client.get(f"/items/{item['id']}/versions/1.0")


def _feed(emu: Emulator, client: Client) -> Iterator[Stop]:
    full = client.get("/root/delta")
    yield "delta", "[driveItem]", full
    emu.write("dir/new", b"new")
    emu.write("gone", b"gone")
    emu.delete("gone")
    emu.delete("dir/sub dir")
    yield "changes", "[driveItem]", client.get(full["@odata.deltaLink"])
    yield "delta page", "[driveItem]", client.get("/root/delta()?$top=2")
    yield "latest", "[driveItem]", client.get("/root/delta?token=latest")


def _places(emu: Emulator, client: Client) -> Iterator[Stop]:
    api = emu.api_url
    yield "drive", "drive", client.get("")
    yield "my drive", "drive", client.get(f"{api}/me/drive")
    yield "my drives", "[drive]", client.get(f"{api}/me/drives")
    yield "me", "user", client.get(f"{api}/me")
    if emu.drive.site:
        yield "sites", "[site]", client.get(f"{api}/sites?search=team")
        yield "site", "site", client.get(f"{api}/sites/contoso.sharepoint.com:/sites/team")
        yield "site drives", "[drive]", client.get(f"{api}/sites/x/drives")
    batch: list[Json] = [{"id": "1", "method": "GET", "url": client.drive + "/root"}]
    answer = client.ask("POST", f"{api}/$batch", {"requests": batch})
    assert answer.status == 200
    yield "batch", "driveItem", answer.json["responses"][0]["body"]


def _notifications(emu: Emulator, client: Client) -> Iterator[Stop]:
    yield "socketIo", "socketIo", client.get("/root/subscriptions/socketIo")
    with _Listener() as listener:
        body: Json = {
            "changeType": "updated",
            "notificationUrl": listener.url,
            "resource": f"drives/{emu.drive_id}/root",
            "expirationDateTime": _LATER,
            "clientState": "secret",
        }
        made = client.ask("POST", f"{emu.api_url}/subscriptions", body)
    assert made.status == 201, made
    yield "subscription", "subscription", made.json
    yield "subscriptions", "[subscription]", client.get(f"{emu.api_url}/subscriptions")


def _refusals(emu: Emulator, client: Client) -> Iterator[Stop]:
    item = client.item("small.jpg")
    for name, answer in (
        ("404", client.ask("GET", "/root:/nothing")),
        ("400", client.ask("GET", "/root/nonsense")),
        ("409", client.mkdir("root", "DIR")),
        ("412", client.ask("DELETE", f"/items/{item['id']}", If_Match='"old"')),
        ("405", client.ask("POST", "/root")),
        ("401", client.send("GET", emu.api_url + "/me")),
    ):
        assert answer.status == int(name), answer
        yield name, "error", answer.json["error"]
    yield "inner", "error", _refused_session(client).json["error"]


def _refused_session(client: Client) -> Answer:
    url = client.session("refused.bin").json["uploadUrl"]
    answer = client.fragment(url, b"x", 5, 10)
    assert answer.status == 416
    assert answer.inner == "fragmentOutOfOrder"
    client.send("DELETE", url)
    return answer


class _Listener:
    """Answers the handshake of a subscription."""

    def __enter__(self) -> "_Listener":
        self._server = HTTPServer(("127.0.0.1", 0), _Echo)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        token = urlsplit(self.path).query.partition("validationToken=")[2].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(token)))
        self.end_headers()
        self.wfile.write(token)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""
