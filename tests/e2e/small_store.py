"""A store of forty passages by a tiny model: for tests of how answers reach those who listen."""

from __future__ import annotations

import json
from pathlib import Path

from memstore_builders.build import build
from memstore_builders.job import BuildOptions
from tests import tiny


def built(folder: Path) -> Path:
    """Build it in a folder, in float32. Returns its path."""
    rows = [{"id": p.id, "document_id": p.document_id, "title": p.title, "text": f"{p.text} {i}"}
            for i, p in enumerate(tiny.passages(40))]  # fmt: skip
    corpus = folder / "passages.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = tiny.save_checkpoint(folder / "model")
    build(BuildOptions(corpus=(corpus,), out=folder / "store", model=str(model), dtype="float32"))
    return folder / "store"
