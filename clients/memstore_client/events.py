"""What a streamed answer (`POST /answer` with `"stream": true`) consists of: server-sent events, one JSON object each.

They come in this order: `retrieved`, `ranked`, `token` as often as there is a piece of text, and `done` with the whole
`AnswerReply`. `error`, with a `Problem`, ends a stream too. A reader ignores events that it does not know.
"""

from __future__ import annotations

from pydantic import Field

from memstore_client.wire import AnswerReply, RankedPassageReply, Reply


class RetrievedEvent(Reply):
    """The passages that were found, before anything of them is read."""

    passages: list[RankedPassageReply] = Field(description="In the retriever's order, none scored and none kept yet.")


class RankedEvent(Reply):
    """The same passages, scored. The ones that are kept will be read."""

    passages: list[RankedPassageReply] = Field(description="Best first; the kept ones before the others.")


class TokenEvent(Reply):
    """A piece of the answer. All pieces, one after another, are the `answer` of the reply that ends the stream."""

    text: str


AnswerEvent = RetrievedEvent | RankedEvent | TokenEvent | AnswerReply
"""One event of a stream. The last one is the reply, with all that a plain one says."""

KINDS: dict[str, type[AnswerEvent]] = {
    "retrieved": RetrievedEvent, "ranked": RankedEvent, "token": TokenEvent, "done": AnswerReply,
}  # fmt: skip
"""What travels by which name."""
NAMES: dict[type, str] = {kind: name for name, kind in KINDS.items()}
ERROR = "error"  # the name of a problem that ends a stream
