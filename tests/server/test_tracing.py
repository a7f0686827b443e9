"""Spans of requests and of what answers took, by OpenTelemetry's own SDK."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from memstore_server.app import create_app
from memstore_server.logs import JsonFormatter
from memstore_server.settings import Settings
from memstore_server.tracing import TraceIdFilter, Tracing, tracing_of
from tests.server.fakes import FakeEngine

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

pytestmark = pytest.mark.anyio
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@asynccontextmanager
async def traced(engine: FakeEngine, spans: InMemorySpanExporter) -> AsyncIterator[httpx.AsyncClient]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    app = create_app(engine, Settings.load(store="store"), tracing=Tracing(provider))
    async with app.router.lifespan_context(app):
        app.state.service.warm_up.result(10)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://memstore") as http:
            yield http


async def test_an_answer_is_a_span_with_its_stages_below(engine: FakeEngine, spans: InMemorySpanExporter) -> None:
    async with traced(engine, spans) as http:
        await http.post("/answer", json={"question": "why?"}, headers={"traceparent": PARENT})
        finished = spans.get_finished_spans()
    request, *stages = sorted(finished, key=lambda span: span.parent.span_id != int("b7ad6b7169203331", 16))
    assert request.attributes["http.route" if "http.route" in request.attributes else "http.target"] == "/answer"
    assert {span.context.trace_id for span in finished} == {int("0af7651916cd43dd8448eb211c80319c", 16)}
    assert {span.parent.span_id for span in stages} == {request.context.span_id}
    assert [span.name for span in stages] == ["memstore queue", "memstore live_a"]
    queue, live = stages
    assert queue.end_time == live.start_time
    assert live.end_time - live.start_time == 1_500_000  # nanoseconds; the fake's 1.5 ms
    assert live.attributes["memstore.flops"] == 10.0
    about = {name: value for name, value in request.attributes.items() if name.startswith("memstore.")}
    assert about == {
        "memstore.collection": "default", "memstore.questions_in_batch": 1, "memstore.retrieve_k": 40,
        "memstore.passages_read": 1, "memstore.lowered": (), "memstore.confidence": 0.5, "memstore.generation": 4,
    }  # fmt: skip


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/metrics", 200)])
async def test_what_is_asked_every_few_seconds_is_none(
    engine: FakeEngine, spans: InMemorySpanExporter, path: str, status: int
) -> None:
    async with traced(engine, spans) as http:
        assert (await http.get(path)).status_code == status
        assert spans.get_finished_spans() == ()


async def test_refusals_are_spans_too(engine: FakeEngine, spans: InMemorySpanExporter) -> None:
    async with traced(engine, spans) as http:
        await http.post("/answer", json={"question": "impossible"})
        (span,) = spans.get_finished_spans()
    assert 422 in (span.attributes.get("http.status_code"), span.attributes.get("http.response.status_code"))


def test_log_lines_name_the_trace() -> None:
    def logged() -> dict[str, Any]:
        record = logging.LogRecord("memstore", logging.INFO, "", 0, "hello", None, None)
        assert TraceIdFilter().filter(record)
        line: dict[str, Any] = json.loads(JsonFormatter().format(record))
        return line

    with TracerProvider().get_tracer("test").start_as_current_span("one") as span:
        assert logged()["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert "trace_id" not in logged()


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_usual_variables_ask_for_it(environment: dict[str, str], wanted: bool) -> None:
    tracing = tracing_of(environment)
    assert (tracing is not None) is wanted
    if tracing is not None:
        tracing.close()


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.exporter'] = None\n"
        "from memstore_server.tracing import tracing_of\n"
        "try: tracing_of({'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://127.0.0.1:9'})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("ConfigError OTEL_EXPORTER_OTLP_ENDPOINT asks for traces")
    assert "extra `otel`" in said
