"""A client for memstore servers: `Client` and `AsyncClient`, typed replies, its own errors. Needs no torch.

from memstore_client import Client

with Client("http://127.0.0.1:8080") as client:
    print(client.answer("who wrote the origin of species").answer)
"""

from memstore_client.client import AsyncClient, Client
from memstore_client.errors import (
    BadRequest,
    ConnectionFailed,
    DeadlineExceeded,
    MemstoreClientError,
    NotFound,
    NotReady,
    Overloaded,
    ServerFailed,
    Timeout,
    UnexpectedReply,
)
from memstore_client.wire import (
    AnswerBatchReply,
    AnswerReply,
    BatchItem,
    Defaults,
    FieldProblem,
    HealthReply,
    InfoReply,
    Limits,
    ModelInfo,
    ModelSummary,
    PassageInput,
    PassageReply,
    Problem,
    QuestionInput,
    RankedPassageReply,
    ReloadReply,
    RerankReply,
    RetrieveReply,
    StoreInfo,
    StoreSummary,
    UsageReply,
)

__all__ = [
    "AnswerBatchReply",
    "AnswerReply",
    "AsyncClient",
    "BadRequest",
    "BatchItem",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Defaults",
    "FieldProblem",
    "HealthReply",
    "InfoReply",
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
    "RankedPassageReply",
    "ReloadReply",
    "RerankReply",
    "RetrieveReply",
    "ServerFailed",
    "StoreInfo",
    "StoreSummary",
    "Timeout",
    "UnexpectedReply",
    "UsageReply",
]
