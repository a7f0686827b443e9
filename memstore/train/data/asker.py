"""Makes the training data of an asker, a model that asks questions about passages: `memstore prepare-asker`.

A question of a cache with the passage that answers it becomes an example the other way round:

    question   a prompt, such as "ask: ANSWER"
    passage    the passage alone, cut to a window that holds the answer
    target     the question

The result is a cache like any other, with a task for each style of asking, so `memstore train` needs to know nothing of
it. Knows caches; refuses to know models, stores and retrievers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from memstore.errors import CandidatesMismatch, ConfigError
from memstore.model.tokens import TextTokenizer
from memstore.train.data.cache import (
    ANSWER,
    MANIFEST,
    TITLE,
    CacheFingerprint,
    Candidates,
    QuestionSet,
    SetReport,
    content_of,
    file_entry,
    read_manifest,
    task_of,
    write_gzip_lines,
)
from memstore.train.data.cache_folder import check_place, is_cache, new_cache
from memstore.train.data.ragged import Ints, Ragged, id_type
from memstore.train.data.windows import Windows, find

MOST_HOLDING = 3
"""Of a question whose right page is not known, no more candidates may hold the answer: often most do not answer."""
FIRST = 8
"""Of such a question, the candidate must be among the retriever's first ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskerOptions:
    """What to make of which cache.

    Attributes:
        cache: what `memstore prepare` or `memstore label` made; it stays as it is.
        out: folder of the new cache.
        styles: by style, the question sets whose questions are to be learned, such as "ask" of `squad.train`. A style
            is a task of the asker, and its prompt `STYLE: ANSWER`.
        passage_tokens: longer passages are cut to their title and a window that holds the answer.
        max_target_tokens: longer questions are cut.
        seed: of the answers drawn, where there are several, and of the windows.
    """

    cache: Path
    out: Path
    styles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    passage_tokens: int = 160
    max_target_tokens: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.styles:
            raise ConfigError("nothing to make: name a style and its question sets, such as ask=squad.train")
        if self.passage_tokens < 2 or self.max_target_tokens < 2:
            raise ConfigError("passage_tokens and max_target_tokens must be at least 2")
        if bad := [style for style in self.styles if not style.isidentifier()]:
            raise ConfigError(f"a style is one word, such as ask, not {bad[0]!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskerReport:
    """What was made: examples of each style, and of how many questions. `already`: it was there before."""

    out: str
    examples: Mapping[str, int]
    questions: Mapping[str, int]
    already: bool = False


@dataclass(frozen=True, slots=True)
class _Example:
    id: str
    answer: str
    question: str
    passage: Ints
    name: tuple[str, str]


def prompt_template(style: str) -> str:
    """The prompt of a style, as a question template whose `{question}` is the answer to ask for."""
    return f"{style}: {{question}}"


def prepare_asker(options: AskerOptions, tokenizer: TextTokenizer) -> AskerReport:
    """Make the training data of an asker, unless `options.out` has those of the same cache already.

    Args:
        options: what to make.
        tokenizer: of the cache, and of the asker.

    Raises:
        CandidatesNotFound, CandidatesCorrupt, CandidatesMismatch: see `Candidates.open`; or `options.out` holds a cache
            that was made from something else.
        ConfigError: a question set is unknown or has nothing to learn from, or `options.out` holds other files.
        OutputUnwritable: `options.out` may not be written to.
    """
    source = Candidates.open(options.cache, tokenizer=tokenizer)
    names = [name for sets in options.styles.values() for name in sets]
    if unknown := sorted({*names}.difference(source.sets)):
        raise ConfigError(f"{options.cache} has no question set {unknown[0]}; it has: {', '.join(source.sets)}")
    counted = {style: sum(len(source.sets[n]) for n in sets) for style, sets in options.styles.items()}
    fingerprint = _fingerprint(source, options)
    if is_cache(options.out):
        there = read_manifest(options.out)
        if differences := there.fingerprint.differences(fingerprint):
            raise CandidatesMismatch(differences, where=options.out)
        examples = {task_of(name): report.questions for name, report in there.sets.items()}
        return AskerReport(out=str(options.out), examples=examples, questions=counted, already=True)
    check_place(options.out)
    made = {style: _examples(source, sets, tokenizer, options) for style, sets in options.styles.items()}
    if empty := [style for style, found in made.items() if not found]:
        raise ConfigError(f"no passage of {', '.join(options.styles[empty[0]])} is known to answer a question")
    with new_cache(options.out) as part:
        _write(part, source, made, fingerprint, tokenizer)
    examples = {style: len(found) for style, found in made.items()}
    return AskerReport(out=str(options.out), examples=examples, questions=counted)


def answering(questions: QuestionSet, row: int) -> int:
    """The candidate that answers a question, by its place; -1 if none is known well enough.

    It is the first that holds an answer and is of the right page, as in a labelled cache. Where none is of the right
    page, it is the first that holds an answer, unless many do (`MOST_HOLDING`) or it came late (`FIRST`).
    """
    marks = questions.marks[row]
    proven, holding = np.flatnonzero(marks == ANSWER | TITLE), np.flatnonzero(marks & ANSWER)
    if len(proven):
        return int(proven[0])
    if not len(holding) or len(holding) > MOST_HOLDING or holding[0] >= FIRST:
        return -1
    return int(holding[0])


def _examples(
    source: Candidates, sets: tuple[str, ...], tokenizer: TextTokenizer, options: AskerOptions
) -> list[_Example]:
    windows, found = Windows(tokenizer), []
    for name in sets:
        questions = source.sets[name]
        for row, (question_id, text, answers) in enumerate(questions.texts()):
            column = answering(questions, row)
            if column < 0:
                continue
            number = int(questions.candidates[row, column])
            passage, rng = source.passages[number], np.random.default_rng([options.seed, row])
            places = {n: place for n, ids in enumerate(questions.answers_of(row)) if (place := find(passage, ids[:-1]))}
            likeliest = -1 if questions.likeliest is None else int(questions.likeliest[row])
            if not places:  # a verdict, or words that are other tokens within a text
                continue
            n = likeliest if likeliest in places else list(places)[int(rng.integers(len(places)))]
            cut = windows.cut(passage, places[n], options.passage_tokens, rng)
            found.append(_Example(f"{name}:{question_id}", answers[n], text, cut, source.names[number]))
    return found


def _fingerprint(source: Candidates, options: AskerOptions) -> CacheFingerprint:
    rules = f"{content_of(options.cache)} {options.passage_tokens} {options.seed}"
    return dataclasses.replace(
        source.manifest.fingerprint,
        k=1,
        max_answer_tokens=options.max_target_tokens,
        question_templates={style: prompt_template(style) for style in options.styles},
        tasks={f"{style}.train": f"{' '.join(sets)} of {rules}" for style, sets in options.styles.items()},
        pretraining={},
        screens={},
        labels={},
    )


def _write(
    part: Path,
    source: Candidates,
    made: Mapping[str, list[_Example]],
    fingerprint: CacheFingerprint,
    tokenizer: TextTokenizer,
) -> None:
    """Write all files of the new cache, the manifest last."""
    dtype, first = id_type(source.manifest.vocab_size), 0
    passages = [example.passage for found in made.values() for example in found]
    Ragged.of(passages, dtype=dtype).save(part, "passages")
    write_gzip_lines(part / "names.jsonl.gz", (e.name for found in made.values() for e in found))
    sets = {}
    for style, found in made.items():
        folder = part / "sets" / f"{style}.train"
        folder.mkdir(parents=True)
        prompts = tokenizer.questions([e.answer for e in found], prompt_template(style))
        targets = tokenizer.encode_answers([e.question for e in found], max_tokens=fingerprint.max_answer_tokens)
        Ragged.of(prompts, dtype=dtype).save(folder, "questions")
        Ragged.of(targets, dtype=dtype).save(folder, "answers")
        np.save(folder / "answers_per_question.npy", np.ones(len(found), dtype=np.int32))
        np.save(folder / "candidates.npy", np.arange(first, first + len(found), dtype=np.int32)[:, None])
        np.save(folder / "marks.npy", np.full((len(found), 1), ANSWER | TITLE, dtype=np.uint8))
        write_gzip_lines(folder / "texts.jsonl.gz", ([e.id, e.answer, [e.question]] for e in found))
        sets[f"{style}.train"] = SetReport(
            questions=len(found), left_out=0, answerable=1.0, gold=1.0, first=1.0, candidates=1.0
        )
        first += len(found)
    manifest = dataclasses.replace(
        source.manifest,
        fingerprint=fingerprint,
        passages=len(passages),
        tokens=sum(map(len, passages)),
        sets=sets,
        pretraining={},
        files={p.relative_to(part).as_posix(): file_entry(p) for p in sorted(part.rglob("*")) if p.is_file()},
    )
    (part / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
