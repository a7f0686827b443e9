"""Passages longer than the model reads: split, cut or refused, counted, and never in silence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from memstore import cli
from memstore.errors import ConfigError
from memstore.passage import Passage
from memstore.store import Store
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from memstore_builders.long_passages import Fitter, OnLong
from memstore_builders.plan import plan
from memstore_builders.verify import verify
from tests import tiny

LIMIT = 48  # tokens of a passage that the tiny model reads: "title: Nile context:" has 3, eos 1
ROOM = LIMIT - 4


def passage(text: str, *, start: int = 0, title: str = "Nile") -> Passage:
    return Passage("p", "d", title, text, "u", start, start + len(text))


def fitted(given: Passage, on_long: OnLong = "split") -> list[tuple[Passage, str]]:
    return list(Fitter(tiny.text_tokenizer(), on_long)([given]))


def sentences(count: int, words: int) -> str:
    """Sentences of so many words, one token each; the stop is one more."""
    return " ".join(f"{' '.join(['river'] * words)} ." for _ in range(count))


def test_what_fits_stays_as_it_is() -> None:
    fits = passage(" ".join(["the"] * ROOM))
    assert fitted(fits) == fitted(fits, "cut") == fitted(fits, "fail") == [(fits, "")]


def test_a_passage_one_token_too_long_becomes_two_of_equal_length() -> None:
    words = ["the"] * (ROOM + 1)
    given = passage(" ".join(words), start=100)
    first, second = fitted(given)
    assert (first[0].id, first[1], second[0].id, second[1]) == ("p", "first", "p#2", "part")
    assert [len(part.text.split()) for part, _ in (first, second)] == [22, 23]
    for part, _ in (first, second):
        assert (part.document_id, part.title, part.url) == ("d", "Nile", "u")
        assert given.text[part.start - 100 : part.end - 100] == part.text


def test_parts_end_with_a_sentence_where_one_ends_near_by() -> None:
    parts = [p.text for p, _ in fitted(passage(sentences(9, 9)))]  # 90 tokens: three parts, of 30 if equal
    assert parts == [sentences(3, 9)] * 3
    parts = [p.text for p, _ in fitted(passage(sentences(2, 25)))]  # 52: two of 26 each
    assert parts == [sentences(1, 25)] * 2


def test_a_word_that_alone_is_too_long_is_cut_within_and_no_other() -> None:
    given = passage("the " + "x" * 100 + " river")
    parts = [p.text for p, _ in fitted(given)]
    assert "".join(parts).replace(" ", "") == given.text.replace(" ", "")
    assert all(set(part) <= {"x"} for part in parts[1:-1])
    assert (parts[0][:4], parts[-1][-6:]) == ("the ", " river")


def test_a_title_that_leaves_no_room_is_cut() -> None:
    given = passage("the river", title=" ".join(["Nile"] * 60))
    assert fitted(given) == [(given, "cut")]


def test_cut_leaves_the_text_and_says_so() -> None:
    given = passage(" ".join(["the"] * 100))
    assert fitted(given, "cut") == [(given, "cut")]


def test_fail_names_the_passage_and_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"'p' \(title 'Nile'\) has 104 tokens, and the model reads 48: .*--on-long"):
        fitted(passage(" ".join(["the"] * 100)), "fail")


def test_passages_keep_their_order_across_batches() -> None:
    given = [replace(passage("the " * (3 if i % 3 else 60)), id=f"p{i}") for i in range(600)]
    found = [p.id for p, _ in Fitter(tiny.text_tokenizer(), "split")(given)]
    assert found == [name for i in range(600) for name in ([f"p{i}"] if i % 3 else [f"p{i}", f"p{i}#2"])]


pieces = st.sampled_from(
    ["the ", "river", "Paris. ", "unknown ", "x" * 60, "北京", "é", "e\u0301", "👨\u200d👩", "\n\n", "  ", "?"]
)


@given(text=st.lists(pieces, max_size=80).map("".join))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_parts_cover_the_text_in_order_within_the_limit(text: str) -> None:
    tokenizer = tiny.text_tokenizer()
    at = 0
    for part, mark in Fitter(tokenizer, "split")([passage(text)]):
        assert tokenizer.lengths([part])[0] <= LIMIT
        assert text[part.start : part.end] == part.text
        assert not text[at : part.start].strip()
        assert mark == "" or part.text == part.text.strip() != ""
        at = part.end
    assert not text[at:].strip()


# --- whole stores -------------------------------------------------------------------------------------------


@pytest.fixture
def options(tmp_path: Path) -> BuildOptions:
    """Four passages: two too long, of which one is a duplicate of the other."""
    words = [tiny.WORDS[i % 31] for i in range(100)]
    long, other = " ".join([*words, "Rhine"]), " ".join(words[7:67])
    rows = [("a", long), ("b", "river"), ("c", long), ("e", other)]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"id": i, "document_id": "d", "text": t}) + "\n" for i, t in rows))
    model = str(tiny.save_checkpoint(tmp_path / "model"))
    return BuildOptions(corpus=(path,), out=tmp_path / "store", model=model, dtype="float32")


def test_by_default_the_end_of_a_long_passage_is_found_and_all_is_counted(options: BuildOptions) -> None:
    planned, report = plan(options), build(options)
    for counts in (planned, report):
        assert (counts.passages, counts.duplicates, counts.split, counts.parts, counts.cut) == (6, 3, 2, 5, 0)
    store = Store.open(options.out)
    assert store.ids(range(6)) == ["a", "a#2", "a#3", "b", "e", "e#2"]
    assert store.passages(["a#3"])[0].text.endswith("Rhine")
    assert {key: value for key, value in store.generation.source.items() if key != "content"} == {
        "documents": 1, "duplicates": 3, "rows_skipped": 0, "split": 2, "parts": 5, "cut": 0,
    }  # fmt: skip
    found = verify(options.out)
    assert found.sound
    assert (found.split, found.cut, found.sampled_cut) == (2, 0, 0)


def test_cut_passages_are_counted_and_the_store_is_sound(options: BuildOptions) -> None:
    options = replace(options, on_long="cut")
    planned, report = plan(options), build(options)
    for counts in (planned, report):
        assert (counts.passages, counts.duplicates, counts.split, counts.parts, counts.cut) == (3, 1, 0, 0, 2)
    found = verify(options.out)
    assert found.sound
    assert (found.split, found.cut, found.sampled_cut) == (0, 2, 2)


def test_a_store_is_not_built_over_with_another_choice(options: BuildOptions) -> None:
    build(options)
    with pytest.raises(ConfigError, match="built otherwise"):
        build(replace(options, on_long="cut"))


@pytest.mark.parametrize("run", [plan, build])
def test_fail_refuses_the_corpus(options: BuildOptions, run: Any) -> None:
    with pytest.raises(ConfigError, match="passage 'a' "):
        run(replace(options, on_long="fail"))
    assert run(options).passages == 6


@pytest.mark.parametrize("limit", range(1, 7))
def test_a_limit_counts_the_parts(options: BuildOptions, limit: int) -> None:
    planned = plan(replace(options, limit=limit))
    assert planned.passages + planned.duplicates == limit


def test_every_command_says_so(options: BuildOptions) -> None:
    common = ["--corpus", str(options.corpus[0]), "--model", options.model]

    def said(*words: str) -> str:
        done = CliRunner().invoke(cli.app, list(words), catch_exceptions=False)
        return " ".join(done.stdout.split())

    split = "2 passages longer than the model reads (48 tokens), split into 5"
    cut = "2 passages are longer than the model reads (48 tokens): it does not see their end"
    for choice, told in (("split", split), ("cut", cut)):
        out = str(options.out / choice)
        assert told in said("plan", *common, "--on-long", choice)
        assert told in said("build", *common, "--out", out, "--on-long", choice)
        assert told in said("build", *common, "--out", out, "--on-long", choice)  # built already
        assert told in said("inspect", out)
        assert ("it does not see their end" in said("verify", out)) == (choice == "cut")


def test_the_choices_are_these(options: BuildOptions) -> None:
    assert get_args(OnLong) == ("split", "cut", "fail")
    with pytest.raises(ConfigError, match="on_long must be split, cut or fail, not 'drop'"):
        build(replace(options, on_long="drop"))  # type: ignore[arg-type]
