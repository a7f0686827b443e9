"""The table `[data]` of a training config, frozen and typed: what batches are made of. Knows no arrays."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from memstore.codec import get_codec
from memstore.errors import ConfigError
from memstore.tables import require
from memstore.train.data.curriculum import Points, at, check_points

AnswerChoice = Literal["first", "shortest", "random"]
KINDS = ("salient", "asked", "rebuild", "corrupt")


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainSettings:
    """`[data.pretrain]`: how questions are made from plain passages. `memstore.train.data.pretrain` explains the kinds.

    Attributes:
        salient, asked, rebuild, corrupt: how often each kind is drawn; they need not sum to 1.
        class_share: for "asked": how often a question names the class of its answer ("which river"), if it is known.
        title_share: for "asked": how often the answer is the passage's title, and the question a sentence of the
            passage. Most questions about Wikipedia ask for a page or name one, but sentences after the first say "it"
            or "he".
        named_share: for other "asked" questions: how often the question names the passage's title.
        word_dropout: for "salient" and "asked": share of the sentence's words that are dropped.
        keep_words: for "rebuild": share of the sentence's words in the question.
        noise: for "corrupt": share of tokens that are masked.
        noise_span: for "corrupt": mean length of a masked span, in tokens.
        salient_prompt, asked_prompt, rebuild_prompt, corrupt_prompt: question templates.
        dev_questions: this many passages are held out, evenly spread, for "salient" dev questions. Training makes no
            question from them, but "corrupt" may take them, and they may be wrong passages.
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
            raise ConfigError("noise must be above 0 where corrupt is: otherwise nothing is masked")
        if self.noise_span < 1:
            raise ConfigError(f"noise_span must be at least 1, not {self.noise_span}")
        for kind in KINDS:
            if "{question}" not in getattr(self, f"{kind}_prompt"):
                raise ConfigError(f"{kind}_prompt must contain {{question}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """A curriculum's values at a batch: passages per question, tokens per passage, share of lexical neighbours."""

    passages: int
    passage_tokens: int
    hardness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """`[data]` of a training config. Schedules are lists of `[batch, value]`, linear between them.

    Attributes:
        cache: the folder that `memstore.train.data.prepare` made.
        memories: a store that the model to be trained has built: batches read its memories, and no passage is encoded.
            For models whose memory encoder is frozen. Dev passages are encoded all the same.
        codec: the codec of the stores that the model is for: memories are encoded and decoded by it before live layers
            read them, in training and in dev scores. Its tables are fitted before the first step.
        questions: questions in a batch.
        train, dev: names of question sets; by default all named `*.train`, and all named `*.dev`.
        mixture: "uniform" over tasks, by "temperature" (`p ~ n ** (1 / temperature)`), or as "given" in `weights`.
        weights: by set.
        answer: which of several answers is trained on: "first", "shortest", "random", or "read": the shortest of
            those in a gold passage that is read (of all answers, if no such passage holds one), or "held": any of them.
            "likeliest": always the one that `memstore label` found likeliest; "held" where it compared none.
        answerable_only: train only on questions with a gold passage among their candidates, and on those that ask for
            a verdict, which needs none.
        whole: sets that are trained on whole all the same. Where most answers are in no passage, as in slot filling,
            the model then learns what is likely.
        gold: which passages are gold: those that hold an "answer", those of a page that proves it ("title"), "either".
        choice: which candidates are read if there are more than `passages`: the retriever's "first" ones, a random
            "sample", a sample with "gold" in it, or one with the "best" gold one in it: the retriever's first of those
            that hold an answer and are of its page, or else of all gold ones. An answer's words are often in passages
            that do not answer. They stay in the retriever's order.
        unrelated: share of a question's wrong passages that are any passages of the cache instead of its candidates.
            Candidates out of a large collection all have words of the question; out of a small one most do not, and a
            scorer that never saw such passages may prefer them.
        passages: schedule: passages per question.
        passage_tokens: schedule: tokens per passage at most.
        window: how a task's longer passages are cut: to their "begin", or to the title and a random window, which in
            gold passages holds the "answer". This is for training on tasks. Passages of pretraining are always cut to
            windows, those of dev questions to their beginning.
        question_tokens: tokens per question at most; 0 for the model's limit.
        word_dropout: share of the words of a task's questions that are dropped. Claims, which ask for a verdict, keep
            all: without one of its words a claim is another claim.
        hardness: schedule: share of lexical neighbours among pretraining's wrong passages.
        pretrain_share: schedule: share of questions made from plain passages.
        max_target_tokens: tokens of an answer at most, eos included.
        max_tokens: tokens of a batch at most, where each passage counts with its question. Questions at the batch's end
            that do not fit are left out. 0 for no limit.
        fixed_length: every batch has the same shape; see `memstore.train.data.mixture`.
        dev_questions: questions of each dev set at most, evenly spread; 0 for all.
        dev_batch: questions in a dev batch.
        dev_passages: candidates of a dev question that are read.
        pretrain: how questions are made from plain passages.
    """

    cache: Path
    memories: Path | None = None
    codec: str | None = None
    questions: int = 64
    train: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()
    mixture: Literal["uniform", "temperature", "given"] = "uniform"
    temperature: float = 2.0
    weights: dict[str, Any] = field(default_factory=dict)
    answer: Literal[AnswerChoice, "read", "held", "likeliest"] = "first"
    answerable_only: bool = False
    whole: tuple[str, ...] = ()
    gold: Literal["answer", "title", "either"] = "answer"
    choice: Literal["first", "sample", "gold", "best"] = "first"
    unrelated: float = 0.0
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
                natural=("max_tokens", "dev_questions", "question_tokens"),
                shares=("word_dropout", "unrelated"))  # fmt: skip
        if self.codec is not None:
            get_codec(self.codec)
        if self.max_target_tokens < 2:
            raise ConfigError(f"max_target_tokens must be at least 2, not {self.max_target_tokens}")
        if (self.mixture == "given") != bool(self.weights):
            raise ConfigError('mixture = "given" needs weights; with any other mixture, leave them out')
        limits = {"passages": (1, 1e4), "passage_tokens": (2, 1e6), "hardness": (0, 1), "pretrain_share": (0, 1)}
        for name, (low, high) in limits.items():
            check_points(name, getattr(self, name), low=low, high=high)
        if self.memories is not None and (self.fixed_length or max(p[1] for p in self.pretrain_share) > 0):
            raise ConfigError("memories of a store are not for fixed_length, nor for pretrain_share above 0")
        if self.fixed_length and (len(self.passages) > 1 or len(self.passage_tokens) > 1):
            raise ConfigError("fixed_length needs constant passages and passage_tokens: one point each")

    def difficulty(self, number: int) -> Difficulty:
        """The curriculum's values at a batch."""
        return Difficulty(
            passages=round(at(self.passages, number)),
            passage_tokens=round(at(self.passage_tokens, number)),
            hardness=at(self.hardness, number),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        paths = {"cache": str(self.cache), "memories": None if self.memories is None else str(self.memories)}
        values = dataclasses.asdict(self) | paths
        if self.codec is None:  # as in runs of versions that knew none
            del values["codec"]
        return values
