"""The page at `/`: its files, and the examples that it offers. Knows no engine and no model.

The page asks the API as any client does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from memstore_client import wire
from memstore_server import page_files
from memstore_server.routes import CollectionQuery, ServiceOf, unless_disconnected

router = APIRouter(include_in_schema=False)


class ExamplesReply(wire.Reply):
    """Reply of `GET /page/examples`: whole questions where some are known, else what there are passages about."""

    questions: Sequence[str]
    topics: Sequence[str]


@router.get("/")
async def index(request: Request) -> Response:
    """The page."""
    await asyncio.to_thread(page_files.files)  # read once
    return page_files.index_reply(request)


@router.get("/page/examples")
async def examples(request: Request, service: ServiceOf, collection: CollectionQuery = None) -> ExamplesReply:
    """What a first visitor may ask, from the collection as it is now."""
    questions, topics = await unless_disconnected(request, service.examples(collection))
    return ExamplesReply(questions=questions, topics=topics)


@router.get("/page/{name}")
async def static(name: str, request: Request) -> Response:
    """A file of the page."""
    await asyncio.to_thread(page_files.files)
    if (reply := page_files.file_reply(name, request)) is None:
        raise HTTPException(404)
    return reply
