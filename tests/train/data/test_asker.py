"""Training data of an asker; what it asks about a store, what a reader lets through, and what a killed run leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from memstore import checkpoint, cli
from memstore.decode.sampling import Sampling
from memstore.decode.search import generate
from memstore.errors import CandidatesMismatch, ConfigError, DataNotFound, DataUnreadable, RequestError
from memstore.model.packed import Tokens
from memstore.passage import Passage
from memstore.questions.answers import holds, normalise
from memstore.train.data import generate as generate_module
from memstore.train.data.answer_spans import choose_answers, word_runs
from memstore.train.data.asker import AskerOptions, answering, prepare_asker
from memstore.train.data.asking import Writer, Written
from memstore.train.data.cache import ANSWER, TITLE, Candidates
from memstore.train.data.generate import CHUNKS, QUESTIONS, GenerateOptions, generate_questions
from memstore.train.data.mixture import MixedBatches
from memstore.train.data.prepare import prepare
from memstore.train.data.prepare_options import PrepareOptions
from memstore.train.data.settings import DataSettings
from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny
from tests.train.data import data_cases as cases

TASKS = {"ask": "ask: {question}", "search": "search: {question}"}
LONG = " It is a place of which much more is said in books and in letters by people who went there long ago."
PASSAGES = [Passage(p.id, p.id, p.title, p.text + LONG, end=len(p.text + LONG)) for p in cases.PASSAGES]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an asker, a reader, a store and a cache."""
    folder, tokenizer = tmp_path_factory.mktemp("asker"), cases.tokenizer()
    shared = {
        n: getattr(tokenizer.config, n) for n in ("max_passage_tokens", "max_question_tokens", "passage_template")
    }
    checkpoint.save(folder / "reader", tiny.model(**shared), tokenizer)
    checkpoint.save(folder / "asker", tiny.model(1, **shared, system="fid", alpha=1.0, tasks=TASKS), tokenizer)
    corpus, store = cases.write_corpus(folder / "corpus.jsonl", PASSAGES), folder / "store"
    build(BuildOptions(corpus=(corpus,), out=store, model=str(folder / "reader"), dtype="float32", on_long="cut"))
    tasks = cases.write_questions(folder, cases.QUESTIONS)
    prepare(PrepareOptions(out=folder / "cache", store=store, tasks=tasks, k=4, pretrain=False), tokenizer)
    return folder


# --- the asker's training data ------------------------------------------------------------------------------


def test_an_example_is_a_prompt_a_window_and_the_question(root: Path, tmp_path: Path) -> None:
    tokenizer = cases.tokenizer(tasks=TASKS)
    options = AskerOptions(cache=root / "cache", out=tmp_path / "out", styles={"ask": ("nq.train",)}, passage_tokens=60)
    report = prepare_asker(options, tokenizer)
    assert (report.examples, report.questions, report.already) == ({"ask": 2}, {"ask": 3}, False)
    settings = DataSettings(cache=options.out, dev=("ask.train",), questions=8, choice="best", answerable_only=True)
    batch = MixedBatches(settings, tokenizer=tokenizer, seed=0).batch(0)
    assert set(batch.tasks) == {"ask"}
    assert bool(batch.gold.all())
    begin, found = 0, set()
    for row, (question, length) in enumerate(
        zip(batch.questions.layout.lengths.tolist(), batch.passages.layout.lengths.tolist(), strict=True)
    ):
        del question
        passage = tokenizer.decode(batch.passages.ids[begin : begin + length].tolist())
        begin += length
        assert length <= 60
        found.add((tokenizer.decode(batch.targets[row].tolist()), passage.partition(":")[0], "Hillary" in passage))
    assert {("who first climbed Everest", "Everest", True)} <= found
    assert {text for text, *_ in found} == {"who first climbed Everest", "which river of Africa is the longest"}
    texts = Candidates.open(options.out).sets["ask.train"].texts()
    assert {(answer, *question) for _, answer, question in texts} == {
        ("Edmund Hillary", "who first climbed Everest"), ("Nile", "which river of Africa is the longest"),
    }  # fmt: skip
    prompts = Candidates.open(options.out).sets["ask.train"].questions
    assert {tokenizer.decode(p.tolist()) for p in prompts} == {"ask: Edmund Hillary", "ask: Nile"}
    assert prepare_asker(options, tokenizer).already
    with pytest.raises(CandidatesMismatch, match=r"tasks\[ask\.train\]"):
        prepare_asker(AskerOptions(cache=options.cache, out=options.out, styles=options.styles, seed=1), tokenizer)


@pytest.mark.parametrize(
    ("marks", "want"),
    [([0, 1, 3, 3], 2), ([2, 1, 0, 1], 1), ([1] * 4, -1), ([2, 0, 0, 0], -1), ([0] * 8 + [1], -1)],
)
def test_which_passage_answers(root: Path, marks: list[int], want: int) -> None:
    questions = Candidates.open(root / "cache").sets["nq.train"]
    object.__setattr__(questions, "marks", np.array([marks], dtype=np.uint8))
    assert answering(questions, 0) == want


def test_mistakes_of_the_data(root: Path, tmp_path: Path) -> None:
    def made(**styles: tuple[str, ...]) -> Any:
        return prepare_asker(AskerOptions(cache=root / "cache", out=tmp_path, styles=styles), cases.tokenizer())

    for styles, message in (
        ({}, "nothing to make"),
        ({"ask": ("trex.train",)}, r"no question set trex\.train; it has: fever\.dev"),
        ({"a style": ("nq.train",)}, "a style is one word"),
        ({"ask": ("fever.dev",)}, r"no passage of fever\.dev is known"),
    ):
        with pytest.raises(ConfigError, match=message):
            made(**styles)


# --- answers to ask for -------------------------------------------------------------------------------------


def test_runs_of_words() -> None:
    sentence = "The old stone bridge was quickly rebuilt with grey granite blocks and iron bars of the Ottoman army."
    assert [sentence[a:b] for a, b in word_runs(sentence)] == [
        "old stone bridge", "rebuilt", "grey granite blocks", "iron bars", "army",
    ]  # fmt: skip


def test_answers_are_of_both_kinds_different_and_in_the_text() -> None:
    text = (
        "The Danube is a river in Europe of 2,850 kilometres. It was crossed near Vienna by the army of Marcus in May "
        "1953. Large grey stones and tall trees stand on the banks, where 40 million people lived."
    )
    drawn = [choose_answers(text, Random(seed), most=4) for seed in range(60)]
    answers = [a for chosen in drawn for a in chosen]
    assert all(len({normalise(a) for a in chosen}) == 4 for chosen in drawn)
    assert all(a in text and 1 <= len(normalise(a).split()) <= 6 for a in answers)
    salient = sum(a[0].isupper() or a[0].isdigit() for a in answers) / len(answers)
    assert 0.45 < salient < 0.75
    assert {"Vienna", "May 1953", "banks", "40", "40 million people"} <= {*answers}
    assert {len(a.split()) for a in answers} >= {1, 2, 3}
    assert drawn[7] == choose_answers(text, Random(7), most=4)
    assert choose_answers("", Random(0), most=2) == []


# --- sampling -----------------------------------------------------------------------------------------------


def test_sampled_tokens_follow_the_distribution_and_the_seed() -> None:
    log_probs = torch.tensor([[0.7, 0.2, 0.1]]).log().expand(4000, 3)

    def shares(temperature: float) -> list[float]:
        sampling = Sampling(temperature=temperature, generator=torch.Generator().manual_seed(3))
        own, token = sampling.draw(log_probs)
        assert torch.equal(own, log_probs[0][token])
        found: list[float] = (torch.bincount(token, minlength=3) / 4000).tolist()
        return found

    assert shares(1.0) == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
    assert shares(0.5) == pytest.approx([0.49 / 0.54, 0.04 / 0.54, 0.01 / 0.54], abs=0.03)
    assert shares(1e-3) == [1.0, 0.0, 0.0]
    with pytest.raises(RequestError, match="above 0, not 0"):
        Sampling(temperature=0, generator=torch.Generator())


def test_searching_with_a_low_temperature_is_greedy_and_beams_do_not_sample() -> None:
    model = tiny.model(system="fid", alpha=1.0)
    rows = model.live_a(
        model.encode_question(Tokens.of([[5, 6], [7, 8, 9]])),
        model.encode_passages(Tokens.of([[11, 12, 1], [13, 1]])),
        torch.arange(2),
    )
    encoded = model.live_b(rows)

    def answers(temperature: float, seed: int) -> list[list[int]]:
        sampling = Sampling(temperature=temperature, generator=torch.Generator().manual_seed(seed))
        return [d.ids for d in generate(model, encoded, max_new_tokens=6, sampling=sampling)]

    assert answers(1e-4, 0) == [d.ids for d in generate(model, encoded, max_new_tokens=6)]
    assert answers(5.0, 1) == answers(5.0, 1) != answers(5.0, 2)
    with pytest.raises(RequestError, match="sample with one beam"):
        generate(model, encoded, max_new_tokens=2, num_beams=2,
                 sampling=Sampling(temperature=1, generator=torch.Generator()))  # fmt: skip


# --- generation ---------------------------------------------------------------------------------------------


class _Scripted(Writer):
    """Writes what a function makes of prompt and passage: random weights write nothing that could be kept."""

    def __init__(self, folder: Path, reply: Any) -> None:
        super().__init__(*checkpoint.load(folder, dtype=torch.float32))
        self.reply, self.calls, self.log_prob = reply, 0, -0.25

    def write(self, prompts: Sequence[Any], passages: Sequence[Passage], **rest: Any) -> list[Written]:
        self.calls += 1
        texts = [self.tokenizer.decode(p.tolist()) for p in prompts]
        return [Written(self.reply(t, p), self.log_prob, finished=True) for t, p in zip(texts, passages, strict=True)]


def _asks(prompt: str, passage: Passage) -> str:
    """A question that says which answer it wants by the place of its letters, so that a reader can find it."""
    answer = prompt.partition(": ")[2]
    return {"4 July 1225": "when?", "Vienna": "is it the city of Vienna then"}.get(
        answer, f"what stands at {passage.text.find(answer)} to {len(answer)} of {passage.title}"
    )


def _reads(prompt: str, passage: Passage) -> str:
    begin, length = (int(word) for word in prompt.split() if word.isdigit())
    text = passage.text[begin : begin + length]
    return "another" if text[0].islower() else f"The {text}."


@pytest.fixture
def models(root: Path) -> tuple[_Scripted, _Scripted]:
    return _Scripted(root / "asker", _asks), _Scripted(root / "reader", _reads)


def test_what_a_reader_answers_again_is_kept(
    root: Path, tmp_path: Path, models: tuple[_Scripted, _Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate_module, "CHUNK", 3)
    titles = tmp_path / "titles.txt"
    titles.write_text("nile\nMount_Everest\n\n", encoding="utf-8")
    (of_dev,) = cases.write_questions(tmp_path, {"dev": [("who climbed it", ["Hillary"], ["Everest"])]})["dev"]
    stages: list[tuple[str, int, int]] = []

    def options(name: str, **changes: Any) -> GenerateOptions:
        values = {"store": root / "store", "out": tmp_path / name, "passages": 50, "leave_out": (titles, of_dev)}
        return GenerateOptions(**values | changes)

    report = generate_questions(options("whole"), *models, tick=lambda *stage: stages.append(stage))
    assert stages == [("passages", 3, 8), ("passages", 6, 8), ("passages", 8, 8)]
    rows = [json.loads(line) for line in (tmp_path / "whole" / QUESTIONS).read_text().splitlines()]
    assert (report.passages, report.kept) == (6, len(rows))
    assert report.asked == report.kept + sum(report.dropped.values())
    assert report.dropped["not_answered"] > 0
    assert [row["id"] for row in rows] == [str(n) for n in range(len(rows))]
    texts = {p.id: p for p in PASSAGES}
    for row in rows:
        (output,) = row["output"]
        (provenance,) = output["provenance"]
        passage = texts[provenance["passage_id"]]
        assert provenance["title"] == passage.title
        assert passage.title not in ("Nile", "Everest")
        assert holds(normalise(passage.text), [normalise(output["answer"])])
        assert row["meta"]["style"] in TASKS
        assert (row["meta"]["asker_log_prob"], row["meta"]["reader_log_prob"]) == (-0.25, -0.25)
    assert {row["meta"]["style"] for row in rows} == {*TASKS}

    # A run that was killed goes on, with the same questions in the end; another request for that folder is refused.
    calls = models[0].calls
    written = generate_module.writing_whole

    def killed(path: Path) -> Any:
        if path.name == "000001.jsonl":
            raise KeyboardInterrupt
        return written(path)

    monkeypatch.setattr(generate_module, "writing_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        generate_questions(options("killed"), *models)
    assert [p.name for p in (tmp_path / "killed" / CHUNKS).iterdir()] == ["000000.jsonl"]
    monkeypatch.setattr(generate_module, "writing_whole", written)
    with pytest.raises(ConfigError, match="made with another temperature, seed: name another folder"):
        generate_questions(options("killed", seed=1, temperature=0.0), *models)
    models[0].calls = 0
    again = generate_questions(options("killed"), *models)
    assert (models[0].calls, calls) == (2, 3)
    assert (tmp_path / "killed" / QUESTIONS).read_bytes() == (tmp_path / "whole" / QUESTIONS).read_bytes()
    assert {p.name for p in (tmp_path / "killed").iterdir()} == {QUESTIONS, "about.json"}
    assert (again.dropped, again.kept) == (report.dropped, report.kept)
    assert 0 < again.now < report.now == report.asked
    done = generate_questions(options("killed"), *models)
    assert (done.already, done.now) == (True, 0)
    models[0].log_prob = -1.25
    unlikely = generate_questions(options("unlikely"), *models)
    assert unlikely.kept == 0
    assert unlikely.dropped["unlikely"] == report.kept + report.dropped["not_answered"] + report.dropped.get("again", 0)

    # As a set of a cache: of the candidates that hold an answer, only the passage asked about.
    made = PrepareOptions(
        out=tmp_path / "cache", store=root / "store", k=6, pretrain=False, asked=frozenset({"made.train"}),
        tasks={"made.train": (tmp_path / "whole" / QUESTIONS,)},
    )  # fmt: skip
    prepare(made, cases.tokenizer())
    cache = Candidates.open(made.out)
    questions, by_id = cache.sets["made.train"], {row["id"]: row for row in rows}
    assert len(questions) > 0
    for n, (name, *_) in enumerate(questions.texts()):
        (right,) = np.flatnonzero(questions.marks[n] & ANSWER)
        assert questions.marks[n, right] == ANSWER | TITLE
        asked_about = by_id[name]["output"][0]["provenance"][0]["passage_id"]
        assert cache.names[questions.candidates[n, right]][0] == asked_about


def test_mistakes_of_generation(root: Path, tmp_path: Path, models: tuple[_Scripted, _Scripted]) -> None:
    def asked(*pair: Writer, **changes: Any) -> Any:
        values = {"store": root / "store", "out": tmp_path / "out", "passages": 2} | changes
        return generate_questions(GenerateOptions(**values), *(pair or models))

    with pytest.raises(ConfigError, match="knows no style 'shout' of asking; its tasks: ask, search"):
        asked(styles={"shout": 1.0})
    with pytest.raises(ConfigError, match="has no tasks: an asker's are its styles"):
        asked(models[1], models[1])
    with pytest.raises(DataNotFound, match=r"no file .*none\.txt"):
        asked(leave_out=(tmp_path / "none.txt",))
    with pytest.raises(DataUnreadable, match="name titles, one to a line"):
        asked(leave_out=(tmp_path,))
    for changes in ({"passages": 0}, {"temperature": -1.0}, {"threshold": 1.0}, {"styles": {"ask": 0.0}}):
        with pytest.raises(ConfigError):
            asked(**changes)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        asked()


def test_the_commands_with_real_weights(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: str, *more: str) -> str:
        monkeypatch.setattr("sys.argv", ["memstore", *words.split(), *more])
        cli.app(standalone_mode=False)
        return capsys.readouterr().out

    places = f"--cache {root / 'cache'} --model {root / 'asker'} --out {tmp_path / 'data'}"
    data = f"prepare-asker {places} --style ask=nq.train"
    assert run(data).splitlines() == [f"prepared {tmp_path / 'data'}", "ask: 2 examples of 3 questions"]
    assert json.loads(run(data, "--json"))["already"]
    words = (
        f"generate-questions --store {root / 'store'} --asker {root / 'asker'} --reader {root / 'reader'} "
        f"--out {tmp_path / 'asked'} --passages 3 --style ask=1 --dtype float32"
    )
    lines = run(words).splitlines()
    assert lines[0] == f"wrote {tmp_path / 'asked'}"
    assert lines[2].startswith("kept 0; left out: ")  # random weights write nothing that ends
    report = json.loads(run(words, "--json"))
    assert report["already"]
    assert report["asked"] == sum(report["dropped"].values()) > 0
    (tmp_path / "asked" / QUESTIONS).rename(tmp_path / "none.jsonl")  # a set without a question is one, too
    tasks, made = {"made.train": (tmp_path / "none.jsonl",)}, tmp_path / "made"
    none = PrepareOptions(out=made, store=root / "store", tasks=tasks, pretrain=False, asked=frozenset({*tasks}))
    assert prepare(none, cases.tokenizer()).sets["made.train"].questions == 0
    assert len(Candidates.open(made).sets["made.train"]) == 0
    for wrong in ("--style=ask", "--style=ask=much"):
        with pytest.raises(ConfigError, match=r"--style must be STYLE=SHARE|a share must be a number"):
            run(words, wrong)
