"""Answers that keep by mass, or may cost only so much: over a real little store, in batches of all kinds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memstore.answer import Answer, Answerer, Lowered, Question
from memstore.cli import app
from memstore.errors import ConfigError, RequestError
from memstore.passage import Passage
from tests import tiny
from tests.e2e import small_store

TEXTS = ["which river is the longest", "who was born in Paris", "the lake in Germany", "Nile", "where is Everest"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store.built(tmp_path_factory.mktemp("budgets"))


@pytest.fixture(scope="module")
def answerer(store: Path) -> Answerer:
    return Answerer.open(store)


@pytest.fixture(autouse=True)
def allocator_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tuning: the allocator's settings are of the whole process, which has other tests to run."""
    monkeypatch.setattr("memstore.machine.tune_allocator", lambda: False)


def few_words(text: str = TEXTS[0], **options: Any) -> Question:
    """A question whose answer is short: with a model so small, long ones cost more than passages do."""
    return Question(text, **{"retrieve_k": 20, "keep_k": 5, "max_new_tokens": 3, **options})


def read(answer: Answer) -> list[str]:
    return [one.passage.id for one in answer.passages if one.kept]


def spent(answer: Answer) -> float:
    return sum(answer.usage.flops.values()) / 1e9


def same(a: Answer, b: Answer) -> None:
    assert (a.text, read(a), a.lowered) == (b.text, read(b), b.lowered)
    assert a.score == pytest.approx(b.score, abs=2e-3)


@pytest.mark.parametrize("mass", [0.05, 0.2, 0.5, 0.9, 1.0])
def test_passages_are_kept_until_their_shares_hold_the_mass(answerer: Answerer, mass: float) -> None:
    answer = answerer.ask(Question(TEXTS[0], retrieve_k=20, keep_k=20, keep_mass=mass))
    scores = [one.rerank_score or 0.0 for one in answer.passages]
    shares = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
    kept = len(read(answer))
    assert sum(shares[: kept - 1]) < mass
    assert kept == len(answer.passages) or sum(shares[:kept]) >= mass - 1e-6
    assert mass < 1 or kept == len(answer.passages)


def test_no_more_are_kept_than_the_most(answerer: Answerer) -> None:
    answer = answerer.ask(Question(TEXTS[0], retrieve_k=20, keep_k=3, keep_mass=1.0))
    assert len(read(answer)) == 3


def test_a_batch_of_all_kinds_answers_as_its_singles(answerer: Answerer) -> None:
    own = tuple(tiny.passages(4, seed=3, prefix="own"))
    limit = 0.5 * spent(answerer.ask(few_words()))
    questions = [
        few_words(TEXTS[0], keep_k=10, keep_mass=0.3),
        few_words(TEXTS[1], keep_k=10),
        few_words(TEXTS[2], keep_k=10, keep_mass=0.9, max_gflop=limit),
        few_words(TEXTS[3], keep_k=1, max_gflop=limit),
        few_words("-- -- --", retrieve_k=5, keep_mass=0.5),  # nothing is found
        few_words(TEXTS[4], passages=own, keep_k=4, keep_mass=0.5),
        few_words(TEXTS[4], passages=own, keep_k=4, max_gflop=1.6 * limit),
    ]
    together = answerer.answer(questions)
    for question, answer in zip(questions, together, strict=True):
        same(answer, answerer.ask(question))
    assert [at for at, answer in enumerate(together) if answer.lowered is not None] == [2, 6]


@pytest.mark.parametrize(("beams", "attention"), [(1, False), (3, False), (1, True)])
def test_an_answer_costs_no_more_than_it_may(answerer: Answerer, beams: int, attention: bool) -> None:
    def asked(**options: Any) -> Question:
        return few_words(num_beams=beams, attention=attention, **options)

    free = answerer.ask(asked())
    assert (free.usage.retrieve_k, free.usage.keep_k, free.lowered) == (20, 5, None)
    before = 0
    for share in (0.4, 0.6, 0.8, 1.0):
        answer = answerer.ask(asked(max_gflop=share * spent(free)))
        assert 0.5 * share * spent(free) < spent(answer) <= share * spent(free)
        used = answer.usage.retrieve_k
        assert used == len(answer.passages)
        assert used >= before
        assert answer.usage.keep_k == len(read(answer))
        if answer.lowered is not None:
            assert answer.lowered == Lowered(retrieve_k=20, keep_k=5, reasons=("max_gflop",))
        before = used
    assert answerer.ask(asked(max_gflop=0.4 * spent(free))).lowered is not None
    assert answerer.ask(asked(max_gflop=1e3)).lowered is None


def test_passages_longer_than_usual_are_counted_as_long_as_they_are(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they are found, only their average length is known."""
    limit = 0.5 * spent(answerer.ask(few_words()))
    guessed = answerer.afford(few_words(max_gflop=limit))
    monkeypatch.setattr(Answerer, "afford", lambda _self, question: question)  # as if they were very short
    answer = answerer.ask(few_words(max_gflop=limit))
    assert spent(answer) <= limit
    assert answer.lowered is not None
    assert guessed.retrieve_k == pytest.approx(answer.usage.retrieve_k, abs=4)


def test_what_no_setting_can_meet_is_refused(answerer: Answerer) -> None:
    own = (Passage("a", "a", "A", "The Nile."),)
    for question in (few_words(max_gflop=1e-6), few_words(max_gflop=1e-6, passages=own, keep_k=1)):
        for ask in (answerer.ask, answerer.afford):
            with pytest.raises(RequestError, match=r"max_gflop is 1e-06, but .* the least that there is"):
                ask(question)


def test_without_a_scorer_there_is_no_mass() -> None:
    model = tiny.model(system="lumen")
    answerer = object.__new__(Answerer)
    answerer.model = model
    with pytest.raises(RequestError, match="the model is lumen: without a scorer"):
        answerer.answer([Question("?", keep_mass=0.5)])


def asked_of(store: Path, *words: str) -> dict[str, Any]:
    command = ["ask", TEXTS[0], "--store", str(store), "--max-new-tokens", "3", "--json", *words]
    reply: dict[str, Any] = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    return reply


def test_the_command_line_asks_so(store: Path) -> None:
    plain = asked_of(store)
    assert (plain["usage"]["retrieve_k"], plain["usage"]["keep_k"], plain["lowered"]) == (40, 10, None)
    auto = asked_of(store, "--keep-k", "auto", "--keep-mass", "0.05")
    assert sum(one["kept"] for one in auto["passages"]) == 1
    limit = sum(plain["usage"]["flops"].values()) / 2e9
    cheap = asked_of(store, "--max-gflop", f"{limit:.6f}")
    assert cheap["lowered"] == {"retrieve_k": 40, "keep_k": 10, "reasons": ["max_gflop"]}
    assert sum(cheap["usage"]["flops"].values()) <= limit * 1e9 + 1e3  # six digits


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--keep-k", "few"], "--keep-k must be a whole number from 1, or auto, not 'few'"),
        (["--keep-k", "0"], "--keep-k must be a whole number from 1"),
        (["--deadline-ms", "100"], "--deadline-ms and --degrade are for --url"),
        (["--degrade"], "--deadline-ms and --degrade are for --url"),
    ],
)
def test_what_the_command_line_refuses(store: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        asked_of(store, *words)


def test_an_evaluation_keeps_by_mass_and_within_a_limit(store: Path, tmp_path: Path) -> None:
    data = tmp_path / "asked.jsonl"
    data.write_text(json.dumps({"id": "1", "input": TEXTS[0], "output": [{"answer": "the Nile"}]}) + "\n")
    command = ["evaluate", "--store", str(store), "--data", str(data), "--max-new-tokens", "3", "--json"]

    def evaluated(*words: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(CliRunner().invoke(app, [*command, *words], catch_exceptions=False).stdout)
        return report

    plain, auto = evaluated(), evaluated("--keep-k", "auto", "--keep-mass", "0.05")
    assert auto["settings"] == plain["settings"] | {"keep_mass": 0.05}
    read = [report["tasks"]["asked"]["cost"]["passages_read_per_question"] for report in (plain, auto)]
    assert read == [10, 1]
    limit = plain["tasks"]["asked"]["cost"]["flops_per_question"] / 2e9
    cheap = evaluated("--max-gflop", str(limit))
    assert cheap["settings"]["max_gflop"] == limit
    assert 0 < cheap["tasks"]["asked"]["cost"]["flops_per_question"] <= limit * 1e9
