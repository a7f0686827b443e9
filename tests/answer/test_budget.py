"""How many passages a question can afford: the ladder of settings, and what each of them costs at most."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from memstore.answer import KEEP_MASS, Question, kept
from memstore.answer.budget import Bill, Rung, highest, rungs
from memstore.errors import RequestError
from memstore.model.flops import answer_flops
from memstore.passage import Passage
from tests import tiny

OWN = tuple(Passage(str(n), str(n), "", "text", "", 0, 4) for n in range(3))


@pytest.mark.parametrize(
    ("question", "found", "expected"),
    [
        (Question("?", retrieve_k=3, keep_k=1), None, [(1, 1), (2, 1), (3, 1)]),
        (Question("?", retrieve_k=2, keep_k=2), None, [(1, 1), (2, 1), (2, 2)]),
        (Question("?", retrieve_k=4, keep_k=2), None, [(1, 1), (2, 1), (3, 1), (3, 2), (4, 2)]),
        (Question("?", retrieve_k=40, keep_k=10), 2, [(1, 1), (2, 1), (2, 2)]),
        (Question("?", retrieve_k=40, keep_k=10), 0, []),
        (Question("?", retrieve_k=3, keep_k=2, passages=OWN), None, [(3, 1), (3, 2)]),
        (Question("?", retrieve_k=40, keep_k=10, passages=OWN), None, [(40, 1), (40, 2), (40, 3)]),
    ],
)
def test_the_ladder(question: Question, found: int | None, expected: list[tuple[int, int]]) -> None:
    assert rungs(question, found=found) == expected


@pytest.mark.parametrize("ks", [(40, 10), (7, 7), (200, 100), (13, 1)])
def test_every_rung_is_possible_and_above_the_former(ks: tuple[int, int]) -> None:
    ladder = rungs(Question("?", retrieve_k=ks[0], keep_k=ks[1]))
    assert ladder[0] == (1, 1)
    assert ladder[-1] == ks
    for low, high in pairwise(ladder):
        assert (high.retrieve_k - low.retrieve_k) + (high.keep_k - low.keep_k) == 1
        assert high.keep_k <= high.retrieve_k


@pytest.mark.parametrize("levels", [1, 2, 7, 64])
def test_the_highest_level_that_fits(levels: int) -> None:
    for limit in range(-1, levels):
        assert highest(levels, lambda at, limit=limit: at <= limit) == (limit if limit >= 0 else None)


def bill(limit: float | None, *, lengths: tuple[int, ...] = (30, 50, 10, 40), **options: int) -> Bill:
    asked = Question("?", max_gflop=limit, **{"retrieve_k": 4, "keep_k": 2, "max_new_tokens": 3, **options})
    return Bill(config=tiny.config(), question=asked, question_tokens=7, passage_tokens=lengths)


def test_a_bill_is_for_the_longest_passages_and_the_longest_answer() -> None:
    counted = answer_flops(
        tiny.config(), question_tokens=7, passage_tokens=[30, 50, 10], kept_tokens=[50, 30], new_tokens=3, num_beams=2
    )
    assert bill(None, num_beams=2).of(Rung(3, 2)) == counted.total


def test_a_question_is_lowered_to_what_it_can_afford_and_no_further() -> None:
    free = bill(None)
    for at, rung in enumerate(ladder := rungs(free.question)):
        exactly = bill((free.of(rung) + 1) / 1e9)  # one more: dividing rounds
        got = exactly.lowered().question
        assert (got.retrieve_k, got.keep_k) == rung
        if at == len(ladder) - 1:
            assert got.lowered is None
        else:
            assert got.lowered is not None
            assert (got.lowered.retrieve_k, got.lowered.keep_k, got.lowered.reasons) == (4, 2, ("max_gflop",))
        if at:
            less = bill((free.of(rung) - 1) / 1e9).lowered().question
            assert (less.retrieve_k, less.keep_k) == ladder[at - 1]


def test_what_cannot_be_afforded_says_the_least_there_is() -> None:
    least = bill(None).of(Rung(1, 1)) / 1e9
    with pytest.raises(RequestError, match=f"max_gflop is {least / 2:g}, but .*, the least that there is") as told:
        bill(least / 2).lowered()
    said = float(str(told.value).split("can take ")[1].split(",")[0])
    assert least <= said < 1.01 * least
    assert bill(said).lowered().question.retrieve_k == 1  # who allows for what it says is answered


def test_what_is_left_is_for_steps_of_the_decoder() -> None:
    free = bill(None)
    exactly, one_more = (free.of(Rung(4, 2), steps=n) + 1 for n in (3, 4))
    assert bill(exactly / 1e9).steps() == 3
    assert bill(one_more / 1e9).steps() == 4
    assert bill(1e6).steps() == 15  # all that four drafted tokens a step can take
    assert bill(None).steps() is None


def test_nothing_found_costs_the_question_alone() -> None:
    asked = bill(1.0, lengths=())
    assert asked.lowered().question == asked.question
    with pytest.raises(RequestError, match="max_gflop"):
        bill(1e-9, lengths=()).lowered()


def test_a_question_lowered_twice_keeps_what_was_asked_first() -> None:
    asked = Question("?", retrieve_k=8, keep_k=4)
    twice = asked.lower(6, 3, reason="load").lower(2, 1, reason="deadline_ms").lower(1, 1, reason="load")
    assert (twice.retrieve_k, twice.keep_k) == (1, 1)
    assert twice.lowered is not None
    assert replace(twice.lowered, reasons=()) == replace(asked.lower(1, 1, reason="load").lowered, reasons=())
    assert twice.lowered.reasons == ("load", "deadline_ms")
    assert asked.lower(8, 4, reason="load") is asked


@pytest.mark.parametrize(
    ("keep_k", "keep_mass", "default", "expected"),
    [
        (None, None, 10, (10, None)),
        (None, None, 50, (20, None)),
        (None, None, "auto", (12, KEEP_MASS)),
        (3, None, "auto", (3, None)),
        ("auto", None, 10, (12, KEEP_MASS)),
        ("auto", 0.5, 10, (12, 0.5)),
        (None, 0.5, 10, (12, 0.5)),
        (4, 0.5, 10, (4, 0.5)),
        (30, None, 10, (30, None)),  # wrong, and for others to refuse
    ],
)
def test_what_auto_means(keep_k, keep_mass, default, expected) -> None:
    assert kept(keep_k, keep_mass, of=20, default=default, auto=(12, KEEP_MASS)) == expected


@pytest.mark.parametrize("wrong", [{"keep_mass": 0.0}, {"keep_mass": 1.1}, {"max_gflop": 0.0}, {"max_gflop": -1.0}])
def test_impossible_limits_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        Question("?", **wrong)
