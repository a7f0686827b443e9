"""Two servers and a builder on one store, and clients that ask meanwhile: no request fails, no reply mixes generations.

In one process and short; `python -m benchmarks replicas` is the long one, with processes.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from benchmarks.replicas import QUESTION, Inconsistent, edition_of, require_consistent, stamped
from memstore.answer import Answerer
from memstore.store.history import forget, rollback
from memstore_builders.add import AddOptions, add
from memstore_builders.change import delete
from memstore_builders.compact import compact
from memstore_client import AsyncClient
from memstore_server.app import create_app
from memstore_server.settings import Settings
from tests.builders.changing import Bench, texts
from tests.server.fakes import PATIENCE

pytestmark = pytest.mark.anyio
CLIENTS = 4
EDITIONS = 3


class Builder:
    """Changes a store, and knows the edition of each generation; `benchmarks.replicas` says what an edition is."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        self.editions: dict[int, int] = {}

    def add(self, edition: int) -> int:
        corpus = self.folder / f"edition-{edition}.jsonl"
        corpus.write_text("".join(json.dumps(row) + "\n" for row in stamped(edition)))
        return self._note(add(AddOptions(store=self.bench.path, corpus=(corpus,))).generation, edition)

    def changes(self) -> list[Callable[[], int]]:
        """One after another, with what each does to the edition."""
        path, last = self.bench.path, EDITIONS
        return [
            *(lambda e=e: self.add(e) for e in range(2, last + 1)),
            lambda: self._note(delete(path, ["d0", "d1"]).generation, last),
            lambda: rollback(path, to=min(self.editions)).number,
            lambda: self._note(delete(path, ["d2"]).generation, self.editions[min(self.editions)]),
            lambda: self._note(compact(path).generation, self.editions[min(self.editions)]),
            lambda: self.add(last + 1),
            lambda: forget(path).kept[-1],
        ]

    def _note(self, generation: int, edition: int) -> int:
        self.editions[generation] = edition
        return generation


async def ask(client: AsyncClient, replies: Counter[tuple[int, int]], stop: asyncio.Event) -> None:
    """Asks in all ways until told to stop."""
    while not stop.is_set():
        one = await client.answer(QUESTION, retrieve_k=8, keep_k=2, max_new_tokens=1)
        batch = await client.answer_batch([QUESTION] * 3)
        found = await client.retrieve(QUESTION, retrieve_k=8)
        answers = [item.answer for item in batch.items]
        assert len({answer.store.generation for answer in answers}) == 1
        for reply in (one, *answers, found):
            replies[reply.store.generation, edition_of(p.text for p in reply.passages)] += 1


@pytest.mark.parametrize("retriever", ["bm25", "hybrid"])
async def test_no_request_fails_and_no_reply_mixes_generations(tmp_path: Path, retriever: str) -> None:
    bench = Bench(tmp_path, texts(8), retriever=retriever)
    builder = Builder(bench, tmp_path)
    builder.add(1)
    replies: Counter[tuple[int, int]] = Counter()
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        clients = []
        for watch in (0.1, None):
            answerer = await asyncio.to_thread(Answerer.open, bench.path, model=str(bench.model))
            settings = Settings.load(
                store=bench.path, watch=watch, retrieve_k=8, keep_k=2, max_new_tokens=1, max_batch=2,
                drain_seconds=PATIENCE, queue_seconds=60 * PATIENCE,
            )  # fmt: skip
            app = create_app(answerer, settings)
            await stack.enter_async_context(app.router.lifespan_context(app))
            await asyncio.wrap_future(app.state.service.warm_up)
            transport = httpx.ASGITransport(app)
            clients.append(
                await stack.enter_async_context(AsyncClient("http://m", transport=transport, retries=0, timeout=None))
            )
        asking = [asyncio.create_task(ask(clients[i % 2], replies, stop)) for i in range(CLIENTS)]
        for change in builder.changes():
            generation = await asyncio.to_thread(change)
            assert (await clients[1].reload()).generation == generation
            async with asyncio.timeout(6 * PATIENCE):
                while (await clients[0].info()).store.generation != generation:
                    assert not any(one.done() for one in asking), [one.exception() for one in asking if one.done()]
                    await asyncio.sleep(0.02)  # a loop without rest would keep the engines' threads from running
        stop.set()
        await asyncio.gather(*asking)
    require_consistent(replies, builder.editions)
    assert len({generation for generation, _ in replies}) >= EDITIONS


def test_a_mixed_reply_would_be_noticed() -> None:
    texts_of = [row["text"] for row in stamped(3)]
    assert edition_of(texts_of) == 3
    require_consistent({(7, 3): 1}, {7: 3})
    with pytest.raises(Inconsistent, match=r"editions \[3, 4\]"):
        edition_of([*texts_of, stamped(4)[0]["text"]])
    with pytest.raises(Inconsistent, match="names generation 7, of edition 4, and has passages of edition 3"):
        require_consistent({(7, 3): 1}, {7: 4})
