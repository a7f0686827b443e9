"""Errors in the shapes of other APIs: the same kinds of problems as everywhere, said as their clients read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from memstore.errors import MemstoreError
from memstore_client.wire import FieldProblem, Problem
from memstore_server import problems
from memstore_server.doors import shapes
from memstore_server.service import Service
from memstore_server.translate import InvalidOptions


class UnknownModel(MemstoreError, LookupError):  # noqa: N818 - reads as the fact it states
    """A request names a model that `/v1/models` does not list."""


def refuse(name: str, why: str) -> NoReturn:
    """Refuses a field of a request. Raises InvalidOptions."""
    raise InvalidOptions([FieldProblem(pointer=f"#/{name}", detail=why)])


def checked(kind: type[BaseModel], values: Mapping[str, Any]) -> Any:
    """One of our own requests, made of another API's. Raises RequestValidationError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def collections(service: Service) -> dict[str, str]:
    """The collection behind each model that is offered; the default one first."""
    first, *others = service.collections
    return {shapes.MODEL: first} | {f"{shapes.MODEL}/{name}": name for name in others}


def collection_of(service: Service, model: str) -> str:
    """The collection that a request's model stands for. Raises UnknownModel."""
    known = collections(service)
    if model not in known:
        raise UnknownModel(f"there is no model {model!r} here: ask for {' or '.join(map(repr, known))}")
    return known[model]


class _DoorRoute(APIRoute):
    """A route whose errors have the shape of another API."""

    shape: Callable[[Problem], dict[str, Any]]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route, with its errors as replies."""
        handle = super().get_route_handler()

        async def shaped(request: Request) -> Response:
            service: Service = request.app.state.service
            try:
                if request.method == "POST":
                    service.require_room()
                return await handle(request)
            except problems.ClientDisconnected:
                raise
            except Exception as error:  # noqa: BLE001 - the policies are those of `problems`
                problem, headers = described(error, path=request.url.path)
                return JSONResponse(type(self).shape(problem), problem.status, dict(headers))

        return shaped


def described(error: Exception, *, path: str) -> tuple[Problem, Mapping[str, str]]:
    """The problem as everywhere, but that what is wrong with a request is a 400, as in these APIs."""
    if isinstance(error, UnknownModel):
        kind = "urn:memstore:problem:model-not-found"
        return Problem(type=kind, title="No such model", status=404, detail=str(error)), {}
    problem, headers = problems.problem(error, path=path)
    if problem.status in (415, 422):
        problem = problem.model_copy(update={"status": 400})
    return problem, headers


def openai_error(problem: Problem) -> dict[str, Any]:
    """A problem as OpenAI's clients read it."""
    param = problem.errors[0].pointer.removeprefix("#").strip("/") if problem.errors else ""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        problem.status, "server_error" if problem.status >= 500 else "invalid_request_error"
    )
    error = shapes.OpenAIProblem(
        message=said(problem), type=kind, param=param or None, code=problem.type.rpartition(":")[2].replace("-", "_")
    )
    return shapes.OpenAIError(error=error).model_dump()


def cohere_error(problem: Problem) -> dict[str, Any]:
    """A problem as Cohere's clients read it."""
    return shapes.CohereError(id=problem.request_id, message=said(problem)).model_dump()


def said(problem: Problem) -> str:
    """A problem in one line; ASCII where it quotes half a character, which no JSON in UTF-8 can hold."""
    text = f"{problem.title}: {problem.detail}" if problem.detail else problem.title
    return text.encode("utf-8", "backslashreplace").decode()


class OpenAIRoute(_DoorRoute):
    """A route of OpenAI's API."""

    shape = staticmethod(openai_error)


class CohereRoute(_DoorRoute):
    """A route of Cohere's API."""

    shape = staticmethod(cohere_error)


ASKED = (400, 404, 413, 429, 500, 503, 504)
"""Statuses of errors of whatever asks the engine."""


def documented(error: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route for the OpenAPI document: errors of these statuses, and of any other."""
    said = {"model": error, "description": "The kinds of errors that `/answer` has, with 400 in the place of 422."}
    return dict.fromkeys(statuses, said) | {"default": said}


def event(problem: Problem) -> str:
    """A problem in the middle of a stream, as the JSON of an event."""
    return json.dumps(openai_error(problem))
