"""The command that serves the Model Context Protocol."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memstore.cli.app import ApiKeyFile, Device, api_key_of, app
from memstore.errors import ConfigError

if TYPE_CHECKING:
    from memstore_client import AsyncClient


@app.command()
def mcp(
    store: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]DIR", help="Answer in this process, from this store, or several as of `serve`."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="Ask the server at this address instead.")] = None,
    api_key_file: ApiKeyFile = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]PATH", help="As of `serve`: checkpoint folder or hub id.")
    ] = None,
    device: Device = "cpu",
    http: Annotated[bool, typer.Option("--http", help="Serve streamable HTTP at /mcp, instead of stdio.")] = False,
    host: Annotated[str, typer.Option(help="With --http: address to listen on.")] = "127.0.0.1",
    keys_file: Annotated[
        Path | None, typer.Option(help="With --http: keys that requests must show, as `memstore keys` keeps them.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="With --http: port; 0 chooses a free one.")] = 8081,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "warning",
) -> None:
    """Offer a store (--store) or a running server (--url) to programs that speak MCP: tools to answer and to search."""
    from memstore_server import addresses, keyring, logs, mcp

    if bool(store) == (url is not None):
        raise ConfigError("name either a store to read (--store DIR) or a server to ask (--url URL)")
    if url is not None and (model or device != "cpu"):
        raise ConfigError("--model and --device are for --store: a server answers with the model that it serves")
    if keys_file is not None and not http:
        raise ConfigError("--keys-file is for --http: over stdio only the program that starts this one asks")
    keys = None if keys_file is None else keyring.KeyRing(keys_file)
    api_key = api_key_of(api_key_file, url=url)
    if log_level not in (known := ("debug", "info", "warning", "error")):
        raise ConfigError(f"--log-level {log_level} is none of {', '.join(known)}")
    logs.configure(style="text", level=log_level)  # to standard error: on standard output the protocol speaks
    with ExitStack() as held:
        listener = held.enter_context(addresses.bound_socket(host, port)) if http else None
        connection = _of_store(store, model=model, device=device) if store else _of_server(url or "", api_key)

        async def run() -> None:
            async with connection as client:
                server = mcp.mcp_server(client)
                if listener is None:
                    await server.run_stdio_async()
                    return
                listener.listen()  # now, so that who reads the line can connect
                typer.echo(f"memstore: MCP on {addresses.url_of(listener)}{mcp.PATH}")
                await mcp.serve_http(server, listener, host=host, keys=keys)

        asyncio.run(run())


def _of_server(url: str, api_key: str | None) -> AbstractAsyncContextManager[AsyncClient]:
    """A client of a server elsewhere. Raises ConfigError for an address that is none."""
    from memstore_client import AsyncClient, BadRequest

    try:
        return AsyncClient(url, api_key=api_key)
    except BadRequest as error:
        raise ConfigError(f"--url: {error}") from error


def _of_store(store: list[str], *, model: list[str] | None, device: str) -> AbstractAsyncContextManager[AsyncClient]:
    """A client of engines in this process, with the server's settings from `MEMSTORE_*` variables."""
    from memstore.machine import tune_allocator
    from memstore_server.app import opened
    from memstore_server.mcp import in_process
    from memstore_server.settings import Settings

    settings = Settings.load(store=store, model=model, device=device)
    tune_allocator()
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)
    return in_process(opened(settings), settings)
