"""The page's files over HTTP: what they are, their headers, caching; and the examples that the page offers."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest

from memstore.cli.demo import QUESTIONS
from memstore.errors import StoreCorrupt
from memstore.passage import Passage
from memstore_builders.corpus import sample_corpus
from memstore_server import page_files
from memstore_server.examples import MOST, SAMPLE
from tests.server.fakes import OTTERS, FakeEngine

pytestmark = pytest.mark.anyio

FILES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


async def test_the_address_that_the_server_prints_is_the_page(serving) -> None:
    async with serving() as http:
        reply = await http.get("/")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert reply.text.startswith("<!doctype html>")
    assert "%" not in re.sub(r"<style.*?</style>", "", reply.text)  # no address is left unfilled


async def test_all_that_the_page_asks_for_is_there(serving) -> None:
    """Its scripts' imports included; nothing is from elsewhere."""
    seen, wanted = set(), ["/"]
    async with serving() as http:
        while wanted:
            address = wanted.pop()
            if address in seen or address.endswith("/docs"):
                continue
            seen.add(address)
            reply = await http.get(address)
            assert reply.status_code == 200, address
            names = re.findall(r"""(?:src|href)="([^"]+)"|from "([^"]+)";""", reply.text)
            wanted += [urljoin(address, one or other) for one, other in names]
    assert {address for address in seen if not address.startswith("/page/")} == {"/"}
    assert {address.removeprefix("/page/") for address in seen} - {"/"} == set(page_files.files()) - {"index.html"}


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
async def test_headers_let_nothing_in(serving, path: str) -> None:
    async with serving() as http:
        headers = (await http.get(path)).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "camera=()" in headers["permissions-policy"]


async def test_nothing_inline(serving) -> None:
    """Which the policy would refuse: the page would then be without it."""
    async with serving() as http:
        text = (await http.get("/")).text
    assert re.findall(r"<style|style=|\bon[a-z]+=|<script(?![^>]*\bsrc=)", text) == []


@pytest.mark.parametrize(("name", "media_type"), FILES.items())
async def test_a_file_is_sent_once(serving, name: str, media_type: str) -> None:
    async with serving() as http:
        first = await http.get(f"/page/{name}")
        assert first.headers["content-type"] == media_type
        assert first.headers["cache-control"] == "no-cache"
        etag = first.headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = await http.get(f"/page/{name}", headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
            assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
        changed = await http.get(f"/page/{name}", headers={"If-None-Match": '"other"'})
        assert (changed.status_code, changed.content) == (200, first.content)


async def test_head(serving) -> None:
    async with serving() as http:
        for path in ("/", "/page/page.js"):
            head, get = await http.head(path), await http.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(get.content))
            assert head.headers["etag"] == get.headers["etag"]


@pytest.mark.parametrize(
    "path", ["/page/", "/page/nope.js", "/page/index.html", "/page/..%2Fpage.py", "/page/../page.py", "/page/a/b"]
)
async def test_what_is_not_there_is_a_problem(serving, path: str) -> None:
    async with serving() as http:
        reply = await http.get(path)
    assert reply.status_code == 404
    assert reply.json()["type"] == "urn:memstore:problem:no-such-route"


async def test_the_page_takes_get_only(serving) -> None:
    async with serving() as http:
        assert (await http.post("/")).status_code == 405


async def test_the_page_is_there_before_questions_can_be_asked(serving, engine: FakeEngine) -> None:
    engine.gate.clear()  # the warm-up does not end
    async with serving(wait=False) as http:
        assert (await http.get("/")).status_code == 200
        assert (await http.get("/page/examples")).status_code == 503


# --- examples ---


def some(count: int, title: str = "Title {}") -> tuple[Passage, ...]:
    return tuple(Passage(f"{at}:0", str(at), title.format(at), "text", "", 0, 4) for at in range(count))


async def test_of_the_sample_its_questions_are_offered(serving, engine: FakeEngine) -> None:
    engine.stored = (OTTERS, *(Passage(name, "d", title, "text", "", 0, 4) for _, name, title in SAMPLE))
    async with serving() as http:
        reply = await http.get("/page/examples")
    assert reply.json() == {"questions": [question for question, _, _ in SAMPLE], "topics": []}


async def test_only_questions_whose_passage_is_there(serving, engine: FakeEngine) -> None:
    """And by title too: another corpus may use the same ids."""
    (first, name, title), (_, other, _) = SAMPLE[0], SAMPLE[1]
    engine.stored = (Passage(name, "d", title, "t", "", 0, 1), Passage(other, "d", "Otter", "t", "", 0, 1))
    async with serving() as http:
        assert (await http.get("/page/examples")).json() == {"questions": [first], "topics": []}


async def test_of_any_other_corpus_titles_are_offered(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        assert (await http.get("/page/examples")).json() == {"questions": [], "topics": ["Otter", "Slash"]}


@pytest.mark.parametrize(
    ("stored", "topics"),
    [
        (some(24), [f"Title {at}" for at in (0, 4, 8, 12, 16, 20)]),
        (some(24, "the same"), ["the same"]),
        (some(3, ""), []),
        (some(3, "long " * 20), []),
        (some(1, "two\n lines "), ["two lines"]),
        ((), []),
    ],
    ids=["many", "repeated", "none", "long", "lines", "empty store"],
)
async def test_topics(serving, engine: FakeEngine, stored: tuple[Passage, ...], topics: list[str]) -> None:
    engine.stored = stored
    async with serving() as http:
        assert (await http.get("/page/examples")).json()["topics"] == topics
    assert len(topics) <= MOST


async def test_examples_are_made_once_for_a_generation(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        await http.get("/page/examples")
        engine.stored = some(1)
        assert (await http.get("/page/examples")).json()["topics"] == ["Otter", "Slash"]
        engine.newest = 5
        await http.post("/admin/reload")
        assert (await http.get("/page/examples")).json()["topics"] == ["Title 0"]


async def test_a_damaged_store_is_a_problem_that_says_nothing_of_paths(serving, engine: FakeEngine) -> None:
    def damaged(_most: int) -> list[Passage]:
        raise StoreCorrupt("secret path /srv/store")

    engine.spread = damaged  # type: ignore[method-assign]
    async with serving() as http:
        reply = await http.get("/page/examples")
    assert (reply.status_code, "secret" in reply.text) == (500, False)


def test_the_samples_questions_are_those_of_the_demo_and_their_passages_are_in_it() -> None:
    assert [question for question, _, _ in SAMPLE] == list(QUESTIONS)
    lines = sample_corpus().read_text().splitlines()
    for question, name, title in SAMPLE:
        line = next(line for line in lines if f'"{name.removesuffix(":0")}"' in line)
        assert f'"title": "{title}"' in line
        assert QUESTIONS[question] in line
