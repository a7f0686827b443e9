"""The cache that training reads: each passage once as token ids, and for each question its candidates among them.

`prepare` makes it once, from a store and its retriever. After that training needs numpy alone, so it runs on a machine
without zarr, faiss or tantivy. On disk:

    manifest.json                     written last: fingerprint, counts, size and sha256 of every file
    passages.npy, .lengths.npy        token ids of all passages, by the passage template, cut at the token limit
    names.jsonl.gz                    [id, title] of each passage
    sets/<task>.<split>/
        questions.npy, .lengths.npy   token ids of the filled question template
        answers.npy, .lengths.npy     token ids of every answer, eos included
        answers_per_question.npy      (N,)
        candidates.npy                (N, k) passage rows in the retriever's order, -1 after the last hit
        marks.npy                     (N, k) ANSWER | TITLE
        likelihoods.npy               (N, k), of a labelled set: see `memstore.train.data.label`
        likeliest.npy                 (N,), of a labelled set: the number of the likeliest answer, -1 if none was read
        texts.jsonl.gz                [id, input, [answers]]
    pretrain/                         see `memstore.train.data.pretrain`

Ids take two bytes each where the vocabulary allows. Knows arrays, refuses to know stores, retrievers and models.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from memstore.errors import CandidatesCorrupt, CandidatesMismatch, CandidatesNotFound, ConfigError
from memstore.model.tokens import TextTokenizer
from memstore.train.data.ragged import Ints, Ragged, load_array

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ANSWER, TITLE = 1, 2  # bits of a mark: the passage holds an answer's words; it is of a page the answer comes from
GoldRule = Literal["answer", "title", "either"]
_RULES: dict[str, int] = {"answer": ANSWER, "title": TITLE, "either": ANSWER | TITLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFingerprint:
    """What a cache was made from. `differences` compares two part by part.

    Attributes:
        passages: sha256 over the store's passages, or over the corpus files.
        retriever: the retriever's kind and sha256 over its index; "" without tasks.
        k: candidates per question.
        tokenizer: sha256 of tokenizer.json.
        question_templates: the template of each task in the cache.
        tasks: sha256 over the rows of each set, by name.
        pretraining: the settings of pretraining; empty without it.
        screens: by set, the rule by which candidates were left out. Sets that keep all are not in it.
        labels: by set, how its marks were made again: model, settings and threshold. Sets as prepared are not in it.
    """

    passages: str
    retriever: str
    k: int
    tokenizer: str
    passage_template: str
    max_passage_tokens: int
    max_question_tokens: int
    max_answer_tokens: int
    question_templates: Mapping[str, str] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    keep_unanswerable: float = 1.0
    screens: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def differences(self, other: CacheFingerprint) -> dict[str, tuple[object, object]]:
        """The parts that differ, each as `(here, in other)`; of a mapping only the keys that differ."""
        found: dict[str, tuple[object, object]] = {}
        for f in dataclasses.fields(self):
            a, b = getattr(self, f.name), getattr(other, f.name)
            if isinstance(a, Mapping):
                keys = sorted({*a, *b})
                found |= {f"{f.name}[{key}]": (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}
            elif a != b:
                found[f.name] = (a, b)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SetReport:
    """One question file in the cache.

    Attributes:
        questions: how many are kept.
        left_out: how many were dropped because none of their candidates holds an answer (`keep_unanswerable`).
        answerable: share of all questions where one of the k candidates holds an answer.
        gold: share where a candidate holds an answer, or is of a page that the answer comes from.
        first: share where the first candidate holds an answer.
        candidates: mean number of candidates.
    """

    questions: int
    left_out: int
    answerable: float
    gold: float
    first: float
    candidates: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of manifest.json. `files` holds `[bytes, sha256]` by relative path."""

    format_version: int = FORMAT_VERSION
    fingerprint: CacheFingerprint
    vocab_size: int
    passages: int
    tokens: int
    sets: Mapping[str, SetReport]
    pretraining: Mapping[str, Any]
    files: Mapping[str, Sequence[Any]]

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, path: Path) -> Self:
        """Inverse of `to_json`.

        Raises:
            CandidatesCorrupt: the text is no JSON, of another format version, or has other keys.
        """
        try:
            values = json.loads(text)
            if values["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format {values['format_version']!r}; this memstore reads {FORMAT_VERSION}")
            sets = {name: SetReport(**report) for name, report in values["sets"].items()}
            fingerprint = CacheFingerprint(**values["fingerprint"])
            return cls(**values | {"sets": sets, "fingerprint": fingerprint})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CandidatesCorrupt(f"{path} cannot be used: {error}; prepare the training data again") from error


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of one file with their candidates. `texts` is read on first use."""

    name: str
    folder: Path
    questions: Ragged  # (N)
    answers: Ragged  # one row for each answer, those of question 0 first
    first_answer: NDArray[np.int64]  # (N + 1,): rows first_answer[i] up to first_answer[i + 1] answer question i
    candidates: NDArray[np.int32]  # (N, k)
    marks: NDArray[np.uint8]  # (N, k)
    likeliest: NDArray[np.int32] | None = None  # (N,), of a labelled set

    @property
    def task(self) -> str:
        """The name without the split: `nq` of `nq.train`."""
        return task_of(self.name)

    def __len__(self) -> int:
        return len(self.questions)

    def answers_of(self, i: int) -> list[Ints]:
        """Token ids of the answers of question i, eos included."""
        return [self.answers[a] for a in range(int(self.first_answer[i]), int(self.first_answer[i + 1]))]

    def gold(self, rule: GoldRule) -> NDArray[np.bool_]:
        """`(N, k)`: whether each candidate counts as right.

        "answer": the passage holds an answer's words. "title": it is of a page that an answer comes from. "either": one
        of the two. Verdicts cannot be searched for: their questions count by title under "answer" too.
        """
        if rule not in _RULES:
            raise ConfigError(f"gold must be one of {', '.join(_RULES)}, not {rule!r}")
        right: NDArray[np.bool_] = (self.marks & _RULES[rule]) != 0
        return right

    def texts(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """`(id, input, answers)` of each question.

        Raises:
            CandidatesCorrupt: the file is unreadable.
        """
        rows = read_gzip_lines(self.folder / "texts.jsonl.gz")
        return [(name, question, tuple(answers)) for name, question, answers in rows]


class Candidates:
    """An open cache. Its arrays are memory-mapped. `open` has checked the sha256 of each file.

    Attributes:
        passages: token ids of each passage, eos included.
        sets: by name, `<task>.<split>`.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.passages = Ragged.load(folder, "passages")
        self.sets = {name: _load_set(folder / "sets" / name, name) for name in manifest.sets}
        self._require_counts()

    @classmethod
    def open(cls, folder: Path | str, *, tokenizer: TextTokenizer | None = None) -> Self:
        """Open a finished cache. With a `tokenizer`, refuse one whose token ids are of another.

        Raises:
            CandidatesNotFound: no cache is there, or it was not finished.
            CandidatesCorrupt: a file is missing, or differs from the manifest.
            CandidatesMismatch: tokenizer, templates or limits differ from the model's; the message says which.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if tokenizer is not None:
            require_tokenizer(manifest.fingerprint, tokenizer, where=folder)
        check_files(folder, manifest)
        return cls(folder, manifest)

    def require(self, wanted: CacheFingerprint) -> None:
        """Check that the cache was made from exactly `wanted`.

        Raises:
            CandidatesMismatch: it was not; the message says which part differs.
        """
        if differences := self.manifest.fingerprint.differences(wanted):
            raise CandidatesMismatch(differences, where=self.folder)

    @cached_property
    def names(self) -> list[tuple[str, str]]:
        """`(id, title)` of each passage."""
        return [(name, title) for name, title in read_gzip_lines(self.folder / "names.jsonl.gz")]

    def _require_counts(self) -> None:
        m = self.manifest
        found = {"passages": len(self.passages), "tokens": len(self.passages.values)}
        found |= {name: len(s) for name, s in self.sets.items()}
        promised = {"passages": m.passages, "tokens": m.tokens} | {n: r.questions for n, r in m.sets.items()}
        if found != promised:
            raise CandidatesCorrupt(f"{self.folder} holds {found}, but its manifest says {promised}; prepare it again")


def task_of(name: str) -> str:
    """The task of a set's name, `<task>.<split>`."""
    return name.rpartition(".")[0]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished cache.

    Raises:
        CandidatesNotFound, CandidatesCorrupt: see `Candidates.open`.
    """
    return Manifest.from_json(_manifest_text(folder), path=folder / MANIFEST)


def content_of(folder: Path) -> str:
    """sha256 of a cache's manifest, which holds the sha256 of every file: it identifies the whole content.

    Raises:
        CandidatesNotFound, CandidatesCorrupt: see `Candidates.open`.
    """
    text = _manifest_text(folder)
    Manifest.from_json(text, path=folder / MANIFEST)
    return hashlib.sha256(text.encode()).hexdigest()


def _manifest_text(folder: Path) -> str:
    path = folder / MANIFEST
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CandidatesNotFound(f"no finished training data in {folder}: prepare them first") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CandidatesCorrupt(f"{path} cannot be read: {error}") from error


def require_tokenizer(made: CacheFingerprint, tokenizer: TextTokenizer, *, where: Path) -> None:
    """Check that the cached token ids are those of the tokenizer. Shorter limits than the model's are accepted.

    Raises:
        CandidatesMismatch: they are not; the message says which part differs.
    """
    c = tokenizer.config
    templates = {task: c.tasks.get(task, c.question_template) for task in made.question_templates}
    wanted = dataclasses.replace(
        made,
        tokenizer=tokenizer.fingerprint,
        passage_template=c.passage_template,
        question_templates=templates,
        max_passage_tokens=min(made.max_passage_tokens, c.max_passage_tokens),
        max_question_tokens=min(made.max_question_tokens, c.max_question_tokens),
    )
    if differences := made.differences(wanted):
        raise CandidatesMismatch(differences, where=where)


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest.

    Raises:
        CandidatesCorrupt: a file is missing, or has other bytes.
    """
    for name, (size, sha256) in manifest.files.items():
        try:
            found = file_entry(folder / name)[1]
        except OSError as error:
            raise CandidatesCorrupt(f"{folder / name} cannot be read ({error}); prepare the cache again") from error
        if found != sha256:
            raise CandidatesCorrupt(
                f"{folder / name} is damaged: not the {size} bytes of its manifest; prepare it again"
            )


def file_entry(path: Path) -> tuple[int, str]:
    """What the manifest says of a file: its bytes, and their sha256."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _load_set(folder: Path, name: str) -> QuestionSet:
    counts = load_array(folder, "answers_per_question").astype(np.int64)
    labelled = (folder / "likeliest.npy").exists()
    first = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=first[1:])
    return QuestionSet(
        name=name,
        folder=folder,
        questions=Ragged.load(folder, "questions"),
        answers=Ragged.load(folder, "answers"),
        first_answer=first,
        candidates=load_array(folder, "candidates"),
        marks=load_array(folder, "marks"),
        likeliest=load_array(folder, "likeliest") if labelled else None,
    )


def write_gzip_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON lines, compressed. The same rows give the same bytes."""
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        file.writelines(json_lines(rows))


def json_lines(rows: Iterable[Any]) -> Iterator[bytes]:
    """Each row as a line of JSON, with its line feed."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def read_gzip_lines(path: Path) -> list[list[Any]]:
    """Inverse of `write_gzip_lines`.

    Raises:
        CandidatesCorrupt: the file is missing or damaged.
    """
    try:
        with gzip.open(path, "rb") as file:
            return [json.loads(line.decode("utf-8", "surrogatepass")) for line in file]
    except (OSError, EOFError, ValueError) as error:
        raise CandidatesCorrupt(f"{path} cannot be read: {error}; prepare the cache again") from error
