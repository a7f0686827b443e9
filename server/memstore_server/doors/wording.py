"""A problem in the words of OpenAI's and Cohere's APIs. Knows shapes only: it is needed before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memstore_client.wire import Problem
from memstore_server.doors import shapes

_OF_OPENAI, _OF_COHERE = "/v1", ("/v1/rerank", "/v2/rerank")  # where their addresses are
_OPENAI_CODES = {"unauthorized": "invalid_api_key", "too-many-requests": "rate_limit_exceeded"}
"""Where programs look for OpenAI's own word; elsewhere `code` is ours."""


def shape_of(path: str) -> Callable[[Problem], dict[str, Any]] | None:
    """How the errors of an address look; None for problem+json."""
    if path in _OF_COHERE:
        return cohere_error
    return openai_error if f"{path}/".startswith(f"{_OF_OPENAI}/") else None


def openai_error(problem: Problem) -> dict[str, Any]:
    """A problem as OpenAI's clients read it."""
    param = problem.errors[0].pointer.removeprefix("#").strip("/") if problem.errors else ""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        problem.status, "server_error" if problem.status >= 500 else "invalid_request_error"
    )
    name = problem.type.rpartition(":")[2]
    code = _OPENAI_CODES.get(name, name.replace("-", "_"))
    error = shapes.OpenAIProblem(message=said(problem), type=kind, param=param or None, code=code)
    return shapes.OpenAIError(error=error).model_dump()


def cohere_error(problem: Problem) -> dict[str, Any]:
    """A problem as Cohere's clients read it."""
    return shapes.CohereError(id=problem.request_id, message=said(problem)).model_dump()


def said(problem: Problem) -> str:
    """A problem in one line; ASCII where it quotes half a character, which no JSON in UTF-8 can hold."""
    text = f"{problem.title}: {problem.detail}" if problem.detail else problem.title
    return text.encode("utf-8", "backslashreplace").decode()
