"""Options of a question, once for all methods that ask one: `answer` and `stream` of both clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from memstore_client import wire
from memstore_client.filters import Filter


class AnswerOptions(TypedDict, total=False):
    """What may be said beside a question; what is left out, or None, takes the server's default.

    Attributes:
        task: name of the task the question belongs to, for models trained on several.
        retrieve_k: passages retrieved and scored.
        keep_k: passages read after reranking; at most `retrieve_k`. "auto" reads the best, until `keep_mass` is held.
        keep_mass: the mass of the softmax of rerank scores at which no more is read; a number as `keep_k` is the most
            then.
        max_gflop: billions of operations that the answer may cost at most; fewer passages are found and read for that.
        degrade: whether a server with much to do may find and read fewer passages before it refuses.
        max_new_tokens: length limit of the answer, in tokens.
        num_beams: beams of the search; 1 is greedy.
        deadline_ms: milliseconds after which the answer is of no use; then DeadlineExceeded is raised. Where there is
            no time for all of them, fewer passages are found and read, as the reply's `lowered` says.
        passages: read instead of the store's; excludes `retrieve_k` and `filter`.
        filter: what metadata the passages' documents must have, such as `{"lang": "en", "year": {"gte": 2000}}`.
        collection: which of the server's collections; the first where none is named, see `info`.
        min_confidence: below this confidence, from 0 to 1, the reply's `answer` is None and its `reason` says why.
        attention: also say how much of its attention the reader gave to each passage.
    """

    task: str | None
    retrieve_k: int | None
    keep_k: int | Literal["auto"] | None
    keep_mass: float | None
    max_gflop: float | None
    degrade: bool | None
    max_new_tokens: int | None
    num_beams: int | None
    deadline_ms: int | None
    passages: Sequence[wire.PassageInput] | None
    filter: Filter | None
    collection: str | None
    min_confidence: float | None
    attention: bool
