"""How likely a reader finds a question's answer, given each passage that holds an answer, one passage at a time.

Knows a model and the arrays of a question set; refuses to know files and what the numbers are used for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memstore.model.model import MemoryModel
from memstore.model.packed import Tokens
from memstore.train.data.cache import Candidates, QuestionSet
from memstore.train.data.ragged import Ints
from memstore.train.data.windows import Windows, find

_BATCH_TOKENS = 4096  # of questions and passages read at once, about
_MOST_REFERENCES = 8  # accepted answers of a question that are compared


@dataclass(frozen=True, slots=True)
class Reading:
    """One passage to read for one question, and the answer to look for.

    `column` says where in the question's row of numbers the likelihood goes: the passage's place among the candidates,
    or the answer's among the references.
    """

    row: int
    column: int
    question: Ints
    passage: Ints
    answer: Ints

    @property
    def tokens(self) -> int:
        """Tokens of the question and the passage."""
        return len(self.question) + len(self.passage)


def readings(
    cache: Candidates, questions: QuestionSet, windows: Windows, *, max_passages: int, passage_tokens: int
) -> list[Reading]:
    """What there is to read: of each question the first candidates that hold an answer.

    Args:
        cache: has the passages.
        questions: one of its sets.
        windows: cuts longer passages to their title and a window that holds the answer.
        max_passages: candidates of a question at most.
        passage_tokens: tokens of a passage at most.
    """
    found, gold = [], questions.gold("answer")
    for row, columns in enumerate(gold):
        answers = questions.answers_of(row)
        for column in np.flatnonzero(columns)[:max_passages].tolist():
            passage = cache.passages[int(questions.candidates[row, column])]
            # Without its eos, an answer is searched for as tokens; the first one is taken where none is found so, as
            # words may have other tokens within a text, and verdicts are in no passage.
            held = ((a, place) for a in answers if (place := find(passage, a[:-1])))
            answer, around = next(held, (answers[0], None))
            cut = windows.cut(passage, around, passage_tokens, np.random.default_rng([row, column]))
            found.append(Reading(row, column, questions.questions[row], cut, answer))
    return found


def reference_readings(
    cache: Candidates,
    questions: QuestionSet,
    windows: Windows,
    best: NDArray[np.int64],
    *,
    passage_tokens: int,
) -> list[Reading]:
    """The accepted answers to compare: those that one passage holds, all read in the same window of it.

    Where it holds none as tokens, all of them are compared. Equal ones are read once.

    Args:
        cache: has the passages.
        questions: one of its sets.
        windows: cuts longer passages.
        best: `(N,)`, the candidate of each question that is read; -1 for a question to leave out.
        passage_tokens: tokens of a passage at most.
    """
    found = []
    for row in np.flatnonzero(best >= 0).tolist():
        passage = cache.passages[int(questions.candidates[row, best[row]])]
        different = {answer.tobytes(): n for n, answer in reversed([*enumerate(questions.answers_of(row))])}
        references = {n: questions.answers_of(row)[n] for n in sorted(different.values())}
        places = {n: place for n, answer in references.items() if (place := find(passage, answer[:-1]))}
        around = _around([*places.values()], passage_tokens // 2)
        cut = windows.cut(passage, around, passage_tokens, np.random.default_rng([row]))
        held = [n for n in places if find(cut, references[n][:-1])] or list(references)
        question = questions.questions[row]
        found += [Reading(row, n, question, cut, references[n]) for n in held[:_MOST_REFERENCES]]
    return found


def _around(places: Sequence[tuple[int, int]], most: int) -> tuple[int, int] | None:
    """The span that holds all places if it is no longer than `most` tokens, else the first place."""
    if not places:
        return None
    begin, end = min(a for a, _ in places), max(b for _, b in places)
    return (begin, end) if end - begin <= most else places[0]


def measure(
    model: MemoryModel,
    wanted: Sequence[Reading],
    shape: tuple[int, int],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """The mean log-probability of an answer's tokens, eos included, `(N, k)`; NaN where nothing was read.

    Args:
        model: in evaluation mode, on its device.
        wanted: what to read.
        shape: `(N, k)`, rows and columns of the readings.
        advance: is called with the number of passages read.
    """
    found = np.full(shape, np.nan, dtype=np.float32)
    for batch in _batches(wanted):
        for reading, value in zip(batch, _mean_log_probs(model, batch), strict=True):
            found[reading.row, reading.column] = value
        advance(len(batch))
    return found


def likeliest_references(
    model: MemoryModel, wanted: Sequence[Reading], rows: int, *, advance: Callable[[int], None] = lambda _: None
) -> NDArray[np.int32]:
    """The likeliest accepted answer of each question, `(rows,)`: its number, or -1 where none was to be read.

    The log-probability of the whole answer decides, eos included: of two answers one is right as often as the model
    says, however long it is. A question's only answer is taken without reading.
    """
    answers = Counter(r.row for r in wanted)
    several = [r for r in wanted if answers[r.row] > 1]
    best = np.full(rows, -1, dtype=np.int32)
    for reading in wanted:
        best[reading.row] = reading.column
    advance(len(wanted) - len(several))
    means = measure(model, several, (rows, 1 + max((r.column for r in several), default=0)), advance=advance)
    highest = np.full(rows, -np.inf)
    for reading in several:  # of equals the first, as in `wanted`
        whole = float(means[reading.row, reading.column]) * len(reading.answer)
        if whole > highest[reading.row]:
            highest[reading.row], best[reading.row] = whole, reading.column
    return best


@torch.inference_mode()
def _mean_log_probs(model: MemoryModel, batch: Sequence[Reading]) -> list[float]:
    """The mean log-probability of each reading's answer, given its one passage."""
    questions = model.encode_question(Tokens.of([_ids(r.question) for r in batch]).to(model.device))
    memories = model.encode_passages(Tokens.of([_ids(r.passage) for r in batch]).to(model.device))
    rows = model.live_a(questions, memories, torch.arange(len(batch)))
    targets = torch.nn.utils.rnn.pad_sequence(
        [_ids(r.answer) for r in batch], batch_first=True, padding_value=model.config.pad_token_id
    )  # (B, t)
    log_probs, mask = model.target_log_probs(model.live_b(rows), targets.to(model.device))
    means: list[float] = ((log_probs * mask).sum(1) / mask.sum(1)).tolist()
    return means


def _ids(tokens: Ints) -> torch.Tensor:
    return torch.from_numpy(tokens.astype(np.int64))


def _batches(wanted: Sequence[Reading]) -> Iterator[list[Reading]]:
    """Readings of like length together: attention then does little work for nothing."""
    batch: list[Reading] = []
    tokens = 0
    for reading in sorted(wanted, key=lambda r: r.tokens):
        if batch and tokens + reading.tokens > _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(reading)
        tokens += reading.tokens
    if batch:
        yield batch
