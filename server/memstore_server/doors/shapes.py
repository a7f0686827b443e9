"""What travels through the doors: bodies as OpenAI's and Cohere's clients send them, and replies as they read them.

Knows shapes only. Requests let unknown fields in, since such clients send many; what is known and cannot be done is
refused where it is used.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from memstore_client.wire import RankedPassageReply, Reply

MODEL = "memstore"
ModelName = Annotated[str, Field(description=f"`{MODEL}`, or `{MODEL}/NAME` for a collection: see `/v1/models`.")]


class Taken(BaseModel):
    """Base of the requests: unknown fields are kept, and used where they are options of `POST /answer`."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


def _example(body: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [body]})


# --- OpenAI ----------------------------------------------------------------------------------------------


class ChatMessage(Taken):
    """One message. Only the last one of the user is answered."""

    role: str
    content: str | list[dict[str, Any]] | None = Field(default=None, description="Text, or parts of type `text`.")


class StreamOptions(Taken):
    """How a stream ends."""

    include_usage: bool = False


class ChatRequest(Taken):
    """Body of `POST /v1/chat/completions`. Sampling options are taken and change nothing: answers are the likeliest.

    Options of `POST /answer`, such as `retrieve_k` and `filter`, may stand beside the others.
    """

    model_config = _example({"model": MODEL, "messages": [{"role": "user", "content": "Who discovered radium?"}]})

    model: ModelName
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Length limit of the answer; at most the server's own."
    )
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(default=None, description="The same.")


class ChatAnswer(Reply):
    """The message that answers."""

    role: Literal["assistant"] = "assistant"
    content: str = Field(description="Empty where there is no answer.")
    refusal: str | None = Field(default=None, description="Why there is no answer: it would not be sure enough.")


class ChatChoice(Reply):
    """The one choice that there is."""

    index: Literal[0] = 0
    message: ChatAnswer
    finish_reason: Literal["stop", "length"] = Field(description="`length`: the length limit cut the answer.")
    logprobs: None = None


class ChatReply(Reply):
    """Reply of `POST /v1/chat/completions`. Tokens are not counted: what an answer cost is in `memstore`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: None = None
    citations: list[RankedPassageReply] = Field(description="The passages that were read, best first.")
    memstore: dict[str, Any] = Field(description="What else `POST /answer` replies: score, usage, model, store.")


class ModelReply(Reply):
    """A model, as `GET /v1/models` lists it: one for each collection."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = Field(description="The model that answers, by its own name.")


class ModelsReply(Reply):
    """Reply of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelReply]


class EmbeddingsRequest(Taken):
    """Body of `POST /v1/embeddings`."""

    model_config = _example({"model": MODEL, "input": ["Who discovered radium?"]})

    model: ModelName
    input: str | list[Any] = Field(description="A text, or several. Token ids are not taken.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    input_type: Literal["query", "document"] = Field(
        default="document", description="Whether the texts are questions or passages; not a field of OpenAI's."
    )


class Embedding(Reply):
    """The vector of one text, of unit length."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Numbers; or little-endian float32 in base64, where asked for.")


class EmbeddingsUsage(Reply):
    """Tokens, which are not counted."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingsReply(Reply):
    """Reply of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage = EmbeddingsUsage()


class OpenAIProblem(Reply):
    """What went wrong, as OpenAI's clients read it. `code` is the last part of the type of memstore's own problem, but
    for `invalid_api_key` and `rate_limit_exceeded`.
    """

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(Reply):
    """Body of every reply below `/v1` that is an error, but for `/v1/rerank`."""

    error: OpenAIProblem


# --- Cohere ----------------------------------------------------------------------------------------------


class CohereRequest(Taken):
    """Body of `POST /v1/rerank` and `/v2/rerank`: Cohere's, and Jina's."""

    model_config = _example(
        {"model": MODEL, "query": "Who discovered radium?", "documents": ["Curie found radium.", "Cairo is in Egypt."]}
    )

    model: ModelName | None = None
    query: str
    documents: list[str | dict[str, Any]] = Field(description="Texts, or objects with a `text` and perhaps a `title`.")
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False


class CohereDocument(Reply):
    """A document, sent back."""

    text: str


class CohereResult(Reply):
    """A document's place."""

    index: int = Field(description="Of the document in the request.")
    relevance_score: float = Field(
        description="Its share of the softmax of all documents' rerank scores, which the scorer is trained on: from 0 "
        "to 1, and 1 in all. Comparable within a request only."
    )
    rerank_score: float = Field(description="The score itself, which is comparable across requests of one question.")
    document: CohereDocument | None = None


class CohereReply(Reply):
    """Reply of `POST /v1/rerank`, best first."""

    id: str
    model: str
    results: list[CohereResult]
    meta: dict[str, Any]


class CohereError(Reply):
    """Body of replies of `/v1/rerank` that are errors."""

    id: str
    message: str
