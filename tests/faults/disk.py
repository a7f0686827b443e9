"""Faults of the disk and of processes: damaged files, no room, and what is killed in the middle of a change."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from memstore_client import ChangeFailed
from memstore_client.changes import JobReply
from tests.faults.world import KEY, PATIENCE, World, is_problem

BEARER = {"Authorization": f"Bearer {KEY}"}


def flipped_text(world: World, chance: random.Random) -> None:
    """A bit of a passage's text on the disk: the passage is refused, the others are not, and nothing else is said."""
    path, line = _first_segment(world) / "passages.jsonl", 0
    lines = path.read_bytes().splitlines(keepends=True)
    line = chance.randrange(len(lines))
    one = json.loads(lines[line])["id"]
    at = len(b"".join(lines[:line])) + chance.randrange(len(lines[line]))
    with changed(path, at, chance):
        is_problem(world.http.get(f"/passages/{one}"), 500)
    assert world.http.get(f"/passages/{one}").json()["text"] == world.passages[one]


def flipped_memory(world: World, chance: random.Random) -> None:
    """A bit of a memory: an answer is refused, or right."""
    path = next(iter((_first_segment(world) / "memory.zarr" / "states" / "c").rglob("0")))
    path = path if path.is_file() else next(one for one in path.rglob("*") if one.is_file())
    with changed(path, chance.randrange(path.stat().st_size), chance):
        for question in ("the river", "a tower and a city", "of the city", "who?"):
            reply = world.http.post("/answer", json={"question": question})
            if reply.status_code != 200:
                is_problem(reply, 500)
                assert reply.json()["type"].endswith("store-damaged")


def damaged_generation(world: World, chance: random.Random) -> None:
    """What names the generation in force, or says what is in it, is damaged: the one that answers goes on."""
    manifest = max((world.store / "generations").glob("*.json"))
    path = chance.choice([world.store / "CURRENT", manifest])
    before = path.read_bytes()
    match chance.randrange(4):
        case 0:
            damaged = before[: chance.randrange(len(before))]
        case 1:
            damaged = chance.randbytes(chance.randrange(1, 40))
        case 2:
            damaged = b"[" * 100_000
        case _:
            at = chance.randrange(before.rindex(b"}"))
            damaged = before[:at] + bytes([before[at] ^ 1 << chance.randrange(8)]) + before[at + 1 :]
    path.write_bytes(damaged)
    reply = world.http.post("/admin/reload", headers=BEARER)
    path.write_bytes(before)
    is_problem(reply, 500)
    assert reply.json()["type"].endswith("not-reloaded")
    assert world.http.post("/admin/reload", headers=BEARER).json()["changed"] is False


def no_room(world: World, chance: random.Random) -> None:
    """No room for a change's input, or for what it makes: the store is as it was, and there is room again later."""
    before = world.client.info().store.generation
    documents = _documents(chance, 40)
    with only_bytes(world.process.pid, chance.choice([0, 100, 2_000])):
        reply = world.http.put("/documents", json={"documents": documents}, headers=BEARER)
        if reply.status_code == 202:
            _ended_badly(world, JobReply.model_validate(reply.json()))
        else:
            is_problem(reply, 507)
    assert world.client.info().store.generation == before


def no_room_for_the_change(world: World, chance: random.Random) -> None:
    """Room for the input, none for what the change makes of it."""
    before = world.client.info().store.generation
    with only_bytes(world.process.pid, 12_000):
        _ended_badly(world, world.client.put_documents(_documents(chance, 40)))
    assert world.client.info().store.generation == before
    world.check_store()


def killed_change(world: World, chance: random.Random) -> None:
    """The process of a change is killed: the job says so and nothing is changed, or it was done already."""
    before = world.client.info().store.generation
    documents = _documents(chance, 60)
    job = world.client.put_documents(documents)
    _kill_soon(world, chance)
    failed = _failure(world, job)
    if failed is None:
        world.accepted |= {one["id"]: one["text"] for one in documents}
    else:
        assert "nothing was changed" in failed, failed
        assert world.client.info().store.generation == before
    world.check_store()


def killed_server(world: World, chance: random.Random) -> None:
    """The server is killed with a change accepted, begun or nearly done: the next one does it."""
    documents = _documents(chance, 40)
    job = world.client.put_documents(documents)
    time.sleep(chance.uniform(0, 8))
    world.kill()
    world.check_store()
    world.start()
    assert world.client.wait(world.client.job(job.id), timeout=PATIENCE).state == "done"
    world.accepted |= {one["id"]: one["text"] for one in documents}
    world.check_store()


def _documents(chance: random.Random, count: int) -> list[dict[str, str]]:
    name = f"{chance.getrandbits(40):x}"
    return [{"id": f"{name}-{i}", "text": f"The otter {name} number {i} holds hands."} for i in range(count)]


def _failure(world: World, job: JobReply) -> str | None:
    """Why a change failed; None where it was done."""
    try:
        assert world.client.wait(job, timeout=PATIENCE).state == "done"
    except ChangeFailed as error:
        return str(error)
    return None


def _ended_badly(world: World, job: JobReply) -> None:
    """A change that had no room says so."""
    failed = _failure(world, job)
    assert failed is not None
    assert "room" in failed or "written down" in failed, failed


def _kill_soon(world: World, chance: random.Random) -> None:
    late = time.monotonic() + PATIENCE
    while time.monotonic() < late:
        children = psutil.Process(world.process.pid).children()
        if children:
            time.sleep(chance.uniform(0, 8))
            for child in children:
                if child.is_running():
                    child.kill()
            return
        time.sleep(0.01)


def _first_segment(world: World) -> Path:
    return min((world.store / "segments").iterdir(), key=lambda folder: (folder / "SEALED").stat().st_mtime)


@contextmanager
def changed(path: Path, at: int, chance: random.Random) -> Iterator[None]:
    """One bit of a file is another within."""
    bit = 1 << chance.randrange(8)
    with path.open("r+b") as file:
        for _ in range(2):
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ bit]))
            file.flush()
            if _ == 0:
                yield


@contextmanager
def only_bytes(pid: int, most: int) -> Iterator[None]:
    """Files of a process, and of those that it starts, may be no longer within: what a full disk is to them."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


QUICK = (flipped_text, flipped_memory, damaged_generation)
CHANGES = (no_room, no_room_for_the_change, killed_change, killed_server)
