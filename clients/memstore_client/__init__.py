"""A client for memstore servers: `Client` and `AsyncClient`, typed replies, its own errors. Needs no torch.

from memstore_client import Client

with Client("http://127.0.0.1:8080") as client:
    print(client.answer("who wrote the origin of species").answer)
"""

from memstore_client.changes import (
    ChangeReply,
    DocumentInput,
    DocumentReply,
    GenerationReply,
    GenerationsReply,
    JobReply,
)
from memstore_client.client import AsyncClient, Client
from memstore_client.errors import (
    BadRequest,
    ChangeFailed,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    MemstoreClientError,
    NotFound,
    NotReady,
    Overloaded,
    ServerFailed,
    Timeout,
    Unauthorized,
    UnexpectedReply,
)
from memstore_client.events import RankedEvent, RetrievedEvent, TokenEvent
from memstore_client.options import AnswerOptions
from memstore_client.served import (
    CalibrationInfo,
    CollectionInfo,
    Defaults,
    HealthReply,
    InfoReply,
    Limits,
    ModelInfo,
    ReloadReply,
    StoreInfo,
)
from memstore_client.wire import (
    AnswerBatchReply,
    AnswerReply,
    BatchItem,
    CitationReply,
    FieldProblem,
    ModelSummary,
    PassageInput,
    PassageReply,
    Problem,
    QuestionInput,
    RankedPassageReply,
    RerankReply,
    RetrieveReply,
    StoreSummary,
    UsageReply,
)

__all__ = [
    "AnswerBatchReply",
    "AnswerOptions",
    "AnswerReply",
    "AsyncClient",
    "BadRequest",
    "BatchItem",
    "CalibrationInfo",
    "ChangeFailed",
    "ChangeReply",
    "CitationReply",
    "Client",
    "CollectionInfo",
    "Conflict",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Defaults",
    "DocumentInput",
    "DocumentReply",
    "FieldProblem",
    "GenerationReply",
    "GenerationsReply",
    "HealthReply",
    "InfoReply",
    "JobReply",
    "Limits",
    "MemstoreClientError",
    "ModelInfo",
    "ModelSummary",
    "NotFound",
    "NotReady",
    "Overloaded",
    "PassageInput",
    "PassageReply",
    "Problem",
    "QuestionInput",
    "RankedEvent",
    "RankedPassageReply",
    "ReloadReply",
    "RerankReply",
    "RetrieveReply",
    "RetrievedEvent",
    "ServerFailed",
    "StoreInfo",
    "StoreSummary",
    "Timeout",
    "TokenEvent",
    "Unauthorized",
    "UnexpectedReply",
    "UsageReply",
]
