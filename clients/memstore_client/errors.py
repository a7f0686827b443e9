"""What can go wrong when asking a server: one root, each error also inheriting the builtin it resembles.

Knows the problems a server replies with; refuses to know how requests are sent.
"""

from __future__ import annotations

from memstore_client.changes import JobReply
from memstore_client.wire import Problem


class MemstoreClientError(Exception):
    """Root of all errors of the client.

    Attributes:
        status: HTTP status of the reply; None where there was none.
        problem: the server's own account; None where there was none or it was not problem+json.
        request_id: the id under which the server logged the request; None where no reply came.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        problem: Problem | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.problem, self.request_id = status, problem, request_id


class ConnectionFailed(MemstoreClientError, ConnectionError):  # noqa: N818 - reads as the fact it states
    """No connection to the server, or it broke before a whole reply came."""


class Timeout(MemstoreClientError, TimeoutError):  # noqa: N818
    """No reply within the client's own `timeout`. The server may still be working on it."""


class BadRequest(MemstoreClientError, ValueError):  # noqa: N818
    """The request cannot be served as asked (400, 413, 422 and other 4xx), or is wrong before being sent.

    Also raised by the clients themselves for a `base_url` that is none.
    """


class Unauthorized(MemstoreClientError, PermissionError):  # noqa: N818
    """The server's write key is needed, and was not given or is another one (401)."""


class Conflict(MemstoreClientError):  # noqa: N818
    """The store is not in a state for this (409): it is being changed, or `problem.type` says what else."""


class ChangeFailed(MemstoreClientError):  # noqa: N818
    """A change of the store failed; `job` says why. The former generation is in force."""

    def __init__(self, message: str, *, job: JobReply) -> None:
        super().__init__(message)
        self.job = job


class NotFound(MemstoreClientError, LookupError):  # noqa: N818
    """The server has no passage, document, job or generation of that name (404), or no such route: `problem.type` says
    which. A server without a write key has no routes that change its store.
    """


class Overloaded(MemstoreClientError):  # noqa: N818
    """The server has too much to do: its queue is full (503), this cannot be done by its deadline (503), or too many
    changes wait (429). Nothing was computed.

    `retry_after` is its advice in seconds, None if it gave none.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        status: int | None = None,
        problem: Problem | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, status=status, problem=problem, request_id=request_id)
        self.retry_after = retry_after


class NotReady(MemstoreClientError):  # noqa: N818
    """The server is starting or shutting down, or can only be restarted (503; not one that is `Overloaded`)."""


class DeadlineExceeded(MemstoreClientError, TimeoutError):  # noqa: N818
    """The answer was not ready by the request's own `deadline_ms` (504)."""


class ServerFailed(MemstoreClientError):  # noqa: N818
    """The server failed (500, 501, 502 and other 5xx). Its log names the cause under `request_id`."""


class UnexpectedReply(MemstoreClientError, ValueError):  # noqa: N818
    """The reply is not what a memstore server sends: another service, a proxy, or an incompatible release."""
