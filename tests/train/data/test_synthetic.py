"""Questions made from plain text: what they ask, by tables; what is not asked."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memstore.cli import app
from memstore.evaluate import read_gold
from memstore.passage import Passage
from memstore.questions.files import read_questions
from memstore.train.data.entity_types import Classes
from memstore.train.data.synthetic import Question, QuestionMaker, make_questions


@pytest.fixture(scope="module")
def classes() -> Classes:
    learned = Classes(least=1)
    for title, text in (
        ("Nile", "The Nile is a river in Africa."),
        ("Cairo", "Cairo is a city in Egypt."),
        ("Marie Curie", "Marie Curie (1867 – 1934) was a Polish physicist. She found radium."),
        ("Curie (crater)", "Curie is a crater."),
    ):
        learned.add(title, text)
    return learned


def _asked(classes: Classes, text: str, title: str = "Somewhere") -> set[tuple[str, str]]:
    """All questions that some seed makes of a passage, with their answers."""
    passage = Passage("p", "d", title, text, end=len(text))
    makers = (QuestionMaker(classes, most=9, seed=seed) for seed in range(80))
    return {(q.text, q.answer) for maker in makers for q in maker.questions(passage)}


@pytest.mark.parametrize(
    ("text", "title", "question", "answer"),
    [
        # the auxiliary comes first, and "in" is dropped, as "when" implies it
        ("The bridge of Arta was opened to trains in 1903.", "Arta",
         "when was The bridge of Arta opened to trains", "1903"),
        ("The army of Napoleon left Vilna on 9 December 1812.", "Vilna",
         "on what date The army of Napoleon left Vilna", "9 December 1812"),
        # a class is asked for by its name, a person by "who"
        ("The long boats sailed down the Nile to the sea.", "Boats",
         "which river The long boats sailed down the to the sea", "Nile"),
        ("The old bazaar with its spices lies in Cairo.", "Bazaar",
         "in what city The old bazaar with its spices lies", "Cairo"),
        ("The second prize of chemistry was won by Marie Curie.", "Prize",
         "who was The second prize of chemistry won by", "Marie Curie"),
        # a number's noun follows "how many"
        ("The great hall of Trier holds 4200 guests on feast days.", "Trier",
         "how many guests on feast days The great hall of Trier holds", "4200"),
        # the clause around the answer, not the sentence; the pronoun is the title
        ("She left home, took a train westwards and married a painter in 1895, which nobody knew.", "Marie Curie",
         "when Marie Curie married a painter", "1895"),
        # the title itself is asked for
        ("She discovered radium and polonium with her husband.", "Marie Curie",
         "who discovered radium and polonium with her husband", "Marie Curie"),
    ],
)  # fmt: skip
def test_what_is_asked(classes: Classes, text: str, title: str, question: str, answer: str) -> None:
    assert (question, answer) in _asked(classes, text, title)


@pytest.mark.parametrize(
    "text",
    [
        "The war lasted from 1914 to 1918 in these parts.",  # years of a range are not asked for
        "It rained.",  # too short
        "It has been estimated that such whales swim faster than ships.",  # this "it" is no thing
        "The number called pi is about 3.14159 by most counts.",
        "The sum {x} = 1900 holds for every natural number.",  # a formula
        "Towns and rivers of the same old northern county",  # no sentence
    ],
)
def test_what_is_not_asked(classes: Classes, text: str) -> None:
    assert not _asked(classes, text)


def test_without_a_title_no_question_asks_for_it_or_names_it(tmp_path: Path, classes: Classes) -> None:
    text = "She discovered radium and polonium with her husband. He married a painter from the north in 1895."
    assert _asked(classes, text, "Curie (crater)")
    assert not _asked(classes, text, "") | _asked(classes, text, "(crater)")
    [asked] = {q for q, _ in _asked(classes, "The old hall of the town was opened to trains in 1903.", "")} & {
        "when was The old hall of the town opened to trains"
    }
    row = Question(asked, "1903", "").row(0)
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert [r.titles for r in read_questions(tmp_path / "q.jsonl")] == [()]
    assert read_gold(tmp_path / "q.jsonl").questions[0].answers == ("1903",)


def test_a_question_never_gives_its_answer_away(classes: Classes) -> None:
    text = "The people of Cairo came to the city of Marie Curie in 1903, and they left it in May 1904 for the Nile."
    asked = _asked(classes, text)
    assert asked
    assert not [(q, a) for q, a in asked if a.lower() in q.lower()]


def test_a_passage_gives_the_same_questions_whatever_came_before_it(classes: Classes) -> None:
    passages = [
        Passage(f"p{n}", "d", "Arta", f"The bridge of Arta was opened to trains in {1900 + n}.", end=50)
        for n in range(20)
    ]
    maker = QuestionMaker(classes, seed=3)
    alone = [QuestionMaker(classes, seed=3).questions(p) for p in passages]
    assert [maker.questions(p) for p in reversed(passages)] == alone[::-1]
    assert [QuestionMaker(classes, seed=4).questions(p) for p in passages] != alone


def test_an_answer_is_asked_for_a_limited_number_of_times(classes: Classes) -> None:
    passages = [
        Passage(f"p{n}", "d", "Bridge", f"The {n}th bridge of stone was opened to trains in 1903.", end=60)
        for n in range(9)
    ]
    made = list(make_questions(passages, QuestionMaker(classes), most_per_answer=4))
    assert [q.answer for q in made] == ["1903"] * 4
    assert len({q.text for q in made}) == 4


def test_classes_know_people() -> None:
    learned = Classes(least=1)
    for number in range(5):
        learned.add(f"Ann {number}", f"Ann {number} (born 19{number}0) was a singer. She sang.")
    learned.add("Harbour", "Harbour is a town (pop. 1900). It has a pier.")
    expected = {"ann 3": True, "Harbour": False, "Singer Jones": True, "Harbour Town": False, "Zed": False}
    assert {name: learned.is_person(name) for name in expected} == expected


def test_the_command_writes_a_file_that_prepare_reads(tmp_path: Path) -> None:
    outs = [tmp_path / "one" / "q.jsonl.gz", tmp_path / "q.jsonl", tmp_path / "two" / "q.jsonl.gz"]
    for out in outs:
        result = CliRunner().invoke(app, ["questions", "--corpus", "sample", "--out", str(out), "--most", "1"])
        assert result.exit_code == 0, result.output
    rows = list(read_questions(outs[0]))
    assert result.output == f"wrote {outs[2]}: {len(rows):,} questions\n"
    assert len(rows) > 100
    assert outs[0].read_bytes() == outs[2].read_bytes()
    assert gzip.decompress(outs[0].read_bytes()) == outs[1].read_bytes()
    assert all(len(row.answers) == len(row.titles) == 1 for row in rows)
    first = json.loads(gzip.decompress(outs[0].read_bytes()).splitlines()[0])
    assert first == Question(first["input"], rows[0].answers[0], rows[0].titles[0]).row(0)
