"""What the page offers a first visitor to ask. Knows the engine's words; refuses to know HTTP.

Of the bundled sample there are whole questions, each offered only where the document that answers it is in the
collection. Of any other collection nobody knows a question, so the titles of some passages are offered to begin with.
"""

from __future__ import annotations

from typing import Protocol

from memstore.errors import PassageNotFound
from memstore.passage import Passage

MOST = 6  # what a visitor takes in at a glance
_LOOKED_AT = 24  # passages: titles may be missing, long, or the same
_LONGEST_TITLE = 60  # characters; longer ones are no names

SAMPLE = (  # question, and the first passage's id and the title of the document that holds its answer
    ("Who discovered radium together with her husband?", "sample-001:0", "Marie Curie"),
    ("Which river flows through Cairo?", "sample-049:0", "Nile"),
    ("Who painted the Mona Lisa?", "sample-146:0", "Mona Lisa"),
    ("Which planet has the largest ring system?", "sample-103:0", "Saturn"),
    ("In which year did the Titanic sink?", "sample-181:0", "Sinking of the Titanic"),
)

Examples = tuple[tuple[str, ...], tuple[str, ...]]  # questions, topics


class Collection(Protocol):
    """What is needed of an engine."""

    def passage(self, passage_id: str) -> Passage:
        """Raises PassageNotFound."""
        ...

    def spread(self, most: int) -> list[Passage]:
        """At most so many passages from all over the collection, always the same ones."""
        ...


def examples(collection: Collection) -> Examples:
    """Questions that the collection's own documents answer if it is the sample, else topics; at most `MOST`.

    Reads some thirty passages, and no memory.
    """
    questions = tuple(question for question, id_, title in SAMPLE if _has(collection, id_, title))
    return (questions, ()) if questions else ((), _topics(collection.spread(_LOOKED_AT)))


def _has(collection: Collection, passage_id: str, title: str) -> bool:
    try:
        return collection.passage(passage_id).title == title
    except PassageNotFound:
        return False


def _topics(passages: list[Passage]) -> tuple[str, ...]:
    names = dict.fromkeys(" ".join(passage.title.split()) for passage in passages)
    fit = [name for name in names if 0 < len(name) <= _LONGEST_TITLE]
    step = max(1, len(fit) // MOST)
    return tuple(fit[::step][:MOST])
