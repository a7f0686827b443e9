"""A filter of the store's own metadata fields, beside the sliders."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.server.fakes import FakeEngine

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
expect = sync_api.expect

FIELDS = {"lang": ["string"], "new": ["boolean"], "tags": ["strings"], "year": ["number"], "code": ["number", "string"]}


@pytest.fixture
def come(serve: Callable[..., str], visitor: Callable[..., Any], engine: FakeEngine) -> Callable[..., Any]:
    """A visitor of a server whose store has these fields, at an address."""
    reported = engine.info()
    reported["store"]["metadata"] = FIELDS
    engine.info = lambda: reported  # type: ignore[method-assign]

    def come(address: str = "") -> Any:
        page = visitor()
        page.goto(f"{serve()}{address}")
        expect(page.locator("#options")).to_be_visible()
        return page

    return come


def sent(page: Any) -> Any:
    """The filter of the question that is asked now."""
    with page.expect_request("**/answer") as asked:
        page.click("#submit")
    expect(page.locator("#answer > .text")).to_be_visible()
    return asked.value.post_data_json.get("filter")


def test_a_store_without_metadata_has_no_filter(page: Any) -> None:
    assert page.locator(".filter").count() == 0


def test_what_is_chosen_is_sent_as_the_field_is(come: Callable[..., Any]) -> None:
    page = come()
    page.fill("#question", "why?")
    expect(page.locator("#filter-value")).to_be_hidden()  # until there is a field
    assert sent(page) is None
    found = {}
    for field, sign, value in [
        ("lang", "is", "en"), ("lang", "is at least", "2020-01"), ("year", "is at least", "2000"),
        ("year", "is not", " 1999 "), ("new", "is", "true"), ("tags", "is", "a"),
        ("code", "is", "7"), ("code", "is", "7b"), ("lang", "is", ""),
    ]:  # fmt: skip
        page.select_option("#filter-field", field)
        page.select_option("#filter-sign", label=sign)
        page.fill("#filter-value", value)
        found[field, sign, value] = sent(page)
    assert list(found.values()) == [
        {"lang": {"in": ["en"]}}, {"lang": {"gte": "2020-01"}}, {"year": {"gte": 2000}},
        {"year": {"not": 1999}}, {"new": {"in": [True]}}, {"tags": {"in": ["a"]}},
        {"code": {"in": [7]}}, {"code": {"in": ["7b"]}}, None,
    ]  # fmt: skip
    page.select_option("#filter-field", "tags")
    assert page.locator("#filter-sign option").all_inner_texts() == ["is", "is not"]
    assert axe.Axe().run(page).response["violations"] == []


def test_a_value_that_the_field_cannot_have_is_refused_with_a_reason(come: Callable[..., Any]) -> None:
    page = come()
    page.fill("#question", "why?")
    page.select_option("#filter-field", "year")
    page.select_option("#filter-sign", label="is at most")
    page.fill("#filter-value", "x")
    page.click("#submit")
    expect(page.locator("#problem")).to_contain_text("year")


def test_it_is_in_the_address(come: Callable[..., Any]) -> None:
    page = come(f"?q=why&filter={quote(json.dumps({'year': {'gte': 2000}}))}")
    expect(page.locator("#filter-value")).to_have_value("2000")
    chosen = [page.locator(f"#filter-{part}").input_value() for part in ("field", "sign")]
    assert chosen == ["year", "gte"]
    page.fill("#filter-value", "2001")
    assert sent(page) == {"year": {"gte": 2001}}
    assert json.loads(parse_qs(urlsplit(page.url).query)["filter"][0]) == {"year": {"gte": 2001}}


@pytest.mark.parametrize("wrong", ["{", "[]", "7", '"x"', "null", '{"nope": {"gte": 1}}', '{"year": 7}',
                                   '{"year": {"gte": 1, "lt": 9}}', '{"year": {"constructor": 1}}',
                                   '{"__proto__": {"gte": 1}}'])  # fmt: skip
def test_what_cannot_be_shown_is_not_asked_for(come: Callable[..., Any], wrong: str, engine: FakeEngine) -> None:
    page = come(f"?q=why&filter={quote(wrong)}")
    expect(page.locator("#answer > .text")).to_have_text("why!")
    assert page.locator("#filter-field").input_value() == ""
    assert engine.questions[0].filter is None
