"""What both clients share: requests made of arguments, replies and errors read from responses, when to retry.

Knows the wire and httpx's values. Refuses to send or to wait: that is what the two clients differ in.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar, Unpack
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from memstore_client import changes, errors, served, wire
from memstore_client.options import AnswerOptions

R = TypeVar("R", bound=BaseModel)

FIRST_BACKOFF = 0.25  # seconds before the first retry; doubled for each further one, and jittered by up to as much
READY_WITHIN = 300.0  # seconds; a large model comes from a slow disk
BETWEEN_LOOKS = 0.5  # seconds, at a server that is not ready
LONGEST_WAIT = 10.0  # seconds; a server that asks for more patience gets its error raised instead
API_KEY_VARIABLE = "MEMSTORE_API_KEY"
"""Of the environment: the key where none is given."""
MOST_SHOWN = 200  # characters of an address in a message
# HTTP_PROXY and its kin do not reach a server on this machine, as in Go and browsers
WITHOUT_PROXY: dict[str, None] = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_TRY_LATER = (429, 503)


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A request to send: what, and which reply it has.

    `repeatable` calls may be sent again although the first may have arrived: the GETs, which cost nothing.
    An answer changes nothing either, but costs the server a full answer, so it is repeated only if the first
    certainly did not run.
    """

    method: str
    path: str
    reply: type[R]
    body: bytes | None = None
    repeatable: bool = False
    patient: bool = True  # whether 429 and 503 are worth a retry
    keyed: bool = False  # whether the server's write key goes with it
    streamed: bool = False  # whether its reply, if it succeeds, is a stream of events


class BaseClient:
    """All that does not wait: requests from arguments, replies and errors from responses, when to retry."""

    def __init__(
        self, *, retries: int, timeout: float | None, write_key: str | None, api_key: str | None = None
    ) -> None:
        if retries < 0:
            raise ValueError(f"retries must be 0 or more, not {retries}")
        if timeout is not None and not timeout > 0:  # NaN neither
            raise ValueError(f"timeout must be more than 0 seconds, or None to wait for ever, not {timeout}")
        api_key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key
        for name, key in (("write_key", write_key), ("api_key", api_key)):
            if key is not None and not (key.isascii() and key.isprintable()):
                raise ValueError(f"{name} must be printable ASCII characters, as it is sent in a header")
        self.retries = retries
        self._write_key, self._api_key = write_key, api_key or None

    # --- requests ---

    @staticmethod
    def _answer(question: str, **options: Unpack[AnswerOptions]) -> Call[wire.AnswerReply]:
        body = _body(wire.AnswerRequest, question=question, **_listed(options))
        return Call("POST", "/answer", wire.AnswerReply, body)

    @staticmethod
    def _stream(question: str, **options: Unpack[AnswerOptions]) -> Call[wire.AnswerReply]:
        body = _body(wire.AnswerRequest, question=question, stream=True, **_listed(options))
        return Call("POST", "/answer", wire.AnswerReply, body, streamed=True)

    @staticmethod
    def _answer_batch(
        questions: Sequence[str | wire.QuestionInput], deadline_ms: int | None, collection: str | None
    ) -> Call[wire.AnswerBatchReply]:
        if isinstance(questions, str):  # a sequence of strings too: its letters
            raise errors.BadRequest("questions must be a list of questions, not one string: `answer` asks one")
        asked = [_question(one, collection) for one in questions]
        body = _body(wire.AnswerBatchRequest, questions=asked, deadline_ms=deadline_ms)
        return Call("POST", "/answer/batch", wire.AnswerBatchReply, body)

    @staticmethod
    def _retrieve(question: str, **options: Any) -> Call[wire.RetrieveReply]:
        body = _body(wire.RetrieveRequest, question=question, **options)
        return Call("POST", "/retrieve", wire.RetrieveReply, body)

    @staticmethod
    def _rerank(question: str, **options: Any) -> Call[wire.RerankReply]:
        return Call("POST", "/rerank", wire.RerankReply, _body(wire.RerankRequest, question=question, **options))

    @staticmethod
    def _passage(passage_id: str, collection: str | None) -> Call[wire.PassageReply]:
        path = f"/passages/{_escaped(passage_id, 'passage_id')}{_of(collection)}"
        return Call("GET", path, wire.PassageReply, repeatable=True)

    @staticmethod
    def _health() -> Call[served.HealthReply]:
        return Call("GET", "/health", served.HealthReply, repeatable=True)

    @staticmethod
    def _ready() -> Call[served.ReadyReply]:
        return Call("GET", "/ready", served.ReadyReply, repeatable=True, patient=False)

    @staticmethod
    def _info(collection: str | None) -> Call[served.InfoReply]:
        return Call("GET", f"/info{_of(collection)}", served.InfoReply, repeatable=True)

    @staticmethod
    def _reload(collection: str | None) -> Call[served.ReloadReply]:
        return Call("POST", f"/admin/reload{_of(collection)}", served.ReloadReply, repeatable=True, keyed=True)

    @staticmethod
    def _put_documents(
        documents: Iterable[changes.DocumentInput | Mapping[str, Any]],
        on_existing: changes.OnExisting,
        collection: str | None,
    ) -> Call[changes.JobReply]:
        body = _body(
            changes.PutDocumentsRequest, documents=list(documents), on_existing=on_existing, collection=collection
        )
        return Call("PUT", "/documents", changes.JobReply, body, repeatable=True, keyed=True)

    @staticmethod
    def _delete_documents(ids: Iterable[str], collection: str | None) -> Call[changes.JobReply]:
        if isinstance(ids, str):  # iterable too: its letters
            raise errors.BadRequest("ids must be a list of ids, not one string")
        body = _body(changes.DeleteDocumentsRequest, ids=list(ids), collection=collection)
        return Call("DELETE", "/documents", changes.JobReply, body, repeatable=True, keyed=True)

    @staticmethod
    def _document(document_id: str, collection: str | None) -> Call[changes.DocumentReply]:
        path = f"/documents/{_escaped(document_id, 'document_id')}{_of(collection)}"
        return Call("GET", path, changes.DocumentReply, repeatable=True, keyed=True)

    @staticmethod
    def _job(job_id: str) -> Call[changes.JobReply]:
        return Call("GET", f"/jobs/{_escaped(job_id, 'job_id')}", changes.JobReply, repeatable=True, keyed=True)

    @staticmethod
    def _cancel(job_id: str) -> Call[changes.JobReply]:
        return Call("DELETE", f"/jobs/{_escaped(job_id, 'job_id')}", changes.JobReply, repeatable=True, keyed=True)

    @staticmethod
    def _generations(collection: str | None) -> Call[changes.GenerationsReply]:
        return Call("GET", f"/generations{_of(collection)}", changes.GenerationsReply, repeatable=True, keyed=True)

    @staticmethod
    def _rollback(to: int | None, collection: str | None) -> Call[served.ReloadReply]:
        body = _body(changes.RollbackRequest, to=to, collection=collection)
        return Call("POST", "/admin/rollback", served.ReloadReply, body, keyed=True)

    def _headers(self, call: Call[R]) -> dict[str, str]:
        """What is sent with a call besides its body."""
        replies = "text/event-stream" if call.streamed else "application/json"
        headers = {"Accept": f"{replies}, {wire.PROBLEM_MEDIA_TYPE}"}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        key = self._write_key if call.keyed and self._write_key is not None else self._api_key
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return headers

    # --- replies ---

    def _delay_after(self, call: Call[R], attempt: int, response: httpx.Response) -> float | None:
        """Seconds until the call should be sent again; None if the response is final."""
        if response.status_code not in _TRY_LATER or not call.patient or attempt >= self.retries:
            return None
        advised = _retry_after(response)
        delay = _backoff(attempt) if advised is None else advised
        return delay if delay <= LONGEST_WAIT else None

    def _delay_after_failure(self, call: Call[R], attempt: int, failure: httpx.TransportError) -> float:
        """Seconds until the call should be sent again. Raises if it should not."""
        if attempt < self.retries and (call.repeatable or isinstance(failure, _NEVER_SENT)):
            return _backoff(attempt)
        what = f"{call.method} {failure.request.url}"
        if isinstance(failure, httpx.TimeoutException) and not isinstance(failure, httpx.ConnectTimeout):
            raise errors.Timeout(f"{what}: no reply in time ({type(failure).__name__})") from failure
        hint = "; is `memstore serve` running there?" if _refused(failure) else ""
        raise errors.ConnectionFailed(f"{what}: {failure or type(failure).__name__}{hint}") from failure

    @staticmethod
    def _read(call: Call[R], response: httpx.Response) -> R:
        """The typed reply. Raises the error that the response stands for."""
        if not response.is_success:
            _raise_for(response)
        try:
            return call.reply.model_validate_json(response.content)
        except ValidationError as error:
            raise unreadable(call, response, error) from error


def _question(asked: str | wire.QuestionInput, collection: str | None) -> wire.QuestionInput | dict[str, str | None]:
    """A question of a batch, with the collection of the batch where it names none of its own."""
    if isinstance(asked, str):
        return {"question": asked} if collection is None else {"question": asked, "collection": collection}
    if isinstance(asked, wire.QuestionInput) and asked.collection is None and collection is not None:
        return asked.model_copy(update={"collection": collection})
    return asked


def _listed(options: AnswerOptions) -> dict[str, Any]:
    """The options with passages of any sequence as the list that travels. Raises TypeError for one that is none."""
    if unknown := options.keys() - AnswerOptions.__annotations__.keys():
        raise TypeError(f"there is no option {min(unknown)!r}: see memstore_client.AnswerOptions")
    passages = options.get("passages")
    return {**options, "passages": None if passages is None else list(passages)}


def _of(collection: str | None) -> str:
    """The query of a request that names a collection, and has no body."""
    return "" if collection is None else f"?collection={_escaped(collection, 'collection')}"


def _escaped(name: str, what: str) -> str:
    """An id as a part of a path. Raises BadRequest for one that is no text."""
    try:
        escaped = quote(name, safe="")
    except UnicodeEncodeError as error:
        raise errors.BadRequest(f"{what} {name[:MOST_SHOWN]!a} is no text: {error.reason}") from error
    if escaped in (".", ".."):  # as they are, these would walk up the path
        return escaped.replace(".", "%2E")
    return escaped


def _body(kind: type[wire.Request], **values: Any) -> bytes:
    """The JSON of a request, checked before it is sent; what is None is left out."""
    given = {name: value for name, value in values.items() if value is not None}
    try:
        return kind.model_validate(given).model_dump_json(exclude_defaults=True).encode()
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
        places = (
            f"{'.'.join(map(str, one['loc'])) or 'request'}: {one['msg'].removeprefix('Value error, ')}"
            for one in wrong
        )
        raise errors.BadRequest("; ".join(places)) from error


def server_url(base_url: str) -> httpx.URL:
    """The server's address as httpx reads it. Raises BadRequest for one that HTTP cannot ask."""
    try:
        url = httpx.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise httpx.InvalidURL("base_url must begin with http:// or https:// and a host")
        if url.query or url.fragment:  # the route would be put after them
            raise httpx.InvalidURL("base_url must end before any ? and #")
    except httpx.InvalidURL as error:
        raise unusable(base_url, error) from error
    return url


def unusable(address: str, error: Exception) -> errors.BadRequest:
    """What to raise for an address that httpx can make no URL of, or whose host can have no such name."""
    shown = address if len(address) <= MOST_SHOWN else f"{address[:MOST_SHOWN]}..."
    return errors.BadRequest(f"{shown} is no address that can be asked: {error}")


def undecodable(call: Call[R], error: httpx.DecodingError) -> errors.UnexpectedReply:
    """What to raise for a body that is not compressed as its headers say."""
    return errors.UnexpectedReply(f"{call.method} {error.request.url}: the body cannot be decompressed: {error}")


def unreadable(call: Call[R], response: httpx.Response, error: ValidationError) -> errors.UnexpectedReply:
    """What to raise for a reply, or an event of it, that holds something else than it should."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "the body"
    return errors.UnexpectedReply(
        f"{call.method} {response.url}: not the reply of a memstore server ({place}: {first['msg']})",
        status=response.status_code,
        request_id=response.headers.get(wire.REQUEST_ID_HEADER),
    )


def ended(job: changes.JobReply) -> bool:
    """Whether a change waits and runs no more. Raises ChangeFailed if it failed."""
    if job.state == "failed":
        raise errors.ChangeFailed(f"job {job.id} failed: {job.error}", job=job)
    return job.state in changes.ENDED


def _backoff(attempt: int) -> float:
    """Seconds: doubling, jittered so that clients refused together do not come back together."""
    return FIRST_BACKOFF * 2.0**attempt * (1 + random.random())  # noqa: S311 - no secret


def _refused(failure: BaseException | None) -> bool:
    """Whether nobody listens: the system's reason is the cause of httpx's error, once for each address tried."""
    if isinstance(failure, BaseExceptionGroup):
        return any(map(_refused, failure.exceptions))
    if failure is None or isinstance(failure, ConnectionRefusedError):
        return failure is not None
    return _refused(failure.__cause__ or failure.__context__)


def _retry_after(response: httpx.Response) -> float | None:
    """The header's seconds; None if absent or in its date form, which no memstore server sends."""
    value = str(response.headers.get("Retry-After", ""))
    return float(value) if value.isascii() and value.isdecimal() else None


def _problem(response: httpx.Response) -> wire.Problem | None:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != wire.PROBLEM_MEDIA_TYPE:
        return None
    try:
        return wire.Problem.model_validate_json(response.content)
    except ValidationError:
        return None


def _raise_for(response: httpx.Response) -> NoReturn:
    """Raises the error that a response without success stands for."""
    status, problem = response.status_code, _problem(response)
    request_id = problem.request_id if problem else response.headers.get(wire.REQUEST_ID_HEADER)
    where = f"{response.request.method} {response.url}"
    raise_problem(
        where, status, problem, request_id=request_id, retry_after=_retry_after(response), size=len(response.content)
    )


def raise_problem(
    where: str,
    status: int,
    problem: wire.Problem | None,
    *,
    request_id: str | None,
    retry_after: float | None = None,
    size: int = 0,
) -> NoReturn:
    """Raises the error that a status stands for; `size` is of a body that held no problem, in bytes."""
    said = f"{problem.title}: {problem.detail}" if problem else f"no problem+json, {size} bytes"
    message = f"{where}: {status} {said}"
    if status == 429 or (problem is not None and problem.type in wire.TOO_BUSY):
        raise errors.Overloaded(message, retry_after=retry_after, status=status, problem=problem, request_id=request_id)
    raise _error_of(status)(message, status=status, problem=problem, request_id=request_id)


def _error_of(status: int) -> type[errors.MemstoreClientError]:
    match status:
        case 401:
            return errors.Unauthorized
        case 409:
            return errors.Conflict
        case 404:
            return errors.NotFound
        case 503:
            return errors.NotReady
        case 504:
            return errors.DeadlineExceeded
        case _ if 400 <= status < 500:
            return errors.BadRequest
        case _ if 500 <= status < 600:
            return errors.ServerFailed
        case _:
            return errors.UnexpectedReply
