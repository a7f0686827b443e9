"""Makes batches for the training loop: pretraining and tasks mixed by weights, along a curriculum.

Every question depends only on the seed, the batch's number and its place in the batch, so that resuming needs no state.
Schedules count batches: one step of the loop reads `accumulate` times the number of processes.

Passages are packed, without padding. `fixed_length` instead gives every batch the same shape, for `torch.compile`: each
question has equally many passages (random ones fill up), and each question and passage is padded to the longest allowed
length. The model reads the pad tokens like any others, so use it only where compiling saves more than they cost.

Knows the cache's arrays; refuses to know models, stores and retrievers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from memstore.errors import ConfigError
from memstore.model.packed import Layout, Tokens
from memstore.model.tokens import TextTokenizer
from memstore.questions.answers import searchable_answers
from memstore.train.data.batch import Batch, DevBatch
from memstore.train.data.cache import Candidates, QuestionSet
from memstore.train.data.curriculum import at
from memstore.train.data.pretrain import Example, Pretraining
from memstore.train.data.pretrain_table import PretrainTable
from memstore.train.data.ragged import Ints
from memstore.train.data.settings import DataSettings, Difficulty
from memstore.train.data.tasks import choose_answer, mixture
from memstore.train.data.windows import Windows, beginning, find
from memstore.train.data.word_dropout import Words

if TYPE_CHECKING:
    from memstore.train.data.stored_memories import StoredMemories

# Before a dev question's number in its seed. Seeds of training questions have three parts, so none is the same.
_DEV = (0, 0, 0, 1)


class MixedBatches:
    """The `BatchSource` that reads a cache. Several threads may use it at once."""

    def __init__(self, settings: DataSettings, *, tokenizer: TextTokenizer, seed: int) -> None:
        """Open the cache.

        Raises:
            ConfigError, CandidatesNotFound, CandidatesCorrupt, CandidatesMismatch: see `Candidates.open`.
        """
        self.settings, self.seed, self._tokenizer = settings, seed, tokenizer
        self.cache = Candidates.open(settings.cache, tokenizer=tokenizer)
        c = tokenizer.config
        self._pad, self._eos = c.pad_token_id, c.eos_token_id
        self._windows, self._words = Windows(tokenizer), Words(tokenizer)
        self._question_tokens = min(c.max_question_tokens, settings.question_tokens or c.max_question_tokens)
        longest = max(p[1] for p in settings.passage_tokens)
        if settings.fixed_length and longest > c.max_passage_tokens:
            raise ConfigError(f"passage_tokens ({longest:g}) exceed the model's max_passage_tokens")
        trained = self._names(settings.train, ".train")
        if stray := sorted({*settings.whole}.difference(trained)):
            raise ConfigError(f"whole names {', '.join(stray)}, which train does not: name sets of train there")
        self._train = [_Set(self._named(n), settings, whole=n in settings.whole) for n in trained]
        self._dev = [self._named(n) for n in self._names(settings.dev, ".dev")]
        if settings.answer == "likeliest" and all(s.questions.likeliest is None for s in self._train):
            raise ConfigError(f'answer = "likeliest" needs labels, which {settings.cache} lacks: run `memstore label`')
        self.pretraining = self._open_pretraining(tokenizer)
        self.memories = self._open_memories()
        shares = [p[1] for p in settings.pretrain_share]
        if min(shares) < 1 and not self._train:
            raise ConfigError(f"{settings.cache} has no question set to train on, and pretrain_share is below 1")
        self._shares = self._mixture() if self._train else np.zeros(0)

    def batch(self, step: int) -> Batch:
        """The batch of a number; see `BatchSource`."""
        difficulty, share = self.settings.difficulty(step), at(self.settings.pretrain_share, step)
        examples = [self._example(step, i, difficulty, share) for i in range(self.settings.questions)]
        return self._assemble(self._within_budget(examples), difficulty)

    def dev(self) -> Iterator[DevBatch]:
        """The dev questions of each set, then held-out pretraining questions if any batch pretrains."""
        size = self.settings.dev_batch
        for questions in self._dev:
            texts, gold = questions.texts(), questions.gold(self.settings.gold)
            chosen = _spaced(len(questions), self.settings.dev_questions)
            for begin in range(0, len(chosen), size):
                part = chosen[begin : begin + size]
                examples = [self._dev_example(questions, i, gold[i]) for i in part]
                yield self._dev_batch(examples, [texts[i][2] for i in part], [texts[i][0] for i in part])
        if self.pretraining is not None:
            yield from self._dev_pretraining(self.pretraining)

    # --- questions ----------------------------------------------------------------------------------------------

    def _example(self, step: int, i: int, difficulty: Difficulty, share: float) -> Example:
        rng = np.random.default_rng([self.seed, step, i])
        if self.pretraining is not None and rng.random() < share:  # a question at a time: batches are mixed
            example = self.pretraining.example(rng, difficulty)
        else:
            # Shares add up along the sets. The last sum is left out: rounding may leave it below the number drawn.
            chosen = self._train[int(np.searchsorted(self._shares[:-1], rng.random(), side="right"))]
            example = self._task_example(chosen, rng, difficulty)
        return self._filled(example, rng, difficulty) if self.settings.fixed_length else example

    def _task_example(self, chosen: _Set, rng: Generator, difficulty: Difficulty) -> Example:
        questions = chosen.questions
        i = int(chosen.rows[int(rng.integers(len(chosen.rows)))])
        hits = int((questions.candidates[i] >= 0).sum())  # -1 fills the row after the last hit
        given = chosen.gold[i, :hits], chosen.proven[i, :hits]
        columns = choose_candidates(*given, difficulty.passages, self.settings.choice, rng)
        gold = chosen.gold[i, columns].tolist()
        rows = self._some_unrelated(questions.candidates[i, columns], gold, rng)
        passages = [self.cache.passages[int(r)] for r in rows]
        read = [passage for passage, right in zip(passages, gold, strict=True) if right]
        answer = self._answer(questions, i, read, rng)
        most = difficulty.passage_tokens
        if self.settings.window == "begin":
            places = [beginning(passage, most) for passage in passages]
        else:
            # Without its eos, the answer is searched for in gold passages; the window then holds it.
            held = [find(p, answer[:-1]) if right else None for p, right in zip(passages, gold, strict=True)]
            places = [self._windows.places(p, around, most, rng) for p, around in zip(passages, held, strict=True)]
        return Example(
            questions.task,
            self._question(chosen, i, rng),
            self._cut(answer, self.settings.max_target_tokens),
            [p[kept] for p, kept in zip(passages, places, strict=True)] or [np.array([self._eos])],
            gold or [False],
            list(zip(rows.tolist(), places, strict=True)),
        )

    def _some_unrelated(self, rows: NDArray[np.int32], gold: Sequence[bool], rng: Generator) -> NDArray[np.int32]:
        """The passages' rows in the cache, wrong ones replaced by any as the settings say. Right ones stay."""
        if not self.settings.unrelated:
            return rows
        replaced = (rng.random(len(rows)) < self.settings.unrelated) & ~np.array(gold, dtype=bool)
        return np.where(replaced, rng.integers(len(self.cache.passages), size=len(rows)), rows).astype(np.int32)

    def _question(self, chosen: _Set, i: int, rng: Generator) -> Ints:
        """A training question, with some words dropped at random as the settings say."""
        question, dropout = chosen.questions.questions[i], self.settings.word_dropout
        if dropout and not chosen.verdicts[i]:
            question = self._words.thinned(question, 1 - dropout, rng)
        return question[: self._question_tokens]

    def _answer(self, questions: QuestionSet, i: int, read: Sequence[Ints], rng: Generator) -> Ints:
        """The answer to train on, by the settings' rule; `read` are the gold passages among those chosen."""
        answers, rule = questions.answers_of(i), self.settings.answer
        if rule == "likeliest" and questions.likeliest is not None and questions.likeliest[i] >= 0:
            return answers[int(questions.likeliest[i])]
        if rule == "read" or rule == "held" or rule == "likeliest":
            answers = [a for a in answers if any(find(p, a[:-1]) for p in read)] or answers
            rule = "shortest" if rule == "read" else "random"
        return answers[choose_answer([len(a) for a in answers], rule, rng.random())]

    def _dev_example(self, questions: QuestionSet, i: int, gold: NDArray[np.bool_]) -> Example:
        hits = min(int((questions.candidates[i] >= 0).sum()), self.settings.dev_passages)
        longest = round(max(p[1] for p in self.settings.passage_tokens))
        return Example(
            questions.task,
            questions.questions[i][: self._question_tokens],
            self._cut(questions.answers_of(i)[0], self.settings.max_target_tokens),
            self._passages(questions.candidates[i, :hits], longest),
            gold[:hits].tolist() or [False],
        )

    def _passages(self, rows: NDArray[np.int32], most: int) -> list[Ints]:
        """The beginnings of passages, at most `most` tokens each; eos alone if there is no passage."""
        return [self._cut(self.cache.passages[int(r)], most) for r in rows] or [np.array([self._eos])]

    def _cut(self, tokens: Ints, most: int) -> Ints:
        """The tokens if they fit, else the first `most - 1` and eos."""
        return tokens[beginning(tokens, most)]

    def _filled(self, example: Example, rng: Generator, difficulty: Difficulty) -> Example:
        """The example with as many passages as the curriculum says: random ones after the question's own."""
        missing = max(0, difficulty.passages - len(example.passages))
        rows = rng.integers(len(self.cache.passages), size=missing).astype(np.int32)
        more = self._passages(rows, difficulty.passage_tokens) if missing else []
        return Example(
            example.task, example.question, example.target, example.passages + more, example.gold + [False] * missing
        )

    # --- batches ------------------------------------------------------------------------------------------------

    def _within_budget(self, examples: list[Example]) -> list[Example]:
        if not self.settings.max_tokens:
            return examples
        # The encoder reads a question once with each of its passages: these are the tokens of the rows it packs. The
        # cumulative sum says how many questions fit; one is kept in any case.
        rows = [len(e.passages) * len(e.question) + sum(map(len, e.passages)) for e in examples]
        fitting = int(np.searchsorted(np.cumsum(rows), self.settings.max_tokens, side="right"))
        return examples[: max(1, fitting)]

    def _assemble(self, examples: Sequence[Example], difficulty: Difficulty) -> Batch:
        s = self.settings
        fixed = (self._question_tokens, difficulty.passage_tokens) if s.fixed_length else (0, 0)
        tensors = self._tensors(examples, *fixed, target_tokens=s.max_target_tokens if s.fixed_length else 0)
        if self.memories is not None:
            tensors["memories"] = self.memories.load([source for e in examples for source in e.sources])
        return Batch(**tensors)

    def _tensors(
        self, examples: Sequence[Example], question_tokens: int = 0, passage_tokens: int = 0, target_tokens: int = 0
    ) -> dict[str, Any]:
        """The fields of a `Batch`. A length above 0 pads each question, passage or target to it."""
        width = target_tokens or max(len(e.target) for e in examples)
        targets = np.full((len(examples), width), self._pad, dtype=np.int64)
        for line, example in zip(targets, examples, strict=True):
            line[: len(example.target)] = example.target
        counts = torch.tensor([len(e.passages) for e in examples])
        return {
            "questions": self._pack([e.question for e in examples], question_tokens),
            "passages": self._pack([p for e in examples for p in e.passages], passage_tokens),
            "question_of": torch.repeat_interleave(torch.arange(len(examples)), counts),
            "targets": torch.from_numpy(targets),
            "gold": torch.tensor([g for e in examples for g in e.gold]),
            "tasks": tuple(e.task for e in examples),
        }

    def _pack(self, rows: list[Ints], length: int) -> Tokens:
        if length:
            padded = np.full((len(rows), length), self._pad, dtype=np.int64)
            for line, row in zip(padded, rows, strict=True):
                line[: len(row)] = row
            return Tokens(torch.from_numpy(padded.reshape(-1)), Layout([length] * len(rows)))
        ids = np.concatenate(rows).astype(np.int64, copy=False)
        return Tokens(torch.from_numpy(ids), Layout([len(r) for r in rows]))

    def _dev_batch(
        self, examples: Sequence[Example], answers: Sequence[tuple[str, ...]], ids: Sequence[str]
    ) -> DevBatch:
        return DevBatch(**self._tensors(examples), answers=tuple(answers), ids=tuple(ids))

    def _dev_pretraining(self, pretraining: Pretraining) -> Iterator[DevBatch]:
        """The held-out questions, as difficult as at the curriculum's end."""
        s, size, total = self.settings, self.settings.dev_batch, pretraining.dev_size()
        ends = [round(points[-1][0]) for points in (s.passages, s.passage_tokens, s.hardness)]
        difficulty = s.difficulty(max(ends))
        for begin in range(0, total, size):
            numbers = range(begin, min(total, begin + size))
            made = [pretraining.dev_example(n, np.random.default_rng([*_DEV, n]), difficulty) for n in numbers]
            texts = [(self._tokenizer.decode(e.target.tolist()),) for e in made]
            yield self._dev_batch(made, texts, [f"salient-{n}" for n in numbers])

    # --- opening ------------------------------------------------------------------------------------------------

    def _names(self, given: tuple[str, ...], ending: str) -> list[str]:
        return list(given) or [name for name in self.cache.sets if name.endswith(ending)]

    def _named(self, name: str) -> QuestionSet:
        if name not in self.cache.sets:
            known = ", ".join(self.cache.sets) or "none"
            raise ConfigError(f"{self.settings.cache} has no question set {name!r}; it has: {known}")
        return self.cache.sets[name]

    def _mixture(self) -> NDArray[np.float64]:
        s, counts = self.settings, {t.questions.name: len(t.rows) for t in self._train}
        rules: dict[str, Any] = {"uniform": None, "temperature": s.temperature, "given": s.weights}
        return np.cumsum(list(mixture(counts, weights=rules[s.mixture]).values()))

    def _open_memories(self) -> StoredMemories | None:
        if self.settings.memories is None:
            return None
        from memstore.train.data.stored_memories import StoredMemories  # here: without a store, none is imported

        return StoredMemories(self.settings.memories, self.cache)

    def _open_pretraining(self, tokenizer: TextTokenizer) -> Pretraining | None:
        if max(p[1] for p in self.settings.pretrain_share) == 0:
            return None
        if not self.cache.manifest.pretraining:
            raise ConfigError(f"{self.settings.cache} was prepared without pretraining; set pretrain_share to 0")
        return Pretraining(
            self.settings.pretrain,
            passages=self.cache.passages,
            table=PretrainTable.load(self.cache.folder / "pretrain"),
            tokenizer=tokenizer,
            max_question_tokens=self._question_tokens,
            max_target_tokens=self.settings.max_target_tokens,
        )


class _Set:
    """A question set to train on: the rows to draw from, and which of their candidates are gold."""

    def __init__(self, questions: QuestionSet, settings: DataSettings, *, whole: bool) -> None:
        self.questions, self.gold = questions, questions.gold(settings.gold)
        self.proven: NDArray[np.bool_] = questions.gold("answer") & questions.gold("title") & self.gold
        rows = np.arange(len(questions))
        self.verdicts = _verdicts(questions)
        if settings.answerable_only and not whole:
            rows = np.flatnonzero(self.gold.any(axis=1) | self.verdicts)
        if settings.memories is not None:  # "no passage" has no memory
            rows = rows[questions.candidates[rows, 0] >= 0]
        self.rows: NDArray[np.int64] = rows


def _verdicts(questions: QuestionSet) -> NDArray[np.bool_]:
    """`(N,)`: whether all answers of a question are verdicts."""
    return np.array([not searchable_answers(answers) for _, _, answers in questions.texts()], dtype=bool)


def choose_candidates(
    gold: NDArray[np.bool_],
    proven: NDArray[np.bool_],
    wanted: int,
    choice: Literal["first", "sample", "gold", "best"],
    rng: Generator,
) -> NDArray[np.int64]:
    """The candidates of a question that are read, as ascending places: they keep the retriever's order.

    Args:
        gold: `(hits,)`, whether each candidate is gold.
        proven: `(hits,)`, whether it is also known to be of the right page.
        wanted: at most this many are read.
        choice: the "first" ones, a random "sample", or a sample with a "gold" one in it if there is any: any of them,
            or the "best", which is the first proven one, or else the first.
        rng: the question's.
    """
    hits = len(gold)
    if hits <= wanted or choice == "first":
        return np.arange(min(hits, wanted))
    order = rng.permutation(hits)
    if choice in ("gold", "best") and gold.any():
        if choice == "best":
            right = int(np.flatnonzero(proven if proven.any() else gold)[0])
        else:
            right = int(rng.choice(np.flatnonzero(gold)))
        order = np.concatenate([[right], order[order != right]])  # first, so that the cut below keeps it
    return np.sort(order[:wanted])


def _spaced(total: int, wanted: int) -> list[int]:
    """Up to `wanted` of the numbers below `total`, evenly spread; all of them if `wanted` is 0."""
    if not wanted or wanted >= total:
        return list(range(total))
    return [i * total // wanted for i in range(wanted)]
