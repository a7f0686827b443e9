"""One tiny cache for all tests of comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compare import compare_cases


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compare_cases.make_cache(tmp_path_factory.mktemp("compare"))
