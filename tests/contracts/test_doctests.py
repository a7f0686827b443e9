"""The examples in docstrings are true: every one, wherever it is."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (".", "server", "builders", "clients")
SHOWN = {"memstore.model.packed", "memstore.model.selection", "memstore.questions.metrics", "memstore.codec.plain",
         "memstore.units"}  # fmt: skip
"""Modules that explain themselves by examples."""


def modules() -> list[str]:
    """Names of the modules with an example."""
    paths = [(ROOT / folder, path) for folder in FOLDERS for path in (ROOT / folder).glob("memstore*/**/*.py")]
    found = [path.relative_to(root) for root, path in paths if ">>> " in path.read_text(encoding="utf-8")]
    return sorted(".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in found)


def test_examples_are_found() -> None:
    assert set(modules()) >= SHOWN


@pytest.mark.parametrize("name", modules())
def test_the_examples_are_true(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed
