"""Finds the class of a named thing: "river" for Nile, "physicist" for Marie Curie.

With it, a question made from a sentence can ask "which river", as people do, and not only "which".

The first sentence of an encyclopedia's article gives the class: "The Nile is a long river in Africa". It is the last
word of the noun phrase after "is a", "was the", "are an", and so on. The phrase ends before a preposition, a
conjunction, a relative word or punctuation; brackets are left out. A class that few articles have is mostly a mistake
of these rules, and does not count.

A name without an article gets its class from its own words: "Po River", "Lake Erie", "University of Leeds". A name is a
person's if its article gives years of life, or a birth, and says "he" or "she". Without an article, it is a person's if
most things of its class are. Knows text only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from memstore.passage import Passage
from memstore.train.data.salient_spans import sentences

_BRACKETS = re.compile(r"\s*[(\[][^()\[\]]*[)\]]")
_IS_A = re.compile(r"\b(?:is|was|are|were)\s+(?:an?|the)\s+(?P<phrase>.+)", re.DOTALL)
_END_WORDS = """
in of at on from to for by with that which who whom whose where when and or as near between among about into
during since until through across along under over within without against around behind is was are were has
had have made used found born known called named located situated based written directed produced played
created published founded built given held formed spoken set first also but than after before starting
developed released
"""
_ENDS = frozenset(_END_WORDS.split())
_VAGUE_WORDS = """
type kind sort form part name term way list word piece example number member one head national north south east
west
"""
_VAGUE = frozenset(_VAGUE_WORDS.split())
_LIFE = re.compile(r"\([^()]*?(?:born|\d{3,4}\s*[–-]|[–-]\s*\d)")
_HE_OR_SHE = re.compile(r"\b(?:born|he|she|his|her)\b", re.IGNORECASE)
_BEGINNING = 600  # characters at an article's beginning that are searched for years of life and "he" or "she"
_LEAST_PEOPLE = 5  # articles that a class must have to decide whether a name is a person's
_SUBJECT_WORDS = 14  # an "is a" after more words belongs to another subject
_PHRASE_WORDS = 8  # words after "is a" among which the noun is searched for


@dataclass(slots=True)
class Classes:
    """Learns classes from articles, then gives the class of a name.

    Attributes:
        least: a class counts if at least this many articles have it.
    """

    least: int = 15
    _by_title: dict[str, str] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)
    _person: dict[str, bool] = field(default_factory=dict)
    _people: Counter[str] = field(default_factory=Counter)

    def learn(self, passages: Iterable[Passage]) -> None:
        """Learn from the passages that are the beginning of an article."""
        for passage in passages:
            if passage.start == 0:
                self.add(passage.title, passage.text)

    def add(self, title: str, text: str) -> None:
        """Learn from an article: its title, and the beginning of its text."""
        name = _name(title)
        person = self._person.setdefault(name, _is_of_a_person(text))
        if name and name not in self._by_title and (noun := class_noun(text)):
            self._by_title[name] = noun
            self._counts[noun] += 1
            self._people[noun] += person

    def is_person(self, name: str) -> bool:
        """Whether this is a person's name, as far as is known."""
        key = _name(name)
        if key in self._person:
            return self._person[key]
        noun = self.of(name)
        return self._counts[noun] >= _LEAST_PEOPLE and self._people[noun] > self._counts[noun] / 2

    def of(self, name: str) -> str:
        """The class of the thing with this name, in lower case; empty if it is not known."""
        key = _name(name)
        if not key or not key[-1].isalpha():  # a number, a date
            return ""
        noun = self._by_title.get(key) or self._by_title.get(key.removeprefix("the "), "")
        if self._counts[noun] >= self.least:
            return noun
        words = key.split()
        if len(words) > 1:
            for word in (words[-1], words[0]):  # "Po River", "Lake Erie"
                if self._counts[word] >= self.least:
                    return word
        return ""


def class_noun(text: str) -> str:
    """The class that an article's first sentence gives its subject, in lower case; empty if it gives none."""
    found = sentences(text)
    if not found:
        return ""
    sentence = without_brackets(text[found[0][0] : found[0][1]])
    match = _IS_A.search(sentence)
    if match is None or sentence[: match.start()].count(" ") > _SUBJECT_WORDS:
        return ""
    noun = ""
    for word in match["phrase"].split()[:_PHRASE_WORDS]:
        plain = word.rstrip(".,;:!?\"'”’")
        if plain.lower() in _ENDS or not plain.isalpha():
            break
        noun = plain
        if plain != word:  # punctuation ends the phrase
            break
    return noun if noun.islower() and len(noun) > 2 and noun not in _VAGUE else ""


def without_brackets(text: str) -> str:
    """The text without round and square brackets, their content, and the space before them."""
    return _BRACKETS.sub("", text).strip()


def _is_of_a_person(text: str) -> bool:
    beginning = text[:_BEGINNING]
    return bool(_LIFE.search(beginning) and _HE_OR_SHE.search(beginning))


def _name(title: str) -> str:
    return " ".join(without_brackets(title).lower().split())
