"""The options of `memstore prepare`, and the fingerprint of what a cache is made from.

The fingerprint shows whether a cache was made from something else. Knows stores by their checksums; refuses to know
retrievers and passages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memstore.errors import ConfigError
from memstore.model.tokens import TextTokenizer
from memstore.store import Store, generation_path, hash_file, segment_path
from memstore.store.format import PASSAGES, SEALED, Seal
from memstore.train.data.cache import CacheFingerprint, task_of
from memstore.train.data.lines import file_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    """What to prepare, from what.

    Attributes:
        out: folder of the cache.
        store: the store to search for candidates; tasks need one.
        tasks: question files by set. A set is named `<task>.<split>`, such as `nq.train`.
        k: candidates per question.
        keep_unanswerable: of the questions in `train` sets without a right candidate, the share that is kept.
        max_answer_tokens: longer answers are cut.
        corpus: files of ready passages, JSON lines `{"id", "title", "text"}` or the builder's spool, for pretraining.
        pretrain: whether to search the cache's passages for sentences to pretrain on.
        pretrain_passages: passages of the store to add to the candidates, evenly spread. A corpus is added whole.
        pretrain_most: search at most this many of the cache's passages, evenly spread; 0 for all.
        most_spans: salient spans kept for each passage.
        max_sentence_tokens: no question is made from longer sentences.
        neighbours: lexical neighbours per passage; 0 for none.
        supported: sets, such as synthetic ones, whose candidates are left out if they hold an answer by chance. Then
            questions without a right candidate are left out too; see `memstore.train.data.candidate_filter`.
        elsewhere: sets whose candidates are left out if they are of the page that the question was made from.
        asked: sets of `memstore generate-questions`: of the candidates that hold an answer, only the passage asked
            about stays, and questions for which it is not found are left out.
        support: the least share of a question's words in a right candidate of the `supported` sets.
        class_articles: a class ("river") is used in questions if at least this many articles are about such a thing.
    """

    out: Path
    store: Path | None = None
    tasks: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    k: int = 20
    keep_unanswerable: float = 1.0
    max_answer_tokens: int = 32
    corpus: tuple[Path, ...] = ()
    pretrain: bool = True
    pretrain_passages: int = 0
    pretrain_most: int = 0
    most_spans: int = 4
    max_sentence_tokens: int = 48
    neighbours: int = 8
    class_articles: int = 15
    supported: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    support: float = 0.5

    def __post_init__(self) -> None:
        if self.store is None and (self.tasks or self.pretrain_passages):
            raise ConfigError("candidates and passages of tasks come from a store: name one")
        if self.store is None and not self.corpus:
            raise ConfigError("nothing to prepare: name a store or a corpus of passages")
        if self.k < 1 or self.neighbours < 0 or self.most_spans < 1 or self.max_answer_tokens < 2:
            raise ConfigError("k and most_spans must be at least 1, max_answer_tokens 2, neighbours not negative")
        if not 0 <= self.keep_unanswerable <= 1:
            raise ConfigError(f"keep_unanswerable must be between 0 and 1, not {self.keep_unanswerable}")
        if unknown := sorted((self.supported | self.elsewhere | self.asked) - self.tasks.keys()):
            raise ConfigError(f"no question set is named {unknown[0]!r}; there are {', '.join(self.tasks) or 'none'}")
        if not 0 < self.support <= 1:
            raise ConfigError(f"support must be above 0 and at most 1, not {self.support}")
        if bad := [n for n in self.tasks if not task_of(n) or "/" in n or not n.rpartition(".")[2]]:
            raise ConfigError(f"a question set is named <task>.<split>, such as nq.train, not {bad[0]!r}")
        if not (self.tasks or self.corpus or self.pretrain_passages):
            raise ConfigError(
                "nothing to prepare: name question files (tasks), a corpus of passages, or how many of the store's "
                "passages to pretrain on (pretrain_passages)"
            )

    def screens(self) -> dict[str, dict[str, Any]]:
        """By set, the `support` and `elsewhere` of its `Screen`. Sets that keep all candidates are not in it."""
        return {
            name: {"support": self.support if name in self.supported else 0.0, "elsewhere": name in self.elsewhere}
            | ({"asked": True} if name in self.asked else {})
            for name in sorted(self.supported | self.elsewhere | self.asked)
        }


def cache_fingerprint(options: PrepareOptions, tokenizer: TextTokenizer, store: Store | None) -> CacheFingerprint:
    """The fingerprint of a cache made by these options. Reads the question and corpus files."""
    c = tokenizer.config
    sources = [] if store is None else [_passages_sha256(store)]
    sources += [file_sha256([path]) for path in options.corpus]
    pretraining: dict[str, Any] = {}
    if not options.pretrain and options.pretrain_passages:  # the passages are in the cache even so
        pretraining = {"pretrain_passages": options.pretrain_passages}
    if options.pretrain:
        names = (
            "pretrain_passages", "pretrain_most", "most_spans", "max_sentence_tokens", "neighbours", "class_articles",
        )  # fmt: skip
        pretraining = {name: getattr(options, name) for name in names}
    return CacheFingerprint(
        passages=hashlib.sha256("\n".join(sources).encode()).hexdigest(),
        retriever=_retriever_sha256(store) if store is not None and options.tasks else "",
        k=options.k,
        tokenizer=tokenizer.fingerprint,
        passage_template=c.passage_template,
        max_passage_tokens=c.max_passage_tokens,
        max_question_tokens=c.max_question_tokens,
        max_answer_tokens=options.max_answer_tokens,
        question_templates={task_of(n): c.tasks.get(task_of(n), c.question_template) for n in options.tasks},
        tasks={name: file_sha256(paths) for name, paths in options.tasks.items()},
        pretraining=pretraining,
        keep_unanswerable=options.keep_unanswerable,
        screens=options.screens(),
    )


def _passages_sha256(store: Store) -> str:
    """Sha256 over the checksums of the passages' files. Other memories of the same passages do not change it."""
    digest = hashlib.sha256()
    for segment in store.generation.segments:
        path = segment_path(store.path, segment.id) / SEALED
        digest.update(Seal.from_bytes(path.read_bytes(), path=path).files[PASSAGES].sha256.encode())
    return digest.hexdigest()


def _retriever_sha256(store: Store) -> str:
    index = store.generation.index
    if index is None:  # made before indexes were recorded: take the generation file's
        return hash_file(generation_path(store.path, store.generation.number))
    values = [store.generation.retriever, index.parts, index.files]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=dict).encode()).hexdigest()
    return f"{store.generation.retriever}:{digest}"
