"""What the routes that change a store offer, without HTTP: documents, jobs, generations. The other half of `service`.

Looks into the store beside the engine, which goes on answering. Refuses to know how documents become passages.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from concurrent.futures import Future
from pathlib import Path

from memstore.errors import FingerprintMismatch, MemstoreError, RequestError, StoreNotFound
from memstore.passage import Passage
from memstore.store import Store, read_generation
from memstore.store.contents import Contents
from memstore.store.history import generations, numbers
from memstore.store.working import rollback
from memstore_client import changes as wire
from memstore_client.served import ReloadReply
from memstore_server import translate
from memstore_server.changes import Changes, JobNotFound
from memstore_server.collection import Collection, named
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
    """Changes a collection of a service. Long changes are jobs, one after another; the rest is done at once."""

    def __init__(self, service: Service, collection: Collection, *, turn: threading.Lock) -> None:
        s = service.settings
        self._service, self._collection, self._store = service, collection.name, collection.store
        self._documents = Documents(self._store)
        collection.reloader.before_release.append(self._documents.close)
        self._changes = Changes(
            self._store,
            model=s.model_of(collection.name),
            device=s.write_device or s.device,
            threads=s.threads,
            nice=s.write_nice,
            most=s.max_changes,
            changed=self._changed,
            turn=turn,
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
        return translate.job(job, self._collection)

    async def delete(self, asked: wire.DeleteDocumentsRequest) -> wire.JobReply:
        """Accepts a deletion. Raises TooManyChanges, DiskSpaceError."""
        self._service.require_ready()
        lines = (f"{one}\n" for one in asked.ids)
        job = await asyncio.to_thread(self._changes.begin, "delete", lines, documents=len(asked.ids))
        return translate.job(job, self._collection)

    async def job(self, job_id: str) -> wire.JobReply:
        """How far a job is. Raises JobNotFound."""
        return translate.job(await asyncio.to_thread(self._changes.job, job_id), self._collection)

    async def cancel(self, job_id: str) -> wire.JobReply:
        """Ends a job. Raises JobNotFound, NotOurJob."""
        return translate.job(await asyncio.to_thread(self._changes.cancel, job_id), self._collection)

    async def document(self, document_id: str) -> wire.DocumentReply:
        """A document of the generation that answers. Raises DocumentNotFound."""
        summary = self._service.store_summary(self._collection)
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
            answering=self._service.store_summary(self._collection).generation,
            collection=self._collection,
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
        return await self._service.reload(self._collection)

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
        self._service.tell_others()
        try:
            self._service.reload_soon(self._collection).result()
        except MemstoreError:
            return


class Editors:
    """The editor of each collection of a service. They take turns: a change has a model in memory of its own."""

    def __init__(self, service: Service) -> None:
        turn = threading.Lock()
        self._by_name = {name: Editor(service, one, turn=turn) for name, one in service.collections.items()}

    def of(self, collection: str | None) -> Editor:
        """The editor of the collection that a request names, or of the first. Raises UnknownCollection."""
        return named(self._by_name, collection)

    async def of_job(self, job_id: str) -> Editor:
        """The editor that knows a job. Raises JobNotFound."""
        for editor in self._by_name.values():
            with contextlib.suppress(JobNotFound):
                await editor.job(job_id)
                return editor
        raise JobNotFound(f"there is no job {job_id!r}: only the latest are remembered")

    def start_after(self, warm_up: Future[None]) -> None:
        """Begins, with the changes that an earlier server left, unless the warm-up has failed."""
        for editor in self._by_name.values():
            editor.start_after(warm_up)

    def close(self) -> None:
        """Ends what runs; it is begun again by the next server. Blocks for a moment."""
        for editor in self._by_name.values():
            editor.close()
