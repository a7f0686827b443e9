"""The list of wrong answers, for a person to read. Knows outcomes, no model.

Wrong answers are sorted by kind. The kind shows which part to improve. The kinds from which one example teaches most
come first:

    misread         a passage that was read holds an answer, but another was given; best ranks first
    dropped         a retrieved passage holds an answer, but reranking left it out; best ranks in retrieval first
    not_retrieved   no retrieved passage holds an answer; first the questions with a passage of the right page
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from memstore.evaluate.outcome import Outcome
from memstore.passage import encodable
from memstore.questions.metrics import exact_match

Kind = Literal["misread", "dropped", "not_retrieved"]
KINDS: dict[Kind, str] = {
    "misread": "a passage that was read holds an answer",
    "dropped": "a retrieved passage that reranking left out holds an answer",
    "not_retrieved": "no retrieved passage holds an answer",
}
BEST_PASSAGES = 5  # titles shown for each question
MOST_IN_TEXT = 200  # of a kind, in Markdown: nobody reads more. JSON lines hold all


def mistakes(outcomes: Sequence[Outcome]) -> dict[Kind, list[Outcome]]:
    """The questions whose answer is no exact match, by kind, most instructive first."""
    found: dict[Kind, list[Outcome]] = {kind: [] for kind in KINDS}
    for one in outcomes:
        if not exact_match(one.answer, one.question.answers):
            found[_kind(one)].append(one)
    return {kind: sorted(of_kind, key=lambda one: _instructive(one, kind)) for kind, of_kind in found.items()}


def as_markdown(tasks: Mapping[str, Mapping[Kind, Sequence[Outcome]]]) -> str:
    """The list as Markdown, a section for each task; of long lists only the first `MOST_IN_TEXT`."""
    lines = ["# Wrong answers"]
    for task, kinds in tasks.items():
        lines += ["", f"## {task}: {sum(map(len, kinds.values())):,} wrong"]
        lines += ["", *(f"- {len(found):,}: {KINDS[kind]}" for kind, found in kinds.items())]
        for kind, found in kinds.items():
            if not found:
                continue
            shown = f", the first {MOST_IN_TEXT} of {len(found):,}" if found[MOST_IN_TEXT:] else ""
            lines += ["", f"### {task}: {KINDS[kind]}{shown}"]
            for number, one in enumerate(found[:MOST_IN_TEXT], start=1):
                lines += ["", *_markdown(one, number)]
    return encodable("\n".join(lines) + "\n")


def as_json_lines(tasks: Mapping[str, Mapping[Kind, Sequence[Outcome]]]) -> str:
    """The list as JSON lines: one object for each wrong answer, in the same order, none left out."""
    rows = ({"task": task, "kind": kind} | _row(one) for task, kinds in tasks.items() for kind in kinds
            for one in kinds[kind])  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows)


def _kind(one: Outcome) -> Kind:
    if any(seen.holds and seen.kept for seen in one.reranked):
        return "misread"
    return "dropped" if one.answerable else "not_retrieved"


def _instructive(one: Outcome, kind: Kind) -> tuple[float, ...]:
    """A sort key, the most instructive first; of equals, the answer that the model was surest of."""
    if kind == "not_retrieved":
        page = next((seen.rank for seen in one.order("retrieved") if seen.on_page), float("inf"))
        return (page, -one.score)
    before, after = one.rank("retrieved") or 0, one.rank("reranked") or 0
    return (after, before, -one.score) if kind == "misread" else (before, -after, -one.score)


def _row(one: Outcome) -> dict[str, Any]:
    best = [
        {"title": seen.title, "retrieval_rank": seen.rank, "kept": seen.kept, "holds_answer": seen.holds}
        for seen in one.reranked[:BEST_PASSAGES]
    ]
    return {
        "id": one.question.id,
        "input": one.question.input,
        "answers": list(one.question.answers),
        "prediction": one.answer,
        "score": one.score,
        "answerable": one.answerable,
        "rank_retrieved": one.rank("retrieved"),
        "rank_reranked": one.rank("reranked"),
        "pages": list(one.question.titles),
        "best_passages": best,
    }


def _markdown(one: Outcome, number: int) -> list[str]:
    before, after = one.rank("retrieved"), one.rank("reranked")
    place = f"#{before} retrieved, #{after} reranked" if before else "none among the retrieved passages: not answerable"
    best = [f"{_line(seen.title)} (#{seen.rank}{', holds an answer' if seen.holds else ''})"
            for seen in one.reranked[:BEST_PASSAGES]]  # fmt: skip
    lines = [
        f"{number}. **{_line(one.question.input)}**",
        f"   - predicted: {_line(one.answer)} (log-probability {one.score:.2f})",
        f"   - accepted: {' | '.join(map(_line, one.question.answers))}",
        f"   - first passage with an answer: {place}",
        f"   - best passages: {'; '.join(best) or 'none'}",
    ]
    if one.question.titles:
        lines.append(f"   - known pages: {'; '.join(map(_line, one.question.titles))}")
    return [*lines, f"   - id: {one.question.id}"]


def _line(text: str) -> str:
    return " ".join(text.split())
