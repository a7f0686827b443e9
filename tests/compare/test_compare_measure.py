"""Answers over a grid: sharing work between points changes nothing, and costs are those of the real lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memstore.compare import clock
from memstore.compare.config import CompareConfig
from memstore.compare.measure import Results, System, answer_cost, data_settings, dev_batches, headline, measure
from memstore.model.flops import answer_bytes, answer_flops, ranking_flops
from memstore.model.packed import Layout
from memstore.model.tokens import TextTokenizer
from tests import tiny
from tests.compare import compare_cases as cases

SYSTEMS: dict[str, dict[str, Any]] = {
    "fid": {"system": "fid", "alpha": 1.0},
    "lumen": {"system": "lumen"},
    "glimmer": {},
}


def system(cache: Path, name: str, *, reranker: System | None = None) -> System:
    model = tiny.model(seed=4, **cases.SHAPE | SYSTEMS[name])
    tokenizer = TextTokenizer(cases.data_cases.tokenizer()._tokenizer, model.config)
    return System(name=name, models={"": model}, tokenizer=tokenizer, reranker=reranker)


def answered(of: System, cache: Path, tmp_path: Path, *, batch: int) -> Results:
    config = cases.config(cache, tmp_path)
    batches = dev_batches(data_settings(config), of.tokenizer, questions=0, batch=batch)
    *_, found = measure(of, batches, config.grid)
    return found


@pytest.mark.parametrize("name", ["fid", "lumen", "glimmer", "separate"])
def test_the_plain_way_gives_the_same_answers(cache: Path, tmp_path: Path, name: str) -> None:
    """All points at once in batches, against one question and one point at a time."""
    ranker = system(cache, "glimmer")
    made = system(cache, "lumen", reranker=ranker) if name == "separate" else system(cache, name)
    config = cases.config(cache, tmp_path)
    found = answered(made, cache, tmp_path, batch=2)
    points = config.grid.points(reranks=made.reranks)
    assert [(p.retrieve_k, p.keep_k) for p in found.points] == [(p.retrieve_k, p.keep_k) for p in points]
    singles = list(dev_batches(data_settings(config), made.tokenizer, questions=0, batch=1))
    assert [b.ids[0] for b in singles] == found.ids
    for i, single in enumerate(singles):
        ready = clock.prepare(made, single, points)
        for point, results in zip(points, found.points, strict=True):
            ids = clock.answer(ready, point, max_new_tokens=config.grid.max_new_tokens)
            assert made.tokenizer.decode(ids) == results.answers[i]
    assert any(answer for p in found.points for answer in p.answers)


def test_reranked_passages_are_those_the_scorer_prefers(cache: Path, tmp_path: Path) -> None:
    made = system(cache, "glimmer")
    found = answered(made, cache, tmp_path, batch=2)
    batches = list(dev_batches(data_settings(cases.config(cache, tmp_path)), made.tokenizer, questions=0, batch=1))
    one = found.points[2]
    assert (one.retrieve_k, one.keep_k) == (4, 1)
    for i, batch in enumerate(batches):
        with torch.inference_mode():
            model = made.model("")
            rows = model.live_a(model.encode_question(batch.questions), model.encode_passages(batch.passages),
                                batch.question_of)  # fmt: skip
            best = int(model.score(rows).argmax())
        assert one.kept_gold[i] == int(batch.gold[best])
        assert found.answerable[i] == int(batch.gold.any())
        lengths = batch.passages.layout.lengths.tolist()
        steps = one.flops[i] - _flops(made, batch.questions.layout, lengths, [lengths[best]], 0)
        assert steps in {_decoding(made, batch.questions.layout, lengths, [lengths[best]], n) for n in (1, 2, 3)}
        given: dict[str, Any] = {"passage_tokens": lengths, "kept_tokens": [lengths[best]], "bytes_per_value": 4}
        given["question_tokens"] = batch.questions.layout.tokens
        assert one.bytes[i] in {answer_bytes(model.config, **given, new_tokens=n).total for n in (1, 2, 3)}  # float32
        assert one.store_bytes[i] == sum(lengths) * model.config.d_model


def _flops(made: System, questions: Layout, passages: list[int], kept: list[int], new_tokens: int) -> int:
    return answer_flops(made.model("").config, question_tokens=questions.tokens, passage_tokens=passages,
                        kept_tokens=kept, new_tokens=new_tokens).total  # fmt: skip


def _decoding(made: System, questions: Layout, passages: list[int], kept: list[int], new_tokens: int) -> int:
    return _flops(made, questions, passages, kept, new_tokens) - _flops(made, questions, passages, kept, 0)


def test_a_separate_reranker_pays_for_a_pass_of_its_own() -> None:
    glimmer, lumen = tiny.config(), tiny.config(system="lumen")
    lengths: dict[str, Any] = {"question_tokens": 3, "kept_tokens": [5, 4], "new_tokens": 2}
    found = answer_cost(lumen, glimmer, passage_tokens=[5, 4, 6], bytes_per_value=2, **lengths)
    ranking = ranking_flops(glimmer, question_tokens=3, passage_tokens=[5, 4, 6])
    reading = answer_flops(lumen, passage_tokens=[5, 4], **lengths)
    assert found.flops == ranking + reading.total
    ranking_bytes = answer_bytes(glimmer, passage_tokens=[5, 4, 6], **lengths)
    reading_bytes = answer_bytes(lumen, passage_tokens=[5, 4], **lengths)
    assert found.bytes == ranking_bytes.question + ranking_bytes.live_a + reading_bytes.total
    assert found.store_bytes == (15 + 9) * 32


def test_each_task_is_answered_by_its_model(cache: Path, tmp_path: Path) -> None:
    whole = {seed: system(cache, "glimmer") for seed in (0, 1)}
    models = {"nq": tiny.model(seed=0, **cases.SHAPE), "fever": tiny.model(seed=1, **cases.SHAPE)}
    both = System(name="single", models=models, tokenizer=whole[0].tokenizer)
    found = answered(both, cache, tmp_path, batch=2)
    for task, model in models.items():
        alone = answered(System(name="one", models={"": model}, tokenizer=both.tokenizer), cache, tmp_path, batch=2)
        for mine, its in zip(found.points, alone.points, strict=True):
            for i, of in enumerate(found.tasks):
                assert of != task or mine.answers[i] == its.answers[i]


@pytest.mark.parametrize(
    ("text", "right", "em", "f1", "accuracy"),
    [("Nile", "Nile", 1, 1, 1), ("the Nile!", "Nile", 1, 1, 0), ("Mozart", "Wolfgang Mozart", 0, 0.6667, 0)],
)
def test_answers_are_scored_by_each_metric(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    right: str,
    em: int,
    f1: float,
    accuracy: int,
) -> None:
    made = system(cache, "fid")
    monkeypatch.setattr(TextTokenizer, "decode", lambda *_: text)
    found = answered(made, cache, tmp_path, batch=2)
    at = {"Nile": found.tasks.index("nq") + 1, "Wolfgang Mozart": found.tasks.index("nq")}[right]
    for point in found.points:
        assert (point.answers[at], point.em[at], point.f1[at], point.accuracy[at]) == (text, em, f1, accuracy)


def test_headlines() -> None:
    assert {task: headline(task) for task in ("nq", "fever", "zsre", "trex", "hotpotqa")} == {
        "nq": "em", "fever": "accuracy", "zsre": "em", "trex": "em", "hotpotqa": "em",
    }  # fmt: skip


def test_every_system_and_point_is_timed_once_per_question(cache: Path, tmp_path: Path) -> None:
    config = cases.config(cache, tmp_path)
    made = [system(cache, "glimmer"), system(cache, "fid")]
    batches = dev_batches(data_settings(config), made[0].tokenizer, questions=1, batch=1)
    *_, found = clock.take_times(made, batches, config.grid)
    assert sorted(found["tasks"]) == ["fever", "nq"]
    assert [(p["retrieve_k"], p["keep_k"]) for p in found["systems"]["fid"]] == [(1, 1), (2, 2)]
    for own in found["systems"].values():
        for p in own:
            assert len(p["ms"]) == len(p["ms_encode"]) == 2
            assert all(before < whole for before, whole in zip(p["ms_encode"], p["ms"], strict=True))


def test_the_clock_keeps_the_median_without_the_first_turn(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = cases.values(cache, tmp_path)
    values["grid"] |= {"retrieve_k": [1], "keep_k": [1], "repeats": 3}
    grid = CompareConfig.from_values(values, where="test").grid
    made = system(cache, "glimmer")
    turns = iter([(1000.0, 900.0), (5.0, 4.0), (1.0, 0.5), (3.0, 2.0)])
    monkeypatch.setattr(clock, "_timed", lambda *_: next(turns))
    (batch, *_) = dev_batches(data_settings(cases.config(cache, tmp_path)), made.tokenizer, questions=1, batch=1)
    (found,) = clock.take_times([made], [batch], grid)
    assert found["systems"]["glimmer"] == [{"retrieve_k": 1, "keep_k": 1, "ms": [3.0], "ms_encode": [2.0]}]


def test_fid_has_no_memories_before_it_is_asked(cache: Path, tmp_path: Path) -> None:
    config = cases.config(cache, tmp_path)
    for name, there in (("fid", []), ("lumen", [1, 2]), ("glimmer", [2, 4])):
        made = system(cache, name)
        (batch, *_) = dev_batches(data_settings(config), made.tokenizer, questions=1, batch=1)
        ready = clock.prepare(made, batch, config.grid.points(reranks=made.reranks))
        assert list(ready.reader.memories) == there
