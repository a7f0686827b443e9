"""Chooses what a passage may be asked for: names, dates and numbers, or runs of words, likely nouns. Knows text.

Names, dates and numbers are `salient_spans`; a number may take the words after it along ("40 million people"). The
other answers are runs of lower-case words without function words and verbs, two runs joined where only "of" or "and" is
between them: no tagger is needed, and what is no good answer asks a question that a reader does not answer again.
"""

from __future__ import annotations

import re
from random import Random

from memstore.questions.answers import normalise
from memstore.train.data.salient_spans import FUNCTION_WORDS, Span, salient, sentences

SALIENT_SHARE = 0.6  # of the answers; the others are runs of words
ANSWER_WORDS = 6  # at most
_RUN_WORDS = 4  # of one run, at most
_WITH_UNIT = 0.5  # of the numbers take the words after them along
_JOINED = 0.4  # of the runs that can be joined are
_ANSWER_LENGTH = 60  # characters of an answer at most

_WORD = re.compile(r"[^\W\d_][\w'’-]*")
_UNIT = re.compile(r"[ -](?:(?:million|billion|thousand|hundred) )?[a-z][a-z-]+(?! of\b)")
_LINK = re.compile(r" (?:of|of the|of a|and|and the) ")
_MORE = """
became become called known named used made include includes included including began begin went came took taken given
gave found held led left set put says said wrote written built won means being well also later never more most much very
often sometimes usually not no yes than because without within along across behind beyond near toward towards per first
last own same such too just still back out up down off away again ago me us him them myself themselves himself itself
goes gets makes takes gives comes lives uses plays runs contains consists shows
started ended moved joined worked played lived died born married served based located released published
"""
_OTHERS = (FUNCTION_WORDS | {*_MORE.split()}) - {"people"}  # words that no run has


def choose_answers(text: str, rng: Random, *, most: int) -> list[str]:
    """Up to `most` different answers that stand in a text, as it writes them, in random order.

    Args:
        text: of a passage.
        rng: draws them. About `SALIENT_SHARE` are names, dates and numbers, while there are some of both kinds.
        most: at least 1.
    """
    named, runs = [], []
    for begin, end in sentences(text):
        sentence = text[begin:end]
        named += [_with_unit(sentence, span, rng) for span in salient(sentence)]
        runs += [sentence[a:b] for a, b in _joined(sentence, word_runs(sentence), rng)]
    rng.shuffle(named)
    rng.shuffle(runs)
    chosen: dict[str, str] = {}
    while len(chosen) < most and (named or runs):
        pool = named if named and (not runs or rng.random() < SALIENT_SHARE) else runs
        answer = pool.pop()
        if _fits(answer):
            chosen.setdefault(normalise(answer), answer)
    return [*chosen.values()]


def word_runs(sentence: str) -> list[Span]:
    """The character spans of runs of words that are likely nouns with what goes before them, ascending.

    The last words of a longer run are taken: a noun comes after its adjectives.
    """
    found: list[list[Span]] = [[]]
    for match in _WORD.finditer(sentence):
        if not _likely(match[0]):
            found.append([])
            continue
        if found[-1] and sentence[found[-1][-1][1] : match.start()] != " ":
            found.append([])
        found[-1].append(match.span())
    return [(run[-_RUN_WORDS:][0][0], run[-1][1]) for run in found if run]


def _likely(word: str) -> bool:
    return word.islower() and len(word) > 2 and word not in _OTHERS and not word.endswith("ly")


def _joined(sentence: str, runs: list[Span], rng: Random) -> list[Span]:
    """The runs, some joined with the next one where only a link is between them."""
    made: list[Span] = []
    for begin, end in runs:
        linked = made and _LINK.fullmatch(sentence[made[-1][1] : begin])
        if linked and len(sentence[made[-1][0] : end].split()) <= ANSWER_WORDS and rng.random() < _JOINED:
            made[-1] = (made[-1][0], end)
        else:
            made.append((begin, end))
    return made


def _with_unit(sentence: str, span: Span, rng: Random) -> str:
    """A span's text; a number's sometimes with the words after it."""
    text = sentence[span[0] : span[1]]
    unit = _UNIT.match(sentence, span[1]) if text[:1].isdigit() and rng.random() < _WITH_UNIT else None
    return text if unit is None or unit[0].split()[-1] in _OTHERS else text + unit[0]


def _fits(answer: str) -> bool:
    return 0 < len(normalise(answer).split()) <= ANSWER_WORDS and len(answer) <= _ANSWER_LENGTH
