"""memstore: answers questions over large text collections from precomputed passage memories (GLIMMER).

What most programs need is here: open a store, ask it questions.

    from memstore import Answerer, Question

    answerer = Answerer.open("store/")
    answer = answerer.ask(Question("Who discovered radium?", retrieve_k=40, keep_k=10))
    print(answer.text)

Importing this package imports nothing else: a name's own module, and torch with it, come when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memstore.answer import Answer, Answerer, Question, RankedPassage, Usage
    from memstore.errors import MemstoreError
    from memstore.passage import Passage
    from memstore.retrieve.filters import Filter
    from memstore.store import Store

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Answerer",
    "Filter",
    "MemstoreError",
    "Passage",
    "Question",
    "RankedPassage",
    "Store",
    "Usage",
    "__version__",
]

_HOMES = {
    "Answer": "memstore.answer",
    "Answerer": "memstore.answer",
    "Filter": "memstore.retrieve.filters",
    "MemstoreError": "memstore.errors",
    "Passage": "memstore.passage",
    "Question": "memstore.answer",
    "RankedPassage": "memstore.answer",
    "Store": "memstore.store",
    "Usage": "memstore.answer",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        """A public name, from its own module (PEP 562).

        Raises:
            AttributeError: there is none of that name.
            ImportError: what it needs is not installed.
        """
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == __name__:
                raise
            raise ImportError(
                f"memstore.{name} needs {error.name}: pip install '.[engine]' in memstore's folder"
            ) from error
        globals()[name] = value  # from now on it is found without this function
        return value
