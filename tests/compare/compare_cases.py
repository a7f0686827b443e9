"""A tiny cache of two tasks, and comparisons over it that train for a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memstore.compare.config import CompareConfig
from memstore.train.data.prepare import prepare
from memstore.train.data.prepare_options import PrepareOptions
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny
from tests.train.data import data_cases

QUESTIONS = {
    "nq.train": [(f"who was {name}", [name], []) for name in ("Morton", "Hillary", "Eiffel", "Mozart", "Marcus")],
    "nq.dev": [("who died in Vienna", ["Wolfgang Mozart"], []), ("xyzzy", ["Nile"], []),
               ("who climbed Everest", ["Edmund Hillary"], [])],
    "fever.train": [("Cairo is the capital of Egypt", ["SUPPORTS"], ["Cairo"]),
                    ("Paris is a river", ["REFUTES"], ["Paris"])],
    "fever.dev": [("Berlin is the capital of Germany", ["SUPPORTS"], ["Berlin"])],
}  # fmt: skip
SHAPE = {"vocab_size": tiny.VOCAB_SIZE, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 3,
         "num_decoder_layers": 1, "alpha": 2 / 3, "beta": 1 / 2, "copy_head": True, "tie_word_embeddings": True,
         "max_passage_tokens": 200, "max_question_tokens": 120, "passage_template": "{title}: {text}"}  # fmt: skip


def make_cache(folder: Path) -> Path:
    """The cache, and the tokenizer's file beside it."""
    tiny.save_checkpoint(folder / "model")
    corpus = data_cases.write_corpus(folder / "corpus.jsonl")
    build(BuildOptions(corpus=(corpus,), out=folder / "store", model=str(folder / "model"), dtype="float32"))
    tasks = data_cases.write_questions(folder, QUESTIONS)
    tokenizer = data_cases.tokenizer()
    prepare(PrepareOptions(out=folder / "cache", store=folder / "store", tasks=tasks, k=4, pretrain=False), tokenizer)
    (folder / "tokenizer.json").write_text(tokenizer.json)
    return folder / "cache"


def base(cache: Path) -> dict[str, Any]:
    """A training config of four steps."""
    return {
        "steps": 4, "seed": 3, "dtype": "float32", "log_every": 2,
        "model": {"source": "scratch", "tokenizer": str(cache.parent), "config": SHAPE},
        "data": {"cache": str(cache), "questions": 4, "passages": [[0, 3]], "gold": "either"},
        "loss": {"keep_k": 2}, "optimizer": {"lr": 3e-3, "warmup_steps": 2},
        "checkpoints": {"every_steps": 2, "every_minutes": 0, "dtype": "float32"},
        "dev": {"every_steps": 2, "max_new_tokens": 4},
    }  # fmt: skip


LUMEN: dict[str, Any] = {"model": {"config": {"system": "lumen"}}}


def values(cache: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A comparison of GLIMMER and LUMEN, as TOML would give it."""
    made = {
        "out": str(out), "title": "Tiny", "about": "Eight passages.", "base": base(cache),
        "systems": {"glimmer": {"title": "GLIMMER"},
                    "lumen": {"title": "LUMEN", "ablation_of": "glimmer", "changes": LUMEN}},
        "grid": {"retrieve_k": [2, 4], "keep_k": [1, 2], "batch": 2, "timed_questions": 1, "repeats": 1,
                 "max_new_tokens": 3, "dtype": "float32"},
    }  # fmt: skip
    return made | changes


def config(cache: Path, out: Path, **changes: Any) -> CompareConfig:
    """The same, read."""
    return CompareConfig.from_values(values(cache, out, **changes), where="test")
