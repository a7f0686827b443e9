"""Programs of others with a server that asks for keys and has two collections: each shows its key, names a collection
and a filter, by an argument or by the variable.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when it is imported: it would report home

import mcp
from haystack import Pipeline
from haystack.utils import Secret
from langchain_core.tools import ToolException
from typer.testing import CliRunner

from memstore import cli
from memstore.errors import ConfigError
from memstore.passage import Passage
from memstore.retrieve.filters import Filter
from memstore_client import AsyncClient, Client, Unauthorized, haystack, langchain
from memstore_client.base import API_KEY_VARIABLE
from memstore_server.keyring import add_key
from memstore_server.mcp import mcp_server, passage_uri
from memstore_server.settings import unknown_variables
from tests.server.fakes import FakeEngine
from tests.server.page.conftest import served

ENGLISH = {"lang": "en"}
LAW = Passage("law:1", "law", "Law", "Nobody is above it.", "", 0, 18)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def key(file: Path) -> str:
    return add_key(file, "reader")


@pytest.fixture(scope="module")
def laws() -> FakeEngine:
    engine = FakeEngine()
    engine.stored = (LAW,)
    return engine


@pytest.fixture(scope="module")
def url(file: Path, key: str, laws: FakeEngine) -> Iterator[str]:
    assert key
    with served(FakeEngine(), others={"laws": laws}, keys_file=file) as address:
        yield address


@pytest.fixture
def variable(key: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The key, which the variable has."""
    monkeypatch.setenv(API_KEY_VARIABLE, key)
    return key


# --- our own client ---


def test_the_client_takes_its_key_from_the_variable(url: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(url) as client:
        assert client.answer("why?", collection="laws").answer == "why?!"
    with Client(url, api_key="another") as client, pytest.raises(Unauthorized):
        client.info()  # what is given goes first
    with Client(url, api_key="") as client, pytest.raises(Unauthorized, match="send the header"):
        client.info()  # none is sent
    monkeypatch.setenv(API_KEY_VARIABLE, "two\nlines")
    with pytest.raises(ValueError, match="api_key must be printable ASCII"):
        Client(url)


def test_the_variable_is_no_misspelled_setting_of_the_server(variable: str) -> None:
    assert unknown_variables({API_KEY_VARIABLE: variable}) == {}


# --- the command line ---


def ask(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["ask", "why?", *arguments], catch_exceptions=True)


def test_ask_shows_a_key_out_of_a_file_or_of_the_variable(
    url: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "key"
    place.write_text(f"{key}\n")
    assert "why?!" in ask("--url", url, "--api-key-file", str(place)).output
    assert "401" in str(ask("--url", url).exception)
    monkeypatch.setenv(API_KEY_VARIABLE, key)
    assert "why?!" in ask("--url", url).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--url", "http://m", "--api-key-file", "nowhere"), "--api-key-file nowhere cannot be read"),
        (("--url", "http://m", "--api-key-file", os.devnull), "must hold one key, as `memstore keys add` prints it"),
        (("--store", "s", "--api-key-file", "key"), "--api-key-file is for --url"),
    ],
)
def test_a_key_that_cannot_be_shown_is_said(arguments: tuple[str, ...], message: str) -> None:
    failed = ask(*arguments).exception
    assert isinstance(failed, ConfigError)
    assert message in str(failed)


# --- LangChain ---


@pytest.mark.anyio
async def test_langchain(url: str, key: str, laws: FakeEngine) -> None:
    options: dict[str, Any] = {"collection": "laws", "filter": ENGLISH}
    with Client(url, api_key=key) as client:
        async with AsyncClient(url, api_key=key) as waiting:
            tool = langchain.MemstoreAnswerTool(client=client, async_client=waiting, **options, min_confidence=0.75)
            retriever = langchain.MemstoreRetriever(client=client, async_client=waiting, **options)
            for said in (tool.invoke("why?"), await tool.ainvoke("why?")):
                assert said == f"{langchain.NOT_SURE}\n\nRead from:\n[law:1] Law"
            laws.filters.clear()
            assert retriever.invoke("why?") == await retriever.ainvoke("why?")
    assert laws.filters == [Filter.of(ENGLISH)] * 2
    assert laws.questions[-1].filter == Filter.of(ENGLISH)
    with Client(url) as client, pytest.raises(ToolException, match="401"):
        langchain.MemstoreAnswerTool(client=client).invoke("why?")


# --- Haystack ---


def pipeline(url: str, **options: Any) -> Pipeline:
    made = Pipeline()
    made.add_component("retriever", haystack.MemstoreRetriever(url, collection="laws", filters=ENGLISH, **options))
    made.add_component("answerer", haystack.MemstoreAnswerer(url, collection="laws", task="nq", **options))
    made.connect("retriever.documents", "answerer.documents")
    return made


INPUTS = {"retriever": {"query": "why?"}, "answerer": {"query": "why?"}}


def test_haystack_takes_its_key_from_the_variable_also_in_a_file(url: str, variable: str, laws: FakeEngine) -> None:
    written = pipeline(url).dumps()
    assert variable not in written
    assert API_KEY_VARIABLE in written
    made = Pipeline.loads(written, allowed_modules=["memstore_client.haystack"])
    (answer,) = made.run(INPUTS)["answerer"]["answers"]
    assert (answer.data, answer.meta["confidence"], answer.meta["calibrated"]) == ("why?!", 0.5, True)
    assert (laws.questions[-1].task, laws.filters[-1]) == ("nq", Filter.of(ENGLISH))


def test_haystack_is_given_a_key(url: str, key: str) -> None:
    given = pipeline(url, api_key=Secret.from_token(key))
    assert given.run(INPUTS)["answerer"]["answers"][0].data == "why?!"
    with pytest.raises(ValueError, match="token-based secret"):
        given.dumps()
    (answers,) = (
        haystack.MemstoreAnswerer(url, api_key=Secret.from_token(key), min_confidence=0.75).run("why?").values()
    )
    assert answers == []


@pytest.mark.parametrize("none", [{}, {"api_key": None}])
def test_haystack_without_a_key(url: str, none: dict[str, Any], request: pytest.FixtureRequest) -> None:
    if none:
        request.getfixturevalue("variable")  # which is not shown then
    with pytest.raises(Unauthorized):
        haystack.MemstoreRetriever(url, **none).run("why?")


# --- MCP ---


@asynccontextmanager
async def asking(url: str, **options: Any) -> AsyncIterator[mcp.Client]:
    async with AsyncClient(url, **options) as client, mcp.Client(mcp_server(client)) as asked:
        yield asked


@pytest.mark.anyio
async def test_mcp(url: str, key: str, laws: FakeEngine) -> None:
    of = {"question": "why?", "collection": "laws", "filter": ENGLISH}
    async with asking(url, api_key=key) as asked:
        answer = (await asked.call_tool("answer", of)).structured_content
        unsure = (await asked.call_tool("answer", {**of, "min_confidence": 0.75})).structured_content
        found = (await asked.call_tool("search", of)).structured_content
        assert answer is not None
        assert unsure is not None
        assert found is not None
        (read,) = (await asked.read_resource(answer["passages"][0]["uri"])).contents
        with pytest.raises(mcp.MCPError, match="no passage with id 'law:1'"):
            await asked.read_resource(passage_uri("law:1"))  # the other collection's
        nowhere = await asked.call_tool("search", {**of, "collection": "old"})
    assert (answer["answer"], answer["passages"][0]["uri"]) == ("why?!", "memstore://passages/law%3A1?collection=laws")
    assert LAW.text in str(read)
    assert (unsure["answer"], unsure["reason"], unsure["confidence"]) == (None, "not sure enough", 0.5)
    assert laws.questions[-1].filter == laws.filters[-1] == Filter.of(ENGLISH)
    assert all(one["uri"].endswith("?collection=laws") for one in found["passages"])
    assert (nowhere.is_error, "there are: first, laws" in str(nowhere.content)) == (True, True)


@pytest.mark.anyio
async def test_mcp_without_a_key(url: str) -> None:
    async with asking(url) as asked:
        refused = await asked.call_tool("search", {"question": "why?"})
    assert (refused.is_error, "send the header `Authorization: Bearer KEY`" in str(refused.content)) == (True, True)
