"""Metadata in a store's texts: kept with the passage, absent where there are none, part of what makes duplicates."""

from __future__ import annotations

import hashlib

from memstore.passage import Passage
from memstore.store.contents import signature
from memstore.store.duplicates import Duplicate, read_duplicates, words_hash, write_duplicates
from memstore.store.format import DUPLICATES, Seal, file_ref
from memstore.store.texts import from_line, to_line

PLAIN = Passage("d:0", "d", "T", "text", "u", 0, 4)
GOOD = {"lang": "en", "year": 1999, "score": 0.5, "draft": False, "tags": ["ä", "b"]}
TAGGED = Passage("d:0", "d", "T", "text", "u", 0, 4, GOOD)


def test_a_passage_without_them_is_written_as_it_was_before_there_were_any() -> None:
    line = b'{"id": "d:0", "document_id": "d", "title": "T", "text": "text", "url": "u", "start": 0, "end": 4}\n'
    assert to_line(PLAIN) == line
    assert from_line(line) == PLAIN


def test_they_come_back_as_they_were_with_their_types() -> None:
    read = from_line(to_line(TAGGED))
    assert read == TAGGED
    assert [type(v) for v in read.metadata.values()] == [str, int, float, bool, list]


def test_a_passage_with_them_can_be_a_key() -> None:
    assert len({TAGGED, from_line(to_line(TAGGED)), PLAIN}) == 2


def test_they_are_part_of_what_passages_are_compared_by() -> None:
    reordered = Passage("d:0", "d", "T", "text", "u", 0, 4, dict(reversed(GOOD.items())))
    other = Passage("d:0", "d", "T", "text", "u", 0, 4, GOOD | {"year": 2000})
    assert words_hash(PLAIN) == hashlib.blake2b(b"T\0text", digest_size=16).digest()  # in lookups of earlier stores
    assert words_hash(reordered) == words_hash(TAGGED)
    assert len({words_hash(p) for p in (PLAIN, TAGGED, other)}) == 3
    assert len({signature(p, words_hash(p)) for p in (PLAIN, TAGGED, other, reordered)}) == 3


def test_records_of_duplicates_keep_them(tmp_path) -> None:
    write_duplicates(tmp_path, [Duplicate.of(TAGGED, before=2), Duplicate.of(PLAIN, before=3)])
    seal = Seal(
        segment="s", codec="int8", d_model=1, max_tokens=1, shard_passages=1, embedding_dim=0, passages=1, tokens=1,
        files={DUPLICATES: file_ref(tmp_path / DUPLICATES)},
    )  # fmt: skip
    read = read_duplicates(tmp_path, seal)
    assert [(d.passage.metadata, d.passage.text) for d in read] == [(GOOD, ""), ({}, "")]
    assert read[0].words == words_hash(TAGGED).hex()
