"""What is asked and what is answered: values that travel between an `Answerer` and whoever asks it. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass, field

from memstore.answer.citations import Citation
from memstore.confidence.features import Features
from memstore.errors import RequestError
from memstore.passage import Passage, RankedPassage
from memstore.retrieve.filters import Filter

RETRIEVE_K, KEEP_K, MAX_NEW_TOKENS = 40, 10, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, and how much to spend on it. `passages` of the caller's own replace retrieval. With a `filter`,
    only passages whose metadata pass it are found.

    `num_beams` is the model's where it is None. Below `min_confidence` there is no answer. With `attention`, passages
    get their shares of the reader's attention, at the cost of one more pass of the decoder.

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

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise RequestError("the question is empty: ask something")
        for name in ("retrieve_k", "keep_k", "max_new_tokens", "num_beams"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} must be at least 1, not {value}")
        if not 0 <= self.min_confidence <= 1:
            raise RequestError(f"min_confidence must be from 0 to 1, not {self.min_confidence}")
        if self.passages is None and self.keep_k > self.retrieve_k:
            raise RequestError(f"keep_k ({self.keep_k}) must not exceed retrieve_k ({self.retrieve_k})")
        if self.passages is not None and self.filter is not None:
            raise RequestError("a filter has no meaning with passages of your own: leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The bill of one answer.

    `milliseconds` per stage are those of the batch the question was answered in; `bytes_read` (encoded
    memories) and `flops` (analytic, per stage) are the question's own. `fid_flops` is what FiD of the same
    size would have spent on reading all retrieved passages; what shares of attention cost is not in it.
    """

    milliseconds: dict[str, float]
    bytes_read: int
    flops: dict[str, float]
    fid_flops: float
    questions_in_batch: int


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
