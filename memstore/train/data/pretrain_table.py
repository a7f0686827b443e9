"""The table that pretraining reads: sentences, salient spans and lexical neighbours of passages, found once.

Its files are in `pretrain/` of a cache. They cover P' of its passages: those with a sentence that holds a span.

    rows.npy                        (P',) rows among the cache's passages
    sentences.npy, .lengths.npy     per passage, [begin, end) of sentences in its token ids
    spans.npy, .lengths.npy         per sentence, [begin, end) of salient spans in the passage's token ids
    answers.npy, .lengths.npy       per span, its text as an answer's token ids, without eos
    classes.npy, .lengths.npy       per span, token ids of its class ("river"), often none
    neighbours.npy                  (P', m) rows among the cache's passages, lexically near, -1 after the last

A token belongs to a span if they share a character. Knows text and tokens, no store and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from memstore.model.tokens import TextTokenizer, fill
from memstore.passage import Passage
from memstore.train.data.entity_types import Classes
from memstore.train.data.ragged import Ints, Ragged, id_type, load_array
from memstore.train.data.salient_spans import salient, sentences

SENTENCE_WORDS = (6, 50)  # shorter ones ask nothing, longer ones are lists


@dataclass(frozen=True, slots=True)
class PretrainTable:
    """The arrays that the module's docstring lists."""

    rows: NDArray[np.int32]
    sentences: Ragged
    spans: Ragged
    answers: Ragged
    classes: Ragged
    neighbours: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.rows)

    def save(self, folder: Path) -> None:
        """Write all arrays into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "rows.npy", self.rows)
        np.save(folder / "neighbours.npy", self.neighbours)
        for name in ("sentences", "spans", "answers", "classes"):
            getattr(self, name).save(folder, name)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Inverse of `save`, memory-mapped.

        Raises:
            CandidatesCorrupt: a file is missing or unreadable.
        """
        return cls(
            rows=load_array(folder, "rows"),
            sentences=Ragged.load(folder, "sentences"),
            spans=Ragged.load(folder, "spans"),
            answers=Ragged.load(folder, "answers"),
            classes=Ragged.load(folder, "classes"),
            neighbours=load_array(folder, "neighbours"),
        )


@dataclass(slots=True)
class TableBuilder:
    """Collects sentences and spans of passages, in the order of their rows.

    Attributes:
        tokenizer: with the templates and limits that the cached passages were made with.
        most_spans: kept spans of a passage, at most; sentences with the most spans are preferred.
        most_tokens: longer sentences are left out.
        classes: gives the class of a span; it has learned from the passages.
    """

    tokenizer: TextTokenizer
    most_spans: int = 4
    most_tokens: int = 48
    classes: Classes = field(default_factory=Classes)
    rows: list[int] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)  # per row: its best sentence, to search for neighbours with
    _sentences: list[Ints] = field(default_factory=list)
    _spans: list[Ints] = field(default_factory=list)
    _answers: list[str] = field(default_factory=list)
    _plain: Tokenizer | None = None

    def add(self, rows: Sequence[int], passages: Sequence[Passage]) -> None:
        """Add the sentences and spans of the passages at the given rows. Passages without a span are left out."""
        if self._plain is None:
            self._plain = Tokenizer.from_str(self.tokenizer.json)  # gives offsets, which TextTokenizer does not
        template, limit = self.tokenizer.config.passage_template, self.tokenizer.config.max_passage_tokens - 1
        texts = [fill(template, {"title": p.title, "text": p.text}) for p in passages]
        encodings = self._plain.encode_batch(texts, add_special_tokens=False)
        for row, passage, filled, encoding in zip(rows, passages, texts, encodings, strict=True):
            head = fill(template.split("{text}")[0], {"title": passage.title})
            self._add_one(row, passage.text, _Places(filled, encoding, limit=limit), shift=len(head))

    def build(self, neighbours: NDArray[np.int32]) -> PretrainTable:
        """The table, with the neighbours `(P', m)` of `rows`."""
        dtype = id_type(self.tokenizer.config.vocab_size)
        return PretrainTable(
            rows=np.array(self.rows, dtype=np.int32),
            sentences=Ragged.of(self._sentences, dtype=np.uint16, width=(2,)),
            spans=Ragged.of(self._spans, dtype=np.uint16, width=(2,)),
            answers=Ragged.of(self._ids(self._answers), dtype=dtype),
            classes=Ragged.of(self._ids([self.classes.of(answer) for answer in self._answers]), dtype=dtype),
            neighbours=neighbours,
        )

    def _ids(self, texts: list[str]) -> list[Ints]:
        return [ids[:-1] for ids in self.tokenizer.encode_answers(texts, max_tokens=1 << 16)]

    def _add_one(self, row: int, text: str, places: _Places, *, shift: int) -> None:
        found: list[tuple[str, Ints, list[Ints], list[str]]] = []
        for begin, end in sentences(text):
            sentence = text[begin:end]
            if not SENTENCE_WORDS[0] <= sentence.count(" ") + 1 <= SENTENCE_WORDS[1]:
                continue
            place = places.tokens(shift + begin, shift + end)
            if place is None or place[1] - place[0] > self.most_tokens:  # cut off by the token limit, or too long
                continue
            spans, answers = [], []
            for a, b in salient(sentence):
                span = places.tokens(shift + begin + a, shift + begin + b)
                if span is not None and span[1] - span[0] < place[1] - place[0]:
                    spans.append(span)
                    answers.append(sentence[a:b])
            if spans:
                found.append((sentence, place, spans, answers))
        self._keep(row, found)

    def _keep(self, row: int, found: list[tuple[str, Ints, list[Ints], list[str]]]) -> None:
        """Keep the sentences with the most spans, in the text's order. Of too many spans, keep evenly spread ones."""
        best = sorted(range(len(found)), key=lambda i: -len(found[i][2]))[: self.most_spans]
        if not best:
            return
        share = max(1, self.most_spans // len(best))
        self.rows.append(row)
        self.queries.append(found[best[0]][0])
        self._sentences.append(np.stack([found[i][1] for i in sorted(best)]))
        for i in sorted(best):
            _, _, spans, answers = found[i]
            chosen = sorted({round(x) for x in np.linspace(0, len(spans) - 1, min(share, len(spans)))})
            self._spans.append(np.stack([spans[j] for j in chosen]))
            self._answers += [answers[j] for j in chosen]


class _Places:
    """Maps characters of a text to its tokens; only the first `limit` tokens are there."""

    def __init__(self, text: str, encoding: Encoding, *, limit: int) -> None:
        self._text = text
        self._offsets = np.array(encoding.offsets[:limit], dtype=np.int64).reshape(-1, 2)

    def tokens(self, begin: int, end: int) -> Ints | None:
        """The tokens `[first, last)` that share a character with `[begin, end)`; None if some are cut off.

        A token that is only the space before them belongs to them too: in many vocabularies a word begins with it.
        """
        begins, ends = self._offsets[:, 0], self._offsets[:, 1]
        if not len(ends) or ends[-1] < end:
            return None
        shared = np.flatnonzero((begins < end) & (ends > begin))
        if not len(shared):
            return None
        first = int(shared[0])
        if first and begins[first - 1] == begin - 1 and self._text[begin - 1].isspace():
            first -= 1
        return np.array([first, shared[-1] + 1], dtype=np.uint16)
