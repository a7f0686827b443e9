"""Batches: mixed by weights, along a curriculum, the same for the same seed and number whatever came before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memstore.errors import CandidatesMismatch, CandidatesNotFound, ConfigError
from memstore.model.packed import Tokens
from memstore.model.tokens import TextTokenizer
from memstore.tables import read_table
from memstore.train.data.batch import Batch
from memstore.train.data.cache import Candidates
from memstore.train.data.curriculum import at
from memstore.train.data.mixture import MixedBatches, choose_candidates
from memstore.train.data.prepare import prepare
from memstore.train.data.prepare_options import PrepareOptions
from memstore.train.data.settings import DataSettings
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny
from tests.train.data import data_cases as cases

SETS = cases.QUESTIONS | {
    "zsre.train": [(f"Nile [SEP] number {i}", [f"{i}"], ["Nile"]) for i in range(9)],
    "long.other": [("which river of Africa is the longest", ["Ra", "river in Africa", "longest river in Africa"], [])],
    "fever.other": [("Berlin has a wall", ["SUPPORTS"], ["Rome"]), ("the Nile is in Cairo", ["REFUTES"], [])],
}
Source = Callable[..., MixedBatches]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training and dev sets with four candidates each, and sentences to pretrain on."""
    folder = tmp_path_factory.mktemp("batches")
    tiny.save_checkpoint(folder / "model")
    corpus = cases.write_corpus(folder / "corpus.jsonl")
    store, model = folder / "store", str(folder / "model")
    # "cut": passages stay as they were written, though the store's model reads fewer tokens than the cache keeps.
    build(BuildOptions(corpus=(corpus,), out=store, model=model, dtype="float32", on_long="cut"))
    tasks = cases.write_questions(folder, SETS)
    options = PrepareOptions(out=folder / "cache", store=store, tasks=tasks, k=4, neighbours=3, max_sentence_tokens=110)
    prepare(options, cases.tokenizer())
    return options.out


def open_batches(values: dict[str, Any], *, tokenizer: TextTokenizer, seed: int) -> MixedBatches:
    """Batches as a training config's `[data]` describes them."""
    settings = read_table(DataSettings, values, where="the training config", name="data")
    return MixedBatches(settings, tokenizer=tokenizer, seed=seed)


@pytest.fixture
def source(cache: Path) -> Source:
    def make(*, seed: int = 5, **data: Any) -> MixedBatches:
        return open_batches({"cache": str(cache), "questions": 16} | data, tokenizer=cases.tokenizer(), seed=seed)

    return make


def plain(batch: Batch) -> Any:
    def rows(tokens: Tokens) -> list[list[int]]:
        ends = tokens.layout.lengths.cumsum(0).tolist()
        return [tokens.ids[a:b].tolist() for a, b in pairwise([0, *ends])]

    tensors = (batch.question_of.tolist(), batch.targets.tolist(), batch.gold.tolist())
    return rows(batch.questions), rows(batch.passages), *tensors, batch.tasks


def test_a_batch_depends_on_seed_and_number_alone(source: Source) -> None:
    data: dict[str, Any] = {"pretrain_share": [[0, 0.5]], "choice": "sample", "passages": [[0, 2]], "answer": "random"}
    first = source(**data)
    in_order = [plain(first.batch(n)) for n in range(6)]
    with ThreadPoolExecutor(3) as threads:
        again = [plain(b) for b in threads.map(source(**data).batch, reversed(range(6)))]
    assert in_order == again[::-1]
    assert len({str(b) for b in in_order}) == 6
    assert plain(source(**data, seed=6).batch(0)) != in_order[0]


def test_short_passages_hold_the_answer_that_is_trained_on(source: Source) -> None:
    tokenizer = cases.tokenizer()
    data: dict[str, Any] = {"train": ["nq.train"], "answerable_only": True, "choice": "gold", "passages": [[0, 2]]}
    data |= {"window": "answer", "answer": "read", "passage_tokens": [[0, 48]]}
    asked, found = set(), set()
    for number in range(12):
        questions, passages, question_of, targets, gold, _ = plain(source(**data).batch(number))
        assert max(map(len, passages)) <= 48
        for row, passage in enumerate(passages):
            answer = tokenizer.decode(targets[question_of[row]])
            asked.add((tokenizer.decode(questions[question_of[row]]), answer))
            if gold[row]:
                found.add((answer, answer in tokenizer.decode(passage)))
    # no passage holds "the river Nile" or "Sir Edmund Hillary"
    assert {answer for _, answer in asked} == {"Nile", "Edmund Hillary"}
    assert found == {("Nile", True), ("Edmund Hillary", True)}


def test_the_answer_for_read_is_the_shortest_in_the_gold_passages_not_of_all(source: Source) -> None:
    def trained(**data: Any) -> set[str]:
        targets = plain(source(train=["long.other"], questions=4, **data).batch(0))[3]
        return {cases.tokenizer().decode(t) for t in targets}

    assert trained(answer="read") == {"river in Africa"}
    assert trained(answer="shortest") == {"Ra"}


def test_any_answer_in_the_gold_passages_may_be_trained_on(source: Source) -> None:
    batches = [plain(source(train=["long.other"], questions=8, answer="held").batch(step))[3] for step in range(4)]
    trained = {cases.tokenizer().decode(target) for targets in batches for target in targets}
    assert {"river in Africa"} < trained
    assert "Ra" not in trained


def test_an_answer_is_cut_to_its_limit_and_still_ends(source: Source) -> None:
    _, _, _, targets, _, _ = plain(source(train=["long.other"], answer="read", max_target_tokens=3).batch(0))
    assert {(len(t), t[-1]) for t in targets} == {(3, 1)}


@pytest.mark.parametrize(("wanted", "want"), [(0, range(9)), (2, (0, 4)), (4, (0, 2, 4, 6)), (10, range(9))])
def test_dev_questions_are_evenly_spread(source: Source, wanted: int, want: Sequence[int]) -> None:
    ids = [i for batch in source(dev=["zsre.train"], dev_questions=wanted).dev() for i in batch.ids]
    assert ids == [f"zsre.train-{n}" for n in want]


def test_claims_are_trained_on_without_their_page(source: Source) -> None:
    data: dict[str, Any] = {"train": ["fever.other"], "answerable_only": True, "choice": "gold"}
    _, _, _, targets, gold, _ = plain(source(**data).batch(0))
    assert not any(gold)
    assert {cases.tokenizer().decode(t) for t in targets} == {"SUPPORTS", "REFUTES"}


def test_words_of_questions_are_left_out_but_not_of_claims(source: Source) -> None:
    tokenizer, share = cases.tokenizer(), 0.3
    whole = {q for name in ("nq.train", "fever.other") for q, _, _ in SETS[name]}
    words: dict[str, list[int]] = {"nq": [], "fever": []}
    for number in range(12):
        batch = source(train=["nq.train", "fever.other"], word_dropout=share).batch(number)
        for question, task in zip(plain(batch)[0], batch.tasks, strict=True):
            text = tokenizer.decode(question)
            words[task].append(len(text.split()))
            assert task == "nq" or text.split(": ")[-1] in whole
    # the three questions have 7, 4 and 7 words
    assert abs(np.mean(words["nq"]) / 6 - (1 - share)) < 0.1
    assert plain(source(word_dropout=0).batch(0)) == plain(source().batch(0))


def test_a_task_question_comes_with_its_candidates_in_order(source: Source, cache: Path) -> None:
    opened = Candidates.open(cache)
    expected = {}
    for name in ("nq.train", "zsre.train"):
        s = opened.sets[name]
        for i in range(len(s)):
            rows = s.candidates[i][s.candidates[i] >= 0]
            gold = s.gold("either")[i, : len(rows)].tolist()
            key = tuple(s.questions[i].tolist())
            expected[key] = ([opened.passages[r].tolist() for r in rows], gold, s.answers_of(i)[0].tolist(), s.task)
    questions, passages, question_of, targets, gold, tasks = plain(source(gold="either").batch(0))
    for i, question in enumerate(questions):
        own = [r for r, q in enumerate(question_of) if q == i]
        target = [t for t in targets[i] if t != 0]
        got = ([passages[r] for r in own], [gold[r] for r in own], target, tasks[i])
        assert got == expected[tuple(question)]
    assert set(tasks) == {"nq", "zsre"}


def test_wrong_passages_may_be_any_of_the_cache_right_ones_stay(source: Source, cache: Path) -> None:
    opened = Candidates.open(cache)
    s = opened.sets["nq.train"]
    own = {tuple(s.questions[i]): {tuple(opened.passages[r]) for r in s.candidates[i] if r >= 0} for i in range(len(s))}

    def foreign(share: float) -> list[tuple[bool, bool]]:
        """For each passage of some batches: whether it is gold, and whether it is none of its question's candidates."""
        found = []
        for number in range(8):
            data: dict[str, Any] = {"train": ["nq.train"], "unrelated": share, "passages": [[0, 4]]}
            questions, passages, question_of, _, gold, _ = plain(source(**data).batch(number))
            for passage, question, right in zip(passages, question_of, gold, strict=True):
                found.append((right, tuple(passage) not in own[tuple(questions[question])]))
        return found

    assert not any(other for _, other in foreign(0.0))
    some, all_wrong = foreign(0.5), foreign(1.0)
    assert not any(other for right, other in some + all_wrong if right)
    counts = [sum(other for right, other in found if not right) for found in (some, all_wrong)]
    assert 0 < counts[0] < counts[1]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, {"nq": 0.5, "zsre": 0.5}),
        ({"mixture": "temperature", "temperature": 1.0}, {"nq": 0.25, "zsre": 0.75}),
        ({"mixture": "given", "weights": {"nq.train": 1, "zsre.train": 9}}, {"nq": 0.1, "zsre": 0.9}),
        ({"train": ["nq.train"]}, {"nq": 1.0}),
        ({"pretrain_share": [[0, 0.5]], "pretrain": {"salient": 1, "rebuild": 1}},
         {"nq": 0.25, "zsre": 0.25, "salient": 0.25, "rebuild": 0.25}),
        ({"pretrain_share": [[0, 1.0]], "pretrain": {"salient": 0, "rebuild": 0, "corrupt": 1}}, {"corrupt": 1.0}),
    ],
)  # fmt: skip
def test_mixture(source: Source, data: dict[str, Any], expected: dict[str, float]) -> None:
    made = source(**data, questions=500)
    counts = Counter(made.batch(3).tasks)
    assert {task: counts[task] / 500 for task in counts} == pytest.approx(expected, abs=0.07)


@pytest.mark.parametrize(
    ("points", "values"),
    [
        (((0, 8),), {0: 8, 10**6: 8}),
        (((10, 2), (20, 8)), {0: 2, 10: 2, 15: 5, 20: 8, 99: 8}),
        (((0, 1), (4, 0), (8, 0.5)), {1: 0.75, 4: 0, 6: 0.25, 9: 0.5}),
    ],
)
def test_schedules_are_linear_between_their_points(points: Any, values: dict[int, float]) -> None:
    assert {n: at(points, n) for n in values} == values


def test_the_curriculum_moves_lengths_and_numbers(source: Source) -> None:
    made = source(pretrain_share=[[0, 1.0]], passages=[[0, 2], [10, 5]], passage_tokens=[[0, 40], [10, 60]])
    for number, passages, tokens in ((0, 2, 40), (5, round(3.5), 50), (10, 5, 60), (99, 5, 60)):
        batch = made.batch(number)
        assert torch.bincount(batch.question_of).tolist() == [passages] * 16
        assert batch.passages.layout.longest == tokens


def test_a_question_without_candidates_gets_eos_for_a_passage(cache: Path, tmp_path: Path) -> None:
    tasks = cases.write_questions(tmp_path, {"nq.train": [("xyzzy", ["Nile"], [])]})
    options = PrepareOptions(out=tmp_path / "cache", store=cache.parent / "store", tasks=tasks, k=2, neighbours=0)
    prepare(options, cases.tokenizer())
    made = open_batches({"cache": str(options.out), "questions": 2}, tokenizer=cases.tokenizer(), seed=0)
    _, passages, question_of, _, gold, _ = plain(made.batch(0))
    assert (passages, question_of, gold) == ([[1], [1]], [0, 1], [False, False])
    with pytest.raises(ConfigError, match="no task is left"):
        open_batches({"cache": str(options.out), "answerable_only": True}, tokenizer=cases.tokenizer(), seed=0)


def test_answerable_only_leaves_out_questions_without_gold(source: Source) -> None:
    made = source(answerable_only=True, train=["nq.train"], questions=50)
    batch = made.batch(0)
    right = torch.zeros(50).index_add(0, batch.question_of, batch.gold.float())
    assert (right > 0).all()
    assert len({str(q) for q in plain(batch)[0]}) == 2
    assert len({str(q) for q in plain(source(train=["nq.train"], questions=50).batch(0))[0]}) == 3


def test_a_set_named_whole_keeps_its_questions_without_gold(source: Source) -> None:
    def questions(**data: Any) -> int:
        made = source(answerable_only=True, train=["nq.train", "zsre.train"], questions=80, **data)
        return len({str(q) for q in plain(made.batch(0))[0]})

    assert questions(whole=["nq.train"]) == questions() + 1  # of the three, one has no gold passage
    with pytest.raises(ConfigError, match=r"whole names trex\.train, which train does not"):
        questions(whole=["trex.train"])


def test_choose_candidates() -> None:
    gold = np.array([False, False, True, False, True])
    rng = np.random.default_rng(0)
    assert choose_candidates(gold, gold, 3, "first", rng).tolist() == [0, 1, 2]
    assert choose_candidates(gold, gold, 9, "gold", rng).tolist() == [0, 1, 2, 3, 4]
    assert choose_candidates(gold[:0], gold[:0], 3, "gold", rng).tolist() == []
    drawn = [choose_candidates(gold, gold, 2, "gold", rng).tolist() for _ in range(200)]
    assert all(a < b for a, b in drawn)
    assert all({2, 4} & set(d) for d in drawn)
    assert {i for d in drawn for i in d} == {0, 1, 2, 3, 4}
    sampled = Counter(i for _ in range(500) for i in choose_candidates(gold, gold, 2, "sample", rng).tolist())
    assert all(140 < sampled[i] < 260 for i in range(5))  # 200 each, give or take
    assert {tuple(choose_candidates(gold[:2], gold[:2], 1, "gold", rng)) for _ in range(50)} == {(0,), (1,)}


def test_the_best_gold_passage_is_the_first_that_is_proven() -> None:
    """Or the first of all: most passages with an answer's words in them do not answer."""
    gold, rng = np.array([False, True, True, False, True]), np.random.default_rng(0)
    nothing, proven = np.zeros(5, dtype=bool), np.array([False, False, False, False, True])
    for known, right in ((nothing, 1), (proven, 4)):
        assert {tuple(choose_candidates(gold, known, 1, "best", rng)) for _ in range(20)} == {(right,)}
        drawn = [choose_candidates(gold, known, 3, "best", rng).tolist() for _ in range(50)]
        assert all(right in row and row == sorted(row) for row in drawn)
        assert {i for row in drawn for i in row} == {0, 1, 2, 3, 4}


def test_max_tokens_leaves_out_questions_at_the_end(source: Source) -> None:
    whole, data = source().batch(0), {"max_tokens": 2000}
    cut = source(**data).batch(0)
    q, p = cut.questions.layout, cut.passages.layout
    assert int(q.lengths[cut.question_of].sum() + p.lengths.sum()) <= 2000
    assert 1 <= cut.size < 16
    n = cut.size
    assert plain(cut)[0] == plain(whole)[0][:n]
    assert cut.tasks == whole.tasks[:n]
    assert source(max_tokens=1).batch(0).size == 1  # never none


def test_fixed_length_gives_every_batch_one_shape(source: Source) -> None:
    data = {"passages": [[0, 3]], "passage_tokens": [[0, 50]], "question_tokens": 40, "max_target_tokens": 20}
    mixed = {"pretrain_share": [[0, 0.7]], "pretrain": {"salient": 1, "rebuild": 1, "corrupt": 1}}
    fixed, ragged = source(fixed_length=True, **data, **mixed), source(**data, **mixed)
    for number in range(3):
        batch, twin = fixed.batch(number), ragged.batch(number)
        assert batch.questions.layout.lengths.tolist() == [40] * 16
        assert batch.passages.layout.lengths.tolist() == [50] * 48
        assert tuple(batch.targets.shape) == (16, 20)
        assert set(batch.tasks) <= {"nq", "zsre", "salient", "rebuild", "corrupt"}
        assert twin.questions.layout.longest <= 40
        stripped = [[t for t in q if t != 0] for q in plain(batch)[0]]
        assert stripped == plain(twin)[0]  # the same questions, followed by pad tokens
        first = torch.tensor([plain(batch)[2].index(i) for i in range(16)])
        begins = [plain(twin)[2].index(i) for i in range(16)]
        without = [[t for t in plain(batch)[1][int(r)] if t != 0] for r in first]
        assert without == [plain(twin)[1][r] for r in begins]


def test_dev_covers_every_question_once_with_its_answers(source: Source) -> None:
    made = source(dev_batch=2, dev_passages=1)
    batches = list(made.dev())
    assert [b.size for b in batches] == [1, 2]  # sets by name
    ids = [name for b in batches for name in b.ids]
    assert ids == ["fever.dev-0", "nq.dev-0", "nq.dev-1"]
    assert [a for b in batches for a in b.answers] == [("SUPPORTS",), ("Wolfgang  MOZART",), ("Nile",)]
    assert [t for b in batches for t in b.tasks] == ["fever", "nq", "nq"]
    assert torch.bincount(batches[1].question_of).tolist() == [1, 1]
    assert batches[1].gold.tolist() == [True, False]
    again = list(made.dev())
    assert [plain(a) for a in batches] == [plain(b) for b in again]
    assert [b.ids for b in source(dev=["nq.dev"], dev_questions=1).dev()] == [("nq.dev-0",)]


def test_dev_asks_about_held_out_passages_where_pretraining_is_on(source: Source) -> None:
    made = source(
        dev=["fever.dev"], pretrain_share=[[0, 1.0]], pretrain={"dev_questions": 2}, passages=[[0, 2], [9, 4]]
    )
    _, salient = made.dev()
    assert salient.tasks == ("salient",) * salient.size
    assert salient.ids[0] == "salient-0"
    assert torch.bincount(salient.question_of).tolist() == [4] * salient.size  # the curriculum's end
    assert (
        torch.zeros(salient.size).index_add(0, salient.question_of, salient.gold.float()).tolist() == [1] * salient.size
    )
    tokenizer = cases.tokenizer()
    for target, answers in zip(salient.targets.tolist(), salient.answers, strict=True):
        assert tokenizer.decode(target) == answers[0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"more": 1}, "unknown key data.more"),
        ({"pretrain": {"more": 1}}, "unknown key data.pretrain.more"),
        ({"questions": 0}, "questions must be above 0"),
        ({"train": ["nq.trian"]}, "no question set 'nq.trian'; it has: fever.dev, fever.other, long.other"),
        ({"mixture": "given"}, "needs weights"),
        ({"weights": {"nq.train": 1}}, "with any other mixture"),
        ({"mixture": "given", "weights": {"webq.train": 1}}, "unknown task"),
        ({"passages": [[0, 2], [0, 3]]}, "must ascend"),
        ({"passages": [[0, 2, 3]]}, r"list of \[batch, value\]"),
        ({"hardness": [[0, 1.5]]}, "hardness must be between 0 and 1"),
        ({"fixed_length": True, "passages": [[0, 2], [5, 3]]}, "fixed_length needs constant"),
        ({"fixed_length": True, "passage_tokens": [[0, 256]]}, "exceed"),
        ({"max_target_tokens": 1}, "max_target_tokens"),
        ({"word_dropout": 2}, "word_dropout must be between 0 and 1"),
        ({"choice": "worst"}, "data.choice must be one of"),
    ],
)
def test_settings_that_cannot_work_are_refused(source: Source, data: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        source(**data)


def test_what_the_cache_lacks_is_named(tmp_path: Path, cache: Path) -> None:
    tokenizer = cases.tokenizer()
    with pytest.raises(CandidatesNotFound):
        open_batches({"cache": str(tmp_path)}, tokenizer=tokenizer, seed=0)
    with pytest.raises(CandidatesMismatch, match="passage_template"):
        open_batches({"cache": str(cache)}, tokenizer=cases.tokenizer(passage_template="{text}"), seed=0)
    corpus = cases.write_corpus(tmp_path / "corpus.jsonl")
    prepare(PrepareOptions(out=tmp_path / "plain", corpus=(corpus,), pretrain=False), tokenizer)
    with pytest.raises(ConfigError, match="no question set to train on"):
        open_batches({"cache": str(tmp_path / "plain")}, tokenizer=tokenizer, seed=0)
    with pytest.raises(ConfigError, match="prepared without pretraining"):
        open_batches({"cache": str(tmp_path / "plain"), "pretrain_share": [[0, 1.0]]}, tokenizer=tokenizer, seed=0)


def test_defaults_can_be_made_without_a_file(tmp_path: Path) -> None:
    settings = DataSettings(cache=tmp_path)
    assert settings.difficulty(7).passages == 8
