"""Answers that keep by mass, or may cost only so much: over a real little store, in batches of all kinds."""

from __future__ import annotations

import math
from typing import Any

import pytest

from memstore.answer import Answer, Answerer, Lowered, Question
from memstore.errors import RequestError
from memstore.passage import Passage
from tests import tiny
from tests.e2e import small_store

TEXTS = ["which river is the longest", "who was born in Paris", "the lake in Germany", "Nile", "where is Everest"]


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    return Answerer.open(small_store.built(tmp_path_factory.mktemp("budgets")))


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
