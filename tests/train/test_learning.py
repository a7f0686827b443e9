"""A tiny model learns: real questions by heart, and which passage answers them."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from memstore.model.packed import Tokens
from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage
from memstore.tables import read_table
from memstore.train.config import TrainConfig
from memstore.train.data.batch import Batch, DevBatch
from memstore.train.loop import train
from memstore.train.tokenizer import train_tokenizer
from tests import tiny
from tests.train.loop_cases import (
    ROOT,
)

TASKS = ROOT.parent / "shared" / "data" / "tasks"


@dataclass(frozen=True)
class Asked:
    id: str
    text: str
    answers: tuple[str, ...]
    title: str


def real_questions(count: int) -> list[Asked]:
    path = TASKS / "squad.train.jsonl.zst"
    if not path.is_file():
        pytest.skip("the real questions are not at hand")
    import zstandard

    found = []
    with zstandard.open(path, "rb") as file:
        for line in io.TextIOWrapper(file, encoding="utf-8"):
            row = json.loads(line)
            answers = tuple(o["answer"] for o in row["output"])
            title = row["output"][0]["provenance"][0]["title"]
            if len(answers[0].split()) <= 4:
                found.append(Asked(row["id"], row["input"], answers, title))
            if len(found) == count:
                break
    return found


class RealSource:
    """All questions in every batch, each with one passage that answers it and one that answers another."""

    def __init__(self, asked: list[Asked], tokenizer: TextTokenizer) -> None:
        rng = random.Random(0)
        words = [w for a in asked for w in a.text.split()]
        passages, of, gold = [], [], []
        for i, own in enumerate(asked):
            pair = [(own, True), (asked[(i + 7) % len(asked)], False)]
            rng.shuffle(pair)
            for about, right in pair:
                text = " ".join([*rng.sample(words, 3), about.answers[0], *rng.sample(words, 3)])
                passages.append(Passage(id=f"{i}", document_id=f"{i}", title=about.title, text=text))
                of.append(i)
                gold.append(right)
        targets = tokenizer.encode_answers([a.answers[0] for a in asked], max_tokens=24)
        longest = max(map(len, targets))
        self._batch = DevBatch(
            questions=Tokens.of([torch.from_numpy(q) for q in tokenizer.questions([a.text for a in asked])]),
            passages=Tokens.of([torch.from_numpy(p) for p in tokenizer.passages(passages)]),
            question_of=torch.tensor(of),
            targets=torch.tensor([[*t.tolist(), *[0] * (longest - len(t))] for t in targets]),
            gold=torch.tensor(gold),
            tasks=("squad",) * len(asked),
            answers=tuple(a.answers[:1] for a in asked),
            ids=tuple(a.id for a in asked),
        )

    def batch(self, step: int) -> Batch:
        return self._batch

    def dev(self) -> Iterator[DevBatch]:
        yield self._batch


@pytest.mark.slow
def test_a_tiny_model_learns_64_real_questions_by_heart(tmp_path: Path) -> None:
    asked = real_questions(64)
    made = train_tokenizer([f"{a.text} {a.title} {' '.join(a.answers)}" for a in asked], vocab_size=800)
    (tmp_path / "tokenizer.json").write_text(made.to_str())
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 1,
             "alpha": 2 / 3, "beta": 1 / 2, "copy_head": True, "tie_word_embeddings": True, "scale_head": True,
             "dropout_rate": 0.0, "max_question_tokens": 48, "max_passage_tokens": 48}  # fmt: skip
    values = {
        "out": str(tmp_path / "run"), "steps": 100, "dtype": "float32", "log_every": 25,
        "model": {"source": "scratch", "tokenizer": str(tmp_path), "config": shape},
        "loss": {"keep_k": 1},
        "optimizer": {"lr": 5e-3, "warmup_steps": 20, "decay_share": 0.5},
        "checkpoints": {"every_steps": 0, "every_minutes": 0},
        "dev": {"every_steps": 100, "max_new_tokens": 24},
    }  # fmt: skip
    source = RealSource(
        asked, TextTokenizer(made, tiny.config(vocab_size=800, **{k: shape[k] for k in shape if "max" in k}))
    )
    lines: list[str] = []
    report = train(read_table(TrainConfig, values, where="test"), lines.append, source=source)
    means = report.scores["squad"]
    assert means["em"] == 1.0, lines
    assert means["retrieved@1"] < 0.7
    assert means["reranked@1"] > 0.95, lines  # only one passage is read: distillation taught which
    assert report.best_score == 1.0
