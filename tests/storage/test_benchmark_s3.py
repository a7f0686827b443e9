"""`python -m benchmarks s3`: its cases, and what a question asks of the storage. No time is asserted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from benchmarks import __main__ as command
from benchmarks import object_server
from benchmarks.s3 import LATENCIES


def test_it_has_every_case(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def the_one_that_runs(_: Path) -> Iterator[str]:
        yield s3_server

    monkeypatch.setattr(object_server, "serving", the_one_that_runs)
    monkeypatch.setattr(command, "tune_allocator", lambda: False)
    assert command.main(["s3", "--quick", "--json", str(tmp_path / "figures.json")]) == 0
    [report] = json.loads((tmp_path / "figures.json").read_text())["benchmarks"]
    cases = {f"{kind}, {latency} ms" for kind in ("cold", "warm") for latency in LATENCIES}
    assert set(report["times"]) == {"folder", *cases}
    assert [1 < row["requests per question"] <= 8 for row in report["rows"]] == [True] * 3  # of 40 * 4 ranges


def test_compose_has_a_server_with_what_it_mounts() -> None:
    root = Path(__file__).parents[2]
    compose = yaml.safe_load((root / "docker-compose.yml").read_text(encoding="utf-8"))
    service = compose["services"]["storage"]
    assert service["profiles"] == ["storage"]
    mounted = [one.partition(":")[0] for one in service["volumes"]]
    assert all((root / one).is_file() for one in mounted if one.startswith("./"))
    assert {one for one in mounted if not one.startswith("./")} <= set(compose["volumes"])
    assert json.loads((root / "docker/storage/s3.json").read_text(encoding="utf-8"))["identities"]
