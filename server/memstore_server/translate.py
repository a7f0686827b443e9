"""From wire to engine and back: pure functions between what travels and what the engine takes and gives.

Knows both sides' values and the server's limits. Refuses to know HTTP, threads and time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import memstore
from memstore.answer import Answer, Question, RankedPassage, kept
from memstore.errors import InvalidMetadata, RequestError
from memstore.metadata import checked
from memstore.model.tokens import unknown_task
from memstore.passage import Passage
from memstore.retrieve.filters import Filter
from memstore_client import changes, served, wire
from memstore_client.filters import FieldFilter, FilterTests
from memstore_server.journal import Job
from memstore_server.reloading import Reloaded
from memstore_server.settings import Settings


class InvalidOptions(RequestError):  # noqa: N818 - reads as the fact it states
    """Options beyond what this server allows. `errors` holds each, with its place in the request."""

    def __init__(self, errors: Sequence[wire.FieldProblem]) -> None:
        super().__init__("; ".join(map(in_words, errors)))
        self.errors = tuple(errors)


def in_words(error: wire.FieldProblem) -> str:
    """A wrong part for people: its place, unless that is the whole request or the detail begins with it; the detail."""
    place = error.pointer[2:] or '""'  # the empty key
    told_without = error.pointer == "#" or error.detail.startswith(f"{place} (")
    return error.detail if told_without else f"{place}: {error.detail}"


# --- requests --------------------------------------------------------------------------------------------


def question(asked: wire.QuestionInput, settings: Settings, *, place: str = "#") -> Question:
    """The engine's question, with the server's defaults filled in.

    Args:
        asked: what the client sent, valid in itself.
        settings: defaults and limits.
        place: JSON pointer of `asked` in the request, for messages.

    Raises:
        InvalidOptions: an option is beyond the limits, or contradicts a default.
    """
    own = asked.passages
    retrieve_k = len(own) if own is not None else asked.retrieve_k or settings.retrieve_k
    keep_k, keep_mass = kept(
        asked.keep_k, asked.keep_mass, of=retrieve_k, default=settings.keep_k, auto=auto_kept(settings)
    )
    max_new_tokens = asked.max_new_tokens or settings.max_new_tokens
    num_beams = asked.num_beams or settings.num_beams
    limits = [
        ("passages" if own is not None else "retrieve_k", retrieve_k, settings.max_retrieve_k),
        ("keep_k", keep_k, most_kept(settings)),
        ("max_new_tokens", max_new_tokens, settings.max_new_tokens_limit),
        ("num_beams", num_beams or 1, settings.max_num_beams),
    ]
    _require_within(limits, place=place)
    if keep_k > retrieve_k:
        detail = (
            f"keep_k ({keep_k}) must not exceed retrieve_k ({retrieve_k}), "
            f"which is the default: give a larger retrieve_k too, at most {settings.max_retrieve_k}"
        )
        raise InvalidOptions([wire.FieldProblem(pointer=f"{place}/keep_k", detail=detail)])
    return Question(
        text=asked.question,
        task=asked.task,
        retrieve_k=retrieve_k,
        keep_k=keep_k,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        passages=None if own is None else tuple(passages(own)),
        filter=where(asked.filter),
        min_confidence=settings.min_confidence if asked.min_confidence is None else asked.min_confidence,
        attention=asked.attention,
        keep_mass=keep_mass,
        max_gflop=asked.max_gflop,
    )


def where(asked: Mapping[str, FieldFilter] | None) -> Filter | None:
    """The engine's filter. Raises RequestError for one that says two things at once."""
    if asked is None:
        return None
    said = {name: one.model_dump(exclude_none=True) if isinstance(one, FilterTests) else one
            for name, one in asked.items()}  # fmt: skip
    return Filter.of(said)


def require_possible(asked: Question, reported: Mapping[str, object]) -> None:
    """See that a question's task and filter are some of the model and the store that an engine reports, and that its
    model can keep passages by their scores. The engine would refuse it too, but after it has waited, and with all the
    questions of its batch, which would then be answered one by one.

    Raises:
        RequestError: the model has no such task, or no scores; the store has no such field, or never such a value in
            it.
    """
    require_task(asked.task, reported)
    fields, system = _mapping(reported["store"]).get("metadata"), _mapping(reported["model"])["system"]
    if asked.keep_mass is not None and system != "glimmer":
        raise RequestError(f"the model is {system}: without a scorer, keep_k must be a number")
    if asked.filter is not None and fields is not None:
        asked.filter.require(fields)


def require_task(task: str | None, reported: Mapping[str, object]) -> None:
    """Raises RequestError for a task that the model of an engine does not know."""
    known = _mapping(reported["model"]).get("tasks")
    if task is not None and known is not None and task not in known:
        raise unknown_task(task, known)


def questions(asked: wire.AnswerBatchRequest, settings: Settings, *, of: Sequence[Settings]) -> list[Question]:
    """The engine's questions.

    Args:
        asked: what the client sent.
        settings: those of the whole request.
        of: those of each question's collection.

    Raises:
        InvalidOptions: more questions than could ever be admitted, or one that is not possible.
    """
    _require_within([("questions", len(asked.questions), settings.queue_size)])
    return [
        question(one, own, place=f"#/questions/{at}")
        for at, (one, own) in enumerate(zip(asked.questions, of, strict=True))
    ]


def retrieve_k(asked: wire.RetrieveRequest, settings: Settings) -> int:
    """How many passages to retrieve. Raises InvalidOptions beyond the limit."""
    wanted = asked.retrieve_k or settings.retrieve_k
    _require_within([("retrieve_k", wanted, settings.max_retrieve_k)])
    return wanted


def rerank_passages(asked: wire.RerankRequest, settings: Settings) -> list[Passage]:
    """The passages to score. Raises InvalidOptions beyond the limit."""
    _require_within([("passages", len(asked.passages), settings.max_retrieve_k)])
    return passages(asked.passages)


def passages(own: Sequence[wire.PassageInput]) -> list[Passage]:
    """The caller's own passages, each a document of its own."""
    return [
        Passage(id=name, document_id=name, title=one.title, text=one.text, url=one.url, start=0, end=len(one.text))
        for name, one in zip(wire.own_ids(own), own, strict=True)
    ]


def documents(asked: changes.PutDocumentsRequest) -> list[str]:
    """The documents as lines of a JSONL corpus. Raises InvalidOptions for metadata that no document can have."""
    errors = []
    for at, document in enumerate(asked.documents):
        try:
            checked(document.metadata)
        except InvalidMetadata as error:
            errors.append(wire.FieldProblem(pointer=f"#/documents/{at}/metadata", detail=str(error)))
    if errors:
        raise InvalidOptions(errors)
    return [json.dumps(document.model_dump()) + "\n" for document in asked.documents]


def auto_kept(settings: Settings) -> tuple[int, float]:
    """What `"keep_k": "auto"` means: the most passages, and the mass that they are to hold."""
    return min(settings.auto_keep_k, most_kept(settings)), settings.keep_mass


def most_kept(settings: Settings) -> int:
    """The most passages a question may have read: none is read that was not retrieved or brought."""
    return min(settings.max_keep_k, settings.max_retrieve_k)


def _require_within(limits: Iterable[tuple[str, int, int]], *, place: str = "#") -> None:
    errors = [
        wire.FieldProblem(pointer=f"{place}/{name}", detail=f"{value} is more than {most}, the most allowed here")
        for name, value, most in limits
        if value > most
    ]
    if errors:
        raise InvalidOptions(errors)


# --- replies ---------------------------------------------------------------------------------------------


def ranked(ranking: Iterable[RankedPassage]) -> list[wire.RankedPassageReply]:
    """Passages as found and scored."""
    return [
        wire.RankedPassageReply(
            id=one.passage.id,
            title=one.passage.title,
            text=one.passage.text,
            url=one.passage.url,
            retrieval_rank=one.retrieval_rank,
            retrieval_score=one.retrieval_score,
            rerank_score=one.rerank_score,
            kept=one.kept,
            attention=one.attention,
            metadata=dict(one.passage.metadata),
        )
        for one in ranking
    ]


def answer(
    given: Answer, by: Mapping[str, object], *, milliseconds: Mapping[str, float], request_id: str
) -> wire.AnswerReply:
    """An answer of an engine that reports `by`, with what it cost; `milliseconds` are the server's own stages, added to
    the engine's.
    """
    usage = wire.UsageReply(
        milliseconds={**given.usage.milliseconds, **milliseconds},
        bytes_read=given.usage.bytes_read,
        flops=given.usage.flops,
        fid_flops=given.usage.fid_flops,
        questions_in_batch=given.usage.questions_in_batch,
        retrieve_k=given.usage.retrieve_k,
        keep_k=given.usage.keep_k,
    )
    return wire.AnswerReply(
        answer=given.text,
        reason=given.reason,
        confidence=given.confidence,
        calibrated=given.calibrated,
        citations=[wire.CitationReply(**dataclasses.asdict(one)) for one in given.citations],
        score=given.score,
        passages=ranked(given.passages),
        usage=usage,
        lowered=None
        if given.lowered is None
        else wire.LoweredReply(
            retrieve_k=given.lowered.retrieve_k, keep_k=given.lowered.keep_k, reasons=list(given.lowered.reasons)
        ),
        cut=given.cut,
        model=model_summary(by),
        store=store_summary(by),
        request_id=request_id,
    )


def passage(found: Passage) -> wire.PassageReply:
    """A passage of the store."""
    return wire.PassageReply(**dataclasses.asdict(found))


def info(
    reported: Mapping[str, object],
    settings: Settings,
    *,
    reload_error: str | None = None,
    collections: Sequence[tuple[Mapping[str, object], str | None]] = (),
) -> served.InfoReply:
    """What serves and what it allows, from `Answerer.info` and the settings.

    Args:
        reported: of the collection that is asked about.
        settings: its limits and defaults.
        reload_error: why its generation in force was not taken up.
        collections: these two of all that there are.
    """
    default_k, default_mass = kept(
        settings.keep_k, None, of=settings.retrieve_k, default=settings.keep_k, auto=auto_kept(settings)
    )
    told_model = served.ModelInfo(**_mapping(reported["model"]))
    listed = [
        served.CollectionInfo(**_store(by), model=served.ModelInfo(**_mapping(by["model"])), reload_error=error)
        for by, error in collections
    ]
    return served.InfoReply(
        version=memstore.__version__,
        model=told_model,
        store=served.StoreInfo(**_store(reported), reload_error=reload_error),
        limits=served.Limits(
            question_characters=wire.MAX_QUESTION_CHARACTERS,
            retrieve_k=settings.max_retrieve_k,
            keep_k=most_kept(settings),
            max_new_tokens=settings.max_new_tokens_limit,
            num_beams=settings.max_num_beams,
            batch_questions=settings.queue_size,
            body_bytes=settings.max_body_bytes,
            write_bytes=settings.max_write_bytes if settings.has_write_key else None,
        ),
        defaults=served.Defaults(
            retrieve_k=settings.retrieve_k,
            keep_k=default_k,
            max_new_tokens=settings.max_new_tokens,
            num_beams=settings.num_beams or min(told_model.num_beams, settings.max_num_beams),
            min_confidence=settings.min_confidence,
            keep_mass=default_mass,
            auto_keep_k=auto_kept(settings)[0],
            auto_keep_mass=settings.keep_mass,
            degrade=settings.degrade,
        ),
        collections=listed,
    )


def reloaded(done: Reloaded, *, request_id: str) -> served.ReloadReply:
    """What a reload did."""
    store = store_summary(done.info)
    return served.ReloadReply(
        collection=store.collection,
        generation=store.generation,
        passages=store.passages,
        changed=done.changed,
        milliseconds=done.seconds * 1000,
        request_id=request_id,
    )


def job(done: Job, collection: str) -> changes.JobReply:
    """How far a change of a collection is, or what became of it."""
    return changes.JobReply(
        id=done.id,
        collection=collection,
        kind=done.kind,
        state=done.state,
        documents=done.documents,
        stage=done.stage,
        items=done.items,
        items_of=done.items_of,
        created=done.created,
        started=done.started,
        ended=done.ended,
        result=None if done.result is None else changes.ChangeReply(**done.result),
        error=done.error,
    )


def model_summary(reported: Mapping[str, object]) -> wire.ModelSummary:
    """Which model answered, and whether it was ever trained, from `Answerer.info`."""
    model = _mapping(reported["model"])
    return wire.ModelSummary(name=model["name"], trained=model["trained"], system=model["system"])


def store_summary(reported: Mapping[str, object]) -> wire.StoreSummary:
    """Which memories were read, from `Answerer.info`."""
    store = _store(reported)
    return wire.StoreSummary(collection=store["collection"], generation=store["generation"], passages=store["passages"])


def _store(reported: Mapping[str, object]) -> dict[str, Any]:
    return {"collection": reported.get("collection", wire.UNNAMED), **_mapping(reported["store"])}


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"Answerer.info() must hold a mapping here, not {type(value).__name__}")
    return value
