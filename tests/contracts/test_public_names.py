"""`import memstore` is cheap, and gives the public names when they are first used."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import memstore

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "zarr", "tensorstore", "tantivy", "faiss", "transformers", "tokenizers", "safetensors",
         "pydantic", "typer", "rich", "httpx")  # fmt: skip


def run(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_importing_memstore_loads_nothing_else() -> None:
    """Nor does asking what it has, nor the names that need no engine."""
    code = (
        "import sys; before = set(sys.modules); import memstore; dir(memstore); memstore.__version__;"
        "from memstore import MemstoreError, Passage;"
        "import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    loaded = json.loads(run(code))
    assert [name for name in loaded if name.split(".")[0] in HEAVY] == []
    assert {name for name in loaded if name.startswith("memstore")} == {
        "memstore", "memstore.errors", "memstore.metadata", "memstore.passage"
    }  # fmt: skip


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(memstore.__all__) == memstore.__all__
    assert set(memstore.__all__) <= set(dir(memstore))
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    for name in memstore.__all__:
        value = getattr(memstore, name)
        if name != "__version__":
            assert inspect.isclass(value)
            assert value.__name__ == name
            assert inspect.getdoc(value)
            assert re.search(rf"`{name}\b", page), f"docs/serving.md does not say what memstore.{name} is"


def test_type_checkers_see_the_same_names() -> None:
    source = inspect.getsource(memstore)
    (seen,) = re.findall(r"^if TYPE_CHECKING:\n((?: +.*\n)+)", source, flags=re.MULTILINE)
    imports = {
        name: module for module, names in re.findall(r"from ([\w.]+) import (.*)", seen) for name in names.split(", ")
    }
    assert imports == memstore._HOMES
    assert {*imports, "__version__"} == set(memstore.__all__)


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'memstore' has no attribute 'Oracle'"):
        _ = memstore.Oracle  # type: ignore[attr-defined]


def test_what_is_not_installed_is_named() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "try:\n    from memstore import Answerer\n"
        "except ImportError as error:\n    print(error)"
    )
    assert run(code).strip() == "memstore.Answerer needs torch: pip install '.[engine]' in memstore's folder"
