"""Makes questions from sentences of plain text, worded as people ask: training data where real questions are few.

The answer is a name, date or number in a sentence. The question is a question word that fits it, and then the clause
around it without the answer: "when was Curie born in Warsaw". Only the clause, since a sentence says more than a
question does. This is cloze translation by rules (Lewis et al., arXiv 1906.04980, section 2.3). From a sentence that
begins with "he", "she" or "it", a question asks for the article's title, or names it in the pronoun's place.

The sentence itself answers such a question too easily. `memstore prepare --elsewhere` leaves out the candidates of its
page; those that are read then say the same in other words (Fabbri et al., arXiv 2004.11892). Knows text; refuses to
know tokens, retrievers and models.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from random import Random
from typing import Any

from memstore.passage import Passage
from memstore.train.data.entity_types import Classes, without_brackets
from memstore.train.data.salient_spans import FUNCTION_WORDS, MONTHS, YEAR, Span, salient, sentences

SENTENCE_WORDS = (6, 45)
QUESTION_WORDS = (5, 20)
LEAST_CONTENT = 3  # words that a question must have besides function words
ANSWER_WORDS = 5
TITLE_WORDS = 4  # at most, of a title that is the answer
CLAUSE_WORDS = (6, 17)  # of the words around an answer

_YEAR = re.compile(YEAR)
_MONTH = re.compile(rf"\b(?:{MONTHS})\b")
_RANGE_AFTER = re.compile(r"\s*(?:[–-]|to\b|and \d|or \d)")
_RANGE_BEFORE = re.compile(r"(?:\d\s*[–-]\s*|\d to |\d and |between )$")
_PRONOUN = re.compile(r"(?:he|she|it|they|(?P<owner>his|her|its|their))\b", re.IGNORECASE)
# A sentence that begins so is about the title; not "It has been said that ...".
_SUBJECT = re.compile(r"(?P<person>He|She)\b|It\b(?![^,;]*\b(?:that|to)\b)")
_AUXILIARY = re.compile(r"\b(?:was|were|is|are|has|had|can|could|would|will|did|does)\b")
_PREPOSITION = re.compile(r"\b(in|at|near|from|to|into|on|by|with|of|for|during|since|until)\s*$", re.IGNORECASE)
_CUT = re.compile(
    r"[,;:–—()]|\s-\s|\b(?:and|but|while|although|because|though|whereas|which|who|where|when|after|before|so)\b"
)
_VERBS = """
was were is are has had can won became made wrote led began took held found built gave went came died left got met ran
saw said sold spent spoke stood taught told thought wore lost fought grew fell flew chose broke brought bought caught
contain contains include includes lies lives means flows plays uses holds makes become becomes begins covers borders
produces runs serves shows comes gives takes refers consists occurs forms sits hosts
"""
_VERB = re.compile(rf"\b(?:\w\w+ed|{'|'.join(_VERBS.split())})\b")
_CONNECTIVE = re.compile(
    r"^(?:[,;:–—().\s-]|(?:and|but|while|although|because|though|whereas|which|who|where|so|that)\b)+"
)
_ENDING = " .,;:!?()\"'–—-"
_FORMULA = re.compile(r"[{}<>=→|+]")
_WORD = re.compile(r"\w+")
_WHEN = ("when", "when", "in what year", "what year")
_ON_WHAT_DATE = ("when", "when", "on what date")
_WHERE = ("where", "where", "in what place")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the span that answers it, and the title of its page, which may be empty."""

    text: str
    answer: str
    title: str

    def row(self, number: int) -> dict[str, Any]:
        """The question as a row of a question file, in KILT's form."""
        provenance = [{"title": self.title}] if self.title else []
        output = [{"answer": self.answer, "provenance": provenance}]
        return {"id": str(number), "input": self.text, "output": output}


@dataclass(frozen=True, slots=True)
class _Asking:
    """Question words, and whether the preposition before the answer is dropped: "when" implies it."""

    words: str
    drop: bool = False


def make_questions(passages: Iterable[Passage], maker: QuestionMaker, *, most_per_answer: int) -> Iterator[Question]:
    """The questions of all passages, at most `most_per_answer` with the same answer: models learn to guess such."""
    answers: Counter[str] = Counter()
    for passage in passages:
        for question in maker.questions(passage):
            answers[question.answer.lower()] += 1
            if answers[question.answer.lower()] <= most_per_answer:
                yield question


class QuestionMaker:
    """Makes questions from passages. They depend only on the passage, the seed and the classes."""

    def __init__(self, classes: Classes, *, most: int = 2, seed: int = 0) -> None:
        """`classes` has learned from the text's articles. A passage gives at most `most` questions."""
        self._classes, self._most, self._seed = classes, most, seed

    def questions(self, passage: Passage) -> list[Question]:
        """Up to `most` questions about a passage, in random order."""
        rng = Random(f"{self._seed}:{passage.id}")  # noqa: S311  (nothing secret)
        title = without_brackets(passage.title)
        found = [q for a, b in sentences(passage.text) for q in self._sentence(passage.text[a:b], title, rng)]
        rng.shuffle(found)
        return found[: self._most]

    def _sentence(self, text: str, title: str, rng: Random) -> Iterator[Question]:
        text = without_brackets(text)
        if not SENTENCE_WORDS[0] <= text.count(" ") + 1 <= SENTENCE_WORDS[1] or text[-1:] not in ".!?\"'":
            return
        about = self._about_title(text, title, rng)
        asked = [about] if about else []
        asked += [q for span in salient(text) if (q := self._about_span(text, span, title, rng))]
        yield from (q for q in asked if _sensible(q.text))

    def _about_title(self, text: str, title: str, rng: Random) -> Question | None:
        """A question for the title, from a sentence that begins with "he", "she" or "it"; none half of the time."""
        pronoun = _SUBJECT.match(text)
        if not pronoun or not 0 < len(title.split()) <= TITLE_WORDS:
            return None
        clause = _clause(text, (0, pronoun.end())) if rng.random() < 0.5 else None
        if clause is None:
            return None
        words, by_class = ("who", 0.2) if pronoun["person"] else ("what", 0.7)
        noun = self._classes.of(title)
        if noun and rng.random() < by_class:
            words = f"{rng.choice(('what', 'which'))} {noun}"
        return Question(f"{words} {_plain(text[pronoun.end() : clause[1]])}", title, title)

    def _about_span(self, text: str, span: Span, title: str, rng: Random) -> Question | None:
        """A question for a span, in the words of its clause; None if there is no good one."""
        answer, clause = text[span[0] : span[1]], _clause(text, span)
        if clause is None or not _worth_asking(text, span, rng) or text[span[1] :].startswith(("'s", "’s")):
            return None
        before, after = _plain(text[clause[0] : span[0]]), _plain(text[span[1] : clause[1]])
        asking = self._asking(answer, text[: span[0]].rstrip(), rng)
        if asking is None:
            return None
        if pronoun := _PRONOUN.match(before):
            if not title:
                return None
            before = title + ("'s" if pronoun["owner"] else "") + before[pronoun.end() :]
        if asking.drop:
            before = _PREPOSITION.sub("", before).strip()
        if answer.lower() in f"{before} {after}".lower():
            return None  # the question would give its answer away
        if self._says_nothing_of(title, before, after, rng) and not _same_name(answer, title):
            before = f"{title} {before}".strip()
        return Question(_ordered(asking.words, before, after, rng), answer, title)

    def _says_nothing_of(self, title: str, before: str, after: str, rng: Random) -> bool:
        """Whether the title must be added: no word of it is there, and no other name (which only counts mostly)."""
        clause = f"{before} {after}".lower()
        if any(word in clause for word in title.lower().split() if len(word) > 3):
            return False
        names = re.findall(r"\b[A-Z][a-z]+", f"{before[1:]} {after}")
        return not names or rng.random() < 0.3

    def _asking(self, answer: str, before: str, rng: Random) -> _Asking | None:
        """Question words for an answer that follows the text `before`; None for most names of unknown class."""
        match = _PREPOSITION.search(before)
        preposition = match[1].lower() if match else ""
        if _YEAR.fullmatch(answer):
            return _Asking(rng.choice(_WHEN), preposition in ("in", "since", "during", "until", "from", "to", "by"))
        if _MONTH.search(answer):
            return _Asking(rng.choice(_ON_WHAT_DATE), preposition in ("on", "in", "since", "until"))
        if any(c.isdigit() for c in answer):
            return _Asking("how many")
        noun, located = self._classes.of(answer), preposition in ("in", "at", "near")
        which = rng.choice(("which", "what"))
        if self._classes.is_person(answer):
            return _Asking(f"{which} {noun}" if noun and rng.random() < 0.25 else "who")
        if noun and located and rng.random() < 0.4:
            return _Asking(rng.choice(_WHERE), drop=True)
        if noun and preposition in ("in", "at", "from", "on", "by", "to") and rng.random() < 0.5:
            return _Asking(f"{preposition} {which} {noun}", drop=True)
        if noun:
            return _Asking(f"{which} {noun}")
        if rng.random() < 0.6:
            return None
        if located:
            return _Asking("where", drop=True)
        return _Asking("who" if preposition == "by" else rng.choice(("who", "what", "what", "which")))


def _clause(text: str, span: Span) -> Span | None:
    """The smallest run of clauses around a span that has a verb and enough other words; None if it is too long."""
    # Places where a clause may begin or end. `begins` and `ends` list them from the span outwards.
    cuts = [m.start() for m in _CUT.finditer(text) if m.end() <= span[0] or m.start() >= span[1]]
    begins = [0, *(c for c in cuts if c <= span[0])][::-1]
    ends = [*(c for c in cuts if c >= span[1]), len(text)]

    def around(begin: int, end: int) -> list[str]:
        return f"{text[begin : span[0]]} {text[span[1] : end]}".split()

    while len(words := around(begins[0], ends[0])) < CLAUSE_WORDS[0] or not _VERB.search(" ".join(words)):
        wider = [(len(around(begin, ends[0])), begins) for begin in begins[1:2]]
        wider += [(len(around(begins[0], end)), ends) for end in ends[1:2]]
        if not wider:
            return None
        _, side = min(wider, key=itemgetter(0))  # the left one of equals
        side.pop(0)
    return (begins[0], ends[0]) if len(words) <= CLAUSE_WORDS[1] else None


def _worth_asking(text: str, span: Span, rng: Random) -> bool:
    """Whether a span is a good answer: not long, no year of a range; of other numbers only few, drawn at random."""
    answer = text[span[0] : span[1]]
    if len(answer.split()) > ANSWER_WORDS or len(answer) < 3:
        return False
    if _YEAR.fullmatch(answer):
        return not _RANGE_AFTER.match(text[span[1] :]) and not _RANGE_BEFORE.search(text[: span[0]])
    if any(c.isdigit() for c in answer) and not _MONTH.search(answer):
        return sum(c.isdigit() for c in answer) > 1 and "." not in answer and rng.random() < 0.25
    return True


def _ordered(words: str, before: str, after: str, rng: Random) -> str:
    """The words in a question's order: "how many people live in", "when was Curie born"."""
    if words == "how many":
        parts = [words, after, before]
    elif (verb := _AUXILIARY.search(before)) and verb.start() and rng.random() < 0.8:
        parts = [words, verb[0], before[: verb.start()], before[verb.end() :], after]
    else:
        parts = [words, before, after]
    return " ".join(" ".join(parts).split())


def _plain(text: str) -> str:
    """A clause without a connective at its beginning, and without punctuation around it."""
    return _CONNECTIVE.sub("", " ".join(text.split())).rstrip(_ENDING)


def _sensible(question: str) -> bool:
    words = _WORD.findall(question.lower())
    if _FORMULA.search(question) or not QUESTION_WORDS[0] <= len(words) <= QUESTION_WORDS[1]:
        return False
    return sum(word not in FUNCTION_WORDS for word in words) >= LEAST_CONTENT


def _same_name(one: str, other: str) -> bool:
    one, other = one.lower(), other.lower()
    return one in other or other in one
