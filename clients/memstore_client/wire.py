"""What travels over HTTP: requests, replies and problems, shared by client and server.

Knows shapes and the limits that hold for every server; the limits of one server (how many passages, how many
tokens) are its settings, which `/info` reports. Refuses to know the engine, the store, and HTTP itself.

Requests are strict: an unknown key or a value of another type is an error. Replies may gain keys in a later
release, so a reader ignores keys it does not know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints, model_validator

from memstore_client.filters import FilterInput

MAX_QUESTION_CHARACTERS = (
    2_000  # after stripping; longer than any question of the tasks, short enough to tokenize at once
)
MAX_PASSAGE_CHARACTERS = (
    20_000  # a passage is about 100 words; the rest of a longer one would be cut by the model anyway
)
MAX_ID_CHARACTERS = 1_000
MAX_DEADLINE_MS = 24 * 60 * 60 * 1_000  # a day; whoever waits longer needs no deadline
UNNAMED = "default"
"""The collection of a server whose only store was given without a name."""
PROBLEM_MEDIA_TYPE = "application/problem+json"
REQUEST_ID_HEADER = "X-Request-ID"
TOO_BUSY = ("urn:memstore:problem:overloaded", "urn:memstore:problem:too-late")
"""Types of problems of a server that has more to do than it can, and did nothing for this request."""

QuestionText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUESTION_CHARACTERS)
]
Count = Annotated[int, Field(ge=1)]
Mass = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Gflop = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Milliseconds = Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)]


def _kept(given: Any) -> Any:
    """A number from 1 or "auto": of a union of the two, every wrong value would be wrong in two ways."""
    if given == "auto" or (isinstance(given, int) and not isinstance(given, bool) and given >= 1):
        return given
    raise ValueError('must be a whole number from 1, or "auto"')


KeptCount = Annotated[Count | Literal["auto"], PlainValidator(_kept, json_schema_input_type=Count | Literal["auto"])]
"""How many passages are read: a number, or as many as `keep_mass` says."""
Deadline = Annotated[
    Milliseconds | None, Field(description="Milliseconds after which the reply is of no use; then it is a 504.")
]
CollectionName = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=64)] | None,
    Field(description="Which of the server's collections; `/info` lists them, and the first is the default."),
]
TaskName = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=100)] | None,
    Field(description="Name of the task the question belongs to, for models trained on several."),
]


class Request(BaseModel):
    """Base of what a client sends: frozen, strict about types, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Reply(BaseModel):
    """Base of what a server returns: frozen; keys of a newer server are ignored.

    A default stands for what an older server leaves out; this one sends every key, and its schemas say so.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, json_schema_serialization_defaults_required=True)


def _example(body: dict[str, Any]) -> ConfigDict:
    """A body that every server takes: pages such as /docs would else make one up of all keys, which none takes."""
    return ConfigDict(json_schema_extra={"examples": [body]})


# --- requests --------------------------------------------------------------------------------------------


class PassageInput(Request):
    """A passage of the caller's own. Its memory is not in the store: it is encoded when asked about."""

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PASSAGE_CHARACTERS)]
    title: Annotated[str, StringConstraints(max_length=MAX_ID_CHARACTERS)] = ""
    url: Annotated[str, StringConstraints(max_length=MAX_ID_CHARACTERS)] = ""
    id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_CHARACTERS)] | None = Field(
        default=None, description="Named in the reply; `own:0`, `own:1`, ... by position where not given."
    )


class QuestionInput(Request):
    """A question and how to answer it. What is left out takes the server's default (see `/info`)."""

    question: QuestionText
    collection: CollectionName = None
    task: TaskName = None
    retrieve_k: Count | None = Field(default=None, description="Passages retrieved and scored.")
    keep_k: KeptCount | None = Field(
        default=None,
        description="Passages read after reranking; at most `retrieve_k`. `auto`: the best ones, until `keep_mass` is "
        "held.",
    )
    keep_mass: Mass | None = Field(
        default=None,
        description="Passages are read, best first, until the softmax of their rerank scores holds this mass. With a "
        "number as `keep_k`, that is the most; else `keep_k` is `auto`.",
    )
    max_gflop: Gflop | None = Field(
        default=None,
        description="Billions of operations that the answer may cost at most (the sum of `usage.flops`). `retrieve_k` "
        "and `keep_k` are lowered as far as that takes; the reply says so in `lowered`.",
    )
    degrade: bool | None = Field(
        default=None,
        description="Whether a server with much to do may lower `retrieve_k` and `keep_k` before it refuses.",
    )
    max_new_tokens: Count | None = Field(default=None, description="Length limit of the answer, in tokens.")
    num_beams: Count | None = Field(default=None, description="Beams of the search; 1 is greedy.")
    passages: Annotated[list[PassageInput], Field(min_length=1)] | None = Field(
        default=None, description="Read these instead of the store's; excludes `retrieve_k` and `filter`."
    )
    filter: FilterInput = None
    min_confidence: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Below this confidence `answer` is null, and `reason` says why."
    )
    attention: bool = Field(
        default=False, description="Also say how much of its attention the reader gave to each passage."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        number = None if self.keep_k == "auto" else self.keep_k
        if self.passages is None:
            if self.retrieve_k is not None and number is not None and number > self.retrieve_k:
                raise ValueError(f"keep_k ({number}) must not exceed retrieve_k ({self.retrieve_k})")
            return self
        if self.retrieve_k is not None:
            raise ValueError("retrieve_k has no meaning with passages of your own: leave it out")
        if self.filter is not None:
            raise ValueError("filter has no meaning with passages of your own: leave it out")
        if number is not None and number > len(self.passages):
            raise ValueError(f"keep_k ({number}) must not exceed the number of passages ({len(self.passages)})")
        _require_distinct_ids(self.passages)
        return self


class AnswerRequest(QuestionInput):
    """Body of `POST /answer`."""

    model_config = _example({"question": "Who discovered radium?", "retrieve_k": 20, "keep_k": 5})

    deadline_ms: Milliseconds | None = Field(
        default=None,
        description="Milliseconds after which the answer is of no use; then the reply is a 504. Where all that is "
        "asked for would take longer, `retrieve_k` and `keep_k` are lowered, and the reply says so in `lowered`.",
    )
    stream: bool = Field(
        default=False,
        description="`true` sends the answer as it is made, as server-sent events. With more than one beam, or where "
        "`/info` says that the model `streams` whole answers, the text is one `token` event: it is not certain before.",
    )


class AnswerBatchRequest(Request):
    """Body of `POST /answer/batch`. All its questions are admitted to the queue, or none."""

    model_config = _example({"questions": [{"question": "Who discovered radium?"}, {"question": "Where is Cairo?"}]})

    questions: Annotated[list[QuestionInput], Field(min_length=1)]
    deadline_ms: Milliseconds | None = Field(
        default=None, description="One deadline for the whole request; all questions are lowered alike for it."
    )


class RetrieveRequest(Request):
    """Body of `POST /retrieve`."""

    model_config = _example({"question": "Who discovered radium?", "retrieve_k": 20})

    question: QuestionText
    collection: CollectionName = None
    retrieve_k: Count | None = Field(default=None, description="Passages wanted; fewer may match.")
    filter: FilterInput = None
    deadline_ms: Deadline = None


class RerankRequest(Request):
    """Body of `POST /rerank`: score the caller's passages for a question."""

    model_config = _example(
        {
            "question": "Who discovered radium?",
            "passages": [{"title": "Marie Curie", "text": "She discovered radium."}, {"text": "Cairo is in Egypt."}],
        }
    )

    question: QuestionText
    passages: Annotated[list[PassageInput], Field(min_length=1)]
    collection: CollectionName = None
    task: TaskName = None
    deadline_ms: Deadline = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require_distinct_ids(self.passages)
        return self


def own_ids(passages: Sequence[PassageInput]) -> list[str]:
    """The ids by which a reply names the caller's passages: as given, else `own:` and the position."""
    return [passage.id or f"own:{position}" for position, passage in enumerate(passages)]


def _require_distinct_ids(passages: Sequence[PassageInput]) -> None:
    times = Counter(own_ids(passages))
    if len(times) != len(passages):
        twice = next(name for name, count in times.items() if count > 1)
        raise ValueError(f"two passages have the id {twice!r}: ids must differ, the reply names passages by them")


# --- replies ---------------------------------------------------------------------------------------------


MetadataValue = str | bool | int | float | list[str]
"""What a document may say of itself: a string, a boolean, a number, or a list of strings."""

_METADATA = "What the document says of itself beside its text; can be filtered by."


class RankedPassageReply(Reply):
    """A passage with how it was found and scored; null where a step did not take place."""

    id: str
    title: str
    text: str
    url: str
    retrieval_rank: int | None = Field(description="The retriever's place for it, from 1.")
    retrieval_score: float | None
    rerank_score: float | None
    kept: bool = Field(description="Whether the reader read it.")
    attention: float | None = Field(
        default=None, description="Its share of the reader's cross-attention, where asked for; of all kept ones 1."
    )
    metadata: dict[str, MetadataValue] = Field(default={}, description=_METADATA)


class CitationReply(Reply):
    """A place where the answer stands in a passage that was read: its characters from `start` to before `end`."""

    passage_id: str
    start: int = Field(description="In the passage's `text`, in characters (Unicode code points).")
    end: int
    attention: float | None = Field(default=None, description="As the passage has it.")


class UsageReply(Reply):
    """What an answer cost. Times are those of the batch the question was answered in."""

    milliseconds: dict[str, float] = Field(
        description="Per stage of the engine, plus `queue` (waiting for the model) and `total` (here)."
    )
    bytes_read: int = Field(description="Bytes of encoded memory fetched from the store.")
    flops: dict[str, float] = Field(description="Floating-point operations per stage.")
    fid_flops: float = Field(
        description="What FiD, which precomputes nothing, would have spent on the passages retrieved."
    )
    questions_in_batch: int = Field(description="Questions answered together, this one included.")
    retrieve_k: int | None = Field(default=None, description="The most passages that could be found.")
    keep_k: int | None = Field(default=None, description="The most passages that could be read.")


class LoweredReply(Reply):
    """What was asked for, where fewer passages were found and read, and why. `usage` has what was used."""

    retrieve_k: int = Field(description="Asked for, or the default.")
    keep_k: int = Field(description="Asked for, or the default.")
    reasons: list[str] = Field(
        description="`deadline_ms`: more would have come too late. `max_gflop`: more would have cost more. `load`: the "
        "server had much to do, and `degrade` allows it."
    )


class ModelSummary(Reply):
    """Which model answered. `trained` false: the weights are random, and so is the answer."""

    name: str
    trained: bool
    system: str = Field(description="fid, lumen or glimmer")


class StoreSummary(Reply):
    """Which memories were read."""

    collection: str = Field(default=UNNAMED, description="Its name; `default` where the server's store has none.")
    generation: int
    passages: int


class AnswerReply(Reply):
    """Reply of `POST /answer`."""

    answer: str | None = Field(
        description="What the model wrote; null where its confidence is below `min_confidence`. It writes also where "
        "nothing was found: with `passages` empty it is a guess."
    )
    reason: str | None = Field(default=None, description="Why `answer` is null; null where it is not.")
    confidence: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="The probability that the answer is right, if `calibrated`; else the one that the model itself "
        "gives to exactly this answer, which is no such probability.",
    )
    calibrated: bool = Field(default=False, description="Whether the model has a calibration.")
    citations: list[CitationReply] = Field(
        default=[], description="Where the answer stands in the passages that were read, best passage first."
    )
    score: float = Field(description="Sum of the answer tokens' log-probabilities.")
    passages: list[RankedPassageReply] = Field(description="Best first; the kept ones before the others.")
    usage: UsageReply
    lowered: LoweredReply | None = Field(
        default=None,
        description="What was asked for, where fewer passages were found and read; else null.",
    )
    cut: bool = Field(
        default=False,
        description="Whether `max_new_tokens` (or `max_gflop`) ended the answer, and not the model.",
    )
    model: ModelSummary
    store: StoreSummary
    request_id: str


class RetrieveReply(Reply):
    """Reply of `POST /retrieve`. May hold fewer passages than asked for, or none."""

    passages: list[RankedPassageReply]
    milliseconds: dict[str, float]
    store: StoreSummary
    request_id: str


class RerankReply(Reply):
    """Reply of `POST /rerank`, best passage first."""

    passages: list[RankedPassageReply]
    milliseconds: dict[str, float]
    model: ModelSummary
    request_id: str


class PassageReply(Reply):
    """Reply of `GET /passages/{id}`. `start` and `end` are character offsets into the document."""

    id: str
    document_id: str
    title: str
    text: str
    url: str
    start: int
    end: int
    metadata: dict[str, MetadataValue] = Field(default={}, description=_METADATA)


# --- problems --------------------------------------------------------------------------------------------


class FieldProblem(Reply):
    """One wrong part of a request (RFC 9457, section 3): where, as a JSON pointer, and what."""

    pointer: str = Field(examples=["#/retrieve_k"], description="Of the wrong part; `#` is the whole body.")
    detail: str


class Loading(Reply):
    """How far a server is that does not answer yet."""

    step: int = Field(description="The one that runs, from 1.")
    steps: int
    doing: str = Field(examples=["opening the store wiki"])
    seconds: float = Field(description="Since the server began to load.")


class Problem(Reply):
    """Body of every reply that is an error (RFC 9457), served as `application/problem+json`.

    `type` names the problem for programs and never changes; `detail` is for people.
    """

    type: str = Field(default="about:blank", examples=["urn:memstore:problem:overloaded"])
    title: str
    status: int
    detail: str = ""
    instance: str = Field(default="", description="Path of the request, escaped as in a URI.")
    request_id: str = ""
    errors: list[FieldProblem] = Field(default=[], description="Each wrong part of a request that was not valid.")
    loading: Loading | None = Field(default=None, description="How far a server is that still loads.")


class BatchItem(Reply):
    """One question's outcome in a batch: exactly one of the two is not null."""

    answer: AnswerReply | None = None
    problem: Problem | None = None


class AnswerBatchReply(Reply):
    """Reply of `POST /answer/batch`: one item per question, in the order asked."""

    items: list[BatchItem]
    request_id: str
