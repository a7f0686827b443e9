"""The routes that change the store; an app has them where a write key was given. As `routes`, they do no work."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.security import HTTPBearer

from memstore_client import changes as wire
from memstore_client.served import ReloadReply
from memstore_server import problems
from memstore_server.editing import Editors
from memstore_server.keys import KeyedRoute
from memstore_server.routes import CollectionQuery

_KEY = HTTPBearer(
    auto_error=False, description="The server's write key."
)  # for the OpenAPI document; routes ask for it
router = APIRouter(route_class=KeyedRoute, dependencies=[Security(_KEY)])

_SENT = (
    problems.UNAUTHORIZED, problems.UNREADABLE_BODY, problems.BODY_TOO_LARGE, problems.NOT_JSON,
    problems.INVALID_REQUEST, problems.INTERNAL, problems.NOT_READY,
)  # fmt: skip
_CHANGE = (*_SENT, problems.TOO_MANY_CHANGES, problems.NO_ROOM, problems.STORE_READ_ONLY, problems.COLLECTION_NOT_FOUND)
_LOOKED_UP = (problems.UNAUTHORIZED, problems.INTERNAL, problems.STORE_DAMAGED)
_READ = (*_LOOKED_UP, problems.STORE_UNREACHABLE, problems.COLLECTION_NOT_FOUND)  # in the store itself


async def editors_of(request: Request) -> Editors:
    """The editors of the app that got the request."""
    editors: Editors = request.app.state.editors
    return editors


EditorsOf = Annotated[Editors, Depends(editors_of)]


@router.put("/documents", tags=["documents"], status_code=202, responses=problems.documented(*_CHANGE, success=202))
async def put_documents(
    asked: wire.PutDocumentsRequest, request: Request, response: Response, editors: EditorsOf
) -> wire.JobReply:
    """Put documents into the store by their ids: new ones are added, changed ones replaced.

    Those that say the same cost nothing. The reply comes at once; `Location` is the job that does it, after those
    that wait. All of them are one generation, or nothing. Questions are answered meanwhile.
    """
    return _accepted(await editors.of(asked.collection).put(asked), request, response)


@router.delete("/documents", tags=["documents"], status_code=202, responses=problems.documented(*_CHANGE, success=202))
async def delete_documents(
    asked: wire.DeleteDocumentsRequest, request: Request, response: Response, editors: EditorsOf
) -> wire.JobReply:
    """Delete documents by their ids, as a job. Their bytes stay on the disk until `memstore compact`."""
    return _accepted(await editors.of(asked.collection).delete(asked), request, response)


@router.get(
    "/documents/{document_id:any_text}",
    tags=["documents"],
    responses=problems.documented(*_READ, problems.DOCUMENT_NOT_FOUND),
)
async def document(document_id: str, editors: EditorsOf, collection: CollectionQuery = None) -> wire.DocumentReply:
    """A document of the generation that answers, as its passages."""
    return await editors.of(collection).document(document_id)


@router.get("/jobs/{job_id}", tags=["documents"], responses=problems.documented(*_LOOKED_UP, problems.JOB_NOT_FOUND))
async def job(job_id: str, editors: EditorsOf) -> wire.JobReply:
    """How far a change is, or what became of it. The latest hundred are remembered, also by the next server."""
    return await (await editors.of_job(job_id)).job(job_id)


@router.delete(
    "/jobs/{job_id}",
    tags=["documents"],
    responses=problems.documented(*_LOOKED_UP, problems.JOB_NOT_FOUND, problems.OTHER_SERVER),
)
async def cancel(job_id: str, editors: EditorsOf) -> wire.JobReply:
    """End a change, which leaves nothing of it. One that has ended, or came into force meanwhile, stays as it is."""
    return await (await editors.of_job(job_id)).cancel(job_id)


@router.get("/generations", tags=["store"], responses=problems.documented(*_READ))
async def generations(editors: EditorsOf, collection: CollectionQuery = None) -> wire.GenerationsReply:
    """The generations that can be gone back to, and what made each."""
    return await editors.of(collection).generations()


@router.post(
    "/admin/rollback",
    tags=["store"],
    responses=problems.documented(
        *_SENT, problems.COLLECTION_NOT_FOUND, problems.GENERATION_NOT_FOUND, problems.IMPOSSIBLE_REQUEST,
        problems.STORE_BUSY, problems.OTHER_MODEL, problems.NOT_RELOADED, problems.STORE_DAMAGED,
        problems.STORE_READ_ONLY,
    ),
)  # fmt: skip
async def rollback(asked: wire.RollbackRequest, editors: EditorsOf) -> ReloadReply:
    """Put an earlier generation in force again, by default the one before. Nothing is removed."""
    return await editors.of(asked.collection).rollback(asked)


def _accepted(job: wire.JobReply, request: Request, response: Response) -> wire.JobReply:
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/jobs/{job.id}"
    return job
