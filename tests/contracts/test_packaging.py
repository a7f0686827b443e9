"""What the project's files promise about installing: pinned versions, a small base, complete packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
SOURCES = ("memstore", "server/memstore_server", "builders/memstore_builders", "clients/memstore_client")
PINNED_BY_TORCH = ("nvidia-", "cuda-", "triton")  # what a CUDA build brings, with versions of its own


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    names = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in names}


def wanted(of: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    """The requirements of a distribution that hold here, with these of its extras."""
    for line in of.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


def closure(*extras: str) -> dict[str, Distribution]:
    """Every distribution that `memstore[extras]` brings, by name; memstore itself is left out."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [("memstore", frozenset(extras))]
    while waiting:
        name, chosen = waiting.pop()
        if (name, chosen) in seen:
            continue
        seen.add((name, chosen))
        found[name] = distribution(name)
        waiting += [(canonicalize_name(r.name), frozenset(r.extras)) for r in wanted(found[name], chosen)]
    del found["memstore"]
    return found


def test_constraints_pin_exactly_what_is_installed() -> None:
    installed = {
        name: Version(found.version).public
        for name, found in closure("all", "dev").items()
        if not name.startswith(PINNED_BY_TORCH)
    }
    assert installed == {name: version for name, version in pins().items() if name in installed}


def test_constraints_name_nothing_else() -> None:
    assert set(pins()) - set(closure("all", "dev")) == set()


def test_torch_is_pinned_without_a_local_label() -> None:
    assert pins()["torch"] == "2.13.0"


@pytest.mark.parametrize("heavy", ["torch", "numpy", "transformers", "fastapi", "zarr"])
def test_the_base_install_is_small(heavy: str) -> None:
    assert heavy in closure("all")
    assert heavy not in closure()


@pytest.mark.parametrize("source", SOURCES)
def test_every_folder_of_code_is_a_package(source: str) -> None:
    folders = {path.parent for path in (ROOT / source).rglob("*.py")}
    assert folders
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("source", SOURCES)
def test_every_package_is_typed(source: str) -> None:
    assert (ROOT / source / "py.typed").exists()


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE) == phony[1].split()
