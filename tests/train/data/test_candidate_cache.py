"""The cache of training data: its content, what it was made from, and the errors of a damaged one."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memstore import checkpoint, cli
from memstore.errors import CandidatesCorrupt, CandidatesMismatch, CandidatesNotFound, ConfigError, CorpusError
from memstore.model.embedding import MemoryTextEncoder
from memstore.model.tokens import TextTokenizer
from memstore.retrieve.open import open_retriever
from memstore.store import Store
from memstore.train.data.cache import ANSWER, TITLE, Candidates
from memstore.train.data.prepare import model_tokenizer, prepare
from memstore.train.data.prepare_options import PrepareOptions
from memstore.train.data.question_sets import QuestionSetBuilder
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny
from tests.train.data import data_cases as cases

K = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a store of the cases' passages, and question files."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = cases.tokenizer()
    model = tiny.model(**{name: getattr(tokenizer.config, name)
                          for name in ("max_passage_tokens", "max_question_tokens", "passage_template")})  # fmt: skip
    checkpoint.save(folder / "model", model, tokenizer)
    corpus = cases.write_corpus(folder / "corpus.jsonl")
    build(BuildOptions(corpus=(corpus,), out=folder / "store", model=str(folder / "model"), dtype="float32"))
    return folder


@pytest.fixture(scope="module")
def options(root: Path) -> PrepareOptions:
    tasks = cases.write_questions(root, cases.QUESTIONS)
    return PrepareOptions(out=root / "cache", store=root / "store", tasks=tasks, k=K, neighbours=3)


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> TextTokenizer:
    return model_tokenizer(root / "model")


@pytest.fixture(scope="module")
def cache(options: PrepareOptions, tokenizer: TextTokenizer) -> Candidates:
    prepare(options, tokenizer)
    return Candidates.open(options.out, tokenizer=tokenizer)


@pytest.fixture
def fresh(options: PrepareOptions, tmp_path: Path) -> PrepareOptions:
    return dataclasses.replace(options, out=tmp_path / "cache")


def test_a_set_may_have_a_name_that_is_not_utf8(root: Path, fresh: PrepareOptions, tokenizer: TextTokenizer) -> None:
    prepare(dataclasses.replace(fresh, tasks={"caf\udce9.train": (root / "nq.train.jsonl",)}), tokenizer)
    assert [s.name for s in Candidates.open(fresh.out).sets.values()] == ["caf\udce9.train"]


def test_candidates_are_the_retrievers_hits_in_its_order(cache: Candidates, root: Path) -> None:
    retriever = open_retriever(Store.open(root / "store"))
    for name, rows in cases.QUESTIONS.items():
        hits = retriever.search([question for question, _, _ in rows], K)
        got = [[cache.names[r][0] for r in line if r >= 0] for line in cache.sets[name].candidates]
        assert got == [[h.passage_id for h in of] for of in hits]
    assert (cache.sets["nq.dev"].candidates[1] == -1).all()  # a word that no passage holds finds nothing


@pytest.mark.parametrize("retriever", ["dense", "hybrid"])
def test_candidates_by_the_vectors_of_the_model_that_built_the_store(
    options: PrepareOptions, root: Path, tmp_path: Path, retriever: Any
) -> None:
    tokenizer = model_tokenizer(root / "model")
    shape = {name: getattr(tokenizer.config, name)
             for name in ("max_passage_tokens", "max_question_tokens", "passage_template")}  # fmt: skip
    model = tiny.model(embedding_dim=8, **shape)
    checkpoint.save(tmp_path / "model", model, tokenizer)
    store = tmp_path / "store"
    build(BuildOptions(corpus=(root / "corpus.jsonl",), out=store, model=str(tmp_path / "model"), dtype="float32",
                       retriever=retriever))  # fmt: skip
    fresh = dataclasses.replace(options, out=tmp_path / "cache", store=store, pretrain=False)
    prepare(fresh, tokenizer)  # of another model, which is trained
    made = Candidates.open(fresh.out)
    encoder = MemoryTextEncoder(*checkpoint.load(tmp_path / "model", dtype=torch.float32))
    asked = [question for question, _, _ in cases.QUESTIONS["nq.dev"]]
    hits = open_retriever(Store.open(store), memory_encoder=encoder).search(asked, K)
    got = [[made.names[r][0] for r in line if r >= 0] for line in made.sets["nq.dev"].candidates]
    assert got == [[h.passage_id for h in of] for of in hits]


def test_token_ids_are_those_of_the_model(cache: Candidates, tokenizer: TextTokenizer) -> None:
    passages = {p.id: p for p in cases.PASSAGES}
    expected = tokenizer.passages([passages[name] for name, _ in cache.names])
    assert [p.tolist() for p in cache.passages] == [ids.tolist() for ids in expected]
    assert cache.passages.values.dtype == np.uint16
    assert [title for _, title in cache.names] == [passages[name].title for name, _ in cache.names]
    train = cache.sets["nq.train"]
    rows = cases.QUESTIONS["nq.train"]
    assert [q.tolist() for q in train.questions] == [q.tolist() for q in tokenizer.questions([r[0] for r in rows])]
    for i, (_, answers, _) in enumerate(rows):
        expected = tokenizer.encode_answers(answers, max_tokens=32)
        assert [a.tolist() for a in train.answers_of(i)] == [a.tolist() for a in expected]
    assert train.texts() == [(f"nq.train-{i}", q, tuple(a)) for i, (q, a, _) in enumerate(rows)]
    assert (train.task, train.name, len(train)) == ("nq", "nq.train", 3)


def test_marks_say_where_an_answer_or_its_page_is(cache: Candidates) -> None:
    def marks(name: str, i: int) -> dict[str, int]:
        line = zip(cache.sets[name].candidates[i], cache.sets[name].marks[i], strict=True)
        return {cache.names[r][1]: int(m) for r, m in line if r >= 0}

    found = marks("nq.train", 0)
    assert found.pop("Nile") == ANSWER
    assert found.pop("Cairo", ANSWER) == ANSWER  # "the river Nile" is there too
    assert not any(found.values())
    assert {t for t, m in marks("nq.train", 1).items() if m} == {"Everest"}
    assert not any(marks("nq.train", 2).values())
    assert {t for t, m in marks("nq.dev", 0).items() if m} == {"Vienna"}  # spaces and case do not count
    # A verdict cannot be searched for: the page counts as an answer.
    assert {t: m for t, m in marks("fever.dev", 0).items() if m} == {"Berlin": ANSWER | TITLE}
    fever = cache.sets["fever.dev"]
    assert fever.gold("answer").sum() == fever.gold("title").sum() == 1
    assert cache.sets["nq.train"].gold("title").sum() == 0
    with pytest.raises(ConfigError, match="answer, title, either"):
        fever.gold("both")  # type: ignore[arg-type]


def test_the_report_counts_answerable_questions(cache: Candidates) -> None:
    reports = cache.manifest.sets
    assert reports["nq.train"].answerable == round(2 / 3, 4)
    assert (reports["nq.dev"].answerable, reports["nq.dev"].first) == (0.5, 0.5)
    assert (reports["fever.dev"].answerable, reports["fever.dev"].gold) == (1.0, 1.0)


def test_shares_are_of_all_questions_by_the_marks_of_their_hits() -> None:
    built = QuestionSetBuilder(k=2)
    for marks in ([TITLE, ANSWER], [TITLE], [], [ANSWER]):
        built.count(marks)
    report = built.report()
    assert (report.answerable, report.gold, report.first, report.candidates) == (0.5, 0.75, 0.25, 1.0)


def test_unanswerable_training_questions_can_be_left_out(fresh: PrepareOptions, tokenizer: TextTokenizer) -> None:
    report = prepare(dataclasses.replace(fresh, keep_unanswerable=0.0), tokenizer)
    train, dev = report.sets["nq.train"], report.sets["nq.dev"]
    assert (train.questions, train.left_out, train.answerable) == (2, 1, round(2 / 3, 4))
    assert (dev.questions, dev.left_out) == (2, 0)  # dev sets stay whole
    kept = Candidates.open(fresh.out).sets["nq.train"].texts()
    assert [question for _, question, _ in kept] == [q for q, _, _ in cases.QUESTIONS["nq.train"][:2]]


def test_synthetic_questions_keep_what_supports_them(
    fresh: PrepareOptions, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    """The same questions three times: whole, without chance hits, and without their own page too."""
    rows = [
        ("what is Cairo with its Fatimid rulers founded near", ["Nile"], ["Cairo"]),
        ("which tower is the largest in Asia", ["Paris"], ["Everest"]),  # Paris is elsewhere, by chance
    ]
    names = ("all.train", "own.train", "cross.train")
    options = dataclasses.replace(
        fresh,
        tasks=cases.write_questions(tmp_path, dict.fromkeys(names, rows)),
        k=8,
        supported=frozenset({"own.train", "cross.train"}),
        elsewhere=frozenset({"cross.train"}),
    )
    report = prepare(options, tokenizer)
    sets = Candidates.open(options.out).sets
    titles = [title for _, title in Candidates.open(options.out).names]

    def right(name: str) -> list[set[str]]:
        rows = zip(sets[name].candidates, sets[name].marks, strict=True)
        return [{titles[c] for c, m in zip(found, marks, strict=True) if m & ANSWER} for found, marks in rows]

    assert right("all.train") == [{"Nile", "Cairo"}, {"Paris"}]
    assert right("own.train") == [{"Cairo"}]
    assert right("cross.train") == []
    assert (report.sets["own.train"].questions, report.sets["own.train"].left_out) == (1, 1)
    with pytest.raises(CandidatesMismatch) as caught:
        prepare(dataclasses.replace(options, elsewhere=frozenset()), tokenizer)
    assert list(caught.value.differences) == ["screens[cross.train]"]


def test_preparing_again_does_nothing_and_elsewhere_gives_the_same_bytes(
    cache: Candidates, options: PrepareOptions, fresh: PrepareOptions, tokenizer: TextTokenizer
) -> None:
    assert prepare(options, tokenizer).already
    assert not prepare(fresh, tokenizer).already

    def content(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert content(fresh.out) == content(options.out)
    assert {p.name for p in fresh.out.parent.iterdir()} == {"cache"}
    assert not (fresh.out / ".part").exists()


def test_passages_count_without_pretraining_too(fresh: PrepareOptions, tokenizer: TextTokenizer) -> None:
    few = dataclasses.replace(fresh, tasks={}, pretrain=False, pretrain_passages=2)
    assert prepare(few, tokenizer).passages == 2
    with pytest.raises(CandidatesMismatch) as caught:
        prepare(dataclasses.replace(few, pretrain_passages=4), tokenizer)
    assert list(caught.value.differences) == ["pretraining[pretrain_passages]"]


def test_a_cache_made_from_something_else_is_refused_by_part(
    cache: Candidates, options: PrepareOptions, tokenizer: TextTokenizer, tmp_path: Path, root: Path
) -> None:
    other = cases.write_questions(tmp_path, {"nq.train": [("who?", ["Ann"], [])]})
    corpus = cases.write_corpus(tmp_path / "few.jsonl", cases.PASSAGES[:5])
    build(BuildOptions(corpus=(corpus,), out=tmp_path / "store", model=str(root / "model"), dtype="float32"))
    changed: dict[str, tuple[PrepareOptions, TextTokenizer]] = {
        "k": (dataclasses.replace(options, k=3), tokenizer),
        "tasks[nq.train]": (dataclasses.replace(options, tasks={**options.tasks, **other}), tokenizer),
        "pretraining[neighbours]": (dataclasses.replace(options, neighbours=2), tokenizer),
        "keep_unanswerable": (dataclasses.replace(options, keep_unanswerable=0.5), tokenizer),
        "passage_template": (options, cases.tokenizer(passage_template="{text}")),
        "max_passage_tokens": (options, cases.tokenizer(max_passage_tokens=100)),
        "question_templates[nq]": (options, cases.tokenizer(tasks={"nq": "q: {question}"})),
        "passages, retriever": (dataclasses.replace(options, store=tmp_path / "store"), tokenizer),
    }
    for parts, (asked, with_tokenizer) in changed.items():
        with pytest.raises(CandidatesMismatch) as caught:
            prepare(asked, with_tokenizer)
        assert ", ".join(caught.value.differences) == parts
        assert parts.split(",")[0] in str(caught.value)
    with pytest.raises(CandidatesMismatch, match="k: the cache has 4, asked for is 3"):
        cache.require(dataclasses.replace(cache.manifest.fingerprint, k=3))
    cache.require(cache.manifest.fingerprint)


def test_another_models_token_ids_are_refused(cache: Candidates) -> None:
    plain = TextTokenizer(tiny.tokenizer(), cases.tokenizer().config)  # no sentinels: another tokenizer
    with pytest.raises(CandidatesMismatch, match="tokenizer"):
        Candidates.open(cache.folder, tokenizer=plain)
    with pytest.raises(CandidatesMismatch, match="max_passage_tokens: the cache has 200, asked for is 100"):
        Candidates.open(cache.folder, tokenizer=cases.tokenizer(max_passage_tokens=100))
    Candidates.open(cache.folder, tokenizer=cases.tokenizer(max_passage_tokens=300))  # shorter ones fit


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _manifest(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(values | changes))


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (lambda f: _flip(f / "passages.npy"), CandidatesCorrupt, "passages.npy is damaged"),
        (lambda f: _flip(f / "sets/nq.dev/marks.npy"), CandidatesCorrupt, "marks.npy is damaged"),
        (lambda f: (f / "pretrain/rows.npy").unlink(), CandidatesCorrupt, "rows.npy cannot be read"),
        (lambda f: (f / "manifest.json").unlink(), CandidatesNotFound, "no finished training data"),
        (lambda f: (f / "manifest.json").write_text("{"), CandidatesCorrupt, "manifest.json cannot be used"),
        (lambda f: _manifest(f, format_version=2), CandidatesCorrupt, "format 2"),
        (lambda f: _manifest(f, more=1), CandidatesCorrupt, "more"),
        (lambda f: _manifest(f, passages=3), CandidatesCorrupt, "its manifest says"),
    ],
)
def test_every_damage_is_reported(
    cache: Candidates, tmp_path: Path, damage: Any, error: type[Exception], says: str
) -> None:
    folder = tmp_path / "cache"
    for path in (p for p in cache.folder.rglob("*") if p.is_file()):
        (folder / path.relative_to(cache.folder)).parent.mkdir(parents=True, exist_ok=True)
        (folder / path.relative_to(cache.folder)).write_bytes(path.read_bytes())
    Candidates.open(folder)
    damage(folder)
    with pytest.raises(error, match=says):
        Candidates.open(folder)


def test_impossible_options_are_refused(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    for values, says in (
        ({}, "nothing to prepare"),
        ({"store": tmp_path}, "name question files"),
        ({"tasks": {"nq.train": ()}}, "come from a store"),
        ({"store": tmp_path, "k": 0}, "k and most_spans"),
        ({"store": tmp_path, "keep_unanswerable": 2.0}, "keep_unanswerable"),
        ({"store": tmp_path, "support": 0.0}, "support must be"),
        ({"store": tmp_path, "elsewhere": frozenset({"x.train"})}, "no question set is named 'x.train'"),
        ({"store": tmp_path, "tasks": {"nq": ()}}, "<task>.<split>"),
        ({"store": tmp_path, "tasks": {"../x.train": ()}}, "<task>.<split>"),
    ):
        with pytest.raises(ConfigError, match=says):
            PrepareOptions(out=tmp_path / "c", **values)
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "file").touch()
    options = PrepareOptions(out=tmp_path / "busy", corpus=(cases.write_corpus(tmp_path / "corpus.jsonl"),))
    with pytest.raises(ConfigError, match="holds other files"):
        prepare(options, tokenizer)
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": 1, "text": "x"}\n{"id": 1, "text": "y"}\n')
    with pytest.raises(CorpusError, match=r"bad.jsonl:2: another passage has the id '1'"):
        prepare(PrepareOptions(out=tmp_path / "new", corpus=(path,)), tokenizer)
    assert not list(tmp_path.glob("new*"))  # nothing unfinished stays


@pytest.mark.parametrize("name", ["names.jsonl.gz", "manifest.json", "passages.npy", "sets/nq.dev/marks.npy"])
def test_vectors_are_not_written_over_a_file_of_their_cache(
    cache: Candidates, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache.folder / name
    before = path.read_bytes()
    monkeypatch.setattr(
        "sys.argv", ["memstore", "vectors", "--cache", str(cache.folder), "--width", "4", "--out", str(path)]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert path.read_bytes() == before


def test_a_cache_is_read_without_stores_and_retrievers(cache: Candidates) -> None:
    script = (
        "import sys\n"
        "from memstore.train.data.mixture import MixedBatches\n"
        "from memstore.train.data.cache import Candidates\n"
        f"assert len(Candidates.open({str(cache.folder)!r}).sets) == 3\n"
        "heavy = {'zarr', 'faiss', 'tantivy', 'tensorstore', 'zstandard', 'transformers', 'memstore.store'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
