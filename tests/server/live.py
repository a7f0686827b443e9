"""A live server over the fake engine, in a thread of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from memstore_server.addresses import bound_socket, url_of
from memstore_server.app import create_app
from memstore_server.settings import Settings
from tests.server.fakes import PATIENCE, FakeEngine


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The address of a server over an ASGI application, until the end of the block."""
    server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", log_config=None, access_log=False))
    with bound_socket("127.0.0.1", 0) as listener:
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


@contextmanager
def live_server(engine: FakeEngine, **settings: Any) -> Iterator[str]:
    """The address of a server that is ready, until the end of the block."""
    app = create_app(engine, Settings.load(**{"store": "store", **settings}))
    with listening(app) as url:
        app.state.service.warm_up.result(PATIENCE)
        yield url
