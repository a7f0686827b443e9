"""What is heard of an answer while it is made is what the answer then is."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from memstore.answer import Answerer, NobodyListens, Question, Waits
from memstore.answer.listening import GrowingText, Heard
from memstore.machine import StageTimer
from memstore.passage import RankedPassage
from tests.e2e.small_store import built


class Ear:
    """Keeps what it hears, in order; wants so many pieces of text, by default all. Goes after hearing of `leaves`."""

    def __init__(self, wants: int = 1000, leaves: str = "") -> None:
        self.heard: list[tuple[str, Any]] = []
        self.wants, self.leaves = wants, leaves

    def retrieved(self, passages: Sequence[RankedPassage]) -> None:
        self.heard.append(("retrieved", list(passages)))

    def ranked(self, passages: Sequence[RankedPassage]) -> None:
        self.heard.append(("ranked", tuple(passages)))

    def wrote(self, text: str) -> bool:
        self.heard.append(("wrote", text))
        return len(self.pieces) < self.wants

    def wanted(self) -> bool:
        return self.leaves not in [kind for kind, _ in self.heard]

    @property
    def pieces(self) -> list[str]:
        return [what for kind, what in self.heard if kind == "wrote"]


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    return Answerer.open(built(tmp_path_factory.mktemp("listening")))


ASKED = [Question("the river", retrieve_k=9, keep_k=3), Question("a tower and a city", retrieve_k=7, keep_k=2)]


@pytest.mark.parametrize("questions", [ASKED[:1], ASKED], ids=["alone, with drafts", "two"])
def test_passages_first_then_their_order_then_the_text(answerer: Answerer, questions: list[Question]) -> None:
    plain = answerer.answer(questions)
    ears = [Ear() for _ in questions]
    given = answerer.answer(questions, ears)
    assert [a.text for a in given] == [a.text for a in plain]
    for ear, answer in zip(ears, given, strict=True):
        kinds = [kind for kind, _ in ear.heard]
        assert kinds == ["retrieved", "ranked", *["wrote"] * len(ear.pieces)]
        assert len(ear.pieces) > 1
        assert "".join(ear.pieces) == answer.text
        retrieved, ranked = ear.heard[0][1], ear.heard[1][1]
        assert [p.retrieval_rank for p in retrieved] == list(range(1, len(retrieved) + 1))
        assert not any(p.kept for p in retrieved)
        assert ranked == answer.passages


def test_only_who_listens_hears(answerer: Answerer) -> None:
    ear = Ear()
    given = answerer.answer(ASKED, [None, ear])
    assert "".join(ear.pieces) == given[1].text
    assert answerer.answer(ASKED)[0].text == given[0].text


def test_beams_give_their_text_out_at_the_end(answerer: Answerer) -> None:
    ear = Ear()
    (given,) = answerer.answer([Question("the river", num_beams=3)], [ear])
    assert ear.pieces == [given.text]


@pytest.mark.parametrize("questions", [ASKED[:1], ASKED], ids=["alone, with drafts", "two"])
def test_an_answer_that_nobody_wants_more_of_ends(answerer: Answerer, questions: list[Question]) -> None:
    whole = answerer.answer(questions)
    ears = [Ear(wants=2), *(Ear() for _ in questions[1:])]
    given = answerer.answer(questions, ears)
    assert len(ears[0].pieces) == 2
    assert whole[0].text.startswith(given[0].text)
    assert len(given[0].text) < len(whole[0].text)
    assert [a.text for a in given[1:]] == [a.text for a in whole[1:]]


def done_before(answerer: Answerer, ears: list[Ear | None]) -> list[str]:
    """The stages that a batch came through before it ended as nobody wanted it."""
    stages = StageTimer(answerer.model.device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memstore.answer.answerer.StageTimer", lambda _: stages)
        with pytest.raises(NobodyListens, match="nobody waits"):
            answerer.answer(ASKED[: len(ears)], ears)
    return list(stages.milliseconds)


@pytest.mark.parametrize("questions", [1, 2])
def test_a_batch_that_all_have_left_ends_before_its_next_stage(answerer: Answerer, questions: int) -> None:
    assert done_before(answerer, [Ear(leaves="retrieved") for _ in range(questions)]) == ["retrieve"]
    done = done_before(answerer, [Ear(leaves="ranked") for _ in range(questions)])
    assert done == ["retrieve", "load", "question", "live_a"]


@pytest.mark.parametrize("other", [None, Ear()], ids=["who does not listen", "who stays"])
def test_who_leaves_changes_nothing_for_others_of_the_batch(answerer: Answerer, other: Ear | None) -> None:
    given = answerer.answer(ASKED, [Ear(leaves="retrieved"), other])
    assert given[1].text == answerer.answer(ASKED)[1].text


def test_text_that_is_spelled_afterwards_comes_at_the_end() -> None:
    ear = Ear()
    tokenizer: Any = SimpleNamespace(folds_case=True, known=list, decode=lambda ids: "paris"[: len(ids)])
    heard = Heard([ear], tokenizer)
    assert heard.token is not None
    assert all(heard.token(0, i) for i in range(5))
    heard.ended(0, "Paris")
    assert "".join(ear.pieces) == "Paris"


def test_no_text_is_made_for_who_only_waits() -> None:
    stays = [True]
    tokenizer: Any = SimpleNamespace(folds_case=False)  # it decodes nothing
    heard = Heard([Waits(lambda: stays[0])], tokenizer)
    assert heard.token is not None
    assert heard.token(0, 7)
    stays[0] = False
    assert not heard.token(0, 8)


def test_half_a_character_waits_for_its_other_half() -> None:
    word = "né".encode()
    text = GrowingText(lambda ids: bytes(ids).decode("utf-8", "replace"))
    assert [text.add(byte) for byte in word] == ["n", "", "é"]
    assert text.rest("né!") == "!"


def test_nothing_is_taken_back() -> None:
    """Where more tokens change the text before them, what was given out stays, until the text agrees again."""
    told = iter(["ab", "xb", "abc"])
    text = GrowingText(lambda _: next(told))
    assert [text.add(0) for _ in range(3)] == ["ab", "", "c"]
