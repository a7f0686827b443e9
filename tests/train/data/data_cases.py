"""Small passages, questions and a tokenizer with sentinels, shared by the tests of training data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage
from tests import tiny

TEXTS = [
    (
        "Nile",
        "The Nile is the longest river in Africa. It was measured by Henry Morton in 1864 near the city of Cairo.",
    ),
    ("Rhine", "The Rhine is a river of Germany and France. A bridge near the town of Basel was opened on 4 July 1225."),
    (
        "Danube",
        "The Danube is a river in Europe of 2,850 kilometres. It was crossed near Vienna by the army of Marcus.",
    ),
    ("Everest", "Mount Everest is the largest mountain in Asia. It was first climbed by Edmund Hillary in May 1953."),
    ("Paris", "Paris is the capital city of France. The tower in Paris was built by Gustave Eiffel for a fair."),
    ("Berlin", "Berlin is the capital of Germany. It was divided by a wall that stood there until November 1989."),
    ("Cairo", "Cairo is the capital of Egypt. The city was founded near the river Nile by the Fatimid rulers."),
    ("Vienna", "Vienna is the capital of Austria. The composer Wolfgang Mozart lived there and died there in 1791."),
]
PASSAGES = [Passage(f"p{i}", f"p{i}", title, text, end=len(text)) for i, (title, text) in enumerate(TEXTS)]
QUESTIONS: dict[str, list[tuple[str, list[str], list[str]]]] = {
    "nq.train": [
        ("which river of Africa is the longest", ["Nile", "the river Nile"], []),
        ("who first climbed Everest", ["Sir Edmund Hillary", "Edmund Hillary"], []),
        ("who was the first king of Germany", ["Louis"], []),
    ],
    "nq.dev": [("who died in Vienna", ["Wolfgang  MOZART"], []), ("xyzzy", ["Nile"], [])],
    "fever.dev": [("Berlin is the capital of Germany", ["SUPPORTS"], ["Berlin"])],
}


def tokenizer(**changes: Any) -> TextTokenizer:
    """The tiny tokenizer with ten sentinels and limits that fit whole passages."""
    made = tiny.tokenizer()
    made.add_special_tokens([f"<extra_id_{i}>" for i in range(10)])
    values = {"max_passage_tokens": 200, "max_question_tokens": 120, "passage_template": "{title}: {text}"}
    return TextTokenizer(made, tiny.config(**(values | changes)))


def write_questions(folder: Path, sets: Mapping[str, Sequence[tuple[str, list[str], list[str]]]]) -> dict[str, Any]:
    """KILT files of the sets; returns what `PrepareOptions.tasks` takes."""
    paths: dict[str, Any] = {}
    for name, rows in sets.items():
        lines = [
            {"id": f"{name}-{i}", "input": question,
             "output": [{"answer": a, "provenance": [{"title": t} for t in titles]} for a in answers]}
            for i, (question, answers, titles) in enumerate(rows)
        ]  # fmt: skip
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        paths[name] = (path,)
    return paths


def write_corpus(path: Path, passages: Sequence[Passage] = PASSAGES) -> Path:
    """A corpus of ready passages."""
    rows = [{"id": p.id, "document_id": p.document_id, "title": p.title, "text": p.text} for p in passages]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
