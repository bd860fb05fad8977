"""Random lives of a drive beside a plain dictionary: three ways to see it have to agree.

The full enumeration, what a client knows that followed the feed from the start, and a walk
through the folders.
"""

from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.graph import Clock, Emulator
from tests.support.graph_client import BEHAVIOUR, UNIT, Client, Json

NAMES: Final = st.sampled_from(["a", "A", "b", "ß", "ä", "c.txt", "C.TXT"])
CONTENTS: Final = st.binary(max_size=5)
Node = tuple[str, str | None, bytes | None]
"""Name, parent's id, content; None: a folder."""


class _Machine(RuleBasedStateMachine):
    flavour = "business"

    def __init__(self) -> None:
        super().__init__()
        self.emu = Emulator(self.flavour, clock=Clock(frozen=True)).start()
        self.emu.knobs.dup_items = self.emu.knobs.empty_page = True
        self.client = Client(self.emu)
        self.root: str = self.client.get("/root")["id"]
        self.model: dict[str, Node] = {}
        self.link = "/root/delta?$top=3"
        self.known: dict[str, Json] = {}

    def teardown(self) -> None:
        try:
            self.follow()
        finally:
            self.client.close()
            self.emu.stop()

    # ---- what clients do ----------------------------------------------------------------

    def _pick(self, data: Any, *, folders: bool) -> str | None:
        found = [i for i, node in self.model.items() if (node[2] is None) == folders]
        choices = sorted(found) + ([self.root] if folders else [])
        return data.draw(st.sampled_from(choices)) if choices else None

    def _taken(self, parent: str, name: str) -> str | None:
        fold = self.emu.drive.fold
        for item, node in self.model.items():
            if node[1] == parent and fold(node[0]) == fold(name):
                return item
        return None

    @rule(data=st.data(), name=NAMES)
    def mkdir(self, data: Any, name: str) -> None:
        parent = self._pick(data, folders=True)
        assert parent is not None
        answer = self.client.mkdir(parent, name)
        if self._taken(parent, name):
            assert answer.status == 409
            return
        assert answer.status == 201
        self.model[answer.json["id"]] = (name, parent, None)

    @rule(
        data=st.data(),
        name=NAMES,
        content=CONTENTS,
        behaviour=st.sampled_from(["fail", "replace"]),
        large=st.booleans(),
    )
    def upload(self, data: Any, name: str, content: bytes, behaviour: str, large: bool) -> None:
        parent = self._pick(data, folders=True)
        assert parent is not None
        there = self._taken(parent, name)
        is_folder = there is not None and self.model[there][2] is None
        status, body = self._upload(parent, name, content, behaviour, large=large and bool(content))
        if there is not None and (behaviour == "fail" or is_folder):
            assert status == 409
        elif there is not None:
            assert (status, body["id"]) == (200, there)
            self.model[there] = (self.model[there][0], parent, content)
        else:
            assert status == 201
            self.model[body["id"]] = (name, parent, content)

    def _upload(
        self, parent: str, name: str, content: bytes, behaviour: str, *, large: bool
    ) -> tuple[int, Json]:
        from urllib.parse import quote

        place = f"/items/{parent}:/{quote(name)}:"
        if not large:
            url = f"{place}/content?{BEHAVIOUR}={behaviour}"
            answer = self.client.ask("PUT", url, content)
            return answer.status, answer.json
        body: Json = {"item": {BEHAVIOUR: behaviour}}
        answer = self.client.ask("POST", f"{place}/createUploadSession", body)
        if answer.status != 200:
            return answer.status, answer.json
        url = answer.json["uploadUrl"]
        assert len(content) < UNIT
        answer = self.client.fragment(url, content, 0, len(content))
        if answer.status == 409:
            self.client.send("DELETE", url)
        return answer.status, answer.json

    @precondition(lambda self: self.model)
    @rule(data=st.data(), name=NAMES, replace=st.booleans())
    def move(self, data: Any, name: str, replace: bool) -> None:
        item = data.draw(st.sampled_from(sorted(self.model)))
        parent = self._pick(data, folders=True)
        assert parent is not None
        body: Json = {"name": name, "parentReference": {"id": parent}}
        body[BEHAVIOUR] = "replace" if replace else "fail"
        answer = self.client.ask("PATCH", f"/items/{item}", body)
        there = self._taken(parent, name)
        if item == parent or item in self._above(parent):
            assert answer.status == 400
            return
        if there is not None and there != item:
            files = self.model[there][2] is not None and self.model[item][2] is not None
            assert answer.status == (200 if replace and files else 409)
            if answer.status == 409:
                return
            del self.model[there]
        assert answer.status == 200
        self.model[item] = (name, parent, self.model[item][2])

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        item = data.draw(st.sampled_from(sorted(self.model)))
        assert self.client.ask("DELETE", f"/items/{item}").status == 204
        for other in [item, *(i for i in self.model if item in self._above(i))]:
            self.model.pop(other, None)

    def _above(self, item: str) -> list[str]:
        found: list[str] = []
        parent = self.model[item][1] if item in self.model else None
        while parent is not None and parent in self.model:
            found.append(parent)
            parent = self.model[parent][1]
        return found

    # ---- three ways to see it -----------------------------------------------------------

    @rule()
    def follow(self) -> None:
        """The feed, from where we were. Deletions first would be wrong: last state wins."""
        values, self.link = self.client.listed(self.link)
        _apply(self.known, values)
        expected = self._model_nodes()
        for seen in (self.known, self._enumerated(), self._walked()):
            assert self._nodes(seen) == expected

    @rule(kind=st.sampled_from(["apply", "upload"]))
    def expire(self, kind: str) -> None:
        self.emu.expire_delta(kind)
        if not self.link.partition("token=")[2]:
            return
        answer = self.client.ask("GET", self.link)
        assert answer.status == 410
        self.link = answer.headers["location"]
        self.known = {}

    @invariant()
    def state_is_sound(self) -> None:
        self.emu.check()

    def _walked(self) -> dict[str, Json]:
        walked: dict[str, Json] = {}
        waiting = [self.root]
        while waiting:
            folder = waiting.pop()
            for value in self.client.listed(f"/items/{folder}/children?$top=2")[0]:
                walked[value["id"]] = value
                if "folder" in value:
                    waiting.append(value["id"])
        return walked

    def _enumerated(self) -> dict[str, Json]:
        known: dict[str, Json] = {}
        _apply(known, self.client.listed("/root/delta?$top=2")[0])
        return known

    def _nodes(self, values: dict[str, Json]) -> dict[str, tuple[str, str, int | None]]:
        return {
            item: (v["name"], v["parentReference"]["id"], v["size"] if "file" in v else None)
            for item, v in values.items()
            if "root" not in v
        }

    def _model_nodes(self) -> dict[str, tuple[str, str | None, int | None]]:
        return {
            item: (name, parent, None if content is None else len(content))
            for item, (name, parent, content) in self.model.items()
        }


def _apply(known: dict[str, Json], values: list[Json]) -> None:
    for value in values:
        if "deleted" in value:
            known.pop(value["id"], None)
        else:
            known[value["id"]] = value


class _Personal(_Machine):
    flavour = "personal"


@pytest.mark.parametrize("machine", [_Machine, _Personal], ids=["business", "personal"])
def test_every_view_of_the_drive_is_the_same(machine: type[_Machine]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(  # pyright: ignore[reportUnknownMemberType]
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
