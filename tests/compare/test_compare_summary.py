"""The figures of a report: Pareto fronts and intervals by hand, and the page itself from made-up answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore.compare.report import write_report
from memstore.compare.summary import estimates, pareto, summarise, widest
from memstore.errors import ConfigError
from tests import tiny
from tests.compare import compare_cases as cases


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 0.2), (2, 0.4), (3, 0.3), (4, 0.5)], [True, True, False, True]),
        ([(2, 0.4), (1, 0.4)], [False, True]),  # as good for more
        ([(1, 0.3), (1, 0.4)], [False, True]),  # worse for as much
        ([(1, 0.4), (1, 0.4)], [True, True]),  # neither beats the other
        ([], []),
    ],
)
def test_pareto_front(points: list[tuple[float, float]], front: list[bool]) -> None:
    assert pareto(points) == front


def test_every_task_weighs_the_same() -> None:
    (found,) = estimates([np.ones((1, 1)), np.zeros((99, 1))])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_an_interval_by_hand() -> None:
    """Two questions, one right: a resample holds 0, 1 or 2 right ones with chances 1/4, 1/2, 1/4."""
    (found,) = estimates([np.array([[0.0], [1.0]])])
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_tasks_are_drawn_independently() -> None:
    """Two tasks of the same scores: the interval of their mean is narrower by the square root of two."""
    scores = np.repeat([1.0, 0.0], [120, 280])[:, None]
    (one,), (both,) = estimates([scores]), estimates([scores, scores])
    assert (both.high - both.low) / (one.high - one.low) == pytest.approx(0.5**0.5, abs=0.06)


def test_a_paired_difference_is_surer_than_its_parts() -> None:
    """Ninety questions equal for both, ten that only one answers: in pairs, only these ten are uncertain."""
    ours = np.array([1.0] * 55 + [0.0] * 45)
    theirs = np.array([1.0] * 45 + [0.0] * 55)
    (difference,), (own,) = estimates([(ours - theirs)[:, None]]), estimates([ours[:, None]])
    assert difference.value == pytest.approx(0.10)
    assert difference.low == pytest.approx(0.10 - 1.96 * (0.1 * 0.9 / 100) ** 0.5, abs=0.015)
    assert difference.high - difference.low < 0.7 * (own.high - own.low)


def test_an_interval_holds_its_mean_in_spite_of_rounding() -> None:
    for questions in range(1, 40):
        (found,) = estimates([np.full((questions, 1), score) for score in (0.1, 0.3, 0.7)])
        assert found.low <= found.value <= found.high


def test_the_widest_point_of_each_number_read() -> None:
    points = [{"retrieve_k": r, "keep_k": k} for r, k in ((2, 1), (4, 1), (2, 2))]
    assert [(p["retrieve_k"], k) for k, p in sorted(widest(points).items())] == [(4, 1), (2, 2)]


# --- a report -----------------------------------------------------------------------------------------------

MADE_BY = {"torch": "2", "cpu": "a processor", "gpu": "", "threads": 1, "date": "today", "device": "cpu"}


def answered(points: dict[tuple[int, int], tuple[list[float], int]], ids: str = "abcd") -> dict[str, Any]:
    """A record: for each point the right answers to four questions of two tasks, and its operations."""
    model = {"parameters": 2_000_000, "config": tiny.config(**cases.SHAPE).to_dict()}
    return {
        "training": {}, "models": {"": model}, "fingerprints": {"models": {"": "f" * 64}, "cache": "c" * 64},
        "reranker": "", "device": "cpu", "dtype": "float32", "made_by": MADE_BY, "settings_hash": "h",
        "cache": {"passages": 8, "tokens": 300},
        "results": {
            "ids": list(ids), "tasks": ["nq", "nq", "nq", "fever"], "answerable": [1, 1, 0, 1],
            "points": [
                {"retrieve_k": r, "keep_k": k, "em": right, "accuracy": right, "f1": [(1 + em) / 2 for em in right],
                 "kept_gold": [1, 0, 0, 1], "flops": [flops] * 4, "bytes": [10] * 4, "store_bytes": [5] * 4,
                 "answers": [""] * 4}
                for (r, k), (right, flops) in points.items()
            ],
        },
    }  # fmt: skip


MEASURED = {
    "glimmer": answered({(2, 1): ([1.0, 0.0, 0.0, 1.0], 200), (4, 1): ([1.0, 1.0, 0.0, 1.0], 300)}),
    "lumen": answered({(1, 1): ([0.0, 1.0, 0.0, 1.0], 600)}),
}


def times(**milliseconds: list[float]) -> dict[str, Any]:
    own = {name: [{"ms": [ms, ms + 2], "ms_encode": [1.0, 1.0]} for ms in each] for name, each in milliseconds.items()}
    return {"made_by": MADE_BY, "times": {"tasks": ["nq", "fever"], "systems": own}}


def test_figures(cache: Path, tmp_path: Path) -> None:
    found = summarise(cases.config(cache, tmp_path), MEASURED, times(glimmer=[5.0, 9.0], lumen=[3.0]))
    first, second = found["systems"]["glimmer"]["points"]
    assert first["quality"]["value"] == pytest.approx((1 / 3 + 1) / 2)
    assert first["quality_answerable"]["value"] == pytest.approx((1 / 2 + 1) / 2)
    assert first["recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert first["flops"] == 200
    clock = {"median": 6.0, "p90": pytest.approx(6.8), "encode_median": 1.0, "tasks": {"nq": 5.0, "fever": 7.0}}
    assert first["ms"] == clock
    (only,) = found["systems"]["lumen"]["points"]
    assert [p["front_flops"] for p in (first, second, only)] == [True, True, False]
    assert [p["front_ms"] for p in (first, second, only)] == [False, True, True]  # dear to count, soon done
    assert found["tasks"]["nq"] == {"questions": 3, "answerable": 2, "headline": "em"}
    (line,) = found["ablations"]
    assert (line["system"], line["keep_k"], line["retrieve_k"], line["reference_retrieve_k"]) == ("lumen", 1, 1, 4)
    assert line["difference"]["value"] == pytest.approx(-1 / 6)
    assert line["tasks"]["fever"] == {"value": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (None, "holds the answer (a verdict: is of its page);"),
        ("title", "is of a page that the answer comes from;"),
        ("either", "holds the answer or is of a page that it comes from;"),
    ],
)
def test_the_page_says_by_which_rule_a_question_is_answerable(
    cache: Path, tmp_path: Path, rule: str | None, says: str
) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    base = cases.base(cache)
    del base["data"]["gold"]
    base["data"] |= {} if rule is None else {"gold": rule}
    summary = summarise(cases.config(cache, tmp_path, base=base), MEASURED, None)
    assert summary["gold"] == (rule or "answer")
    assert f"counts only questions of which some candidate {says}" in write_report(tmp_path, summary).read_text()


def test_systems_are_compared_question_by_question(cache: Path, tmp_path: Path) -> None:
    """The same answers are right: the difference is 0 without any width, though each interval is wide."""
    right = {(1, 1): ([1.0, 0.0, 0.0, 1.0], 1)}
    found = summarise(cases.config(cache, tmp_path), {name: answered(right) for name in ("glimmer", "lumen")}, None)
    (line,) = found["ablations"]
    assert line["difference"] == line["tasks"]["nq"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    (point,) = found["systems"]["lumen"]["points"]
    assert point["quality"]["low"] < point["quality"]["high"]


def test_figures_that_a_task_without_answerable_questions_lacks_are_left_out(cache: Path, tmp_path: Path) -> None:
    points = {(1, 1): ([1.0, 0.0, 1.0, 1.0], 1)}
    for answerable, quality, recall in (([1, 1, 0, 0], 1 / 2, 1 / 2), ([0] * 4, None, None)):
        record = answered(points)
        record["results"]["answerable"] = answerable
        found = summarise(cases.config(cache, tmp_path), {"glimmer": record}, None)
        (point,) = found["systems"]["glimmer"]["points"]
        fever = point["tasks"]["fever"]
        assert (fever["quality"]["value"], fever["quality_answerable"], fever["recall"]) == (1.0, None, None)
        mean = point["quality_answerable"]
        assert (mean and mean["value"], point["recall"]) == (quality, recall)  # over the tasks that have any


def test_a_system_of_two_models_has_the_parameters_of_both(cache: Path, tmp_path: Path) -> None:
    record = answered({(1, 1): ([1.0] * 4, 1)})
    record["models"] = {"nq": {"parameters": 2}, "fever": {"parameters": 3}}
    found = summarise(cases.config(cache, tmp_path), {"glimmer": record}, None)
    assert found["systems"]["glimmer"]["parameters"] == 5


def test_other_questions_are_refused(cache: Path, tmp_path: Path) -> None:
    other = MEASURED | {"lumen": answered({(1, 1): ([0.0] * 4, 1)}, ids="abce")}
    with pytest.raises(ConfigError, match="not asked the same questions"):
        summarise(cases.config(cache, tmp_path), other, None)


def test_the_page(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    config = cases.config(cache, tmp_path)
    (tmp_path / "reading.md").write_text("What I make of it.\n")
    page = write_report(tmp_path, summarise(config, MEASURED, times(glimmer=[5.0, 9.0], lumen=[6.0])))
    text = page.read_text()
    for part in (
        "# Tiny", "Eight passages.", "## Reading\n\nWhat I make of it.", "Models of 2.0 million parameters",
        "Do not compare them with leaderboards", "## Ablations", "### fever", "(quality-milliseconds.png)",
        "| LUMEN | GLIMMER | 1 / 4→1 | 66.7 / 83.3 | 2.00 | -16.7 [-", "| +0.0 [+0.0, +0.0] |",
        "| GLIMMER | 2→1 | 66.7 [", r"| 83.3 | 75.0 | 2e-07 \* |",  # F1, recall
        '- LUMEN: `model.config.system = "lumen"`',
    ):  # fmt: skip
        assert part in text, part
    for name in ("quality-flops.png", "quality-milliseconds.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    widths = {line.count(" | ") for line in text.split("## Ablations")[0].splitlines() if line.startswith("|")}
    assert widths == {11}


def test_the_page_warns_of_random_weights(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    random = answered({(1, 1): ([0.0] * 4, 300)})
    random["models"][""]["config"]["trained"] = False
    summary = summarise(cases.config(cache, tmp_path), MEASURED | {"lumen": random}, None)
    assert "**UNTRAINED, with random weights: LUMEN." in write_report(tmp_path, summary).read_text()


def test_the_page_without_times_and_with_a_system_missing(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    summary = summarise(cases.config(cache, tmp_path), {"glimmer": MEASURED["glimmer"]}, None)
    text = write_report(tmp_path, summary).read_text()
    assert "Not measured yet: lumen." in text
    assert "Times were not taken." in text
    assert not (tmp_path / "quality-milliseconds.png").exists()
