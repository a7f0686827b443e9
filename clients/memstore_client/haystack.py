"""memstore for Haystack: components that retrieve and that answer. Needs `haystack-ai`.

from memstore_client.haystack import MemstoreAnswerer

answers = MemstoreAnswerer("http://127.0.0.1:8080").run("Who discovered radium?")["answers"]

Components keep an address rather than a client, so that pipelines can be written to YAML and read again.
"""

# Haystack reads the types of `run` from its signature: no `from __future__ import annotations` here

from collections.abc import Mapping
from typing import Any, Literal

from haystack import Document, GeneratedAnswer, component, default_from_dict, default_to_dict
from haystack.errors import FilterError
from haystack.utils import Secret, deserialize_secrets_inplace

from memstore_client.base import API_KEY_VARIABLE
from memstore_client.client import DEFAULT_TIMEOUT, AsyncClient, Client
from memstore_client.wire import AnswerReply, PassageInput, RankedPassageReply

_FROM_VARIABLE = Secret.from_env_var(API_KEY_VARIABLE, strict=False)
_RANGES = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


@component
class MemstoreRetriever:
    """Finds passages for a question, best first.

    Args:
        base_url: where the server is, as `memstore serve` prints it.
        top_k: passages wanted; by default as many as the server says.
        filters: in Haystack's form (`{"field": "meta.lang", "operator": "==", "value": "en"}`, joined by AND) or the
            client's (`{"lang": "en"}`). Those of a run replace them.
        collection: which of the server's collections; the first where none is named.
        timeout: seconds to wait for a connection and for a reply, each.
        api_key: one of the server's, where it wants to know who asks; by default the variable `MEMSTORE_API_KEY`, if
            there is one. A pipeline's file holds the name of the variable, and never a key.

    Raises:
        MemstoreClientError: from `run` and `run_async`, one of its subclasses.
        FilterError: from the same, where filters say what the server has no words for, such as OR.
    """

    def __init__(
        self,
        base_url: str,
        top_k: int | None = None,
        filters: dict[str, Any] | None = None,
        collection: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        api_key: Secret | None = _FROM_VARIABLE,
    ) -> None:
        self.base_url, self.top_k, self.filters = base_url, top_k, filters
        self.collection, self.timeout, self.api_key = collection, timeout, api_key

    def to_dict(self) -> dict[str, Any]:
        """The component as a pipeline's file holds it."""
        return default_to_dict(
            self, base_url=self.base_url, top_k=self.top_k, filters=self.filters, collection=self.collection,
            timeout=self.timeout, api_key=None if self.api_key is None else self.api_key.to_dict(),
        )  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "MemstoreRetriever":
        """The component of `to_dict`."""
        return default_from_dict(cls, _with_key(data))

    @component.output_types(documents=list[Document])
    def run(self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None) -> dict[str, Any]:
        """The passages found as `documents`; `filters` and `top_k` replace the component's own."""
        with Client(self.base_url, timeout=self.timeout, api_key=_shown(self.api_key)) as client:
            reply = client.retrieve(query, **self._options(filters, top_k))
        return {"documents": [document(one) for one in reply.passages]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, Any]:
        """`run`, awaited."""
        async with AsyncClient(self.base_url, timeout=self.timeout, api_key=_shown(self.api_key)) as client:
            reply = await client.retrieve(query, **self._options(filters, top_k))
        return {"documents": [document(one) for one in reply.passages]}

    def _options(self, filters: dict[str, Any] | None, top_k: int | None) -> dict[str, Any]:
        chosen = memstore_filter(filters or self.filters)
        return {"retrieve_k": top_k or self.top_k, "filter": chosen, "collection": self.collection}


@component
class MemstoreAnswerer:
    """Answers a question from the server's store, or from documents of another component.

    Args:
        base_url: where the server is, as `memstore serve` prints it.
        retrieve_k: passages retrieved and scored; by default as many as the server says.
        keep_k: passages read after reranking; "auto" reads the best, until `keep_mass` is held.
        keep_mass, max_gflop, degrade: as of `Client.answer`.
        task: name of the task the questions belong to, for models trained on several.
        min_confidence: below this confidence, from 0 to 1, there is no answer; by default the server's.
        filters: as of `MemstoreRetriever`.
        collection: which of the server's collections; the first where none is named.
        timeout: seconds to wait for a connection and for a reply, each.
        api_key: one of the server's, where it wants to know who asks; by default the variable `MEMSTORE_API_KEY`, if
            there is one. A pipeline's file holds the name of the variable, and never a key.

    Raises:
        MemstoreClientError: from `run` and `run_async`, one of its subclasses.
        FilterError: from the same, where filters say what the server has no words for, such as OR.
    """

    def __init__(
        self,
        base_url: str,
        retrieve_k: int | None = None,
        keep_k: int | Literal["auto"] | None = None,
        filters: dict[str, Any] | None = None,
        collection: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        api_key: Secret | None = _FROM_VARIABLE,
        task: str | None = None,
        min_confidence: float | None = None,
        keep_mass: float | None = None,
        max_gflop: float | None = None,
        degrade: bool | None = None,  # noqa: FBT001 - by name in pipelines' files, as all of these
    ) -> None:
        self.keep_mass, self.max_gflop, self.degrade = keep_mass, max_gflop, degrade
        self.base_url, self.retrieve_k, self.keep_k = base_url, retrieve_k, keep_k
        self.filters, self.collection, self.timeout, self.api_key = filters, collection, timeout, api_key
        self.task, self.min_confidence = task, min_confidence

    def to_dict(self) -> dict[str, Any]:
        """The component as a pipeline's file holds it."""
        return default_to_dict(
            self, base_url=self.base_url, retrieve_k=self.retrieve_k, keep_k=self.keep_k, filters=self.filters,
            collection=self.collection, timeout=self.timeout,
            api_key=None if self.api_key is None else self.api_key.to_dict(), task=self.task,
            min_confidence=self.min_confidence, keep_mass=self.keep_mass, max_gflop=self.max_gflop,
            degrade=self.degrade,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "MemstoreAnswerer":
        """The component of `to_dict`."""
        return default_from_dict(cls, _with_key(data))

    @component.output_types(answers=list[GeneratedAnswer])
    def run(
        self, query: str, documents: list[Document] | None = None, filters: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """One answer with the passages it was read from, or none where the server is not sure enough.

        With `documents` given, the question is answered from their texts, and nothing is retrieved.
        """
        with Client(self.base_url, timeout=self.timeout, api_key=_shown(self.api_key)) as client:
            reply = client.answer(query, **self._options(documents, filters))
        return {"answers": answers(query, reply)}

    @component.output_types(answers=list[GeneratedAnswer])
    async def run_async(
        self, query: str, documents: list[Document] | None = None, filters: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """`run`, awaited."""
        async with AsyncClient(self.base_url, timeout=self.timeout, api_key=_shown(self.api_key)) as client:
            reply = await client.answer(query, **self._options(documents, filters))
        return {"answers": answers(query, reply)}

    def _options(self, documents: list[Document] | None, filters: dict[str, Any] | None) -> dict[str, Any]:
        options = {
            "keep_k": self.keep_k, "collection": self.collection, "task": self.task,
            "min_confidence": self.min_confidence, "keep_mass": self.keep_mass, "max_gflop": self.max_gflop,
            "degrade": self.degrade,
        }  # fmt: skip
        own = [passage(one) for one in documents or () if (one.content or "").strip()]
        if own:
            keep_k = min(self.keep_k, len(own)) if isinstance(self.keep_k, int) else self.keep_k
            return {**options, "passages": own, "keep_k": keep_k}
        return {**options, "retrieve_k": self.retrieve_k, "filter": memstore_filter(filters or self.filters)}


def _with_key(data: dict[str, Any]) -> dict[str, Any]:
    """What a file holds of a component, with its key as Haystack's secret."""
    deserialize_secrets_inplace(data["init_parameters"], keys=["api_key"])
    return data


def _shown(key: Secret | None) -> str:
    """A key as the client sends it; empty for none at all."""
    return "" if key is None else key.resolve_value() or ""


def document(one: RankedPassageReply) -> Document:
    """A passage as Haystack's document; `score` is the reranker's where it was reranked, else the retriever's."""
    score = one.retrieval_score if one.rerank_score is None else one.rerank_score
    return Document(id=one.id, content=one.text, score=score, meta={**one.metadata, "title": one.title, "url": one.url})


def passage(one: Document) -> PassageInput:
    """A Haystack document with a text as a passage of the caller's own."""
    title, url = (str(one.meta.get(name) or "") for name in ("title", "url"))
    return PassageInput(id=one.id, text=one.content or "", title=title, url=url)


def answers(query: str, reply: AnswerReply) -> list[GeneratedAnswer]:
    """The reply as Haystack's answers: one, or none where the server is not sure enough."""
    read = [document(one) for one in reply.passages if one.kept]
    meta = {
        "score": reply.score, "confidence": reply.confidence, "calibrated": reply.calibrated,
        "retrieved": len(reply.passages), "model": reply.model.name, "trained": reply.model.trained,
        "generation": reply.store.generation, "request_id": reply.request_id,
    }  # fmt: skip
    sure = [reply.answer] if reply.answer is not None else []
    return [GeneratedAnswer(data=text, query=query, documents=read, meta=meta) for text in sure]


def memstore_filter(filters: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Filters in Haystack's form as the client's; those that are the client's already stay as they are.

    Raises:
        FilterError: they use OR or NOT, an operator that is not known, or say two things of one kind of a field.
    """
    if not filters:
        return None
    if "operator" not in filters:
        return dict(filters)
    made: dict[str, dict[str, Any]] = {}
    for condition in _conditions(filters):
        name, test = _test(condition)
        own = made.setdefault(name, {})
        if twice := own.keys() & test.keys():
            raise FilterError(f"{name!r} has two conditions that memstore both calls {min(twice)!r}: it takes one")
        own |= test
    return dict(made)


def _conditions(filters: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The comparisons that must all hold."""
    if "field" in filters:
        return [filters]
    if filters["operator"] != "AND":
        raise FilterError(f"memstore joins conditions by AND only, not by {filters['operator']!r}")
    return [one for part in filters.get("conditions", ()) for one in _conditions(part)]


def _test(condition: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A comparison's field, and the test as the client writes it."""
    name, operator = str(condition["field"]).removeprefix("meta."), condition["operator"]
    value = condition.get("value")
    if operator in _RANGES:
        return name, {_RANGES[operator]: value}
    match operator:
        case "==":
            return name, {"exists": False} if value is None else {"in": [value]}
        case "!=":
            return name, {"exists": True} if value is None else {"not": value}
        case "in":
            return name, {"in": list(value or ())}
        case "not in":
            return name, {"not": {"in": list(value or ())}}
    raise FilterError(f"memstore has no operator {operator!r}: use ==, !=, >, >=, <, <=, in or not in")
