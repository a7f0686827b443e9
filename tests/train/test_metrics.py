"""Ranks of gold passages, means of dev scores, and the metrics file."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memstore import decode
from memstore.errors import CheckpointError, OutputUnwritable
from memstore.model import selection
from memstore.model.model import Encoded
from memstore.model.packed import Rows, Tokens
from memstore.train.config import DevConfig
from memstore.train.data.batch import DevBatch
from memstore.train.dev_scores import gold_ranks, measure
from memstore.train.metrics import Measured, MetricsFile, plot, read_metrics, summarise
from tests import tiny
from tests.train.loop_cases import ToySource


def measured(task: str, em: float, **ranks: int) -> Measured:
    return Measured(task=task, scores={"em": em, "loss": 1.0 + em}, ranks=ranks)


def test_means_within_tasks_and_over_them() -> None:
    found = summarise(
        [
            measured("a", 1.0, retrieved=3, reranked=1),
            measured("a", 0.0, retrieved=1, reranked=2),
            measured("a", 0.0),
            measured("b", 1.0),
        ],
        recall_at=(1, 2),
    )
    assert found["a"] == pytest.approx(
        {"em": 1 / 3, "loss": 4 / 3, "questions": 3, "with_gold": 2 / 3, "em_with_gold": 1 / 2,
         "retrieved@1": 1 / 2, "retrieved@2": 1 / 2, "reranked@1": 1 / 2, "reranked@2": 1.0}
    )  # fmt: skip
    assert found["b"] == {"em": 1.0, "loss": 2.0, "questions": 1, "with_gold": 0.0}
    assert found["all"]["em"] == pytest.approx(2 / 3)
    assert found["all"]["em_with_gold"] == 1 / 2  # over the tasks that have it
    assert found["all"]["questions"] == 4


def test_the_rank_of_the_best_gold_passage() -> None:
    given = DevBatch(
        questions=Tokens.of([[5]] * 3),
        passages=Tokens.of([[7]] * 7),
        question_of=torch.tensor([0, 0, 0, 1, 1, 2, 2]),
        targets=torch.ones(3, 1, dtype=torch.int64),
        gold=torch.tensor([True, False, True, False, True, False, False]),
        tasks=("t",) * 3,
        answers=(("x",),) * 3,
        ids=("1", "2", "3"),
    )
    assert gold_ranks(torch.tensor([0.1, 0.9, 0.5, 0.9, 0.1, 0.2, 0.3]), given) == [2, 2, 0]
    assert gold_ranks(-torch.arange(7).float(), given) == [1, 2, 0]


@pytest.mark.parametrize(("own", "most"), [(0, 2), (1, 1), (3, 3)])
def test_dev_answers_read_as_many_passages_as_training_does_or_as_dev_keep_k_says(
    monkeypatch: pytest.MonkeyPatch, own: int, most: int
) -> None:
    model, read = tiny.model(d_model=16).eval(), []
    live_b = model.live_b

    def counted(rows: Rows) -> Encoded:
        read.append(int(torch.bincount(rows.question_of).max()))
        return live_b(rows)

    monkeypatch.setattr(model, "live_b", counted)
    source, settings = ToySource(), DevConfig(keep_k=own, max_new_tokens=2)
    list(measure(model, source.tokenizer, source.dev(), settings, keep_k=2))
    assert read == [most, most]


def test_dev_losses_are_per_token_from_the_passages_that_the_scorer_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = tiny.model(d_model=16, num_beams=2).eval(), ToySource()
    given = next(source.dev())
    given = replace(given, gold=given.gold & (given.question_of != 0))
    beams, generate = [], decode.generate

    def heard(*args: Any, **options: Any) -> Any:
        beams.append(options["num_beams"])
        return generate(*args, **options)

    monkeypatch.setattr(decode, "generate", heard)
    found = list(measure(model, source.tokenizer, [given], DevConfig(max_new_tokens=2), keep_k=1))
    with torch.no_grad():
        rows = model.live_a(model.encode_question(given.questions), model.encode_passages(given.passages),
                            given.question_of)  # fmt: skip
        best = selection.select(model.score(rows), given.question_of, 1)
        log_probs = model.log_probs(model.live_b(rows.take(best)), given.targets)
    for b, one in enumerate(found):
        wanted = [t for t in given.targets[b].tolist() if t != 0]
        want = -sum(float(log_probs[b, i, t]) for i, t in enumerate(wanted)) / len(wanted)
        assert one.scores["loss"] == pytest.approx(want, rel=1e-4)
    first = selection.places(given.question_of)[1][best] == 0
    assert not bool(first.all())  # the scorer's choice is not the retriever's
    assert [bool(one.ranks) for one in found] == [False, True, True, True]  # the first question has no gold passage
    assert beams == [2]  # as a server would answer


def test_dense_ranks_are_by_cosine_best_first() -> None:
    model, source = tiny.model(d_model=16, embedding_dim=8).eval(), ToySource()
    found = list(measure(model, source.tokenizer, source.dev(), DevConfig(max_new_tokens=2), keep_k=2))
    want = []
    for given in source.dev():
        with torch.no_grad():
            asked, held = (model.embed(m) for m in (model.encode_question(given.questions),
                                                    model.encode_passages(given.passages)))  # fmt: skip
        for b in range(given.size):
            own = given.question_of == b
            cosines, gold = held[own] @ asked[b], given.gold[own]
            want.append(1 + int((cosines > cosines[gold].max()).sum()))
    assert [m.ranks["dense"] for m in found] == want
    assert set(want) > {1}


def test_a_metrics_file_is_cut_where_training_goes_on(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.cut(3)  # no file yet
    for step in (1, 2, 3):
        file.append({"step": step, "loss": step / 3})
    file.path.write_text(file.path.read_text() + '{"step": 4, "lo')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl:4 is not JSON"):
        read_metrics(file.path)
    file.cut(2)
    assert read_metrics(file.path) == [{"step": 1, "loss": 1 / 3}, {"step": 2, "loss": 2 / 3}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_reported() -> None:
    with pytest.raises(OutputUnwritable, match=r"/dev/full cannot be written: No space left on device\. Make room"):
        MetricsFile(Path("/dev/full")).append({"step": 1})


def test_a_picture_is_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    MetricsFile(tmp_path / "metrics.jsonl").append({"step": 1, "lr": 0.1})
    assert plot(tmp_path / "metrics.jsonl").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "metrics.png").write_text("the one before")

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputUnwritable, match=r"metrics\.png cannot be written: No space left on device"):
        plot(tmp_path / "metrics.jsonl")
    assert (tmp_path / "metrics.png").read_text() == "the one before"
    assert len(list(tmp_path.iterdir())) == 2
