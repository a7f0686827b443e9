"""Running an evaluation: how questions are asked, mistakes found before the work, what is written, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memstore import cli
from memstore.answer import Answer, Question
from memstore.errors import ConfigError, DataError, DataNotFound, MemstoreError, OutputUnwritable, RequestError
from memstore.evaluate import GoldQuestion, score_files
from memstore.evaluate.mistakes import as_json_lines, as_markdown, mistakes
from memstore.evaluate.outcome import Outcome, outcome
from memstore.evaluate.run import evaluate
from memstore.evaluate.task_files import named_files
from memstore.retrieve.filters import Filter
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny
from tests.evaluate.evaluate_cases import GOLD, Scripted, answer, options, write_gold


def test_questions_are_asked_in_batches_with_the_settings(tmp_path: Path) -> None:
    heard: list[Any] = []

    class Hears:
        def begin(self, stage: str, total: int | None, *, done: int = 0) -> None:
            heard.append((stage, total))

        def advance(self, items: int) -> None:
            heard.append(items)

        def end(self) -> None:
            heard.append("end")

    script = Scripted(tasks=["rivers"])
    report = evaluate(options(tmp_path, max_new_tokens=7, num_beams=2), answerer=script, progress=Hears())
    assert [len(batch) for batch in script.asked] == [3, 1]
    assert script.asked[1] == [
        Question(text="capital of Egypt", task="rivers", retrieve_k=5, keep_k=2, max_new_tokens=7, num_beams=2)
    ]
    assert heard == [("rivers", 4), 3, 1, "end"]
    assert report["settings"] == {
        "retrieve_k": 5, "keep_k": 2, "max_new_tokens": 7, "num_beams": 2, "min_confidence": 0.0, "batch": 3,
        "limit": None, "device": "cpu"
    }  # fmt: skip
    assert (report["model"]["name"], report["store"]["path"]) == ("script", "store")


def test_a_filter_is_of_every_question_and_of_the_report(tmp_path: Path) -> None:
    script = Scripted()
    report = evaluate(options(tmp_path, filter={"lang": "en"}), answerer=script)
    assert {q.filter for batch in script.asked for q in batch} == {Filter.of({"lang": "en"})}
    assert report["settings"]["filter"] == {"lang": "en"}
    with pytest.raises(RequestError, match="has no test 'is'"):
        options(tmp_path, filter={"lang": {"is": "en"}})


def test_a_task_that_the_model_does_not_know_is_asked_plainly(tmp_path: Path) -> None:
    script = Scripted(tasks=["other"])
    report = evaluate(options(tmp_path), answerer=script)
    assert {q.task for batch in script.asked for q in batch} == {None}
    assert report["tasks"]["rivers"]["asked_as"] is None


def test_a_limit_takes_questions_evenly_and_says_so(tmp_path: Path) -> None:
    rows = [(str(i), "longest river", ["Nile"], None) for i in range(10)]
    out = tmp_path / "out.jsonl"
    gold = write_gold(tmp_path / "gold.jsonl", rows)
    for limit, ids in ((4, "0257"), (1, "0"), (10, "0123456789"), (11, "0123456789")):
        chosen = options(tmp_path, data={"x": gold}, limit=limit, predictions=out)
        task = evaluate(chosen, answerer=Scripted())["tasks"]["x"]
        assert "".join(json.loads(line)["id"] for line in out.read_text().splitlines()) == ids
        assert (task["questions"], task["questions_in_file"], task["sampled"]) == (len(ids), 10, len(ids) < 10)


def test_the_cost_is_that_of_a_question(tmp_path: Path) -> None:
    cost = evaluate(options(tmp_path), answerer=Scripted())["tasks"]["rivers"]["cost"]
    assert cost["seconds"] == pytest.approx(4 * cost["seconds_per_question"])
    assert cost["milliseconds_per_question"] == {"retrieve": 2 * 2.0 / 4}  # of two batches
    assert [cost[f"{n}_per_question"] for n in ("flops", "fid_flops", "bytes_read")] == [5, 20, 3]


def test_several_files_are_written_apart(tmp_path: Path) -> None:
    data = {"a": write_gold(tmp_path / "a.jsonl"), "b": write_gold(tmp_path / "b.jsonl", GOLD[:1])}
    chosen = options(tmp_path, data=data, predictions=tmp_path / "out.jsonl", errors=tmp_path / "wrong.jsonl")
    report = evaluate(chosen, answerer=Scripted())
    for task, count in (("a", 4), ("b", 1)):
        written = Path(report["tasks"][task]["predictions"])
        assert written.name == f"out.{task}.jsonl"
        assert len(written.read_text().splitlines()) == count


# --- the list of wrong answers ----------------------------------------------------------------------------------


def test_wrong_answers_are_listed_by_what_went_wrong(tmp_path: Path) -> None:
    path = tmp_path / "wrong.jsonl"
    task = evaluate(options(tmp_path, errors=path), answerer=Scripted())["tasks"]["rivers"]
    assert task["wrong"] == {"misread": 1, "dropped": 1, "not_retrieved": 0}
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "task": "rivers", "kind": "misread", "id": "capital", "input": "capital of Egypt", "answers": ["Cairo"],
        "prediction": "Lake", "score": -1.0, "answerable": True, "rank_retrieved": 2, "rank_reranked": 1, "pages": [],
        "best_passages": [
            {"title": "Egypt", "retrieval_rank": 2, "kept": True, "holds_answer": True},
            {"title": "Cairo", "retrieval_rank": 1, "kept": True, "holds_answer": False},
        ],
    }  # fmt: skip
    assert (second["kind"], second["id"], second["rank_retrieved"], second["rank_reranked"]) == (
        "dropped", "climber", 1, 3
    )  # fmt: skip


def wrong(name: str, retrieved: list[str], places: list[int], score: float, *titles: str) -> Outcome:
    asked = GoldQuestion(id=name, input="?", answers=("Nile",), evidence=(), titles=titles)
    return outcome(asked, answer("x", retrieved, places, score=score))


def test_the_most_instructive_come_first() -> None:
    outcomes = [
        wrong("second place", ["Lake", "Nile"], [1, 2], -1),
        wrong("reranked second", ["Nile", "Lake"], [2, 1], -1),
        wrong("reranked first", ["Lake", "Nile"], [2, 1], -9),
        wrong("unsure", ["Nile", "Lake"], [1, 2], -3),
        wrong("sure", ["Nile", "Lake"], [1, 2], -2),
        wrong("dropped late", ["Lake", "Lake", "Nile"], [1, 2, 3], -1),
        wrong("dropped first", ["Nile", "Lake", "Lake"], [2, 3, 1], -9),
        wrong("dropped furthest", ["Nile", "Lake", "Lake", "Lake"], [2, 3, 4, 1], -9),
        wrong("no page", ["Lake"], [1], -2),
        wrong("no page, surer", ["Lake"], [1], -1),
        wrong("page but no answer", ["Lake", "Everest"], [1, 2], -9, "Everest"),
    ]
    found = {kind: [one.question.id for one in of_kind] for kind, of_kind in mistakes(outcomes).items()}
    assert found == {
        "misread": ["sure", "unsure", "reranked first", "reranked second", "second place"],
        "dropped": ["dropped furthest", "dropped first", "dropped late"],
        "not_retrieved": ["page but no answer", "no page, surer", "no page"],
    }


def test_the_list_to_read() -> None:
    one = wrong("a", ["Lake", "Nile"], [2, 1], -2.5, "River\nNile")
    assert as_markdown({"t": mistakes([one])}).splitlines()[-9:] == [
        "### t: a passage that was read holds an answer",
        "",
        "1. **?**",
        "   - predicted: x (log-probability -2.50)",
        "   - accepted: Nile",
        "   - first passage with an answer: #2 retrieved, #1 reranked",
        "   - best passages: Nile (#2, holds an answer); Lake (#1)",
        "   - known pages: River Nile",
        "   - id: a",
    ]


def test_a_question_shows_its_best_passages() -> None:
    one = wrong("a", ["Lake", "Cairo", "Egypt", "Lake", "Lake", "Lake"], [3, 2, 1, 4, 5, 6], -1)
    found = json.loads(as_json_lines({"t": mistakes([one])}))["best_passages"]
    assert [seen["retrieval_rank"] for seen in found] == [3, 2, 1, 4, 5]


def test_a_long_list_to_read_says_that_it_is_cut() -> None:
    text = as_markdown({"t": mistakes([wrong(str(i), ["Lake"], [1], -1) for i in range(201)])})
    assert "### t: no retrieved passage holds an answer, the first 200 of 201" in text
    assert text.count("predicted:") == 200


# --- mistakes reported before the work --------------------------------------------------------------------------

BEFORE: dict[str, tuple[dict[str, Any], type[MemstoreError], str]] = {
    "no folder": ({"predictions": "no/out.jsonl"}, OutputUnwritable, "out.jsonl cannot be written: No such file"),
    "a folder": ({"errors": "folder.md"}, OutputUnwritable, "folder.md is a folder"),
    "an input": ({"predictions": "rivers.dev.jsonl"}, ConfigError, "is read from in this run"),
    "one file twice": ({"predictions": "x.jsonl", "errors": "x.jsonl"}, ConfigError, "is written already"),
    "odd list": ({"errors": "x.txt"}, ConfigError, "must end in .md or .jsonl, not 'x.txt'"),
    "no file": ({"data": {"x": "none.jsonl"}}, DataNotFound, "no file"),
    "no training file": ({"train_data": {"rivers": "none.jsonl"}}, DataNotFound, "no file"),
    "unknown training task": ({"train_data": {"x": "a"}}, ConfigError, "no data of that name; there is: rivers"),
    "no data": ({"data": {}}, ConfigError, "name at least one file"),
    "no input": ({"data": {"x": "empty.jsonl"}}, DataError, "empty.jsonl:1: the row has no `input` to ask"),
    "keep more": ({"keep_k": 6}, RequestError, r"keep_k \(6\) must not exceed retrieve_k \(5\)"),
    "no batch": ({"batch": 0}, ConfigError, "at least 1"),
}


@pytest.mark.parametrize("case", BEFORE)
def test_reported_before_any_question_is_asked(tmp_path: Path, case: str) -> None:
    changes, error, message = BEFORE[case]
    (tmp_path / "folder.md").mkdir()
    write_gold(tmp_path / "empty.jsonl", [("a", "", ["x"], None)])

    def here(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: here(file) for name, file in value.items()}
        return tmp_path / value if isinstance(value, str) else value

    script = Scripted()
    with pytest.raises(error, match=message):
        evaluate(options(tmp_path, **{name: here(value) for name, value in changes.items()}), answerer=script)
    assert script.asked == []


def test_an_output_that_cannot_be_written_after_all_does_not_cost_the_scores(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    class Spoils(Scripted):
        def answer(self, questions: Any) -> list[Answer]:
            out.mkdir(exist_ok=True)
            return super().answer(questions)

    report = evaluate(options(tmp_path, predictions=out), answerer=Spoils())
    [message] = report["unwritten"]
    assert f"{out} cannot be written" in message
    assert report["tasks"]["rivers"]["questions"] == 4


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["a/squad.dev.jsonl.zst"], {"squad": "a/squad.dev.jsonl.zst"}),
        (["nq=x.jsonl", "fever.jsonl"], {"nq": "x.jsonl", "fever": "fever.jsonl"}),
        (["nq=a=b.jsonl"], {"nq": "a=b.jsonl"}),
    ],
)
def test_names_of_files(entries: list[str], expected: dict[str, str]) -> None:
    assert named_files(entries) == {name: Path(file) for name, file in expected.items()}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["nq.dev.jsonl", "nq.train.jsonl"], "are both named 'nq': give them different names"),
        (["a/b=x.jsonl"], "must be FILE or NAME=FILE"),
        (["nq="], "must be FILE or NAME=FILE"),
        ([".jsonl"], "must be FILE or NAME=FILE"),
    ],
)
def test_bad_names_of_files(entries: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        named_files(entries)


# --- the command, over a real little store ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    rows = [{"id": f"d{i}", "title": p.title, "text": f"{p.text} {i}."} for i, p in enumerate(tiny.passages(30))]
    corpus = folder / "docs.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tiny.save_checkpoint(folder / "model", tasks={"rivers": "river: {question}"})
    build(BuildOptions(corpus=(corpus,), out=folder / "store", model=str(model), dtype="float32"))
    return folder / "store"


QUESTIONS = [
    ("a", "which river is the longest", ["river"], "Nile"),
    ("b", "who was born in Paris", ["Berlin", "Germany"], "Paris"),
    ("c", "lake", ["a word of no passage"], None),
]


def run(store: Path, gold: Path, *more: str) -> Any:
    arguments = ["evaluate", "--store", str(store), "--data", str(gold), "--retrieve-k", "6", "--max-new-tokens", "4"]
    return CliRunner().invoke(cli.app, [*arguments, *more], catch_exceptions=False)


def test_the_command(store: Path, tmp_path: Path) -> None:
    gold, out, wrong = write_gold(tmp_path / "rivers.dev.jsonl", QUESTIONS), tmp_path / "o.jsonl", tmp_path / "e.md"
    done = run(store, gold, "--predictions", str(out), "--errors", str(wrong), "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    task = report["tasks"]["rivers"]
    assert (report["model"]["name"], report["store"]["passages"], report["settings"]["keep_k"]) == ("tiny", 30, 6)
    assert (task["asked_as"], task["groups"]["all"]["questions"]) == ("rivers", 3)
    scored = score_files(gold, out).as_dict()
    for part in ("downstream", "kilt", "retrieval"):
        assert task["groups"]["all"][part] == scored[part], part
    again = json.loads(run(store, gold, "--batch", "1", "--json").stdout)["tasks"]["rivers"]
    assert again["groups"] == task["groups"]
    assert "# Wrong answers" in wrong.read_text()


def test_the_commands_report_for_people(store: Path, tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold.jsonl", QUESTIONS)
    text = run(store, gold, "--limit", "2").stdout
    for expected in (
        "tiny (glimmer) over 30 passages, 6 retrieved and 6 read",
        "gold: 2 questions (evenly spread, of 3)",
        "asked without a task",
        "answerable:",
        "KILT-em",
        "answer recall@5",
        "majority answer: 'river', of gold.jsonl; pages by title",
    ):
        assert expected in text
    assert max(map(len, text.splitlines()[3:])) <= 80


def test_a_wrong_path_exits_2(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--store", str(store), "--data", str(write_gold(tmp_path / "g.jsonl", QUESTIONS))]
    monkeypatch.setattr("sys.argv", ["memstore", *arguments, "--predictions", str(tmp_path / "no" / "out.jsonl")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("memstore: ")
