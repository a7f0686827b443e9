"""Files of questions and of predictions in KILT's format: JSON lines of `{"id", "input", "output"}`.

Every row is checked. An error about a row names the file and the line. Knows the format, no metric.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from memstore.errors import DataError, DataNotFound, DataUnreadable, PredictionMismatch
from memstore.files import read_whole

PageKey = Literal["wikipedia_id", "title"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldQuestion:
    """A question and its accepted answers.

    Attributes:
        id: unique in its file.
        input: the question's text. It may be empty: scoring does not need it.
        answers: the different accepted answers, at least one.
        evidence: for each output with provenance, the pages that prove it. `read_questions` leaves it empty.
        titles: the titles of these pages, each once, where the file gives them; also if `evidence` holds ids.
        passages: the ids of the store's passages that answer it, where the file gives them (`passage_id`).
        line: the row's line in its file, from 1; 0 if it comes from no file.
    """

    id: str
    input: str
    answers: tuple[str, ...]
    evidence: tuple[frozenset[str], ...]
    titles: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """An answer to a question: its text, which may be empty, and the pages it comes from, best first."""

    id: str
    answer: str
    pages: tuple[str, ...]
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """A file of questions. `page_key` is the provenance key whose value names a page."""

    path: Path
    page_key: PageKey
    questions: tuple[GoldQuestion, ...]


def read_gold(path: Path, *, page_key: PageKey | None = None) -> Gold:
    """The questions of a file with their accepted answers. The file is plain, or compressed by gzip or zstd.

    Args:
        path: the file.
        page_key: the key that names a page; by default `wikipedia_id`, as in KILT, or `title` if no row has ids.

    Raises:
        DataNotFound, DataUnreadable: the file is not there, or cannot be read.
        DataError: a row cannot be used. It is no JSON object, its id comes twice, it has no answer, its provenance
            does not name the page, or a number in it cannot be compared (`number_text`).
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError("the file holds no questions", path=path, line=1)
    key = page_key or _page_key(rows)
    return Gold(path=path, page_key=key, questions=tuple(_question(row, key) for row in rows))


def read_questions(path: Path) -> Iterator[GoldQuestion]:
    """The questions of a file, to train on or to ask. `evidence` stays empty, and pages need no id. See `read_gold`.

    Raises:
        DataNotFound, DataUnreadable: the file is not there, or cannot be read.
        DataError: a row cannot be used, or has no question.
    """
    for row in _rows(path):
        if not row.input:
            raise row.place.error("the question has no text: `input` is empty")
        yield _question(row, None)


def read_predictions(path: Path, *, page_key: PageKey, with_evidence: bool = True) -> tuple[Prediction, ...]:
    """The predictions of a file, exactly one answer each.

    Provenance is optional. Pages named by another key than `page_key` are left out.

    Args:
        path: the file.
        page_key: the key by which the questions name their pages.
        with_evidence: whether the questions name any pages. If not, the predictions may use any key.

    Raises:
        DataNotFound, DataUnreadable: the file is not there, or cannot be read.
        DataError: a row cannot be used; or there is provenance, but none with `page_key`.
    """
    rows = list(_rows(path))
    predictions = tuple(_prediction(row, page_key) for row in rows)
    named = [row.place for row in rows if _provenance(row.outputs[0], row.place)]
    if with_evidence and named and not any(prediction.pages for prediction in predictions):
        raise named[0].error(f"no provenance in this file has `{page_key}`, which names the questions' pages: add it")
    return predictions


def align(gold: Gold, predictions: Sequence[Prediction], *, path: Path) -> list[Prediction]:
    """The predictions in the order of the questions, one for each. `path` is their file, for errors.

    Raises:
        PredictionMismatch: a prediction has an unknown id, or a question has no prediction.
    """
    known = {question.id for question in gold.questions}
    by_id = {prediction.id: prediction for prediction in predictions}
    unknown = [prediction for prediction in predictions if prediction.id not in known]
    if unknown:
        others = f", nor those of {len(unknown) - 1:,} more predictions" if unknown[1:] else ""
        message = f"no question in {gold.path} has id {unknown[0].id!r}{others}"
        raise PredictionMismatch(message, path=path, line=unknown[0].line)
    without = [question for question in gold.questions if question.id not in by_id]
    if without:
        others = f", nor have {len(without) - 1:,} more questions" if without[1:] else ""
        message = f"question {without[0].id!r} has no prediction in {path}{others}"
        raise PredictionMismatch(message, path=gold.path, line=without[0].line)
    return [by_id[question.id] for question in gold.questions]


@dataclass(frozen=True, slots=True)
class _Place:
    """A row's file and line, for errors."""

    path: Path
    line: int

    def error(self, message: str) -> DataError:
        return DataError(message, path=self.path, line=self.line)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row whose id and list of outputs have been checked."""

    place: _Place
    id: str
    input: str
    outputs: list[dict[str, Any]]


def _question(row: _Row, key: PageKey | None) -> GoldQuestion:
    answers = dict.fromkeys(_text(output.get("answer"), "`answer`", row.place) for output in row.outputs)
    answers.pop("", None)
    if not answers:
        raise row.place.error("the question has no answer to score against (KILT publishes none of its test sets')")
    evidence = []
    for output in row.outputs:
        if key is not None and "provenance" in output:
            pages = frozenset(_name(item.get(key), f"`{key}`", row.place) for item in _provenance(output, row.place))
            if "" in pages:
                raise row.place.error(f"provenance without `{key}`, which names the pages in this file")
            evidence.append(pages)
    return GoldQuestion(
        id=row.id,
        input=row.input,
        answers=tuple(answers),
        evidence=tuple(evidence),
        titles=_named(row, "title"),
        passages=_named(row, "passage_id"),
        line=row.place.line,
    )


def _named(row: _Row, key: str) -> tuple[str, ...]:
    """The texts that a row's provenance has under a key, each once."""
    found = (item.get(key) for output in row.outputs for item in _provenance(output, row.place))
    return tuple(dict.fromkeys(name for name in found if isinstance(name, str) and name.strip()))


def _prediction(row: _Row, key: PageKey) -> Prediction:
    if len(row.outputs) != 1:
        raise row.place.error(f"a prediction must have exactly one output, not {len(row.outputs)}")
    [output] = row.outputs
    if output.get("answer") is None:
        raise row.place.error("the prediction has no answer; if there is none to give, write an empty string")
    answer = _text(output["answer"], "`answer`", row.place)
    pages = [_name(item[key], f"`{key}`", row.place) for item in _provenance(output, row.place) if key in item]
    if "" in pages:
        raise row.place.error(f"provenance with an empty `{key}`, which would count as a page; leave it out")
    return Prediction(id=row.id, answer=answer, pages=tuple(dict.fromkeys(pages)), line=row.place.line)


def _page_key(rows: Sequence[_Row]) -> PageKey:
    items = [item for row in rows for output in row.outputs for item in _provenance(output, row.place)]
    return "title" if items and all(item.get("wikipedia_id") is None for item in items) else "wikipedia_id"


def number_text(value: float) -> str:
    """The text of a number, for comparison with answers and pages.

    Raises:
        ValueError: the number is not finite, or is a whole number written as a fraction: table programs make `13.0`
            of 13 in columns with gaps. No answer or page is written like that, so nothing would ever match it.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no finite number; leave the row out, or write the text that is meant")
    if isinstance(value, float) and value.is_integer():
        raise ValueError(f'not equal to the text "{value:.0f}"; write {value:.0f}, or the text in quotes')
    return str(value)


def _text(value: object, name: str, place: _Place) -> str:
    """A string, or a number's digits, without white space around it; empty for null."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise place.error(f"{name} must be a string, not {json.dumps(value)[:80]}")
    try:
        return number_text(value)
    except ValueError as error:
        raise place.error(f"{name} is {json.dumps(value)}, which is {error}") from None


def _name(value: object, name: str, place: _Place) -> str:
    """The text of an id or a page: numbers must be whole."""
    text = _text(value, name, place)
    if isinstance(value, float):
        raise place.error(f"{name} must be a string or a whole number, not {text}")
    return text


def _provenance(output: dict[str, Any], place: _Place) -> list[dict[str, Any]]:
    return _objects(output.get("provenance"), "`provenance`", place)


def _objects(value: object, name: str, place: _Place) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise place.error(f"{name} must be a list of objects")
    return value


def _rows(path: Path) -> Iterator[_Row]:
    first_line: dict[str, int] = {}
    for line, raw in enumerate(_read(path).split(b"\n"), start=1):
        if not raw.strip():
            continue
        row = _row(raw, _Place(path, line))
        if row.id in first_line:
            raise row.place.error(f"id {row.id!r} again: line {first_line[row.id]} has it too; give each row its own")
        first_line[row.id] = line
        yield row


def _row(raw: bytes, place: _Place) -> _Row:
    try:
        value = json.loads(raw.decode("utf-8-sig" if place.line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise place.error(f"not UTF-8 at byte {error.start} of the row") from None
    except (ValueError, RecursionError) as error:
        raise place.error(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise place.error(f"a row must be a JSON object, not {raw[:80].decode(errors='replace')}")
    if value.keys() - {"id"} and not value.keys() & {"input", "output"}:
        keys = ", ".join(list(value)[:8])
        raise place.error(
            f'not in KILT\'s form, {{"id", "input", "output": [{{"answer"}}]}}: the row has the keys {keys}'
        )
    name = _name(value.get("id"), "`id`", place)
    if not name:
        raise place.error("the row has no `id`")
    question = _text(value.get("input"), "`input`", place)
    return _Row(place, name, question, _objects(value.get("output"), "`output`", place))


def _read(path: Path) -> bytes:
    try:
        return read_whole(path)
    except FileNotFoundError:
        raise DataNotFound(f"no file {path}") from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataUnreadable(f"{path}: cannot be read: {reason}") from error
