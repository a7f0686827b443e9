"""`memstore flops`: which systems it compares, with the figures of `memstore.model.flops`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memstore import cli
from memstore.compare.costs import Lengths, as_system, costs
from memstore.errors import ConfigError
from memstore.model.flops import answer_bytes, answer_flops, fid_flops
from tests import tiny

LENGTHS = Lengths(question_tokens=3, passage_tokens=7, retrieve_k=5, keep_k=2, new_tokens=4, num_beams=3)


def test_the_three_systems_side_by_side(tmp_path: Path) -> None:
    found = costs(str(tiny.save_checkpoint(tmp_path)), LENGTHS)
    shown = [(s.system, s.alpha, s.beta, s.retrieve_k, s.keep_k, tuple(s.layers.values())) for s in found.systems]
    assert shown == [
        ("fid", 1.0, None, 5, 5, (0, 0, 6, 2)),
        ("fid", 1.0, None, 2, 2, (0, 0, 6, 2)),
        ("lumen", 1 / 3, None, 5, 5, (4, 0, 2, 2)),
        ("lumen", 1 / 3, None, 2, 2, (4, 0, 2, 2)),
        ("glimmer", 1 / 3, 1 / 2, 5, 2, (4, 1, 1, 2)),
    ]
    c, given = tiny.config(), {"question_tokens": 3, "new_tokens": 4, "num_beams": 3}
    assert found.systems[0].flops["total"] == fid_flops(c, passage_tokens=[7] * 5, **given).total
    last = found.systems[-1]
    assert last.flops["total"] == answer_flops(c, passage_tokens=[7] * 5, kept_tokens=[7] * 2, **given).total
    assert last.bytes["total"] == answer_bytes(c, passage_tokens=[7] * 5, kept_tokens=[7] * 2, **given).total
    assert last.flops["total"] == sum(n for stage, n in last.flops.items() if stage != "total")
    assert [s.store_bytes for s in found.systems] == [0, 0, 5 * 7 * 32, 2 * 7 * 32, 5 * 7 * 32]
    assert {s.parameters["passages"] for s in found.systems} == {0}


def test_a_fid_is_cut_at_the_default_place_for_the_others() -> None:
    fid = tiny.config(system="fid", alpha=1.0)
    assert as_system(fid, "glimmer").alpha == pytest.approx(1 / 3)
    assert as_system(tiny.config(alpha=1 / 2), "lumen").alpha == 1 / 2


def test_keeping_all_shows_each_system_once(tmp_path: Path) -> None:
    found = costs(str(tiny.save_checkpoint(tmp_path)), Lengths(retrieve_k=4, keep_k=4))
    assert [s.system for s in found.systems] == ["fid", "lumen", "glimmer"]


def test_more_kept_than_retrieved_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"keep_k \(3\) must not exceed retrieve_k \(2\)"):
        Lengths(retrieve_k=2, keep_k=3)


def test_the_command(tmp_path: Path) -> None:
    folder = str(tiny.save_checkpoint(tmp_path))
    wanted = ["flops", "--model", folder, "--retrieve-k", "5", "--keep-k", "2"]
    found = json.loads(CliRunner().invoke(cli.app, [*wanted, "--json"], catch_exceptions=False).stdout)
    assert [s["keep_k"] for s in found["systems"]] == [5, 2, 5, 2, 2]
    text = CliRunner().invoke(cli.app, wanted, catch_exceptions=False).stdout
    assert "GLIMMER 5 to 2" in text
    assert "GLIMMER 4+1+1" in text
    assert "from an int8 store" in text
