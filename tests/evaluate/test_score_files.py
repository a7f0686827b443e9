"""Whole files: a case worked out by hand, and KILT's official evaluation where its cases are available."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore.cli.show_figures import show_scores
from memstore.errors import ConfigError
from memstore.evaluate import Estimate, GoldQuestion, Prediction, score_files, score_questions
from memstore.evaluate.score import page_notes

ORACLES = Path(__file__).parents[2].parent / "shared" / "oracles" / "kilt"
ROUGE_OF_EQUALS = 2 / (2 + 1e-8)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(name: str, *outputs: tuple[str, str | None]) -> dict[str, Any]:
    """Outputs as (answer, a letter per page)."""
    made = []
    for answer, pages in outputs:
        provenance = {} if pages is None else {"provenance": [{"wikipedia_id": page} for page in pages]}
        made.append({"answer": answer} | provenance)
    return {"id": name, "input": f"{name}?", "output": made}


GOLD = [
    row("right", ("Paris", "p")),
    row("unproven", ("The Nile", "nm"), ("Nile", None)),
    row("wrong", ("green", "g"), ("blue", "b")),
    row("without pages", ("Mars", None)),
]
GUESSES = [  # in another order
    row("wrong", ("red", "gxb")),
    row("without pages", ("mars", "m")),
    row("unproven", ("nile", "nxm")),
    row("right", ("Paris", "pq")),
]
HALF_ROUGE = ROUGE_OF_EQUALS / 4  # only "Paris" is right to the letter
BY_HAND = {
    "kilt": {"KILT-accuracy": 1 / 4, "KILT-em": 1 / 4, "KILT-f1": 1 / 4, "KILT-rougel": HALF_ROUGE},
    "downstream": {"accuracy": 1 / 4, "em": 3 / 4, "f1": 3 / 4, "rougel": HALF_ROUGE},
    "retrieval": {
        "Rprec": (1 + 1 / 2 + 1 + 0) / 4,
        "precision@1": (1 + 0 + 1 + 0) / 4,
        "precision@2": (1 / 2 + 1 / 2 + 1 / 2 + 0) / 4,  # x n m: the set {n, m} is complete at the second place
        "recall@2": (1 + 1 + 1 / 2 + 0) / 4,
        "success_rate@2": 3 / 4,
    },
}


def test_by_hand(tmp_path: Path) -> None:
    gold, guess = write(tmp_path / "gold.jsonl", GOLD), write(tmp_path / "guess.jsonl", GUESSES)
    report = score_files(gold, guess, ks=(2, 1, 2))
    found = {"kilt": report.kilt, "downstream": report.downstream, "retrieval": report.retrieval}
    for group, expected in BY_HAND.items():
        assert {name: e.value for name, e in found[group].items()} == pytest.approx(expected, abs=1e-12)
        assert all(e.low <= e.value <= e.high for e in found[group].values())
    assert (report.questions, report.questions_with_evidence, report.page_key) == (4, 3, "wikipedia_id")


def test_plain_values_for_json(tmp_path: Path) -> None:
    gold, guess = write(tmp_path / "gold.jsonl", GOLD[:1]), write(tmp_path / "guess.jsonl", GUESSES[3:])
    report = json.loads(json.dumps(score_files(gold, guess).as_dict()))
    one, part, rouge = ({"value": v, "low": v, "high": v} for v in (1.0, 0.2, ROUGE_OF_EQUALS))
    assert report == {
        "gold": str(gold),
        "predictions": str(guess),
        "page_key": "wikipedia_id",
        "questions": 1,
        "questions_with_evidence": 1,
        "kilt": {"KILT-accuracy": one, "KILT-em": one, "KILT-f1": one, "KILT-rougel": rouge},
        "downstream": {"accuracy": one, "em": one, "f1": one, "rougel": rouge},
        "retrieval": {"Rprec": one, "precision@1": one, "precision@5": part, "recall@5": one, "success_rate@5": one},
        "notes": [],
        "bootstrap": {"confidence": 0.95, "resamples": 2000, "seed": 20230618},
    }


UNLIKE = [
    ("13.0", [["13"], []], "by `wikipedia_id` they are '13' (line 1) there, and '13.0' (line 1) in the questions"),
    ("13", [["Q42"], ["Q42", "x"]], "they are 'Q42' (line 1) there, and '13' (line 1) in the questions"),
    ("13", [[], ["x"]], "they are 'x' (line 2) there, and '13' (line 1) in the questions"),
    ("13", [[], []], "no prediction names a page"),
]


@pytest.mark.parametrize(("wanted", "guessed", "note"), UNLIKE)
def test_pages_that_all_are_wrong_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: str, guessed: list[list[str]], note: str
) -> None:
    def rows(answers: str, pages: list[list[str]]) -> list[dict[str, Any]]:
        named = [[{"wikipedia_id": page} for page in of_one] for of_one in pages]
        return [
            {"id": str(i), "input": "?", "output": [{"answer": answer, "provenance": provenance}]}
            for i, (answer, provenance) in enumerate(zip(answers, named, strict=True))
        ]

    gold = write(tmp_path / "gold.jsonl", rows("xy", [[wanted], [wanted]]))
    report = score_files(gold, write(tmp_path / "guess.jsonl", rows("xy", guessed)))
    assert report.retrieval["Rprec"].value == 0
    assert len(report.notes) == 1
    assert note in report.notes[0]
    show_scores(report.as_dict())
    assert f"\nNOTE: {report.notes[0]}\n" in capsys.readouterr().out


@pytest.mark.parametrize("pages", [["13"], []])
def test_nothing_is_noted_where_a_page_is_right_or_none_is_asked_for(pages: list[str]) -> None:
    evidence = (frozenset(pages),)
    gold = [GoldQuestion(id=name, input="", answers=("x",), evidence=evidence) for name in "ab"]
    guesses = [Prediction(id="a", answer="x", pages=("9",)), Prediction(id="b", answer="x", pages=("8", "13"))]
    assert page_notes(gold, guesses, key="wikipedia_id") == ()


def test_predictions_may_name_pages_by_any_key_where_the_questions_name_none(tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.jsonl", [row("a", ("Mars", None)), row("b", ("Nile", ""))])
    output = [{"answer": "Mars", "provenance": [{"title": "Mars"}]}]
    guess = write(tmp_path / "guess.jsonl", [{"id": name, "output": output} for name in "ab"])
    report = score_files(gold, guess)
    assert (report.downstream["em"].value, report.retrieval["Rprec"].value) == (1 / 2, 0)
    assert report.questions_with_evidence == 0


def test_some_of_the_questions() -> None:
    page = frozenset({"p"})
    gold = [GoldQuestion(id=n, input="", answers=(n,), evidence=(page,) if n == "b" else ()) for n in "abc"]
    guesses = [Prediction(id=name, answer=answer, pages=()) for name, answer in zip("abc", "axc", strict=True)]
    scores = score_questions(gold, guesses)
    assert scores.means()["em"].value == pytest.approx(2 / 3)
    some = scores.select(np.array([True, False, True]))
    assert some.ids == ("a", "c")
    assert some.means()["em"] == Estimate(1.0, 1.0, 1.0)
    assert (scores.with_evidence.tolist(), some.with_evidence.tolist()) == ([False, True, False], [False, False])
    assert scores.select(np.zeros(3, dtype=np.bool_)).means() == {}


def test_a_rank_asked_for_twice_is_scored_once_and_ranks_ascend() -> None:
    gold = [GoldQuestion(id="a", input="", answers=("a",), evidence=())]
    names = score_questions(gold, [Prediction(id="a", answer="a", pages=())], ks=(2, 1, 2)).metrics
    assert names[8:] == ("Rprec", "precision@1", "precision@2", "recall@2", "success_rate@2")


def test_questions_out_of_order() -> None:
    gold = [GoldQuestion(id=name, input="", answers=("x",), evidence=()) for name in "ab"]
    with pytest.raises(ConfigError, match="in the order of their questions"):
        score_questions(gold, [Prediction(id=name, answer="x", pages=()) for name in "ba"])


@pytest.mark.parametrize("ks", [(0,), (1, -5)])
def test_ranks_below_one(tmp_path: Path, ks: tuple[int, ...]) -> None:
    gold, guess = write(tmp_path / "gold.jsonl", GOLD), write(tmp_path / "guess.jsonl", GUESSES)
    with pytest.raises(ConfigError, match=f"at least 1, not {ks[-1]}"):
        score_files(gold, guess, ks=ks)


@pytest.mark.skipif(not ORACLES.is_dir(), reason="KILT's official scores are not here: no ../shared/oracles/kilt")
def test_equals_kilt_on_all_its_cases(tmp_path: Path) -> None:
    cases = sorted(ORACLES.glob("*.json"))
    assert cases
    for path in cases:
        case = json.loads(path.read_text(encoding="utf-8"))
        gold, guess = write(tmp_path / "gold.jsonl", case["gold"]), write(tmp_path / "guess.jsonl", case["guess"])
        report = score_files(gold, guess, ks=(1, 5, 10))
        found = {"kilt": report.kilt, "downstream": report.downstream, "retrieval_full": report.retrieval}
        short = {name: report.retrieval[name] for name in ("Rprec", "recall@5")}
        means = {group: {name: e.value for name, e in f.items()} for group, f in (found | {"retrieval": short}).items()}
        assert means.keys() == case["expected"].keys()
        for group, expected in case["expected"].items():
            assert means[group] == pytest.approx(expected, abs=1e-9, rel=0), (path.name, group)
