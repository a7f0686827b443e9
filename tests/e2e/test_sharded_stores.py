"""A store in shards answers as a store of all does: the same passages, scores and answers, for 1, 2 and 3 shards."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from memstore.answer import Answerer, Question
from memstore.errors import ConfigError, MissingData, StoreInShards
from memstore.retrieve.filters import Filter
from memstore.store import ShardedStore, Store, in_force, open_store
from memstore.store.describe import inspect
from memstore.store.shard_list import RULE, ShardList, shard_name, shard_of
from memstore_builders.add import AddOptions, add
from memstore_builders.build import build
from memstore_builders.change import delete
from memstore_builders.compact import compact
from memstore_builders.job import BuildOptions
from memstore_builders.shards import build_shards
from memstore_builders.verify_shards import verify_shards
from tests import tiny

TOLERANCE = 1e-3
"""Of scores, which are up to 8 here. Shards encode in other batches, whose sums round differently, int8 rounds them:
with seed 1 in two shards, 2 of 26,848 numbers have the code beside, and a score differs by 0.00016."""
FILTERS: list[dict[str, Any]] = [{"n": 1}, {"n": {"gte": 1}}, {"tag": {"exists": False}}]


def _corpus(path: Path, *, seed: int, count: int = 60) -> Path:
    """Documents of few words, so that many have one score; some say the same."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        text = ". ".join(
            " ".join(rng.choice(tiny.WORDS[13:31]) for _ in range(rng.randint(1, 6))) for _ in range(rng.randint(1, 3))
        )
        metadata = {"n": rng.randrange(3)} | ({"tag": "t"} if i % 7 == 0 else {})
        rows.append({"id": f"d{seed}-{i}", "title": rng.choice(tiny.WORDS[21:30]), "text": text, "metadata": metadata})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checkpoint(tmp_path_factory.mktemp("model") / "m", embedding_dim=8)


def _options(model: Path, corpus: Path, out: Path, retriever: Any) -> BuildOptions:
    return BuildOptions(corpus=(corpus,), out=out, model=str(model), dtype="float32", retriever=retriever, max_words=6)


def _questions(seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(tiny.WORDS[13:31]) for _ in range(n)) for n in (1, 1, 2, 3, 5)]


def _same(whole: Answerer, other: Answerer, questions: list[str]) -> None:
    for where in (None, *FILTERS):
        filters = None if where is None else [Filter.of(where)] * len(questions)
        for _ in range(2 if where else 1):  # a filter's second use takes another way
            expected, found = (a.retrieve(questions, 7, filters) for a in (whole, other))
            assert [[p.passage.id for p in own] for own in found] == [[p.passage.id for p in own] for own in expected]
            for one, two in zip(expected, found, strict=True):
                assert [p.retrieval_score for p in two] == pytest.approx(
                    [p.retrieval_score for p in one], rel=1e-5, abs=1e-6
                )
    asked = [Question(text, retrieve_k=9, keep_k=3, max_new_tokens=6) for text in questions]
    for one, two in zip(whole.answer(asked), other.answer(asked), strict=True):
        assert two.text == one.text
        assert two.score == pytest.approx(one.score, abs=TOLERANCE)
        scores = {p.passage.id: p.rerank_score for p in one.passages}
        assert {p.passage.id: p.rerank_score for p in two.passages} == pytest.approx(scores, abs=TOLERANCE)
        assert {p.passage.id for p in two.passages if p.kept} == {p.passage.id for p in one.passages if p.kept}


@pytest.mark.parametrize(("retriever", "seed"), [("bm25", 1), ("hybrid", 2), ("dense", 3)])
def test_a_store_in_shards_answers_as_a_store_of_all(tmp_path: Path, model: Path, retriever: str, seed: int) -> None:
    corpus = _corpus(tmp_path / "corpus.jsonl", seed=seed)
    build(_options(model, corpus, tmp_path / "whole", retriever))
    whole = Answerer.open(tmp_path / "whole")
    for count in (1, 2, 3):
        root = tmp_path / f"in{count}"
        report = build_shards(_options(model, corpus, root, retriever), count)
        assert report.passages == whole.store.live
        other = whole.over(root)
        assert isinstance(other.store, ShardedStore)
        assert len(other.store.shards) == count
        _same(whole, other, _questions(seed))
        assert [p.id for p in other.spread(5)] == [p.id for p in whole.spread(5)]
        assert other.passage(whole.spread(1)[0].id) == whole.spread(1)[0]


def test_a_shard_that_is_changed_is_found_and_left_out(tmp_path: Path, model: Path) -> None:
    corpus = _corpus(tmp_path / "corpus.jsonl", seed=4)
    root = tmp_path / "root"
    build_shards(_options(model, corpus, root, "hybrid"), 2)
    build(_options(model, corpus, tmp_path / "whole", "hybrid"))
    gone = [json.loads(line)["id"] for line in corpus.read_text(encoding="utf-8").splitlines()][:20]
    before = Answerer.open(root)
    for number in range(2):
        delete(root / shard_name(number), [i for i in gone if shard_of(i, 2) == number])
    delete(tmp_path / "whole", gone)
    after = before.reopened(try_with="the river")
    assert after is not None
    assert after.store.generation.number == 3
    _same(Answerer.open(tmp_path / "whole"), after, _questions(4))
    compact(root / shard_name(0))  # its rows are others from now on
    again = before.over(root)
    live = {p.passage.id for own in again.retrieve(_questions(4), 60) for p in own}
    assert live
    assert not live & {f"{i}:0" for i in gone}
    assert verify_shards(root, sample=4).sound


def test_commands_that_change_say_which_shard(tmp_path: Path, model: Path) -> None:
    corpus = _corpus(tmp_path / "corpus.jsonl", seed=5, count=12)
    root = tmp_path / "root"
    build_shards(_options(model, corpus, root, "bm25"), 2)
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"id": "new", "title": "Nile", "text": "the river"}) + "\n", encoding="utf-8")
    right, wrong = shard_name(shard_of("new", 2)), shard_name(1 - shard_of("new", 2))
    for change in (lambda: add(AddOptions(store=root, corpus=(more,))), lambda: delete(root, ["new"]),
                   lambda: compact(root), lambda: Store.open(root)):  # fmt: skip
        with pytest.raises(StoreInShards, match="shard-000"):
            change()
    with pytest.raises(ConfigError, match=f"to {right}: nothing was added"):
        add(AddOptions(store=root / wrong, corpus=(more,)))
    with_field = tmp_path / "field.jsonl"
    with_field.write_text(json.dumps({"id": "new", "text": "the river", "metadata": {"lang": "en"}}) + "\n")
    with pytest.raises(ConfigError, match="fields lang, which this store in shards has not: nothing was added"):
        add(AddOptions(store=root / right, corpus=(with_field,)))
    add(AddOptions(store=root / right, corpus=(more,)))
    assert in_force(root).number == 2
    assert open_store(root).contains("new:0")
    assert inspect(root)["rule"] == RULE
    assert list(inspect(root)["shards"]) == ["shard-000", "shard-001"]
    assert ShardList.read(root).of("new") == right


def test_what_is_missing_or_cannot_be_built_is_said(tmp_path: Path, model: Path) -> None:
    corpus = _corpus(tmp_path / "corpus.jsonl", seed=6, count=4)
    with pytest.raises(ConfigError, match="would hold no passage"):
        build_shards(_options(model, corpus, tmp_path / "many", "bm25"), 50)
    root = tmp_path / "root"
    build_shards(_options(model, corpus, root, "bm25"), 2)
    with pytest.raises(ConfigError, match="store in shards"):
        build(_options(model, corpus, root, "bm25"))
    (root / "shard-001").rename(root / "elsewhere")
    with pytest.raises(MissingData, match="shard-001"):
        open_store(root)
    assert [one.kind for one in verify_shards(root, sample=0).problems] == ["StoreNotFound"]
