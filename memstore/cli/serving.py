"""Commands that answer questions."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from memstore.cli.app import ApiKeyFile, Device, Filters, Json, KeepMass, MaxGflop, Model, api_key_of, app, print_result
from memstore.errors import ConfigError

if TYPE_CHECKING:
    from memstore.cli.show_stream import StreamShown


@app.command()
def serve(  # one flag per setting of the server: its `Settings` say what each means
    store: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR", help="Folder of the store; of several collections, repeated, NAME=DIR each."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="Checkpoint folder or hub id; by default the one that built the first store. NAME=PATH for one store.",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 chooses a free one [8080].")] = None,
    root_path: Annotated[
        str | None,
        typer.Option(help="Path below which a proxy shows the server, such as /memstore, and strips."),
    ] = None,
    watch: Annotated[float | None, typer.Option(help="Look for a new generation every so many seconds [no].")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that answer, each with a model [1].")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the model on a CPU [all].")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Questions answered together at most [32].")] = None,
    max_batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens of passages that these may have at most [50000].")
    ] = None,
    max_wait_ms: Annotated[float | None, typer.Option(help="Hold a question back for others to join it [0].")] = None,
    queue_size: Annotated[int | None, typer.Option(help="Questions that may wait; then 503 [64].")] = None,
    queue_seconds: Annotated[float | None, typer.Option(help="Time that they may wait; then 503 [10].")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="Time to finish when asked to stop [5].")] = None,
    retrieve_k: Annotated[int | None, typer.Option(help="Passages retrieved by default [40].")] = None,
    keep_k: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Passages read by default; auto: by their scores [10].")
    ] = None,
    keep_mass: Annotated[
        float | None, typer.Option(help="What auto reads: until the softmax of rerank scores holds so much [0.9].")
    ] = None,
    auto_keep_k: Annotated[int | None, typer.Option(help="Most passages that auto reads [10].")] = None,
    degrade: Annotated[
        bool | None, typer.Option("--degrade", help="Read fewer passages under load, before refusing [no].")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer by default [32].")] = None,
    num_beams: Annotated[int | None, typer.Option(help="Beams by default; 1 is greedy [the model's].")] = None,
    min_confidence: Annotated[
        float | None, typer.Option(help="Confidence below which there is by default no answer [0].")
    ] = None,
    max_retrieve_k: Annotated[int | None, typer.Option(help="Most passages a request may retrieve [200].")] = None,
    max_keep_k: Annotated[int | None, typer.Option(help="Most passages a request may have read [100].")] = None,
    max_new_tokens_limit: Annotated[int | None, typer.Option(help="Most tokens a request may ask for [256].")] = None,
    max_num_beams: Annotated[int | None, typer.Option(help="Most beams a request may have [8].")] = None,
    max_connections: Annotated[
        int | None, typer.Option(help="Connections; of more, the longest idle is closed [1000].")
    ] = None,
    receive_seconds: Annotated[
        float | None, typer.Option(help="Time that a request may take to arrive; then its connection is closed [60].")
    ] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="Size limit of a request [4000000].")] = None,
    write_key_file: Annotated[
        Path | None, typer.Option(help="Key of requests that change the store, in a file; else there are none [none].")
    ] = None,
    keys_file: Annotated[
        Path | None, typer.Option(help="Keys that requests must show, as `memstore keys` keeps them [none].")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of pages elsewhere that may ask; repeat for several [none].")
    ] = None,
    max_write_bytes: Annotated[int | None, typer.Option(help="Size limit of such a request [16000000].")] = None,
    write_nice: Annotated[
        int | None, typer.Option(help="How far changes stand back: 0 the server's priority, 19 the least [10].")
    ] = None,
    write_device: Annotated[
        str | None, typer.Option(help="Where changes encode: cpu, cuda, cuda:1, ... [--device].")
    ] = None,
    max_changes: Annotated[int | None, typer.Option(help="Changes that may wait; then 429 [8].")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json [text].")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error [info].")] = None,
) -> None:
    """Serve one or several stores over HTTP. Every option can also be a variable: MEMSTORE_STORE, MEMSTORE_PORT, ..."""
    flags = dict(locals())
    from memstore.machine import tune_allocator
    from memstore_server.process import run
    from memstore_server.settings import Settings

    settings = Settings.load(**flags)
    tune_allocator()
    if not run(settings):
        _leave()


@app.command(hidden=True)
def serve_worker() -> None:
    """A process of `memstore serve --workers N`, which starts it and tells it the rest."""
    from memstore.machine import tune_allocator
    from memstore_server.process import run_worker

    tune_allocator()
    if not run_worker(sys.stdin):
        _leave()


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    store: Annotated[Path | None, typer.Option(help="Answer in this process, from this store.")] = None,
    url: Annotated[str | None, typer.Option(help="Ask the server at this address instead.")] = None,
    api_key_file: ApiKeyFile = None,
    collection: Annotated[str | None, typer.Option(help="Which of the server's collections [the first].")] = None,
    model: Model = None,
    device: Device = "cpu",
    task: Annotated[str | None, typer.Option(help="A task the model was trained on, such as nq or fever.")] = None,
    retrieve_k: Annotated[
        int | None, typer.Option(min=1, help="Passages to retrieve and score [40, or the server's].")
    ] = None,
    keep_k: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="Passages to read; auto: by scores [10, or the server's]."),
    ] = None,
    keep_mass: KeepMass = None,
    max_gflop: MaxGflop = None,
    deadline_ms: Annotated[
        int | None, typer.Option(min=1, help="With --url: milliseconds that it may take; fewer passages, if need be.")
    ] = None,
    degrade: Annotated[
        bool | None,
        typer.Option("--degrade/--no-degrade", help="With --url: whether a busy server may read fewer passages."),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Length limit of the answer [32, or the server's].")
    ] = None,
    num_beams: Annotated[
        int | None, typer.Option(min=1, help="Beams; 1 is greedy [the model's, or the server's].")
    ] = None,
    min_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Below this confidence, no answer [0, or the server's].")
    ] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Also show how much of its attention the reader gave each passage.")
    ] = False,
    conditions: Filters = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the answer as it is made; with --json one object for each event.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask one question, of a store (--store) or of a running server (--url)."""
    from memstore.answer.values import keep_of
    from memstore.cli.show import show_answer
    from memstore.cli.show_stream import StreamShown

    if (store is None) == (url is None):
        raise ConfigError("name either a store to read (--store DIR) or a server to ask (--url URL)")
    given = {"task": task, "retrieve_k": retrieve_k, "keep_k": keep_of(keep_k),
             "keep_mass": keep_mass, "max_gflop": max_gflop, "max_new_tokens": max_new_tokens, "num_beams": num_beams,
             "min_confidence": min_confidence, "attention": attention or None}  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    shown = StreamShown(as_json=as_json) if stream else None
    api_key = api_key_of(api_key_file, url=url)
    if url is not None:
        if model is not None or device != "cpu":
            raise ConfigError("--model and --device are for --store: a server answers with the model that it serves")
        of_servers = {"collection": collection, "deadline_ms": deadline_ms, "degrade": degrade}
        options |= {name: value for name, value in of_servers.items() if value is not None}
        reply = _ask_server(url, question, options, conditions, shown=shown, api_key=api_key)
    else:
        if collection is not None:
            raise ConfigError("--collection is for --url: a store is one collection")
        if deadline_ms is not None or degrade is not None:
            raise ConfigError("--deadline-ms and --degrade are for --url: a server knows how long answers take")
        assert store is not None
        reply = _ask_store(store, question, options, conditions, model=model, device=device, shown=shown)
    if shown is not None:
        shown.event("done", reply)
    else:
        print_result(reply, as_json, show_answer)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to build the sample's store.")] = Path("demo-store"),
    keep_serving: Annotated[bool, typer.Option("--keep-serving", help="Do not stop the server at the end.")] = False,
) -> None:
    """Build a store from the bundled sample, serve it on a free port, and ask it five questions over HTTP."""
    from memstore.cli.demo import run

    run(out, keep_serving=keep_serving, ask=lambda url, question: _ask_server(url, question, {}))


# --- helpers --------------------------------------------------------------------------------------------------


def _leave() -> NoReturn:
    """End the process at once, as done, though the model still computes; what was logged and printed is kept."""
    logging.shutdown()
    with suppress(OSError):  # nobody reads any more
        sys.stdout.flush()
    os._exit(0)


def _ask_store(
    store: Path,
    question: str,
    options: dict[str, Any],
    conditions: Sequence[str] | None,
    *,
    model: str | None,
    device: str,
    shown: StreamShown | None,
) -> dict[str, Any]:
    from memstore.answer import RETRIEVE_K, Answerer, Question, kept
    from memstore.cli.show_stream import passage_values
    from memstore.machine import tune_allocator
    from memstore.retrieve.filters import Filter, parse_words

    tune_allocator()
    answerer = Answerer.open(store, model=model, device=device)
    if conditions:
        options["filter"] = Filter.of(parse_words(conditions, answerer.store.generation.metadata))
    options["keep_k"], options["keep_mass"] = kept(
        options.get("keep_k"), options.get("keep_mass"), of=options.get("retrieve_k", RETRIEVE_K)
    )
    (answer,) = answerer.answer([Question(text=question, **options)], [shown])
    reply = asdict(answer) | {"passages": [passage_values(one) for one in answer.passages]}
    reply["answer"] = reply.pop("text")
    del reply["features"]  # what confidence is from means something to `memstore calibrate` alone
    return reply | answerer.info()


def _ask_server(
    url: str,
    question: str,
    options: dict[str, Any],
    conditions: Sequence[str] | None = None,
    *,
    shown: StreamShown | None = None,
    api_key: str | None = None,
) -> dict[str, Any]:
    from memstore_client import AnswerReply, Client, MemstoreClientError
    from memstore_client.events import NAMES

    try:
        with Client(url, api_key=api_key) as client:
            if conditions:
                from memstore.retrieve.filters import parse_words

                metadata = client.info(collection=options.get("collection")).store.metadata
                options["filter"] = parse_words(conditions, cast("Any", metadata))
            if shown is None:
                return client.answer(question, **options).model_dump()
            reply: dict[str, Any] = {}
            for event in client.stream(question, **options):  # the last one is the reply
                reply = event.model_dump()
                if not isinstance(event, AnswerReply):
                    shown.event(NAMES[type(event)], reply)
            return reply
    except MemstoreClientError as error:
        raise ConfigError(f"{url}: {error}") from error
