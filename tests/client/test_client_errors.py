"""Errors and retries: which reply becomes which error, and what is sent again, when, and how often."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from memstore_client import (
    AsyncClient,
    BadRequest,
    Client,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    MemstoreClientError,
    NotFound,
    NotReady,
    Overloaded,
    Problem,
    ServerFailed,
    Timeout,
    Unauthorized,
    UnexpectedReply,
)
from memstore_client.base import FIRST_BACKOFF, LONGEST_WAIT

HEALTH = httpx.Response(200, json={"status": "alive"})
PASSAGE = {"id": "p", "document_id": "d", "title": "", "text": "t", "url": "", "start": 0, "end": 1}


def problem(status: int, **headers: str) -> httpx.Response:
    body = {"type": "urn:t", "title": "Title", "status": status, "detail": "what", "request_id": "r-1"}
    return httpx.Response(status, json=body, headers={**headers, "Content-Type": "application/problem+json"})


class Server:
    """Gives the scripted outcomes in order, the last one for ever, and counts."""

    def __init__(self, *outcomes: httpx.Response | type[httpx.TransportError]) -> None:
        self.outcomes, self.asked = outcomes, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        outcome = self.outcomes[min(self.asked, len(self.outcomes) - 1)]
        self.asked += 1
        if isinstance(outcome, httpx.Response):
            return httpx.Response(outcome.status_code, headers=outcome.headers, content=outcome.content)
        raise outcome("down", request=request)


class Impatient(Client):
    """Notes its pauses instead of making them."""

    pauses: list[float]

    def _pause(self, seconds: float) -> None:  # type: ignore[override]
        self.pauses.append(seconds)


class ImpatientAsync(AsyncClient):
    """The same, awaited."""

    pauses: list[float]

    async def _pause(self, seconds: float) -> None:  # type: ignore[override]
        self.pauses.append(seconds)


@pytest.fixture(params=["blocking", "awaited"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`ask(server, lambda client: ..., retries=2)`: the result, and the pauses made."""

    def blocking(server: Server, call: Callable[[Client], Any], retries: int = 2) -> tuple[Any, list[float]]:
        with Impatient("http://m", retries=retries, transport=httpx.MockTransport(server)) as client:
            client.pauses = []
            return call(client), client.pauses

    def awaited(server: Server, call: Callable[[AsyncClient], Any], retries: int = 2) -> tuple[Any, list[float]]:
        async def run() -> tuple[Any, list[float]]:
            transport = httpx.MockTransport(server)
            async with ImpatientAsync("http://m", retries=retries, transport=transport) as client:
                client.pauses = []
                return await call(client), client.pauses

        return asyncio.run(run())

    return blocking if request.param == "blocking" else awaited


def health(client: Any) -> Any:
    return client.health()


def passage(client: Any) -> Any:
    return client.passage("p")


def answer(client: Any) -> Any:
    return client.answer("why?")


@pytest.mark.parametrize(
    ("status", "error", "builtin"),
    [
        (400, BadRequest, ValueError),
        (401, Unauthorized, PermissionError),
        (409, Conflict, Exception),
        (404, NotFound, LookupError),
        (405, BadRequest, ValueError),
        (413, BadRequest, ValueError),
        (415, BadRequest, ValueError),
        (422, BadRequest, ValueError),
        (429, Overloaded, MemstoreClientError),
        (500, ServerFailed, MemstoreClientError),
        (501, ServerFailed, MemstoreClientError),
        (502, ServerFailed, MemstoreClientError),
        (503, NotReady, MemstoreClientError),
        (504, DeadlineExceeded, TimeoutError),
    ],
)
def test_a_problem_becomes_its_error(ask, status: int, error: type, builtin: type) -> None:
    with pytest.raises(error) as caught:
        ask(Server(problem(status)), answer, retries=0)
    raised = caught.value
    assert type(raised) is error
    assert isinstance(raised, MemstoreClientError)
    assert isinstance(raised, builtin)
    assert (raised.status, raised.request_id) == (status, "r-1")
    assert raised.problem == Problem(type="urn:t", title="Title", status=status, detail="what", request_id="r-1")
    assert str(raised) == f"POST http://m/answer: {status} Title: what"


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (httpx.Response(502, text="<html>bad gateway"), ServerFailed),
        (httpx.Response(422, content=b"{", headers={"Content-Type": "application/problem+json"}), BadRequest),
        (httpx.Response(422, json=[], headers={"Content-Type": "application/problem+json"}), BadRequest),
        (httpx.Response(302, headers={"Location": "http://elsewhere"}), UnexpectedReply),
        (httpx.Response(200, text="<html>hello"), UnexpectedReply),
        (httpx.Response(200, json={"answer": 5}), UnexpectedReply),
        (httpx.Response(204), UnexpectedReply),
    ],
)
def test_a_reply_that_is_not_ours(ask, response: httpx.Response, error: type) -> None:
    response.headers["X-Request-ID"] = "r-2"
    with pytest.raises(error) as caught:
        ask(Server(response), answer)
    assert type(caught.value) is error
    assert (caught.value.problem, caught.value.request_id) == (None, "r-2")
    assert caught.value.status == response.status_code


def test_a_problem_is_known_however_its_type_is_written(ask) -> None:
    response = problem(422)
    response.headers["Content-Type"] = "Application/Problem+JSON; charset=utf-8"
    with pytest.raises(BadRequest, match="422 Title: what"):
        ask(Server(response), answer)


def test_a_body_that_cannot_be_decompressed_is_not_ours(ask) -> None:
    def garble(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=b"no gzip", request=request)

    with pytest.raises(UnexpectedReply, match="GET http://m/health: the body cannot be decompressed"):
        ask(garble, health)


def test_keys_of_a_newer_server_are_ignored(ask) -> None:
    reply, _ = ask(Server(httpx.Response(200, json={**PASSAGE, "novelty": 1})), passage)
    assert reply.text == "t"


@pytest.mark.parametrize(
    ("failure", "call", "asked", "error"),
    [
        # never sent: safe to send again, whatever it is
        (httpx.ConnectError, answer, 3, ConnectionFailed),
        (httpx.ConnectTimeout, answer, 3, ConnectionFailed),
        (httpx.PoolTimeout, answer, 3, Timeout),
        (httpx.ConnectError, health, 3, ConnectionFailed),
        # may have arrived: only what is looked up
        (httpx.ReadTimeout, answer, 1, Timeout),
        (httpx.WriteTimeout, answer, 1, Timeout),
        (httpx.ReadError, answer, 1, ConnectionFailed),
        (httpx.RemoteProtocolError, answer, 1, ConnectionFailed),
        (httpx.ReadTimeout, passage, 3, Timeout),
        (httpx.RemoteProtocolError, passage, 3, ConnectionFailed),
    ],
)
def test_broken_connections(ask, failure: type, call, asked: int, error: type) -> None:
    server = Server(failure)
    with pytest.raises(error) as caught:
        ask(server, call)
    assert type(caught.value) is error
    assert isinstance(caught.value, TimeoutError if error is Timeout else ConnectionError)
    assert caught.value.status is None
    assert server.asked == asked


@pytest.mark.parametrize("kind", ["overloaded", "too-late"])
def test_a_server_with_too_much_to_do_is_overloaded_and_not_starting(ask, kind: str) -> None:
    body = {"type": f"urn:memstore:problem:{kind}", "title": "T", "status": 503}
    headers = {"Content-Type": "application/problem+json", "Retry-After": "60"}
    with pytest.raises(Overloaded) as caught:
        ask(Server(httpx.Response(503, json=body, headers=headers)), answer)
    assert (caught.value.status, caught.value.retry_after) == (503, 60.0)


@pytest.mark.parametrize(
    ("status", "call", "asked"),
    [
        (429, answer, 3), (503, answer, 3), (429, passage, 3), (503, passage, 3),
        (500, answer, 1), (504, answer, 1), (422, answer, 1), (500, passage, 1), (404, passage, 1),
    ],
)  # fmt: skip
def test_only_try_later_is_tried_later(ask, status: int, call, asked: int) -> None:
    server = Server(problem(status))
    with pytest.raises(MemstoreClientError):
        ask(server, call)
    assert server.asked == asked


def test_a_retry_that_succeeds_is_the_result(ask) -> None:
    server = Server(httpx.ConnectError, problem(429), HEALTH)
    reply, pauses = ask(server, health)
    assert reply.status == "alive"
    assert server.asked == 3
    assert FIRST_BACKOFF <= pauses[0] <= 2 * FIRST_BACKOFF
    assert 2 * FIRST_BACKOFF <= pauses[1] <= 4 * FIRST_BACKOFF


def test_the_servers_advice_is_followed(ask) -> None:
    server = Server(problem(429, **{"Retry-After": "3"}), problem(503, **{"Retry-After": "0"}), HEALTH)
    assert ask(server, health)[1] == [3.0, 0.0]
    longest = Server(problem(429, **{"Retry-After": str(int(LONGEST_WAIT))}), HEALTH)
    assert ask(longest, health)[1] == [LONGEST_WAIT]


def test_a_server_that_asks_for_too_much_patience_is_not_waited_for(ask) -> None:
    server = Server(problem(429, **{"Retry-After": "60"}))
    with pytest.raises(Overloaded) as caught:
        ask(server, answer)
    assert (server.asked, caught.value.retry_after) == (1, 60.0)


@pytest.mark.parametrize("advice", ["soon", "-1", "Wed, 21 Oct 2015 07:28:00 GMT", "²", "٣"])
def test_advice_that_is_no_number_of_seconds_is_ignored(ask, advice: str) -> None:
    server = Server(problem(429, **{"Retry-After": advice.encode()}))
    with pytest.raises(Overloaded) as caught:
        ask(server, answer, retries=1)
    assert (server.asked, caught.value.retry_after) == (2, None)


def test_ready_says_no_without_trying_again(ask) -> None:
    server = Server(problem(503))
    assert ask(server, lambda client: client.ready()) == (False, [])
    assert server.asked == 1
    with pytest.raises(ConnectionFailed):
        ask(Server(httpx.ConnectError), lambda client: client.ready())


def test_a_server_that_starts_is_waited_for(ask) -> None:
    """Also while nobody listens."""
    server = Server(httpx.ConnectError, problem(503), httpx.Response(200, json={"status": "ready"}))
    assert ask(server, lambda client: client.wait_until_ready(), retries=0)[0] is None
    assert server.asked == 3
    with pytest.raises(Timeout, match=r"not ready after 0 s: .*Title"):
        ask(Server(problem(503)), lambda client: client.wait_until_ready(timeout=0))


def test_no_retries_is_no_retries(ask) -> None:
    server = Server(httpx.ConnectError)
    with pytest.raises(ConnectionFailed, match="GET http://m/health: down"):
        ask(server, health, retries=0)
    assert server.asked == 1


REFUSED = ConnectionRefusedError(111, "Connection refused")


@pytest.mark.parametrize(
    ("cause", "hinted"),
    [
        (REFUSED, True),
        (ExceptionGroup("one for each address", [REFUSED, ConnectionRefusedError()]), True),  # as anyio has it
        (OSError(113, "No route to host"), False),
        (None, False),
    ],
)
def test_a_refused_connection_asks_whether_the_server_runs(ask, cause: Exception | None, hinted: bool) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("down", request=request) from cause

    with pytest.raises(ConnectionFailed) as caught:
        ask(refuse, health, retries=0)
    assert str(caught.value) == "GET http://m/health: down" + "; is `memstore serve` running there?" * hinted


def test_nobody_listening_is_a_refused_connection_over_sockets_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def awaited() -> None:
        async with AsyncClient(f"http://127.0.0.1:{port}", retries=0) as client:
            await client.health()

    with Client(f"http://127.0.0.1:{port}", retries=0) as client:
        for call in (client.health, lambda: asyncio.run(awaited())):
            with pytest.raises(ConnectionFailed, match="is `memstore serve` running there"):
                call()


def test_a_negative_number_of_retries_is_refused() -> None:
    with pytest.raises(ValueError, match="retries must be 0 or more, not -1"):
        Client("http://m", retries=-1)


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_that_leaves_no_time_is_refused(client: type, timeout: float) -> None:
    with pytest.raises(
        ValueError, match=f"timeout must be more than 0 seconds, or None to wait for ever, not {timeout}"
    ):
        client("http://m", timeout=timeout)
