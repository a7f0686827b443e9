"""`[data]` of a training config: which questions and passages make a batch, frozen and typed. Knows no arrays."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from memstore.errors import ConfigError
from memstore.tables import require
from memstore.train.data.curriculum import Points, at, check_points

AnswerChoice = Literal["first", "shortest", "random"]
KINDS = ("salient", "asked", "rebuild", "corrupt")


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainSettings:
    """`[data.pretrain]`.

    Attributes:
        salient, asked, rebuild, corrupt: how often each kind is drawn; they need not sum to 1.
        class_share: of "asked": how often a span whose class is known is asked for by it ("which river").
        title_share: of "asked": how often it is the passage's title that is asked for, with the words of a sentence
            of the passage. Most questions about Wikipedia ask for a page or name one; sentences behind the first say
            "it" or "he".
        named_share: of the other "asked" ones: how often the title stands in the question.
        word_dropout: of "salient" and "asked": share of the sentence's words left out.
        keep_words: of "rebuild": share of the sentence's words that are given.
        noise: of "corrupt": share of tokens masked.
        noise_span: of "corrupt": mean length of a masked span, in tokens.
        salient_prompt, asked_prompt, rebuild_prompt, corrupt_prompt: question templates.
        dev_questions: so many passages are held out, evenly spread, and asked about for measuring ("salient"). In
            training no question is made from them; "corrupt", and wrong passages, may be any.
    """

    salient: float = 0.7
    asked: float = 0.0
    rebuild: float = 0.3
    corrupt: float = 0.0
    class_share: float = 0.6
    title_share: float = 0.0
    named_share: float = 0.0
    word_dropout: float = 0.15
    keep_words: float = 0.5
    noise: float = 0.15
    noise_span: float = 3.0
    salient_prompt: str = "fill: {question}"
    asked_prompt: str = "question: {question}"
    rebuild_prompt: str = "rebuild: {question}"
    corrupt_prompt: str = "denoise: {question}"
    dev_questions: int = 256

    def __post_init__(self) -> None:
        shares = ("class_share", "title_share", "named_share", "word_dropout", "keep_words", "noise")
        require(self, natural=(*KINDS, "dev_questions"), shares=shares)
        if not sum(getattr(self, kind) for kind in KINDS) > 0:
            raise ConfigError(f"one of {', '.join(KINDS)} must be above 0, or there is nothing to pretrain on")
        if self.corrupt and not self.noise:
            raise ConfigError("noise must be above 0 where corrupt is: else nothing is masked")
        if self.noise_span < 1:
            raise ConfigError(f"noise_span must be at least 1, not {self.noise_span}")
        for kind in KINDS:
            if "{question}" not in getattr(self, f"{kind}_prompt"):
                raise ConfigError(f"{kind}_prompt must contain {{question}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """Where a curriculum stands: passages per question, tokens per passage, share of lexical neighbours."""

    passages: int
    passage_tokens: int
    hardness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """`[data]` of a training config. Schedules are lists of `[batch, value]`, linear between them.

    Attributes:
        cache: the folder that `memstore.train.data.prepare` made.
        questions: per batch.
        train, dev: question sets; by default all named `*.train`, and all named `*.dev`.
        mixture: "uniform" over tasks, by "temperature" (`p ~ n ** (1 / temperature)`), or as "given" in `weights`.
        weights: by set.
        answer: which of several answers is trained on: "first", "shortest", "random", or "read": the shortest of
            those that stand in a gold passage that is read (of all, if none does).
        answerable_only: train on questions with a gold passage among their candidates only, and on those that ask for
            a verdict, which can be given without one.
        gold: what counts as gold: "answer" (its words are found in it), "title" (its page is a source), "either".
        choice: which candidates are read if there are more than `passages`: "first" ones of the retriever,
            a random "sample", or a random one with "gold" in it. They stay in the retriever's order.
        passages: schedule: passages per question.
        passage_tokens: schedule: tokens per passage at most.
        window: what a task's longer passages are cut to: their "begin", or a random window behind the title, in gold
            passages around an "answer". Passages of pretraining and of dev questions do not ask: the former are cut to
            windows, the latter to their begin.
        question_tokens: per question at most; 0 for the model's limit.
        word_dropout: share of the words of a task's questions left out. Not of those that ask for a verdict: a claim
            without one of its words is another claim.
        hardness: schedule: share of lexical neighbours among pretraining's wrong passages.
        pretrain_share: schedule: share of questions made from plain passages.
        max_target_tokens: of an answer, eos included.
        max_tokens: of a batch's rows at most (question and passage together); questions at its end are left
            out. 0 for no limit.
        fixed_length: every batch has the same shape; see the module.
        dev_questions: of each set at most, evenly spread; 0 for all.
        dev_batch: questions per dev batch.
        dev_passages: candidates of a dev question.
        pretrain: of the questions made from plain passages.
    """

    cache: Path
    questions: int = 64
    train: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()
    mixture: Literal["uniform", "temperature", "given"] = "uniform"
    temperature: float = 2.0
    weights: dict[str, Any] = field(default_factory=dict)
    answer: Literal[AnswerChoice, "read"] = "first"
    answerable_only: bool = False
    gold: Literal["answer", "title", "either"] = "answer"
    choice: Literal["first", "sample", "gold"] = "first"
    passages: Points = ((0, 8),)
    passage_tokens: Points = ((0, 256),)
    window: Literal["begin", "answer"] = "begin"
    question_tokens: int = 0
    word_dropout: float = 0.0
    hardness: Points = ((0, 1.0),)
    pretrain_share: Points = ((0, 0.0),)
    max_target_tokens: int = 48
    max_tokens: int = 0
    fixed_length: bool = False
    dev_questions: int = 0
    dev_batch: int = 32
    dev_passages: int = 20
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)

    def __post_init__(self) -> None:
        require(self, positive=("questions", "temperature", "dev_batch", "dev_passages"),
                natural=("max_tokens", "dev_questions", "question_tokens"), shares=("word_dropout",))  # fmt: skip
        if self.max_target_tokens < 2:
            raise ConfigError(f"max_target_tokens must be at least 2, not {self.max_target_tokens}")
        if (self.mixture == "given") != bool(self.weights):
            raise ConfigError('mixture = "given" needs weights, and no other takes them')
        limits = {"passages": (1, 1e4), "passage_tokens": (2, 1e6), "hardness": (0, 1), "pretrain_share": (0, 1)}
        for name, (low, high) in limits.items():
            check_points(name, getattr(self, name), low=low, high=high)
        if self.fixed_length and (len(self.passages) > 1 or len(self.passage_tokens) > 1):
            raise ConfigError("fixed_length needs constant passages and passage_tokens: one point each")

    def difficulty(self, number: int) -> Difficulty:
        """Where the curriculum stands at a batch."""
        return Difficulty(
            passages=round(at(self.passages, number)),
            passage_tokens=round(at(self.passage_tokens, number)),
            hardness=at(self.hardness, number),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"cache": str(self.cache)}
