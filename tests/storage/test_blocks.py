"""The cache on the local disk: what it gives back was put there, it stays within its limit, and processes share it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memstore.errors import ConfigError
from memstore.storage import Limits
from memstore.storage.blocks import Blocks


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def aged(blocks: Blocks, name: str, *, seconds: int) -> None:
    os.utime(blocks._path(name), (1_000_000 - seconds, 1_000_000 - seconds))


def test_it_gives_back_what_was_put_to_every_process(tmp_path: Path) -> None:
    mine, theirs = (Blocks(tmp_path, limit=10_000) for _ in range(2))
    mine.put("a", b"one")
    mine.put("empty", b"")
    assert (theirs.get("a"), theirs.get("empty"), theirs.get("b")) == (b"one", b"", None)


@pytest.mark.parametrize("damage", [b"", b"\0", b"one and more", b"on"])
def test_a_damaged_block_is_a_miss_and_goes(tmp_path: Path, damage: bytes) -> None:
    blocks = Blocks(tmp_path, limit=10_000)
    blocks.put("a", b"one")
    blocks._path("a").write_bytes(damage)
    assert blocks.get("a") is None
    assert not blocks._path("a").exists()


def test_a_block_under_another_name_is_a_miss(tmp_path: Path) -> None:
    blocks = Blocks(tmp_path, limit=10_000)
    for name in "ab":
        blocks.put(name, name.encode())
    blocks._path("a").replace(blocks._path("b"))
    assert blocks.get("b") is None


def test_the_oldest_go_and_those_in_use_stay(tmp_path: Path) -> None:
    blocks = Blocks(tmp_path / "cache", limit=1000)
    held = blocks.file("ab" * 32)
    held.parent.mkdir(parents=True)
    held.write_bytes(bytes(300))
    os.link(held, tmp_path / "of a store")
    for number in range(6):
        blocks.put(str(number), bytes(96))
        aged(blocks, str(number), seconds=10 * (6 - number))
    assert blocks.get("0") is not None  # used last
    blocks.put("large", bytes(400))
    blocks.shrink()
    assert size_of(tmp_path / "cache") <= 900
    assert held.exists()
    assert [n for n in "012345" if blocks.get(n) is not None] == ["0"]
    assert blocks.get("large") is not None


def test_it_stays_near_its_limit(tmp_path: Path) -> None:
    blocks = [Blocks(tmp_path, limit=20_000) for _ in range(3)]
    for number in range(90):
        blocks[number % 3].put(str(number), bytes(500))
    assert size_of(tmp_path) <= 20_000 * 1.2


def test_a_disk_that_refuses_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "blocks").write_text("a file where the folder is to be")
    blocks = Blocks(tmp_path, limit=1000)
    blocks.put("a", b"one")
    assert blocks.get("a") is None


def test_a_process_killed_while_it_writes_leaves_nothing_wrong(tmp_path: Path) -> None:
    script = (
        "import sys; from memstore.storage.blocks import Blocks\n"
        "blocks, n = Blocks(sys.argv[1], limit=10**9), 0\n"
        "import pathlib; blocks.folder = pathlib.Path(sys.argv[1])\n"
        "while True:\n"
        "    blocks.put(str(n), str(n).encode() * 20000); n += 1\n"
        "    if n == 20: print(flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    blocks = Blocks(tmp_path, limit=10**9)
    assert [n for n in range(20) if blocks.get(str(n)) != str(n).encode() * 20000] == []
    for number in range(20, 2000):
        assert blocks.get(str(number)) in (None, str(number).encode() * 20000)


@pytest.mark.parametrize(("name", "value"), [("MEMSTORE_CACHE_BYTES", "much"), ("MEMSTORE_STORAGE_SECONDS", "-1")])
def test_a_limit_that_is_no_positive_number_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} must be a positive number, not '{value}'"):
        Limits.of_environment()
