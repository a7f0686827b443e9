"""A small corpus, an encoder of word counts, and rankings given by hand, for all tests of retrieval."""

from __future__ import annotations

import operator
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memstore.metadata import Metadata
from memstore.passage import Passage
from memstore.retrieve import Filters, FoundRow, Hit, HitsOf
from memstore.retrieve.encoders import EncoderRef

SUBJECTS = ["Nile", "Danube", "Everest", "Berlin", "Ångström", "Curie", "Москва", "東京", "Baikal", "Mozart"]
KINDS = ["river", "mountain", "city", "chemist", "lake", "composer"]


def passage(row: int, title: str, text: str) -> Passage:
    return Passage(id=f"p{row}", document_id=f"d{row}", title=title, text=text)


def corpus(size: int = 60) -> list[Passage]:
    """Passages of ragged lengths, all different."""
    made = []
    for row in range(size):
        subject, kind = SUBJECTS[row % len(SUBJECTS)], KINDS[(row // 3) % len(KINDS)]
        text = f"{subject} and the {kind} number{row}. " + f"It is {kind} of year {1900 + row}. " * (row % 4)
        made.append(passage(row, subject, text))
    return made


def passes(metadata: Metadata, where: Mapping[str, Any]) -> bool:
    """Whether metadata pass a filter, said as plainly as can be: what every retriever must agree with."""
    return all(_holds(metadata, name, _as_tests(said)) for name, said in where.items())


def _as_tests(said: Any) -> Mapping[str, Any]:
    return said if isinstance(said, dict) else {"in": [said]}


def _holds(metadata: Metadata, name: str, tests: Mapping[str, Any]) -> bool:
    there = metadata.get(name, [])
    values = there if isinstance(there, list) else [there]
    if "not" in tests and _holds(metadata, name, _as_tests(tests["not"])):
        return False
    if "exists" in tests and tests["exists"] is not (name in metadata):
        return False
    if "in" in tests and not any(_alike(v, one) and v == one for v in values for one in tests["in"]):
        return False
    bounds = [(_BOUNDS[test], bound) for test, bound in tests.items() if test in _BOUNDS]
    return not bounds or any(all(_alike(v, b) and compare(v, b) for compare, b in bounds) for v in values)


_BOUNDS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def _alike(a: object, b: object) -> bool:
    """Whether two values are of one kind: 1 is not True, and "1" neither."""
    return isinstance(a, str) == isinstance(b, str) and isinstance(a, bool) == isinstance(b, bool)


def hits_of(passages: Sequence[Passage]) -> HitsOf:
    return lambda found: [Hit(passages[row].id, score) for row, score in found]


class WordEncoder:
    """Counts of hashed words: texts that share words are near."""

    name, dim = "memory", 32

    def encode_questions(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                vector[zlib.crc32(word.encode()) % self.dim] += 1
        return vectors

    def ref(self) -> EncoderRef:
        return EncoderRef(kind="memory")

    def encode_passages(self, passages: Sequence[Passage]) -> npt.NDArray[np.float32]:
        return self.encode_questions([f"{p.title} {p.text}" for p in passages])


class FixedRanking:
    """Finds the same rows for every question, and notes how deep it was asked. Letters name rows: "a" is row 0."""

    def __init__(self, *letters: str) -> None:
        self.rows, self.asked = [ord(letter) - ord("a") for letter in letters], list[int]()

    def search_rows(self, questions: Sequence[str], k: int, filters: Filters | None = None) -> list[list[FoundRow]]:
        self.asked.append(k)
        return [[(row, -float(rank)) for rank, row in enumerate(self.rows)][:k] for _ in questions]


class Letters:
    """Names the rows of `FixedRanking`, and notes which were named."""

    def __init__(self) -> None:
        self.named = list[str]()

    def __call__(self, found: Sequence[FoundRow]) -> list[Hit]:
        hits = [Hit(chr(ord("a") + row), score) for row, score in found]
        self.named += [hit.passage_id for hit in hits]
        return hits
