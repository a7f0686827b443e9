"""Every error that a client can get, as RFC 9457 problem+json: a table of kinds, a function that chooses.

The only place that knows both our exceptions and HTTP statuses. Refuses to show a client what is inside: what
was not foreseen is one kind, `internal`, whose cause is in the log under the request's id.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import Scope

from memstore.errors import (
    DiskSpaceError,
    MemstoreError,
    NotWritable,
    PassageNotFound,
    RequestError,
    StoreBusy,
    StoreCorrupt,
    StoreUnreachable,
)
from memstore_client.wire import PROBLEM_MEDIA_TYPE, REQUEST_ID_HEADER, FieldProblem, Problem
from memstore_server.admission import Overloaded, TooLate
from memstore_server.batching import DeadlineExceeded, EngineStopped
from memstore_server.changes import JobNotFound, NotOurJob, TooManyChanges
from memstore_server.collection import UnknownCollection
from memstore_server.editing import DocumentNotFound, GenerationNotFound, OtherModel
from memstore_server.keyring import TooManyRequests, Unauthorized
from memstore_server.kinds import NOT_READY as NOT_READY
from memstore_server.kinds import Kind as Kind
from memstore_server.logs import request_id
from memstore_server.reloading import NotReloaded
from memstore_server.service import NotReady
from memstore_server.translate import InvalidOptions, in_words

log = logging.getLogger(__name__)
_PLAIN_IN_PATHS = "/:@!$&'()*+,;=~"  # RFC 3986, 3.3
MAX_ERRORS_SHOWN = 20  # a batch may be wrong in thousands of places; the first ones say what to do
CLIENT_CLOSED_REQUEST = 499  # nobody reads it: it is for the log, where such requests are usually so marked


class ClientDisconnected(Exception):  # noqa: N818 - reads as the fact it states
    """The client hung up before its reply was ready. There is nobody left to reply to."""


UNREADABLE_BODY = Kind("unreadable-body", 400, "The body cannot be read as JSON")
UNAUTHORIZED = Kind("unauthorized", 401, "This needs a key of the server's")
TOO_MANY_REQUESTS = Kind("too-many-requests", 429, "This key has asked too often")
NO_SUCH_ROUTE = Kind("no-such-route", 404, "There is nothing at this address")
PASSAGE_NOT_FOUND = Kind("passage-not-found", 404, "No such passage")
DOCUMENT_NOT_FOUND = Kind("document-not-found", 404, "No such document")
COLLECTION_NOT_FOUND = Kind("collection-not-found", 404, "No such collection")
JOB_NOT_FOUND = Kind("job-not-found", 404, "No such job")
GENERATION_NOT_FOUND = Kind("generation-not-found", 404, "No such generation")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "This address does not take this method")
STORE_BUSY = Kind("store-busy", 409, "The store is being changed")
OTHER_SERVER = Kind("other-server", 409, "Another server runs this")
OTHER_MODEL = Kind("other-model", 409, "Another model made this generation")
BODY_TOO_LARGE = Kind("body-too-large", 413, "The body is too large")
NOT_JSON = Kind("not-json", 415, "The body is not declared as JSON")
INVALID_REQUEST = Kind("invalid-request", 422, "The request is not valid")
IMPOSSIBLE_REQUEST = Kind("impossible-request", 422, "The request cannot be served as asked")
OVERLOADED = Kind("overloaded", 503, "Too many questions are waiting")
TOO_LATE = Kind("too-late", 503, "This cannot be done by its deadline")
TOO_MANY_CHANGES = Kind("too-many-changes", 429, "Too many changes are waiting")
INTERNAL = Kind("internal", 500, "The server failed")
STORE_DAMAGED = Kind("store-damaged", 500, "The store is damaged")
NOT_RELOADED = Kind("not-reloaded", 500, "The store's generation could not be taken up")
DEADLINE_EXCEEDED = Kind("deadline-exceeded", 504, "The deadline passed before there was an answer")
STORE_UNREACHABLE = Kind("store-unreachable", 503, "The store's object storage cannot be reached")
STORE_READ_ONLY = Kind("store-read-only", 507, "The store may not be written")
NO_ROOM = Kind("no-room", 507, "The disk is full")

KINDS = (
    UNREADABLE_BODY, UNAUTHORIZED, NO_SUCH_ROUTE, PASSAGE_NOT_FOUND, DOCUMENT_NOT_FOUND, COLLECTION_NOT_FOUND,
    TOO_MANY_REQUESTS, JOB_NOT_FOUND, GENERATION_NOT_FOUND, METHOD_NOT_ALLOWED, STORE_BUSY, OTHER_SERVER,
    OTHER_MODEL, BODY_TOO_LARGE, NOT_JSON, INVALID_REQUEST, IMPOSSIBLE_REQUEST, OVERLOADED, TOO_LATE,
    TOO_MANY_CHANGES, INTERNAL, STORE_DAMAGED, NOT_RELOADED, NOT_READY, DEADLINE_EXCEEDED, NO_ROOM,
    STORE_UNREACHABLE, STORE_READ_ONLY,
)  # fmt: skip
_TRY_LATER = (TOO_MANY_REQUESTS, OVERLOADED, TOO_LATE, NOT_READY, STORE_BUSY, TOO_MANY_CHANGES, STORE_UNREACHABLE)
_FOR_OPERATORS = (STORE_UNREACHABLE, STORE_READ_ONLY)  # logged too: no client can mend these
_CHANGE_SECONDS = "5"  # a short change's time
_STORAGE_SECONDS = "10"  # the store itself has tried for longer than that already
_REQUEST_ID = {
    "description": "Under which the server logs the request: the client's own, if it sent a sane one in this header.",
    "schema": {"type": "string"},
}
_LOCATION = {"description": "Of the job that was accepted.", "schema": {"type": "string"}}
_RETRY_AFTER = {"description": "Seconds until it may be worth another try.", "schema": {"type": "integer"}}
_BY_HTTP_STATUS = {400: UNREADABLE_BODY, 404: NO_SUCH_ROUTE, 405: METHOD_NOT_ALLOWED, 413: BODY_TOO_LARGE}


@dataclass(frozen=True, slots=True)
class Trouble:
    """A problem before it is bound to a request."""

    kind: Kind
    detail: str
    errors: Sequence[FieldProblem] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def describe(error: Exception) -> Trouble:
    """What to say to the client about an error: one case per policy, the unforeseen last."""
    match error:
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            return _refused(error)
        case PassageNotFound():
            return Trouble(PASSAGE_NOT_FOUND, str(error))
        case Unauthorized():
            return Trouble(UNAUTHORIZED, str(error), headers={"WWW-Authenticate": "Bearer"})
        case TooManyRequests():
            return Trouble(TOO_MANY_REQUESTS, str(error), headers={"Retry-After": str(error.retry_after)})
        case DocumentNotFound():
            return Trouble(DOCUMENT_NOT_FOUND, str(error))
        case UnknownCollection():
            return Trouble(COLLECTION_NOT_FOUND, str(error))
        case JobNotFound():
            return Trouble(JOB_NOT_FOUND, str(error))
        case GenerationNotFound():
            return Trouble(GENERATION_NOT_FOUND, str(error))
        case OtherModel():
            return Trouble(OTHER_MODEL, str(error))
        case NotOurJob():
            return Trouble(OTHER_SERVER, str(error))
        case StoreBusy():
            return Trouble(STORE_BUSY, "Another change is under way.", headers={"Retry-After": _CHANGE_SECONDS})
        case TooManyChanges():
            return Trouble(TOO_MANY_CHANGES, str(error), headers={"Retry-After": _CHANGE_SECONDS})
        case DiskSpaceError():
            return Trouble(NO_ROOM, "There is no room for it on the server's disk: nothing was changed.")
        case NotWritable():
            said = "The server may not write to the store, so nothing was changed: make it writable for the server."
            return Trouble(STORE_READ_ONLY, said)
        case StoreUnreachable():
            said = "The object storage that holds the store does not answer: try again later."
            return Trouble(STORE_UNREACHABLE, said, headers={"Retry-After": _STORAGE_SECONDS})
        case InvalidOptions():
            return Trouble(INVALID_REQUEST, str(error), error.errors)
        case RequestError():
            return Trouble(IMPOSSIBLE_REQUEST, str(error))
        case Overloaded():
            return Trouble(OVERLOADED, str(error), headers={"Retry-After": str(error.retry_after)})
        case TooLate():
            return Trouble(TOO_LATE, str(error), headers={"Retry-After": str(error.retry_after)})
        case NotReady() | EngineStopped():
            return Trouble(NOT_READY, str(error), headers={"Retry-After": "1"})
        case DeadlineExceeded():
            return Trouble(DEADLINE_EXCEEDED, str(error))
        case NotReloaded():
            return Trouble(NOT_RELOADED, str(error))
        case StoreCorrupt():
            return Trouble(STORE_DAMAGED, "The server's log names the damage under this request's id.")
        case _:
            return Trouble(INTERNAL, "The server's log names the cause under this request's id.")


def problem(error: Exception, *, path: str) -> tuple[Problem, Mapping[str, str]]:
    """The problem to reply with, and its headers; logs the cause if the server is at fault."""
    trouble = describe(error)
    if trouble.kind.status == 500 or trouble.kind in _FOR_OPERATORS:
        unforeseen = trouble.kind is INTERNAL  # of the others the message says all that there is to do
        log.error("%s: %s", trouble.kind.name, error, exc_info=error if unforeseen else None)
    body = Problem(
        type=trouble.kind.type,
        title=trouble.kind.title,
        status=trouble.kind.status,
        detail=trouble.detail,
        instance=quote(path, safe=_PLAIN_IN_PATHS),
        request_id=request_id.get(),
        errors=list(trouble.errors),
    )
    return body, trouble.headers


def problem_response(error: Exception, *, path: str) -> Response:
    """The reply to a request that ended in `error`."""
    body, headers = problem(error, path=path)
    content = json.dumps(body.model_dump())  # ASCII: lone surrogates of a wrong request can be quoted too
    return Response(content, status_code=body.status, media_type=PROBLEM_MEDIA_TYPE, headers=dict(headers))


def install(app: FastAPI, reply: Callable[[Exception, Scope], Response]) -> None:
    """Has the app reply to errors so. The unforeseen are caught further out, in middleware."""

    async def replied(request: Request, error: Exception) -> Response:
        return reply(error, request.scope)

    async def nobody_listens(_request: Request, _error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    for handled in (RequestValidationError, HTTPException, MemstoreError):
        app.add_exception_handler(handled, replied)
    app.add_exception_handler(ClientDisconnected, nobody_listens)


def documented(*kinds: Kind, success: int = 200) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route for the OpenAPI document: these kinds, and the default that every route has."""
    headers = {REQUEST_ID_HEADER: _REQUEST_ID, **({"Location": _LOCATION} if success == 202 else {})}
    replies: dict[int | str, dict[str, Any]] = {success: {"headers": headers}}
    for status in sorted({kind.status for kind in kinds}):
        said = ", or: ".join(f"{kind.title} (`{kind.type}`)" for kind in kinds if kind.status == status)
        later = any(kind in _TRY_LATER for kind in kinds if kind.status == status)
        replies[status] = _documented(said, retry_after=later)
    replies["default"] = _documented("Any other problem", retry_after=False)
    return replies


def _documented(description: str, *, retry_after: bool) -> dict[str, Any]:
    headers = {REQUEST_ID_HEADER: _REQUEST_ID, **({"Retry-After": _RETRY_AFTER} if retry_after else {})}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "headers": headers, "content": {PROBLEM_MEDIA_TYPE: {"schema": schema}}}


def _refused(error: HTTPException) -> Trouble:
    """What the framework or the middleware refused before a handler ran."""
    kind = _BY_HTTP_STATUS.get(error.status_code, INTERNAL)
    details = {
        UNREADABLE_BODY: "The body is not JSON text in UTF-8.",
        NO_SUCH_ROUTE: "See /docs for what there is.",
        METHOD_NOT_ALLOWED: f"Allowed: {(error.headers or {}).get('Allow', 'see /docs')}.",
    }
    return Trouble(kind, details.get(kind, error.detail), headers=error.headers or {})


def _invalid(error: RequestValidationError) -> Trouble:
    """Each wrong part by its place. The values themselves are not repeated."""
    errors: list[dict[str, Any]] = list(error.errors())
    first = errors[0]
    if first["type"] == "json_invalid":
        where = first["loc"][-1]
        return Trouble(UNREADABLE_BODY, f"Not JSON, at character {where}: {first['ctx']['error']}.")
    if first["type"] == "model_attributes_type" and isinstance(error.body, bytes):
        return Trouble(NOT_JSON, "Send the header `Content-Type: application/json`.")
    shown = [_field_problem(one) for one in errors[:MAX_ERRORS_SHOWN]]
    detail = "; ".join(map(in_words, shown[:3]))
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    return Trouble(INVALID_REQUEST, detail + more, shown)


def _field_problem(error: Mapping[str, Any]) -> FieldProblem:
    """A JSON pointer (RFC 6901) into the body as a URI fragment, and pydantic's message or ours."""
    place = [str(part).replace("~", "~0").replace("/", "~1") for part in error["loc"] if part != "body"]
    match error["type"]:
        case "extra_forbidden":
            message = "this key is not known"
        case "model_attributes_type" | "model_type" | "missing" if not place:
            message = "the body must be a JSON object"
        case "model_attributes_type" | "model_type":
            message = "must be a JSON object"
        case _:
            message = str(error["msg"]).removeprefix("Value error, ")
    return FieldProblem(pointer="".join(["#", *(f"/{part}" for part in place)]), detail=message)
