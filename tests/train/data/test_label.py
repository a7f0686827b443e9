"""Labelled caches: which candidates are marked, by what a model reads, and what a run that was stopped leaves."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memstore import checkpoint, cli
from memstore.errors import CandidatesMismatch, ConfigError
from memstore.model.model import MemoryModel
from memstore.model.packed import Tokens
from memstore.model.tokens import TextTokenizer
from memstore.train.data import label as label_module
from memstore.train.data import likelihoods as likelihoods_module
from memstore.train.data.cache import ANSWER, TITLE, Candidates, QuestionSet
from memstore.train.data.label import MEASURED, LabelOptions, label, new_marks, summary
from memstore.train.data.likelihoods import (
    Reading,
    likeliest_references,
    measure,
    readings,
    reference_readings,
)
from memstore.train.data.mixture import MixedBatches
from memstore.train.data.prepare import prepare
from memstore.train.data.prepare_options import PrepareOptions
from memstore.train.data.ragged import Ragged
from memstore.train.data.settings import DataSettings
from memstore.train.data.windows import Windows
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny
from tests.train.data import data_cases as cases

NAN = float("nan")
SETS = {
    "nq.train": cases.QUESTIONS["nq.train"],
    "webq.train": [("which river is in Egypt", ["Nile", "the river Nile"], []), ("who", ["Nobody"], [])],
    "fever.train": [("Berlin is the capital of Germany", ["SUPPORTS"], ["Berlin"])],
    "nq.dev": cases.QUESTIONS["nq.dev"],
}
Options = Callable[..., LabelOptions]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a cache of four sets."""
    folder, tokenizer = tmp_path_factory.mktemp("label"), cases.tokenizer()
    model = tiny.model(**{name: getattr(tokenizer.config, name)
                          for name in ("max_passage_tokens", "max_question_tokens", "passage_template")})  # fmt: skip
    checkpoint.save(folder / "model", model, tokenizer)
    corpus, store = cases.write_corpus(folder / "corpus.jsonl"), folder / "store"
    build(BuildOptions(corpus=(corpus,), out=store, model=str(folder / "model"), dtype="float32"))
    tasks = cases.write_questions(folder, SETS)
    prepare(PrepareOptions(out=folder / "cache", store=store, tasks=tasks, k=6, pretrain=False), tokenizer)
    return folder


@pytest.fixture(scope="module")
def loaded(root: Path) -> tuple[MemoryModel, TextTokenizer]:
    return checkpoint.load(root / "model", dtype=torch.float32)


@pytest.fixture(scope="module")
def cache(root: Path) -> Candidates:
    return Candidates.open(root / "cache")


@pytest.fixture
def options(root: Path, tmp_path: Path) -> Options:
    def make(**changes: Any) -> LabelOptions:
        return LabelOptions(**{"cache": root / "cache", "out": tmp_path / "out", "threshold": -100.0} | changes)

    return make


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


MARKS: dict[str, tuple[list[int], list[float], list[int]]] = {
    "the likeliest alone, proven": ([1, 1, 0, 3], [-1.0, -0.5, NAN, -2.0], [0, 3, 0, 0]),
    "the first of equals": ([1, 1, 0, 0], [-1.0, -1.0, NAN, NAN], [3, 0, 0, 0]),
    "not read: an answer stays, its page does not": ([1, 3, 2, 1], [-1.0, NAN, NAN, NAN], [3, 1, 0, 1]),
    "below the threshold: nothing stays": ([1, 3, 2, 1], [-3.0, -9.0, NAN, NAN], [0, 0, 0, 0]),
    "nothing read: as it was": ([0, 2, 3, 0], [NAN] * 4, [0, 2, 3, 0]),
}


@pytest.mark.parametrize("case", MARKS)
def test_marks_by_likelihood(case: str) -> None:
    before, likelihoods, after = MARKS[case]
    marks = np.array([before], dtype=np.uint8)
    assert new_marks(marks, np.array([likelihoods], dtype=np.float32), -2.5).tolist() == [after]
    assert marks.tolist() == [before]


def test_what_is_summed_up() -> None:
    rows = [[-1, -0.5], [NAN, -0.5], [-4, -3], [NAN, NAN]]
    found = summary((np.array(rows, dtype=np.float32), np.array([0, 2, 1, -1], dtype=np.int32)), -2.5)
    assert found.chosen == 2
    assert (found.questions, found.read, found.passages, found.dropped, found.moved) == (4, 3, 5, 1, 0.5)
    assert found.quantiles == {"5%": -2.75, "10%": -2.5, "20%": -2.0, "50%": -0.5}
    nothing = np.full((2, 3), NAN, dtype=np.float32), np.full(2, -1, dtype=np.int32)
    assert summary(nothing, -2.5).quantiles == {}


def test_a_batch_of_answers_has_the_likelihoods_of_each_alone(
    cache: Candidates, loaded: tuple[MemoryModel, TextTokenizer]
) -> None:
    """By the plain twin: log-probabilities over the whole vocabulary, one passage at a time."""
    model, tokenizer = loaded

    def alone(r: Reading) -> float:
        question, passage = (Tokens.of([ids.astype(np.int64).tolist()]) for ids in (r.question, r.passage))
        rows = model.live_a(model.encode_question(question), model.encode_passages(passage), torch.tensor([0]))
        target = torch.from_numpy(r.answer.astype(np.int64))[None]
        return float(model.log_probs(model.live_b(rows), target).gather(2, target[:, :, None]).mean())

    questions = cache.sets["nq.train"]
    wanted = readings(cache, questions, Windows(tokenizer), max_passages=2, passage_tokens=60)
    assert len(wanted) == 3
    done: list[int] = []
    found = measure(model, wanted, questions.candidates.shape, advance=done.append)
    assert sum(done) == 3
    assert (~np.isnan(found)).sum() == 3
    with torch.inference_mode():
        for r in wanted:
            assert found[r.row, r.column] == pytest.approx(alone(r), abs=1e-4)


def test_what_is_read_of_a_question(cache: Candidates, loaded: tuple[MemoryModel, TextTokenizer]) -> None:
    tokenizer, questions = loaded[1], cache.sets["webq.train"]

    def read(name: str = "webq.train", most: int = 9) -> list[Reading]:
        return readings(cache, cache.sets[name], Windows(tokenizer), max_passages=most, passage_tokens=60)

    whole, first = read(), read(most=1)
    gold = np.flatnonzero(questions.gold("answer")[0])
    assert [(r.row, r.column) for r in whole] == [(0, column) for column in gold]
    assert [(r.row, r.column) for r in first] == [(0, gold[0])]
    assert len(gold) > 1
    for r in whole:  # cut, with the answer in it
        assert len(r.passage) <= 60
        assert tokenizer.decode(r.answer.tolist()) == "Nile"
        assert "Nile" in tokenizer.decode(r.passage.tolist())
    (verdict,) = read("fever.train")
    assert tokenizer.decode(verdict.answer.tolist()) == "SUPPORTS"


REFERENCES: dict[str, tuple[list[str], list[str]]] = {
    "those in the passage, each once": (
        ["Nile", "Amazon", "the river Nile", "Nile", "Egypt"],
        ["Nile", "the river Nile", "Egypt"],
    ),
    "all where it holds none": (["Amazon", "Congo", "Amazon"], ["Amazon", "Congo"]),
    "one alone": (["Amazon", "Egypt"], ["Egypt"]),
}


def one_question(cache: Candidates, tokenizer: TextTokenizer, answers: list[str]) -> tuple[QuestionSet, int]:
    """A set of one question with these answers, and the column of a candidate about Cairo."""
    rows = tokenizer.encode_answers(answers, max_tokens=20)
    before = cache.sets["webq.train"]
    of_cairo = [cache.names[row][1] == "Cairo" for row in before.candidates[0] if row >= 0].index(True)
    made = dataclasses.replace(before, answers=Ragged.of(rows, dtype=np.dtype(np.uint16)),
                               first_answer=np.array([0, *[len(rows)] * len(before)]))  # fmt: skip
    return made, of_cairo


@pytest.mark.parametrize("case", REFERENCES)
def test_which_answers_are_compared(case: str, cache: Candidates, loaded: tuple[MemoryModel, TextTokenizer]) -> None:
    answers, want = REFERENCES[case]
    questions, column = one_question(cache, loaded[1], answers)
    best = np.array([column, -1])
    found = reference_readings(cache, questions, Windows(loaded[1]), best, passage_tokens=200)
    assert [loaded[1].decode(r.answer.tolist()) for r in found] == want
    assert [r.column for r in found] == [answers.index(text) for text in want]
    assert len({r.passage.tobytes() for r in found}) == 1
    near = reference_readings(cache, questions, Windows(loaded[1]), best, passage_tokens=40)
    assert {len(r.passage) for r in near} == {40}


def test_the_answer_of_the_highest_likelihood_is_the_likeliest(
    cache: Candidates, loaded: tuple[MemoryModel, TextTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    questions, column = one_question(cache, tokenizer, ["the river", "Amazon", "Egypt", "Nile by the Fatimid rulers"])
    wanted = reference_readings(cache, questions, Windows(tokenizer), np.array([column, -1]), passage_tokens=200)
    assert [r.column for r in wanted] == [0, 2, 3]
    done: list[int] = []
    best = likeliest_references(model, wanted, 2, advance=done.append)
    whole = [-len(r.answer) * -measure(model, [r], (1, 4))[0, r.column] for r in wanted]
    assert best.tolist() == [wanted[int(np.argmax(whole))].column, -1]
    assert sum(done) == 3
    # The sum over an answer's tokens decides, not their mean; an answer that is alone is not read at all.
    means = np.array([[-1.5, NAN, -0.9, -0.5]])
    monkeypatch.setattr(likelihoods_module, "measure", lambda *a, **k: means)
    sums = [mean * len(r.answer) for mean, r in zip((-1.5, -0.9, -0.5), wanted, strict=True)]
    assert np.argmax(sums) == 0  # though the mean of the first is the lowest
    assert likeliest_references(model, wanted, 1).tolist() == [0]
    assert likeliest_references(model, wanted[2:], 1).tolist() == [3]


def test_the_copy_has_other_marks_and_counts_and_is_whole(
    cache: Candidates, loaded: tuple[MemoryModel, TextTokenizer], options: Options
) -> None:
    before, asked = content(cache.folder), options(sets=("webq.train",))
    stages: list[tuple[str, int, int]] = []
    report = label(asked, *loaded, tick=lambda *stage: stages.append(stage))
    assert content(cache.folder) == before
    made = Candidates.open(asked.out, tokenizer=loaded[1])
    passages = report.sets["webq.train"].passages
    assert stages[0] == ("webq.train", passages, passages)
    assert stages[-1][0] == "webq.train, answers"
    assert stages[-1][1] == stages[-1][2] > 0
    proven = made.sets["webq.train"].marks == ANSWER | TITLE
    assert proven.sum(axis=1).tolist() == [1, 0]
    likelihoods = np.load(asked.out / "sets" / "webq.train" / "likelihoods.npy")
    assert proven[0].argmax() == np.nanargmax(likelihoods[0])
    after, differing = content(asked.out), {"manifest.json", "sets/webq.train/marks.npy"}
    assert {name for name in before if after[name] != before[name]} == differing
    assert {*after} - {*before} == {"sets/webq.train/likelihoods.npy", "sets/webq.train/likeliest.npy"}
    assert made.sets["nq.train"].likeliest is None
    assert made.manifest.fingerprint.differences(cache.manifest.fingerprint).keys() == {"labels[webq.train]"}
    assert made.manifest.sets["webq.train"].answerable == 0.5


BOTH = {"Nile", "the river Nile"}


@pytest.mark.parametrize(("likeliest", "want"), [(0, {"Nile"}), (1, {"the river Nile"}), (-1, BOTH)])
def test_training_takes_the_likeliest_answer(root: Path, tmp_path: Path, likeliest: int, want: set[str]) -> None:
    labelled, tokenizer = shutil.copytree(root / "cache", tmp_path / "labelled"), cases.tokenizer()
    settings = DataSettings(cache=labelled, train=("webq.train",), dev=("nq.dev",), questions=16, answer="likeliest",
                            answerable_only=True)  # fmt: skip
    with pytest.raises(ConfigError, match=r"needs labels, which .* lacks: run `memstore label`"):
        MixedBatches(settings, tokenizer=tokenizer, seed=0)
    np.save(labelled / "sets" / "webq.train" / "likeliest.npy", np.array([likeliest, -1], dtype=np.int32))
    targets = MixedBatches(settings, tokenizer=tokenizer, seed=0).batch(0).targets
    assert {tokenizer.decode(target.tolist()) for target in targets} == want  # of -1, those that gold passages hold


def test_a_threshold_drops_questions(loaded: tuple[MemoryModel, TextTokenizer], options: Options) -> None:
    report = label(options(threshold=-0.001), *loaded)
    assert list(report.sets) == ["fever.train", "nq.train", "webq.train"]
    assert [(s.read, s.dropped) for s in report.sets.values()] == [(1, 1), (2, 2), (1, 1)]
    made = Candidates.open(options().out)
    assert made.manifest.sets["nq.train"].answerable == made.manifest.sets["nq.train"].gold == 0.0
    assert made.manifest.sets["nq.dev"].answerable == 0.5


def test_a_run_that_was_stopped_goes_on_with_the_next_set(
    loaded: tuple[MemoryModel, TextTokenizer], options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def stopped(model: MemoryModel, wanted: list[Reading], *rest: Any, **named: Any) -> Any:
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(len(wanted))
        return measure(model, wanted, *rest, **named)

    monkeypatch.setattr(label_module, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        label(options(), *loaded)
    arrays = {"fever.train.likelihoods.npy", "fever.train.likeliest.npy"}
    assert {p.name for p in (options().out / MEASURED).iterdir()} == {"about.json", *arrays}
    monkeypatch.setattr(label_module, "measure", lambda *a, **k: measured.append(0) or measure(*a, **k))
    with pytest.raises(ConfigError, match="measured with another max_passages: name another folder, or remove"):
        label(options(max_passages=1), *loaded)
    other = tiny.model(1, **{k: getattr(loaded[0].config, k) for k in ("max_passage_tokens", "passage_template")})
    with pytest.raises(ConfigError, match="measured with another model"):
        label(options(), other, loaded[1])
    label(options(), *loaded)
    assert measured[1:] == [0, 0]  # two of three sets
    label(options(out=tmp_path / "at-once"), *loaded)
    assert content(options().out) == content(tmp_path / "at-once")
    assert not (options().out / MEASURED).exists()


def test_again_does_nothing_and_otherwise_is_refused(
    loaded: tuple[MemoryModel, TextTokenizer], options: Options, tmp_path: Path
) -> None:
    first = label(options(), *loaded)
    again = label(options(), *loaded)
    assert again.already
    assert again.sets == first.sets
    with pytest.raises(CandidatesMismatch, match=r"labels\[fever\.train\]"):
        label(options(threshold=-1.0), *loaded)
    with pytest.raises(ConfigError, match=r"nq\.train of .*out was labelled before, so marks are gone"):
        label(options(cache=options().out, out=tmp_path / "more", sets=("nq.train",)), *loaded)
    more = label(options(cache=options().out, out=tmp_path / "more", sets=("nq.dev",)), *loaded)
    assert list(more.sets) == ["nq.dev"]
    assert {*Candidates.open(tmp_path / "more").manifest.fingerprint.labels} == {*SETS}


def test_mistakes(loaded: tuple[MemoryModel, TextTokenizer], options: Options, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no question set trex\.train; it has: fever\.train"):
        label(options(sets=("trex.train",)), *loaded)
    for inside in (root / "cache", root / "cache" / "in", root):
        with pytest.raises(ConfigError, match="must be two folders, neither of them in the other"):
            options(out=inside)
    with pytest.raises(ConfigError, match="0 at most, not 1"):
        options(threshold=1.0)
    with pytest.raises(ConfigError, match="max_passages must be at least 1"):
        options(max_passages=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        label(options(), *loaded)


def test_the_command(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*more: str) -> str:
        words = f"memstore label --model {root / 'model'} --cache {root / 'cache'} --out {tmp_path / 'out'}"
        monkeypatch.setattr("sys.argv", [*words.split(), "--dtype", "float32", "--set", "nq.train", *more])
        cli.app(standalone_mode=False)
        said = capsys.readouterr()
        assert more or "nq.train: 3/3" in said.err
        return said.out

    lines = run().splitlines()
    assert lines[0] == f"labelled {tmp_path / 'out'}"
    assert lines[1].split()[:6] == ["set", "questions", "read", "passages", "dropped", "chosen"]
    assert lines[2].split()[:5] == ["nq.train", "3", "2", "3", "2"]  # random weights find no answer likely
    assert json.loads(run("--json"))["already"]
