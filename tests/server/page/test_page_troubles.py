"""What goes wrong is said in plain words, with what to do; the question stays, and can be asked again."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.server.fakes import FakeEngine

expect = pytest.importorskip("playwright.sync_api").expect

PROBLEM = "application/problem+json"


def ask(page: Any, question: str) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")


def told(page: Any) -> list[str]:
    """The paragraphs of the trouble that is shown."""
    page.locator("#problem .headline").wait_for()
    assert page.locator("#waiting").is_hidden()
    return page.locator("#problem p").all_inner_texts()


def problem(status: int, detail: str = "", **more: str) -> dict[str, Any]:
    body = {"type": "urn:x", "title": "A title", "status": status, "detail": detail, "request_id": "r-1"}
    return {"status": status, "content_type": PROBLEM, "body": json.dumps(body), "headers": more}


REPLIES = {
    "429": (
        problem(429, "64 of 64 places are taken", **{"Retry-After": "3"}),
        ["Too many questions are waiting.", "Try again in 3 seconds.", "Request r-1"],
    ),
    "503 with too much to do": (
        {**problem(503), "headers": {"Retry-After": "3"},
         "body": json.dumps({"type": "urn:memstore:problem:overloaded", "detail": "64 of 64", "request_id": "r-1"})},
        ["Too many questions are waiting.", "Try again in 3 seconds.", "Request r-1"],
    ),
    "503 while it starts": (
        problem(503, "the server is starting: the warm-up answer is not there yet", **{"Retry-After": "1"}),
        ["The server takes no questions right now.",
         "The server is starting: the warm-up answer is not there yet. Try again in a second.", "Request r-1"],
    ),
    "504": (
        problem(504, "the deadline passed before the model had finished"),
        ["There was no answer in time.",
         "The deadline passed before the model had finished. Ask again, or have fewer passages found and read.",
         "Request r-1"],
    ),
    "413": (problem(413, "The body may have at most 9 bytes."),
            ["The question is too long.", "The body may have at most 9 bytes. Ask a shorter one.", "Request r-1"]),
    "another": (problem(418, "short and stout"),
                ['The server replied "A title" (418).', "Short and stout.", "Request r-1"]),
    "a proxy's own page": (
        {"status": 504, "content_type": "text/html", "body": "<h1>Gateway Time-out</h1>"},
        ["There was no answer in time.", "Ask again, or have fewer passages found and read."],
    ),
    "a proxy alone": ({"status": 502, "content_type": "text/html", "body": "x"},
                      ["The server cannot be reached.", "The proxy in front of it is there, the server is not."]),
    "a date to try again": (problem(429, **{"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}),
                            ["Too many questions are waiting.", "Request r-1"]),
    "half a problem": ({"status": 500, "content_type": PROBLEM, "body": '{"title'},
                       ["The server failed.", "Its log has the cause, under the number below."]),
    "no reply of ours": (
        {"status": 200, "content_type": "text/html", "body": "<h1>Log in</h1>"},
        ["The reply is not memstore's.", "Something between this page and the server replied."],
    ),
    "half a reply": ({"status": 200, "content_type": "application/json", "body": '{"answer": "wh'},
                     ["The reply is not memstore's.", "Something between this page and the server replied."]),
}  # fmt: skip


def fulfill(reply: dict[str, Any], route: Any) -> None:
    route.fulfill(**reply)


def test_replies_that_are_none(page: Any) -> None:
    """Each said in plain words."""
    said = {}
    for name, (reply, _) in REPLIES.items():
        page.route("**/answer", partial(fulfill, reply))
        ask(page, name)
        said[name] = told(page)
        page.unroute("**/answer")
        ask(page, "why?")
        expect(page.locator("#answer > .text")).to_have_text("why?!")
        expect(page.locator("#problem")).to_be_empty()
    assert said == {name: expected for name, (_, expected) in REPLIES.items()}


def test_ask_again(page: Any) -> None:
    page.route("**/answer", lambda route: route.fulfill(**problem(429)))
    ask(page, "why?")
    page.locator("#problem .headline").wait_for()
    page.unroute("**/answer")
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator("#answer > .text")).to_have_text("why?!")


def test_a_vanished_server(page: Any) -> None:
    ask(page, "why?")
    expect(page.locator("#answer > .text")).to_have_text("why?!")
    page.route("**/answer", lambda route: route.abort("connectionrefused"))
    ask(page, "and then?")
    assert told(page) == [
        "The server cannot be reached.",
        "It may have been stopped, or the network is down. Your question is still here: ask again in a moment.",
    ]
    expect(page.locator("#question")).to_have_value("and then?")
    expect(page.locator("#reply")).to_be_hidden()  # it belongs to another question


def test_what_the_server_says_of_a_question(page: Any) -> None:
    ask(page, "broken")
    headline, advice, request = told(page)
    assert (headline, advice) == ("The server failed.", "Its log has the cause, under the number below.")
    assert len(request) == len("Request ") + 32
    ask(page, "impossible")
    expect(page.locator("#problem .headline")).to_have_text("The question cannot be answered as asked.")
    assert told(page)[1] == "The model knows no task 'juggling'."


def test_a_question_that_is_too_long(page: Any) -> None:
    """Characters are counted as the server counts them: an emoji is one."""
    page.fill("#question", "🦦" * 1999)
    expect(page.locator("#hint")).to_have_text("1,999 of at most 2,000 characters")
    page.fill("#question", "why")
    expect(page.locator("#hint")).to_be_hidden()
    ask(page, "🦦" * 2001)
    expect(page.locator("#hint")).to_have_text("2,001 of at most 2,000 characters")
    assert told(page)[:2] == [
        "The question cannot be answered as asked.", "Question: String should have at most 2000 characters.",
    ]  # fmt: skip


def test_half_a_character_can_be_asked(page: Any) -> None:
    """A lone surrogate, which JSON in UTF-8 cannot hold, is asked as the sign for what is not readable."""
    page.evaluate("document.getElementById('question').value = 'a\\ud83d'")
    page.click("#submit")
    expect(page.locator("#answer > .text")).to_have_text("a\N{REPLACEMENT CHARACTER}!")


def test_an_untrained_model(serve: Callable[..., str], visitor: Callable[..., Any], engine: FakeEngine) -> None:
    engine.trained = False
    page = visitor()
    page.goto(serve())
    expect(page.locator("#served")).to_have_text("2 passages, read by fake (untrained)")
    ask(page, "why?")
    expect(page.locator("#answer .notice")).to_contain_text("This model is untrained: its weights are random")


def test_nothing_found(page: Any, engine: FakeEngine) -> None:
    engine.stored = ()
    ask(page, "why?")
    expect(page.locator("#answer .notice")).to_have_text("No passage was found: this answer is a guess.")
    expect(page.locator("#passages")).to_be_hidden()


def test_a_server_that_cannot_say_what_it_has(serve: Callable[..., str], visitor: Callable[..., Any]) -> None:
    """The page says so, and asks again with the question."""
    page = visitor()
    page.route("**/info", lambda route: route.fulfill(**problem(503, "the server is starting")))
    page.goto(serve())
    assert told(page)[0] == "The server takes no questions right now."
    expect(page.locator("#options")).to_be_hidden()  # no control without its limits
    page.unroute("**/info")
    ask(page, "why?")
    expect(page.locator("#answer > .text")).to_have_text("why?!")
    expect(page.locator("#options")).to_be_visible()


def test_examples_are_done_without(serve: Callable[..., str], visitor: Callable[..., Any]) -> None:
    page = visitor()
    page.route("**/page/examples", lambda route: route.fulfill(**problem(500)))
    page.goto(serve())
    expect(page.locator("#options")).to_be_visible()
    expect(page.locator("#problem")).to_be_empty()
    expect(page.locator("#examples")).to_be_hidden()


def test_without_scripts_the_page_says_where_else_to_ask(
    serve: Callable[..., str], visitor: Callable[..., Any]
) -> None:
    page = visitor(java_script_enabled=False)
    page.goto(serve())
    expect(page.locator("noscript p")).to_be_visible()
    expect(page.locator("#form")).to_be_hidden()
