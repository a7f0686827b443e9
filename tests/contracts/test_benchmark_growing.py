"""`python -m benchmarks growing` cuts a corpus in documents, times each step, and ends in two stores that are alike."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.common import TOTAL
from benchmarks.growing import compared, documents_of, split_corpus


def corpus_of(path: Path, count: int) -> Path:
    rows = [{"id": f"d{i}", "title": f"t{i}", "text": f"The river number {i}."} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "e", "title": "e", "text": " "}]))
    return path


def test_it_ends_in_what_a_build_at_once_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "tune_allocator", lambda: False)
    path = tmp_path / "figures.json"
    assert command.main(["growing", "--quick", "--json", str(path)]) == 0
    (report,) = json.loads(path.read_text())["benchmarks"]
    assert [row["step"] for row in report["rows"]] == [
        "build the first", "add", "add again, unchanged", "delete", "compact", "build at once"
    ]  # fmt: skip
    assert all(math.isfinite(r["value"]) and r["value"] > 0 for r in report["ratios"])
    assert report["times"]["add"][TOTAL]["median"] > 0
    figures = report["figures"]
    here, there, same = (int(word) for word in figures["passages"].replace(",", "").split() if word.isdigit())
    assert here == there == same > 80
    same_tokens, tokens = figures["token ids that are the same"].split(" of ")
    assert same_tokens == tokens
    assert figures["largest difference of 2048 memories (relative norm)"] < 0.01
    assert figures["passages found by both, %"] > 99
    assert figures["answers that are the same"].endswith(" of 3")
    written = {row["step"]: row["written, MB"] for row in report["rows"]}
    assert written["add again, unchanged"] == 0 < written["add"] < written["build at once"] / 10
    assert "ratio  compact" in capsys.readouterr().out


def test_a_corpus_is_cut_in_what_comes_first_later_and_goes(tmp_path: Path) -> None:
    parts = split_corpus(corpus_of(tmp_path / "c.jsonl", 60), tmp_path, limit=50)
    ids = {name: [d.id for d in documents_of(getattr(parts, name))] for name in ("first", "added", "left")}
    assert ids["first"] + ids["added"] == [f"d{i}" for i in range(50)]
    assert (len(ids["added"]), len(parts.deleted), parts.documents) == (2, 2, 50)
    assert ids["left"] == [f"d{i}" for i in range(50) if f"d{i}" not in parts.deleted]


def test_too_few_documents_and_ready_passages_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "tune_allocator", lambda: False)
    ready = tmp_path / "ready.jsonl"
    ready.write_text(json.dumps({"id": "p", "document_id": "d", "title": "t", "text": "A lake."}) + "\n")
    for corpus, said in ((corpus_of(tmp_path / "c.jsonl", 3), "has 3 documents"), (ready, "line 1: no document")):
        with pytest.raises(SystemExit) as raised:
            command.main(["growing", "--quick", "--corpus", str(corpus), "--json", str(tmp_path / "f.json")])
        assert raised.value.code == 2
        assert said in capsys.readouterr().err


def test_what_differs_is_counted(tmp_path: Path) -> None:
    from tests.builders.changing import Bench, texts

    one, other = (
        Bench(tmp_path / name, texts(9, seed=seed), retriever="hybrid") for name, seed in (("a", 1), ("b", 2))
    )
    figures = compared(one.path, other.path, searches=5, answers=2)
    assert ", 0 the same" in str(figures["passages"])
    assert str(figures["searches with the same passages"]) != "5 of 5"
