"""Tokenizers trained from text: the same pieces for a word everywhere, any script, special ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from memstore.cli import app
from memstore.errors import ConfigError, MemstoreError
from memstore.model.tokens import canonical
from memstore.train.tokenizer import EOS, PAD, SENTINELS, UNK, train_tokenizer

TEXTS = [
    "Marie Curie (born in Warsaw) discovered radium in 1898.",
    'The film "Titanic" was seen by 1,000,000 people in the U.S. between 1997 and 1998.',
    "A co-founder, born in Warsaw, discovered the film; Curie's work was seen in 1898–1899.",
] * 4


@pytest.fixture(scope="module")
def folded() -> Tokenizer:
    return train_tokenizer(TEXTS, vocab_size=600, lowercase=True)


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text, add_special_tokens=False).tokens


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("(born 1898)", "born"),
        ('"Titanic"', "titanic"),
        ("Titanic.", "titanic"),
        ("co-founder", "founder"),
        ("1898–1899", "1899"),
        ("(1898)", "1898"),
        ("WARSAW,", "warsaw"),
    ],
)
def test_a_word_has_the_same_pieces_everywhere(folded: Tokenizer, text: str, word: str) -> None:
    alone, within = words(folded, word), words(folded, text)
    assert any(within[i : i + len(alone)] == alone for i in range(len(within))), (alone, within)


def test_numbers_stay_together(folded: Tokenizer) -> None:
    assert "".join(words(folded, "by 1,000,000 people")).count("▁") == 3


@pytest.mark.parametrize(
    "text",
    [
        "marie curie (born in warsaw) discovered radium in 1898.",
        "seen by 1,000,000 people in the u.s. between 1997 and 1998",
        "a co-founder, curie's",
        "1898–1899",
        "the u.s.s.r",
        "日本 and dvořák",
        "<0x41> is text",
    ],
)
def test_text_survives_a_round_trip(folded: Tokenizer, text: str) -> None:
    got = folded.decode(folded.encode(text).ids)
    assert got.replace(" ", "") == text.replace(" ", "")
    if "<" not in text:
        assert got == text


def test_case_is_kept_unless_folded() -> None:
    kept = train_tokenizer(TEXTS, vocab_size=600)
    assert kept.decode(kept.encode("Marie Curie").ids) == "Marie Curie"


def test_special_ids(folded: Tokenizer) -> None:
    assert [folded.token_to_id(t) for t in (PAD, EOS, UNK, "<extra_id_0>")] == [0, 1, 2, 3]
    assert folded.encode("a <extra_id_7> b").ids.count(folded.token_to_id("<extra_id_7>")) == 1
    assert folded.encode("a").ids[-1] == 1
    assert folded.get_vocab_size() <= 600
    assert folded.token_to_id(f"<extra_id_{SENTINELS}>") is None


def test_a_corpus_without_passages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"id": "a", "text": " "}\n', encoding="utf-8")
    result = CliRunner().invoke(
        app, ["tokenizer", "--corpus", str(tmp_path / "corpus.jsonl"), "--out", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, ConfigError)
    assert "no passages to learn from (1 documents were read)" in str(result.exception)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("out", ["corpus.jsonl", "folder", "corpus.jsonl/below"])
def test_outputs_are_tried_before_the_work_and_are_no_inputs(tmp_path: Path, out: str) -> None:
    text = '{"id": "a", "text": "The bridge of Arta was opened to trains in 1903."}\n'
    corpus, written = tmp_path / "corpus.jsonl", tmp_path / out
    corpus.write_text(text, encoding="utf-8")
    (tmp_path / "folder" / "tokenizer.json").mkdir(parents=True)
    for command in ("questions", "tokenizer"):
        result = CliRunner().invoke(app, [command, "--corpus", str(corpus), "--out", str(written)])
        assert isinstance(result.exception, MemstoreError), (command, result.exception)
    assert corpus.read_text(encoding="utf-8") == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "folder"]


def test_a_canonical_file_gives_the_same_tokenizer(folded: Tokenizer) -> None:
    again = Tokenizer.from_str(canonical(folded))
    assert canonical(again) == canonical(folded)
    assert again.encode(TEXTS[1]).ids == folded.encode(TEXTS[1]).ids
