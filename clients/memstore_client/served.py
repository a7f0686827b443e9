"""What a server says of itself over HTTP: that it lives, which models and stores answer, and what it allows.

As `wire`, which has the requests, the replies to them, and the problems.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from memstore_client.wire import ModelSummary, Reply, StoreSummary


class ReloadReply(StoreSummary):
    """Reply of `POST /admin/reload`: the generation that answers from now on."""

    changed: bool = Field(description="Whether it is another one than before.")
    milliseconds: float = Field(description="What opening it took, while the former one went on answering.")
    request_id: str


class HealthReply(Reply):
    """Reply of `GET /health`: the process is alive. A 503 problem instead when only a restart helps."""

    status: Literal["alive"] = "alive"


class ReadyReply(Reply):
    """Reply of `GET /ready` once a warm-up answer has succeeded; before that it is a 503 problem."""

    status: Literal["ready"] = "ready"


class CalibrationInfo(Reply):
    """What a model's confidences were fitted to."""

    method: str
    metric: str = Field(description="What counts as a right answer: em is exact match.")
    questions: dict[str, int] = Field(description="How many development questions, by task.")
    calibration_error: float | None = Field(
        description="Expected calibration error on tasks, or else questions, that were left out of the fit."
    )


class ModelInfo(ModelSummary):
    """The model, as `/info` reports it. `fingerprint` is the SHA-256 of the memory encoder's weights."""

    alpha: float
    beta: float
    dtype: str
    parameters: int
    tasks: list[str] = Field(default=[], description="Names a request's `task` may have.")
    fingerprint: str
    num_beams: int = Field(default=1, description="Beams where neither a request nor the server says.")
    streams: Literal["tokens", "answers"] = Field(
        default="answers",
        description="What a streamed answer comes in with one beam: token by token, or whole, since its spelling is "
        "chosen at the end. With more beams it always comes whole.",
    )
    calibration: CalibrationInfo | None = Field(
        default=None, description="What `confidence` was fitted to; null where it is not calibrated."
    )


class StoreInfo(StoreSummary):
    """The store, as `/info` reports it, without its place on the server's disk."""

    codec: str
    retriever: str
    metadata: dict[str, list[str]] = Field(
        default={}, description="Fields that a `filter` can name, with the kinds of their values."
    )
    reload_error: str | None = Field(
        default=None, description="Why the store's generation in force was not taken up; null if nothing is wrong."
    )


class CollectionInfo(StoreInfo):
    """One of several stores that a server answers from, as `/info` lists them, and the model that reads it."""

    model: ModelInfo


class Limits(Reply):
    """What this server accepts at most."""

    question_characters: int
    retrieve_k: int
    keep_k: int
    max_new_tokens: int
    num_beams: int
    batch_questions: int
    body_bytes: int
    write_bytes: int | None = Field(
        default=None, description="Size of a body that changes the store; null where there are no such requests."
    )


class Defaults(Reply):
    """What this server uses where a request leaves an option out."""

    retrieve_k: int
    keep_k: int
    max_new_tokens: int
    num_beams: int
    min_confidence: float = 0.0
    keep_mass: float | None = Field(
        default=None, description="Where it is not null, `keep_k` is `auto`, and the number there is the most."
    )
    auto_keep_k: int = Field(default=10, description="The most passages that are read where `keep_k` is `auto`.")
    auto_keep_mass: float = Field(default=0.9, description="The `keep_mass` of `auto`.")
    degrade: bool = False


class InfoReply(Reply):
    """Reply of `GET /info`, of one collection."""

    version: str = Field(description="Release of memstore that serves.")
    model: ModelInfo
    store: StoreInfo
    limits: Limits
    defaults: Defaults
    collections: list[CollectionInfo] = Field(
        default=[], description="All that requests can name; the first is meant where they name none."
    )
