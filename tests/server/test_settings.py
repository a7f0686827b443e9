"""Settings: flags win over variables win over defaults; what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from memstore.errors import ConfigError
from memstore_server.settings import Settings, unknown_variables


def test_a_flag_wins_over_a_variable_wins_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSTORE_STORE", "from-env")
    monkeypatch.setenv("MEMSTORE_PORT", "81")
    monkeypatch.setenv("MEMSTORE_MAX_BATCH", "3")
    monkeypatch.setenv("MEMSTORE_MODEL", "")
    settings = Settings.load(port=82, host=None)
    assert (settings.store, settings.port, settings.max_batch) == (Path("from-env"), 82, 3)
    assert (settings.host, settings.model, settings.threads) == ("127.0.0.1", None, None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 70_000}, "port (--port or MEMSTORE_PORT) is 70000: Input should be less than"),
        ({"max_batch": 0}, "max_batch (--max-batch or MEMSTORE_MAX_BATCH) is 0: Input should be"),
        ({"queue_size": "many"}, "queue_size (--queue-size or MEMSTORE_QUEUE_SIZE) is 'many': "),
        ({"drain_seconds": float("inf")}, "drain_seconds (--drain-seconds or MEMSTORE_DRAIN_SECONDS) is inf: Input"),
        ({"drain_seconds": "nan"}, "drain_seconds (--drain-seconds or MEMSTORE_DRAIN_SECONDS) is 'nan': Input"),
        ({"drain_seconds": 3_601}, "Input should be less than or equal to 3600"),
        ({"max_wait_ms": "nan"}, "max_wait_ms (--max-wait-ms or MEMSTORE_MAX_WAIT_MS) is 'nan': Input"),
        ({"log_format": "xml"}, "log_format (--log-format or MEMSTORE_LOG_FORMAT) is 'xml': "),
        ({"root_path": "below"}, "root_path (--root-path or MEMSTORE_ROOT_PATH) is 'below': String should match"),
        ({"root_path": "/below/"}, "root_path (--root-path or MEMSTORE_ROOT_PATH) is '/below/': String should"),
        ({"prot": 1}, "prot is not a setting of the server"),
        ({"keep_k": 41}, "keep_k (41) must be at most retrieve_k (40)"),
        ({"retrieve_k": 300}, "retrieve_k (300) must be at most max_retrieve_k (200)"),
        ({"max_keep_k": 5}, "keep_k (10) must be at most max_keep_k (5)"),
        ({"max_new_tokens": 300}, "max_new_tokens (300) must be at most max_new_tokens_limit (256)"),
        ({"num_beams": 9}, "num_beams (9) must be at most max_num_beams (8)"),
        ({"store": None}, "store (--store or MEMSTORE_STORE) is not given"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(flags: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load(**{"store": "s", **flags})
    assert message in str(caught.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSTORE_THREADS", "-1")
    with pytest.raises(ConfigError, match=r"threads \(--threads or MEMSTORE_THREADS\) is '-1'"):
        Settings.load(store="s")


def test_a_misspelled_variable_is_noticed_and_a_strange_one_left_alone() -> None:
    environment = {
        "MEMSTORE_MAX_BACTH": "1",
        "MEMSTORE_PORT": "1",
        "memstore_host": "h",
        "MEMSTORE_CORPUS": "x",
        "PATH": "y",
    }
    assert unknown_variables(environment) == {"MEMSTORE_MAX_BACTH": "MEMSTORE_MAX_BATCH"}


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
