"""A question's whole way, from text to answer: `answerer.py` is the page, `values.py` what goes in and comes out.

`candidates.py` holds passages that may be read, `listening.py` what a caller hears while an answer is made,
`citations.py` where an answer stands in what was read, `certainty.py` how sure one may be of it.
"""

from memstore.answer.answerer import Answerer
from memstore.answer.citations import Citation
from memstore.answer.listening import Listener
from memstore.answer.values import KEEP_K, MAX_NEW_TOKENS, RETRIEVE_K, Answer, Question, Usage
from memstore.passage import RankedPassage

__all__ = [
    "KEEP_K",
    "MAX_NEW_TOKENS",
    "RETRIEVE_K",
    "Answer",
    "Answerer",
    "Citation",
    "Listener",
    "Question",
    "RankedPassage",
    "Usage",
]
