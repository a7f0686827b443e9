"""Files of questions and of predictions in KILT's format: JSON lines of `{"id", "input", "output"}`.

Every row is checked, and told with file and line if it cannot be used. Knows the format, no metric.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zstandard

from memstore.errors import DataError, DataNotFound, DataUnreadable, PredictionMismatch

PageKey = Literal["wikipedia_id", "title"]
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldQuestion:
    """A question and what is accepted.

    Attributes:
        id: unique in its file.
        input: the question's text; may be empty, scoring does not need it.
        answers: the different accepted answers, at least one.
        evidence: per output that has provenance, the pages that prove it.
        line: where the row stands in its file, from 1.
    """

    id: str
    input: str
    answers: tuple[str, ...]
    evidence: tuple[frozenset[str], ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """An answer to a question: its text, which may be empty, and the pages behind it, best first."""

    id: str
    answer: str
    pages: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """A file of questions. `page_key` is the key of a provenance that names its page."""

    path: Path
    page_key: PageKey
    questions: tuple[GoldQuestion, ...]


def read_gold(path: Path, *, page_key: PageKey | None = None) -> Gold:
    """Reads questions with their accepted answers, plain or compressed by gzip or zstd.

    Args:
        path: the file.
        page_key: how pages are named; by default `wikipedia_id`, as KILT does, or `title` if no row has that.

    Raises:
        DataNotFound, DataUnreadable: the file is not there, or cannot be read.
        DataError: a row cannot be used: no JSON object, an id twice, no answer, provenance without the page's name.
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError("the file holds no questions", path=path, line=1)
    key = page_key or _page_key(rows)
    return Gold(path=path, page_key=key, questions=tuple(_question(row, key) for row in rows))


def read_predictions(path: Path, *, page_key: PageKey) -> tuple[Prediction, ...]:
    """Reads predictions, exactly one answer each. Provenance is optional; pages named by another key are left out.

    Raises:
        DataNotFound, DataUnreadable: the file is not there, or cannot be read.
        DataError: a row cannot be used; or rows have provenance, but none of it names a page by `page_key`.
    """
    rows = list(_rows(path))
    predictions = tuple(_prediction(row, page_key) for row in rows)
    first = next((row for row in rows if any(row.provenance(output) for output in row.outputs)), None)
    if first is not None and not any(prediction.pages for prediction in predictions):
        raise first.error(f"no provenance in this file has {page_key!r}, by which the gold file names its pages")
    return predictions


def align(gold: Gold, predictions: Sequence[Prediction], *, path: Path) -> list[Prediction]:
    """The predictions (of the file `path`) in the order of the questions, one for each.

    Raises:
        PredictionMismatch: a prediction has an unknown id, or a question has no prediction.
    """
    known = {question.id for question in gold.questions}
    by_id = {prediction.id: prediction for prediction in predictions}
    unknown = [prediction for prediction in predictions if prediction.id not in known]
    if unknown:
        others = _others(len(unknown))
        message = f"no question in {gold.path} has id {unknown[0].id!r}{others}"
        raise PredictionMismatch(message, path=path, line=unknown[0].line)
    without = [question for question in gold.questions if question.id not in by_id]
    if without:
        message = f"question {without[0].id!r}{_others(len(without))} has no prediction in {path}"
        raise PredictionMismatch(message, path=gold.path, line=without[0].line)
    return [by_id[question.id] for question in gold.questions]


def _others(count: int) -> str:
    return f" (nor have {count - 1:,} others)" if count > 1 else ""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row whose id and list of outputs are sound."""

    path: Path
    line: int
    id: str
    input: str
    outputs: list[dict[str, Any]]

    def error(self, message: str) -> DataError:
        return DataError(message, path=self.path, line=self.line)

    def text(self, value: object, name: str) -> str:
        """A string, or a number's digits, without white space around it; nothing for null."""
        if value is None:
            return ""
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value).strip()
        raise self.error(f"{name} must be a string, not {json.dumps(value)[:80]}")

    def provenance(self, output: dict[str, Any]) -> list[dict[str, Any]]:
        found = output.get("provenance") or []
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise self.error("`provenance` must be a list of objects")
        return found


def _question(row: _Row, key: PageKey) -> GoldQuestion:
    answers = dict.fromkeys(row.text(output.get("answer"), "`answer`") for output in row.outputs)
    answers.pop("", None)
    if not answers:
        raise row.error("the question has no answer to score against (KILT keeps those of its test sets to itself)")
    evidence = []
    for output in row.outputs:
        if "provenance" in output:
            pages = frozenset(row.text(item.get(key), f"`{key}`") for item in row.provenance(output))
            if "" in pages:
                raise row.error(f"provenance without {key!r}, which names the pages of this file")
            evidence.append(pages)
    return GoldQuestion(
        id=row.id, input=row.input, answers=tuple(answers), evidence=tuple(evidence), line=row.line
    )  # fmt: skip


def _prediction(row: _Row, key: PageKey) -> Prediction:
    if len(row.outputs) != 1:
        raise row.error(f"a prediction must have exactly one output, not {len(row.outputs)}")
    [output] = row.outputs
    if output.get("answer") is None:
        raise row.error("the prediction has no answer; if there is none to give, write an empty string")
    pages = (row.text(item[key], f"`{key}`") for item in row.provenance(output) if key in item)
    return Prediction(
        id=row.id, answer=row.text(output["answer"], "`answer`"), pages=tuple(dict.fromkeys(pages)), line=row.line
    )


def _page_key(rows: Sequence[_Row]) -> PageKey:
    items = [item for row in rows for output in row.outputs for item in row.provenance(output)]
    return "title" if items and not any("wikipedia_id" in item for item in items) else "wikipedia_id"


def _rows(path: Path) -> Iterator[_Row]:
    first_line: dict[str, int] = {}
    for line, raw in enumerate(_read(path).split(b"\n"), start=1):
        if not raw.strip():
            continue
        row = _row(raw, path, line)
        if row.id in first_line:
            raise row.error(f"id {row.id!r} again; it stands on line {first_line[row.id]} already")
        first_line[row.id] = line
        yield row


def _row(raw: bytes, path: Path, line: int) -> _Row:
    try:
        value = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start} of the row", path=path, line=line) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", path=path, line=line) from None
    if not isinstance(value, dict):
        raise DataError(f"a row must be a JSON object, not {raw[:80].decode(errors='replace')}", path=path, line=line)
    row = _Row(path, line, "", "", value.get("output", []))
    name, text = row.text(value.get("id"), "`id`"), value.get("input") or ""
    if not name:
        raise row.error("the row has no id")
    if not isinstance(text, str):
        raise row.error(f"`input` must be a string, not {json.dumps(text)[:80]}")
    if not isinstance(row.outputs, list) or not all(isinstance(output, dict) for output in row.outputs):
        raise row.error("`output` must be a list of objects")
    return _Row(path, line, name, text, row.outputs)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            return gzip.decompress(data)
        return _unpack_zstd(data) if data.startswith(_ZSTD) else data
    except FileNotFoundError:
        raise DataNotFound(f"no file {path}") from None
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataUnreadable(f"{path}: cannot be read: {reason}") from error


def _unpack_zstd(data: bytes) -> bytes:
    parts = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(data))
        if not frame.eof:
            raise EOFError("the zstd data are cut off before their end")
        data = frame.unused_data
    return b"".join(parts)
