"""A streamed answer over HTTP: events as server-sent events (HTML standard, section 9.2), one JSON object each.

Refuses to know what happens when: the events come from the service.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from memstore_client.events import ERROR, KINDS, NAMES, AnswerEvent
from memstore_server import problems
from memstore_server.hearing import Events

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter for nginx, which else collects


async def response(events: Events, request: Request) -> EventSourceResponse:
    """Sends the events of an answer, once the first one is there. What fails after it becomes an `error` event.

    Raises:
        Exception: what failed before the first event.
    """
    first = await anext(events)
    return EventSourceResponse(_sent(first, events, request.url.path), headers=HEADERS)


async def _sent(first: AnswerEvent | None, rest: Events, path: str) -> AsyncIterator[bytes]:
    try:
        yield _encoded(first)
        async for event in rest:
            yield _encoded(event)
    except Exception as error:  # noqa: BLE001 - the reply has begun: only an event can say so
        body, _ = problems.problem(error, path=path)
        yield format_sse_event(event=ERROR, data_str=json.dumps(body.model_dump()))
    finally:
        await rest.aclose()  # a client that hung up ends the work


def _encoded(event: AnswerEvent | None) -> bytes:
    if event is None:
        return KEEPALIVE_COMMENT
    return format_sse_event(event=NAMES[type(event)], data_str=event.model_dump_json())


def documented(replies: Mapping[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that can stream answers too, for the OpenAPI document. Its version, 3.1, has no word for
    what is in an event: `x-events` names the schemas.
    """
    names = {name: kind.__name__ for name, kind in KINDS.items()} | {ERROR: "Problem"}
    events = {name: {"$ref": f"#/components/schemas/{schema}"} for name, schema in names.items()}
    one = {
        "type": "object",
        "description": "With `stream`: server-sent events, each with one JSON object as its data. This is one of them.",
        "properties": {
            "event": {"type": "string", "enum": list(names)},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
        "required": ["event", "data"],
    }
    stream = {"schema": one, "x-events": events}
    return {**replies, 200: {**replies[200], "content": {"text/event-stream": stream}}}
