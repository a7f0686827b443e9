"""What a filter may say, in an object and in words, and what it is refused for."""

from __future__ import annotations

import math
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from memstore.errors import RequestError
from memstore.retrieve.filters import Clause, Exists, Filter, OneOf, Range, parse_words, term

FIELDS: Any = {
    "lang": ("string",),
    "year": ("number",),
    "tags": ("strings",),
    "draft": ("boolean",),
    "zip": ("string",),
}
NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@hypothesis.given(st.one_of(st.tuples(NUMBERS, NUMBERS), st.tuples(TEXTS, TEXTS)))
def test_terms_are_ordered_as_values_are(pair: Any) -> None:
    a, b = pair
    assert (term(a) < term(b), term(a) == term(b)) == (a < b, a == b)


def test_values_of_different_kinds_have_different_terms() -> None:
    assert len({term(v) for v in (1, "1", True, "", "true", 0.5)}) == 6
    assert term(1) == term(1.0)
    assert term(-0.0) == term(0)
    assert all(character.isalnum() for v in (-1e300, "ä b:]*", True) for character in term(v))


def test_an_object_becomes_clauses() -> None:
    found = Filter.of(
        {
            "lang": {"in": ["en", "de", "en"]},
            "year": {"gt": 1, "lte": 2.5},
            "tags": {"not": "x"},
            "draft": False,
            "zip": {"exists": False, "not": {"gte": "a"}},
        }
    )
    assert found.clauses == (
        Clause("lang", (OneOf((term("en"), term("de"))),)),
        Clause("year", (Range(term(1), term(2.5), with_low=False, with_high=True),)),
        Clause("tags", (OneOf((term("x"),)),), negated=True),
        Clause("draft", (OneOf((term(False),)),)),
        Clause("zip", (Exists(),), negated=True),
        Clause("zip", (Range(term("a"), "t", with_low=True, with_high=False),), negated=True),
    )
    assert Filter.of({}).clauses == ()
    assert hash(found) == hash(Filter.of({"lang": {"in": ["en", "de"]}}) and found)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("en", "a filter must be an object, not a string"),
        ({"lang": None}, "'lang' is compared with null: a string, number or boolean can be"),
        ({"lang": ["en"]}, "'lang' is compared with a list"),
        ({"lang": {}}, "'lang' says nothing: give a value, or one of in, gt, gte, lt, lte, exists, not"),
        ({"lang": {"equals": "en"}}, "'lang' has no test 'equals'; there are in, gt, gte, lt, lte, exists, not"),
        ({"lang": {"in": "en"}}, "`in` must be a list, not a string"),
        ({"lang": {"in": [["en"]]}}, "compared with a list"),
        ({"lang": {"in": ["x"] * 1001}}, "`in` has 1,001 values, more than 1,000"),
        ({"year": {"gt": 1, "gte": 2}}, "'year' has both `gt` and `gte`: leave one out"),
        ({"year": {"lt": 1, "lte": 2}}, "'year' has both `lt` and `lte`"),
        ({"year": {"gt": 1, "lt": "2"}}, "the bounds of 'year' must be numbers, or strings, all of them"),
        ({"year": {"gt": True}}, "the bounds of 'year' must be numbers, or strings"),
        ({"year": {"exists": 1}}, "`exists` must be true or false"),
        ({"year": {"not": {"not": 1}}}, "`not` can hold neither a `not` nor `exists` false"),
        ({"year": {"not": {"exists": False}}}, "`not` can hold neither"),
        ({"year": {"not": {}}}, "'year' says nothing"),
        ({"year": math.nan}, "nan is no number that a document can have"),
        ({"year": 2**53 + 1}, "is no number that a document can have"),
        ({"lang": "x" * 1025}, "a string has 1,025 characters, more than 1,024"),
        ({"lang": "\ud800"}, "half of a surrogate pair"),
        ({f"f{i}": 1 for i in range(65)}, "a filter has 65 fields, more than 64"),
    ],
)
def test_what_is_no_filter_is_refused(said: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        Filter.of(said)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"yaer": 2000}, "no metadata field 'yaer' to filter by: there are draft (booleans), lang (strings), "),
        ({"lang": 1}, "compares 'lang' with a number, which it never is in this store: there are draft (booleans)"),
        ({"year": "2000"}, "compares 'year' with a string"),
        ({"year": {"gte": "2000"}}, "compares 'year' with a string"),
        ({"draft": {"not": 1}}, "compares 'draft' with a number"),
        ({"lang": {"in": ["en", True]}}, "compares 'lang' with a boolean"),
    ],
)
def test_unknown_fields_and_wrong_kinds_are_refused_with_those_that_there_are(said: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        Filter.of(said).require(FIELDS)
    assert message in str(caught.value)


def test_a_store_without_metadata_says_so() -> None:
    with pytest.raises(RequestError, match="its documents have no metadata"):
        Filter.of({"lang": "en"}).require({})
    Filter.of({}).require({})
    Filter.of({"tags": "x", "year": {"exists": True}, "lang": {"gte": "a"}}).require(FIELDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lang=en"], {"lang": "en"}),
        (["lang = en us "], {"lang": "en us"}),
        (["lang!=en"], {"lang": {"not": "en"}}),
        (["year>=2000", "year<2010"], {"year": {"gte": 2000, "lt": 2010}}),
        (["year>1.5", "year<=2"], {"year": {"gt": 1.5, "lte": 2}}),
        (["draft=true"], {"draft": True}),
        (["zip=02139"], {"zip": "02139"}),  # the field holds strings
        (["zip=2139"], {"zip": "2139"}),
        (["unknown=7"], {"unknown": "7"}),
        (['year="7"'], {"year": "7"}),
        (["lang=a=b<c"], {"lang": "a=b<c"}),
        (["lang="], {"lang": ""}),
        (['{"lang": {"in": ["en", "de"]}}', "year=7"], {"lang": {"in": ["en", "de"]}, "year": 7}),
        ([], {}),
    ],
)
def test_words_say_what_objects_do(words: list[str], said: dict[str, Any]) -> None:
    assert parse_words(words, FIELDS) == said


def test_without_fields_words_are_what_they_look_like() -> None:
    words = ["a=7", "b=true", "c=null", 'd="7"', "e=007"]
    assert parse_words(words) == {"a": 7, "b": True, "c": "null", "d": "7", "e": "007"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lang"], "the filter 'lang' is not understood: write FIELD=VALUE"),
        (["=en"], "is not understood"),
        (["lang=en", "lang=de"], "two conditions on 'lang' cannot be joined"),
        (["lang!=en", "lang!=de"], "two conditions on 'lang' cannot be joined"),
        (["{lang: 1}"], "is not valid JSON"),
        (['{"lang": {"is": 1}}'], "'lang' has no test 'is'"),
    ],
)
def test_words_that_say_nothing_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_words(words, FIELDS)
    assert message in str(caught.value)
