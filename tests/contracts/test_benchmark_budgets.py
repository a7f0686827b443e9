"""`python -m benchmarks budgets` asks the same questions with all settings, and compares them question by question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import budgets
from tests.e2e import small_store


def test_every_setting_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "tune_allocator", lambda: False)  # it is of the whole process
    monkeypatch.setattr(budgets, "MASSES", (0.5,))
    monkeypatch.setattr(budgets, "SHARES", (0.5, 0.01))
    data, figures = tmp_path / "asked.jsonl", tmp_path / "figures.json"
    texts = ["which river is the longest", "who was born in Paris", "the lake in Germany"]
    data.write_text("".join(
        json.dumps({"id": str(i), "input": text, "output": [{"answer": "the Nile"}]}) + "\n"
        for i, text in enumerate(texts)
    ))  # fmt: skip
    store = str(small_store.built(tmp_path))
    assert command.main(["budgets", "--store", store, "--data", str(data), "--json", str(figures)]) == 0
    (report,) = json.loads(figures.read_text())["benchmarks"]
    assert report["settings"]["questions"] == 3
    lines = {row["setting"]: row for row in report["rows"]}
    *fixed, auto, half, nothing = lines
    assert [*fixed, auto] == ["keep 1", "keep 3", "keep 10", "auto 0.5"]
    assert [lines[name]["passages read"] for name in fixed] == [1, 3, 10]
    assert 1 <= lines[auto]["passages read"] <= 10
    limit = float(half.removesuffix(" GFLOP"))
    assert 0 < lines[half]["most GFLOP"] <= limit < lines["keep 10"]["GFLOP"]
    assert lines[half]["lowered"] == 3
    assert (lines[nothing]["refused"], lines[nothing]["exact match"]) == (3, 0)
    assert lines["keep 10"]["better"] == 0


def test_settings_are_compared_question_by_question() -> None:
    """Both are right half the time, and one is right wherever the other is."""
    fixed = budgets._Asked(right=[1.0, 0.0, 1.0, 0.0] * 10, milliseconds=[1.0] * 40)
    better = budgets._Asked(right=[1.0, 1.0, 1.0, 0.0] * 10, milliseconds=[1.0] * 40)
    one, other = budgets.rows({budgets.DEFAULT: fixed, "other": better})
    assert (one["better"], one["better from"], one["better to"]) == (0, 0, 0)
    assert other["better"] == pytest.approx(25)
    assert 0 < float(other["better from"]) < 25 < float(other["better to"])
    assert float(other["to"]) - float(other["from"]) > 20  # alone, each is less certain
