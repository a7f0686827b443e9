"""What workers that serve one address ask of each other: what each counts. `to_writer.py` has the rest.

Knows Prometheus' form of metrics.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

import httpx
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.requests import Request

from memstore_server.crew import Crew

log = logging.getLogger(__name__)
_OWN = "own"  # a query of /metrics: this worker's alone
PATIENCE = 2.0  # seconds that a worker has to take a connection, or to say what it counts


def asks_for_own(request: Request) -> bool:
    """Whether another worker asks: it gets this one's metrics alone."""
    return _OWN in request.query_params


async def metrics_of_all(crew: Crew, own: bytes) -> bytes:
    """What all workers count, each sample with the `worker` it is of, and which of them there are."""
    others = [number for number in range(crew.size) if number != crew.number]
    told = await asyncio.gather(*(_metrics_of(crew, number) for number in others))
    texts = {crew.number: own, **dict(zip(others, told, strict=True))}
    return merged({number: texts[number] for number in range(crew.size)})


async def _metrics_of(crew: Crew, number: int) -> bytes | None:
    try:
        async with client(crew, number) as http:
            reply = await http.get("/metrics", params={_OWN: "1"}, timeout=PATIENCE)
    except httpx.HTTPError as error:
        log.warning("worker %d does not say what it counts: %s", number, type(error).__name__)
        return None
    return reply.content if reply.is_success else None


def client(crew: Crew, number: int) -> httpx.AsyncClient:
    """For asking a worker."""
    transport = httpx.AsyncHTTPTransport(uds=str(crew.place(number)))
    return httpx.AsyncClient(transport=transport, base_url="http://worker")


def merged(texts: Mapping[int, bytes | None]) -> bytes:
    """One text of the workers' metrics, a `worker` label on each sample. None is of one that is not there."""
    up = Metric("memstore_worker_up", "Whether a worker can be asked.", "gauge")
    families: dict[str, Metric] = {}
    for number, text in texts.items():
        worker = {"worker": str(number)}
        up.add_sample(up.name, worker, float(text is not None))
        for family in text_string_to_metric_families((text or b"").decode()):
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.add_sample(sample.name, {**sample.labels, **worker}, sample.value, sample.timestamp)
    registry = CollectorRegistry()
    registry.register(_Collected([up, *families.values()]))
    return generate_latest(registry)


class _Collected(Collector):
    """Metrics that were collected before."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self._metrics
