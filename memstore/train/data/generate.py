"""Questions that a model asks about a store's passages, if a reader answers them: `memstore generate-questions`.

    1. draw     passages, by a seed, without those of documents that development questions are about
    2. choose   answers in each (`answer_spans.py`)
    3. ask      a question for each answer (the asker: see `asker.py`)
    4. read     the one passage with each question: what a reader does not answer so again is left out

That is round-trip filtering (Alberti et al., arXiv 1906.05416). Every chunk of passages is a file under its own name,
so a run that was killed goes on after the last one. `memstore prepare --asked` then finds the candidates.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from memstore.checkpoint.calibrated import weights_mark
from memstore.decode.sampling import Sampling
from memstore.errors import ConfigError, DataNotFound, DataUnreadable
from memstore.files import check_folder, make_folder, naming_refusals, read_whole, write_text, writing_whole
from memstore.passage import Passage
from memstore.questions.answers import holds, normalise
from memstore.questions.files import read_questions
from memstore.questions.metrics import exact_match
from memstore.store import Store, generation_path, hash_file
from memstore.train.data.answer_spans import choose_answers
from memstore.train.data.asking import Writer, Written
from memstore.train.data.cache import json_lines

QUESTIONS, ABOUT = "questions.jsonl", "about.json"
CHUNKS = ".chunks"  # in `out` until all is asked
CHUNK = 128  # passages asked about between two files
LEAST_PASSAGE = 25  # words: shorter passages have little to ask about
Tick = Callable[[str, int, int], None]
"""Is called with progress: stage, passages done, all passages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """What to ask about.

    Attributes:
        store: whose passages are asked about.
        out: folder to write `questions.jsonl` to, in KILT's form.
        passages: passages drawn at most; those of left-out documents and short ones among them are not asked about.
        styles: how often each style of asking is drawn; by default all of the asker's tasks alike.
        leave_out: files of titles, one to a line, that nothing is asked about; or question files in KILT's form, whose
            names have `.jsonl` in them: nothing is asked about their pages.
        most_answers: answers chosen in a passage, at most; at least two are.
        temperature: of sampling; 0 takes the likeliest question.
        threshold: questions are left out whose tokens' mean log-probability is lower under the asker: those that are
            sampled and unlikely often make no sense, whatever a reader answers.
        max_question_tokens: longer questions are left out.
        max_answer_tokens: that the reader writes at most.
        least_words: shorter questions are left out.
        seed: of all that is drawn.
    """

    store: Path
    out: Path
    passages: int
    styles: Mapping[str, float] = field(default_factory=dict)
    leave_out: tuple[Path, ...] = ()
    most_answers: int = 4
    temperature: float = 0.4
    threshold: float = -1.0
    max_question_tokens: int = 40
    max_answer_tokens: int = 16
    least_words: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.passages < 1 or self.most_answers < 2 or self.max_question_tokens < 2 or self.max_answer_tokens < 2:
            raise ConfigError("passages must be at least 1; most_answers and the limits of tokens at least 2")
        if self.temperature < 0:
            raise ConfigError(f"temperature must be 0 or above, not {self.temperature}")
        if not self.threshold <= 0:
            raise ConfigError(f"threshold is a log-probability, so 0 at most, not {self.threshold}")
        if self.styles and not (min(self.styles.values()) >= 0 and sum(self.styles.values()) > 0):
            raise ConfigError("the shares of styles must not be negative, and one must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateReport:
    """What was asked.

    Attributes:
        out: the folder.
        passages: asked about.
        asked: questions that the asker wrote.
        dropped: questions left out, by reason: "unfinished", "short", "gives_answer", "unlikely" (see `threshold`),
            "not_answered" (the reader found another answer), "again" (another passage has the same question).
        kept: questions written.
        seconds: of this run.
        now: questions that the asker wrote in this run, which may have gone on with another's.
        already: all was there before.
    """

    out: str
    passages: int
    asked: int
    dropped: Mapping[str, int]
    kept: int
    seconds: float
    now: int = 0
    already: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question about a passage, while it is made."""

    passage: Passage
    answer: str
    style: str


def generate_questions(
    options: GenerateOptions, asker: Writer, reader: Writer, *, tick: Tick = lambda *_: None
) -> GenerateReport:
    """Ask about a store's passages, unless `options.out` has the same questions already.

    Args:
        options: what to ask about.
        asker: a model trained by `memstore prepare-asker`'s data.
        reader: answers with one passage.
        tick: is called with progress.

    Raises:
        ConfigError: the asker has no such style, the file of titles cannot be read, or `options.out` holds questions
            made from something else.
        StoreNotFound, StoreCorrupt: the store is missing or damaged.
        OutputUnwritable: `options.out` may not be written to.
    """
    begin = time.perf_counter()
    styles = dict(options.styles) or dict.fromkeys(asker.model.config.tasks, 1.0)
    if not styles:
        raise ConfigError(f"{asker.model.config.name} has no tasks: an asker's are its styles of asking")
    for style in styles:
        asker.template(style)
    store = Store.open(options.store)
    left_out = frozenset(title for path in options.leave_out for title in _titles(path))
    check_folder(options.out)
    make_folder(options.out)
    _require_same(options, _about(options, store, styles, left_out, asker, reader))
    chunks, done, now = options.out / CHUNKS, (options.out / QUESTIONS).exists(), 0
    if not done:
        make_folder(chunks)
        drawn = _drawn(store, options)
        for number, first in enumerate(range(0, len(drawn), CHUNK)):
            path = chunks / f"{number:06d}.jsonl"
            if not path.exists():
                rows = drawn[first : first + CHUNK]
                passages = [p for p in _read(store, rows) if _worth_asking(p, left_out)]
                made = _chunk(passages, number, styles, options, asker, reader)
                now += made[0]["asked"]
                with writing_whole(path) as temporary:
                    temporary.write_bytes(b"".join(json_lines(made)))
            tick("passages", min(first + CHUNK, len(drawn)), len(drawn))
        _finish(options.out)
    shutil.rmtree(chunks, ignore_errors=True)
    counted = json.loads((options.out / ABOUT).read_text(encoding="utf-8"))["counts"]
    seconds = round(time.perf_counter() - begin, 3)
    return GenerateReport(out=str(options.out), **counted, seconds=seconds, now=now, already=done)


# --- what is asked about ------------------------------------------------------------------------------------


def _drawn(store: Store, options: GenerateOptions) -> list[int]:
    """The rows of the passages drawn, deleted ones never among them."""
    alive = np.setdiff1d(np.arange(len(store)), store.dead_rows())
    rows: list[int] = np.random.default_rng(options.seed).permutation(alive)[: options.passages].tolist()
    return rows


def _read(store: Store, rows: Sequence[int]) -> list[Passage]:
    return [found.passage for found in store.at(rows)]


def _worth_asking(passage: Passage, left_out: frozenset[str]) -> bool:
    return len(passage.text.split()) >= LEAST_PASSAGE and _title(passage.title) not in left_out


def _title(title: str) -> str:
    """A title as it is compared: letters' case and punctuation do not count, so that rather too much is left out."""
    return normalise(title.replace("_", " "))


def _titles(path: Path) -> Iterator[str]:
    """The titles of a file, one to a line, or of the pages of a question file.

    Raises:
        DataNotFound, DataUnreadable, DataError: see `read_questions`.
    """
    if ".jsonl" in path.name:
        yield from (_title(title) for question in read_questions(path) for title in question.titles)
        return
    try:
        lines = read_whole(path).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataNotFound(f"no file {path}") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataUnreadable(f"{path} cannot be read, which is to name titles, one to a line: {error}") from error
    yield from (_title(line) for line in lines if line.strip())


# --- asking -------------------------------------------------------------------------------------------------


def _chunk(
    passages: Sequence[Passage],
    number: int,
    styles: Mapping[str, float],
    options: GenerateOptions,
    asker: Writer,
    reader: Writer,
) -> list[dict[str, Any]]:
    """The rows of a chunk's file: what was counted, then the questions kept. They depend on nothing but the chunk."""
    rng = Random(f"{options.seed}:{number}")  # noqa: S311  (nothing secret)
    wanted = [_Asked(p, answer, _style(styles, rng)) for p in passages for answer in _answers(p, options, rng)]
    prompts = [asker.tokenizer.questions([w.answer], asker.template(w.style))[0] for w in wanted]
    sampling = None
    if options.temperature:
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        sampling = Sampling(temperature=options.temperature, generator=generator)
    about = [w.passage for w in wanted]
    asked = asker.write(prompts, about, most=options.max_question_tokens, sampling=sampling)
    reasons = [_refused(w, question, options) for w, question in zip(wanted, asked, strict=True)]
    good = [i for i, reason in enumerate(reasons) if not reason]
    questions = reader.tokenizer.questions([asked[i].text for i in good], reader.model.config.question_template)
    answers = reader.write(questions, [about[i] for i in good], most=options.max_answer_tokens)
    kept = []
    for i, answer in zip(good, answers, strict=True):
        if exact_match(answer.text, [wanted[i].answer]):
            kept.append(_row(wanted[i], asked[i], answer))
        else:
            reasons[i] = "not_answered"
    counts = {"passages": len(passages), "asked": len(wanted), "dropped": Counter(r for r in reasons if r)}
    return [counts, *kept]


def _answers(passage: Passage, options: GenerateOptions, rng: Random) -> list[str]:
    return choose_answers(passage.text, rng, most=rng.randint(2, options.most_answers))


def _style(styles: Mapping[str, float], rng: Random) -> str:
    return rng.choices([*styles], [*styles.values()])[0]


def _refused(wanted: _Asked, question: Written, options: GenerateOptions) -> str:
    """Why a question is left out before it is read; empty if it is not."""
    words = normalise(question.text)
    if not question.finished:
        return "unfinished"
    if len(question.text.split()) < options.least_words:
        return "short"
    if holds(words, [normalise(wanted.answer)]):
        return "gives_answer"
    return "unlikely" if question.log_prob < options.threshold else ""


def _row(wanted: _Asked, question: Written, answer: Written) -> dict[str, Any]:
    """A question in KILT's form; `meta` says how it was made."""
    passage = wanted.passage
    provenance = {"title": passage.title, "passage_id": passage.id}
    meta = {
        "style": wanted.style,
        "asker_log_prob": round(question.log_prob, 4),
        "reader_log_prob": round(answer.log_prob, 4),
    }
    output = [{"answer": wanted.answer, "provenance": [provenance]}]
    return {"id": "", "input": question.text, "output": output, "meta": meta}


# --- the folder ---------------------------------------------------------------------------------------------


def _finish(out: Path) -> None:
    """Put the chunks together: each question once, with a number as its id."""
    about = json.loads((out / ABOUT).read_text(encoding="utf-8"))
    passages = asked = 0
    dropped: Counter[str] = Counter()
    seen: dict[str, dict[str, Any]] = {}
    for path in sorted((out / CHUNKS).iterdir()):
        counts, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        passages, asked = passages + counts["passages"], asked + counts["asked"]
        dropped.update(counts["dropped"])
        for row in rows:
            words = normalise(row["input"])
            dropped["again"] += words in seen
            seen.setdefault(words, row)
    counts = {"passages": passages, "asked": asked, "dropped": dict(+dropped), "kept": len(seen)}
    write_text(out / ABOUT, json.dumps({**about, "counts": counts}, indent=1) + "\n")
    with writing_whole(out / QUESTIONS) as temporary:
        numbered = ({**row, "id": str(number)} for number, row in enumerate(seen.values()))
        temporary.write_bytes(b"".join(json_lines(numbered)))


def _about(
    options: GenerateOptions,
    store: Store,
    styles: Mapping[str, float],
    left_out: frozenset[str],
    asker: Writer,
    reader: Writer,
) -> dict[str, Any]:
    """What the questions are made from, as it is kept in `about.json`."""
    names = ("passages", "most_answers", "temperature", "threshold", "max_question_tokens", "max_answer_tokens",
             "least_words", "seed")  # fmt: skip
    return {
        "store": hash_file(generation_path(store.path, store.generation.number)),
        "asker": weights_mark(asker.model),
        "reader": weights_mark(reader.model),
        "styles": dict(styles),
        "left_out": hashlib.sha256("\n".join(sorted(left_out)).encode()).hexdigest(),
        **{name: getattr(options, name) for name in names},
    }


def _require_same(options: GenerateOptions, wanted: Mapping[str, Any]) -> None:
    """Note in `out` what is made there, or see that it is the same.

    Raises:
        ConfigError: it is not; or `out` holds other files.
    """
    path = options.out / ABOUT
    if not path.exists():
        with naming_refusals(options.out):
            if any(options.out.iterdir()):
                raise ConfigError(f"{options.out} holds other files: name another folder for questions")
        write_text(path, json.dumps(wanted, indent=1) + "\n")
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    if differing := [key for key in wanted if begun.get(key) != wanted[key]]:
        raise ConfigError(
            f"{options.out} holds questions made with another {', '.join(differing)}: name another folder, or remove it"
        )
