"""Options of a question, once for all methods that ask one: `answer` and `stream` of both clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from memstore_client import wire
from memstore_client.filters import Filter


class AnswerOptions(TypedDict, total=False):
    """What may be said beside a question; what is left out, or None, takes the server's default.

    Attributes:
        task: name of the task the question belongs to, for models trained on several.
        retrieve_k: passages retrieved and scored.
        keep_k: passages read after reranking; at most `retrieve_k`.
        max_new_tokens: length limit of the answer, in tokens.
        num_beams: beams of the search; 1 is greedy.
        deadline_ms: milliseconds after which the answer is of no use; then DeadlineExceeded is raised.
        passages: read instead of the store's; excludes `retrieve_k` and `filter`.
        filter: what metadata the passages' documents must have, such as `{"lang": "en", "year": {"gte": 2000}}`.
        collection: which of the server's collections; the first where none is named, see `info`.
        min_confidence: below this confidence, from 0 to 1, the reply's `answer` is None and its `reason` says why.
        attention: also say how much of its attention the reader gave to each passage.
    """

    task: str | None
    retrieve_k: int | None
    keep_k: int | None
    max_new_tokens: int | None
    num_beams: int | None
    deadline_ms: int | None
    passages: Sequence[wire.PassageInput] | None
    filter: Filter | None
    collection: str | None
    min_confidence: float | None
    attention: bool
