"""What the routes that change a store offer, without HTTP: documents, jobs, generations. The other half of `service`.

Looks into the store beside the engine, which goes on answering. Refuses to know how documents become passages.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from concurrent.futures import Future
from pathlib import Path

from memstore.errors import FingerprintMismatch, MemstoreError, RequestError, StoreNotFound
from memstore.passage import Passage
from memstore.store import Store, read_generation
from memstore.store.contents import Contents
from memstore.store.history import generations, numbers, rollback
from memstore_client import changes as wire
from memstore_client.wire import ReloadReply
from memstore_server import translate
from memstore_server.changes import Changes
from memstore_server.logs import request_id
from memstore_server.service import Service


class DocumentNotFound(MemstoreError, LookupError):  # noqa: N818 - reads as the fact it states
    """The generation that answers has no document of that id."""


class GenerationNotFound(MemstoreError, LookupError):  # noqa: N818
    """The store has no generation of that number."""


class OtherModel(MemstoreError):  # noqa: N818
    """Another model made a generation: this server could not answer from it."""


class Documents:
    """Documents by their ids, of the generation last asked for. Memory: 33 bytes per passage of it, until closed."""

    def __init__(self, store: Path) -> None:
        self._store, self._lock = store, threading.Lock()
        self._opened: tuple[int, Contents] | None = None

    def passages(self, document_id: str, *, generation: int) -> list[Passage]:
        """Passages of a document in their order in it; also those kept with another document that says the same.

        Raises:
            DocumentNotFound: there is none of that id.
            StoreCorrupt: something is damaged.
        """
        with self._lock:
            contents = self._contents(generation)
            places = contents.documents([document_id]).get(document_id)
            if places is None:
                raise DocumentNotFound(f"no document with id {document_id!r} in generation {generation}")
            found = [contents.passage(row) for row in places.rows]
            for number, record in places.records:
                duplicate = contents.records[number][record]
                if not contents.is_revived(duplicate):
                    words = bytes.fromhex(duplicate.words)
                    row = contents.rows_with_words([words])[words]
                    found.append(dataclasses.replace(duplicate.passage, text=contents.passage(row).text))
        return sorted(found, key=lambda passage: (passage.start, passage.id))

    def close(self) -> None:
        """Let go of the generation; the next request opens the one that it asks for."""
        with self._lock:
            if self._opened is not None:
                self._opened[1].store.close()
                self._opened = None

    def _contents(self, generation: int) -> Contents:
        if self._opened is None or self._opened[0] != generation:
            if self._opened is not None:
                self._opened[1].store.close()
                self._opened = None
            self._opened = (generation, Contents(Store.open(self._store, generation=generation)))
        return self._opened[1]


class Editor:
    """Changes the store of a service. Long changes are jobs, one after another; the rest is done at once."""

    def __init__(self, service: Service) -> None:
        s = service.settings
        self._service, self._store = service, s.store
        self._documents = Documents(s.store)
        service.before_release(self._documents.close)
        self._changes = Changes(
            s.store,
            model=s.model,
            device=s.device,
            threads=s.threads,
            nice=s.write_nice,
            most=s.max_changes,
            changed=self._changed,
        )

    def start_after(self, warm_up: Future[None]) -> None:
        """Begins, with the changes that an earlier server left, unless the warm-up has failed."""
        if warm_up.exception() is None:
            self._changes.start()

    def close(self) -> None:
        """Ends what runs; it is begun again by the next server. Blocks for a moment."""
        self._changes.stop()
        self._documents.close()

    async def put(self, asked: wire.PutDocumentsRequest) -> wire.JobReply:
        """Accepts documents. Raises TooManyChanges, DiskSpaceError."""
        self._service.require_ready()
        lines = await asyncio.to_thread(translate.documents, asked)
        job = await asyncio.to_thread(
            self._changes.begin, "add", lines, documents=len(asked.documents),
            options=("--on-existing", asked.on_existing),
        )  # fmt: skip
        return translate.job(job)

    async def delete(self, asked: wire.DeleteDocumentsRequest) -> wire.JobReply:
        """Accepts a deletion. Raises TooManyChanges, DiskSpaceError."""
        self._service.require_ready()
        lines = (f"{one}\n" for one in asked.ids)
        return translate.job(await asyncio.to_thread(self._changes.begin, "delete", lines, documents=len(asked.ids)))

    async def job(self, job_id: str) -> wire.JobReply:
        """How far a job is. Raises JobNotFound."""
        return translate.job(await asyncio.to_thread(self._changes.job, job_id))

    async def cancel(self, job_id: str) -> wire.JobReply:
        """Ends a job. Raises JobNotFound, NotOurJob."""
        return translate.job(await asyncio.to_thread(self._changes.cancel, job_id))

    async def document(self, document_id: str) -> wire.DocumentReply:
        """A document of the generation that answers. Raises DocumentNotFound."""
        summary = self._service.store_summary
        found = await asyncio.to_thread(self._documents.passages, document_id, generation=summary.generation)
        return wire.DocumentReply(
            id=document_id,
            title=found[0].title,
            url=found[0].url,
            metadata=dict(found[0].metadata),
            passages=[translate.passage(one) for one in found],
            store=summary,
            request_id=request_id.get(),
        )

    async def generations(self) -> wire.GenerationsReply:
        """All that can be gone back to."""
        found = await asyncio.to_thread(generations, self._store)
        return wire.GenerationsReply(
            generations=[wire.GenerationReply(**one) for one in found],
            answering=self._service.store_summary.generation,
            request_id=request_id.get(),
        )

    async def rollback(self, asked: wire.RollbackRequest) -> ReloadReply:
        """Puts an earlier generation in force again, and has it answer.

        Raises:
            GenerationNotFound, RequestError: there is none of that number; there is none before.
            OtherModel: this server could not answer from it. Nothing was changed.
            StoreBusy: another change is under way.
            NotReloaded: it is damaged.
        """
        self._service.require_ready()
        await asyncio.to_thread(self._roll_back, asked.to)
        return await self._service.reload()

    def _roll_back(self, to: int | None) -> None:
        current = read_generation(self._store)
        there = numbers(self._store)
        if to is None:
            before = [number for number in there if number < current.number]
            if not before:
                raise RequestError(f"generation {current.number} is the first: there is none to go back to")
            to = before[-1]
        if to not in there:
            raise GenerationNotFound(f"the store has no generation {to}; it has {', '.join(map(str, there))}")
        try:
            read_generation(self._store, to).fingerprint.require(current.fingerprint)
        except FingerprintMismatch as error:
            raise OtherModel(f"generation {to} is not of this server's model: {error}") from error
        try:
            rollback(self._store, to=to)
        except StoreNotFound as error:  # forgotten since
            raise GenerationNotFound(f"the store has no generation {to} any more") from error

    def _changed(self) -> None:
        """Has the change answer before its job is done; the log says why, if it cannot."""
        try:
            self._service.reload_soon().result()
        except MemstoreError:
            return
