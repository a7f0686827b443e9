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
    assert (settings.stores, settings.port, settings.max_batch) == ({"default": Path("from-env")}, 82, 3)
    assert (settings.host, settings.model, settings.threads) == ("127.0.0.1", (), None)


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
        ({"store": []}, "store (--store or MEMSTORE_STORE) is not given"),
        ({"store": ["a=x", "y"]}, "of several stores each needs a name (--store NAME=DIR); y has none"),
        ({"store": ["a=x", "a=y"]}, "two stores are given for a: give one"),
        ({"model": ["x", "y"]}, "two models are given without a name: give one"),
        ({"store": ["a=x", "b=y"], "model": ["c=z"]}, "model c=... is for no store: there are a, b"),
        ({"store": None}, "store (--store or MEMSTORE_STORE) is not given"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(flags: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load(**{"store": "s", **flags})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "stores"),
    [
        ("wiki", {"default": "wiki"}),
        (Path("wiki"), {"default": "wiki"}),
        ("./a=b", {"default": "a=b"}),
        ("/runs/a=b", {"default": "/runs/a=b"}),
        (["news=/x/news"], {"news": "/x/news"}),
        (["wiki=a=b", "news=c,d"], {"wiki": "a=b", "news": "c,d"}),
        ("wiki=/x/wiki,news=/x/a,b", {"wiki": "/x/wiki", "news": "/x/a,b"}),  # as in a variable
        ("/x/a,news=b", {"default": "/x/a,news=b"}),
    ],
)
def test_stores_have_names_where_there_are_several(given: object, stores: dict[str, str]) -> None:
    assert {name: str(folder) for name, folder in Settings.load(store=given).stores.items()} == stores


def test_each_store_may_have_a_model_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSTORE_STORE", "a=x,b=y,c=z")
    assert list(Settings.load().stores) == ["a", "b", "c"]
    settings = Settings.load(model=["m", "b=n"])
    assert [settings.model_of(name) for name in settings.stores] == ["m", "n", "m"]
    assert Settings.load().model_of("a") is None


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
