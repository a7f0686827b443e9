"""KILT's four metrics of an answer against the accepted ones (arXiv 2009.02252, section 3).

Each takes plain text and gives a number from 0 to 1, the best over the accepted answers. Evaluation and the dev scores
of training both use them. Knows neither files nor pages.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable

from memstore.questions.rouge import rouge_l_pair

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalise_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and the words a, an, the; words separated by one space.

    >>> normalise_answer("The  Eiffel Tower!")
    'eiffel tower'
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def accuracy(prediction: str, answers: Iterable[str]) -> float:
    """1 if the prediction is exactly one of the answers (white space around them is ignored), else 0."""
    return _best(lambda guess, answer: float(guess == answer), prediction, answers)


def exact_match(prediction: str, answers: Iterable[str]) -> float:
    """1 if the prediction equals one of the answers after `normalise_answer`, else 0.

    >>> exact_match("the Eiffel Tower.", ["Paris", "Eiffel tower"])
    1.0
    """
    return _best(lambda guess, answer: float(normalise_answer(guess) == normalise_answer(answer)), prediction, answers)


def f1(prediction: str, answers: Iterable[str]) -> float:
    """The best F1 over normalised words: the harmonic mean of precision and recall. Repeated words count each time.

    >>> f1("big red fox", ["red fox"])  # two of three words, and two of two
    0.8
    """
    return _best(_f1_pair, prediction, answers)


def rouge_l(prediction: str, answers: Iterable[str]) -> float:
    """The best ROUGE-L F (`memstore.questions.rouge`). The texts are not normalised."""
    return _best(rouge_l_pair, prediction, answers)


def _best(metric: Callable[[str, str], float], prediction: str, answers: Iterable[str]) -> float:
    """The highest score over the answers. An empty prediction, or no answers, scores 0."""
    guess = prediction.strip()
    if not guess:
        return 0.0
    return max((metric(guess, answer.strip()) for answer in answers), default=0.0)


def _f1_pair(prediction: str, answer: str) -> float:
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(answer).split()
    same = (Counter(predicted) & Counter(expected)).total()
    if not same:
        return 0.0
    precision, recall = same / len(predicted), same / len(expected)
    return 2 * precision * recall / (precision + recall)
