"""OpenAI's API as far as memstore is such a server: chat completions, models, embeddings.

The question is the last message of the user; earlier messages are not read, as every question is answered from the
collection alone.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Path, Request
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from memstore_client import wire
from memstore_client.events import AnswerEvent, TokenEvent
from memstore_server.doors import refusals, shapes
from memstore_server.hearing import Events
from memstore_server.logs import request_id
from memstore_server.routes import ServiceOf, unless_disconnected
from memstore_server.service import Service
from memstore_server.streaming import HEADERS

router = APIRouter(prefix="/v1", route_class=refusals.DoorRoute, tags=["OpenAI"])
_RESPONSES = refusals.documented(shapes.OpenAIError, *refusals.ASKED)
_STREAM = {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}}
"""Of a chunk; a stream ends with `[DONE]`, which is no JSON."""
_OPTIONS = set(wire.AnswerRequest.model_fields) - {"question", "stream"}
_NOTHING: dict[str, Any] = {"n": 1, "tool_choice": "none", "function_call": "none", "modalities": ["text"]}
"""Values of fields that ask for nothing beside plain text."""
_CANNOT = {
    "tools": "tools are not called here: leave them out",
    "tool_choice": "tools are not called here: leave it out",
    "functions": "functions are not called here: leave them out",
    "function_call": "functions are not called here: leave it out",
    "n": "there is one answer to a question: leave it out, or ask for 1",
    "modalities": "answers are text: leave it out",
    "audio": "answers are text: leave it out",
    "logprobs": "log-probabilities of single tokens are not kept: `memstore.score` is that of the answer",
    "logit_bias": "tokens are not weighted: leave it out",
    "stop": "answers end by themselves: leave it out",
    "web_search_options": "answers come from the collection alone: leave it out",
}


@router.post(
    "/chat/completions",
    response_model=shapes.ChatReply,
    responses={**_RESPONSES, 200: {"content": {"text/event-stream": _STREAM}}},
)
async def chat_completions(
    asked: shapes.ChatRequest, request: Request, service: ServiceOf
) -> shapes.ChatReply | EventSourceResponse:
    """Answer the last message of the user, as OpenAI's clients ask for it.

    What was read is in `citations`, and the rest of what `/answer` replies in `memstore`. With `"stream": true` the
    answer comes as chunks; the last one has these two. Tools, images, several choices and other formats are refused.
    """
    with refusals.in_their_words(lambda place: _place(asked, place)):
        question = _question(asked, service)
        if asked.stream:
            events = service.stream(question)
            first = await unless_disconnected(request, _first(events))
            chunks = _chunks(first, events, asked.model, path=request.url.path)
            return EventSourceResponse(chunks, headers=HEADERS)
        reply = await unless_disconnected(request, service.answer(question))
    message = shapes.ChatAnswer(content=_content(reply), refusal=reply.reason)
    choice = shapes.ChatChoice(message=message, finish_reason=_ended_by(reply))
    return shapes.ChatReply(id=_name(), created=int(time.time()), model=asked.model, choices=[choice], **_beside(reply))


@router.get("/models", responses=refusals.documented(shapes.OpenAIError))
async def models(service: ServiceOf) -> shapes.ModelsReply:
    """The models that the other addresses take: one for each collection, the default one first."""
    return shapes.ModelsReply(data=[_model(service, name) for name in refusals.collections(service)])


@router.get("/models/{model:any_text}", responses=refusals.documented(shapes.OpenAIError, 400, 404))
async def model(
    model: Annotated[str, Path(max_length=wire.MAX_ID_CHARACTERS)], service: ServiceOf
) -> shapes.ModelReply:
    """One of these models."""
    refusals.collection_of(service, model)
    return _model(service, model)


@router.post("/embeddings", responses=_RESPONSES)
async def embeddings(asked: shapes.EmbeddingsRequest, request: Request, service: ServiceOf) -> shapes.EmbeddingsReply:
    """Vectors of texts, of unit length, by the encoder that the collection is searched with.

    A collection without vectors (of BM25 alone, by a model without them) has none to give: then this is a 400.
    """
    collection = refusals.collection_of(service, asked.model)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    most = service.settings.max_retrieve_k
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        refusals.refuse("input", "must be a text, or a list of texts, none of them empty; token ids are not taken")
    if len(texts) > most or max(map(len, texts)) > wire.MAX_PASSAGE_CHARACTERS:
        refusals.refuse("input", f"at most {most} texts of {wire.MAX_PASSAGE_CHARACTERS} characters each")
    vectors = await unless_disconnected(
        request, service.embed(texts, collection, as_questions=asked.input_type == "query")
    )
    if asked.dimensions not in (None, vectors.shape[1]):
        refusals.refuse("dimensions", f"vectors have {vectors.shape[1]} dimensions here: leave it out")
    data = [
        shapes.Embedding(
            index=at,
            embedding=row.tolist()
            if asked.encoding_format == "float"
            else base64.b64encode(row.astype("<f4").tobytes()).decode(),
        )
        for at, row in enumerate(vectors.astype(np.float32))
    ]
    return shapes.EmbeddingsReply(data=data, model=asked.model)


# --- questions -------------------------------------------------------------------------------------------


def _question(asked: shapes.ChatRequest, service: Service) -> wire.AnswerRequest:
    """The question as `/answer` takes it. Raises InvalidOptions for what is not offered, and UnknownModel."""
    collection = refusals.collection_of(service, asked.model)
    given = asked.model_extra or {}
    for name, why in _CANNOT.items():
        if given.get(name) and given[name] != _NOTHING.get(name):
            refusals.refuse(name, why)
    form = given.get("response_format")
    if form and (not isinstance(form, dict) or form.get("type") != "text"):
        refusals.refuse("response_format", "answers are plain text: leave it out")
    options = {name: given[name] for name in _OPTIONS & set(given) if given[name] is not None}
    limits = [most for most in (asked.max_completion_tokens, asked.max_tokens) if most is not None]
    if limits:
        options["max_new_tokens"] = min(*limits, service.settings.max_new_tokens_limit)
    at = _last_of_user(asked.messages)
    values = {"collection": collection, **options, "question": _text(asked.messages[at], f"messages/{at}/content")}
    question: wire.AnswerRequest = refusals.checked(wire.AnswerRequest, values)
    return question


def _last_of_user(messages: list[shapes.ChatMessage]) -> int:
    """The place of the message that is the question. Raises InvalidOptions where there is none."""
    users = [at for at, message in enumerate(messages) if message.role == "user"]
    if not users:
        refusals.refuse("messages", "there is no message of the role user, which would be the question")
    return users[-1]


def _place(asked: shapes.ChatRequest, place: refusals.Place) -> refusals.Place:
    """Where in the request is what was wrong in ours."""
    return ("messages", _last_of_user(asked.messages), "content") if place[:1] == ("question",) else place


def _text(message: shapes.ChatMessage, place: str) -> str:
    """A message's text. Raises InvalidOptions for parts that are none, such as images."""
    if isinstance(message.content, str):
        return message.content
    for at, part in enumerate(message.content or ()):
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            refusals.refuse(f"{place}/{at}", f"only text is read here, not {part.get('type', 'this')!r}")
    return "\n".join(part["text"] for part in message.content or ())


# --- replies ---------------------------------------------------------------------------------------------


def _content(reply: wire.AnswerReply) -> str:
    return reply.answer or ""


def _ended_by(reply: wire.AnswerReply) -> Literal["stop", "length"]:
    return "length" if reply.cut else "stop"


def _beside(reply: wire.AnswerReply) -> dict[str, Any]:
    """What a reply says beside its text."""
    return {
        "citations": [passage for passage in reply.passages if passage.kept],
        "memstore": reply.model_dump(exclude={"answer", "passages"}),
    }


def _name() -> str:
    return f"chatcmpl-{request_id.get()}"


def _model(service: Service, name: str) -> shapes.ModelReply:
    by = service.info(refusals.collection_of(service, name)).model
    return shapes.ModelReply(id=name, owned_by=by.name)


async def _first(events: Events) -> AnswerEvent | None:
    return await anext(events)


async def _chunks(first: AnswerEvent | None, rest: Events, model: str, *, path: str) -> AsyncIterator[bytes]:
    """The events of an answer as chunks of a completion. What fails is one too, as OpenAI's clients expect it."""
    head = {"id": _name(), "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
    try:
        yield _chunk(head, {"role": "assistant", "content": ""})
        event = first
        while not isinstance(event, wire.AnswerReply):
            if event is None:
                yield KEEPALIVE_COMMENT
            elif isinstance(event, TokenEvent):
                yield _chunk(head, {"content": event.text})
            event = await anext(rest)
        if event.reason is not None:
            yield _chunk(head, {"refusal": event.reason})
        beside = {**_beside(event), "citations": [one.model_dump() for one in _beside(event)["citations"]]}
        yield _chunk({**head, **beside}, {}, finish_reason=_ended_by(event))
        yield format_sse_event(data_str="[DONE]")
    except Exception as error:  # noqa: BLE001 - the reply has begun: only an event can say so
        problem, _ = refusals.described(error, path=path)
        yield format_sse_event(data_str=refusals.event(problem))
    finally:
        await rest.aclose()


def _chunk(head: Mapping[str, Any], delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return format_sse_event(data_str=json.dumps({**head, "choices": [choice]}))
