"""What changes a server's store, for both clients. Needs the server's write key, but for `reload` where it has none.

As `client`, which adds sending and waiting.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from memstore_client import changes, served
from memstore_client.base import BaseClient, Call, ended
from memstore_client.errors import Timeout

R = TypeVar("R", bound=BaseModel)
POLL = 0.5  # seconds between two looks at a job


class ChangingClient(BaseClient):
    """The methods of `Client` that change a store."""

    def put_documents(
        self,
        documents: Iterable[changes.DocumentInput | Mapping[str, Any]],
        *,
        on_existing: changes.OnExisting = "replace",
        collection: str | None = None,
    ) -> changes.JobReply:
        """Puts documents into the store by their ids: new ones are added, changed ones replaced, one generation in all.

        Args:
            documents: `id` and `text`, perhaps `title` and `url`; as many as `info().limits` has bytes for.
            on_existing: "replace" a document that is there and says something else, "skip" it, or "fail".
            collection: which of the server's collections; the first where none is named, as in all of these methods.

        Returns:
            The job that does it, which may wait for others; see `wait`.
        """
        return self._send(self._put_documents(documents, on_existing, collection))

    def delete_documents(self, ids: Iterable[str], *, collection: str | None = None) -> changes.JobReply:
        """Deletes documents by their ids, as a job: one generation in all. Those that are not there are counted."""
        return self._send(self._delete_documents(ids, collection))

    def document(self, document_id: str, *, collection: str | None = None) -> changes.DocumentReply:
        """A document as its passages. Raises NotFound if there is none of that id."""
        return self._send(self._document(document_id, collection))

    def job(self, job_id: str) -> changes.JobReply:
        """How far a change is, or what became of it. Raises NotFound."""
        return self._send(self._job(job_id))

    def cancel(self, job_id: str) -> changes.JobReply:
        """Ends a change, which leaves nothing of it; one that has ended stays as it is."""
        return self._send(self._cancel(job_id))

    def wait(self, job: changes.JobReply, *, timeout: float | None = None) -> changes.JobReply:
        """Waits until a change is done or cancelled, and answers come from its generation.

        Raises:
            ChangeFailed: it failed.
            Timeout: it took more seconds than `timeout`; it goes on.
        """
        late = None if timeout is None else time.monotonic() + timeout
        while not ended(job):
            if late is not None and time.monotonic() >= late:
                raise Timeout(f"job {job.id} is not done after {timeout} s, and goes on: {job.state} {job.stage}")
            self._pause(POLL)
            job = self.job(job.id)
        return job

    def generations(self, *, collection: str | None = None) -> changes.GenerationsReply:
        """The generations of the store, the oldest first, and which one the server answers from."""
        return self._send(self._generations(collection))

    def rollback(self, *, to: int | None = None, collection: str | None = None) -> served.ReloadReply:
        """Puts an earlier generation in force again, by default the one before, and has the server answer from it."""
        return self._send(self._rollback(to, collection))

    def reload(self, *, collection: str | None = None) -> served.ReloadReply:
        """Has the server take up the generation that is in force in its store; ServerFailed if that cannot be used."""
        return self._send(self._reload(collection))

    @abstractmethod
    def _send(self, call: Call[R]) -> R: ...

    @staticmethod
    def _pause(seconds: float) -> None:
        time.sleep(seconds)


class AsyncChangingClient(BaseClient):
    """The methods of `AsyncClient` that change a store."""

    async def put_documents(
        self,
        documents: Iterable[changes.DocumentInput | Mapping[str, Any]],
        *,
        on_existing: changes.OnExisting = "replace",
        collection: str | None = None,
    ) -> changes.JobReply:
        """Puts documents into the store by their ids, as a job; see `Client.put_documents`."""
        return await self._send(self._put_documents(documents, on_existing, collection))

    async def delete_documents(self, ids: Iterable[str], *, collection: str | None = None) -> changes.JobReply:
        """Deletes documents by their ids, as a job: one generation in all. Those that are not there are counted."""
        return await self._send(self._delete_documents(ids, collection))

    async def document(self, document_id: str, *, collection: str | None = None) -> changes.DocumentReply:
        """A document as its passages. Raises NotFound if there is none of that id."""
        return await self._send(self._document(document_id, collection))

    async def job(self, job_id: str) -> changes.JobReply:
        """How far a change is, or what became of it. Raises NotFound."""
        return await self._send(self._job(job_id))

    async def cancel(self, job_id: str) -> changes.JobReply:
        """Ends a change, which leaves nothing of it; one that has ended stays as it is."""
        return await self._send(self._cancel(job_id))

    async def wait(  # `timeout` as everywhere in both clients
        self,
        job: changes.JobReply,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> changes.JobReply:
        """Waits until a change is done or cancelled; see `Client.wait`."""
        late = None if timeout is None else time.monotonic() + timeout
        while not ended(job):
            if late is not None and time.monotonic() >= late:
                raise Timeout(f"job {job.id} is not done after {timeout} s, and goes on: {job.state} {job.stage}")
            await self._pause(POLL)
            job = await self.job(job.id)
        return job

    async def generations(self, *, collection: str | None = None) -> changes.GenerationsReply:
        """The generations of the store, the oldest first, and which one the server answers from."""
        return await self._send(self._generations(collection))

    async def rollback(self, *, to: int | None = None, collection: str | None = None) -> served.ReloadReply:
        """Puts an earlier generation in force again, by default the one before, and has the server answer from it."""
        return await self._send(self._rollback(to, collection))

    async def reload(self, *, collection: str | None = None) -> served.ReloadReply:
        """Has the server take up the generation that is in force in its store; ServerFailed if that cannot be used."""
        return await self._send(self._reload(collection))

    @abstractmethod
    async def _send(self, call: Call[R]) -> R: ...

    @staticmethod
    async def _pause(seconds: float) -> None:
        await asyncio.sleep(seconds)
