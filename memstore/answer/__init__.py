"""A question's whole way, from text to answer: `answerer.py` is the page, `values.py` what goes in and comes out.

`candidates.py` holds passages that may be read, `budget.py` says how many of them a question can afford, `listening.py`
is what a caller hears while an answer is made, `citations.py` where an answer stands in what was read, and
`certainty.py` how sure one may be of it.
"""

from memstore.answer.answerer import Answerer
from memstore.answer.citations import Citation
from memstore.answer.listening import Listener, NobodyListens, Waits
from memstore.answer.values import (
    AUTO_KEEP_K,
    KEEP_K,
    KEEP_MASS,
    MAX_NEW_TOKENS,
    RETRIEVE_K,
    Answer,
    Keep,
    Lowered,
    Question,
    Reason,
    Usage,
    keep_of,
    kept,
)
from memstore.passage import RankedPassage

__all__ = [
    "AUTO_KEEP_K",
    "KEEP_K",
    "KEEP_MASS",
    "MAX_NEW_TOKENS",
    "RETRIEVE_K",
    "Answer",
    "Answerer",
    "Citation",
    "Keep",
    "Listener",
    "Lowered",
    "NobodyListens",
    "Question",
    "RankedPassage",
    "Reason",
    "Usage",
    "Waits",
    "keep_of",
    "kept",
]
