"""The change feed, as each flavour tells it."""

from typing import Final

import pytest

from tests.support.graph import Emulator
from tests.support.graph_client import Client, Json

ALL: Final = ("personal", "business", "sharepoint")
FEED: Final = "/root/delta"


def _names(values: list[Json]) -> list[str]:
    return [value.get("name", "(gone)") for value in values]


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_full_enumeration_names_everything_once(emu: Emulator, client: Client) -> None:
    for number in range(7):
        emu.write(f"d{number % 3}/f{number}", b"x")
    values, link = client.listed(FEED + "?$top=4")
    assert set(_names(values)) == {
        "root",
        *(f"d{n}" for n in range(3)),
        *(f"f{n}" for n in range(7)),
    }
    assert client.listed(link)[0] == []


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_what_changes_during_an_enumeration_is_told_afterwards(
    emu: Emulator, client: Client
) -> None:
    for number in range(6):
        emu.write(f"f{number}", b"x")
    first = client.get(FEED + "?$top=3")
    emu.delete("f0")
    emu.delete("f5")
    emu.write("new", b"x")
    _, link = client.listed(first["@odata.nextLink"])
    changes, _ = client.listed(link)
    assert sum("deleted" in value for value in changes) == 2
    assert "new" in _names(changes)


def test_deletions_during_an_enumeration_can_get_lost(emu: Emulator, client: Client) -> None:
    emu.knobs.lose_deletes = True
    for number in range(6):
        emu.write(f"f{number}", b"x")
    first = client.get(FEED + "?$top=3")
    emu.delete("f0")
    _, link = client.listed(first["@odata.nextLink"])
    emu.delete("f1")
    changes, _ = client.listed(link)
    assert sum("deleted" in value for value in changes) == 1


@pytest.mark.parametrize("flavour", ["business", "sharepoint"], indirect=True)
def test_business_tells_the_ancestors_of_every_change(emu: Emulator, client: Client) -> None:
    emu.write("a/b/c", b"1")
    _, link = client.listed(FEED)
    emu.write("a/b/c", b"2")
    changes, _ = client.listed(link)
    assert _names(changes) == ["root", "a", "b", "c"]
    assert len(client.get(link + "&$top=1")["value"]) == 4
    kept = client.ask("GET", link, Prefer="deltaExcludeParent").json["value"]
    assert _names(kept) == ["root", "c"]


@pytest.mark.parametrize("flavour", ["personal"], indirect=True)
def test_personal_tells_only_what_changed(emu: Emulator, client: Client) -> None:
    emu.write("a/b/c", b"1")
    _, link = client.listed(FEED)
    emu.write("a/b/c", b"2")
    assert _names(client.listed(link)[0]) == ["c"]


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_only_personal_folders_have_a_feed_of_their_own(emu: Emulator, client: Client) -> None:
    folder = emu.mkdir("a/b")
    emu.write("a/b/c", b"1")
    emu.write("other", b"1")
    answer = client.ask("GET", f"/items/{folder}/delta")
    if not emu.drive.is_personal:
        assert (answer.status, answer.code) == (501, "notSupported")
        return
    assert _names(answer.json["value"]) == ["b", "c"]
    emu.rename("a/b/c", "c")
    changes, _ = client.listed(answer.json["@odata.deltaLink"])
    assert [value["deleted"]["state"] for value in changes] == ["deleted"]


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_tombstones_lack_what_they_lack_in_reality(emu: Emulator, client: Client) -> None:
    emu.write("f", b"hello")
    _, link = client.listed(FEED)
    emu.delete("f")
    [stone] = [value for value in client.listed(link)[0] if "deleted" in value]
    assert "cTag" not in stone
    assert stone["file"]["hashes"]["quickXorHash"].startswith("AAAA")
    assert ("name" in stone, "size" in stone) == (
        (True, False) if emu.drive.is_personal else (False, True)
    )


@pytest.mark.parametrize("flavour", ALL, indirect=True)
def test_only_personal_has_ctags_in_the_feed(emu: Emulator, client: Client) -> None:
    emu.write("d/f", b"x")
    values, _ = client.listed(FEED)
    assert {"cTag" in value for value in values} == {emu.drive.is_personal}


def test_folder_rename_tells_the_folder_only(emu: Emulator, client: Client) -> None:
    emu.write("a/b/c", b"1")
    _, link = client.listed(FEED)
    emu.rename("a", "z")
    assert _names(client.listed(link)[0]) == ["root", "z"]


@pytest.mark.parametrize(
    ("knob", "order"),
    [("parent_first", ["d", "f"]), ("children_first", ["f", "d"]), ("top_only", ["d"])],
)
def test_folder_deletion_in_each_order(
    emu: Emulator, client: Client, knob: str, order: list[str]
) -> None:
    ids = {emu.mkdir("d"): "d", emu.write("d/f", b"1"): "f"}
    _, link = client.listed(FEED)
    emu.knobs.folder_delete = knob
    emu.delete("d")
    changes, _ = client.listed(link)
    assert [ids[value["id"]] for value in changes if "deleted" in value] == order


@pytest.mark.parametrize("kind", ["apply", "upload"])
def test_expired_token_is_gone_and_says_where_to_begin(
    emu: Emulator, client: Client, kind: str
) -> None:
    emu.write("d/f", b"x")
    before, link = client.listed(FEED)
    emu.expire_delta(kind)
    answer = client.ask("GET", link)
    assert (answer.status, answer.code) == (410, "resyncRequired")
    assert answer.inner == f"resyncChanges{kind.capitalize()}Differences"
    again, fresh = client.listed(answer.headers["location"])
    assert {v["id"] for v in again} == {v["id"] for v in before}
    assert client.listed(fresh)[0] == []


def test_pruned_token_is_gone(emu: Emulator, client: Client) -> None:
    _, link = client.listed(FEED)
    emu.write("f", b"x")
    emu.prune_delta()
    assert client.ask("GET", link).status == 410


def test_token_that_is_none_of_ours_is_refused(client: Client) -> None:
    _, link = client.listed(FEED)
    assert client.ask("GET", FEED + "?token=nonsense.x").status == 400
    assert client.ask("GET", link.replace("token=", "token=x")).status == 400


def test_latest_and_times_are_tokens(emu: Emulator, client: Client) -> None:
    emu.write("old", b"x")
    emu.clock.advance(100)
    latest = client.get(FEED + "?token=latest")
    assert latest["value"] == []
    when = client.get("/root")["createdDateTime"]
    emu.write("new", b"x")
    assert _names(client.listed(latest["@odata.deltaLink"])[0]) == ["root", "new"]
    assert _names(client.listed(f"{FEED}?token={when.replace(':', '%3A')}")[0])[-1] == "new"
    assert _names(client.listed(f"/root/delta(token='{when}')")[0])[-1] == "new"


def test_feed_lags_behind(emu: Emulator, client: Client) -> None:
    emu.knobs.delta_lag_s = 10
    emu.write("f", b"1")
    emu.clock.advance(20)
    _, link = client.listed(FEED)
    emu.write("f", b"four")
    emu.write("g", b"1")
    changes, link = client.listed(link)
    assert changes == []
    emu.clock.advance(5)
    emu.write("f", b"seventh")
    emu.clock.advance(6)
    changes, link = client.listed(link)
    assert {v["name"]: v["size"] for v in changes if "file" in v} == {"f": 4, "g": 1}
    emu.clock.advance(6)
    changes, _ = client.listed(link)
    assert {v["name"]: v["size"] for v in changes if "file" in v} == {"f": 7}


def test_doubles_come_with_the_older_state_first(emu: Emulator, client: Client) -> None:
    emu.knobs.dup_items = True
    _, link = client.listed(FEED)
    for number in range(20):
        emu.write(f"f{number}", b"1")
        emu.rename(f"f{number}", f"g{number}")
    changes = [v for v in client.listed(link)[0] if "file" in v]
    final = {value["id"]: value["name"] for value in changes}
    assert len(changes) > len(final) == 20
    assert all(name.startswith("g") for name in final.values())


def test_empty_pages_have_a_next_link(emu: Emulator, client: Client) -> None:
    emu.knobs.empty_page = True
    for number in range(40):
        emu.write(f"f{number}", b"1")
    pages, _ = client.pages(FEED + "?$top=2")
    assert [] in pages
    assert sum("file" in value for page in pages for value in page) == 40


def test_made_and_gone_in_between(emu: Emulator, client: Client) -> None:
    _, link = client.listed(FEED)
    emu.write("f", b"1")
    emu.delete("f")
    assert any("deleted" in value for value in client.listed(link)[0])
    emu.knobs.omit_made_and_gone = True
    assert client.listed(link)[0] == []


def test_selected_properties_only(emu: Emulator, client: Client) -> None:
    emu.write("f", b"1")
    values, link = client.listed(FEED + "?$select=id,name,@microsoft.graph.downloadUrl")
    assert {key for v in values for key in v if not key.startswith("@")} >= {"id", "name"}
    assert all("size" not in value for value in values if value["name"] == "f")
    assert any("@microsoft.graph.downloadUrl" in value for value in values)
    emu.write("f", b"2")
    assert all("size" not in v for v in client.listed(link)[0] if v["name"] == "f")
