"""Errors in the shapes of other APIs: the same kinds of problems as everywhere, said as their clients read it.

`reply` is for every error of the server, whoever finds it: by its address a request is a client's of OpenAI, of Cohere,
or of our own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Scope

from memstore_client.wire import FieldProblem, Problem
from memstore_server import problems
from memstore_server.collection import UnknownCollection
from memstore_server.doors import shapes
from memstore_server.doors.wording import openai_error as openai_error
from memstore_server.doors.wording import shape_of
from memstore_server.service import Service
from memstore_server.translate import InvalidOptions

Place = tuple[int | str, ...]
"""Of a value in a body: keys and positions, from outside."""


class UnknownModel(UnknownCollection):
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


@contextmanager
def in_their_words(theirs: Callable[[Place], Place]) -> Iterator[None]:
    """Has errors name the fields that were sent, where our own request that was made of them has other names.

    Args:
        theirs: the place in what was sent of a place in our request.
    """
    try:
        yield
    except RequestValidationError as error:
        moved = [{**one, "loc": theirs(tuple(one["loc"]))} for one in error.errors()]
        raise RequestValidationError(moved) from error
    except InvalidOptions as error:
        raise InvalidOptions([_moved(one, theirs) for one in error.errors]) from error


def _moved(error: FieldProblem, theirs: Callable[[Place], Place]) -> FieldProblem:
    place = theirs(tuple(int(part) if part.isdecimal() else part for part in error.pointer.split("/")[1:]))
    return FieldProblem(pointer="/".join(["#", *map(str, place)]), detail=error.detail)


class DoorRoute(APIRoute):
    """A route of another API: where the queue is full, it refuses without having read anything."""

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
                return reply(error, request.scope)

        return shaped


def reply(error: Exception, scope: Scope) -> Response:
    """The reply to a request that ended in an error, as the clients of its address read it; counts it."""
    if "app" in scope:  # else no application has seen it
        service: Service = scope["app"].state.service
        service.metrics.problem(problems.describe(error).kind.name)
    path = str(scope["path"])
    shape = shape_of(path.removeprefix(scope.get("root_path", "")))
    if shape is None:
        return problems.problem_response(error, path=path)
    problem, headers = described(error, path=path)
    return JSONResponse(shape(problem), problem.status, dict(headers))


def described(error: Exception, *, path: str) -> tuple[Problem, Mapping[str, str]]:
    """The problem as everywhere, but that what is wrong with a request is a 400, as in these APIs."""
    if isinstance(error, UnknownModel):
        kind = "urn:memstore:problem:model-not-found"
        return Problem(type=kind, title="No such model", status=404, detail=str(error)), {}
    problem, headers = problems.problem(error, path=path)
    if problem.status in (415, 422):
        problem = problem.model_copy(update={"status": 400})
    return problem, headers


ASKED = (400, 401, 404, 413, 429, 500, 503, 504)
"""Statuses of errors of whatever asks the engine."""


def documented(error: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route for the OpenAPI document: errors of these statuses, and of any other."""
    said = {"model": error, "description": "The kinds of errors that `/answer` has, with 400 in the place of 422."}
    return dict.fromkeys(statuses, said) | {"default": said}


def event(problem: Problem) -> str:
    """A problem in the middle of a stream, as the JSON of an event."""
    return json.dumps(openai_error(problem))
