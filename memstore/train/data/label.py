"""Marks a cache's candidates again by what a model reads out of them: `memstore label`.

An answer's words are often in passages that do not answer the question ("1945"), and a model that is trained on such
passages learns to guess. A model that reads already says which passage answers: under which its answer is likeliest.

    1. measure    each question set; the numbers are kept in `out`, so that a run that was stopped goes on with the next
    2. compare    a question's accepted answers ("May 1968", "1968") in the passage that was found best
    3. write      a copy of the cache with other marks, as `prepare` writes one

Knows caches and a model's likelihoods; refuses to know stores and retrievers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memstore.checkpoint.calibrated import weights_mark
from memstore.errors import CandidatesMismatch, ConfigError
from memstore.files import make_folder, write_text, writing_whole
from memstore.model.model import MemoryModel
from memstore.model.tokens import TextTokenizer
from memstore.train.data.cache import (
    ANSWER,
    MANIFEST,
    TITLE,
    CacheFingerprint,
    Candidates,
    SetReport,
    content_of,
    file_entry,
    read_manifest,
)
from memstore.train.data.cache_folder import check_place, is_cache, new_cache
from memstore.train.data.likelihoods import likeliest_references, measure, readings, reference_readings
from memstore.train.data.ragged import load_array
from memstore.train.data.windows import Windows

MEASURED = ".measured"  # in `out` until the cache is whole: the numbers of each set that was measured
LIKELIHOODS, LIKELIEST = "likelihoods", "likeliest"
_QUANTILES = (0.05, 0.1, 0.2, 0.5)
Measured = tuple[NDArray[np.float32], NDArray[np.int32]]
"""Of a set: the answer's likelihood under each candidate, `(N, k)`, and the number of the likeliest answer, `(N,)`."""
Tick = Callable[[str, int, int], None]
"""Is called with progress: set, passages done, all passages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """What to label.

    Attributes:
        cache: what `memstore prepare` made; it stays as it is.
        out: folder of the copy.
        sets: question sets to label; by default all named `*.train`. The others are copied.
        max_passages: candidates of a question that are read: the first ones that hold an answer.
        passage_tokens: longer passages are cut to their title and a window that holds the answer.
        threshold: questions lose all marks if the mean log-probability of their answer is lower than this, whichever of
            these candidates is read.
    """

    cache: Path
    out: Path
    sets: tuple[str, ...] = ()
    max_passages: int = 4
    passage_tokens: int = 160
    threshold: float = -2.5

    def __post_init__(self) -> None:
        if self.max_passages < 1 or self.passage_tokens < 2:
            raise ConfigError("max_passages must be at least 1, and passage_tokens at least 2")
        if not self.threshold <= 0:
            raise ConfigError(f"threshold is a log-probability, so 0 at most, not {self.threshold}")
        here, there = (Path(os.path.realpath(folder)) for folder in (self.out, self.cache))
        if here == there or here in there.parents or there in here.parents:
            raise ConfigError(f"{self.out} and {self.cache} must be two folders, neither of them in the other")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLabels:
    """What became of one set.

    Attributes:
        questions: all of the set.
        read: questions with a candidate that holds an answer.
        passages: candidates read.
        dropped: questions read whose best likelihood is below the threshold.
        moved: share of the other questions read where the best candidate is not the first that holds an answer.
        chosen: questions with another likeliest answer than the first.
        quantiles: of the best mean log-probability of the questions read, by share.
    """

    questions: int
    read: int
    passages: int
    dropped: int
    moved: float
    chosen: int
    quantiles: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """What was labelled, and how long it took. `already`: it was there before."""

    out: str
    sets: Mapping[str, SetLabels]
    seconds: float
    already: bool = False


def label(
    options: LabelOptions, model: MemoryModel, tokenizer: TextTokenizer, *, tick: Tick = lambda *_: None
) -> LabelReport:
    """Make a labelled copy of a cache, unless `options.out` has one made from the same already.

    Args:
        options: what to label.
        model: reads; in evaluation mode, on its device.
        tokenizer: the model's.
        tick: is called with progress.

    Raises:
        CandidatesNotFound, CandidatesCorrupt, CandidatesMismatch: see `Candidates.open`; or `options.out` holds a cache
            that was made from something else.
        ConfigError: a set is unknown or was labelled before, or `options.out` holds other files, or measurements of
            another model or cache.
        OutputUnwritable: `options.out` may not be written to.
    """
    begin = time.perf_counter()
    source = Candidates.open(options.cache, tokenizer=tokenizer)
    about = {
        "model": weights_mark(model),
        "max_passages": options.max_passages,
        "passage_tokens": options.passage_tokens,
        "answers": LIKELIEST,
    }
    names = _chosen(source, options)
    if is_cache(options.out):
        _require_same(options, _fingerprint(source, names, about, options.threshold))
        return _report(options, names, time.perf_counter() - begin, already=True)
    check_place(options.out, besides=MEASURED)
    folder = _measurements(options, about)
    windows = Windows(tokenizer)
    found = {name: _measure(source, name, folder, windows, options, model, tick) for name in names}
    with new_cache(options.out) as part:
        _write(part, source, found, _fingerprint(source, names, about, options.threshold), options.threshold)
    shutil.rmtree(folder, ignore_errors=True)
    return _report(options, names, time.perf_counter() - begin)


def new_marks(marks: NDArray[np.uint8], likelihoods: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """A set's marks, `(N, k)`, by the likelihood of the answer under each candidate read (NaN under the others).

    The candidate with the highest likelihood gets both bits, so that it is what `choice = "best"` reads. The others
    that were read get none. Those that hold an answer but were not read keep ANSWER: nothing is known of them. A
    question whose best likelihood is below the threshold gets no mark at all. One of which nothing was read stays as it
    is.
    """
    read, values = ~np.isnan(likelihoods), _values(likelihoods)
    rows = np.flatnonzero(read.any(axis=1))
    new = marks.copy()
    new[rows] &= ANSWER
    new[read] = 0
    new[rows, values[rows].argmax(axis=1)] = ANSWER | TITLE
    new[rows[values[rows].max(axis=1) < threshold]] = 0
    return new


def summary(measured: Measured, threshold: float) -> SetLabels:
    """What was measured of a set, at a threshold."""
    likelihoods, likeliest = measured
    read = ~np.isnan(likelihoods)
    asked = np.flatnonzero(read.any(axis=1))
    values = _values(likelihoods)[asked]
    best = values.max(axis=1) if len(asked) else np.zeros(0, dtype=np.float32)
    kept = best >= threshold
    moved = (values.argmax(axis=1) != read[asked].argmax(axis=1))[kept] if len(asked) else kept
    return SetLabels(
        questions=len(likelihoods),
        read=len(asked),
        passages=int(read.sum()),
        dropped=int((~kept).sum()),
        moved=round(float(moved.mean()), 4) if len(moved) else 0.0,
        chosen=int((likeliest > 0).sum()),
        quantiles={f"{q:.0%}": round(float(np.quantile(best, q)), 2) for q in _QUANTILES} if len(best) else {},
    )


# --- measuring ----------------------------------------------------------------------------------------------


def _chosen(source: Candidates, options: LabelOptions) -> list[str]:
    """The sets to label, in the cache's order."""
    named = options.sets or tuple(name for name in source.sets if name.endswith(".train"))
    known = ", ".join(source.sets) or "none"
    if unknown := sorted({*named}.difference(source.sets)):
        raise ConfigError(f"{options.cache} has no question set {', '.join(unknown)}; it has: {known}")
    if not named:
        raise ConfigError(f"{options.cache} has no question set named *.train: name the sets; it has: {known}")
    if again := sorted({*named} & {*source.manifest.fingerprint.labels}):
        raise ConfigError(
            f"{', '.join(again)} of {options.cache} was labelled before, so marks are gone: begin with the cache that "
            "`memstore prepare` made"
        )
    return [name for name in source.sets if name in named]


def _measurements(options: LabelOptions, about: Mapping[str, Any]) -> Path:
    """The folder of what is measured, with what it is measured from.

    Raises:
        ConfigError: it was begun with another model or cache, or with other settings.
    """
    folder = options.out / MEASURED
    wanted = {"cache": content_of(options.cache), **about}
    make_folder(folder)
    path = folder / "about.json"
    if not path.exists():
        write_text(path, json.dumps(wanted, indent=1) + "\n")
    elif (begun := json.loads(path.read_text(encoding="utf-8"))) != wanted:
        differing = ", ".join(key for key in wanted if begun.get(key) != wanted[key])
        raise ConfigError(
            f"{options.out} holds what was measured with another {differing}: name another folder, or remove {folder}"
        )
    return folder


def _measure(
    source: Candidates, name: str, folder: Path, windows: Windows, options: LabelOptions, model: MemoryModel, tick: Tick
) -> Measured:
    """The likelihoods of a set and its likeliest answers; what `folder` has of them already is not measured again."""
    questions, length = source.sets[name], options.passage_tokens
    passages, answers = (folder / f"{name}.{array}.npy" for array in (LIKELIHOODS, LIKELIEST))
    if not passages.exists():
        wanted = readings(source, questions, windows, max_passages=options.max_passages, passage_tokens=length)
        advance = _counting(tick, name, len(wanted))
        _write_array(passages, measure(model, wanted, questions.candidates.shape, advance=advance))
    likelihoods = np.load(passages)
    if not answers.exists():
        best = np.where(np.isnan(likelihoods).all(axis=1), -1, _values(likelihoods).argmax(axis=1))
        wanted = reference_readings(source, questions, windows, best, passage_tokens=length)
        advance = _counting(tick, f"{name}, answers", len(wanted))
        _write_array(answers, likeliest_references(model, wanted, len(questions), advance=advance))
    return likelihoods, np.load(answers)


def _values(likelihoods: NDArray[np.float32]) -> NDArray[np.float32]:
    """The likelihoods, with minus infinity where nothing was read."""
    return np.where(np.isnan(likelihoods), np.float32(-np.inf), likelihoods)


def _counting(tick: Tick, stage: str, total: int) -> Callable[[int], None]:
    """What to call with the number of passages read: it adds up."""
    done = 0

    def advance(passages: int) -> None:
        nonlocal done
        done += passages
        tick(stage, done, total)

    return advance


def _write_array(path: Path, values: NDArray[Any]) -> None:
    with writing_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, values)


# --- the copy -----------------------------------------------------------------------------------------------


def _fingerprint(source: Candidates, names: list[str], about: Mapping[str, Any], threshold: float) -> CacheFingerprint:
    made = source.manifest.fingerprint
    labels = {name: {**about, "threshold": threshold} for name in names}
    return dataclasses.replace(made, labels={**made.labels, **labels})


def _require_same(options: LabelOptions, wanted: CacheFingerprint) -> None:
    if differences := read_manifest(options.out).fingerprint.differences(wanted):
        raise CandidatesMismatch(differences, where=options.out)


def _write(
    part: Path,
    source: Candidates,
    found: Mapping[str, Measured],
    fingerprint: CacheFingerprint,
    threshold: float,
) -> None:
    """Write all files of the copy, the manifest last."""
    manifest = source.manifest
    files, sets = dict(manifest.files), dict(manifest.sets)
    for file in files:
        (part / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.folder / file, part / file)
    for name, (likelihoods, likeliest) in found.items():
        marks = new_marks(source.sets[name].marks, likelihoods, threshold)
        folder = Path("sets", name)
        for array, values in (("marks", marks), (LIKELIHOODS, likelihoods), (LIKELIEST, likeliest)):
            file = (folder / f"{array}.npy").as_posix()
            np.save(part / file, values)
            files[file] = file_entry(part / file)
        sets[name] = _counted(sets[name], marks)
    new = dataclasses.replace(manifest, fingerprint=fingerprint, sets=sets, files=files)
    (part / MANIFEST).write_text(new.to_json(), encoding="utf-8")


def _counted(before: SetReport, marks: NDArray[np.uint8]) -> SetReport:
    """The report of a set with other marks. Questions that were left out had no right candidate, and count as such."""
    all_questions = max(1, before.questions + before.left_out)

    def share(right: NDArray[Any]) -> float:
        return round(float(right.any(axis=1).sum()) / all_questions, 4)

    return dataclasses.replace(
        before,
        answerable=share(marks & ANSWER),
        gold=share(marks),
        first=share(marks[:, :1] & ANSWER),
    )


def _report(options: LabelOptions, names: list[str], seconds: float, *, already: bool = False) -> LabelReport:
    found = {}
    for name in names:
        folder = options.out / "sets" / name
        found[name] = load_array(folder, LIKELIHOODS), load_array(folder, LIKELIEST)
    return LabelReport(
        out=str(options.out),
        sets={name: summary(values, options.threshold) for name, values in found.items()},
        seconds=round(seconds, 3),
        already=already,
    )
