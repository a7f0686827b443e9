"""Where an answer stands in passages."""

from __future__ import annotations

import pytest

from memstore.answer.citations import Citation, Occurrences, citations, question_words
from memstore.passage import Passage, RankedPassage


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("radium", "She found Radium, then radium salts, not radiums.", ["Radium", "radium"]),
        ("the u.s. co founder", "He was the U.S. co-founder of it.", ["the U.S. co-founder"]),
        ("1,000 letters", "in 1000 letters, 1,000 letters", ["1000 letters", "1,000 letters"]),
        ("U.S.", "to us in the U. S.", ["U. S"]),
        ("Curie", "Curie's; MCurie; curie", ["Curie", "curie"]),
        ("São Paulo", "In Sao Paulo, in SÃO  PAULO.", ["Sao Paulo", "SÃO  PAULO"]),
        ("Sao Paulo", "(Sa\u0303o Paulo)", ["Sa\u0303o Paulo"]),  # an accent that is a sign of its own
        ("Müller", "der Mu\u0308ller, Mullers", ["Mu\u0308ller"]),
        ("strasse", "Die Straße – lang", ["Straße"]),
        ("東京", "彼は東京都に住む", ["東京"]),
        ("Tokyo", "彼はTokyoに住む", ["Tokyo"]),
        ("İzmir", "from İzmir.", ["İzmir"]),
        ("C++", "C++ and C", ["C", "C"]),
        ("nothing here", "nothing there", []),
        ("one two", "one, and much later two", []),
        ("", "text", []),
        ("...", "text ... text", []),
        ("the", "the cat", []),
        ("No", "no cat", []),
        ("SUPPORTS", "he supports it", []),
        ("a (b", "a (b)", ["a (b"]),
    ],
)
def test_whole_words_are_found_however_they_are_written(answer: str, text: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in Occurrences(answer).spans(text)] == found


def ranked(name: str, text: str, *, kept: bool, attention: float | None = None) -> RankedPassage:
    return RankedPassage(passage=Passage(name, "d", "Nile", text, end=len(text)), kept=kept, attention=attention)


def test_only_what_was_read_is_cited_best_passage_first() -> None:
    passages = [
        ranked("b", "The Nile, the nile.", kept=True, attention=0.75),
        ranked("a", "A lake.", kept=True, attention=0.25),
        ranked("c", "Nile", kept=False),
    ]
    assert citations("nile", passages) == (
        Citation(passage_id="b", start=4, end=8, attention=0.75),
        Citation(passage_id="b", start=14, end=18, attention=0.75),
    )


def test_the_share_of_a_questions_words() -> None:
    assert question_words("Who discovered radium in Paris?", "Radium was discovered.") == pytest.approx(2 / 3)
    assert question_words("who is it", "it") == 0.0
