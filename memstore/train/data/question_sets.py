"""The steps of preparing training data: collect passages in one table, find candidates of questions, find neighbours.

Memory: the table's token ids, 2 bytes each, and the texts of about `TEXTS_KEPT` passages. Knows stores and retrievers
as protocols; refuses to know where files of the cache go.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from memstore.errors import CorpusError, PassageNotFound
from memstore.model.tokens import TextTokenizer
from memstore.passage import Passage, StoredPassage
from memstore.questions.answers import holds, normalise, same_title, searchable_answers
from memstore.questions.files import GoldQuestion
from memstore.retrieve import Retriever, numbered
from memstore.retrieve.folder import scratch_folder
from memstore.retrieve.lexical import Bm25Retriever, build_bm25
from memstore.train.data.cache import ANSWER, TITLE, SetReport
from memstore.train.data.candidate_filter import Rarity, Screen
from memstore.train.data.lines import read_lines
from memstore.train.data.ragged import Ints, id_type

SPARE = 8  # more candidates than wanted are retrieved where a screen may leave some out
CHUNK = 256  # questions or passages handled at once
TEXTS_KEPT = 1 << 16  # passages whose text is kept in memory, plain and normalised: about 100 MB
Advance = Callable[[int], None]
_T = TypeVar("_T")


class PassageSource(Protocol):
    """Passages by id: a store, or a corpus in memory."""

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """The passages with these ids, in that order."""
        ...


class SpreadSource(PassageSource, Protocol):
    """Passages by id and by number: a store."""

    def __len__(self) -> int:
        """The number of passages, deleted ones included."""
        ...

    def dead_rows(self) -> npt.NDArray[np.int64]:
        """The numbers of the passages that are deleted, ascending."""
        ...

    def at(self, rows: Sequence[int]) -> list[StoredPassage]:
        """The passages with these numbers, none of them deleted."""
        ...


class PassageFiles:
    """A `PassageSource` of ready passages from files, held in memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read JSON lines: objects with id, title and text, or the builder's spool, whose rows are lists.

        Raises:
            CorpusError: a row is no passage, or another passage has its id.
        """
        self._passages: dict[str, Passage] = {}
        for path in paths:
            for line, text in read_lines(path):
                passage = _passage(text, path=path, line=line)
                if self._passages.setdefault(passage.id, passage) != passage:
                    raise CorpusError(f"another passage has the id {passage.id!r}", path=path, line=line)

    def __len__(self) -> int:
        return len(self._passages)

    def ids(self) -> list[str]:
        """All ids, in the files' order."""
        return list(self._passages)

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """The passages with these ids, in that order.

        Raises:
            PassageNotFound: no passage has one of the ids.
        """
        try:
            return [self._passages[i] for i in ids]
        except KeyError as error:
            raise PassageNotFound(str(error.args[0])) from None


def _passage(text: str, *, path: Path, line: int) -> Passage:
    try:
        values = json.loads(text)
        if isinstance(values, list):
            return Passage(*values)
        title, words = values.get("title") or "", values["text"]
        if not isinstance(words, str) or not isinstance(title, str):
            raise TypeError("title and text must be text")
        name = str(values["id"])
        return Passage(name, str(values.get("document_id", name)), title, words, end=len(words))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"not a passage with id, title and text ({type(error).__name__}: {error})"
        raise CorpusError(message, path=path, line=line) from None


class PassageTable:
    """The passages of one cache, each once, in the order in which they were first added."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer, self._type = tokenizer, id_type(tokenizer.config.vocab_size)
        self._rows: dict[tuple[int, str], int] = {}
        self._sources: list[PassageSource] = []
        self.tokens: list[Ints] = []
        self.names: list[tuple[str, str]] = []
        self._origin: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, source: PassageSource, passages: Sequence[Passage]) -> list[int]:
        """The rows of the passages; new ones are added. Ids are unique only within a source."""
        if source not in self._sources:
            self._sources.append(source)
        origin = self._sources.index(source)
        new = {p.id: p for p in passages if (origin, p.id) not in self._rows}
        for passage, ids in zip(new.values(), self._tokenizer.passages(list(new.values())), strict=True):
            self._rows[origin, passage.id] = len(self.tokens)
            self.tokens.append(ids.astype(self._type))
            self.names.append((passage.id, passage.title))
            self._origin.append(origin)
        return [self._rows[origin, p.id] for p in passages]

    def read(self) -> Iterator[tuple[list[int], list[Passage]]]:
        """All passages with their rows, some at a time, read again from their sources."""
        for rows in chunks(range(len(self)), CHUNK):
            found: dict[int, Passage] = {}
            for origin, source in enumerate(self._sources):
                own = [r for r in rows if self._origin[r] == origin]
                found |= zip(own, source.passages([self.names[r][0] for r in own]), strict=True)
            yield list(rows), [found[r] for r in rows]


@dataclass(slots=True)
class QuestionSetBuilder:
    """Collects the questions of one set that are kept, with their candidates; counts all questions."""

    k: int
    kept: list[GoldQuestion] = field(default_factory=list)
    candidates: list[NDArray[np.int32]] = field(default_factory=list)
    marks: list[NDArray[np.uint8]] = field(default_factory=list)
    _asked: int = 0
    _answerable: int = 0
    _gold: int = 0
    _first: int = 0
    _hits: int = 0

    def count(self, marks: Sequence[int]) -> None:
        """Count a question, whether it is kept or not, by the marks of its candidates."""
        self._asked += 1
        self._hits += len(marks)
        self._answerable += any(m & ANSWER for m in marks)
        self._gold += any(marks)
        self._first += bool(marks and marks[0] & ANSWER)

    def keep(self, row: GoldQuestion, candidates: Sequence[int], marks: Sequence[int]) -> None:
        """Add a question with its candidates."""
        self.kept.append(row)
        padding = self.k - len(candidates)
        self.candidates.append(np.array([*candidates, *[-1] * padding], dtype=np.int32))
        self.marks.append(np.array([*marks, *[0] * padding], dtype=np.uint8))

    def report(self) -> SetReport:
        """The counts as shares of all questions, those left out included."""
        n = max(1, self._asked)
        return SetReport(
            questions=len(self.kept),
            left_out=self._asked - len(self.kept),
            answerable=round(self._answerable / n, 4),
            gold=round(self._gold / n, 4),
            first=round(self._first / n, 4),
            candidates=round(self._hits / n, 2),
        )


def gather_set(
    rows: Sequence[GoldQuestion],
    *,
    k: int,
    keep_unanswerable: float,
    retriever: Retriever,
    store: PassageSource,
    table: PassageTable,
    advance: Advance,
    screen: Screen | None = None,
) -> QuestionSetBuilder:
    """A set of questions with their candidates, found and marked.

    Args:
        rows: the questions. Their input is the query, unchanged, as in answering.
        k: candidates for each.
        keep_unanswerable: the share kept of questions without a right candidate. Hashes of their ids decide which.
        retriever: finds the candidates' ids.
        store: has their texts.
        table: takes the candidates of the questions that are kept.
        advance: is called with the number of questions done.
        screen: leaves candidates out; the next ones move up. With it, a candidate is right only if it holds an answer.
    """
    built, texts = QuestionSetBuilder(k), _Texts(store)
    wanted, needed = (k, ANSWER | TITLE) if screen is None else (k + SPARE, ANSWER)
    for chunk in chunks(rows, CHUNK):
        found = [[hit.passage_id for hit in hits] for hits in retriever.search([r.input for r in chunk], wanted)]
        texts.want({i for ids in found for i in ids})
        kept = []
        for row, ids in zip(chunk, found, strict=True):
            read = [texts[i] for i in ids]
            marks = mark(row, read)
            if screen is not None:
                stay = [n for n, stays in enumerate(screen.stay(row, read, marks)) if stays][:k]
                ids, marks = [ids[n] for n in stay], [marks[n] for n in stay]
            built.count(marks)
            # By a hash, not a random number: the same questions stay whatever else is prepared.
            drawn = zlib.crc32(row.id.encode("utf-8", "surrogatepass")) < keep_unanswerable * 2**32
            if drawn or any(m & needed for m in marks):
                kept.append((row, ids, marks))
        passages = {i: texts[i][0] for _, ids, _ in kept for i in ids}
        rows_of = dict(zip(passages, table.add(store, list(passages.values())), strict=True))
        for row, ids, marks in kept:
            built.keep(row, [rows_of[i] for i in ids], marks)
        advance(len(chunk))
    return built


def mark(row: GoldQuestion, passages: Sequence[tuple[Passage, str]]) -> list[int]:
    """The mark (ANSWER | TITLE) of each passage, which comes with its normalised text.

    Verdicts cannot be searched for. Where all answers are verdicts, each passage of a right page is marked ANSWER too.
    """
    answers = searchable_answers(row.answers)
    marks = []
    for passage, normalised in passages:
        title = any(same_title(t, passage.title) for t in row.titles)
        answer = holds(normalised, answers) if answers else title
        marks.append(ANSWER * answer | TITLE * title)
    return marks


class _Texts:
    """Passages by id with their normalised text, kept in memory for the next questions."""

    def __init__(self, source: PassageSource) -> None:
        self._source = source
        self._known: dict[str, tuple[Passage, str]] = {}

    def want(self, ids: set[str]) -> None:
        """Read the passages of `ids` that are not in memory."""
        if len(self._known) > TEXTS_KEPT:
            self._known.clear()
        new = sorted(ids - self._known.keys())
        for passage in self._source.passages(new):
            self._known[passage.id] = (passage, normalise(passage.text))

    def __getitem__(self, passage_id: str) -> tuple[Passage, str]:
        return self._known[passage_id]


def neighbours(
    passages: Iterable[Passage], rows: Sequence[int], queries: Sequence[str], *, count: int, advance: Advance
) -> NDArray[np.int32]:
    """The lexical neighbours of passages, by BM25 over exactly these passages.

    Args:
        passages: of the cache, in the order of its rows.
        rows: the row that each query comes from; it is not its own neighbour.
        queries: sentences, one for each of `rows`.
        count: m, how many to find.
        advance: is called with the number of queries done.

    Returns:
        `(len(rows), m)` rows, best first, -1 after the last.
    """
    found = np.full((len(rows), count), -1, dtype=np.int32)
    if not count or not len(rows):
        return found
    with scratch_folder("memstore-neighbours-") as folder:
        build_bm25(folder / "bm25", passages)
        index = Bm25Retriever(folder / "bm25", numbered)
        for chunk in chunks(range(len(rows)), CHUNK):
            for i, best in zip(chunk, index.search_rows([queries[i] for i in chunk], count + 1), strict=True):
                near = [row for row, _ in best if row != rows[i]][:count]
                found[i, : len(near)] = near
            advance(len(chunk))
    return found


def word_rarity(store: SpreadSource, *, passages: int) -> Rarity:
    """The rarity of words in a store, counted over at most `passages` of it, evenly spread."""
    rarity = Rarity()
    for _, found in spread_passages(store, passages):
        rarity.add(found)
    return rarity


def spread_passages(store: SpreadSource, wanted: int) -> Iterator[tuple[Sequence[int], list[Passage]]]:
    """Passages evenly spread over a store, some at a time: the numbers looked at, and the passages not deleted."""
    gone = set(store.dead_rows().tolist())
    for rows in chunks(spread(len(store), wanted), CHUNK):
        yield rows, [found.passage for found in store.at([row for row in rows if row not in gone])]


def spread(total: int, wanted: int) -> list[int]:
    """Up to `wanted` of the numbers below `total`, evenly spread, ascending."""
    return sorted({int(r) for r in np.linspace(0, total - 1, min(wanted, total))}) if total and wanted else []


def chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """The items in pieces of `size`; the last one may be shorter."""
    return (items[i : i + size] for i in range(0, len(items), size))
