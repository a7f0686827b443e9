"""What the machine offers: dtypes that it multiplies fast, devices that it has not, and the allocator's settings."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest
import torch

from memstore.errors import ConfigError
from memstore.machine import compute_dtype, tune_allocator, why_unusable


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_bfloat16_is_taken_where_it_is_fast(monkeypatch: pytest.MonkeyPatch, device: str, fast: bool) -> None:
    on_gpu = device != "cpu"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: fast if on_gpu else not fast)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: not fast if on_gpu else fast)
    assert compute_dtype(device) == (torch.bfloat16 if fast else torch.float32)


def test_a_named_dtype_is_taken_as_it_is() -> None:
    assert compute_dtype("cpu", "bfloat16") == torch.bfloat16
    assert compute_dtype("cuda", "float32") == torch.float32


@pytest.mark.parametrize("name", ["float16", "int8", ""])
def test_other_dtypes_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"dtype must be bfloat16 or float32, not '{name}'"):
        compute_dtype("cpu", name)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("no driver\nand how to get one"), "no driver"),
        (AssertionError("built without it"), "built without it"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_why_a_device_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, line: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    assert why_unusable("cpu") == ""
    monkeypatch.setattr(torch, "zeros", refuse)
    assert why_unusable("cuda") == line


def test_the_allocator_is_reported_to_keep_blocks_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, int] = {}

    def mallopt(setting: int, value: int) -> int:
        told[setting] = value
        return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    assert tune_allocator()
    assert told == {-1: 1 << 30, -3: 1 << 30}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in malloc.h
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *_: 0))
    assert not tune_allocator()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not tune_allocator()
    told.clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not tune_allocator()
    assert told == {}
