"""ROUGE-L as the `rouge` package 1.0.1 computes it, which KILT uses. Knows two texts, no task.

That package itself is not used. Its last release is of 2021; it recurses once per word, so a long answer ends in a
RecursionError; and it also computes ROUGE-1 and ROUGE-2, which nobody reads. Other ROUGE packages give other figures,
because this one has rules of its own: every full stop ends a sentence, only white space separates words (case and
commas count), and each distinct word counts once.
"""

from __future__ import annotations

from collections.abc import Sequence

_EPSILON = 1e-8  # in the denominator of F: a perfect answer scores 0.999999995, as in KILT


def rouge_l_pair(prediction: str, reference: str) -> float:
    """Summary-level ROUGE-L F of one text against another, 0 to 1; 0 if either holds nothing but full stops.

    Precision and recall are the union, over all pairs of sentences, of the distinct words in a longest common
    subsequence, divided by the distinct words of the prediction and of the reference.

    >>> round(rouge_l_pair("the red fox ran", "the fox slept"), 3)  # 2 common words of 4, and of 3
    0.571
    """
    predicted, expected = _sentences(prediction), _sentences(reference)
    if not predicted or not expected:
        return 0.0
    common: set[str] = set()
    for reference_words in expected:
        for words in predicted:
            common |= _common_words(reference_words, words)
    precision = len(common) / len({word for words in predicted for word in words})
    recall = len(common) / len({word for words in expected for word in words})
    return 2.0 * (precision * recall / (precision + recall + _EPSILON))


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence. A sentence of only white space has one empty word, as in the package."""
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


def _common_words(first: Sequence[str], second: Sequence[str]) -> set[str]:
    """The words of one longest common subsequence; of several, the one that the package finds.

    Which one matters: with repeated words, two subsequences of one length can differ in distinct words.
    """
    # lengths[i][j] is the length for the first i words of `first` and the first j of `second`.
    lengths = [[0] * (len(second) + 1)]
    for word in first:
        above, row = lengths[-1], [0]
        for j, other in enumerate(second):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        lengths.append(row)
    words = set()
    i, j = len(first), len(second)  # back from the end; where both ways are equally long, drop from `second`
    while i and j:
        if first[i - 1] == second[j - 1]:
            words.add(first[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words
