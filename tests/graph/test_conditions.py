"""Names, conditions and clashes: which writes are refused, and with what."""

from collections.abc import Callable
from typing import Final

import pytest

from tests.support.graph import Emulator
from tests.support.graph_client import BEHAVIOUR, Answer, Client, Json

ALL: Final = ("personal", "business", "sharepoint")
Write = Callable[[Client, str, str], Answer]


def _put(client: Client, item: str, tag: str) -> Answer:
    return client.ask("PUT", f"/items/{item}/content", b"new", If_Match=tag)


def _patch(client: Client, item: str, tag: str) -> Answer:
    return client.ask("PATCH", f"/items/{item}", {"name": "other"}, If_Match=tag)


def _delete(client: Client, item: str, tag: str) -> Answer:
    return client.ask("DELETE", f"/items/{item}", If_Match=tag)


def _session(client: Client, item: str, tag: str) -> Answer:
    return client.ask("POST", f"/items/{item}/createUploadSession", {}, If_Match=tag)


WRITES: Final = (_put, _patch, _delete, _session)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("tag", ["eTag", "cTag", "*", "old", "weak"])
@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_writes_need_a_tag_of_now(emu: Emulator, client: Client, write: Write, tag: str) -> None:
    item = emu.write("f", b"1")
    old = client.item("f")["eTag"]
    emu.write("f", b"2")
    now = client.item("f")
    tags = {"eTag": now["eTag"], "cTag": now["cTag"], "*": "*", "old": old}
    tags["weak"] = "W/" + now["eTag"]
    answer = write(client, item, tags[tag])
    if tag == "old":
        assert (answer.status, answer.code) == (412, "resourceModified")
        assert emu.tree() == {"f": b"2"}
    else:
        assert answer.status in (200, 204), answer


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_one_writer_of_two_with_the_same_tag_wins(
    emu: Emulator, client: Client, write: Write
) -> None:
    item = emu.write("f", b"1")
    tag = client.item("f")["eTag"]
    assert write(client, item, tag).status in (200, 204)
    if write is _session:
        return
    assert write(client, item, tag).status == (404 if write is _delete else 412)


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_own_tag_fails_on_the_session_by_path(emu: Emulator, client: Client) -> None:
    emu.write("f", b"1")
    tag = client.item("f")["eTag"]
    body: Json = {"item": {BEHAVIOUR: "replace"}}
    path = "/root:/f:/createUploadSession"
    assert client.ask("POST", path, body, If_Match=tag).status == 412
    emu.knobs.if_match_path_ok = True
    assert client.ask("POST", path, body, If_Match=tag).status == 200


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_if_none_match_star_never_replaces(emu: Emulator, client: Client) -> None:
    emu.write("f", b"1")
    answer = client.ask("PUT", "/root:/F:/content", b"2", If_None_Match="*")
    assert answer.status == 412
    assert client.ask("PUT", "/root:/new:/content", b"2", If_None_Match="*").status == 201
    assert client.ask("PUT", "/root:/absent:/content", b"2", If_Match="*").status == 404
    assert emu.tree() == {"f": b"1", "new": b"2"}


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_known_tag_is_304(emu: Emulator, client: Client) -> None:
    item = emu.write("f", b"1")
    tag = client.item("f")["cTag"]
    assert client.ask("GET", f"/items/{item}", If_None_Match=tag).status == 304
    emu.knobs.ignore_if_none_match = True
    assert client.ask("GET", f"/items/{item}", If_None_Match=tag).status == 200


@pytest.mark.parametrize(
    ("behaviour", "status", "tree"),
    [
        ("fail", 409, {"Name.txt": b"1"}),
        ("replace", 200, {"Name.txt": b"2"}),
        ("rename", 201, {"Name.txt": b"1", "NAME 1.TXT": b"2"}),
    ],
)
@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_names_are_the_same_in_any_case(
    emu: Emulator, client: Client, behaviour: str, status: int, tree: dict[str, bytes]
) -> None:
    emu.write("Name.txt", b"1")
    assert client.upload("NAME.TXT", b"2", behaviour).status == status
    assert emu.tree() == tree


def test_same_letters_are_those_with_the_same_capital(emu: Emulator, client: Client) -> None:
    emu.write("\u03c3", b"1")
    emu.write("ß", b"1")
    assert client.upload("\u03c2", b"2", "fail").status == 409
    assert client.upload("ss", b"2", "fail").status == 201


@pytest.mark.parametrize("flavour", ["personal"], indirect=True)
def test_personal_folders_have_a_ctag_of_all_below(emu: Emulator, client: Client) -> None:
    emu.write("a/b/f", b"1")
    for act in (
        lambda: emu.write("a/b/f", b"2"),
        lambda: emu.rename("a/b/f", "a/b/g"),
        lambda: emu.delete("a/b/g"),
        lambda: emu.mkdir("a/b/d"),
    ):
        before = client.item("a")
        act()
        now = client.item("a")
        assert now["cTag"] != before["cTag"]
        assert now["eTag"] == before["eTag"]


def test_names_differ_by_composition_unless_switched(emu: Emulator, client: Client) -> None:
    emu.write("\u00e4", b"1")
    assert client.upload("a\u0308", b"2", "fail").status == 201
    emu.delete("a\u0308")
    emu.knobs.nfc_names = True
    assert client.upload("A\u0308", b"2", "fail").status == 409


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_case_only_rename_of_itself(emu: Emulator, client: Client) -> None:
    item = emu.write("name", b"1")
    assert client.ask("PATCH", f"/items/{item}", {"name": "NAME"}).status == 200
    assert emu.tree() == {"NAME": b"1"}


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_move_replaces_files_only_and_only_if_asked(emu: Emulator, client: Client) -> None:
    item, folder = emu.write("f", b"1"), emu.mkdir("d")
    emu.write("there", b"2")
    path = f"/items/{item}"
    assert client.ask("PATCH", path, {"name": "there"}).status == 409
    assert client.ask("PATCH", path, {"name": "D", BEHAVIOUR: "replace"}).status == 409
    assert client.ask("PATCH", path, {"name": "there", BEHAVIOUR: "replace"}).status == 200
    assert emu.tree() == {"d": None, "there": b"1"}
    assert client.item("there")["id"] == item
    into: Json = {"parentReference": {"id": folder}}
    assert client.ask("PATCH", path, into).status == 200
    assert emu.tree() == {"d": None, "d/there": b"1"}


def test_moves_that_cannot_be(emu: Emulator, client: Client) -> None:
    above, below = emu.mkdir("a"), emu.mkdir("a/b")
    other = emu.add_drive("business")

    def move(reference: Json) -> Answer:
        return client.ask("PATCH", f"/items/{above}", {"parentReference": reference})

    assert move({"id": below}).status == 400
    assert move({"id": above}).status == 400
    assert move({"id": "root"}).status == 400
    assert move({"id": "nothing"}).status == 404
    assert move({"driveId": other, "id": "x"}).code == "notSupported"
    assert emu.tree() == {"a": None, "a/b": None}


def test_root_is_neither_moved_nor_deleted(client: Client) -> None:
    assert client.ask("DELETE", "/root").status == 403
    assert client.ask("PATCH", "/root", {"name": "x"}).status == 403


@pytest.mark.parametrize(
    "name",
    [
        *('a"b', "a*b", "a:b", "a<b", "a>b", "a?b", "a\\b", "a|b", "a\tb", " a", "a ", "a."),
        *("a_vti_b", ".lock", "CON", "con.txt", "COM0", "lpt9.x", "desktop.ini", "~$a", "..", ""),
        *("forms", "~folder", "x" * 256),
    ],
)
def test_names_nobody_may_have(client: Client, name: str) -> None:
    answer = client.mkdir("root", name)
    assert answer.status == 400


@pytest.mark.parametrize("name", ["#", "100%", "a+b", "ä", "'", "&", "CONx", "x" * 255, "~file"])
def test_names_that_look_odd_and_are_good(emu: Emulator, client: Client, name: str) -> None:
    assert client.upload(name, b"1").status == 201
    assert client.item(name)["name"] == name
    assert emu.tree() == {name: b"1"}


def test_paths_have_an_end(emu: Emulator, client: Client) -> None:
    above = "/".join(["x" * 99] * 3)
    folder = emu.mkdir(above)
    assert client.mkdir(folder, "y" * 100).status == 201
    answer = client.mkdir(folder, "y" * 101)
    assert (answer.status, answer.inner) == (400, "pathIsTooLong")


def test_ids_have_a_case(emu: Emulator, client: Client) -> None:
    item = emu.write("f", b"1")
    assert client.ask("GET", f"/items/{item}").status == 200
    assert client.ask("GET", f"/items/{item.lower()}").status == 404


def test_the_library_encodes_everything(emu: Emulator, client: Client) -> None:
    emu.write("a b/c#d.txt", b"1")
    path = "/items/root%3A%2Fa%20b%2Fc%23d.txt%3A"
    assert client.get(path)["name"] == "c#d.txt"
    assert client.ask("GET", path + "/content").status == 302


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_locked_files_do_not_change(emu: Emulator, client: Client) -> None:
    item = emu.write("d/f", b"1")
    emu.lock("d/f")
    for write in WRITES:
        answer = write(client, item, "*")
        assert (answer.status, answer.inner) == (423, "resourceLocked")
    assert client.ask("DELETE", "/root:/d").status == 423
    emu.unlock("d/f")
    assert _put(client, item, "*").status == 200


def test_full_is_507(emu: Emulator, client: Client) -> None:
    emu.write("f", b"12345")
    emu.set_quota(9)
    assert client.upload("g", b"12345").status == 507
    assert client.session("g", fileSize=5).status == 507
    assert client.upload("g", b"1234").status == 201
    assert client.get("")["quota"]["remaining"] == 0
    assert client.get("")["quota"]["state"] == "exceeded"


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_recycle_bin_of_each_flavour(emu: Emulator, client: Client) -> None:
    folder = emu.mkdir("d")
    emu.write("d/f", b"1")
    assert client.ask("DELETE", f"/items/{folder}").status == 204
    assert client.ask("DELETE", f"/items/{folder}").status == 404
    answer = client.ask("POST", f"/items/{folder}/restore", {})
    if emu.drive.is_personal:
        assert answer.status == 200
        assert emu.tree() == {"d": None, "d/f": b"1"}
        assert client.ask("POST", f"/items/{folder}/permanentDelete").status == 405
    else:
        assert answer.status == 501
        other = emu.write("g", b"1")
        assert client.ask("POST", f"/items/{other}/permanentDelete").status == 204
        assert emu.tree() == {}


def test_mkdir_by_behaviour(emu: Emulator, client: Client) -> None:
    folder = emu.mkdir("d")
    emu.write("f", b"1")
    assert client.mkdir("root", "D").status == 409
    assert client.mkdir("root", "D", "replace").json["id"] == folder
    assert client.mkdir("root", "F", "replace").status == 409
    assert client.mkdir("root", "d", "rename").json["name"] == "d 1"


def test_children_pages_are_no_snapshot(emu: Emulator, client: Client) -> None:
    for name in "abcdef":
        emu.write(name, b"1")
    page = client.get("/root/children?$top=3")
    emu.delete("d")
    emu.write("aa", b"1")
    rest, _ = client.listed(page["@odata.nextLink"])
    assert [v["name"] for v in [*page["value"], *rest]] == ["a", "b", "c", "e", "f"]
    assert client.ask("GET", "/root/children?$skiptoken=x").status == 400
    assert client.ask("GET", "/root/children?$skip=1").status == 400
    assert client.ask("GET", "/root/children?$top=0").status == 400


def test_page_size_is_capped_in_silence(emu: Emulator, client: Client) -> None:
    emu.knobs.page_cap = 2
    for name in "abc":
        emu.write(name, b"1")
    pages, _ = client.pages("/root/children?$top=5000")
    assert [len(page) for page in pages] == [2, 1]
