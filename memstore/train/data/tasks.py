"""Tasks: question files in KILT's form, how often each task is drawn, and which answer is trained on.

A row is `{"id", "input", "output": [{"answer", "provenance": [{"title"}]}]}`; other keys, of which KILT has
several, are left alone. Knows files and text; refuses to know tokens, passages and models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memstore.errors import ConfigError, CorpusError, CorpusNotFound, CorpusUnreadable
from memstore.files import read_whole
from memstore.questions.files import number_text
from memstore.train.data.settings import AnswerChoice


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A question with what is known of it.

    Attributes:
        answers: accepted ones, each once, in the file's order; at least one.
        titles: pages that the answers come from, each once; often none.
    """

    id: str
    input: str
    answers: tuple[str, ...]
    titles: tuple[str, ...] = ()


def read_tasks(path: Path) -> Iterator[TaskRow]:
    """Rows of a file: JSON lines, plain or compressed by gzip or zstd.

    Raises:
        CorpusNotFound, CorpusUnreadable: there is no such file; it is damaged, or the system refuses.
        CorpusError: a row is not in KILT's form or has no answer; it says which line.
    """
    seen: set[str] = set()
    for number, line in read_lines(path):
        row = _row(line, path=path, line=number)
        if row.id in seen:
            raise CorpusError(f"a second row has the id {row.id!r}", path=path, line=number)
        seen.add(row.id)
        yield row


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their 1-based numbers, without a byte order mark. Holds the whole file in memory.

    Raises:
        CorpusNotFound, CorpusUnreadable: see `read_tasks`.
        CorpusError: a line is not UTF-8.
    """
    for number, raw in enumerate(_decompressed(path).split(b"\n"), start=1):
        if raw.strip():
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise CorpusError(f"not UTF-8 ({error})", path=path, line=number) from None


def file_sha256(paths: Sequence[Path]) -> str:
    """Sha256 over what the files hold, in this order, compressed or not: the same rows, the same hash."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(_decompressed(path))
    return digest.hexdigest()


def _decompressed(path: Path) -> bytes:
    try:
        return read_whole(path)
    except FileNotFoundError:
        raise CorpusNotFound(f"there is no file {path}") from None
    except (OSError, EOFError) as error:
        raise CorpusUnreadable(f"{path} cannot be read: {error}") from error


def _row(text: str, *, path: Path, line: int) -> TaskRow:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"not JSON ({error})", path=path, line=line) from None
    if not isinstance(values, dict):
        raise CorpusError(f"a row must be an object, not {values!r:.40}", path=path, line=line)
    name, question, outputs = values.get("id"), values.get("input"), values.get("output")
    if not isinstance(name, str | int) or not isinstance(question, str) or not question.strip():
        raise CorpusError('a row needs an "id" and an "input" of text', path=path, line=line)
    if not isinstance(outputs, list) or not all(isinstance(o, dict) for o in outputs):
        raise CorpusError('"output" must be a list of objects', path=path, line=line)
    try:
        answers = [text for o in outputs if (text := _answer(o.get("answer"))).strip()]
    except ValueError as error:
        raise CorpusError(f'an "answer" is {error}', path=path, line=line) from None
    if not answers:
        raise CorpusError('no object of "output" has an "answer"', path=path, line=line)
    named = [o.get("provenance") or [] for o in outputs]
    if not all(isinstance(of_output, list) for of_output in named):
        raise CorpusError('"provenance" must be a list of objects', path=path, line=line)
    sources = [p for of_output in named for p in of_output if isinstance(p, dict)]
    titles = [p["title"] for p in sources if isinstance(p.get("title"), str) and p["title"]]
    return TaskRow(str(name), question, tuple(dict.fromkeys(answers)), tuple(dict.fromkeys(titles)))


def _answer(value: object) -> str:
    """An answer's text, a number's digits; empty for anything else. `ValueError` for a number that no text equals."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_text(value)
    return value if isinstance(value, str) else ""


# --- which task, which answer -----------------------------------------------------------------------------------


def mixture(counts: Mapping[str, int], *, weights: Mapping[str, float] | float | None = None) -> dict[str, float]:
    """How often each task is drawn: shares that sum to 1, in the order of `counts`.

    Args:
        counts: questions per task, by name; tasks without any get no share.
        weights: None: all tasks alike. A number is a temperature T: `p ~ n ** (1 / T)`, so that 1 is by size
            and infinity alike. A mapping gives the weights; a task that it leaves out gets none.

    Raises:
        ConfigError: a weight or the temperature is impossible, names no task, or leaves nothing to draw.
    """
    if isinstance(weights, Mapping):
        if unknown := sorted(set(weights) - set(counts)):
            raise ConfigError(f"weights for unknown task(s) {', '.join(unknown)}; known: {', '.join(counts)}")
        if bad := {name: w for name, w in weights.items() if not _is_weight(w)}:
            raise ConfigError(f"weights must be numbers, finite and not negative: {bad}")
        raw = {name: float(weights.get(name, 0.0)) for name in counts}
    elif weights is not None:
        if not weights > 0:
            raise ConfigError(f"the temperature of a mixture must be above 0, not {weights}")
        largest = max(counts.values(), default=0)
        raw = {name: (n / largest) ** (1 / weights) if n else 0.0 for name, n in counts.items()}
    else:
        raw = dict.fromkeys(counts, 1.0)
    raw = {name: w if counts[name] else 0.0 for name, w in raw.items()}
    total = sum(raw.values())
    if not total > 0:
        raise ConfigError("no task is left to draw from: all weights are 0, or no task has a question")
    return {name: w / total for name, w in raw.items()}


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def choose_answer(lengths: Sequence[int], choice: AnswerChoice, draw: float) -> int:
    """Which of several answers is trained on.

    Args:
        lengths: tokens of each answer.
        choice: "first", "shortest" (the first of them), or "random".
        draw: a number in [0, 1) that "random" chooses by.
    """
    if choice == "first":
        return 0
    if choice == "shortest":
        return min(range(len(lengths)), key=lengths.__getitem__)
    return int(draw * len(lengths))
