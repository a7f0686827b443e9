"""BM25: scores by hand, order, questions that look like syntax, what is on disk, and broken folders."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from memstore.errors import IndexCorrupt
from memstore.passage import Passage
from memstore.retrieve import lexical
from memstore.retrieve.lexical import TITLE_BOOST, Bm25Retriever, build_bm25
from tests.retrieve.retrieve_cases import corpus, hits_of, passage

RIVERS = [
    passage(0, "nile", "nile flood nile egypt"),
    passage(1, "danube", "danube flood vienna"),
    passage(2, "rhine nile", "rhine"),
    passage(3, "lake", "egypt lake lake lake lake nile"),
]


def built(folder: Path, passages: list[Passage]) -> Bm25Retriever:
    assert build_bm25(folder, passages) == len(passages)
    return Bm25Retriever(folder, hits_of(passages))


def found(retriever: Bm25Retriever, question: str, k: int = 10) -> list[str]:
    return [hit.passage_id for hit in retriever.search([question], k)[0]]


def by_hand(passages: list[Passage], terms: list[str]) -> dict[str, float]:
    """The formula of the module's docstring, over words between spaces."""
    scores: dict[str, float] = {}
    for boost, fields in ((TITLE_BOOST, [p.title for p in passages]), (1.0, [p.text for p in passages])):
        words = [field.split() for field in fields]
        average = sum(map(len, words)) / len(words)
        for term in terms:
            n = sum(term in field for field in words)
            idf = math.log(1 + (len(words) - n + 0.5) / (n + 0.5))
            for p, field in zip(passages, words, strict=True):
                if f := field.count(term):
                    part = f * 2.2 / (f + 1.2 * (1 - 0.75 + 0.75 * len(field) / average))
                    scores[p.id] = scores.get(p.id, 0.0) + boost * idf * part
    return scores


@pytest.mark.parametrize("question", ["nile", "egypt flood", "rhine nile lake", "vienna egypt nile flood"])
def test_scores_are_the_formula(tmp_path: Path, question: str) -> None:
    [hits] = built(tmp_path / "ix", RIVERS).search([question], 10)
    expected = by_hand(RIVERS, question.split())
    assert [h.passage_id for h in hits] == sorted(expected, key=lambda i: -expected[i])
    assert [h.score for h in hits] == pytest.approx([expected[h.passage_id] for h in hits], rel=1e-5)


def test_one_score_worked_out(tmp_path: Path) -> None:
    # "vienna" is in 1 of 4 texts: idf = ln(1 + 3.5 / 1.5) = 1.203973; the text has 3 words, the average is
    # 14 / 4 = 3.5: 1 * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 3 / 3.5)) = 1.062069.
    [[hit]] = built(tmp_path / "ix", RIVERS).search(["vienna"], 10)
    assert hit.passage_id == "p1"
    assert hit.score == pytest.approx(1.203973 * 1.062069, rel=1e-5)


def test_a_repeated_term_counts_once(tmp_path: Path) -> None:
    retriever = built(tmp_path / "ix", RIVERS)
    assert retriever.search(["nile nile Nile niles"], 4) == retriever.search(["nile"], 4)


@pytest.mark.parametrize(
    ("question", "ids"),
    [
        ("NILE", ["p0"]),
        ("flooding", ["p0"]),
        ("Angstrom", ["p1"]),
        ("ÅNGSTRÖM?", ["p1"]),
        ("the", ["p2"]),
        ("what is the the", ["p2"]),
        ("the nile", ["p0"]),
        ("Москва", ["p3"]),
        ("zebra", []),
        ("", []),
        ("?!,.;:-_'\"()", []),
        ("title:flood", ["p0"]),
        ("text:zebra", []),
        ("-nile", ["p0"]),
        ("NOT nile", ["p0"]),
        ('"floods nile"~2', ["p0"]),
        ("nil*", []),
        ("n[ab TO zz] {nile", ["p0"]),
        ("Nile\0Москва", ["p0", "p3"]),
        ("Nile\ud800Москва", ["p0", "p3"]),
    ],
)
def test_words_are_searched_and_nothing_is_syntax(tmp_path: Path, question: str, ids: list[str]) -> None:
    passages = [
        passage(0, "", "nile floods"),
        passage(1, "Ångström", "unit"),
        passage(2, "the The", "band"),
        passage(3, "", "Москва"),
    ]
    assert sorted(found(built(tmp_path / "ix", passages), question)) == ids


UNSPACED_QUESTIONS = {
    "北京的面积是多少？": ["zh"],
    "日本の首都はどこですか": ["ja"],
    "ﾄｳｷｮｳ": ["ja"],  # half-width
    "เมืองหลวงของไทย": ["th"],
    "서울의 인구": ["ko"],
    "\u1109\u1165\u110b\u116e\u11af": ["ko"],  # Seoul, decomposed
    "ｉＰｈｏｎｅ": ["zh"],
    "résumé": ["fr"],
    "猫": ["ko"],
    "東": [],  # one letter of a word is not found
}


@pytest.mark.parametrize("question", UNSPACED_QUESTIONS)
def test_words_are_found_in_scripts_without_spaces_and_in_any_spelling(tmp_path: Path, question: str) -> None:
    passages = [
        Passage("zh", "d", "", "北京市是中华人民共和国的首都，全市总面积为一万六千四百一十平方公里。iPhone手机"),
        Passage("ja", "d", "東京都", "東京都は日本の首都である。関東地方に位置し、トウキョウと読む。"),
        Passage("th", "d", "", "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย"),
        Passage("ko", "d", "猫", "서울특별시는 대한민국의 수도이자 최대 도시이다."),
        Passage("fr", "d", "", "re\u0301sume\u0301"),
    ]
    assert found(built(tmp_path / "ix", passages), question, 1) == UNSPACED_QUESTIONS[question]


def test_an_index_of_unspaced_texts_is_searched_as_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older version's: its settings say nothing of pairs, and there are none in it."""
    with monkeypatch.context() as patch:
        patch.setattr("memstore.retrieve.terms.spaced", lambda text: text)
        build_bm25(tmp_path / "ix", [passage(0, "", "日本語 nile")])
    path = tmp_path / "ix" / "settings.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "spaced"}))
    retriever = Bm25Retriever(tmp_path / "ix", hits_of([passage(0, "", "")]))
    assert found(retriever, "日本語") == found(retriever, "nile") == ["p0"]


def test_passages_may_hold_anything(tmp_path: Path) -> None:
    passages = [
        passage(0, "\ud800", "nile\0\udfff"),
        passage(1, "", ""),
        passage(2, "x" * 99_999, "nile river"),
    ]
    assert found(built(tmp_path / "ix", passages), "nile") == ["p0", "p2"]


def test_the_rarest_terms_of_a_long_question_take_part(tmp_path: Path) -> None:
    common = [f"common{i}" for i in range(40)]
    rare = [f"rare{i}" for i in range(60)]
    passages = [passage(0, "", " ".join(common)), passage(1, "", " ".join([*common, *rare]))]
    terms = built(tmp_path / "ix", passages).terms(" ".join([*common, *rare]))
    assert terms == [*common[:4], *rare]
    assert len(terms) == lexical.MAX_QUESTION_TERMS


# --- layout ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segment", [5, 10**6])
def test_ties_are_in_row_order_beyond_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment: int) -> None:
    monkeypatch.setattr(lexical, "SEGMENT_PASSAGES", segment)
    passages = [passage(row, "same", f"river number{row}") for row in range(90)]
    retriever = built(tmp_path / "ix", passages)
    for k in (1, 7, 60):
        assert found(retriever, "river", k) == [p.id for p in passages[:k]]


def test_hits_and_scores_do_not_depend_on_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = ["river year nile", "the composer number12 and number40", "Mozart of year 1910", "it is lake"]
    results, segments = [], []
    for size in (10**6, 50, 7):  # 7: 43 segments, which Tantivy merges on the way
        monkeypatch.setattr(lexical, "SEGMENT_PASSAGES", size)
        retriever = built(tmp_path / "ix", corpus(300))
        segments.append(len(list((tmp_path / "ix").glob("*.idx"))))
        results.append(retriever.search(questions, 25))
    assert segments[0] == 1
    assert segments[1] == 6
    assert segments[2] < 43
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("segment", [7, 40, 10**6])  # merged into one, four of them, one
def test_same_passages_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment: int) -> None:
    monkeypatch.setattr(lexical, "SEGMENT_PASSAGES", segment)
    contents = []
    for name in ("one", "two"):
        build_bm25(tmp_path / name, iter(corpus(150)))
        contents.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


# --- on disk ---------------------------------------------------------------------------------------------


def test_the_folder_holds_the_index_and_nothing_of_the_writer(tmp_path: Path) -> None:
    build_bm25(tmp_path / "ix", RIVERS)
    assert [p.name for p in tmp_path.iterdir()] == ["ix"]
    names = {p.name for p in (tmp_path / "ix").iterdir()}
    assert names >= {"settings.json", "meta.json"}
    assert not [name for name in names if name.startswith(".")]


def test_opening_and_searching_write_nothing(tmp_path: Path) -> None:
    build_bm25(tmp_path / "ix", RIVERS)
    before = {p.name: p.stat().st_mtime_ns for p in [tmp_path / "ix", *(tmp_path / "ix").iterdir()]}
    retriever = Bm25Retriever(tmp_path / "ix", hits_of(RIVERS))
    assert found(retriever, "vienna") == ["p1"]
    assert {p.name: p.stat().st_mtime_ns for p in [tmp_path / "ix", *(tmp_path / "ix").iterdir()]} == before


def test_no_passages(tmp_path: Path) -> None:
    retriever = built(tmp_path / "ix", [])
    assert len(retriever) == 0
    assert retriever.search(["nile", ""], 5) == [[], []]


def test_building_again_replaces(tmp_path: Path) -> None:
    (tmp_path / "ix.part").mkdir()
    (tmp_path / "ix.part" / "leftover").write_text("of a killed build")
    build_bm25(tmp_path / "ix", corpus(20))
    assert found(built(tmp_path / "ix", RIVERS), "vienna") == ["p1"]


def test_a_failed_build_leaves_the_old_index(tmp_path: Path) -> None:
    def failing() -> Iterator[Passage]:
        yield RIVERS[0]
        raise RuntimeError("disk on fire")

    retriever = built(tmp_path / "ix", RIVERS)
    with pytest.raises(RuntimeError, match="on fire"):
        build_bm25(tmp_path / "ix", failing())
    assert [p.name for p in tmp_path.iterdir()] == ["ix"]
    again = Bm25Retriever(tmp_path / "ix", hits_of(RIVERS))
    assert again.search(["nile egypt"], 4) == retriever.search(["nile egypt"], 4)


def settings(folder: Path, **changes: object) -> None:
    path = folder / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def garble(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def one(folder: Path, suffix: str) -> Path:
    return next(folder.glob(f"*{suffix}"))


BROKEN = {
    "no folder": (lambda f: f.rename(f.with_name("elsewhere")), "there is no index"),
    "no settings": (lambda f: (f / "settings.json").unlink(), "there is no index"),
    "settings are not JSON": (lambda f: garble(f / "settings.json"), "cannot be read"),
    "settings are a list": (lambda f: (f / "settings.json").write_text("[]"), "does not list"),
    "another version": (lambda f: settings(f, format_version=99), "not of this version"),
    "other texts": (lambda f: settings(f, spaced=False), "not of this version"),
    "another analyzer": (lambda f: settings(f, analyzer="x"), "not of this version"),
    "an unknown key": (lambda f: settings(f, colour="red"), "not of this version"),
    "another count": (lambda f: settings(f, passages=5), "holds 4 passages, not 5"),
    "no meta.json": (lambda f: (f / "meta.json").unlink(), "lacks meta.json"),
    "meta.json garbled": (lambda f: garble(f / "meta.json"), "cannot be read"),
    "a file is absent": (lambda f: one(f, ".term").unlink(), "lacks .*term"),
    "a file is short": (lambda f: shorten(one(f, ".idx")), "bytes, not"),
    "a file is garbled": (lambda f: garble(one(f, ".term")), "cannot be read"),
}


@pytest.mark.parametrize("suffix", [".term", ".fast"])
def test_a_flipped_bit_is_reported_or_harmless(tmp_path: Path, suffix: str) -> None:
    """Tantivy panics at some of them, and what it then raises is no `Exception`."""
    build_bm25(tmp_path / "ix", RIVERS)
    file = one(tmp_path / "ix", suffix)
    sound, told = file.read_bytes(), 0
    for place in range(0, len(sound), 3):
        file.unlink()  # a new file: the old one may still be mapped
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << place % 8]) + sound[place + 1 :])
        try:
            Bm25Retriever(tmp_path / "ix", hits_of(RIVERS)).search(["nile flood lake"], 3)
        except IndexCorrupt:
            told += 1
    assert told > len(sound) / 9


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_reported(tmp_path: Path, name: str) -> None:
    breaking, message = BROKEN[name]
    build_bm25(tmp_path / "ix", RIVERS)
    breaking(tmp_path / "ix")
    with pytest.raises(IndexCorrupt, match=message):
        Bm25Retriever(tmp_path / "ix", hits_of(RIVERS)).search(["nile"], 3)
