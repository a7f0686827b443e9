"""Classes of named things, from the first sentences of articles, by tables."""

from __future__ import annotations

import pytest

from memstore.train.data.entity_types import Classes, class_noun


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Nile is a long river in Africa. It is a home of fish.", "river"),
        ("Marie Curie (born in Warsaw; was a girl once) was a Polish physicist and chemist.", "physicist"),
        ("Saturn is the sixth planet from the Sun.", "planet"),
        ("The Alps are a mountain range.", "range"),
        ("Oxygen is an element, with the sign O.", "element"),
        ("Jaws is a 1975 film directed by Steven Spielberg.", ""),  # the phrase is read up to the number
        ("Rust is a kind of oxide.", ""),  # too vague
        ("He sings.", ""),
        ("", ""),
        ("One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen is a town.", ""),
    ],
)
def test_class_noun(text: str, expected: str) -> None:
    assert class_noun(text) == expected


def test_a_name_gets_its_class_from_its_article_or_its_own_words() -> None:
    classes = Classes(least=2)
    classes.add("Nile", "The Nile is a river in Africa.")
    classes.add("Rhine (river)", "The Rhine is a river in Europe.")
    classes.add("Rhine", "The Rhine is a ship of no note.")  # the first article of a name counts
    classes.add("Solaris", "Solaris is a novel by Lem.")  # the one novel is not enough
    expected = {
        "NILE": "river", "the Nile": "river", "Rhine": "river", "Po River": "river", "River Tay": "river",
        "Solaris": "", "Riverside": "",
    }  # fmt: skip
    assert {name: classes.of(name) for name in expected} == expected
    assert classes.of("River 7") == ""
    assert classes.of("") == ""
