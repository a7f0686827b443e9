"""The TypeScript client: its types are those of the server's OpenAPI document, and its own tests pass against a server.

Needs Node, and once `npm ci` in clients/typescript.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.fakes import FakeEngine
from tests.server.live import live_server

CLIENT = Path(__file__).parents[2] / "clients" / "typescript"
KEY = "a-key-of-this-very-test"
pytestmark = [
    pytest.mark.skipif(shutil.which("npm") is None, reason="there is no Node here"),
    pytest.mark.skipif(not (CLIENT / "node_modules").is_dir(), reason="run `npm ci` in clients/typescript first"),
]


def npm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("npm") or "npm", "run", "--silent", *arguments]
    given = os.environ | environment
    return subprocess.run(command, cwd=CLIENT, env=given, capture_output=True, text=True, timeout=280, check=False)


def test_the_types_are_those_of_the_servers_document() -> None:
    command = [sys.executable, str(CLIENT / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr


def test_it_compiles_and_its_own_tests_pass(tmp_path: Path) -> None:
    built = npm("build")
    assert built.returncode == 0, built.stdout
    with live_server(FakeEngine(), store=tmp_path, write_key=KEY) as url:
        done = npm("test", MEMSTORE_URL=url, MEMSTORE_KEY=KEY)
    assert done.returncode == 0, done.stdout
    assert "# fail 0" in done.stdout
    assert "# pass 9" in done.stdout
