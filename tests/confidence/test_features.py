"""The features of an answer, by hand."""

from __future__ import annotations

import math

import pytest

from memstore.confidence import FEATURES, Evidence, features


def test_each_feature_is_what_it_says() -> None:
    found = features(
        Evidence(
            log_probs=[-0.5, -2.0, -0.5],
            runner_up=-4.0,
            scores=[math.log(6), math.log(3), math.log(1)],
            places=[3, 1, 2],
            retrieval_scores=[4.0, 10.0, 8.0],
            held=[False, True],
            question_words=0.5,
        )
    )
    shares = [0.6, 0.3, 0.1]
    assert found == pytest.approx(
        {
            "log_probability": -3.0,
            "token_log_probability": -1.0,
            "least_token": -2.0,
            "first_token": -0.5,
            "lead": 1.0,
            "tokens": math.log(3),
            "rerank_best": math.log(6),
            "rerank_gap": math.log(2),
            "rerank_entropy": -sum(p * math.log(p) for p in shares) / math.log(3),
            "retrieval_place": math.log(3),
            "retrieval_gap": 0.2,
            "verdict": 0.0,
            "held": 1.0,
            "held_mass": 1 / 3,
            "held_best": 0.0,
            "question_words": 0.5,
        }
    )
    assert list(found) == list(FEATURES)


def test_what_cannot_be_had_is_none() -> None:
    found = features(Evidence(log_probs=[-1.0]))
    missing = {name for name, value in found.items() if value is None}
    assert missing == {"lead", "rerank_best", "rerank_gap", "rerank_entropy", "retrieval_place", "retrieval_gap"}
    assert found["held"] == found["held_mass"] == 0.0


def test_a_verdict_stands_nowhere_and_is_not_blamed_for_it() -> None:
    found = features(Evidence(log_probs=[-1.0], held=[False, False], verdict=True))
    assert (found["verdict"], found["held"], found["held_mass"], found["held_best"]) == (1.0, None, None, None)


def test_without_rerank_scores_passages_weigh_the_same() -> None:
    assert features(Evidence(log_probs=[-1.0], held=[True, False, False, True]))["held_mass"] == 0.5


@pytest.mark.parametrize(("log_probs", "runner_up"), [([], None), ([-math.inf], -math.inf), ([-1.0], -math.inf)])
def test_features_are_finite(log_probs: list[float], runner_up: float | None) -> None:
    found = features(Evidence(log_probs=log_probs, runner_up=runner_up))
    assert all(value is None or math.isfinite(value) for value in found.values())
