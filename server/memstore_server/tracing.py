"""Traces for OpenTelemetry, where its usual variables ask for them: a span for each request, those of stages below it.

Spans of requests are made by OpenTelemetry's own ASGI middleware, by its conventions for HTTP. Those of stages are made
afterwards: an answer says how long each of its stages took. Needs the extra `otel`, which nothing else here imports.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import memstore
from memstore.errors import ConfigError
from memstore_server.queued import Timed

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

    from memstore.answer import Answer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_UNTRACED = "/health$,/ready$,/metrics$,/page/.*,/docs.*"  # what is asked every few seconds, or of no interest


class Tracing:
    """Makes spans, and sends them where the provider's processors do."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider, self._tracer = provider, provider.get_tracer("memstore", memstore.__version__)

    def middleware(self) -> tuple[Any, dict[str, Any]]:
        """What makes a span of each request, and its settings."""
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.metrics import NoOpMeterProvider

        settings = {
            "tracer_provider": self._provider, "meter_provider": NoOpMeterProvider(),  # `/metrics` counts already
            "exclude_spans": ["receive", "send"], "excluded_urls": _UNTRACED,
        }  # fmt: skip
        return OpenTelemetryMiddleware, settings

    def answered(self, outcome: Timed[Answer]) -> None:
        """The spans of a question's stages, below the request's: the wait, then what its batch spent on each."""
        from opentelemetry.trace import get_current_span

        answer, store = outcome.value, outcome.by["store"]
        about: dict[str, AttributeValue] = {
            "memstore.collection": str(outcome.by["collection"]),
            "memstore.questions_in_batch": answer.usage.questions_in_batch,
            "memstore.retrieve_k": answer.usage.retrieve_k,
            "memstore.passages_read": sum(one.kept for one in answer.passages),
            "memstore.lowered": () if answer.lowered is None else answer.lowered.reasons,
            "memstore.confidence": answer.confidence,
        }
        if isinstance(store, Mapping):
            about["memstore.generation"] = int(store["generation"])
        get_current_span().set_attributes(about)
        at = time.time_ns() - round((outcome.queued + outcome.ran) * 1e9)
        stages = {"queue": outcome.queued * 1e3, **answer.usage.milliseconds}
        for stage, milliseconds in stages.items():
            span = self._tracer.start_span(f"memstore {stage}", start_time=at)
            at += round(milliseconds * 1e6)
            span.set_attribute("memstore.flops", answer.usage.flops.get(stage, 0.0))
            span.end(end_time=at)

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def tracing_of(environment: Mapping[str, str]) -> Tracing | None:
    """Tracing as the variables of OpenTelemetry's specification ask for it: to an endpoint, by OTLP over HTTP.

    Raises:
        ConfigError: they ask for it, and the extra `otel` is not installed.
    """
    asks = next((name for name in ENDPOINTS if environment.get(name)), None)
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    if asks is None or off:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation import asgi  # noqa: F401 - needed for the first request
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{asks} asks for traces, which need {error.name}: install memstore with the extra `otel`, or unset it"
        ) from error
    named = {} if environment.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "memstore"}
    provider = TracerProvider(resource=Resource.create({**named, SERVICE_VERSION: memstore.__version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    for handler in logging.getLogger().handlers:
        handler.addFilter(TraceIdFilter())
    return Tracing(provider)


class TraceIdFilter(logging.Filter):
    """Adds `trace_id` to each record that is logged while a request is traced."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record through."""
        from opentelemetry.trace import format_trace_id, get_current_span

        context = get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = format_trace_id(context.trace_id)
        return True
