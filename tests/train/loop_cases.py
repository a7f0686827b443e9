"""A toy task for the loop's tests: the question names a key, and the passage with this key also holds the answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from memstore.model.packed import Tokens
from memstore.tables import read_table
from memstore.train.config import TrainConfig
from memstore.train.data.batch import Batch, DevBatch
from tests import tiny

EOS = 1
ROOT = Path(__file__).parents[2]


class ToySource:
    """Batches of B questions with 2 to 4 candidates each, by (seed, step)."""

    def __init__(self, *, seed: int = 0, questions: int = 4) -> None:
        self.seed, self.questions = seed, questions
        self.tokenizer = tiny.text_tokenizer()

    def batch(self, step: int) -> Batch:
        parts = self._parts(step)
        parts.pop("answers")
        return Batch(**parts)

    def dev(self) -> Iterator[DevBatch]:
        for step in (10_000, 10_001):
            yield DevBatch(**self._parts(step), ids=tuple(f"{step}-{i}" for i in range(self.questions)))

    def _parts(self, step: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)

        def draw(low: int, high: int) -> int:
            return int(torch.randint(low, high, (1,), generator=generator))

        questions, passages, of, gold, targets = [], [], [], [], []
        for i in range(self.questions):
            key, value = draw(40, 80), draw(80, 97)
            count = draw(2, 5)
            right = draw(0, count)
            questions.append([12, key][: draw(1, 3)] if i == 0 else [12, key])
            for place in range(count):
                held = [key, 9, value] if place == right else [draw(40, 80), 9, draw(80, 97)]
                passages.append([draw(4, 30) for _ in range(draw(0, 4))] + held + [EOS])
                of.append(i)
                gold.append(place == right)
            targets.append([value, EOS, 0] if i % 2 else [value, 9, EOS])
        return {
            "questions": Tokens.of(questions),
            "passages": Tokens.of(passages),
            "question_of": torch.tensor(of),
            "targets": torch.tensor(targets),
            "gold": torch.tensor(gold),
            "tasks": tuple("toy" if i % 2 else "other" for i in range(self.questions)),
            "answers": tuple((self.tokenizer.decode([t for t in row if t > EOS]),) for row in targets),
        }


def save_tokenizer(folder: Path) -> Path:
    """The tiny tokenizer as the file that a run from scratch wants."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(tiny.tokenizer().to_str())
    return path


def model_table(folder: Path, **changes: Any) -> dict[str, Any]:
    """`[model]` for a tiny model from scratch."""
    shape = tiny.config(**({"copy_head": True, "tie_word_embeddings": True, "d_model": 16} | changes)).to_dict()
    return {"source": "scratch", "tokenizer": str(save_tokenizer(folder)), "config": shape}


def config(folder: Path, **changes: Any) -> TrainConfig:
    """A run of a few steps on the toy task, in float32, with dropout."""
    values: dict[str, Any] = {
        "out": str(folder / "run"), "steps": 6, "seed": 3, "dtype": "float32", "log_every": 2,
        "loss": {"keep_k": 2}, "optimizer": {"lr": 3e-3, "warmup_steps": 2},
        "checkpoints": {"every_steps": 2, "every_minutes": 0, "dtype": "float32"},
        "dev": {"every_steps": 3, "max_new_tokens": 4, "recall_at": [1, 2]},
    }  # fmt: skip
    values |= {"model": model_table(folder / "tokens")} | changes
    return read_table(TrainConfig, values, where="test")


def records(folder: Path) -> list[dict[str, Any]]:
    """The metrics without times."""
    clock = ("seconds", "tokens_per_s")
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def run_two_processes(script: Path, *arguments: str) -> None:
    """Run a Python file in two processes of `torchrun`; both must succeed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    subprocess.run([*command, *arguments], cwd=ROOT, env=process_env(), check=True, timeout=120)


def process_env() -> dict[str, str]:
    """The environment of a process that imports what this one does, one thread each."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def contrast_batch(passages: list[list[int]], of: list[int], gold: list[bool]) -> Batch:
    """Questions of one token each, with these passages and right ones."""
    b = max(of) + 1
    return Batch(
        questions=Tokens.of([[5]] * b),
        passages=Tokens.of(passages),
        question_of=torch.tensor(of),
        targets=torch.ones(b, 1, dtype=torch.int64),
        gold=torch.tensor(gold),
        tasks=("t",) * b,
    )
