"""The files of the page at `/`, with their headers. Knows no engine: they are sent while the server still loads, too.

They are plain ones, sent as they are; of `index.html` only the addresses change, where a proxy shows the server below a
path of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

_FOLDER = "static"
_INDEX = "index.html"
_ROOT = b"%ROOT%"  # in the index: where the server is shown; empty, addresses are relative
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
_POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'",
    "connect-src": "'self'", "form-action": "'self'", "base-uri": "'none'", "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'", "trusted-types": "'none'",
}  # fmt: skip
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the address holds the question; pages that a passage links to get none of it
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",  # kept, and asked for with its ETag before each use: a new release shows at once
}


@dataclass(frozen=True, slots=True)
class _File:
    """What is sent for an address."""

    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """A strong one, of the content: what a release changes is fetched again, whatever its date."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def index_reply(request: Request) -> Response:
    """The page. Its addresses are relative, or begin with the path that a proxy is known to show the server at."""
    below: str = request.scope.get("root_path", "")
    file = files()[_INDEX]
    root = f"{below}/".encode() if below else b""  # settings let plain characters into a path, none that HTML escapes
    return _reply(request, _File(file.content.replace(_ROOT, root), file.media_type))


def file_reply(name: str, request: Request) -> Response | None:
    """A file of the page; None where there is none of that name."""
    file = files().get(name)
    if file is None or name == _INDEX:  # with unfilled addresses the latter is of no use
        return None
    return _reply(request, file)


@cache
def files() -> dict[str, _File]:
    """The page's files by name, read once, when the page is first asked for."""
    folder = resources.files(__package__) / _FOLDER
    kinds = [(entry, _MEDIA_TYPES.get("." + entry.name.rpartition(".")[2])) for entry in folder.iterdir()]
    return {entry.name: _File(entry.read_bytes(), kind) for entry, kind in kinds if kind is not None}


def _reply(request: Request, file: _File) -> Response:
    """The file, or 304 for a browser that has it (RFC 9110, 13.1.2)."""
    headers = {**_HEADERS, "ETag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
    if file.etag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
