"""`/metrics`: what Prometheus reads of a server, by its own parser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.server.fakes import FakeEngine

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


async def read(http) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples, by name and labels."""
    response = await http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(samples, name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


async def test_answers_are_counted_by_batch_by_stage_and_by_what_they_read(serving, engine: FakeEngine) -> None:
    async with serving() as http:
        await http.get("/passages/7:0")  # counting comes after answering: the thread has done it by then
        before = await read(http)
        questions = [{"question": "one"}, {"question": "two"}]
        assert (await http.post("/answer/batch", json={"questions": questions})).status_code == 200
        await http.get("/passages/7:0")
        after = await read(http)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    here = {"collection": "default"}
    assert grown("memstore_batch_seconds_count", **here) == 1
    assert grown("memstore_batch_questions_sum", **here) == 2
    assert grown("memstore_batch_tokens_sum", **here) > 2 * 40 * 100
    assert grown("memstore_queue_wait_seconds_count", **here) == 2
    assert grown("memstore_kept_passages_sum", **here) == 2
    assert grown("memstore_read_bytes_total", **here) == 2 * 64
    assert grown("memstore_flops_total", stage="live_a", **here) == 2 * 10.0
    assert grown("memstore_fid_flops_total", **here) == 2 * 100.0
    assert grown("memstore_stage_seconds_count", stage="live_a", **here) >= 1
    assert grown("memstore_request_seconds_count", route="/answer/batch", method="POST", status="200") == 1
    assert value(after, "memstore_generation", **here) == 4
    assert value(after, "memstore_passages", **here) == 2
    assert value(after, "memstore_queue_jobs") == 0


async def test_refusals_are_counted_by_their_reason(serving) -> None:
    async with serving() as http:
        await http.get("/passages/nowhere")
        await http.post("/answer", json={"question": " "})
        samples = await read(http)
    assert value(samples, "memstore_problems_total", kind="passage-not-found") == 1
    assert value(samples, "memstore_problems_total", kind="invalid-request") == 1


async def test_routes_are_labels_and_paths_are_not(serving) -> None:
    """Or whoever asks for many passages would fill the server's memory with labels."""
    async with serving() as http:
        await http.get("/passages/7:0")
        await http.get("/nothing/here")
        samples = await read(http)
    routes = {dict(labels)["route"] for name, labels in samples if name == "memstore_request_seconds_count"}
    assert routes == {"/passages/{passage_id:any_text}", "none"}


async def test_two_servers_in_one_process_do_not_count_together(serving) -> None:
    async with serving() as one, serving(wait=False) as other:
        await one.get("/passages/nowhere")
        assert value(await read(other), "memstore_problems_total", kind="passage-not-found") == 0


async def test_what_cannot_be_counted_ends_nothing(serving, monkeypatch, caplog) -> None:
    async with serving() as http:
        monkeypatch.setattr(http._transport.app.state.service.metrics, "_answered", lambda *_: 1 / 0)
        for _ in range(2):
            assert (await http.post("/answer", json={"question": "why?"})).status_code == 200
        assert (await http.get("/passages/7:0")).status_code == 200
    assert "a batch could not be counted" in caplog.text


async def test_the_dashboard_asks_for_what_there_is(serving) -> None:
    board = json.loads((ROOT / "docker/monitoring/memstore.json").read_text(encoding="utf-8"))
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    names = set(re.findall(r"(?:memstore|process)_[a-z_]+", asked))
    async with serving() as http:
        await http.post("/answer", json={"question": "why?"})
        text = (await http.get("/metrics")).text
    families = {family.name for family in text_string_to_metric_families(text)}
    plain = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names}
    assert len(names) > 15
    assert plain <= families


def test_compose_mounts_what_is_there_and_grafana_finds_its_data() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    for service in ("prometheus", "grafana"):
        assert compose["services"][service]["profiles"] == ["monitoring"]
        mounted = [one.partition(":")[0] for one in compose["services"][service]["volumes"]]
        assert all((ROOT / one).is_file() for one in mounted if one.startswith("./"))
    folder = ROOT / "docker/monitoring"
    (source,) = yaml.safe_load((folder / "datasource.yml").read_text(encoding="utf-8"))["datasources"]
    board = json.loads((folder / "memstore.json").read_text(encoding="utf-8"))
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    (job,) = yaml.safe_load((folder / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert job["dns_sd_configs"][0]["names"] == ["server", "replica"]
