"""As much of Google Cloud Storage as a store needs, in memory: objects by its XML API, with generations and conditions.

No such server can be started offline. What it does on a condition is what Google documents of
`x-goog-if-generation-match`: 412 unless the object has that generation; 0 is of one that is not there.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_DATE = "Tue, 01 Dec 2026 00:00:00 GMT"


class Gcs(ThreadingHTTPServer):
    """`objects` by bucket and key: generation and bytes. `requests` are methods, paths and conditions."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.lock = threading.Lock()
        self.generations = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gcs

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _object(self) -> str:
        condition = self.headers.get("x-goog-if-generation-match")
        self.server.requests.append((self.command, self.path, condition))
        return unquote(urlsplit(self.path).path).strip("/")

    def do_PUT(self) -> None:
        key, data = self._object(), self.rfile.read(int(self.headers.get("Content-Length", "0")))
        condition = self.headers.get("x-goog-if-generation-match")
        with self.server.lock:
            there = self.server.objects.get(key, (0, b""))[0]
            if condition is not None and int(condition) != there:
                self._send(412)
                return
            self.server.generations += 1
            self.server.objects[key] = (self.server.generations, data)
            self._send(200, **_named(self.server.generations, data))

    def do_GET(self) -> None:
        key, query = self._object(), parse_qs(urlsplit(self.path).query)
        if "list-type" in query or "prefix" in query:
            self._list(key, query.get("prefix", [""])[0])
            return
        found = self.server.objects.get(key)
        if found is None:
            self._send(404)
            return
        generation, data = found
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, data, **_named(generation, data))
            return
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        place = f"bytes {first}-{last}/{len(data)}"
        self._send(206, data[first : last + 1], Content_Range=place, **_named(generation, data))

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        gone = self.server.objects.pop(self._object(), None)
        self._send(404 if gone is None else 204)

    def _list(self, bucket: str, prefix: str) -> None:
        found = [
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>e{generation}</ETag>"
            "<LastModified>2026-12-01T00:00:00.000Z</LastModified></Contents>"
            for name, (generation, data) in sorted(self.server.objects.items())
            for key in [name.removeprefix(f"{bucket}/")]
            if name.startswith(f"{bucket}/{prefix}")
        ]
        self._send(200, f"<ListBucketResult>{''.join(found)}</ListBucketResult>".encode())


def _named(generation: int, data: bytes) -> dict[str, str]:
    etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
    return {"ETag": etag, "x_goog_generation": str(generation), "Last_Modified": _DATE}


@contextmanager
def serving() -> Iterator[Gcs]:
    """A server in a thread of its own."""
    with Gcs() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
