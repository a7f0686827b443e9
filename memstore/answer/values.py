"""What is asked and what is answered: values that travel between an `Answerer` and whoever asks it. Knows no model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from memstore.answer.citations import Citation
from memstore.confidence.features import Features
from memstore.errors import ConfigError, RequestError
from memstore.passage import Passage, RankedPassage
from memstore.retrieve.filters import Filter

RETRIEVE_K, KEEP_K, MAX_NEW_TOKENS = 40, 10, 32
AUTO_KEEP_K, KEEP_MASS = 10, 0.9  # where the number kept follows from the scores: the most, and the mass to hold
Keep = int | Literal["auto"]
Reason = Literal["deadline_ms", "max_gflop", "load"]
"""Why a question had fewer passages found and read than it asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """What a question asked for before it was lowered, and why it was."""

    retrieve_k: int
    keep_k: int
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, and how much to spend on it. `passages` of the caller's own replace retrieval. With a `filter`,
    only passages whose metadata pass it are found.

    `num_beams` is the model's where it is None. Below `min_confidence` there is no answer. With `attention`, passages
    get their shares of the reader's attention, at the cost of one more pass of the decoder.

    With `keep_mass`, `keep_k` is the most: the best passages are kept until the softmax of their rerank scores holds
    that mass. With `max_gflop`, both numbers are lowered until the answer costs at most so many billions of operations,
    as `Usage.flops` counts them; `lowered` then has what they were.

    Raises:
        RequestError: the text is empty, or a number is out of bounds or does not fit the others.
    """

    text: str = field(kw_only=False)
    task: str | None = None
    retrieve_k: int = RETRIEVE_K
    keep_k: int = KEEP_K
    max_new_tokens: int = MAX_NEW_TOKENS
    num_beams: int | None = None
    passages: tuple[Passage, ...] | None = None
    filter: Filter | None = None
    min_confidence: float = 0.0
    attention: bool = False
    keep_mass: float | None = None
    max_gflop: float | None = None
    lowered: Lowered | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise RequestError("the question is empty: ask something")
        for name in ("retrieve_k", "keep_k", "max_new_tokens", "num_beams"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} must be at least 1, not {value}")
        if not 0 <= self.min_confidence <= 1:
            raise RequestError(f"min_confidence must be from 0 to 1, not {self.min_confidence}")
        if self.keep_mass is not None and not 0 < self.keep_mass <= 1:
            raise RequestError(f"keep_mass must be above 0 and at most 1, not {self.keep_mass}")
        if self.max_gflop is not None and not 0 < self.max_gflop < math.inf:
            raise RequestError(f"max_gflop must be above 0, not {self.max_gflop}")
        if self.passages is None and self.keep_k > self.retrieve_k:
            raise RequestError(f"keep_k ({self.keep_k}) must not exceed retrieve_k ({self.retrieve_k})")
        if self.passages is not None and self.filter is not None:
            raise RequestError("a filter has no meaning with passages of your own: leave it out")

    def lower(self, retrieve_k: int, keep_k: int, *, reason: Reason) -> Question:
        """The question with fewer passages found and read; `lowered` keeps what was asked for at first."""
        if (retrieve_k, keep_k) == (self.retrieve_k, self.keep_k):
            return self
        asked = self.lowered or Lowered(retrieve_k=self.retrieve_k, keep_k=self.keep_k, reasons=())
        reasons = tuple(dict.fromkeys((*asked.reasons, reason)))
        return replace(self, retrieve_k=retrieve_k, keep_k=keep_k, lowered=replace(asked, reasons=reasons))


def keep_of(said: str | None) -> Keep | None:
    """What somebody typed for `keep_k`, if anything. Raises ConfigError for neither a number from 1 nor "auto"."""
    if said is None:
        return None
    if said == "auto":
        return "auto"
    if not said.isascii() or not said.isdecimal() or int(said) < 1:
        raise ConfigError(f"--keep-k must be a whole number from 1, or auto, not {said!r}")
    return int(said)


def kept(
    keep_k: Keep | None,
    keep_mass: float | None,
    *,
    of: int,
    default: Keep = KEEP_K,
    auto: tuple[int, float] = (AUTO_KEEP_K, KEEP_MASS),
) -> tuple[int, float | None]:
    """`Question.keep_k` and `keep_mass` as somebody says them who may also say "auto", or nothing.

    A mass without a number means "auto" too. A number with a mass is the most.

    Args:
        keep_k: as said; None where it was not.
        keep_mass: as said; None where it was not.
        of: passages that can be kept; a default is never more.
        default: meant where neither is said.
        auto: the most, and the mass, that "auto" means.
    """
    said = default if keep_k is None and keep_mass is None else keep_k
    if said is None or said == "auto":
        return min(auto[0], of), auto[1] if keep_mass is None else keep_mass
    return min(said, of) if keep_k is None else said, keep_mass


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The bill of one answer.

    `milliseconds` per stage are those of the batch the question was answered in; `bytes_read` (encoded
    memories) and `flops` (analytic, per stage) are the question's own. `fid_flops` is what FiD of the same
    size would have spent on reading all retrieved passages; what shares of attention cost is not in it. `retrieve_k`
    and `keep_k` are the most that could be found and read, after any lowering.
    """

    milliseconds: dict[str, float]
    bytes_read: int
    flops: dict[str, float]
    fid_flops: float
    questions_in_batch: int
    retrieve_k: int = 0
    keep_k: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model says, how sure one may be of that, and what it is from.

    Attributes:
        text: the answer; None where its confidence is below what the question asks for.
        score: sum of the answer tokens' log-probabilities.
        passages: best first, kept ones ahead.
        confidence: the probability that the answer is right, if `calibrated`. If not, the model has no calibration
            (`memstore calibrate`), and this is the probability that the model itself gives to exactly this answer.
        reason: why there is no answer; None where there is one.
        citations: where the answer stands in the passages that were read; empty where there is no answer.
        features: what the confidence is from, by name (`memstore.confidence.FEATURES`).
        lowered: what was asked for, where fewer passages were found and read than that; None where it was done.
        cut: whether the text was ended by its length limit, or by `max_gflop`, and not by the model.
    """

    text: str | None
    score: float
    passages: tuple[RankedPassage, ...]
    usage: Usage
    confidence: float = 0.0
    calibrated: bool = False
    reason: str | None = None
    citations: tuple[Citation, ...] = ()
    features: Features = field(default_factory=dict)
    lowered: Lowered | None = None
    cut: bool = False
