"""What travels over HTTP when a store is changed: documents, jobs and generations. The rest of the wire is `wire`.

Only servers with a write key take these requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from memstore_client.wire import (
    MAX_ID_CHARACTERS,
    UNNAMED,
    CollectionName,
    Count,
    MetadataValue,
    PassageReply,
    Reply,
    Request,
    StoreSummary,
    _example,
)

DocumentId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_CHARACTERS, pattern=r"^[^\n]*\S[^\n]*$")]
"""Of one line, as lists of ids are files of lines."""
MAX_DOCUMENTS = 20_000
"""In one request. The server checks them one after another, and does little else in that time."""
OnExisting = Literal["replace", "skip", "fail"]
JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
ENDED: tuple[JobState, ...] = ("done", "failed", "cancelled")


def _within_limit(given: Any) -> Any:
    """Refuses a list that is too long before any of it is looked at."""
    if isinstance(given, list) and len(given) > MAX_DOCUMENTS:
        raise ValueError(f"{len(given)} are more than {MAX_DOCUMENTS}, the most in one request: send several requests")
    return given


_Documents = (Field(min_length=1, max_length=MAX_DOCUMENTS), BeforeValidator(_within_limit))


class DocumentInput(Request):
    """A document, as a line of a JSONL corpus has it. It is cut into passages here. Without text it is deleted."""

    id: DocumentId
    text: str
    title: Annotated[str, StringConstraints(max_length=MAX_ID_CHARACTERS)] = ""
    url: Annotated[str, StringConstraints(max_length=MAX_ID_CHARACTERS)] = ""
    metadata: dict[str, MetadataValue] = Field(
        default={}, description="What the document says of itself: strings, numbers, booleans, lists of strings."
    )


class PutDocumentsRequest(Request):
    """Body of `PUT /documents`: all of them in one generation, or none."""

    model_config = _example({"documents": [{"id": "curie", "title": "Marie Curie", "text": "She discovered radium."}]})

    documents: Annotated[list[DocumentInput], *_Documents]
    on_existing: OnExisting = Field(
        default="replace", description="What to do with a document that is there and says something else."
    )
    collection: CollectionName = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require_distinct([document.id for document in self.documents])
        return self


class DeleteDocumentsRequest(Request):
    """Body of `DELETE /documents`: all of them in one generation, or none. Ids that are not there are counted."""

    model_config = _example({"ids": ["curie"]})

    ids: Annotated[list[DocumentId], *_Documents]
    collection: CollectionName = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require_distinct(self.ids)
        return self


class RollbackRequest(Request):
    """Body of `POST /admin/rollback`."""

    model_config = _example({"to": 3})

    to: Count | None = Field(default=None, description="Number of a generation; by default the one before.")
    collection: CollectionName = None


def _require_distinct(ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise ValueError(f"two documents have the id {one!r}: ids must differ")
        seen.add(one)


# --- replies ---------------------------------------------------------------------------------------------


class ChangeReply(Reply):
    """What a change did: numbers of documents, and the generation in force after it."""

    generation: int = Field(description="The former one's number where there was nothing to change.")
    added: int = 0
    replaced: int = 0
    unchanged: int = Field(default=0, description="They were there and say the same: these cost nothing.")
    skipped: int = Field(default=0, description="They were there and say something else, and were left, as asked.")
    deleted: int = 0
    not_found: int = Field(default=0, description="Ids to delete that were not there.")
    missing: list[str] = Field(default=[], description="The first of these.")


class JobReply(Reply):
    """A change that was accepted. It waits for others, runs, and ends as `done`, `failed` or `cancelled`."""

    id: str
    collection: str = Field(default=UNNAMED, description="Which one is changed.")
    kind: Literal["add", "delete"]
    state: JobState
    documents: int = Field(description="In the request.")
    stage: str = Field(description="What a running change is at: read, encode, index, ...; else empty.")
    items: int = Field(description="Documents or passages that the stage has done.")
    items_of: int | None = Field(description="How many it has in all; null if it does not know.")
    created: float = Field(description="Seconds since 1970, as the others.")
    started: float | None
    ended: float | None
    result: ChangeReply | None = Field(description="Of a change that is done.")
    error: str | None = Field(description="Why a change failed. Then the former generation is in force.")


class DocumentReply(Reply):
    """Reply of `GET /documents/{id}`: a document's passages, in their order in it."""

    id: str
    title: str
    url: str
    metadata: dict[str, MetadataValue]
    passages: list[PassageReply]
    store: StoreSummary
    request_id: str


class GenerationReply(Reply):
    """A generation of the store, and what made it."""

    generation: int
    in_force: bool
    passages: int
    dead_passages: int = Field(description="Passages that are no longer in the collection, but on the disk.")
    dead_bytes: int = Field(description="About what `memstore compact` would free.")
    segments: int
    change: dict[str, Any] = Field(description="`kind` (build, add, delete, compact), and what it counted.")
    written: float = Field(description="Seconds since 1970.")


class GenerationsReply(Reply):
    """Reply of `GET /generations`: all that can be gone back to, the oldest first."""

    generations: list[GenerationReply]
    answering: int = Field(description="The generation that this server answers from.")
    collection: str = Field(default=UNNAMED, description="Whose they are.")
    request_id: str
