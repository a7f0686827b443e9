"""Requests made up from the OpenAPI document by schemathesis, right and wrong ones: each answer is a documented one.

Deterministic: the same requests each time. The store is real and tiny; another program is changing it all the while, so
that accepted changes wait and no process is started.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from memstore.store.holding import only_writer
from memstore_server.app import create_app
from memstore_server.settings import Settings
from tests.builders.changing import Bench, texts
from tests.server.fakes import FakeEngine
from tests.server.live import live_server

KEY = "a-key-of-this-very-test"
EXAMPLES = 10  # of each operation and mode: a fifth of a second each
DOCUMENT = create_app(FakeEngine(), Settings.load(store="store", write_key=KEY)).openapi()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = {(verb, path): said for path, verbs in DOCUMENT["paths"].items() for verb, said in verbs.items()}
RIGHT = [(*operation, GenerationMode.POSITIVE) for operation in OPERATIONS]
WRONG = [
    (*operation, GenerationMode.NEGATIVE)
    for operation, said in OPERATIONS.items()
    if "requestBody" in said or any(one["in"] == "query" for one in said.get("parameters", ()))
]  # others take nothing that could be wrong


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    bench = Bench(tmp_path_factory.mktemp("fuzzed"), texts(8))
    engine = FakeEngine()
    engine.generation = engine.newest = 1
    with only_writer(bench.path), live_server(engine, store=bench.path, write_key=KEY) as address:
        yield address


def documented(verb: str, path: str) -> set[str]:
    """The statuses that an operation may answer with."""
    if path.startswith("/v1/"):  # their `default` says: the kinds and statuses of `/answer`, 400 for 422
        return set(OPERATIONS["post", "/answer"]["responses"]) - {"422"} | {"400"}
    return set(OPERATIONS[verb, path]["responses"])


@pytest.mark.parametrize(("verb", "path", "mode"), RIGHT + WRONG)
def test_every_answer_is_documented(url: str, verb: str, path: str, mode: GenerationMode) -> None:
    operation, statuses = SCHEMA[path][verb], documented(verb, path)

    @seeded(0)
    @settings(
        max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False,
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        response = case.call(base_url=url, headers={"Authorization": f"Bearer {KEY}"})
        excluded = [positive_data_acceptance]  # a server's limits are its own
        if set(case.query or ()) - {one["name"] for one in OPERATIONS[verb, path].get("parameters", ())}:
            excluded.append(negative_data_rejection)  # what it does not know in a query, it passes over
        case.validate_response(response, excluded_checks=excluded)
        assert str(response.status_code) in statuses, response.text
        assert response.status_code < 500, response.text

    ask()
