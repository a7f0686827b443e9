"""Filters: which passages a question may find, by the metadata of their documents. Knows values and no index.

A filter is an object of fields, all of which must hold:

    {"lang": "en"}                           equal; of a list of strings, one of them
    {"lang": {"in": ["en", "de"]}}           one of these
    {"year": {"gte": 2000, "lt": 2010}}      from, below; also `gt` and `lte`; numbers, or strings by their characters
    {"author": {"exists": true}}             the document has the field; false: it has not
    {"lang": {"not": "en"}}                  not so; a document without the field passes
    {"year": {"not": {"gte": 2000}}}         likewise

The command line has words for most: `lang=en`, `lang!=en`, `year>=2000`; `parse_words` reads them.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from memstore.errors import RequestError
from memstore.metadata import MAX_FIELDS, MAX_NUMBER, MAX_STRING, Fields, Kind, in_json, in_words

MAX_VALUES = 1000  # of one `in`
_BOUNDS = ("gt", "gte", "lt", "lte")
_TESTS = ("in", *_BOUNDS, "exists", "not")
_KINDS: dict[str, Kind] = {"s": "string", "n": "number", "b": "boolean"}
_AFTER = {"s": "t", "n": "o"}  # the first term after all of a kind
_WORDS = re.compile(r"\s*(?P<field>[^=<>!]+?)\s*(?P<sign>!=|>=|<=|=|>|<)(?P<value>.*)", re.DOTALL)
_SIGNS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


def term(value: str | float) -> str:
    """A value as letters and digits that are ordered as the values of its kind are: numbers by size, strings by their
    characters.
    """
    if isinstance(value, bool):
        return f"b{value:d}"
    if isinstance(value, str):
        return f"s{value.encode().hex()}"
    [bits] = struct.unpack(">Q", struct.pack(">d", float(value) + 0.0))  # -0.0 is 0.0
    return f"n{bits ^ 0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else bits | 1 << 63:016x}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """Holds where the field has one of these values, as `term` writes them."""

    terms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Holds where the field has a value of the bounds' kind between them; these are terms too."""

    low: str
    high: str
    with_low: bool
    with_high: bool


@dataclass(frozen=True, slots=True)
class Exists:
    """Holds where the document has the field."""


Test = OneOf | Range | Exists


@dataclass(frozen=True, slots=True)
class Clause:
    """What must hold of a field: all tests; or with `negated`, not all of them."""

    field: str
    tests: tuple[Test, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on the metadata of a passage's document. All clauses must hold; without any, every passage passes."""

    clauses: tuple[Clause, ...]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The filter that an object says, as the module describes it.

        Raises:
            RequestError: it is none.
        """
        if not isinstance(values, Mapping):
            raise RequestError(f"a filter must be an object, not {in_json(values)}")
        if len(values) > MAX_FIELDS:
            raise RequestError(f"a filter has {len(values)} fields, more than {MAX_FIELDS}")
        return cls(tuple(clause for field, said in values.items() for clause in _clauses(field, said)))

    def require(self, fields: Fields) -> None:
        """See that every field is one that there is, and holds values of the kind that is asked for.

        Raises:
            RequestError: it is not. The message names the fields that there are.
        """
        there = f"there are {in_words(fields)}" if fields else "its documents have no metadata"
        for clause in self.clauses:
            kinds = fields.get(clause.field)
            if kinds is None:
                raise RequestError(f"the store has no metadata field {clause.field!r} to filter by: {there}")
            had = {"string" if kind == "strings" else kind for kind in kinds}
            for kind in _kinds(clause.tests):
                if kind not in had:
                    raise RequestError(
                        f"the filter compares {clause.field!r} with a {kind}, which it never is in this store: {there}"
                    )


def _kinds(tests: Iterable[Test]) -> Iterable[Kind]:
    """The kinds of all values that tests name."""
    for test in tests:
        if isinstance(test, OneOf):
            yield from (_KINDS[one[0]] for one in test.terms)
        elif isinstance(test, Range):
            yield _KINDS[test.low[0]]


# --- reading the object -----------------------------------------------------------------------------------


def _clauses(field: str, said: object) -> list[Clause]:
    if not isinstance(said, Mapping):
        return [Clause(field, (OneOf((_term(field, said),)),))]
    given = dict(said)
    inner = given.pop("not", None)
    absent = given.get("exists") is False
    if absent:
        del given["exists"]
    clauses = [Clause(field, (Exists(),), negated=True)] if absent else []
    if inner is not None:
        if isinstance(inner, Mapping) and ("not" in inner or inner.get("exists") is False):
            raise RequestError(f"filter: {field!r}: `not` can hold neither a `not` nor `exists` false: leave both out")
        tests = _tests(field, inner) if isinstance(inner, Mapping) else (OneOf((_term(field, inner),)),)
        clauses.append(Clause(field, tests, negated=True))
    if given or not clauses:
        clauses.append(Clause(field, _tests(field, given)))
    return clauses


def _tests(field: str, said: Mapping[str, object]) -> tuple[Test, ...]:
    if unknown := [name for name in said if name not in _TESTS]:
        raise RequestError(f"filter: {field!r} has no test {unknown[0]!r}; there are {', '.join(_TESTS)}")
    if not said:
        raise RequestError(f"filter: {field!r} says nothing: give a value, or one of {', '.join(_TESTS)}")
    tests: list[Test] = []
    if "in" in said:
        tests.append(_one_of(field, said["in"]))
    if any(name in said for name in _BOUNDS):
        tests.append(_range(field, said))
    if "exists" in said:
        if said["exists"] is not True:
            raise RequestError(f"filter: {field!r}: `exists` must be true or false")
        tests.append(Exists())
    return tuple(tests)


def _one_of(field: str, values: object) -> OneOf:
    if not isinstance(values, list | tuple):
        raise RequestError(f"filter: {field!r}: `in` must be a list, not {in_json(values)}")
    if len(values) > MAX_VALUES:
        raise RequestError(f"filter: {field!r}: `in` has {len(values):,} values, more than {MAX_VALUES:,}")
    return OneOf(tuple(dict.fromkeys(_term(field, value) for value in values)))


def _range(field: str, said: Mapping[str, object]) -> Range:
    for one, other in (("gt", "gte"), ("lt", "lte")):
        if one in said and other in said:
            raise RequestError(f"filter: {field!r} has both `{one}` and `{other}`: leave one out")
    bounds = {name: _term(field, said[name]) for name in _BOUNDS if name in said}
    kinds = {bound[0] for bound in bounds.values()}
    if len(kinds) > 1 or "b" in kinds:
        raise RequestError(f"filter: the bounds of {field!r} must be numbers, or strings, all of them")
    [kind] = kinds
    low, high = bounds.get("gt", bounds.get("gte")), bounds.get("lt", bounds.get("lte"))
    return Range(low=low or kind, high=high or _AFTER[kind], with_low="gt" not in bounds, with_high="lte" in bounds)


def _term(field: str, value: object) -> str:
    """A value's term.

    Raises:
        RequestError: it is nothing that a field can have.
    """
    if isinstance(value, str):
        if len(value) > MAX_STRING:
            raise RequestError(f"filter: {field!r}: a string has {len(value):,} characters, more than {MAX_STRING:,}")
        try:
            return term(value)
        except UnicodeEncodeError:
            raise RequestError(f"filter: {field!r}: a string holds half of a surrogate pair") from None
    if not isinstance(value, int | float):
        raise RequestError(f"filter: {field!r} is compared with {in_json(value)}: a string, number or boolean can be")
    if not (math.isfinite(value) if isinstance(value, float) else abs(value) <= MAX_NUMBER):
        raise RequestError(f"filter: {field!r}: {value} is no number that a document can have")
    return term(value)


# --- reading words ----------------------------------------------------------------------------------------


def parse_words(words: Sequence[str], fields: Fields | None = None) -> dict[str, Any]:
    """The object that words of the command line say: `lang=en`, `lang!=en`, `year>=2000`, or such an object as JSON.

    Args:
        words: each a condition; all must hold.
        fields: those of the store, which decide whether 2000 is a number or a string; if None, what looks like a number
            or a boolean is one. In double quotes it is a string.

    Raises:
        RequestError: one cannot be understood, or two say different things of one field.
    """
    found: dict[str, Any] = {}
    for word in words:
        for field, said in (_object(word) if word.lstrip().startswith("{") else _condition(word, fields)).items():
            found[field] = _both(field, found[field], said) if field in found else said
    return found


def _object(word: str) -> dict[str, Any]:
    try:
        values = json.loads(word)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the filter {word!r} is not valid JSON: {error}") from None
    Filter.of(values)
    return dict(values)


def _condition(word: str, fields: Fields | None) -> dict[str, Any]:
    match = _WORDS.fullmatch(word)
    if match is None:
        raise RequestError(
            f"the filter {word!r} is not understood: write FIELD=VALUE with one of = != > >= < <=, or an object as JSON"
        )
    field, sign = match["field"], match["sign"]
    value = _value(match["value"].strip(), None if fields is None else fields.get(field, ()))
    match sign:
        case "=":
            return {field: value}
        case "!=":
            return {field: {"not": value}}
        case _:
            return {field: {_SIGNS[sign]: value}}


def _value(text: str, kinds: Sequence[Kind] | None) -> str | float | bool:
    """What a word stands for: a number or a boolean only if the field has such."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, str):
        return value
    kind = "boolean" if isinstance(value, bool) else "number" if isinstance(value, int | float) else None
    return value if kind is not None and (kinds is None or kind in kinds) else text


def _both(field: str, one: Any, other: Any) -> dict[str, Any]:
    """Two conditions on a field as one, where they are of different tests."""
    if isinstance(one, dict) and isinstance(other, dict) and not one.keys() & other.keys():
        return one | other
    raise RequestError(f"two conditions on {field!r} cannot be joined: say both in one object, as in "
                       f'{{"{field}": {{"in": ["a", "b"]}}}}')  # fmt: skip
