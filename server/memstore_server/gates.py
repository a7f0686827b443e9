"""What is asked of a request before its body is read: whether there is room for it at all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from memstore_server.service import Service


class QueuedRoute(APIRoute):
    """A route that the engine serves. Where the queue is full, it refuses without having read or checked anything."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route, where there is room."""
        handle = super().get_route_handler()

        async def queued(request: Request) -> Response:
            service: Service = request.app.state.service
            service.require_room()
            return await handle(request)

        return queued
