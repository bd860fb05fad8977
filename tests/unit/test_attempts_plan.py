"""Questions asked before every request do not grow with the journal."""

from pathlib import Path
from typing import Any

import pytest

from csyncfs.store import attempts, db


@pytest.mark.parametrize("question", ["tree_moves", "makers_at", "maker_below"])
def test_no_question_about_attempts_goes_through_the_journal(
    tmp_path: Path, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = db.open_store(tmp_path)
    asked: list[tuple[str, Any]] = []

    def note(sql: str, values: Any = ()) -> list[Any]:
        asked.append((sql, values))
        return []

    with monkeypatch.context() as patch:
        patch.setattr(store, "one", note)
        patch.setattr(store, "all", note)
        words: Any = {"tree_moves": (), "makers_at": ("k",), "maker_below": ("d/", 1)}[question]
        getattr(attempts, question)(store, *words)
    [(sql, values)] = asked
    plan = [row[-1] for row in store.all(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert [step for step in plan if step.startswith("SCAN i")] == []
    assert [step for step in plan if "SEARCH i USING" in step] != []
    store.close()
