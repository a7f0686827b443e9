"""Four questions, five passages, and a stand-in that answers from a script: small enough to score by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memstore.answer import Answer, Question, RankedPassage, Usage
from memstore.evaluate.run import EvaluateOptions
from memstore.passage import Passage

TEXTS = {
    "Nile": "The Nile is a river.",
    "Lake": "Water.",
    "Cairo": "A city at the Nile.",
    "Everest": "Edmund Hillary climbed it.",
    "Egypt": "Its capital is Cairo.",
}
SCRIPT = {  # question: answer, passages as retrieved, their retrieval ranks in reranked order; the first two are read
    "longest river": ("nile", ["Lake", "Nile", "Cairo"], [2, 1, 3]),
    "who climbed Everest": ("...", ["Everest", "Lake", "Cairo"], [2, 3, 1]),
    "king of Germany": ("Louis", ["Cairo", "Lake"], [1, 2]),
    "capital of Egypt": ("Lake", ["Cairo", "Egypt"], [2, 1]),
}
GOLD = [
    ("river", "longest river", ["Nile", "the river Nile"], "Nile"),
    ("climber", "who climbed Everest", ["Edmund Hillary"], "Everest"),
    ("king", "king of Germany", ["Louis"], "Germany"),
    ("capital", "capital of Egypt", ["Cairo"], None),
]


def passage(title: str) -> Passage:
    return Passage(id=f"{title}:0", document_id=title.lower(), title=title, text=TEXTS[title])


def answer(text: str, retrieved: Sequence[str], places: Sequence[int], *, score: float = -1.0) -> Answer:
    """The passages in the order of `places`, the first two of them kept."""
    ranked = tuple(
        RankedPassage(passage=passage(retrieved[at - 1]), retrieval_rank=at, kept=number < 2)
        for number, at in enumerate(places)
    )
    usage = Usage(milliseconds={"retrieve": 2.0}, bytes_read=3, flops={"live_a": 4.0, "decode": 1.0}, fid_flops=20.0,
                  questions_in_batch=1)  # fmt: skip
    return Answer(text=text, score=score, passages=ranked, usage=usage)


@dataclass
class Scripted:
    """Answers from the script, and remembers what it was asked."""

    tasks: list[str] = field(default_factory=list)
    asked: list[list[Question]] = field(default_factory=list)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        self.asked.append(list(questions))
        return [answer(*SCRIPT[q.text]) for q in questions]

    def info(self) -> dict[str, Any]:
        return {"model": {"name": "script", "system": "glimmer", "trained": True, "tasks": self.tasks},
                "store": {"path": "store", "passages": len(TEXTS)}}  # fmt: skip


def row(name: str, text: str, answers: Sequence[str], page: str | None) -> dict[str, Any]:
    provenance = {"provenance": [{"title": page}]} if page else {}
    return {"id": name, "input": text, "output": [{"answer": a} | provenance for a in answers]}


def write_gold(path: Path, rows: Sequence[tuple[str, str, list[str], str | None]] = GOLD) -> Path:
    path.write_text("".join(json.dumps(row(*values)) + "\n" for values in rows), encoding="utf-8")
    return path


def options(folder: Path, **changes: Any) -> EvaluateOptions:
    """Over the four questions, whose task is `rivers`."""
    values: dict[str, Any] = {
        "store": folder / "store", "data": {"rivers": write_gold(folder / "rivers.dev.jsonl")},
        "retrieve_k": 5, "keep_k": 2, "batch": 3,
    }  # fmt: skip
    return EvaluateOptions(**(values | changes))
