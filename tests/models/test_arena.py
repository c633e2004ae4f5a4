"""The memory that a host shares with a replica: data put there arrive, and space is reused."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import random
from collections.abc import Iterator

import pytest

from penstock.models.host.arena import ARENA_BYTES, MIN_BYTES, Arena
from penstock.models.replica import frames
from penstock.models.replica.frames import SegmentHeader
from penstock.models.replica.runtime import Segment
from tests.support.models import Models, read

PAGE = mmap.PAGESIZE

DIGEST = """
import hashlib, os
from penstock import File

class Model:
    def predict(self, file: File, once: str = "") -> str:
        if once and not os.path.exists(once):
            open(once, "w").close()
            os._exit(9)
        return hashlib.sha256(file.data).hexdigest()
"""


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(64 * PAGE)
    yield made
    made.close()


def content(arena: Arena, offset: int, length: int) -> bytes:
    with mmap.mmap(arena.fd, arena.size, access=mmap.ACCESS_READ) as seen:
        return seen[offset : offset + length]


def test_segments_do_not_overlap_and_their_space_is_used_again(arena: Arena) -> None:
    """Random sizes come and go; each is read back as it was put, and in the end everything is free."""
    rng = random.Random(4)
    held: list[tuple[int, bytes]] = []
    refused = 0
    for _ in range(500):
        if held and rng.random() < 0.5:
            offset, data = held.pop(rng.randrange(len(held)))
            assert content(arena, offset, len(data)) == data
            arena.free(offset, len(data))
        data = rng.randbytes(rng.randrange(1, 9 * PAGE))
        placed = arena.put(memoryview(data) if rng.random() < 0.5 else data)
        if placed is None:
            refused += 1
        else:
            held.append((placed, data))
    assert refused
    for offset, data in held:
        assert content(arena, offset, len(data)) == data
        arena.free(offset, len(data))
    assert arena.put(bytes(arena.size)) == 0


def test_memory_is_given_back_when_nothing_is_in_it(arena: Arena) -> None:
    offset = arena.put(b"x" * PAGE)
    assert offset is not None
    arena.trim()
    assert content(arena, offset, 1) == b"x"
    arena.free(offset, PAGE)
    arena.trim()
    assert content(arena, offset, 1) == b"\0"


def test_a_segment_outside_of_the_memory_is_refused() -> None:
    """A replica without shared memory refuses it, and so does the host: outputs do not use the shared memory."""
    with pytest.raises(frames.ProtocolError, match="not in the shared memory"):
        frames.split(b"null", [SegmentHeader(5, "image/png", offset=0)])
    with pytest.raises(frames.ProtocolError, match="not in the shared memory"):
        frames.split(b"null", [SegmentHeader(5, "image/png", offset=6)], memoryview(b"0123456789"))


async def test_large_inputs_arrive_as_they_were_sent(models: Models) -> None:
    """The inputs need more than the shared memory holds; those that do not fit go through the socket."""
    model = await models.serve("digest", DIGEST, queue=1000)
    sizes = [MIN_BYTES - 1, MIN_BYTES, 2**20 + 7, 7 * 2**20, ARENA_BYTES // 2, ARENA_BYTES + 1]
    blobs = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    for _ in range(3):
        calls = [models.begin(model, {"file": "data:application/octet-stream,"}, [segment(blob)]) for blob in blobs]
        digests = await asyncio.gather(*(call.done for call in calls))
        assert [read(digest) for digest in digests] == [hashlib.sha256(blob).hexdigest() for blob in blobs]


async def test_a_large_input_reaches_the_replica_that_replaces_one(models: Models) -> None:
    model = await models.serve("digest", DIGEST)
    blob = random.Random(7).randbytes(2**20)
    once = str(models.folder / "died")
    result = await models.call(
        model, {"file": "data:application/octet-stream,", "once": once}, segments=[segment(blob)]
    )
    assert result == hashlib.sha256(blob).hexdigest()
    assert model.restarts == 1


def segment(data: bytes) -> Segment:
    return Segment(data, "application/octet-stream", ("file",))
