"""Pretraining questions: the question, the answer, and the passages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore.errors import ConfigError
from memstore.model.tokens import TextTokenizer
from memstore.train.data.cache import Candidates
from memstore.train.data.prepare import prepare
from memstore.train.data.prepare_options import PrepareOptions
from memstore.train.data.pretrain import (
    QUESTION_WORDS,
    Example,
    Pretraining,
    noise_spans,
)
from memstore.train.data.pretrain_table import PretrainTable
from memstore.train.data.salient_spans import salient, sentences
from memstore.train.data.settings import Difficulty, PretrainSettings
from tests import tiny
from tests.train.data import data_cases as cases

WHOLE = Difficulty(passages=4, passage_tokens=200, hardness=0.5)
BY_TITLE = {p.title: p for p in cases.PASSAGES}
SENTENCES = [p.text[a:b] for p in cases.PASSAGES for a, b in sentences(p.text)]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return cases.tokenizer()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> Candidates:
    folder = tmp_path_factory.mktemp("pretrain")
    corpus = cases.write_corpus(folder / "corpus.jsonl")
    prepare(PrepareOptions(out=folder / "cache", corpus=(corpus,), max_sentence_tokens=110, neighbours=3), tokenizer)
    return Candidates.open(folder / "cache", tokenizer=tokenizer)


def pretraining(cache: Candidates, tokenizer: TextTokenizer, target: int = 100, **settings: Any) -> Pretraining:
    return Pretraining(
        PretrainSettings(**({"dev_questions": 0} | settings)),
        passages=cache.passages,
        table=PretrainTable.load(cache.folder / "pretrain"),
        tokenizer=tokenizer,
        max_question_tokens=tokenizer.config.max_question_tokens,
        max_target_tokens=target,
    )


def draw(made: Pretraining, count: int, difficulty: Difficulty = WHOLE) -> list[Example]:
    return [made.example(np.random.default_rng([7, i]), difficulty) for i in range(count)]


def text_of(tokenizer: TextTokenizer, ids: Any) -> str:
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(tokenizer.json)
    return str(plain.decode([int(i) for i in ids if i != tokenizer.config.eos_token_id], skip_special_tokens=False))


def test_sentences_and_spans_point_at_their_tokens(cache: Candidates, tokenizer: TextTokenizer) -> None:
    table = PretrainTable.load(cache.folder / "pretrain")
    found: dict[str, list[str]] = {}
    span = 0
    for i, row in enumerate(table.rows):
        tokens = cache.passages[int(row)]
        for j in range(int(table.sentences.offsets[i]), int(table.sentences.offsets[i + 1])):
            begin, end = table.sentences.values[j]
            sentence = text_of(tokenizer, tokens[begin:end])
            found[sentence] = []
            for a, b in table.spans[j]:
                answer = tokenizer.decode(table.answers[span].tolist())
                assert answer in text_of(tokenizer, tokens[a:b])
                found[sentence].append(answer)
                span += 1
    assert span == len(table.answers)
    everything = {s: [s[a:b] for a, b in salient(s)] for s in SENTENCES}
    expected = {s: spans for s, spans in everything.items() if spans}
    assert found.keys() == expected.keys()
    assert all(set(spans) <= set(expected[s]) for s, spans in found.items())
    assert max(len(spans) for spans in found.values()) > 1
    assert cache.manifest.pretraining["spans"] == span


def test_neighbours_share_words_and_no_passage_is_its_own(cache: Candidates) -> None:
    table = PretrainTable.load(cache.folder / "pretrain")
    titles = [title for _, title in cache.names]
    near = {
        titles[r]: [titles[n] for n in line if n >= 0] for r, line in zip(table.rows, table.neighbours, strict=True)
    }
    assert all(title not in others for title, others in near.items())
    assert "Cairo" in near["Nile"]
    assert table.neighbours.shape == (len(table), 3)


ASKED = {"1791": "year", "4 July 1225": "date", "2,850": "number", "Africa": "place", "Gustave Eiffel": "agent",
         "Henry Morton": "agent", "Wolfgang Mozart": "name", "Vienna": "place"}  # fmt: skip


def test_an_asked_question_begins_with_words_that_fit_its_answer(cache: Candidates, tokenizer: TextTokenizer) -> None:
    made = pretraining(cache, tokenizer, salient=0, asked=1, rebuild=0, word_dropout=0)
    seen = set()
    for example in draw(made, 400):
        question, answer = text_of(tokenizer, example.question), tokenizer.decode(example.target.tolist())
        assert question.startswith("question: ")
        assert "<extra_id_0>" not in question
        asked = question.removeprefix("question: ")
        kinds = {"place", "name"} if answer == "Vienna" else {ASKED[answer]} if answer in ASKED else set(QUESTION_WORDS)
        words = [word for kind in kinds for word in QUESTION_WORDS[kind]]
        bare = {s.replace(answer, "", 1).replace(" ", "") for s in SENTENCES}
        assert any(asked.removeprefix(w).replace(" ", "") in bare for w in words), (question, answer)
        seen.add(answer)
    assert seen >= set(ASKED)


def test_a_question_asks_by_the_class_of_its_answer(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    corpus = cases.write_corpus(tmp_path / "corpus.jsonl")
    options = PrepareOptions(out=tmp_path / "cache", corpus=(corpus,), max_sentence_tokens=110, class_articles=3)
    report = prepare(options, tokenizer)
    cache = Candidates.open(tmp_path / "cache", tokenizer=tokenizer)
    made = pretraining(cache, tokenizer, salient=0, asked=1, rebuild=0, word_dropout=0, class_share=1)
    asked = {
        (tokenizer.decode(e.target.tolist()), text_of(tokenizer, e.question).removeprefix("question: "))
        for e in draw(made, 400)
    }
    begins = {q.split(" capital")[0] for a, q in asked if a == "Vienna"}
    assert begins == {"which", "what", "in which", "in what"}  # it follows "near" and "in"
    assert {q.split(" ")[1] for a, q in asked if a == "Nile"} == {"river"}
    assert not any(q.startswith(("which capital", "which river")) for a, q in asked if a in ("1791", "Gustave Eiffel"))
    known = report.pretraining["spans_with_class"]
    assert 0 < known < report.pretraining["spans"]


def test_a_title_is_asked_for_with_the_words_of_its_passage(cache: Candidates, tokenizer: TextTokenizer) -> None:
    made = pretraining(cache, tokenizer, salient=0, asked=1, rebuild=0, word_dropout=0, title_share=1)
    seen = set()
    for example in draw(made, 200):
        answer = tokenizer.decode(example.target.tolist())
        question = text_of(tokenizer, example.question).removeprefix("question: ")
        (right,) = [text_of(tokenizer, p) for p, gold in zip(example.passages, example.gold, strict=True) if gold]
        assert right.startswith(f"{answer}: ")
        assert answer not in question
        title, sentence = BY_TITLE[answer].title, question.split(" ", 1)[1]
        sources = [s.replace(title, "") for s in SENTENCES if s in BY_TITLE[answer].text]
        assert any(sentence.split()[-2:] == s.split()[-2:] for s in sources), (question, sources)
        seen.add(answer)
    assert seen >= {"Nile", "Paris", "Vienna"}
    some = draw(pretraining(cache, tokenizer, salient=0, asked=1, rebuild=0, title_share=0.5), 400)
    titles = sum(tokenizer.decode(e.target.tolist()) in BY_TITLE for e in some)
    assert 0.4 < titles / len(some) < 0.7  # some spans are titles as well


def test_a_question_names_the_title_where_its_sentence_does_not(cache: Candidates, tokenizer: TextTokenizer) -> None:
    made = pretraining(cache, tokenizer, salient=0, asked=1, rebuild=0, word_dropout=0, named_share=1)
    named = set()
    for example in draw(made, 300):
        answer = tokenizer.decode(example.target.tolist())
        question = text_of(tokenizer, example.question)
        (right,) = [text_of(tokenizer, p) for p, gold in zip(example.passages, example.gold, strict=True) if gold]
        title = right.partition(":")[0]
        if title not in answer:
            assert question.count(title) == 1, question
            named.add((answer, title))
    assert named >= {("1791", "Vienna"), ("May 1953", "Everest")}


def test_long_titles_and_those_with_parentheses_are_not_asked_for(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    titles = {"Orion (ship)", " ".join(["long"] * 40)}
    passages = [replace(p, title=t) for p, t in zip(cases.PASSAGES, titles, strict=False)]
    corpus = cases.write_corpus(tmp_path / "corpus.jsonl", passages)
    prepare(PrepareOptions(out=tmp_path / "cache", corpus=(corpus,), max_sentence_tokens=110), tokenizer)
    cache = Candidates.open(tmp_path / "cache", tokenizer=tokenizer)
    made = pretraining(cache, tokenizer, salient=0, asked=1, rebuild=0, title_share=1, named_share=1)
    for example in draw(made, 60):
        assert tokenizer.decode(example.target.tolist()) not in titles
        assert "ship" not in text_of(tokenizer, example.question)


def test_questions_are_made_from_a_limited_number_of_passages(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    corpus = cases.write_corpus(tmp_path / "corpus.jsonl")
    options = PrepareOptions(out=tmp_path / "cache", corpus=(corpus,), max_sentence_tokens=110, pretrain_most=3)
    report = prepare(options, tokenizer)
    assert report.passages == len(cases.PASSAGES)
    assert report.pretraining["passages"] == 3


def test_a_salient_question_asks_for_what_is_masked(cache: Candidates, tokenizer: TextTokenizer) -> None:
    made = pretraining(cache, tokenizer, salient=1, rebuild=0, word_dropout=0)
    seen = set()
    for example in draw(made, 100):
        question, answer = text_of(tokenizer, example.question), tokenizer.decode(example.target.tolist())
        before, _, after = question.removeprefix("fill:").removeprefix(" ").partition("<extra_id_0>")
        before += " " * bool(before)  # the space before the mask went with it
        source = next(s for s in SENTENCES if s.startswith(before) and s.endswith(after))
        assert answer in source[len(before) : len(source) - len(after)]
        assert answer not in before + after
        right = [text_of(tokenizer, p) for p, gold in zip(example.passages, example.gold, strict=True) if gold]
        assert [source in text for text in right] == [True]
        assert example.target[-1] == tokenizer.config.eos_token_id
        assert all(p[-1] == tokenizer.config.eos_token_id for p in example.passages)
        assert len({text_of(tokenizer, p) for p in example.passages}) == 4
        seen.add(example.gold.index(True))
    assert seen == {0, 1, 2, 3}  # its place gives nothing away


def test_words_are_dropped_at_the_share_asked_and_never_the_mask(cache: Candidates, tokenizer: TextTokenizer) -> None:
    whole = draw(pretraining(cache, tokenizer, salient=1, rebuild=0, word_dropout=0), 200)
    short = draw(pretraining(cache, tokenizer, salient=1, rebuild=0, word_dropout=0.4), 200)
    words = [sum(len(text_of(tokenizer, e.question).split()) for e in of) for of in (whole, short)]
    assert 0.5 < words[1] / words[0] < 0.72  # prompt and mask, about 2 of 15 words, stay
    assert all("<extra_id_0>" in text_of(tokenizer, e.question) for e in short)
    assert draw(pretraining(cache, tokenizer, salient=1, rebuild=0, word_dropout=1), 1)[0].question.tolist()


def test_rebuild_gives_some_words_and_asks_for_all(cache: Candidates, tokenizer: TextTokenizer) -> None:
    made = pretraining(cache, tokenizer, salient=0, rebuild=1, keep_words=0.5)
    kept = total = 0
    for example in draw(made, 100):
        question, answer = text_of(tokenizer, example.question), text_of(tokenizer, example.target)
        assert answer in SENTENCES
        given = question.removeprefix("rebuild:").split()
        words = iter(answer.split())
        assert all(word in words for word in given)  # in the sentence's order
        kept, total = kept + len(given), total + len(answer.split())
    assert 0.45 < kept / total < 0.55
    one = draw(pretraining(cache, tokenizer, salient=0, rebuild=1, keep_words=0.0), 5)
    assert [len(text_of(tokenizer, e.question).split()) for e in one] == [2] * 5  # the prompt and one word


def test_span_corruption_can_be_undone(cache: Candidates, tokenizer: TextTokenizer) -> None:
    made = pretraining(cache, tokenizer, salient=0, rebuild=0, corrupt=1)
    whole = [p.tolist() for p in cache.passages]
    sentinels = {tokenizer.json.index(f"<extra_id_{i}>"): i for i in range(10)}
    assert len(sentinels) == 10
    first = min(i for i in range(300) if text_of(tokenizer, [i]) == "<extra_id_0>")
    for example in draw(made, 30):
        (passage,), target = example.passages, example.target[:-1].tolist()
        parts: dict[int, list[int]] = {}
        for token in target:
            if first <= token < first + 10:
                parts[token] = []
            else:
                parts[max(parts)].append(token)
        restored = [t for token in passage.tolist() for t in parts.get(token, [token])]
        assert restored in whole
        masked = len(target) - len(parts)
        assert masked == round(0.15 * (len(restored) - 1))
        assert (text_of(tokenizer, example.question), example.gold) == ("denoise:", [True])


def test_span_corruption_stays_within_target_and_passage(cache: Candidates, tokenizer: TextTokenizer) -> None:
    made = pretraining(cache, tokenizer, target=10, salient=0, rebuild=0, corrupt=1)
    for example in draw(made, 50, Difficulty(passages=1, passage_tokens=30, hardness=0)):
        assert len(example.target) <= 10
        assert len(example.passages[0]) <= 30


def test_noise_spans_are_t5s() -> None:
    for length in (2, 3, 10, 57, 200):
        spans = noise_spans(length, 0.15, 3.0, np.random.default_rng(length))
        assert sum(b - a for a, b in spans) == max(1, round(0.15 * length))
        assert all(a < b for a, b in spans)
        edges = [0, *(x for span in spans for x in span)]
        assert all(a < b for a, b in zip(edges[::2], edges[1::2], strict=False))  # a gap before each
        assert spans[-1][1] == length
        assert len(spans) == max(1, round(max(1, round(0.15 * length)) / 3))
    assert noise_spans(1, 0.15, 3.0, np.random.default_rng(0)) == [(0, 1)]
    assert noise_spans(0, 0.15, 3.0, np.random.default_rng(0)) == [(0, 0)]


@pytest.mark.parametrize("hardness", [1.0, 0.0])
def test_hardness_is_the_share_of_neighbours(cache: Candidates, tokenizer: TextTokenizer, hardness: float) -> None:
    table = PretrainTable.load(cache.folder / "pretrain")
    near = {int(r): {int(n) for n in line if n >= 0} for r, line in zip(table.rows, table.neighbours, strict=True)}
    rows = {tuple(p.tolist()): i for i, p in enumerate(cache.passages)}
    hits, by_chance = [], []
    for example in draw(
        pretraining(cache, tokenizer), 300, Difficulty(passages=2, passage_tokens=200, hardness=hardness)
    ):
        found = [rows[tuple(p.tolist())] for p in example.passages]
        source = found[example.gold.index(True)]
        if near[source]:  # a passage without any gets random ones
            hits += [row in near[source] for row in found if row != source]
            by_chance.append(len(near[source]) / (len(rows) - 1))
    assert len(hits) > 150
    assert np.mean(hits) == (1.0 if hardness else pytest.approx(np.mean(by_chance), abs=0.09))


def test_short_windows_hold_the_sentence_that_is_asked_about(cache: Candidates, tokenizer: TextTokenizer) -> None:
    table = PretrainTable.load(cache.folder / "pretrain")
    longest = int((table.sentences.values[:, 1] - table.sentences.values[:, 0]).max())
    easy = Difficulty(passages=2, passage_tokens=longest + 1, hardness=0)
    begins = set()
    for example in draw(pretraining(cache, tokenizer, salient=0, rebuild=1), 100, easy):
        right = example.passages[example.gold.index(True)]
        sentence, passage = text_of(tokenizer, example.target), text_of(tokenizer, right)
        assert sentence in passage
        begins.add(passage.index(sentence))
        assert {len(p) <= longest + 1 for p in example.passages} == {True}
    assert len(begins) > 5  # not always at the same place


def test_more_passages_than_there_are_gives_all(cache: Candidates, tokenizer: TextTokenizer) -> None:
    (example,) = draw(pretraining(cache, tokenizer), 1, Difficulty(passages=50, passage_tokens=200, hardness=1))
    assert len(example.passages) == len(cache.passages)


def test_an_example_depends_on_its_generator_alone(cache: Candidates, tokenizer: TextTokenizer) -> None:
    def plain(example: Example) -> Any:
        passages = [p.tolist() for p in example.passages]
        return example.task, example.question.tolist(), example.target.tolist(), passages, example.gold

    made = pretraining(cache, tokenizer, corrupt=0.5)
    first = [plain(e) for e in draw(made, 30)]
    again = [plain(made.example(np.random.default_rng([7, i]), WHOLE)) for i in reversed(range(30))]
    assert first == again[::-1]
    assert {task for task, *_ in first} == {"salient", "rebuild", "corrupt"}


def test_held_out_passages_are_asked_about_only_for_dev_scores(cache: Candidates, tokenizer: TextTokenizer) -> None:
    made = pretraining(cache, tokenizer, dev_questions=2)

    def source(example: Example) -> tuple[int, ...]:
        return tuple(example.passages[example.gold.index(True)].tolist())

    dev = {source(made.dev_example(n, np.random.default_rng(n), WHOLE)) for n in range(made.dev_size())}
    trained = {source(example) for example in draw(made, 300)}
    assert made.dev_size() == len(dev) == 2
    assert len(trained) == len(made) - 2
    assert not dev & trained
    assert pretraining(cache, tokenizer).dev_size() == 0


def test_settings_that_cannot_work_are_refused(cache: Candidates, tokenizer: TextTokenizer) -> None:
    for values, says in (
        ({"salient": 0, "rebuild": 0}, "must be above 0"),
        ({"rebuild": -1}, "at least 0"),
        ({"word_dropout": 1.5}, "between 0 and 1"),
        ({"title_share": -0.5}, "between 0 and 1"),
        ({"noise_span": 0.5}, "noise_span"),
        ({"corrupt": 0.5, "noise": 0.0}, "noise must be above 0"),
        ({"salient_prompt": "fill:"}, "salient_prompt"),
    ):
        with pytest.raises(ConfigError, match=says):
            PretrainSettings(**values)
    long = "fill what is masked in here: {question} " + "and so on " * 40
    for kind in ("salient", "corrupt"):
        with pytest.raises(ConfigError, match=f"{kind}_prompt has .* at most 120"):
            pretraining(cache, tokenizer, **{kind: 1, f"{kind}_prompt": long})
    pretraining(cache, tokenizer, asked_prompt=long)  # never asked
    without = TextTokenizer(tiny.tokenizer(), tokenizer.config)
    with pytest.raises(ConfigError, match="<extra_id_0>"):
        pretraining(cache, without)
    pretraining(cache, without, salient=0)
