"""Cohere's rerank, which Jina and many others have too."""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter, Request

from memstore_client import wire
from memstore_server.doors import refusals, shapes
from memstore_server.logs import request_id
from memstore_server.routes import ServiceOf, unless_disconnected

router = APIRouter(route_class=refusals.DoorRoute, tags=["Cohere"])


@router.post("/v1/rerank", responses=refusals.documented(shapes.CohereError, *refusals.ASKED))
@router.post("/v2/rerank", include_in_schema=False)
async def rerank_documents(asked: shapes.CohereRequest, request: Request, service: ServiceOf) -> shapes.CohereReply:
    """Score documents of your own for a question, best first, as Cohere's clients ask for it."""
    collection = refusals.collection_of(service, asked.model or shapes.MODEL)
    texts = [_text(document, at) for at, document in enumerate(asked.documents)]
    given = asked.model_extra or {}
    if given.get("relevant_spans"):
        refusals.refuse("relevant_spans", "spans are not marked here: leave it out")
    options = {name: given[name] for name in ("task", "deadline_ms") if given.get(name) is not None}
    values = {"question": asked.query, "collection": collection, **options,
              "passages": [{**one, "id": str(at)} for at, one in enumerate(texts)]}  # fmt: skip
    with refusals.in_their_words(lambda place: _place(asked, place)):
        question: wire.RerankRequest = refusals.checked(wire.RerankRequest, values)
        reply = await unless_disconnected(request, service.rerank(question))
    scores = [one.rerank_score or 0.0 for one in reply.passages]
    results = [
        shapes.CohereResult(
            index=int(one.id),
            relevance_score=share,
            rerank_score=score,
            document=shapes.CohereDocument(text=one.text) if asked.return_documents else None,
        )
        for one, score, share in zip(reply.passages, scores, shares(scores), strict=True)
    ]
    return shapes.CohereReply(
        id=request_id.get(),
        model=asked.model or shapes.MODEL,
        results=results[: asked.top_n],
        meta={"api_version": {"version": "1"}},
    )


def shares(scores: list[float]) -> list[float]:
    """The softmax of scores.

    >>> shares([0.0, 0.0, -1000.0])
    [0.5, 0.5, 0.0]
    """
    highest = max(scores, default=0.0)
    weights = [math.exp(score - highest) for score in scores]
    return [weight / sum(weights) for weight in weights]


def _place(asked: shapes.CohereRequest, place: refusals.Place) -> refusals.Place:
    """Where in the request is what was wrong in ours."""
    match place:
        case ("question", *rest):
            return ("query", *rest)
        case ("passages", int(at), "text") if isinstance(asked.documents[at], str):
            return ("documents", at)
        case ("passages", *rest):
            return ("documents", *rest)
    return place


def _text(document: str | dict[str, Any], at: int) -> dict[str, Any]:
    """A passage of the caller's own. Raises InvalidOptions for an object without a text."""
    if isinstance(document, str):
        return {"text": document}
    if not isinstance(document.get("text"), str):
        refusals.refuse(f"documents/{at}", "must be a text, or an object with a `text`")
    return {name: document[name] for name in ("title", "text") if name in document}
