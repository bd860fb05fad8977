"""Every answer has the properties and types Microsoft publishes, by two oracles."""

import importlib
import json
import re
from typing import Any, Final

import pytest

from tests.support.graph import Emulator
from tests.support.graph_client import Client, Json
from tests.support.graph_schema import objections
from tests.support.graph_tour import tour

FLAVOURS: Final = ("personal", "business", "sharepoint")
_MODELS: Final = {
    "driveItem": "drive_item.DriveItem",
    "[driveItem]": "drive_item_collection_response.DriveItemCollectionResponse",
    "drive": "drive.Drive",
    "[drive]": "drive_collection_response.DriveCollectionResponse",
    "uploadSession": "upload_session.UploadSession",
    "driveItemVersion": "drive_item_version.DriveItemVersion",
    "[driveItemVersion]": "drive_item_version_collection_response."
    "DriveItemVersionCollectionResponse",
    "user": "user.User",
    "site": "site.Site",
    "[site]": "site_collection_response.SiteCollectionResponse",
    "subscription": "subscription.Subscription",
    "[subscription]": "subscription_collection_response.SubscriptionCollectionResponse",
    "error": "o_data_errors.main_error.MainError",
}
# Documented, sent by the service, and not in the library.
_UNDECLARED: Final = frozenset({".inner_error: unknown code"})
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")


@pytest.mark.parametrize("flavour", FLAVOURS, indirect=True)
def test_every_answer_is_of_the_published_type(emu: Emulator, client: Client) -> None:
    stops = list(tour(emu, client))
    wrong = {name: objections(kind, body) for name, kind, body in stops}
    assert {name: errors for name, errors in wrong.items() if errors} == {}
    assert len(stops) > 30


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        ({"sizee": 1}, ".sizee: unknown"),
        ({"size": "12"}, ".size: '12' is no int"),
        ({"folder": "x"}, ".folder: no folder"),
        ({"file": {"hashes": {"quickxorHash": ""}}}, ".file.hashes.quickxorHash: unknown"),
        ({"createdDateTime": "yesterday"}, ".createdDateTime: 'yesterday' is no date"),
        ({"@odata.wrong": ""}, ".@odata.wrong: strange annotation"),
    ],
)
def test_the_table_finds_what_is_wrong(client: Client, spoil: Json, complaint: str) -> None:
    good = client.get("/root")
    assert objections("driveItem", good) == []
    assert objections("driveItem", {**good, **spoil}) == [complaint]


@pytest.mark.parametrize("flavour", FLAVOURS, indirect=True)
def test_every_answer_survives_microsofts_own_models(emu: Emulator, client: Client) -> None:
    pytest.importorskip("msgraph")
    wrong: dict[str, list[str]] = {}
    for name, kind, body in tour(emu, client):
        if kind in _MODELS:
            wrong[name] = _lost_in_models(kind, body)
    assert {name: errors for name, errors in wrong.items() if errors} == {}
    assert len(wrong) > 30


def test_microsofts_models_find_what_is_wrong(client: Client) -> None:
    pytest.importorskip("msgraph")
    good = client.get("/root")
    assert _lost_in_models("driveItem", good) == []
    assert _lost_in_models("driveItem", {**good, "sizee": 1})
    assert _lost_in_models("driveItem", {**good, "size": "12"})


def _lost_in_models(kind: str, body: Json) -> list[str]:
    """What Microsoft's library does not know, or does not give back as it was."""
    module, _, name = _MODELS[kind].rpartition(".")
    model: Any = getattr(importlib.import_module(f"msgraph.generated.models.{module}"), name)
    serializer: Any = importlib.import_module("kiota_serialization_json.json_parse_node_factory")
    writer_module: Any = importlib.import_module(
        "kiota_serialization_json.json_serialization_writer"
    )
    factory = serializer.JsonParseNodeFactory()
    node = factory.get_root_parse_node("application/json", json.dumps(body).encode())
    parsed = node.get_object_value(model)
    writer = writer_module.JsonSerializationWriter()
    parsed.serialize(writer)
    again = json.loads(writer.get_serialized_content())
    unknown = [error for error in _unknown(parsed, "") if error not in _UNDECLARED]
    return unknown + _differences(_plain(body), _plain(again), "")


def _unknown(parsed: Any, where: str) -> list[str]:
    """Keys that no property took. Annotations are allowed."""
    if isinstance(parsed, list):
        return [error for one in parsed for error in _unknown(one, where)]  # pyright: ignore[reportUnknownVariableType]
    fields: dict[str, Any] | None = getattr(parsed, "__dict__", None)
    if fields is None or not hasattr(parsed, "additional_data"):
        return []
    extra: Json = parsed.additional_data or {}
    found = [f"{where}: unknown {key}" for key in extra if not key.startswith("@")]
    for name, value in fields.items():
        if name not in ("additional_data", "backing_store"):
            found += _unknown(value, f"{where}.{name}")
    return found


def _differences(before: Any, after: Any, where: str) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        known: dict[str, Any] = after  # pyright: ignore[reportUnknownVariableType]
        return [
            error
            for key, value in before.items()  # pyright: ignore[reportUnknownVariableType]
            for error in _differences(value, known.get(str(key)), f"{where}.{key}")  # pyright: ignore[reportUnknownArgumentType]
        ]
    if isinstance(before, list) and isinstance(after, list):
        pairs: list[tuple[Any, Any]] = list(zip(before, after, strict=False))  # pyright: ignore[reportUnknownArgumentType]
        lost = [] if len(pairs) == len(before) else [f"{where}: shorter"]  # pyright: ignore[reportUnknownArgumentType]
        return lost + [e for b, a in pairs for e in _differences(b, a, where)]
    return [] if before == after else [f"{where}: {before!r} became {after!r}"]


def _plain(value: Any) -> Any:
    """Dates to the second, without annotations and the facets that are empty objects."""
    if isinstance(value, dict):
        items: list[tuple[str, Any]] = list(value.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        return {k: _plain(v) for k, v in items if not k.startswith("@")}
    if isinstance(value, list):
        return [_plain(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, str) and _DATE.fullmatch(value):
        return value[:19]
    return value
