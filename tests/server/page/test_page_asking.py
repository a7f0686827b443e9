"""A visitor asks: the answer, its passages, its cost; sliders, examples, the address, a second question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memstore.passage import Passage
from memstore_server.examples import SAMPLE
from tests.server.fakes import PATIENCE, FakeEngine

expect = pytest.importorskip("playwright.sync_api").expect


def ask(page: Any, question: str) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")


def answer(page: Any) -> Any:
    return page.locator("#answer > .text")


def texts(page: Any, selector: str) -> list[str]:
    """What the elements say, as a reader sees it."""
    return [" ".join(text.split()) for text in page.locator(selector).all_inner_texts()]


def test_an_answer_and_what_it_was_read_from(page: Any) -> None:
    ask(page, "Who will hold hands")
    expect(answer(page)).to_have_text("Who will hold hands!")
    assert texts(page, "#answer-title") == ["Who will hold hands"]
    assert texts(page, "#answer .by") == ["by fake (GLIMMER), generation 4, 2 passages · log-probability −1.25"]
    assert texts(page, ".passage .title") == ["Otter", "Slash"]
    assert texts(page, ".passage .number") == ["1", "2"]
    assert texts(page, ".passage .tag") == ["kept", "dropped"]
    assert texts(page, ".passage .scores") == [
        "rerank 1st −0.50 retrieval 1st 2.50", "rerank 2nd −1.50 retrieval 2nd 1.50",
    ]  # fmt: skip
    assert page.locator(".passage.kept a").get_attribute("href") == "https://example.org/otter"
    expect(page.locator("#status")).to_have_text("Answer: Who will hold hands!. 1 passage read.")
    expect(page).to_have_title("Who will hold hands · memstore")


def test_bars_are_as_long_as_scores_are_high(page: Any, engine: FakeEngine) -> None:
    engine.stored = tuple(Passage(f"{at}:0", str(at), "t", "x", "", 0, 1) for at in range(3))
    ask(page, "why?")
    expect(page.locator(".passage")).to_have_count(3)
    shares = "bars => bars.map(bar => Math.round(100 * bar.firstChild.offsetWidth / bar.offsetWidth))"
    for kind in ("rerank", "retrieval"):
        first, second, third = page.locator(f".bar.{kind}").evaluate_all(shares)
        assert (first, abs(second - 50) <= 2, 0 < third < 8) == (100, True, True)


def test_the_answers_words_are_marked_where_they_were_read(page: Any, engine: FakeEngine) -> None:
    engine.stored = tuple(Passage(f"{at}:0", str(at), "Hands", "Otters hold hands.", "", 0, 1) for at in range(2))
    ask(page, "hold HANDS")
    assert page.locator(".passage.kept mark").all_inner_texts() == ["hold hands"]
    assert page.locator(".passage.dropped mark").count() == 0
    assert texts(page, "#answer .sources") == ["Stands in passage 1"]
    page.click("#answer .sources a")
    expect(page.locator("#passage-1")).to_be_focused()
    page.evaluate("location.hash = 'passage-2'")  # no reason to ask again
    expect(page.locator("#passage-1")).to_be_visible()
    assert len(engine.batches) == 1


def test_what_stands_nowhere_as_a_whole_is_marked_word_by_word(page: Any) -> None:
    ask(page, "the hands of the otters")
    expect(page.locator("mark.word")).to_have_text(["Otters", "hands"])
    assert texts(page, "#answer .sources") == ["Its words stand together in none of the passages read."]


def test_time_and_operations_stage_by_stage_beside_fid(page: Any) -> None:
    ask(page, "why?")
    expect(page.locator("#cost tbody tr")).to_have_count(4)
    cells = [row.locator("th, td").all_inner_texts() for row in page.locator("#cost tbody tr").all()]
    rows = {name: [text.strip() for text in figures] for name, *figures in cells}
    assert list(rows) == ["wait", "score passages", "all", "FiD"]
    assert rows["score passages"] == ["1.5 ms", "10 FLOP"]
    assert rows["FiD"] == ["", "100 FLOP"]
    assert rows["all"][1] == "10 FLOP"
    assert rows["wait"][1] == ""
    assert texts(page, "#cost .figure")[1] == "10× fewer operations than FiD"
    assert texts(page, "#cost .about") == [
        "64 B of memories read. FiD has none: it encodes every passage found while you wait."
    ]


def test_dropped_passages_unfold(page: Any) -> None:
    ask(page, "why?")
    text = page.get_by_text("An id with a slash.")
    expect(page.locator(".passage.dropped")).to_be_visible()
    expect(text).to_be_hidden()
    page.click(".passage.dropped summary")
    expect(text).to_be_visible()
    assert texts(page, ".passage.dropped .origin span") == ["a/b:1", "tags: a", "year: 1", "new: true"]


def test_what_is_chosen_is_asked_for(page: Any, engine: FakeEngine) -> None:
    expect(page.locator("#retrieve_k")).to_have_value("40")
    expect(page.locator("#keep_k")).to_have_value("10")
    page.fill("#retrieve_k", "5")
    expect(page.locator("#keep_k")).to_have_value("5")  # none is read that is not found
    page.fill("#keep_k", "3")
    page.select_option("#task", "nq")
    assert texts(page, "#options output") == ["5", "3", "any"]
    ask(page, "why?")
    expect(answer(page)).to_have_text("why?!")
    (asked,) = engine.questions
    assert (asked.retrieve_k, asked.keep_k, asked.task) == (5, 3, "nq")
    assert page.url.endswith("?q=why%3F&retrieve_k=5&keep_k=3&task=nq")
    page.fill("#keep_k", "7")
    expect(page.locator("#retrieve_k")).to_have_value("7")


def test_limits_are_the_servers(serve: Callable[..., str], visitor: Callable[..., Any], engine: FakeEngine) -> None:
    """And without tasks there is no choice of them."""
    reported = engine.info()
    reported["model"]["tasks"] = []
    engine.info = lambda: reported  # type: ignore[method-assign]
    page = visitor()
    page.goto(serve(max_retrieve_k=30, max_keep_k=20, retrieve_k=12, keep_k=4))
    expect(page.locator("#retrieve_k")).to_have_value("12")
    sliders = [page.get_attribute(name, "max") for name in ("#retrieve_k", "#keep_k")]
    assert (sliders, page.locator("#task").count()) == (["30", "20"], 0)


def test_topics_begin_a_question(page: Any, engine: FakeEngine) -> None:
    assert texts(page, "#examples button") == ["Otter …", "Slash …"]
    page.click("text=Otter …")
    expect(page.locator("#question")).to_have_value("Otter: ")
    page.keyboard.type("what do they hold?")
    page.click("#submit")
    expect(answer(page)).to_have_text("Otter: what do they hold?!")
    expect(page.locator("#examples")).to_be_hidden()


def test_questions_of_the_sample_are_asked_at_a_click(
    serve: Callable[..., str], visitor: Callable[..., Any], engine: FakeEngine
) -> None:
    question, name, title = SAMPLE[1]
    engine.stored = (Passage(name, "d", title, "text", "", 0, 4),)
    page = visitor()
    page.goto(serve())
    page.click(f"text={question}")
    expect(answer(page)).to_have_text(f"{question}!")


# --- the address ---


def test_a_question_can_be_linked(serve: Callable[..., str], visitor: Callable[..., Any], engine: FakeEngine) -> None:
    page = visitor()
    page.goto(f"{serve()}?q=why%3F&retrieve_k=7&keep_k=2&task=nq&unknown=1")
    expect(answer(page)).to_have_text("why?!")
    expect(page.locator("#question")).to_have_value("why?")
    expect(page.locator("#retrieve_k")).to_have_value("7")
    (asked,) = engine.questions
    assert (asked.retrieve_k, asked.keep_k, asked.task) == (7, 2, "nq")


@pytest.mark.parametrize("wrong", ["retrieve_k=999&keep_k=0", "retrieve_k=x&keep_k=-1", "task=juggling", "keep_k=99"])
def test_what_an_address_cannot_ask_for_is_left_out(
    serve: Callable[..., str], visitor: Callable[..., Any], wrong: str
) -> None:
    page = visitor()
    page.goto(f"{serve()}?q=why&{wrong}")
    expect(answer(page)).to_have_text("why!")


def test_back_and_forward(page: Any, engine: FakeEngine) -> None:
    ask(page, "one")
    expect(answer(page)).to_have_text("one!")
    ask(page, "two")
    expect(answer(page)).to_have_text("two!")
    page.go_back()
    expect(answer(page)).to_have_text("one!")
    expect(page.locator("#question")).to_have_value("one")
    page.go_back()
    expect(page.locator("#reply")).to_be_hidden()
    expect(page.locator("#examples")).to_be_visible()
    expect(page).to_have_title("memstore")
    page.go_forward()
    expect(answer(page)).to_have_text("one!")


def test_below_a_path_that_a_proxy_strips_without_saying_so(
    serve: Callable[..., str], visitor: Callable[..., Any]
) -> None:
    page = visitor()
    page.goto(serve(below="/behind/a/proxy"))
    page.locator("#examples li").first.wait_for()
    ask(page, "why?")
    expect(answer(page)).to_have_text("why?!")
    page.click("text=API")
    expect(page.locator("#swagger-ui .info").first).to_be_visible()


# --- one question at a time ---


def test_a_second_question_ends_the_first(page: Any, engine: FakeEngine) -> None:
    """Its reply is not shown, whenever it comes."""
    ended: list[Any] = []
    page.on("requestfailed", lambda request: ended.append(request))
    engine.gate.clear()
    ask(page, "first")
    assert engine.begun.acquire(timeout=PATIENCE)
    expect(page.locator("#waiting")).to_contain_text("first")
    expect(page.locator("#status")).to_have_text("Answering")
    with page.expect_event("requestfailed"):
        ask(page, "second")
    expect(page.locator("#waiting")).to_contain_text("second")
    # Before the second is answered: the page may leave that stream after its last event.
    assert [request.post_data_json["question"] for request in ended] == ["first"]
    engine.gate.set()
    expect(answer(page)).to_have_text("second!")
    expect(page.locator("#waiting")).to_be_hidden()


def test_asking_twice_at_once_gives_one_answer(page: Any, engine: FakeEngine) -> None:
    engine.gate.clear()
    ask(page, "why?")
    page.click("#submit")
    page.press("#question", "Enter")
    engine.gate.set()
    expect(answer(page)).to_have_text("why?!")
    expect(page.locator("#waiting")).to_be_hidden()
    page.go_back()  # the same question is one place in the visitor's history
    expect(page.locator("#examples")).to_be_visible()


def test_stop(page: Any, engine: FakeEngine) -> None:
    engine.gate.clear()
    ask(page, "why?")
    assert engine.begun.acquire(timeout=PATIENCE)
    page.click("#stop")
    expect(page.locator("#waiting")).to_be_hidden()
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator("#status")).to_have_text("Stopped")
    expect(page.locator("#question")).to_be_focused()
    engine.gate.set()
    ask(page, "again")
    expect(answer(page)).to_have_text("again!")


def test_nothing_is_not_asked(page: Any, engine: FakeEngine) -> None:
    ask(page, "  \n ")
    expect(page.locator("#question")).to_be_focused()
    expect(page.locator("#waiting")).to_be_hidden()
    ask(page, "why?")
    expect(answer(page)).to_be_visible()
    assert [question.text for question in engine.questions] == ["why?"]


def test_it_says_how_sure_one_may_be(page: Any) -> None:
    ask(page, "Who will hold hands")
    expect(answer(page)).to_have_text("Who will hold hands!")
    assert texts(page, "#answer .confidence") == ["confidence 50% how often such answers are right"]
